"""Where arrays live: one mesh, one table from the names of dimensions to mesh axes, and helpers that obey it.

The mesh axes are ``data`` (copies of the model), ``fsdp`` (parameters split, gathered to compute) and ``tensor`` (layers
split). A name's axes are used where they divide the dimension and no earlier dimension took them, so that one table serves
every model and mesh. Under no mesh and on one device every helper is the identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ("data", "fsdp", "tensor")

RULES: dict[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "embed": ("fsdp",),  # a parameter's model dimension; activations leave theirs whole
    "kv_heads": ("tensor",),
    "q_groups": ("tensor",),  # query heads of one key-value head: split where the kv heads cannot be
    "mlp": ("tensor",),
    "vocab": ("tensor",),
}

# The names of each parameter's dimensions, by the last part of its path. Parameters under "layers" are stacked: one more
# dimension in front. What is not listed is replicated.
PARAMETERS: dict[str, tuple[str | None, ...]] = {
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
    """A mesh of explicit axes over ``devices`` (default: all); one size may be -1, meaning what is left over."""
    devices = jax.devices() if devices is None else devices
    sizes = [data, fsdp, tensor]
    shape = dict(zip(AXES, sizes, strict=True))
    if sizes.count(-1) > 1 or any(s == 0 or s < -1 for s in sizes):
        raise ValueError(f"config.mesh: sizes must be positive and at most one may be -1, got {shape}.")
    if -1 in sizes:
        sizes[sizes.index(-1)] = max(1, len(devices) // -int(np.prod(sizes)))
    if int(np.prod(sizes)) != len(devices):
        raise ValueError(f"config.mesh: {shape} does not fit {len(devices)} device(s).")
    return jax.make_mesh(tuple(sizes), AXES, axis_types=(AxisType.Explicit,) * 3, devices=devices)


def spec(shape: tuple[int, ...], names: tuple[str | None, ...], mesh: Any = None, rules: Mapping = RULES) -> P:
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


def dot(equation: str, x: jax.Array, w: jax.Array, *names: str | None, dtype: Any = None) -> jax.Array:
    """``einsum(equation, x, w)`` whose result has these dimension names; sums in float32 where ``dtype`` asks for it.

    A weight split over ``fsdp`` is gathered first and its gradient reduce-scattered: fully sharded data parallelism.
    """
    out = None
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty:
        operands, result = equation.split("->")
        sizes = {c: n for op, a in zip(operands.split(","), (x, w), strict=True) for c, n in zip(op, a.shape, strict=True)}
        out = spec(tuple(sizes[c] for c in result), names, mesh)
    return jnp.einsum(equation, x, w, out_sharding=out, preferred_element_type=dtype)


def gathered(w: jax.Array, *names: str | None) -> jax.Array:
    """A parameter with its ``fsdp`` split undone and its ``tensor`` split kept, ready to multiply."""
    if jax.sharding.get_abstract_mesh().empty:
        return w
    return jax.reshard(w, spec(w.shape, tuple(None if n == "embed" else n for n in names)))


def lookup(table: jax.Array, ids: jax.Array) -> jax.Array:
    """Rows of ``table`` [V, D] at ``ids`` [B, S], split over the batch."""
    if jax.sharding.get_abstract_mesh().empty:
        return table[ids]
    return gathered(table, None, "embed").at[ids].get(out_sharding=spec((*ids.shape, table.shape[1]), ("batch", None, None)))


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
    """Host arrays onto the devices, all with these dimension names (an explicit transfer, for use under a guard)."""

    def leaf(x: Any) -> jax.Array:
        if mesh is None:
            return jax.device_put(x)
        return jax.device_put(x, NamedSharding(mesh, spec(x.shape, names[: x.ndim] if names else (None,) * x.ndim, mesh)))

    return jax.tree.map(leaf, tree)
