"""AdamW through optax, and the learning rate of an update."""

from __future__ import annotations

import jax
import optax
from ml_collections import ConfigDict


def make(cfg: ConfigDict) -> optax.GradientTransformation:
    """Clipping by the global norm, Adam moments in float32, decoupled weight decay on matrices; without the learning
    rate, which ``update`` multiplies in, so that one compiled step serves every schedule and round."""
    return optax.chain(
        optax.clip_by_global_norm(cfg.clip_norm) if cfg.clip_norm else optax.identity(),
        optax.scale_by_adam(b1=cfg.b1, b2=cfg.b2, eps=cfg.eps),
        optax.add_decayed_weights(cfg.weight_decay, mask=_matrices) if cfg.weight_decay else optax.identity(),
    )


def _matrices(params: dict) -> dict:
    """True for what is multiplied with, False for the scales of norms."""
    return jax.tree_util.tree_map_with_path(lambda path, _: not path[-1].key.endswith("norm"), params)


def learning_rate(cfg: ConfigDict, peak: float, update: int, total: int) -> float:
    """The rate of update 0 .. total - 1 of a round: linear warm-up, constant, then linear to 0 over the last
    ``decay`` fraction of the updates."""
    warm = min(1.0, (update + 1) / cfg.warmup) if cfg.warmup else 1.0
    decay_updates = int(cfg.decay * total)
    cool = min(1.0, (total - update) / decay_updates) if decay_updates else 1.0
    return peak * min(warm, cool)
