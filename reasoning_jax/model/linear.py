"""Products of activations and sharded parameters, look-ups, and tiles of the vocabulary.

Letters of shapes: B sequences, S tokens, D width, V vocabulary; of tiles, n of them, T devices that
split the vocabulary and N entries of each.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Int8

from reasoning_jax.model.parameters import Names
from reasoning_jax.model.sharding import platform, shard, spec


def dot(
    equation: str,
    x: Float[Array, " ..."],
    w: Float[Array, " ..."] | Int8[Array, " ..."],
    w_names: Names,
    out_names: Names,
    dtype: DTypeLike | None = None,
) -> Float[Array, " ..."]:
    """``einsum(equation, x, w)`` of activations and a parameter, computed in x's dtype.

    A weight split over ``fsdp`` is gathered for the product, and its gradient is reduced straight
    into its own split: fully sharded data parallelism. The gradient of the weight is summed in
    float32. dtype: the result's, by default x's.
    """
    mesh = jax.sharding.get_abstract_mesh()
    gathered = out = None
    if not mesh.empty:
        operands, result = equation.split("->")
        sizes = dict(zip(operands.replace(",", ""), x.shape + w.shape, strict=True))
        gathered = spec(w.shape, tuple(None if name == "embed" else name for name in w_names))
        out = spec(tuple(sizes[letter] for letter in result), out_names)
    return _dot(equation, gathered, out, dtype, x, w)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _dot(
    equation: str,
    gathered: P | None,
    out: P | None,
    dtype: DTypeLike | None,
    x: jax.Array,
    w: jax.Array,
) -> jax.Array:
    w = w.astype(x.dtype)
    if gathered is not None:
        w = jax.reshard(w, gathered)
    return jnp.einsum(equation, x, w, out_sharding=out, preferred_element_type=dtype)


def _dot_forward(
    equation: str,
    gathered: P | None,
    out: P | None,
    dtype: DTypeLike | None,
    x: jax.Array,
    w: jax.Array,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _dot(equation, gathered, out, dtype, x, w), (x, w)


def _dot_backward(
    equation: str,
    gathered: P | None,
    out: P | None,
    dtype: DTypeLike | None,
    saved: tuple[jax.Array, jax.Array],
    g: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    x, w = saved
    operands, g_dims = equation.split("->")
    x_dims, w_dims = operands.split(",")
    g = g.astype(x.dtype)
    x_spec = w_spec = None
    if gathered is not None:
        x_spec = jax.typeof(x).sharding.spec
        w_spec = jax.typeof(w).sharding.spec
    dx = _dot(f"{g_dims},{w_dims}->{x_dims}", gathered, x_spec, None, g, w)
    dw = _of_weight(x_dims, g_dims, w_dims, x, g, w_spec)
    return dx, dw.astype(w.dtype)


_dot.defvjp(_dot_forward, _dot_backward)


def _of_weight(
    x_dims: str, g_dims: str, w_dims: str, x: jax.Array, g: jax.Array, w_spec: P | None
) -> jax.Array:
    """The float32 gradient of a weight, by a product whose first operand is x; g on a CPU where
    that is smaller.

    XLA's CPU compiler transposes the first operand, with what made it fused into a slow loop, and
    exchanges operands to save a transposition of the result: hence the barrier.
    """
    product = partial(jnp.einsum, preferred_element_type=jnp.float32)
    if platform() != "cpu" or x.size <= g.size:
        return product(f"{x_dims},{g_dims}->{w_dims}", x, g, out_sharding=w_spec)
    outputs = "".join(letter for letter in w_dims if letter in g_dims)
    inputs = "".join(letter for letter in w_dims if letter not in g_dims)
    transposed = None
    if w_spec is not None:
        split = dict(zip(w_dims, w_spec, strict=True))
        transposed = P(*(split[letter] for letter in outputs + inputs))
    dw = product(f"{g_dims},{x_dims}->{outputs}{inputs}", g, x, out_sharding=transposed)
    return jnp.einsum(f"{outputs}{inputs}->{w_dims}", jax.lax.optimization_barrier(dw))


def weight_gradient(
    equation: str, x: Float[Array, " ..."], g: Float[Array, " ..."], w_names: Names
) -> Float[Array, " ..."]:
    """The float32 gradient of a weight in ``dot``, reduced straight into the weight's own split."""
    operands, result = equation.split("->")
    sizes = dict(zip(operands.replace(",", ""), x.shape + g.shape, strict=True))
    out = spec(tuple(sizes[letter] for letter in result), w_names)
    return jnp.einsum(equation, x, g, out_sharding=out, preferred_element_type=jnp.float32)


def lookup(
    table: Float[Array, "V D"], ids: Int[Array, "B S"], dtype: DTypeLike
) -> Float[Array, "B S D"]:
    """The vectors of ``table`` at ``ids`` in ``dtype``, split over the batch.

    No device ever holds the table: each looks up, for the whole batch, the columns that it has, and
    an all-to-all brings the columns of its own sequences together. The gradient goes the same way
    back.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return table[ids].astype(dtype)
    columns = spec((*ids.shape, table.shape[1]), ("batch_data", None, "embed"))
    vectors = table.at[shard(ids, "batch_data", None)].get(out_sharding=columns)
    return shard(vectors.astype(dtype), "batch", None, None)


def vocabulary_parts(table: Float[Array, "V D"]) -> int:
    """Over how many devices the vocabulary of ``table`` is split."""
    if spec(table.shape, ("vocab", "embed"))[0]:
        return jax.sharding.get_abstract_mesh().shape["tensor"]
    return 1


def tiles(table: Float[Array, "V D"], count: int) -> Float[Array, "n T N D"]:
    """The table as tiles to be scanned over, at most ``count`` of them.

    T devices split V, and each cuts its own entries into n tiles. N is a multiple of 128, a TPU's
    lanes (of some other sizes its compiler all-reduces a gradient that it could reduce-scatter), or
    all there is; zeros fill the last tile up.
    """
    split = vocabulary_parts(table)
    each, width = table.shape[0] // split, table.shape[1]
    size = min(each, -(-each // (128 * count)) * 128)
    count = -(-each // size)
    by_device = _reshape(table, (split, each, width), ("vocab", None, "embed"))
    padded = jnp.pad(by_device, ((0, 0), (0, count * size - each), (0, 0)))
    by_tile = _reshape(padded, (split, count, size, width), ("vocab", None, None, "embed"))
    return jnp.moveaxis(by_tile, 1, 0)


def untiled(tiles: Float[Array, "n T N D"], vocab: int) -> Float[Array, "V D"]:
    """The table of V = ``vocab`` entries that ``tiles`` was made of."""
    by_tile = jnp.moveaxis(tiles, 0, 1)
    split, count, size, width = by_tile.shape
    padded = _reshape(by_tile, (split, count * size, width), ("vocab", None, "embed"))
    by_device = padded[:, : vocab // split]
    return _reshape(by_device, (vocab, width), ("vocab", "embed"))


def _reshape(x: jax.Array, shape: tuple[int, ...], names: Names) -> jax.Array:
    return jnp.reshape(x, shape, out_sharding=spec(shape, names))
