"""Where arrays live: one mesh, one table from the names of dimensions to mesh axes.

The mesh axes are ``data`` (copies of the model), ``fsdp`` (parameters split, gathered to compute)
and ``tensor`` (layers split). A name's axes are used where they divide the dimension and no earlier
dimension took them, so that one table serves every model and mesh. Under no mesh and on one device
every function returns its array as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree

from reasoning_jax.errors import UserError
from reasoning_jax.model.parameters import MATRICES, PARAMETERS, Names

AXES = ("data", "fsdp", "tensor")
EXPLICIT = (AxisType.Explicit,) * len(AXES)

RULES: dict[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "batch_data": ("data",),  # the batch, where ``fsdp`` splits another dimension of the array
    "embed": ("fsdp",),  # a parameter's model dimension; activations leave theirs whole
    "kv_heads": ("tensor",),
    "q_groups": ("tensor",),  # query heads of one kv head: split where the kv heads cannot be
    "mlp": ("tensor",),
    "vocab": ("tensor",),
    "output": ("tensor", "fsdp"),  # the vocabulary of the output matrix, to decode with
}


def make_mesh(
    data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh of explicit axes over ``devices`` (default: all).

    One size may be -1, meaning what is left over. Where the devices are in several slices, ``data``
    goes over these, on the slower network, and ``fsdp`` and ``tensor`` stay inside one. UserError
    where the sizes do not fit the devices.
    """
    if devices is None:
        devices = jax.devices()
    sizes = _mesh_sizes((data, fsdp, tensor), len(devices))
    num_slices = len({getattr(device, "slice_index", 0) for device in devices})
    if num_slices == 1:
        return jax.make_mesh(sizes, AXES, axis_types=EXPLICIT, devices=devices)
    if sizes[0] % num_slices:
        shape = dict(zip(AXES, sizes, strict=True))
        raise UserError(
            f"config.mesh: data is no multiple of the {num_slices} slices, which only data goes "
            f"over, in {shape}."
        )
    inside = (sizes[0] // num_slices, *sizes[1:])
    across = (num_slices, 1, 1)
    grid = mesh_utils.create_hybrid_device_mesh(
        inside, across, devices, allow_split_physical_axes=True
    )
    return Mesh(grid, AXES, axis_types=EXPLICIT)


def _mesh_sizes(sizes: tuple[int, ...], num_devices: int) -> tuple[int, ...]:
    """The sizes with -1 replaced; UserError where they do not fit the number of devices."""
    shape = dict(zip(AXES, sizes, strict=True))
    if sizes.count(-1) > 1:
        raise UserError(f"config.mesh: at most one size may be -1, got {shape}.")
    if -1 in sizes:
        others = -math.prod(sizes)
        rest = max(1, num_devices // others)
        sizes = tuple(rest if size == -1 else size for size in sizes)
    if math.prod(sizes) != num_devices:
        raise UserError(f"config.mesh: {shape} does not fit {num_devices} device(s).")
    return sizes


def platform() -> str:
    """The platform that the program is compiled for: the mesh's, or without one this process's.

    The devices of a mesh need not be attached to this machine.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return jax.default_backend()
    return mesh.abstract_device.platform


def spec(
    shape: tuple[int, ...],
    names: Names,
    mesh: Mesh | AbstractMesh | None = None,
    rules: Mapping[str, tuple[str, ...]] = RULES,
) -> P:
    """The PartitionSpec of an array whose dimensions have these names.

    Axes that do not divide a dimension are left out. mesh: default the mesh that is set.
    """
    if mesh is None:
        mesh = jax.sharding.get_abstract_mesh()
    if len(shape) != len(names):
        raise ValueError(f"{len(names)} names {names} for an array of shape {shape}.")
    used: set[str] = set()
    entries: list[str | tuple[str, ...] | None] = []
    for size, name in zip(shape, names, strict=True):
        axes = _axes_that_divide(size, rules.get(name, ()), used, mesh)
        used.update(axes)
        if len(axes) > 1:
            entries.append(tuple(axes))
        else:
            entries.append(axes[0] if axes else None)
    return P(*entries)


def _axes_that_divide(
    size: int, axes: tuple[str, ...], used: set[str], mesh: Mesh | AbstractMesh
) -> list[str]:
    """Those of a name's axes that split a dimension of this size and are not used already."""
    taken: list[str] = []
    splits = 1
    for axis in axes:
        axis_size = mesh.shape[axis]
        if axis in used or axis_size == 1:
            continue
        if size % (splits * axis_size) == 0:
            taken.append(axis)
            splits *= axis_size
    return taken


def shard(x: jax.Array, *names: str | None) -> jax.Array:
    """``x`` laid out by the names of its dimensions; as it is where no mesh is set."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.reshard(x, spec(x.shape, names))


def parameter_specs(tree: PyTree, mesh: Mesh) -> PyTree:
    """NamedShardings for parameters and for the optimiser's moments, which are shaped like them.

    tree: arrays or their shapes. Each leaf is split as PARAMETERS says of the last name in its
    path; scalars (the counters of a state) are replicated. ValueError names a parameter that has no
    rule.
    """

    def leaf(path: tuple, x: jax.Array | np.ndarray | jax.ShapeDtypeStruct) -> NamedSharding:
        names = _parameter_names(path, x.ndim) if x.ndim else ()
        return NamedSharding(mesh, spec(x.shape, names, mesh))

    return jax.tree_util.tree_map_with_path(leaf, tree)


def _parameter_names(path: tuple, ndim: int) -> Names:
    """The names of a parameter's dimensions; ValueError where PARAMETERS has no rule for it."""
    key = path[-1] if path else None
    name = getattr(key, "key", getattr(key, "name", None))
    path_text = jax.tree_util.keystr(path, simple=True, separator=".")
    if name not in PARAMETERS:
        raise ValueError(
            f"The parameter {path_text} has no sharding rule: "
            "add its name to PARAMETERS in model/parameters.py."
        )
    names = PARAMETERS[name]
    is_stacked = ndim == len(names) + 1
    if is_stacked:
        names = (None, *names)
    if len(names) != ndim:
        raise ValueError(
            f"The parameter {path_text} has {ndim} dimensions, "
            f"but its sharding rule names {len(names)}."
        )
    return names


def cast_matrices(params: PyTree, dtype: str) -> PyTree:
    """The parameters with matrices in ``dtype``; the scales of norms stay in float32."""

    def cast(path: tuple, x: jax.Array) -> jax.Array:
        return x.astype(dtype) if path[-1].key in MATRICES else x

    return jax.tree_util.tree_map_with_path(cast, params)


def put(tree: PyTree, mesh: Mesh | None, *names: str | None) -> PyTree:
    """Host arrays onto the devices, all with these dimension names.

    An explicit transfer, for use under a transfer guard. With several processes all have the whole
    arrays, and each gives its own devices their shards.
    """

    if mesh is None:
        return jax.device_put(tree)

    def of(x: np.ndarray | np.generic | jax.Array) -> NamedSharding:
        leaf_names = names[: x.ndim] if names else (None,) * x.ndim
        return NamedSharding(mesh, spec(x.shape, leaf_names, mesh))

    shardings = jax.tree.map(of, tree)
    if mesh.is_multi_process:
        return jax.tree.map(_shards, tree, shardings)
    return jax.device_put(tree, shardings)  # all at once: a transfer each would cost more


def _shards(x: np.ndarray | np.generic | jax.Array, sharding: NamedSharding) -> jax.Array:
    """An array of which this process gives its own devices their parts."""
    indices = sharding.addressable_devices_indices_map(x.shape)
    shards = [jax.device_put(x[index], device) for device, index in indices.items()]
    return jax.make_array_from_single_device_arrays(x.shape, sharding, shards)


def sampling_mesh(mesh: Mesh, tensor: int) -> Mesh:
    """The devices of ``mesh`` as groups of ``tensor``, each with a copy of the model split inside.

    A group's devices are of one process, so that no step of decoding leaves a host. UserError where
    the groups do not divide the devices.
    """
    devices = sorted(mesh.devices.flat, key=lambda d: (d.process_index, d.id))
    first = devices[0].process_index
    per_process = sum(device.process_index == first for device in devices)
    if per_process % tensor:
        raise UserError(
            f"config.mesh.sampling_tensor: {tensor} does not divide the {per_process} devices of "
            "a process."
        )
    return Mesh(np.reshape(devices, (-1, 1, tensor)), AXES, axis_types=EXPLICIT)


def to_mesh(params: PyTree, mesh: Mesh, dtype: str) -> PyTree:
    """A copy of the parameters, matrices in ``dtype``, for another mesh of the same devices.

    It goes from device to device, not over a host.
    """
    cast = cast_matrices(params, dtype)
    return _move(cast, parameter_specs(cast, mesh))


def _move(tree: PyTree, shardings: PyTree) -> PyTree:
    """From one mesh to another of the same devices.

    device_put does it where the order of the devices differs. Where it does not, and one process
    has them all, device_put would go over the host.
    """
    before = jax.tree.leaves(tree)[0].sharding.mesh
    after = jax.tree.leaves(shardings)[0].mesh
    with jax.set_mesh(after):
        if [*before.devices.flat] == [*after.devices.flat]:
            return jax.jit(_identity, out_shardings=shardings)(tree)
        return jax.device_put(tree, shardings)


def _identity(tree: PyTree) -> PyTree:
    return tree


def whole(tree: PyTree) -> PyTree:
    """Arrays that every process can read, whole; as they are where one process has all devices."""
    if all(getattr(x, "is_fully_addressable", True) for x in jax.tree.leaves(tree)):
        return tree
    return _replicate(tree)


@jax.jit
def _replicate(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jax.reshard(x, P()), tree)
