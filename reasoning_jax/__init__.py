"""Language models that teach themselves to reason, in JAX."""
