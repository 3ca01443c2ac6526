"""Low-rank changes of the matrices of a frozen model (Hu et al. 2021, arXiv:2106.09685).

A matrix W acts as W + (alpha / rank) A B, and A and B are trained. There is no dropout.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from reasoning_jax.errors import UserError
from reasoning_jax.model import decoder
from reasoning_jax.model.decoder import ModelConfig, Params
from reasoning_jax.model.parameters import BLOCK_MATRICES, num_inputs
from reasoning_jax.ranges import above, between, key


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    rank: int = key(16, between(1, 2**16))
    alpha: float = key(32.0, above(0))
    # Of each layer, such as "query,value"; "all" = every one of them.
    matrices: str = "all"


def matrices(cfg: ConfigDict, model_cfg: ModelConfig) -> list[str]:
    """The matrices that are changed, in the order of the model; UserError for one it has not."""
    known = [name for name in BLOCK_MATRICES if name != "gate" or model_cfg.gated]
    if cfg.matrices == "all":
        return known
    asked = [name.strip() for name in cfg.matrices.split(",")]
    for name in asked:
        if name not in known or asked.count(name) > 1:
            raise UserError(
                f"config.tune.matrices: {cfg.matrices!r} is not all, or some of "
                f"{', '.join(known)}, each once."
            )
    return [name for name in known if name in asked]


def model_config(cfg: ConfigDict, model_cfg: ModelConfig) -> ModelConfig:
    """The model with the scale of its LoRA."""
    matrices(cfg, model_cfg)
    return dataclasses.replace(model_cfg, lora_scale=cfg.alpha / cfg.rank)


def init(
    key: jax.Array, frozen: Params, words: jax.Array, *, cfg: ConfigDict, model_cfg: ModelConfig
) -> Params:
    """A uniform within 1 / sqrt(inputs), as PEFT draws it, and B = 0: nothing is changed yet."""
    shapes = jax.eval_shape(lambda: decoder.init(jax.random.key(0), model_cfg)["layers"])
    factors = {}
    for number, name in enumerate(matrices(cfg, model_cfg)):
        layers, *shape = shapes[name].shape
        inputs, outputs = shape[: num_inputs(name)], shape[num_inputs(name) :]
        bound = math.prod(inputs) ** -0.5
        a_key = jax.random.fold_in(key, number)
        shape_a = (layers, *inputs, cfg.rank)
        factors[f"{name}_a"] = jax.random.uniform(a_key, shape_a, minval=-bound, maxval=bound)
        factors[f"{name}_b"] = jnp.zeros((layers, cfg.rank, *outputs), jnp.float32)
    return {"lora": factors}
