"""The sampler: token ids in, token ids out. One prefill, then a loop that ends when every row has ended.

A sample depends on the parameters, the prompt, its example id and its sample index, and on nothing else: each row draws
from its own keys, and padding, the rest of the batch and the number of devices never enter.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from flax import struct

from reasoning_jax import model, prng
from reasoning_jax.sharding import shard


@struct.dataclass
class Greedy:
    """The most likely token."""

    def choose(self, keys: jax.Array, logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32), jax.nn.log_softmax(logits)


@struct.dataclass
class Temperature:
    """Samples softmax(logits / temperature)."""

    temperature: float = 1.0

    def choose(self, keys: jax.Array, logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        scaled = logits / self.temperature
        return _draw(keys, scaled), jax.nn.log_softmax(scaled)


@struct.dataclass
class TopK:
    """Samples among the ``k`` most likely tokens (and those tied with the last of them)."""

    k: int = struct.field(pytree_node=False, default=50)
    temperature: float = 1.0

    def choose(self, keys: jax.Array, logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        scaled = logits / self.temperature
        least = jax.lax.top_k(scaled, min(self.k, scaled.shape[-1]))[0][..., -1:]
        return _draw(keys, jnp.where(scaled >= least, scaled, -jnp.inf)), jax.nn.log_softmax(scaled)


@struct.dataclass
class TopP:
    """Samples among the fewest tokens whose probabilities sum to at least ``p`` (nucleus sampling)."""

    p: float = 0.9
    temperature: float = 1.0

    def choose(self, keys: jax.Array, logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        scaled = logits / self.temperature
        descending = -jnp.sort(-jax.nn.softmax(scaled), axis=-1)
        before = jnp.cumsum(descending, axis=-1) - descending  # the mass of likelier tokens; 0 for the first: it stays
        least = jnp.min(jnp.where(before < self.p, descending, jnp.inf), axis=-1, keepdims=True)
        return _draw(keys, jnp.where(jax.nn.softmax(scaled) >= least, scaled, -jnp.inf)), jax.nn.log_softmax(scaled)


Rule = Greedy | Temperature | TopK | TopP


def make_rule(temperature: float, top_k: int = 0, top_p: float = 1.0) -> Rule:
    """The rule of a config: temperature 0 is greedy; top_k 0 and top_p 1 truncate nothing."""
    if temperature < 0 or top_k < 0 or not 0 < top_p <= 1:
        raise ValueError("config.sampling: temperature and top_k must not be negative and top_p must be in (0, 1].")
    if top_k and top_p < 1:
        raise ValueError("config.sampling: set top_k or top_p, not both.")
    if temperature == 0:
        return Greedy()
    return TopK(top_k, temperature) if top_k else TopP(top_p, temperature) if top_p < 1 else Temperature(temperature)


def _draw(keys: jax.Array, logits: jax.Array) -> jax.Array:
    """One categorical draw a row by the Gumbel trick, each from its own key."""
    noise = jax.vmap(lambda k: jax.random.gumbel(k, logits.shape[-1:]))(keys)
    return jnp.argmax(logits + noise, axis=-1).astype(jnp.int32)


@struct.dataclass
class Samples:
    """Completions, the end token included; what lies beyond a row's length is 0."""

    tokens: jax.Array  # [B, N] int32
    logprobs: jax.Array  # [B, N] float32, of the temperature-scaled, untruncated law
    lengths: jax.Array  # [B] int32
    finished: jax.Array  # [B] bool: ended with a token of the stop set; False = cut off by the length limit


@struct.dataclass
class _State:
    step: jax.Array  # tokens emitted by every live row
    last: jax.Array  # [B] the newest token, not yet in the cache
    done: jax.Array  # [B]
    samples: Samples
    cache: model.Cache


@partial(jax.jit, static_argnames=("cfg", "max_new_tokens"))
def sample(
    params: model.Params,
    prompts: jax.Array,
    lengths: jax.Array,
    ids: jax.Array,
    indices: jax.Array,
    key: jax.Array,
    rule: Rule,
    stop_ids: jax.Array,
    *,
    cfg: model.ModelConfig,
    max_new_tokens: int,
) -> Samples:
    """Completes each prompt until a stop token or ``max_new_tokens``.

    prompts: [B, P] int32, padded on the right; lengths: [B], 0 = an empty row of a part-filled batch; ids, indices: [B]
    example ids and sample indices, which name the random stream; stop_ids: [E] int32.
    """
    batch, width = prompts.shape
    params = model.for_decoding(params, cfg)
    row_keys = prng.row_keys(key, ids, indices)

    def emit(state: _State, logits: jax.Array) -> _State:
        """Chooses the next token of every live row and records it."""
        chosen, logprobs = rule.choose(prng.at_position(row_keys, state.step), logits)
        hit = jax.lax.broadcasted_iota(jnp.int32, logprobs.shape, 1) == chosen[:, None]
        logprob = jnp.sum(jnp.where(hit, logprobs, 0.0), axis=-1)
        live = ~state.done
        ended = live & jnp.any(chosen[:, None] == stop_ids, axis=-1)
        s = state.samples
        at = (0, state.step)
        samples = Samples(
            jax.lax.dynamic_update_slice(s.tokens, jnp.where(live, chosen, 0)[:, None], at),
            jax.lax.dynamic_update_slice(s.logprobs, jnp.where(live, logprob, 0.0)[:, None], at),
            s.lengths + live,
            s.finished | ended,
        )
        return _State(state.step + 1, chosen, state.done | ended, samples, state.cache)

    def unfinished(state: _State) -> jax.Array:
        return (state.step < max_new_tokens) & ~jnp.all(state.done)

    def decode(state: _State) -> _State:
        position = (lengths + state.step - 1)[:, None]
        hidden, cache = model.apply(
            params, state.last[:, None], position, jnp.ones_like(position), state.cache, cfg=cfg
        )  # fmt: skip
        return emit(state.replace(cache=cache), model.logits(params, hidden, cfg)[:, 0])

    # Prefill: the whole prompt at once; only the last token's hidden state becomes logits.
    positions = shard(jax.lax.broadcasted_iota(jnp.int32, (batch, width), 1), "batch", None)
    inside = (positions < lengths[:, None]).astype(jnp.int32)
    cache = model.init_cache(cfg, batch, width + max_new_tokens)
    hidden, cache = model.apply(params, prompts, positions, inside, cache, cfg=cfg, prefill=True)
    last = jnp.sum(jnp.where((positions == lengths[:, None] - 1)[..., None], hidden, 0), axis=1, keepdims=True)

    empty = shard(jnp.zeros((batch, max_new_tokens), jnp.int32), "batch", None)
    zeros = shard(jnp.zeros((batch,), jnp.int32), "batch")
    start = Samples(empty, empty.astype(jnp.float32), zeros, zeros > 0)
    state = _State(jnp.zeros((), jnp.int32), zeros, lengths == 0, start, cache)
    state = emit(state, model.logits(params, last, cfg)[:, 0])
    return jax.lax.while_loop(unfinished, decode, state).samples


def bucket(length: int, least: int = 16) -> int:
    """The static length for rows of this length: the next power of two, so that few shapes are ever compiled."""
    return max(least, 1 << (length - 1).bit_length())


def compilations() -> int:
    """How many shapes of ``sample`` have been compiled in this process."""
    return sample._cache_size()
