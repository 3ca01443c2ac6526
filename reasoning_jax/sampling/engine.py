"""The sampler: token ids in, token ids out; one prefill, then a loop until all have ended.

A sample depends on the parameters, the prompt, its example id and its sample index, and on nothing
else: each sequence draws from its own keys, and padding, the rest of the batch and the number of
devices never enter.

Letters of shapes: B sequences, P tokens of a prompt, N new tokens, V vocabulary, E end tokens.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key

from reasoning_jax import prng
from reasoning_jax.model import decoder
from reasoning_jax.model.attention import CausalMask
from reasoning_jax.model.sharding import shard
from reasoning_jax.sampling.methods import Method


@struct.dataclass(kw_only=True)
class Samples:
    """Completions, the end token included; what lies beyond a completion's length is 0."""

    tokens: Int[Array, "B N"]
    logprobs: Float[Array, "B N"]  # of the temperature-scaled, untruncated distribution
    lengths: Int[Array, " B"]
    finished: Bool[Array, " B"]  # ended with a stop token; False = cut off by the length limit


@struct.dataclass(kw_only=True)
class State:
    """Completions in progress."""

    lengths: Int[Array, " B"]  # of the prompts
    keys: Key[Array, " B"]  # which name the random streams
    step: Int[Array, ""]  # tokens emitted by every sequence that has not ended
    last: Int[Array, " B"]  # the newest token, not yet in the cache
    done: Bool[Array, " B"]
    samples: Samples
    cache: decoder.Cache


@partial(jax.jit, static_argnames=("cfg", "max_new_tokens"))
def sample(
    params: decoder.Params,
    prompts: Int[Array, "B P"],
    lengths: Int[Array, " B"],
    ids: Int[Array, " B"],
    indices: Int[Array, " B"],
    key: Key[Array, ""],
    method: Method,
    stop_ids: Int[Array, " E"],
    *,
    cfg: decoder.ModelConfig,
    max_new_tokens: int,
) -> Samples:
    """Completes each prompt until a stop token or ``max_new_tokens``.

    prompts: padded on the right; lengths: of the prompts, 0 = an empty sequence of a part-filled
    batch; ids, indices: example ids and sample indices, which name the random stream.
    """
    params = decoder.for_decoding(params, cfg)
    state = start(
        params,
        prompts,
        lengths,
        ids,
        indices,
        key,
        method,
        stop_ids,
        cfg=cfg,
        max_new_tokens=max_new_tokens,
    )
    return _decode(params, state, method, stop_ids, cfg, max_new_tokens).samples


# ---- the same in parts, for whoever reads along --------------------------------------------------


@partial(jax.jit, static_argnames="cfg")
def prepare(params: decoder.Params, cfg: decoder.ModelConfig) -> decoder.Params:
    """The parameters as ``start`` and ``advance`` take them."""
    return decoder.for_decoding(params, cfg)


@partial(jax.jit, static_argnames=("cfg", "max_new_tokens"))
def start(
    params: decoder.Params,
    prompts: Int[Array, "B P"],
    lengths: Int[Array, " B"],
    ids: Int[Array, " B"],
    indices: Int[Array, " B"],
    key: Key[Array, ""],
    method: Method,
    stop_ids: Int[Array, " E"],
    *,
    cfg: decoder.ModelConfig,
    max_new_tokens: int,
) -> State:
    """The state of ``sample`` with one new token."""
    keys = prng.sample_keys(key, ids, indices)
    state, logits = _prefill(params, prompts, lengths, keys, cfg, max_new_tokens)
    return _emit(state, logits, method, stop_ids)


@partial(jax.jit, static_argnames="cfg", donate_argnames="state")
def advance(
    params: decoder.Params,
    state: State,
    method: Method,
    stop_ids: Int[Array, " E"],
    until: Int[Array, ""],
    *,
    cfg: decoder.ModelConfig,
) -> State:
    """The state, which it consumes, with ``until`` new tokens, or fewer where all have ended."""
    return _decode(params, state, method, stop_ids, cfg, until)


# ---- steps ---------------------------------------------------------------------------------------


def _prefill(
    params: decoder.Params,
    prompts: jax.Array,
    lengths: jax.Array,
    keys: jax.Array,
    cfg: decoder.ModelConfig,
    max_new_tokens: int,
) -> tuple[State, Float[Array, "B V"]]:
    """The whole prompt at once; only the last token's hidden state becomes logits."""
    batch, width = prompts.shape
    positions = shard(jax.lax.broadcasted_iota(jnp.int32, (batch, width), 1), "batch", None)
    mask = CausalMask((positions < lengths[:, None]).astype(jnp.int32))
    cache = decoder.init_cache(cfg, batch, width + max_new_tokens)
    inputs = decoder.embed(params, prompts, cfg)
    hidden, cache = decoder.apply(params, inputs, positions, mask, cache, cfg=cfg, prefill=True)
    is_last = (positions == lengths[:, None] - 1)[..., None]
    last = jnp.sum(jnp.where(is_last, hidden, 0), axis=1, keepdims=True)
    state = _empty_state(lengths, keys, max_new_tokens, cache)
    return state, decoder.logits(params, last, cfg)[:, 0]


def _emit(state: State, logits: jax.Array, method: Method, stop_ids: jax.Array) -> State:
    """Chooses the next token of every sequence that has not ended, and records it."""
    chosen, logprobs = method.choose(prng.at_position(state.keys, state.step), logits)
    vocabulary = jax.lax.broadcasted_iota(jnp.int32, logprobs.shape, 1)
    is_chosen = vocabulary == chosen[:, None]
    logprob = jnp.sum(jnp.where(is_chosen, logprobs, 0.0), axis=-1)
    live = ~state.done
    ended = live & jnp.any(chosen[:, None] == stop_ids, axis=-1)
    return state.replace(
        step=state.step + 1,
        last=chosen,
        done=state.done | ended,
        samples=_record(state.samples, state.step, chosen, logprob, live, ended),
    )


def _decode(
    params: decoder.Params,
    state: State,
    method: Method,
    stop_ids: jax.Array,
    cfg: decoder.ModelConfig,
    until: int | jax.Array,
) -> State:
    """A token after another, until there are so many or all sequences have ended."""

    def unfinished(state: State) -> Bool[Array, ""]:
        return (state.step < until) & ~jnp.all(state.done)

    def decode(state: State) -> State:
        inputs = decoder.embed(params, state.last[:, None], cfg)
        position = (state.lengths + state.step - 1)[:, None]
        mask = CausalMask(jnp.ones_like(position))
        hidden, cache = decoder.apply(params, inputs, position, mask, state.cache, cfg=cfg)
        logits = decoder.logits(params, hidden, cfg)[:, 0]
        return _emit(state.replace(cache=cache), logits, method, stop_ids)

    return jax.lax.while_loop(unfinished, decode, state)


def _empty_state(
    lengths: Int[Array, " B"], keys: Key[Array, " B"], max_new_tokens: int, cache: decoder.Cache
) -> State:
    """The state before the first new token; empty sequences have ended already."""
    batch = lengths.shape[0]
    tokens = shard(jnp.zeros((batch, max_new_tokens), jnp.int32), "batch", None)
    zeros = shard(jnp.zeros((batch,), jnp.int32), "batch")
    samples = Samples(
        tokens=tokens, logprobs=tokens.astype(jnp.float32), lengths=zeros, finished=zeros > 0
    )
    return State(
        lengths=lengths,
        keys=keys,
        step=jnp.zeros((), jnp.int32),
        last=zeros,
        done=lengths == 0,
        samples=samples,
        cache=cache,
    )


def _record(
    samples: Samples,
    step: Int[Array, ""],
    chosen: Int[Array, " B"],
    logprob: Float[Array, " B"],
    live: Bool[Array, " B"],
    ended: Bool[Array, " B"],
) -> Samples:
    """The samples with one more token where ``live``; ``ended``: it is a stop token."""
    at = (0, step)
    tokens = jnp.where(live, chosen, 0)[:, None]
    logprobs = jnp.where(live, logprob, 0.0)[:, None]
    return Samples(
        tokens=jax.lax.dynamic_update_slice(samples.tokens, tokens, at),
        logprobs=jax.lax.dynamic_update_slice(samples.logprobs, logprobs, at),
        lengths=samples.lengths + live,
        finished=samples.finished | ended,
    )


def bucket(length: int, least: int = 16) -> int:
    """The static length for sequences of this length: the next power of two, at least ``least``.

    So few shapes are ever compiled.
    """
    return max(least, 1 << (length - 1).bit_length())


def compilations() -> int:
    """How many shapes of ``sample`` have been compiled in this process."""
    return sample._cache_size()
