"""A decoder-only transformer, as pure functions: init, embed, apply, logits.

Letters of shapes: B sequences, S tokens of this call, T cached tokens, D width, K key-value heads,
H head size, V vocabulary, L layers. Sequences are padded on the right; a packed row holds several
of them as segments. Which tokens a token sees is said by a mask: see attention.py.

With an adapter, the parameters are those of the frozen model and, beside them, "lora" (stacked
factors) or "soft_prompt" [P, D], whose vectors are those of the ids after the vocabulary.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int, Key, PyTree

from reasoning_jax.model import attention, rotary
from reasoning_jax.model.attention import CausalMask, DenseMask, Mask
from reasoning_jax.model.config import ModelConfig
from reasoning_jax.model.linear import dot, lookup
from reasoning_jax.model.parameters import PARAMETERS
from reasoning_jax.model.sharding import cast_matrices, shard
from reasoning_jax.model.transformer import HIDDEN, Transformer, View

Params = dict[str, Array | dict[str, Array]]


@struct.dataclass(kw_only=True)
class Cache:
    """Keys and values of the tokens so far; slots fill from the left, the same in all sequences."""

    keys: Float[Array, "L B T K H"]
    values: Float[Array, "L B T K H"]
    positions: Int[Array, "B T"]
    segment_ids: Int[Array, "B T"]  # 0 = an empty slot
    length: Int[Array, ""]  # slots written


def init_cache(cfg: ModelConfig, batch: int, length: int, dtype: str | None = None) -> Cache:
    """An empty cache of ``length`` slots for ``batch`` sequences; dtype: default ``cfg.dtype``."""
    shape = (cfg.num_layers, batch, length, cfg.num_kv_heads, cfg.head_dim)
    zeros = shard(jnp.zeros(shape, dtype or cfg.dtype), None, "batch", None, "kv_heads", None)
    slots = shard(jnp.zeros((batch, length), jnp.int32), "batch", None)
    return Cache(
        keys=zeros,
        values=zeros,
        positions=slots,
        segment_ids=slots,
        length=jnp.zeros((), jnp.int32),
    )


def init(key: Key[Array, ""], cfg: ModelConfig) -> Params:
    """Float32 parameters as a nested dict.

    Run it under jit with out_shardings, so that they are sharded from the start.
    """
    x = jnp.zeros((1, 1, cfg.width), cfg.dtype)
    position = jnp.ones((1, 1), jnp.int32)
    mask = DenseMask(jnp.ones((1, 1, 1), bool))
    view, local_view = _views(mask, position, None, cfg)
    model = Transformer(cfg, reads_cache=False)
    return model.init(key, x, view, local_view, None, jnp.zeros((), jnp.int32))["params"]


def embed(params: Params, tokens: Int[Array, "B S"], cfg: ModelConfig) -> Float[Array, "B S D"]:
    """The vectors of these tokens in the dtype of the computation: the inputs of ``apply``."""
    if "soft_prompt" not in params:
        return _embed_words(params, tokens, cfg)
    words = _embed_words(params, jnp.minimum(tokens, cfg.vocab_size - 1), cfg)
    number = tokens - cfg.vocab_size  # of a soft prompt's vector; below 0 for words
    prompt = params["soft_prompt"]
    chosen = jax.nn.one_hot(number, len(prompt), dtype=words.dtype)  # zeros for words
    vectors = dot("bsp,pd->bsd", chosen, prompt, PARAMETERS["soft_prompt"], HIDDEN)
    return jnp.where(number[..., None] >= 0, vectors, words)


def _embed_words(params: Params, tokens: jax.Array, cfg: ModelConfig) -> jax.Array:
    vectors = lookup(params["embedding"], tokens, cfg.dtype)
    if cfg.embed_scale:
        vectors = vectors * jnp.asarray(cfg.width**0.5, cfg.dtype)
    return vectors


def apply(
    params: Params,
    inputs: Float[Array, "B S D"],
    positions: Int[Array, "B S"],
    mask: Mask,
    cache: Cache | None = None,
    *,
    cfg: ModelConfig,
    prefill: bool = False,
) -> tuple[Float[Array, "B S D"], Cache | None]:
    """Hidden states [B, S, D] after the final norm, and the cache with these tokens added.

    inputs: vectors, of tokens (``embed``) or of any other origin. positions: of the rotary
    embedding. mask: what each sees; with a cache a CausalMask (else TypeError), whose segment ids
    the cache keeps. With a cache the S inputs take its next S slots. prefill: the cache is empty,
    and they see one another only.
    """
    if cache is not None and not isinstance(mask, CausalMask):
        raise TypeError(
            f"decoder.apply: a cache needs a CausalMask, whose segment ids it stores; "
            f"got a {type(mask).__name__}."
        )
    reads_cache = cache is not None and not prefill
    slot = cache.length if reads_cache else jnp.zeros((), jnp.int32)
    if cache is not None:
        at = (0, slot)
        cache = cache.replace(
            positions=jax.lax.dynamic_update_slice(cache.positions, positions, at),
            segment_ids=jax.lax.dynamic_update_slice(cache.segment_ids, mask.segment_ids, at),
            length=slot + inputs.shape[1],
        )
    view, local_view = _views(mask, positions, cache if reads_cache else None, cfg)
    if cfg.max_positions:
        inputs = inputs + lookup(params["position_embedding"], positions, cfg.dtype)
    model = Transformer(cfg, reads_cache)
    stored = None if cache is None else (cache.keys, cache.values)
    variables = {"params": params}
    if "lora" in params:
        variables["lora"] = {"layers": params["lora"]}
    hidden, stored = model.apply(variables, inputs, view, local_view, stored, slot)
    if cache is not None:
        cache = cache.replace(keys=stored[0], values=stored[1])
    return hidden, cache


def _views(
    mask: Mask, positions: jax.Array, cache: Cache | None, cfg: ModelConfig
) -> tuple[View, View | None]:
    """The view of the layers, or where some are local, of the others and of these.

    cache: what is attended to; None = the tokens of this call.
    """
    if not cfg.local_layers:
        return _view(mask, positions, cache, cfg, cfg.window, False), None
    view = _view(mask, positions, cache, cfg, 0, False)
    return view, _view(mask, positions, cache, cfg, cfg.window, True)


def _view(
    mask: Mask,
    positions: jax.Array,
    cache: Cache | None,
    cfg: ModelConfig,
    window: int,
    local: bool,
) -> View:
    """The angles, and the mask as attention takes it: of a cache it is a matrix."""
    angles = None if cfg.rotary == "none" else rotary.angles(positions, cfg, local)
    if isinstance(mask, DenseMask):
        distance = positions[:, :, None] - positions[:, None]
        near = mask.visible & (distance < window) if local else mask.visible
        return View(angles, DenseMask(near))
    if cache is not None:
        keys = cache.positions, cache.segment_ids
        return View(angles, attention.to_dense(mask, positions, *keys, window))
    return View(angles, mask)


def for_decoding(params: Params, cfg: ModelConfig) -> Params:
    """The parameters to call ``apply`` and ``logits`` with many times.

    Matrices are cast once to the dtype of the computation, and the output matrix is split once by
    its vocabulary, so that no step gathers it.
    """
    params = cast_matrices(params, cfg.dtype)
    return params | {"output": _output(params, cfg)}


def _output(params: Params, cfg: ModelConfig) -> jax.Array:
    if cfg.tied:
        return shard(params["embedding"], "output", None)
    return shard(params["unembedding"], None, "output")


def logits(
    params: Params, hidden: Float[Array, "B S D"], cfg: ModelConfig
) -> Float[Array, "B S V"]:
    """Float32 logits of hidden states, for a few positions at once: see logprobs.py for many."""
    matrix = params["output"] if "output" in params else _output(params, cfg)
    if cfg.tied:
        equation, names = "bsd,vd->bsv", ("output", None)
    else:
        equation, names = "bsd,dv->bsv", (None, "output")
    # The few hidden states move to the slices of the matrix, not the matrix to them.
    hidden = shard(hidden, "batch_data", None, None)
    out = dot(equation, hidden, matrix, names, ("batch_data", None, "output"), dtype=jnp.float32)
    # First trade vocabulary for sequences, then gather the vocabulary of a device's own sequences:
    # in one step XLA would gather all logits of the whole batch.
    out = shard(shard(out, "batch", None, "vocab"), "batch", None, None)
    if cfg.output_bias:
        out = out + shard(params["output_bias"], None)
    if cfg.output_softcap:
        out = cfg.output_softcap * jnp.tanh(out / cfg.output_softcap)
    return out


def num_params(params: PyTree) -> int:
    """How many numbers the parameters are; ``params`` may be arrays or their shapes."""
    return sum(x.size for x in jax.tree.leaves(params))
