"""Sampling methods: how the next token is drawn from the logits.

Letters of shapes: B sequences, V vocabulary.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int, Key
from ml_collections import ConfigDict

from reasoning_jax.errors import UserError


@struct.dataclass
class Greedy:
    """The most likely token."""

    def choose(
        self, keys: Key[Array, " B"], logits: Float[Array, "B V"]
    ) -> tuple[Int[Array, " B"], Float[Array, "B V"]]:
        """The tokens, and the log-probabilities of all tokens."""
        return jnp.argmax(logits, axis=-1).astype(jnp.int32), jax.nn.log_softmax(logits)


@struct.dataclass
class Temperature:
    """Samples softmax(logits / temperature)."""

    temperature: float | Array = 1.0

    def choose(
        self, keys: Key[Array, " B"], logits: Float[Array, "B V"]
    ) -> tuple[Int[Array, " B"], Float[Array, "B V"]]:
        """The tokens, and the log-probabilities of all tokens at the temperature."""
        scaled = logits / self.temperature
        return _draw(keys, scaled), jax.nn.log_softmax(scaled)


@struct.dataclass
class TopK:
    """Samples among the ``k`` most likely tokens and those tied with the last of them."""

    k: int = struct.field(pytree_node=False, default=50)
    temperature: float | Array = 1.0

    def choose(
        self, keys: Key[Array, " B"], logits: Float[Array, "B V"]
    ) -> tuple[Int[Array, " B"], Float[Array, "B V"]]:
        """The tokens, and the untruncated log-probabilities of all tokens at the temperature."""
        scaled = logits / self.temperature
        largest, _ = jax.lax.top_k(scaled, min(self.k, scaled.shape[-1]))
        least = largest[..., -1:]
        return _draw(keys, jnp.where(scaled >= least, scaled, -jnp.inf)), jax.nn.log_softmax(scaled)


@struct.dataclass
class TopP:
    """Samples among the fewest tokens whose probabilities sum to at least ``p``.

    Nucleus sampling (Holtzman et al. 2020, section 3.1).
    """

    p: float | Array = 0.9
    temperature: float | Array = 1.0

    def choose(
        self, keys: Key[Array, " B"], logits: Float[Array, "B V"]
    ) -> tuple[Int[Array, " B"], Float[Array, "B V"]]:
        """The tokens, and the untruncated log-probabilities of all tokens at the temperature."""
        scaled = logits / self.temperature
        descending = -jnp.sort(-jax.nn.softmax(scaled), axis=-1)
        likelier = jnp.cumsum(descending, axis=-1) - descending  # 0 for the first, which so stays
        kept = jnp.where(likelier < self.p, descending, jnp.inf)
        least = jnp.min(kept, axis=-1, keepdims=True)
        truncated = jnp.where(jax.nn.softmax(scaled) >= least, scaled, -jnp.inf)
        return _draw(keys, truncated), jax.nn.log_softmax(scaled)


Method = Greedy | Temperature | TopK | TopP


def make_method(temperature: float, top_k: int = 0, top_p: float = 1.0) -> Method:
    """The method of a config: temperature 0 is greedy; top_k 0 and top_p 1 truncate nothing.

    UserError where the values contradict each other, and for a temperature, which may be that of a
    call and not the config's, below 0.
    """
    if not 0 <= temperature < math.inf:
        raise UserError(f"temperature: {temperature} is not a finite number of at least 0.")
    if top_k and top_p < 1:
        raise UserError("config.sampling: set top_k or top_p, not both.")
    if temperature == 0:
        return Greedy()
    if top_k:
        return TopK(k=top_k, temperature=temperature)
    if top_p < 1:
        return TopP(p=top_p, temperature=temperature)
    return Temperature(temperature)


def _draw(keys: Key[Array, " B"], logits: Float[Array, "B V"]) -> Int[Array, " B"]:
    """One categorical draw for each sequence by the Gumbel trick, each from its own key."""
    noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[-1:]))(keys)
    return jnp.argmax(logits + noise, axis=-1).astype(jnp.int32)


def check_untruncated(cfg: ConfigDict, why: str) -> None:
    """UserError unless the samples are of the model's own distribution.

    cfg: the ``sampling`` section; why: the beginning of the sentence.
    """
    if (cfg.temperature, cfg.top_k, cfg.top_p) != (1.0, 0, 1.0):
        raise UserError(f"config.sampling: {why}: temperature 1, top_k 0, top_p 1.")
