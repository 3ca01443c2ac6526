"""Where arrays live: one mesh, one table from the names of dimensions to mesh axes, and helpers that obey it.

The mesh axes are ``data`` (copies of the model), ``fsdp`` (parameters split, gathered to compute) and ``tensor`` (layers
split). A name's axes are used where they divide the dimension and no earlier dimension took them, so that one table serves
every model and mesh. Under no mesh and on one device every helper is the identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ("data", "fsdp", "tensor")
Names = tuple[str | None, ...]

RULES: dict[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "rows": ("data",),  # the batch, where ``fsdp`` splits another dimension of the same array
    "embed": ("fsdp",),  # a parameter's model dimension; activations leave theirs whole
    "kv_heads": ("tensor",),
    "q_groups": ("tensor",),  # query heads of one key-value head: split where the kv heads cannot be
    "mlp": ("tensor",),
    "vocab": ("tensor",),
    "output": ("tensor", "fsdp"),  # the vocabulary of the output matrix, to decode with
}

# The names of each parameter's dimensions, by the last part of its path. Parameters under "layers" are stacked: one more
# dimension in front. What is not listed is replicated.
PARAMETERS: dict[str, Names] = {
    "embedding": ("vocab", "embed"),
    "unembedding": ("embed", "vocab"),
    "query": ("embed", "kv_heads", "q_groups", None),
    "key": ("embed", "kv_heads", None),
    "value": ("embed", "kv_heads", None),
    "attention_out": ("kv_heads", "q_groups", None, "embed"),
    "gate": ("embed", "mlp"),
    "up": ("embed", "mlp"),
    "down": ("mlp", "embed"),
}


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Any = None) -> Mesh:
    """A mesh of explicit axes over ``devices`` (default: all); one size may be -1, meaning what is left over.

    Where they are in several slices, ``data`` goes over these, on the slower network, and ``fsdp`` and ``tensor`` stay inside.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [data, fsdp, tensor]
    shape = dict(zip(AXES, sizes, strict=True))
    if sizes.count(-1) > 1 or any(s == 0 or s < -1 for s in sizes):
        raise ValueError(f"config.mesh: sizes must be positive and at most one may be -1, got {shape}.")
    if -1 in sizes:
        sizes[sizes.index(-1)] = max(1, len(devices) // -int(np.prod(sizes)))
    if int(np.prod(sizes)) != len(devices):
        raise ValueError(f"config.mesh: {shape} does not fit {len(devices)} device(s).")
    slices = len({getattr(d, "slice_index", 0) for d in devices})
    if slices == 1:
        return jax.make_mesh(tuple(sizes), AXES, axis_types=(AxisType.Explicit,) * 3, devices=devices)
    if sizes[0] % slices:
        shape = dict(zip(AXES, sizes, strict=True))
        raise ValueError(f"config.mesh: data is no multiple of the {slices} slices, which only data goes over, in {shape}.")
    inside = (sizes[0] // slices, *sizes[1:])
    grid = mesh_utils.create_hybrid_device_mesh(inside, (slices, 1, 1), devices, allow_split_physical_axes=True)
    return Mesh(grid, AXES, axis_types=(AxisType.Explicit,) * 3)


def spec(shape: tuple[int, ...], names: Names, mesh: Any = None, rules: Mapping = RULES) -> P:
    """The PartitionSpec of an array whose dimensions have these names; axes that do not divide are left out."""
    mesh = jax.sharding.get_abstract_mesh() if mesh is None else mesh
    if len(shape) != len(names):
        raise ValueError(f"{len(names)} names {names} for an array of shape {shape}.")
    used: set[str] = set()
    parts = []
    for size, name in zip(shape, names, strict=True):
        axes: list[str] = []
        for axis in rules.get(name, ()) if name else ():
            split = int(np.prod([mesh.shape[a] for a in axes])) * mesh.shape[axis]
            if axis not in used and mesh.shape[axis] > 1 and size % split == 0:
                axes.append(axis)
                used.add(axis)
        parts.append(tuple(axes) if len(axes) > 1 else axes[0] if axes else None)
    return P(*parts)


def shard(x: jax.Array, *names: str | None) -> jax.Array:
    """``x`` laid out by the names of its dimensions; the identity where no mesh is set."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.reshard(x, spec(x.shape, names))


def dot(equation: str, x: jax.Array, w: jax.Array, w_names: Names, out_names: Names, dtype: Any = None) -> jax.Array:
    """``einsum(equation, x, w)`` of activations and a parameter, in x's dtype; the result's is ``dtype``, by default x's.

    A weight split over ``fsdp`` is gathered for the product, and its gradient is reduced straight into its own split:
    fully sharded data parallelism. The gradient of the weight is summed in float32.
    """
    mesh = jax.sharding.get_abstract_mesh()
    whole = out = None
    if not mesh.empty:
        operands, result = equation.split("->")
        sizes = dict(zip(operands.replace(",", ""), x.shape + w.shape, strict=True))
        whole = spec(w.shape, tuple(None if n == "embed" else n for n in w_names))
        out = spec(tuple(sizes[c] for c in result), out_names)
    return _dot(equation, whole, out, dtype, x, w)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _dot(equation: str, whole: P | None, out: P | None, dtype: Any, x: jax.Array, w: jax.Array) -> jax.Array:
    w = w.astype(x.dtype)
    w = w if whole is None else jax.reshard(w, whole)
    return jnp.einsum(equation, x, w, out_sharding=out, preferred_element_type=dtype)


def _dot_forward(equation: str, whole: P | None, out: P | None, dtype: Any, x: jax.Array, w: jax.Array) -> tuple:
    return _dot(equation, whole, out, dtype, x, w), (x, w)


def _dot_backward(equation: str, whole: P | None, out: P | None, dtype: Any, saved: tuple, g: jax.Array) -> tuple:
    x, w = saved
    (x_dims, w_dims), g_dims = equation.split("->")[0].split(","), equation.split("->")[1]
    g = g.astype(x.dtype)
    x_spec, w_spec = (None, None) if whole is None else (jax.typeof(a).sharding.spec for a in (x, w))
    dx = _dot(f"{g_dims},{w_dims}->{x_dims}", whole, x_spec, None, g, w)
    # The order of the operands matters: with g first, as autodiff has it, XLA's CPU compiler transposes the larger one.
    dw = jnp.einsum(f"{x_dims},{g_dims}->{w_dims}", x, g, out_sharding=w_spec, preferred_element_type=jnp.float32)
    return dx, dw.astype(w.dtype)


_dot.defvjp(_dot_forward, _dot_backward)


def weight_gradient(equation: str, x: jax.Array, g: jax.Array, w_names: Names) -> jax.Array:
    """The gradient, in float32, of a weight in ``dot``, reduced straight into the weight's own split."""
    operands, result = equation.split("->")
    sizes = dict(zip(operands.replace(",", ""), x.shape + g.shape, strict=True))
    out = spec(tuple(sizes[c] for c in result), w_names)
    return jnp.einsum(equation, x, g, out_sharding=out, preferred_element_type=jnp.float32)


def lookup(table: jax.Array, ids: jax.Array, dtype: Any) -> jax.Array:
    """Rows of ``table`` [V, D] at ``ids`` [B, S] in ``dtype``, split over the batch.

    No device ever holds the table: each looks up, for every row of the batch, the columns that it has, and an all-to-all
    brings the columns of its own rows together. The gradient goes the same way back.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return table[ids].astype(dtype)
    columns = spec((*ids.shape, table.shape[1]), ("rows", None, "embed"))
    found = table.at[shard(ids, "rows", None)].get(out_sharding=columns)
    return shard(found.astype(dtype), "batch", None, None)


def vocabulary_parts(table: jax.Array) -> int:
    """Over how many devices the vocabulary of ``table`` [V, D] is split."""
    return jax.sharding.get_abstract_mesh().shape["tensor"] if spec(table.shape, ("vocab", "embed"))[0] else 1


def tiles(table: jax.Array, count: int) -> jax.Array:
    """[V, D] as [n, T, N, D], to be scanned over: T devices split V, and each cuts its part into n tiles, at most ``count``.

    N is a multiple of 128, a TPU's lanes (of some other sizes its compiler all-reduces a gradient that it could
    reduce-scatter), or all there is; zeros fill the last tile up.
    """
    split = vocabulary_parts(table)
    each, width = table.shape[0] // split, table.shape[1]
    size = min(each, -(-each // (128 * count)) * 128)
    count = -(-each // size)
    whole = jnp.reshape(table, (split, each, width), out_sharding=spec((split, each, width), ("vocab", None, "embed")))
    padded = jnp.pad(whole, ((0, 0), (0, count * size - each), (0, 0)))
    shape = split, count, size, width
    return jnp.moveaxis(jnp.reshape(padded, shape, out_sharding=spec(shape, ("vocab", None, None, "embed"))), 1, 0)


def untiled(tiles: jax.Array, vocab: int) -> jax.Array:
    """The [V, D] of ``tiles``."""
    whole = jnp.moveaxis(tiles, 0, 1)
    split, count, size, width = whole.shape
    shape = split, count * size, width
    whole = jnp.reshape(whole, shape, out_sharding=spec(shape, ("vocab", None, "embed")))[:, : vocab // split]
    return jnp.reshape(whole, (vocab, width), out_sharding=spec((vocab, width), ("vocab", "embed")))


def parameter_specs(tree: Any, mesh: Mesh) -> Any:
    """NamedShardings for parameters, and for optimiser moments shaped like them, by the last name of each path."""

    def leaf(path: tuple, x: Any) -> NamedSharding:
        keys = [getattr(k, "key", getattr(k, "name", None)) for k in path]
        names = PARAMETERS.get(keys[-1], (None,) * x.ndim) if keys and x.ndim else (None,) * x.ndim
        if len(names) == x.ndim - 1:  # stacked layers
            names = (None, *names)
        return NamedSharding(mesh, spec(x.shape, names if len(names) == x.ndim else (None,) * x.ndim, mesh))

    return jax.tree_util.tree_map_with_path(leaf, tree)


def put(tree: Any, mesh: Mesh | None, *names: str | None) -> Any:
    """Host arrays onto the devices, all with these dimension names (an explicit transfer, for use under a guard).

    With several processes all have the whole arrays, and each gives its own devices their parts.
    """

    def leaf(x: Any) -> jax.Array:
        if mesh is None:
            return jax.device_put(x)
        where = NamedSharding(mesh, spec(x.shape, names[: x.ndim] if names else (None,) * x.ndim, mesh))
        if where.is_fully_addressable:
            return jax.device_put(x, where)
        parts = [jax.device_put(x[i], d) for d, i in where.addressable_devices_indices_map(x.shape).items()]
        return jax.make_array_from_single_device_arrays(x.shape, where, parts)

    return jax.tree.map(leaf, tree)


def sampling_mesh(mesh: Mesh, tensor: int) -> Mesh:
    """The devices of ``mesh``, as groups of ``tensor`` that split each layer and have a copy of the model each.

    A group's devices are of one process, so that no step of decoding leaves a host. ValueError where they do not divide.
    """
    devices = sorted(mesh.devices.flat, key=lambda d: (d.process_index, d.id))
    here = sum(d.process_index == devices[0].process_index for d in devices)
    if tensor < 1 or here % tensor:
        raise ValueError(f"config.mesh.sampling_tensor: {tensor} does not divide the {here} devices of a process.")
    return Mesh(np.reshape(devices, (-1, 1, tensor)), AXES, axis_types=(AxisType.Explicit,) * 3)


def to_mesh(params: Any, mesh: Mesh, dtype: Any) -> Any:
    """A copy of the parameters, matrices in ``dtype``, laid out for another mesh of the same devices; it goes from device to
    device, not over a host."""
    cast = jax.tree_util.tree_map_with_path(lambda path, x: x.astype(dtype) if path[-1].key in PARAMETERS else x, params)
    return _move(cast, parameter_specs(cast, mesh))


def to_rows(tree: Any, mesh: Mesh) -> Any:
    """Arrays [B, ...] of another mesh of the same devices, split over the batch on this one."""
    names = ("batch", *(None,) * 8)
    return _move(tree, jax.tree.map(lambda x: NamedSharding(mesh, spec(x.shape, names[: x.ndim], mesh)), tree))


def _move(tree: Any, where: Any) -> Any:
    """From one mesh to another of the same devices. device_put does it where their order differs; where it does not, and one
    process has them all, that would go over the host."""
    before, after = jax.tree.leaves(tree)[0].sharding.mesh, jax.tree.leaves(where)[0].mesh
    with jax.set_mesh(after):
        if [*before.devices.flat] == [*after.devices.flat]:
            return jax.jit(_same, out_shardings=where)(tree)
        return jax.device_put(tree, where)


def _same(tree: Any) -> Any:
    return tree


@jax.jit
def _whole(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.reshard(x, P()), tree)


def whole(tree: Any) -> Any:
    """Arrays that every process can read, whole; as they are where one process has all devices."""
    return tree if all(getattr(x, "is_fully_addressable", True) for x in jax.tree.leaves(tree)) else _whole(tree)


def owners(x: jax.Array) -> np.ndarray:
    """[B] int: which process takes care of each row of an array: one of those that have it, in turn."""
    owner = np.zeros(len(x), int)
    if x.is_fully_addressable:
        return owner + jax.process_index()
    holders: dict[tuple[int, int], set[int]] = {}
    for device, (rows, *_) in x.sharding.devices_indices_map(x.shape).items():
        holders.setdefault(rows.indices(len(x))[:2], set()).add(device.process_index)
    for (start, stop), having in holders.items():
        owner[start:stop] = np.resize(sorted(having), stop - start)
    return owner
