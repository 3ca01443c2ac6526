"""softmax(q k) v without ever holding all logits: FlashAttention (arXiv:2205.14135), as products.

Pairs of a block of queries and a block of keys are computed one after another. On a CPU those are
left out in which no query sees a key: products cost what a packed sequence's segments do, and only
the mask is [S, S], of one sequence at a time. The backward pass computes a pair's logits again,
from the queries, the keys and each query's logsumexp.

Letters of shapes: B sequences, of which N are computed together, S positions, K key-value heads,
G query heads of each, H head size; P pairs, each of R queries and T keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from reasoning_jax.model import block_pairs
from reasoning_jax.model.block_pairs import Pairs, block, with_block

MASKED = -1e30  # finite: with -inf a query that sees nothing would give NaN


class _Heads(NamedTuple):
    """N sequences, heads first."""

    q: Float[Array, "N K G S H"]
    k: Float[Array, "N K S H"]
    v: Float[Array, "N K S H"]


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
    sequences that are computed together: 1 on a CPU, elsewhere a divisor of B.
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
    length = q.shape[1]
    size = block_pairs.block_size(length)

    def attend(arrays: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array]:
        q, k, v, segment_ids, prefix_ids = arrays
        pairs = block_pairs.make(segment_ids, prefix_ids, window, size, keys_first=False)
        out, logsumexp = _attend(_heads_first(q, k, v), pairs, softcap)
        return jnp.einsum("nkgsh->nskgh", out), jnp.einsum("nkgs->nskg", logsumexp)

    inputs = q, k, v, segment_ids, prefix_ids
    out, logsumexp = _in_groups(attend, inputs, together, size)
    return out, (*inputs, out, logsumexp)


def _backward(
    window: int,
    softcap: float,
    together: int,
    saved: tuple[jax.Array, ...],
    d_out: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array, None, None]:
    length = d_out.shape[1]
    size = block_pairs.block_size(length)
    dtype = d_out.dtype

    def gradients(arrays: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
        q, k, v, segment_ids, prefix_ids, out, logsumexp, d_out = arrays
        # D = rowsum(dO * O), of the softmax's gradient
        delta = jnp.einsum("nskgh,nskgh->nkgs", d_out, out, preferred_element_type=jnp.float32)
        d_out = jnp.einsum("nskgh->nkgsh", d_out)
        logsumexp = jnp.einsum("nskg->nkgs", logsumexp)
        pairs = block_pairs.make(segment_ids, prefix_ids, window, size, keys_first=True)
        dq, dk, dv = _gradients(_heads_first(q, k, v), pairs, logsumexp, d_out, delta, softcap)
        dq = jnp.einsum("nkhgs->nskgh", dq)
        dk, dv = jnp.einsum("nksh->nskh", dk), jnp.einsum("nksh->nskh", dv)
        return dq.astype(dtype), dk.astype(dtype), dv.astype(dtype)

    dq, dk, dv = _in_groups(gradients, (*saved, d_out), together, size)
    return dq, dk, dv, None, None


flash_attention.defvjp(_forward, _backward)


def _in_groups(
    function: Callable[[Sequence[jax.Array]], tuple[jax.Array, ...]],
    arrays: Sequence[jax.Array],
    together: int,
    size: int,
) -> list[jax.Array]:
    """Maps ``function`` over groups of ``together`` sequences, padded to whole blocks."""
    length = arrays[0].shape[1]
    padding = -length % size

    def split(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, [(0, 0), (0, padding)] + [(0, 0)] * (x.ndim - 2)) if padding else x
        return x.reshape(-1, together, *x.shape[1:])

    results = jax.lax.map(function, [split(x) for x in arrays])
    return [x.reshape(-1, *x.shape[2:])[:, :length] for x in results]


def _heads_first(
    q: Float[Array, "N S K G H"], k: Float[Array, "N S K H"], v: Float[Array, "N S K H"]
) -> _Heads:
    return _Heads(
        q=jnp.einsum("nskgh->nkgsh", q),
        k=jnp.einsum("nskh->nksh", k),
        v=jnp.einsum("nskh->nksh", v),
    )


def _attend(
    x: _Heads, pairs: Pairs, softcap: float
) -> tuple[Float[Array, "N K G S H"], Float[Array, "N K G S"]]:
    """Attention, and logsumexp of each query's logits, in float32 (Algorithm 1)."""
    k_transposed = jnp.einsum("nkth->nkht", x.k)

    def add_pair(p: jax.Array, sums: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        """Merges a pair into each query's (largest logit, denominator, numerator)."""
        i, j = pairs.queries[p], pairs.keys[p]
        of_queries = partial(block, index=i, size=pairs.size, axis=3)
        k, v = block(k_transposed, j, pairs.size, 3), block(x.v, j, pairs.size, 2)
        logits = _capped(_product("nkgrh,nkht->nkgrt", of_queries(x.q), k), softcap)
        logits = jnp.where(pairs.visible(i, j)[:, None, None], logits, MASKED)
        row_max, denominator, numerator = [of_queries(a) for a in sums]
        new_max = jnp.maximum(row_max, jnp.max(logits, axis=-1))
        weights = jnp.exp(logits - new_max[..., None])
        rescale = jnp.exp(row_max - new_max)
        denominator = denominator * rescale + jnp.sum(weights, axis=-1)
        values = _product("nkgrt,nkth->nkgrh", weights.astype(v.dtype), v)
        numerator = numerator * rescale[..., None] + values
        new = new_max, denominator, numerator
        return tuple(with_block(a, b, i, pairs.size, 3) for a, b in zip(sums, new, strict=True))

    zeros = jnp.zeros(x.q.shape[:-1], jnp.float32)
    sums = zeros + MASKED, zeros, jnp.zeros(x.q.shape, jnp.float32)
    row_max, denominator, numerator = jax.lax.fori_loop(0, pairs.count, add_pair, sums)
    sees_nothing = row_max <= MASKED
    denominator = jnp.where(sees_nothing, 1.0, denominator)
    out = jnp.where(sees_nothing[..., None], 0.0, numerator / denominator[..., None])
    return out.astype(x.v.dtype), jnp.where(sees_nothing, 0.0, row_max + jnp.log(denominator))


def _gradients(
    x: _Heads,
    pairs: Pairs,
    logsumexp: Float[Array, "N K G S"],
    d_out: Float[Array, "N K G S H"],
    delta: Float[Array, "N K G S"],
    softcap: float,
) -> tuple[jax.Array, ...]:
    """The gradients with respect to q [N, K, H, G, S], k and v [N, K, S, H] (appendix B.2).

    Logits are [N, K, T, G, R] here, keys before queries: so no product needs them transposed, which
    costs a CPU more than the product.
    """
    q_transposed = jnp.einsum("nkgsh->nkhgs", x.q)
    d_out_transposed = jnp.einsum("nkgsh->nkhgs", d_out)
    k_transposed = jnp.einsum("nkth->nkht", x.k)

    def add_pair(p: jax.Array, sums: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        dq, dk, dv = sums
        i, j = pairs.queries[p], pairs.keys[p]
        of_queries = partial(block, index=i, size=pairs.size)
        of_keys = partial(block, index=j, size=pairs.size)
        q, d_mixed = of_queries(q_transposed, axis=4), of_queries(d_out_transposed, axis=4)
        logits = _capped(_product("nkth,nkhgr->nktgr", of_keys(x.k, axis=2), q), softcap)
        visible = pairs.visible(i, j)[:, None, :, None]
        seen = jnp.where(visible, logits, MASKED)
        weights = jnp.exp(seen - of_queries(logsumexp, axis=3)[:, :, None])
        d_weights = _product("nkth,nkhgr->nktgr", of_keys(x.v, axis=2), d_mixed)
        d_logits = weights * (d_weights - of_queries(delta, axis=3)[:, :, None])
        if softcap:
            d_logits = d_logits * (1.0 - jnp.square(logits / softcap))
        weights, d_logits = weights.astype(x.q.dtype), d_logits.astype(x.q.dtype)
        more_dv = _product("nktgr,nkgrh->nkth", weights, of_queries(d_out, axis=3))
        more_dk = _product("nktgr,nkgrh->nkth", d_logits, of_queries(x.q, axis=3))
        more_dq = _product("nkht,nktgr->nkhgr", of_keys(k_transposed, axis=3), d_logits)
        return (
            with_block(dq, of_queries(dq, axis=4) + more_dq, i, pairs.size, 4),
            with_block(dk, of_keys(dk, axis=2) + more_dk, j, pairs.size, 2),
            with_block(dv, of_keys(dv, axis=2) + more_dv, j, pairs.size, 2),
        )

    zeros = jnp.zeros(x.k.shape, jnp.float32)
    sums = jnp.zeros(q_transposed.shape, jnp.float32), zeros, zeros
    return jax.lax.fori_loop(0, pairs.count, add_pair, sums)


_product = partial(jnp.einsum, preferred_element_type=jnp.float32)


def _capped(logits: jax.Array, softcap: float) -> jax.Array:
    return softcap * jnp.tanh(logits / softcap) if softcap else logits
