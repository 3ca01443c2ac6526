"""The compiled steps of sampling: prompts into the cache, and a token after another.

A sample depends on the parameters, the prompt, its example id and its sample index, and on nothing
else: each sequence draws from its own keys, and the rest of the batch, the order of the queue and
the number of devices never enter.

Letters of shapes: B sequences, S tokens, V vocabulary, E end tokens, N tokens of a call.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key

from reasoning_jax import prng
from reasoning_jax.forwards import HiddenTokens
from reasoning_jax.model import decoder, paged_attention
from reasoning_jax.model.paged_attention import Cache
from reasoning_jax.model.pages import Places
from reasoning_jax.model.sharding import shard
from reasoning_jax.sampling.methods import Method

PREFILL_BLOCK = 16  # tokens of a prompt that are one sequence of a prefill
MOST_TOKENS = 32  # of a sequence in one call of ``decode``


@struct.dataclass(kw_only=True)
class Draw:
    """What names the random stream of each sequence, and how it is drawn."""

    key: Key[Array, ""]
    ids: Int[Array, " B"]  # of the examples
    indices: Int[Array, " B"]  # of the samples
    method: Method
    stop_ids: Int[Array, " E"]


@struct.dataclass(kw_only=True)
class Emitted:
    """New tokens; what lies beyond a sequence's length is 0."""

    tokens: Int[Array, "B N"]
    logprobs: Float[Array, "B N"]  # of the temperature-scaled, untruncated distribution
    lengths: Int[Array, " B"]
    finished: Bool[Array, " B"]  # ended with a stop token


@partial(jax.jit, static_argnames=("cfg", "in_int8"))
def prepare(
    params: decoder.Params, cfg: decoder.ModelConfig, in_int8: bool = False
) -> decoder.Params:
    """The parameters as ``prefill`` and ``decode`` take them; as ``decoder.for_decoding``."""
    return decoder.for_decoding(params, cfg, in_int8)


@partial(jax.jit, static_argnames=("cfg", "num_pages", "in_int8"))
def new_cache(cfg: decoder.ModelConfig, num_pages: int, in_int8: bool = False) -> Cache:
    """An empty cache; as ``paged_attention.init``."""
    return paged_attention.init(cfg, num_pages, in_int8)


@partial(jax.jit, static_argnames=("cfg", "hidden_tokens"), donate_argnames="cache")
def prefill(
    params: decoder.Params,
    cache: Cache,
    tokens: Int[Array, "B S"],
    places: Places,
    draw: Draw,
    is_last: Bool[Array, " B"] | None = None,
    *,
    cfg: decoder.ModelConfig,
    hidden_tokens: HiddenTokens | None = None,
) -> tuple[Cache, Emitted]:
    """The cache, which it consumes, with blocks of prompts; and the token after each block.

    Sequence b is a block of a prompt: several may be of one, which see those before them. The token
    after a prompt's last block is the completion's first. is_last: whether it is that block;
    hidden tokens are computed after it alone.
    """
    cache, emitted, _ = _prefilled(params, cache, tokens, places, draw, cfg, is_last, hidden_tokens)
    return cache, emitted


@partial(jax.jit, static_argnames="cfg", donate_argnames="cache")
def prefill_to_think(
    params: decoder.Params,
    cache: Cache,
    tokens: Int[Array, "B S"],
    places: Places,
    draw: Draw,
    *,
    cfg: decoder.ModelConfig,
) -> tuple[Cache, Emitted, Float[Array, "B 1 D"]]:
    """``prefill``, and the hidden state of each block's last token: what a first thought is."""
    return _prefilled(params, cache, tokens, places, draw, cfg)


def _prefilled(
    params: decoder.Params,
    cache: Cache,
    tokens: jax.Array,
    places: Places,
    draw: Draw,
    cfg: decoder.ModelConfig,
    is_last: jax.Array | None = None,
    hidden_tokens: HiddenTokens | None = None,
) -> tuple[Cache, Emitted, jax.Array]:
    inputs = decoder.embed(params, tokens, cfg)
    hidden, cache = decoder.apply_cached(params, inputs, places, cache, cfg=cfg)
    at_end = jnp.arange(tokens.shape[1]) == places.counts[:, None] - 1
    last = jnp.sum(jnp.where(at_end[..., None], hidden, 0), axis=1, keepdims=True)
    if hidden_tokens is not None:
        ends = Places(
            tables=places.tables,
            starts=places.starts + places.counts,
            counts=is_last.astype(jnp.int32),
        )
        last, cache = hidden_tokens(params, last, ends, cache, cfg)
    return cache, _first_tokens(params, last, places.counts > 0, draw, cfg), last


def _first_tokens(
    params: decoder.Params,
    last: Float[Array, "B 1 D"],
    is_used: Bool[Array, " B"],
    draw: Draw,
    cfg: decoder.ModelConfig,
) -> Emitted:
    """A completion's first token, from the hidden state of what is before it."""
    logits = decoder.logits(params, last, cfg)[:, 0]
    keys = prng.sample_keys(draw.key, draw.ids, draw.indices)
    zeros = shard(jnp.zeros(draw.ids.shape, jnp.int32), "batch")
    chosen, logprobs = _choose(logits, keys, zeros, draw.method)
    return Emitted(
        tokens=jnp.where(is_used, chosen, 0)[:, None],
        logprobs=jnp.where(is_used, logprobs, 0.0)[:, None],
        lengths=is_used.astype(jnp.int32),
        finished=is_used & _is_stop(chosen, draw.stop_ids),
    )


@partial(jax.jit, static_argnames="cfg", donate_argnames="cache")
def think(
    params: decoder.Params,
    cache: Cache,
    vectors: Float[Array, "B 1 D"],
    places: Places,
    draw: Draw,
    emitted: Emitted,
    *,
    cfg: decoder.ModelConfig,
) -> tuple[Cache, Emitted]:
    """The cache, which it consumes, with continuous thoughts (arXiv:2412.06769).

    Each of a sequence's ``places.counts`` thoughts is fed the hidden state of the token, or of the
    thought, before it; vectors: those before the first. Of a sequence with thoughts, the token
    after the last one takes the place of what was emitted.
    """

    def unfinished(carry: tuple) -> Bool[Array, ""]:
        _, _, number = carry
        return number < jnp.max(places.counts)

    def advance(carry: tuple) -> tuple:
        cache, vectors, number = carry
        thinks = number < places.counts
        now = Places(
            tables=places.tables, starts=places.starts + number, counts=thinks.astype(jnp.int32)
        )
        hidden, cache = decoder.apply_cached(params, vectors, now, cache, cfg=cfg)
        return cache, jnp.where(thinks[:, None, None], hidden, vectors), number + 1

    carry = cache, vectors, jnp.zeros((), jnp.int32)
    cache, last, _ = jax.lax.while_loop(unfinished, advance, carry)
    has_thoughts = places.counts > 0
    after = _first_tokens(params, last, has_thoughts, draw, cfg)

    def choose(after: jax.Array, before: jax.Array) -> jax.Array:
        return jnp.where(has_thoughts.reshape(-1, *[1] * (after.ndim - 1)), after, before)

    return cache, jax.tree.map(choose, after, emitted)


@struct.dataclass(kw_only=True)
class Progress:
    """Completions in progress, each with its newest token not yet in the cache."""

    last: Int[Array, " B"]  # the newest token
    starts: Int[Array, " B"]  # tokens in the cache
    steps: Int[Array, " B"]  # tokens of the completion so far
    live: Bool[Array, " B"]


@partial(jax.jit, static_argnames=("cfg", "hidden_tokens"), donate_argnames="cache")
def decode(
    params: decoder.Params,
    cache: Cache,
    progress: Progress,
    tables: Int[Array, "B J"],
    draw: Draw,
    max_new_tokens: Int[Array, ""],
    most: Int[Array, ""],
    enough: Int[Array, ""],
    *,
    cfg: decoder.ModelConfig,
    hidden_tokens: HiddenTokens | None = None,
) -> tuple[Cache, Emitted]:
    """At most ``most`` <= MOST_TOKENS more tokens of each live completion.

    It returns early once ``enough`` of them have ended, by a stop token or by ``max_new_tokens``.
    It consumes the cache. tables: the sequences' pages, with room for the tokens and for the
    hidden ones.
    """
    keys = prng.sample_keys(draw.key, draw.ids, draw.indices)
    was_live = progress.live

    def unfinished(carry: tuple) -> Bool[Array, ""]:
        _, progress, _, step = carry
        num_ended = jnp.sum(was_live & ~progress.live)
        return (step < most) & jnp.any(progress.live) & (num_ended < enough)

    def advance(carry: tuple) -> tuple:
        cache, now, emitted, step = carry
        live = now.live
        places = Places(tables=tables, starts=now.starts, counts=live.astype(jnp.int32))
        inputs = decoder.embed(params, now.last[:, None], cfg)
        hidden, cache = decoder.apply_cached(params, inputs, places, cache, cfg=cfg)
        if hidden_tokens is not None:
            behind = places.replace(starts=now.starts + 1)
            hidden, cache = hidden_tokens(params, hidden, behind, cache, cfg)
        logits = decoder.logits(params, hidden, cfg)[:, 0]
        chosen, logprobs = _choose(logits, keys, now.steps, draw.method)
        stopped = live & _is_stop(chosen, draw.stop_ids)
        steps = now.steps + live
        at = (0, step)
        new_tokens = jnp.where(live, chosen, 0)[:, None]
        new_logprobs = jnp.where(live, logprobs, 0.0)[:, None]
        emitted = Emitted(
            tokens=jax.lax.dynamic_update_slice(emitted.tokens, new_tokens, at),
            logprobs=jax.lax.dynamic_update_slice(emitted.logprobs, new_logprobs, at),
            lengths=emitted.lengths + live,
            finished=emitted.finished | stopped,
        )
        now = Progress(
            last=jnp.where(live, chosen, now.last),
            starts=now.starts + live,
            steps=steps,
            live=live & ~stopped & (steps < max_new_tokens),
        )
        return cache, now, emitted, step + 1

    carry = cache, progress, _nothing(len(was_live)), jnp.zeros((), jnp.int32)
    cache, _, emitted, _ = jax.lax.while_loop(unfinished, advance, carry)
    return cache, emitted


def _nothing(batch: int) -> Emitted:
    tokens = shard(jnp.zeros((batch, MOST_TOKENS), jnp.int32), "batch", None)
    lengths = shard(jnp.zeros((batch,), jnp.int32), "batch")
    return Emitted(
        tokens=tokens,
        logprobs=tokens.astype(jnp.float32),
        lengths=lengths,
        finished=lengths > 0,
    )


def _choose(
    logits: Float[Array, "B V"], keys: Key[Array, " B"], steps: Int[Array, " B"], method: Method
) -> tuple[Int[Array, " B"], Float[Array, " B"]]:
    """The next tokens, and their log-probabilities; steps: tokens of each completion so far."""
    chosen, logprobs = method.choose(prng.at_positions(keys, steps), logits)
    vocabulary = jax.lax.broadcasted_iota(jnp.int32, logprobs.shape, 1)
    is_chosen = vocabulary == chosen[:, None]
    return chosen, jnp.sum(jnp.where(is_chosen, logprobs, 0.0), axis=-1)


def _is_stop(tokens: Int[Array, " B"], stop_ids: Int[Array, " E"]) -> Bool[Array, " B"]:
    return jnp.any(tokens[:, None] == stop_ids, axis=-1)


def compilations() -> int:
    """How many programs have been compiled in this process."""
    programs = prefill, prefill_to_think, think, decode
    return sum(program._cache_size() for program in programs)


def bucket(length: int, least: int = 16) -> int:
    """The static length for sequences of this length: the next power of two, at least ``least``.

    So few shapes are ever compiled.
    """
    return max(least, 1 << (length - 1).bit_length())
