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
class _State:
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
    batch, width = prompts.shape
    params = decoder.for_decoding(params, cfg)
    keys = prng.sample_keys(key, ids, indices)

    def emit(state: _State, logits: Float[Array, "B V"]) -> _State:
        """Chooses the next token of every sequence that has not ended, and records it."""
        chosen, logprobs = method.choose(prng.at_position(keys, state.step), logits)
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

    def unfinished(state: _State) -> Bool[Array, ""]:
        return (state.step < max_new_tokens) & ~jnp.all(state.done)

    def decode(state: _State) -> _State:
        inputs = decoder.embed(params, state.last[:, None], cfg)
        position = (lengths + state.step - 1)[:, None]
        mask = CausalMask(jnp.ones_like(position))
        hidden, cache = decoder.apply(params, inputs, position, mask, state.cache, cfg=cfg)
        logits = decoder.logits(params, hidden, cfg)[:, 0]
        return emit(state.replace(cache=cache), logits)

    # Prefill: the whole prompt at once; only the last token's hidden state becomes logits.
    positions = shard(jax.lax.broadcasted_iota(jnp.int32, (batch, width), 1), "batch", None)
    mask = CausalMask((positions < lengths[:, None]).astype(jnp.int32))
    cache = decoder.init_cache(cfg, batch, width + max_new_tokens)
    inputs = decoder.embed(params, prompts, cfg)
    hidden, cache = decoder.apply(params, inputs, positions, mask, cache, cfg=cfg, prefill=True)
    is_last = (positions == lengths[:, None] - 1)[..., None]
    last = jnp.sum(jnp.where(is_last, hidden, 0), axis=1, keepdims=True)

    state = _empty_state(lengths, max_new_tokens, cache)
    state = emit(state, decoder.logits(params, last, cfg)[:, 0])
    return jax.lax.while_loop(unfinished, decode, state).samples


def _empty_state(lengths: Int[Array, " B"], max_new_tokens: int, cache: decoder.Cache) -> _State:
    """The state before the first new token; empty sequences have ended already."""
    batch = lengths.shape[0]
    tokens = shard(jnp.zeros((batch, max_new_tokens), jnp.int32), "batch", None)
    zeros = shard(jnp.zeros((batch,), jnp.int32), "batch")
    samples = Samples(
        tokens=tokens, logprobs=tokens.astype(jnp.float32), lengths=zeros, finished=zeros > 0
    )
    return _State(
        step=jnp.zeros((), jnp.int32), last=zeros, done=lengths == 0, samples=samples, cache=cache
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
