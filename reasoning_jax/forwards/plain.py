"""The model as it is: each token after the tokens before it."""

from __future__ import annotations

import dataclasses

from jaxtyping import Array, Float, Key

from reasoning_jax.forwards import Aux, Batch, ForwardConfig
from reasoning_jax.model import logprobs as model_logprobs
from reasoning_jax.model.decoder import ModelConfig, Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """No keys."""


def logprobs(
    params: Params,
    batch: Batch,
    keys: Key[Array, " B"] | None,
    model_cfg: ModelConfig,
    cfg: ForwardConfig,
) -> tuple[Float[Array, "B S"], Aux]:
    """log p of each token after those before it in its segment; as ``logprobs.token_logprobs``."""
    return model_logprobs.token_logprobs(params, batch, model_cfg), {}
