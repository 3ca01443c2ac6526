"""softmax(q k / sqrt(H)) v, in two ways that agree: as products (anywhere), and as a Pallas kernel (TPU).

Letters of shapes: B rows, S queries, T keys, K key-value heads, G query heads of each, H head size.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from reasoning_jax.sharding import Names, spec

QUERIES: Names = ("batch", None, "kv_heads", "q_groups", None)
KEYS: Names = ("batch", None, "kv_heads", None)
BLOCKS = (512, 256, 128)  # sizes of the kernel's blocks; the first that divides the length is taken
PART = 64  # slots of a cache that are read together, at least


def platform() -> str:
    """What the program is compiled for: the platform of the mesh, which need not be here, or of this process."""
    mesh = jax.sharding.get_abstract_mesh()
    return jax.default_backend() if mesh.empty else mesh.abstract_device.platform


def fits_splash(choice: str, length: int) -> bool:
    """Whether rows of this length attend to themselves by the kernel: ``choice`` is "auto" (on TPU), "splash" or "plain"."""
    return length % BLOCKS[-1] == 0 and (choice == "splash" or (choice == "auto" and platform() == "tpu"))


@jax.checkpoint  # the scores [B, K, G, S, T] are made again in the backward pass, not kept
def plain(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
    """Attention by products, with a float32 softmax. q [B, S, K, G, H]; k, v [B, T, K, H]; mask [B, S, T]."""
    scores = jnp.einsum("bskgh,btkh->bkgst", q * q.shape[-1] ** -0.5, k, preferred_element_type=jnp.float32)
    # A finite floor: a padding row sees nothing and must give numbers, not NaN.
    scores = jnp.where(mask[:, None, None], scores, -1e30)
    return jnp.einsum("bkgst,btkh->bskgh", jax.nn.softmax(scores, axis=-1).astype(v.dtype), v)


def cached(q: jax.Array, keys: jax.Array, values: jax.Array, layer: jax.Array, filled: jax.Array, mask: jax.Array) -> jax.Array:
    """``plain`` attention to a layer of the cache [L, B, T, K, H], of which only the parts that are filled are read.

    There are at most eight, of at least PART slots each: one product over a static number of parts for each number of them.
    """
    length = keys.shape[2]
    size = max(PART, -(-length // 8))

    def first(n: int) -> Callable[[], jax.Array]:
        def read(a: jax.Array) -> jax.Array:
            return jax.lax.dynamic_slice(a, (layer, 0, 0, 0, 0), (1, a.shape[1], n, *a.shape[3:]))[0]

        return lambda: plain(q, read(keys), read(values), mask[..., :n])

    return jax.lax.switch((filled - 1) // size, [first(n) for n in [*range(size, length, size), length]])


def splash(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array, window: int = 0) -> jax.Array:
    """Attention of rows to themselves by the splash kernel: no scores in memory, blocks that nobody sees left out.

    q [B, S, K, G, H]; k, v [B, S, K, H]; segment_ids [B, S]. A token sees its own segment up to its own slot, and of that the
    last ``window`` (0: all). By positions that is the same where they count up within a segment, as packing makes them.
    Padding (segment 0) sees padding.
    The kernel is a program of one device: each runs it on its own rows and heads. Off the TPU it is interpreted, slowly.
    """
    # They take half a second to import, and only this needs them.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    S = q.shape[1]
    n = next(n for n in BLOCKS if S % n == 0)
    sizes = kernel.BlockSizes(n, n, n, n, n, n, n, n)
    interpret = platform() != "tpu"
    seen = masks.LocalMask((S, S), (window - 1, 0), 0) if window else masks.CausalMask((S, S))

    def local(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array) -> jax.Array:
        b, _, heads, g, h = q.shape
        mask = masks.MultiHeadMask([seen] * (heads * g))
        run = kernel.make_splash_mha(mask, block_sizes=sizes, head_shards=1, q_seq_shards=1, interpret=interpret)
        q = (q * h**-0.5).reshape(b, S, heads * g, h).swapaxes(1, 2)
        out = jax.vmap(run)(q, k.swapaxes(1, 2), v.swapaxes(1, 2), kernel.SegmentIds(segment_ids, segment_ids))
        return out.swapaxes(1, 2).reshape(b, S, heads, g, h)

    if jax.sharding.get_abstract_mesh().empty:
        return local(q, k, v, segment_ids)
    rows = spec(segment_ids.shape, ("batch", None))
    queries, keys = spec(q.shape, QUERIES), spec(k.shape, KEYS)
    return jax.shard_map(local, in_specs=(queries, keys, keys, rows), out_specs=queries, check_vma=False)(q, k, v, segment_ids)
