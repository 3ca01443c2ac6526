"""Whether the values of a config go together, before anything is loaded or compiled."""

from __future__ import annotations

import math

from jax.sharding import Mesh
from ml_collections import ConfigDict

from reasoning_jax import algorithms, default, forwards, systems
from reasoning_jax.errors import UserError
from reasoning_jax.model import sharding
from reasoning_jax.sampling.methods import make_method


def check(cfg: ConfigDict) -> None:
    """UserError naming a key whose value is out of its range, or keys that do not go together."""
    default.check(cfg)
    for name in ("algorithm", "base.algorithm"):
        _check_forward(cfg, name)
    forwards.get(cfg.forward.name).check(cfg)
    systems.check(cfg)
    if cfg.sampling.max_new_tokens >= cfg.sequence_length:
        raise UserError(
            f"config.sampling.max_new_tokens: {cfg.sampling.max_new_tokens} leave no room for a "
            f"prompt in config.sequence_length {cfg.sequence_length}."
        )
    make_method(cfg.sampling.temperature, cfg.sampling.top_k, cfg.sampling.top_p)
    rounds = cfg.rounds
    if rounds.online and (rounds.growth != 1 or rounds.increment != 0):
        raise UserError(
            "config.rounds.growth, increment: where rounds.online, every round has as many "
            "updates: 1 and 0."
        )
    if math.log(rounds.updates) + math.log(rounds.growth) * rounds.count > math.log(2**31):
        raise UserError(
            f"config.rounds.growth: {rounds.growth} makes more updates in round {rounds.count} "
            "than can be counted."
        )


def _check_forward(cfg: ConfigDict, section: str) -> None:
    """UserError where the method of this section does not go with the forward."""
    if section == "base.algorithm" and not cfg.base.num_updates:
        return
    holder = cfg.algorithm if section == "algorithm" else cfg.base.algorithm
    goes_with = algorithms.get(holder.name).FORWARDS
    if goes_with and cfg.forward.name not in goes_with:
        raise UserError(
            f"config.forward.name: {cfg.forward.name} does not go with {section} {holder.name}, "
            f"which goes with {', '.join(goes_with)}."
        )


def sampling_mesh(cfg: ConfigDict, mesh: Mesh) -> Mesh | None:
    """The mesh that samples, where it is another; UserError for batches that split over neither."""
    groups = mesh.shape["data"] * mesh.shape["fsdp"]
    if cfg.batch_size % (cfg.micro_batches * groups):
        raise UserError(
            f"config.batch_size: {cfg.batch_size} sequences do not split into "
            f"{cfg.micro_batches} micro-batches over {groups} device groups."
        )
    other = None
    if cfg.mesh.sampling_tensor:
        other = sharding.sampling_mesh(mesh, cfg.mesh.sampling_tensor)
    size = cfg.sampling.batch_size
    sampling_groups = groups if other is None else other.shape["data"]
    for count in (groups, sampling_groups):
        if size % count:
            raise UserError(
                f"config.sampling.batch_size: {size} does not split over {count} device groups."
            )
    return other
