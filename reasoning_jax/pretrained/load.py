"""Tensors of files onto the devices, one parameter (a stack of layers) after another.

Every different shard is read once. Of a tensor in a file, a shard that is some of its rows reads
these alone; one that is some of its columns reads all rows. The host holds the shards of one
parameter at a time; on a single CPU device these become the parameter, without a copy.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, Sharding, SingleDeviceSharding
from jaxtyping import PyTree

from reasoning_jax.errors import UserError
from reasoning_jax.model import sharding
from reasoning_jax.model.config import ModelConfig
from reasoning_jax.model.decoder import Params
from reasoning_jax.model.parameters import MATRICES
from reasoning_jax.pretrained import tables
from reasoning_jax.pretrained.stored import Tensor
from reasoning_jax.pretrained.tables import Index, Place, Shape, Table

ALIGNMENT = 64  # bytes; of numpy arrays at multiples of it jax makes no copy on the CPU
THREADS = 4  # layers that are read at a time
BLOCK = 1 << 24  # numbers that are compared at a time


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Parameter:
    """A parameter and the tensors that hold it."""

    name: str
    place: Place
    shape: Shape
    tensors: list[Tensor]  # of the layers, or one
    is_stack: bool  # of layers, along the first dimension


def load(
    tensors: Mapping[str, Tensor],
    table: Table,
    cfg: ModelConfig,
    mesh: Mesh | None,
    dtype: str | None,
    where: str,
) -> Params:
    """The parameters, split by ``sharding.parameter_specs``.

    tensors: by their names in the file. table: where the file has each parameter. mesh: None = the
    first device alone. dtype: None = as stored (where layers differ, the type that holds all); else
    matrices are in this one and the rest in float32. where: what errors call the file. UserError
    for a parameter that such files do not have, a tensor that is missing, left over or of another
    shape, and an output matrix other than the embedding that it is tied to.
    """
    want = tables.wanted(cfg, table, where)
    have = _without_tied_output(tensors, table, cfg, where)
    tables.check(have, want, where)
    shapes = tables.shapes(cfg)
    shardings = _shardings(shapes, mesh)
    params: Params = {}
    layers: dict[str, jax.Array] = {}
    for path, shape in tables.leaves(shapes):  # ("layers", name), or (name,)
        name = path[-1]
        is_stack = len(path) > 1
        place = table[name]
        count = cfg.num_layers if is_stack else 1
        parameter = _Parameter(
            name=name,
            place=place,
            shape=shape,
            tensors=[have[place.name.format(n=n)] for n in range(count)],
            is_stack=is_stack,
        )
        array = _read(parameter, _dtype(parameter, dtype), shardings[path])
        (layers if is_stack else params)[name] = array
    return params | {"layers": layers}


def _shardings(shapes: tables.Tree, mesh: Mesh | None) -> dict[tuple[str, ...], Sharding]:
    """The sharding of every parameter by its path."""
    if mesh is None:
        only = SingleDeviceSharding(jax.devices()[0])
        return {path: only for path, _ in tables.leaves(shapes)}
    abstract = abstract_params(shapes, "float32", mesh)  # any type would do
    found = {}
    for path, x in jax.tree_util.tree_flatten_with_path(abstract)[0]:
        found[tuple(key.key for key in path)] = x.sharding
    return found


def abstract_params(
    shapes: tables.Tree, dtype: str, mesh: Mesh
) -> dict[str, PyTree[jax.ShapeDtypeStruct]]:
    """Shape, dtype and sharding of every parameter."""

    def leaf(shape: Shape) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype)

    # A shape is a tuple, which jax would take apart.
    tree = jax.tree.map(leaf, shapes, is_leaf=lambda x: isinstance(x, tuple))
    shardings = sharding.parameter_specs(tree, mesh)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings
    )


def _dtype(parameter: _Parameter, dtype: str | None) -> np.dtype:
    if dtype is None:
        return jnp.result_type(*{tensor.dtype for tensor in parameter.tensors})
    return jnp.dtype(dtype if is_cast(parameter.name) else "float32")


def is_cast(name: str) -> bool:
    """Whether a parameter is kept in the dtype of the computation; norms and biases are not."""
    return name in MATRICES


def _read(parameter: _Parameter, dtype: np.dtype, target: Sharding) -> jax.Array:
    """A parameter on its devices."""
    shape = parameter.shape
    shards: dict[tuple[tuple[int, int], ...], np.ndarray] = {}
    on_one_device = len(target.device_set) == 1

    def read(index: Index) -> np.ndarray:
        ranges = tuple(s.indices(n)[:2] for s, n in zip(index, shape, strict=True))
        if ranges not in shards:  # devices that hold copies share one
            sizes = [stop - start for start, stop in ranges]
            # Two devices must not share memory, and would without a copy.
            shard = _aligned(sizes, dtype) if on_one_device else np.empty(sizes, dtype)
            _fill(parameter, index, shard)
            shards[ranges] = shard
        return shards[ranges]

    return jax.make_array_from_callback(shape, target, read, dtype=dtype)


def _aligned(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """An empty array whose memory a CPU device takes over: it begins at a multiple of ALIGNMENT."""
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def _fill(parameter: _Parameter, index: Index, shard: np.ndarray) -> None:
    """Reads a shard, the slice ``index`` of the parameter, several layers at a time."""
    name, place, shape = parameter.name, parameter.place, parameter.shape
    if not parameter.is_stack:
        tables.read_slice(name, place, shape, index, parameter.tensors[0], shard)
        return
    layers = parameter.tensors[index[0]]

    def fill(i: int) -> None:
        tables.read_slice(name, place, shape[1:], index[1:], layers[i], shard[i])

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(fill, range(len(layers))))  # a list, so that an error in a thread is raised


def _without_tied_output(
    tensors: Mapping[str, Tensor], table: Table, cfg: ModelConfig, where: str
) -> Mapping[str, Tensor]:
    """The tensors without the output matrix that files of a tied model may hold too.

    UserError where it differs from the embedding.
    """
    name = table["unembedding"].name
    if not cfg.tied or name not in tensors or table["embedding"].name not in tensors:
        return tensors
    output, embedding = tensors[name], tensors[table["embedding"].name]
    differs = UserError(
        f"{where}: the output matrix {name} is not the embedding, which it is by "
        "tie_word_embeddings; set this to false in config.json."
    )
    others = {key: tensor for key, tensor in tensors.items() if key != name}
    if tuple(embedding.shape) != (cfg.vocab_size, cfg.width):
        return others  # tables.check says that the embedding has a wrong shape
    if tuple(output.shape) != tuple(embedding.shape):
        raise differs
    step = max(1, BLOCK // max(1, output.shape[-1]))
    for start in range(0, output.shape[0], step):
        stop = min(start + step, output.shape[0])
        if not np.array_equal(output.read(start, stop), embedding.read(start, stop)):
            raise differs
    return others


# ---- what parameters are -------------------------------------------------------------------------


def fingerprint(params: Params) -> str:
    """16 hexadecimal digits of the names, shapes, dtypes and contents of parameters.

    The same however the arrays are split over devices: of each array two checksums modulo 2^32 are
    computed where it is.
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
    # The factors of the first sum are odd, so that a change of any one number changes it. The
    # second is not linear in the bits: changes that cancel in the first, such as two numbers that
    # are swapped, do not in both.
    first = (place * jnp.uint32(2654435761) + jnp.uint32(1)) | jnp.uint32(1)
    second = ((place ^ (place >> 15)) * jnp.uint32(2246822519) + bits * jnp.uint32(40503)) | 1
    mixed = bits ^ (bits >> 13)
    return jnp.sum(bits * first, dtype=jnp.uint32), jnp.sum(mixed * second, dtype=jnp.uint32)
