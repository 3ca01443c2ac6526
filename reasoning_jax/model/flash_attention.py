"""softmax(q k) v without ever holding all logits: FlashAttention (arXiv:2205.14135), as products.

Queries are taken a block at a time, with the keys up to the block's end, so what a causal mask
hides is mostly not computed. The backward pass computes a block's logits again, from the queries,
the keys and each query's log of the sum of exponentials.

Letters of shapes: B sequences, S tokens, K key-value heads, G query heads of each, H head size; of
a block of queries, R rows and T keys that it may see.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from reasoning_jax.model.sharding import platform

BLOCK = 64  # queries of a block, at least
MOST_BLOCKS = 8
MASKED = -1e30  # a finite floor: padding sees nothing and must give numbers, not NaN


class _Heads(NamedTuple):
    """One sequence, heads first."""

    q: jax.Array  # [K, G, S, H]
    k: jax.Array  # [K, S, H]
    v: jax.Array  # [K, S, H]
    segment_ids: jax.Array  # [S]
    prefix_ids: jax.Array  # [S]


def _blocks(length: int) -> Iterator[tuple[int, int]]:
    """The first slot of each block, and the one after its last."""
    size = max(BLOCK, -(-length // MOST_BLOCKS))
    for start in range(0, length, size):
        yield start, min(start + size, length)


@partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def flash_attention(
    q: Float[Array, "B S K G H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    segment_ids: Int[Array, "B S"],
    prefix_ids: Int[Array, "B S"],
    window: int = 0,
    softcap: float = 0.0,
    together: int = 1,
) -> Float[Array, "B S K G H"]:
    """Causal attention within segments; on one device.

    A token sees its own segment, and the one that prefix_ids names, up to its own slot, and of that
    the last ``window`` slots (0: all). Segment 0 sees nothing. Queries come scaled. together:
    sequences that are computed together.
    """
    return _forward(q, k, v, segment_ids, prefix_ids, window, softcap, together)[0]


def _forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segment_ids: jax.Array,
    prefix_ids: jax.Array,
    window: int,
    softcap: float,
    together: int,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    def one(arrays: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        out, log_sums = _sequence(_heads_first(*arrays), window, softcap)
        return jnp.einsum("kgsh->skgh", out), log_sums

    inputs = q, k, v, segment_ids, prefix_ids
    out, log_sums = jax.lax.map(one, inputs, batch_size=together)
    return out, (*inputs, out, log_sums)


def _backward(
    window: int,
    softcap: float,
    together: int,
    saved: tuple[jax.Array, ...],
    d_out: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array, None, None]:
    def one(arrays: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        *inputs, out, log_sums, d_out = arrays
        # sum over keys of p dp, as each row's weights p sum up to 1
        inner = jnp.einsum("skgh,skgh->kgs", d_out, out, preferred_element_type=jnp.float32)
        d_out = jnp.einsum("skgh->kgsh", d_out)
        heads = _heads_first(*inputs)
        dq, dk, dv = _sequence_gradients(heads, log_sums, d_out, inner, window, softcap)
        dq = jnp.einsum("kgsh->skgh", dq)
        dk, dv = jnp.einsum("ksh->skh", dk), jnp.einsum("ksh->skh", dv)
        return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype)

    q, k, v, *_ = saved
    dq, dk, dv = jax.lax.map(one, (*saved, d_out), batch_size=together)
    return dq, dk, dv, None, None


flash_attention.defvjp(_forward, _backward)


def _heads_first(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segment_ids: jax.Array,
    prefix_ids: jax.Array,
) -> _Heads:
    return _Heads(
        q=jnp.einsum("skgh->kgsh", q),
        k=jnp.einsum("skh->ksh", k),
        v=jnp.einsum("skh->ksh", v),
        segment_ids=segment_ids,
        prefix_ids=prefix_ids,
    )


def _sequence(
    x: _Heads, window: int, softcap: float
) -> tuple[Float[Array, "K G S H"], Float[Array, "K G S"]]:
    """Attention, and the logs of the sums of exponentials, in float32."""
    k_transposed = jnp.einsum("kth->kht", x.k)
    bias = _bias(x, window)
    outs, log_sums = [], []
    for start, end in _blocks(x.q.shape[2]):
        rows = slice(start, end)
        keys = slice(max(0, start - window + 1) if window else 0, end)
        logits = _product("kgrh,kht->kgrt", x.q[:, :, rows], k_transposed[..., keys])
        logits = _capped(logits, softcap) + bias[rows, keys]
        top = jnp.max(logits, axis=-1, keepdims=True)
        weights = jnp.exp(logits - top)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        mixed = _product("kgrt,kth->kgrh", weights.astype(x.v.dtype), x.v[:, keys])
        outs.append((mixed / total).astype(x.v.dtype))
        sees_nothing = top < MASKED / 2
        log_sums.append(jnp.where(sees_nothing, 0.0, top + jnp.log(total))[..., 0])
    return jnp.concatenate(outs, axis=2), jnp.concatenate(log_sums, axis=2)


def _sequence_gradients(
    x: _Heads,
    log_sums: Float[Array, "K G S"],
    d_out: Float[Array, "K G S H"],
    inner: Float[Array, "K G S"],
    window: int,
    softcap: float,
) -> tuple[Float[Array, "K G S H"], Float[Array, "K S H"], Float[Array, "K S H"]]:
    """The gradients by q, k and v (section 3.1 and appendix B.2 of the paper).

    A block of keys at a time, with the queries that may see it. Logits are [K, T, G, R] here, keys
    before queries: so no product needs them transposed, which costs a CPU more than the product.
    """
    length = x.q.shape[2]
    q_transposed = jnp.einsum("kgsh->khgs", x.q)
    d_out_transposed = jnp.einsum("kgsh->khgs", d_out)
    k_transposed = jnp.einsum("kth->kht", x.k)
    dq = jnp.zeros(q_transposed.shape, jnp.float32)
    bias = _bias(x, window, keys_first=True)
    dk, dv = [], []
    for start, end in _blocks(length):
        keys = slice(start, end)
        rows = slice(start, min(end + window - 1, length) if window else length)
        logits = _product("kth,khgr->ktgr", x.k[:, keys], q_transposed[..., rows])
        logits = _capped(logits, softcap)
        weights = jnp.exp(logits + bias[keys, None, rows] - log_sums[:, None, :, rows])
        d_weights = _product("kth,khgr->ktgr", x.v[:, keys], d_out_transposed[..., rows])
        d_logits = weights * (d_weights - inner[:, None, :, rows])
        if softcap:
            slope = 1.0 - jnp.square(logits / softcap)
            d_logits = d_logits * slope
        d_logits = d_logits.astype(x.q.dtype)
        dv.append(_product("ktgr,kgrh->kth", weights.astype(x.q.dtype), d_out[:, :, rows]))
        dk.append(_product("ktgr,kgrh->kth", d_logits, x.q[:, :, rows]))
        part = _product("kht,ktgr->khgr", k_transposed[..., keys], d_logits)
        dq = dq.at[..., rows].add(part)
    dq = jnp.einsum("khgs->kgsh", dq)
    return dq, jnp.concatenate(dk, axis=1), jnp.concatenate(dv, axis=1)


_product = partial(jnp.einsum, preferred_element_type=jnp.float32)


def _capped(logits: jax.Array, softcap: float) -> jax.Array:
    return softcap * jnp.tanh(logits / softcap) if softcap else logits


def _bias(x: _Heads, window: int, keys_first: bool = False) -> Float[Array, "S S"]:
    """0 where a query sees a key, MASKED elsewhere: [queries, keys], or the other way round.

    On a CPU a loop makes it, a block at a time, so that XLA keeps it as an array. Otherwise XLA
    computes it again with the logits of every head, which takes ten times as long as their
    exponentials do.
    """
    slots = jnp.arange(len(x.segment_ids))
    every = x.segment_ids, x.prefix_ids, slots

    def line(at: tuple[jax.Array, ...]) -> jax.Array:
        (own, prefix, query), (other, _, key) = (every, at) if keys_first else (at, every)
        distance = query - key
        visible = ((own == other) | (prefix == other)) & (own > 0) & (distance >= 0)
        if window:
            visible &= distance < window
        return jnp.where(visible, 0.0, MASKED)

    block = BLOCK if platform() == "cpu" else len(slots)
    return jax.lax.map(line, every, batch_size=block)
