"""AdamW through optax, and the learning rate of an update."""

from __future__ import annotations

import jax
import optax
from jaxtyping import PyTree
from ml_collections import ConfigDict

from reasoning_jax.model.parameters import MATRICES


def make(cfg: ConfigDict) -> optax.GradientTransformation:
    """The optimiser of the ``optim`` section, without the learning rate.

    Clipping by the global norm, Adam moments in float32, decoupled weight decay on matrices. The
    update multiplies the learning rate in, so that one compiled step serves every schedule and
    round.
    """
    clip = optax.clip_by_global_norm(cfg.clip_norm) if cfg.clip_norm else optax.identity()
    decay = optax.identity()
    if cfg.weight_decay:
        decay = optax.add_decayed_weights(cfg.weight_decay, mask=_matrices)
    return optax.chain(clip, optax.scale_by_adam(b1=cfg.b1, b2=cfg.b2, eps=cfg.eps), decay)


def _matrices(params: PyTree) -> PyTree:
    """True for what is multiplied with, False for the scales of norms."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key in MATRICES, params)


def learning_rate(cfg: ConfigDict, peak: float, update: int, total: int) -> float:
    """The rate of update 0 .. total - 1 of a round.

    Linear warm-up, then constant, then linear to 0 over the last ``decay`` fraction of the updates.
    """
    warm = 1.0
    if cfg.warmup:
        warm = min(1.0, (update + 1) / cfg.warmup)
    decay_updates = int(cfg.decay * total)
    cool = 1.0
    if decay_updates:
        cool = min(1.0, (total - update) / decay_updates)
    return peak * min(warm, cool)
