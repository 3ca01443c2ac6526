"""Text that tasks are made of."""
