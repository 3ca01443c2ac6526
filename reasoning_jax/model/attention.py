"""Masks, and softmax(q k) v in three ways that agree.

By the splash kernel on TPU, by FlashAttention in products elsewhere, and by one product over all,
of a matrix of what is visible, of columns beside a text or of a cache.

Queries come scaled. Logits may be capped: c tanh(logits / c), with c = ``softcap``; 0 = none.

Letters of shapes: B sequences, S queries, T keys, K key-value heads, G query heads of each,
H head size, L layers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from reasoning_jax.model.config import ModelConfig
from reasoning_jax.model.flash_attention import MASKED, flash_attention
from reasoning_jax.model.parameters import Names
from reasoning_jax.model.sharding import platform, spec

QUERIES: Names = ("batch", None, "kv_heads", "q_groups", None)
KEYS: Names = ("batch", None, "kv_heads", None)
BLOCKS = (512, 256, 128)  # sizes of the kernel's blocks; the first that divides the length is taken


@struct.dataclass
class CausalMask:
    """A token sees its own segment up to itself, and of that the last ``ModelConfig.window``.

    Segment 0 is padding. Where there are prefix_ids, which no window goes with, it also sees the
    segment that they name.
    """

    segment_ids: Int[Array, "B S"]
    prefix_ids: Int[Array, "B S"] | None = None


@struct.dataclass
class DenseMask:
    """A token sees what is true in its line of a matrix."""

    visible: Bool[Array, "B S T"]


@struct.dataclass
class ColumnMask:
    """Tokens beside a text, in Q columns: each sees some of the text, and some of its own column.

    The keys are T tokens of the text and then N blocks of Q, one token of each column a block. The
    queries are such blocks too, C of them: query c Q + q is of column q.
    """

    text: Bool[Array, "B CQ T"]
    own: Bool[Array, "B CQ N"]  # of the N keys in its own column


Mask = CausalMask | DenseMask
MaskAfterPast = DenseMask | ColumnMask


def attend(
    q: Float[Array, "B S K G H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    mask: Mask,
    window: int = 0,
    is_local: Bool[Array, ""] | None = None,
    softcap: float = 0.0,
    choice: str = "auto",
) -> Float[Array, "B S K G H"]:
    """Attention of tokens to one another: of a causal mask in blocks, of a matrix by one product.

    window: for a causal mask; a matrix says itself what is seen. is_local: whether this layer has
    the window; None = it has. choice: ``ModelConfig.attention``.
    """
    if not isinstance(mask, CausalMask):
        return plain(q, k, v, mask.visible, softcap)
    if mask.prefix_ids is None and fits_splash(choice, q.shape[1]):
        causal = partial(splash, q, k, v, mask.segment_ids, softcap=softcap)
    else:
        causal = partial(flash, q, k, v, mask, softcap=softcap)
    if is_local is None:
        return causal(window=window)
    return jax.lax.cond(is_local, lambda: causal(window=window), lambda: causal(window=0))


def shares_prompts(cfg: ModelConfig) -> bool:
    """Whether completions in a packed sequence may see one copy of their prompt.

    Not where layers have a window, which counts slots, and not on TPU, whose kernel knows segments
    only.
    """
    return not cfg.window and platform() != "tpu"


def fits_splash(choice: str, length: int) -> bool:
    """Whether sequences of this length attend to themselves by the kernel.

    choice: ``ModelConfig.attention``: "auto" (the kernel on TPU), "splash" or "flash".
    """
    if length % BLOCKS[-1]:
        return False
    if choice == "auto":
        return platform() == "tpu"
    return choice == "splash"


def plain(
    q: Float[Array, "B S K G H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    visible: Bool[Array, "B S T"],
    softcap: float = 0.0,
) -> Float[Array, "B S K G H"]:
    """Attention by products, with a float32 softmax."""
    return _plain(q, k, v, visible, softcap)


# The logits [B, K, G, S, T] are computed again in the backward pass, not kept.
@partial(jax.checkpoint, static_argnums=(4,))
def _plain(
    q: jax.Array, k: jax.Array, v: jax.Array, visible: jax.Array, softcap: float
) -> jax.Array:
    logits = jnp.einsum("bskgh,btkh->bkgst", q, k, preferred_element_type=jnp.float32)
    if softcap:
        logits = softcap * jnp.tanh(logits / softcap)
    logits = jnp.where(visible[:, None, None], logits, MASKED)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return jnp.einsum("bkgst,btkh->bskgh", weights, v)


def after_past(
    q: Float[Array, "B S K G H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    mask: MaskAfterPast,
    softcap: float = 0.0,
) -> Float[Array, "B S K G H"]:
    """Attention of the last S tokens to all T."""
    if isinstance(mask, ColumnMask):
        return _in_columns(q, k, v, mask.text, mask.own, softcap)
    return plain(q, k, v, mask.visible, softcap)


# As in _plain.
@partial(jax.checkpoint, static_argnums=(5,))
def _in_columns(
    q: jax.Array, k: jax.Array, v: jax.Array, text: jax.Array, own: jax.Array, softcap: float
) -> jax.Array:
    """One softmax over the text and a query's own column; no product is of two columns."""
    length, blocks = text.shape[2], own.shape[2]
    batch, keys, heads, size = k.shape
    columns = (keys - length) // blocks
    by_column = (batch, -1, columns, heads, size)
    k_own, v_own = (x[:, length:].reshape(by_column) for x in (k, v))
    q_own = q.reshape(batch, -1, columns, *q.shape[2:])
    product = partial(jnp.einsum, preferred_element_type=jnp.float32)
    of_text = product("bskgh,btkh->bkgst", q, k[:, :length])
    of_own = product("bcqkgh,bnqkh->bkgcqn", q_own, k_own)
    of_own = of_own.reshape(*of_text.shape[:-1], blocks)
    logits = jnp.concatenate([of_text, of_own], axis=-1)
    if softcap:
        logits = softcap * jnp.tanh(logits / softcap)
    visible = jnp.concatenate([text, own], axis=-1)
    logits = jnp.where(visible[:, None, None], logits, MASKED)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    mixed = jnp.einsum("bkgst,btkh->bskgh", weights[..., :length], v[:, :length])
    weights_own = weights[..., length:].reshape(*weights.shape[:3], -1, columns, blocks)
    mixed_own = jnp.einsum("bkgcqn,bnqkh->bcqkgh", weights_own, v_own)
    return mixed + mixed_own.reshape(mixed.shape)


def flash(
    q: Float[Array, "B S K G H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    mask: CausalMask,
    window: int = 0,
    softcap: float = 0.0,
) -> Float[Array, "B S K G H"]:
    """``splash`` as products: on a CPU a sequence at a time, so that its logits stay in cache.

    Prefixes too, which splash does not have.
    """

    def on_one_device(q: jax.Array, k: jax.Array, v: jax.Array, *ids: jax.Array) -> jax.Array:
        together = 1 if platform() == "cpu" else len(q)
        return flash_attention(q, k, v, *ids, window, softcap, together)

    prefix_ids = mask.segment_ids if mask.prefix_ids is None else mask.prefix_ids
    return _on_each_device(on_one_device, q, k, v, mask.segment_ids, prefix_ids)


def splash(
    q: Float[Array, "B S K G H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    segment_ids: Int[Array, "B S"],
    window: int = 0,
    softcap: float = 0.0,
) -> Float[Array, "B S K G H"]:
    """Attention of tokens to one another by the splash kernel, which keeps no logits in memory.

    Blocks that no token sees are left out. A token sees its own segment up to its own slot, and of
    that the last ``window`` (0: all). By positions that is the same where they count up within a
    segment, as packing makes them. Padding (segment 0) sees padding. The kernel is a program of one
    device: each runs it on its own sequences and heads. Off the TPU it is interpreted, slowly.
    """
    # Importing these takes half a second, and only this function needs them.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    length = q.shape[1]
    block = next(n for n in BLOCKS if length % n == 0)
    sizes = kernel.BlockSizes(*[block] * 8)
    interpret = platform() != "tpu"
    if window:
        head_mask = masks.LocalMask((length, length), (window - 1, 0), 0)
    else:
        head_mask = masks.CausalMask((length, length))

    def on_one_device(
        q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array
    ) -> jax.Array:
        b, _, heads, g, h = q.shape
        run = kernel.make_splash_mha(
            masks.MultiHeadMask([head_mask] * (heads * g)),
            block_sizes=sizes,
            head_shards=1,
            q_seq_shards=1,
            attn_logits_soft_cap=softcap or None,
            interpret=interpret,
        )
        q = q.reshape(b, length, heads * g, h).swapaxes(1, 2)
        segments = kernel.SegmentIds(segment_ids, segment_ids)
        out = jax.vmap(run)(q, k.swapaxes(1, 2), v.swapaxes(1, 2), segments)
        return out.swapaxes(1, 2).reshape(b, length, heads, g, h)

    return _on_each_device(on_one_device, q, k, v, segment_ids)


def _on_each_device(
    function: Callable[..., jax.Array],
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *ids: jax.Array,
) -> jax.Array:
    """``function`` of these, each device on its own sequences and heads; ids: [B, S] each."""
    if jax.sharding.get_abstract_mesh().empty:
        return function(q, k, v, *ids)
    queries = spec(q.shape, QUERIES)
    keys = spec(k.shape, KEYS)
    sequences = spec(ids[0].shape, ("batch", None))
    sharded = jax.shard_map(
        function,
        in_specs=(queries, keys, keys, *(sequences,) * len(ids)),
        out_specs=queries,
        check_vma=False,
    )
    return sharded(q, k, v, *ids)
