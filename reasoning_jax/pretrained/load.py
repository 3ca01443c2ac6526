"""Tensors of files onto the devices, one parameter (a stack of layers) after another.

Each device's shard is read by itself: of a tensor that is split over its rows no other rows are
read. The host holds the shards of one parameter at a time.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, Sharding, SingleDeviceSharding

from reasoning_jax.errors import UserError
from reasoning_jax.model import sharding
from reasoning_jax.model.config import ModelConfig
from reasoning_jax.model.decoder import Params
from reasoning_jax.model.parameters import MATRICES
from reasoning_jax.pretrained import tables
from reasoning_jax.pretrained.stored import Tensor
from reasoning_jax.pretrained.tables import Index, Row, Shape, Table

ALIGNMENT = 64  # bytes
THREADS = 4  # layers that are read at a time
BLOCK = 1 << 24  # numbers that are compared at a time


def load(
    tensors: Mapping[str, Tensor],
    table: Table,
    cfg: ModelConfig,
    mesh: Mesh | None,
    dtype: str | None,
    where: str,
) -> Params:
    """The parameters, laid out by ``sharding.parameter_specs``.

    dtype: None = as stored; else matrices are in this one and the rest in float32. UserError naming
    a tensor that is missing, left over or of another shape.
    """
    want = tables.wanted(cfg, table, where)
    have = _without_copy(tensors, table, cfg, where)
    tables.check(have, want, where)
    shapes = tables.shapes(cfg)
    layouts = _layouts(shapes, mesh)
    params: Params = {}
    for path, shape in tables.leaves(shapes):
        name = path[-1]
        row = table[name]
        if len(path) == 1:
            sources = [have[row.name]]
        else:
            sources = [have[row.name.format(n=n)] for n in range(cfg.num_layers)]
        layout = layouts[path]
        array = _array(
            name, row, shape, sources, len(path) > 1, _dtype(name, sources, dtype), layout
        )
        holder = params.setdefault(path[0], {}) if len(path) > 1 else params
        holder[name] = array  # type: ignore[index]
    return params


def _layouts(shapes: tables.Tree, mesh: Mesh | None) -> dict[tuple[str, ...], Sharding]:
    """The sharding of every parameter by its path."""
    paths = dict(tables.leaves(shapes))
    if mesh is None:
        return dict.fromkeys(paths, SingleDeviceSharding(jax.devices()[0]))
    abstract = abstract_params(shapes, "float32", mesh)
    return {path: _at(abstract, path).sharding for path in paths}


def abstract_params(shapes: tables.Tree, dtype: str, mesh: Mesh) -> Params:
    """Shape, dtype and sharding of every parameter."""

    def leaf(shape: Shape) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype)

    tree = jax.tree.map(leaf, shapes, is_leaf=lambda x: isinstance(x, tuple))
    specs = sharding.parameter_specs(tree, mesh)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, specs
    )


def _at(tree: Params, path: tuple[str, ...]) -> jax.Array:
    for name in path:
        tree = tree[name]  # type: ignore[assignment]
    return tree  # type: ignore[return-value]


def _dtype(name: str, sources: list[Tensor], dtype: str | None) -> np.dtype:
    if dtype is None:
        return jnp.result_type(*{tensor.dtype for tensor in sources})
    return jnp.dtype(dtype if is_matrix(name) else "float32")


def is_matrix(name: str) -> bool:
    """Whether a parameter is multiplied with, and so in the dtype of the computation."""
    return name in MATRICES


def _array(
    name: str,
    row: Row,
    shape: Shape,
    sources: list[Tensor],
    is_stack: bool,
    dtype: np.dtype,
    layout: Sharding,
) -> jax.Array:
    """One parameter from the tensors of its layers."""
    shards: dict[tuple[tuple[int, int], ...], np.ndarray] = {}
    empty = partial(_aligned if len(layout.device_set) == 1 else np.empty, dtype=dtype)

    def read(index: Index) -> np.ndarray:
        ranges = tuple(s.indices(n)[:2] for s, n in zip(index, shape, strict=True))
        if ranges not in shards:  # devices that hold copies share one
            shards[ranges] = empty([stop - start for start, stop in ranges])
            _fill(name, row, shape, sources, is_stack, index, shards[ranges])
        return shards[ranges]

    return jax.make_array_from_callback(shape, layout, read, dtype=dtype)


def _aligned(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """An array that a CPU device takes as it is, without a copy; for one device alone."""
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def _fill(
    name: str,
    row: Row,
    shape: Shape,
    sources: list[Tensor],
    is_stack: bool,
    index: Index,
    target: np.ndarray,
) -> None:
    """Reads a shard, several layers at a time."""
    if not is_stack:
        tables.read_slice(name, row, shape, index, sources[0], target)
        return
    layers = sources[index[0]]

    def fill(n: int) -> None:
        tables.read_slice(name, row, shape[1:], index[1:], layers[n], target[n])

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(fill, range(len(layers))))


def _without_copy(
    tensors: Mapping[str, Tensor], table: Table, cfg: ModelConfig, where: str
) -> Mapping[str, Tensor]:
    """The tensors less an output matrix that only repeats the embedding, which it is tied to.

    UserError where it does not repeat it.
    """
    name = table["unembedding"].name
    if not cfg.tied or name not in tensors or table["embedding"].name not in tensors:
        return tensors
    output, embedding = tensors[name], tensors[table["embedding"].name]
    problem = (
        f"{where}: the output matrix {name} is not the embedding, which it is by "
        "tie_word_embeddings; set this to false in config.json."
    )
    others = {key: tensor for key, tensor in tensors.items() if key != name}
    if tuple(embedding.shape) != (cfg.vocab_size, cfg.width):
        return others  # which is the mistake that is told
    if tuple(output.shape) != tuple(embedding.shape):
        raise UserError(problem)
    step = max(1, BLOCK // max(1, output.shape[-1]))
    for start in range(0, output.shape[0], step):
        stop = min(start + step, output.shape[0])
        if not np.array_equal(output.read(start, stop), embedding.read(start, stop)):
            raise UserError(problem)
    return others


# ---- what parameters are -------------------------------------------------------------------------


def fingerprint(params: Params) -> str:
    """16 hexadecimal digits of the names, shapes, dtypes and contents of parameters.

    However they are laid out over devices: each array gives two sums of its bits, weighted by
    position, modulo 2^32, which are computed where the array is.
    """
    lines = []
    for path, x in jax.tree_util.tree_flatten_with_path(params)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        sums = jax.device_get(_sums(x))
        lines.append(f"{name} {x.shape} {x.dtype} {int(sums[0])} {int(sums[1])}")
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]


@jax.jit
def _sums(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    bits = jax.lax.bitcast_convert_type(x, f"uint{x.dtype.itemsize * 8}").astype(jnp.uint32)
    place = jnp.zeros(x.shape, jnp.uint32)
    for axis, size in enumerate(x.shape):
        own = jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
        place = place * jnp.uint32(size) + own
    # Odd factors, so that no bit is lost; mixed, so that neighbours do not change places unseen.
    first = (place * jnp.uint32(2654435761) + jnp.uint32(1)) | jnp.uint32(1)
    second = ((place ^ (place >> 15)) * jnp.uint32(2246822519) + bits * jnp.uint32(40503)) | 1
    mixed = bits ^ (bits >> 13)
    return jnp.sum(bits * first, dtype=jnp.uint32), jnp.sum(mixed * second, dtype=jnp.uint32)
