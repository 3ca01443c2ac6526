"""The shapes of this decoder's parameters, and how another's tensors become slices of them.

Letters of shapes: L layers, D width, K key-value heads, G query heads of each, H head size, M MLP
width, V vocabulary, P positions.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from reasoning_jax.errors import UserError
from reasoning_jax.model.config import ModelConfig
from reasoning_jax.pretrained.stored import Tensor

Shape = tuple[int, ...]
Index = tuple[slice, ...]
Tree = dict[str, "Shape | dict[str, Shape]"]

# How many leading dimensions of a matrix are its inputs; the others are its outputs.
INPUTS = {
    "query": 1,
    "key": 1,
    "value": 1,
    "attention_out": 3,
    "gate": 1,
    "up": 1,
    "down": 1,
    "unembedding": 1,
}
CHUNK_BYTES = 1 << 22
BLOCK = 16  # rows that are transposed together
ADAPTED = ("query", "key", "value", "attention_out", "gate", "up", "down")  # LoRA's choice


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """Where a file has one of our parameters: in which tensor, and how."""

    name: str  # "{n}" in it is the number of the layer
    out_first: bool = True  # a matrix is stored [out, in], as torch's Linear; else [in, out]
    part: tuple[int, int] = (0, 1)  # (i, n): the i-th of n equal parts of what it has for outputs
    interleaved: bool = False  # numbers of a head are stored as the pairs (2i, 2i+1)
    plus: float = 0.0  # what is added to the stored numbers


Table = Mapping[str, Place]


def shapes(cfg: ModelConfig) -> Tree:
    """The shape of every parameter of ``decoder.init``, as a nested dict."""
    V, D, L = cfg.vocab_size, cfg.width, cfg.num_layers
    tree: Tree = {"embedding": (V, D), **_norm("final_norm", cfg)}
    if not cfg.tied:
        tree["unembedding"] = (D, V)
    if cfg.output_bias:
        tree["output_bias"] = (V,)
    if cfg.max_positions:
        tree["position_embedding"] = (cfg.max_positions, D)
    layer = _attention(cfg) | _mlp(cfg)
    tree["layers"] = {name: (L, *shape) for name, shape in layer.items()}
    return tree


def _norm(name: str, cfg: ModelConfig) -> dict[str, Shape]:
    scale = {name: (cfg.width,)}
    return scale | {f"{name}_bias": (cfg.width,)} if cfg.norm == "layer" else scale


def _attention(cfg: ModelConfig) -> dict[str, Shape]:
    D, H, K = cfg.width, cfg.head_dim, cfg.num_kv_heads
    G = cfg.num_heads // K
    layer = _norm("attention_norm", cfg) | {
        "query": (D, K, G, H),
        "key": (D, K, H),
        "value": (D, K, H),
        "attention_out": (K, G, H, D),
    }
    if cfg.qkv_bias:
        layer |= {"query_bias": (K, G, H), "key_bias": (K, H), "value_bias": (K, H)}
    if cfg.out_bias:
        layer["attention_out_bias"] = (D,)
    if cfg.qk_norm:
        layer |= {"query_norm": (H,), "key_norm": (H,)}
    if cfg.post_norms:
        layer |= _norm("post_attention_norm", cfg) | _norm("post_mlp_norm", cfg)
    return layer


def _mlp(cfg: ModelConfig) -> dict[str, Shape]:
    D, M = cfg.width, cfg.mlp_dim
    layer: dict[str, Shape] = {} if cfg.parallel else _norm("mlp_norm", cfg)
    layer |= {"up": (D, M), "down": (M, D)}
    if cfg.gated:
        layer["gate"] = (D, M)
    if cfg.mlp_bias:
        layer |= {"up_bias": (M,), "down_bias": (D,)}
        if cfg.gated:
            layer["gate_bias"] = (M,)
    return layer


def leaves(tree: Tree) -> Iterator[tuple[tuple[str, ...], Shape]]:
    """The path and the shape of every parameter."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from (((name, inner), shape) for inner, shape in value.items())
        else:
            yield (name,), value


# ---- one tensor ----------------------------------------------------------------------------------


def stored_shape(name: str, place: Place, shape: Shape) -> Shape:
    """The shape of the tensor in the file for a parameter [of one layer] of this shape."""
    parts = place.part[1]
    inputs = INPUTS.get(name)
    if inputs is None:
        return (math.prod(shape) * parts,) if name.endswith(("_bias", "_norm")) else shape
    rows, columns = math.prod(shape[:inputs]), math.prod(shape[inputs:]) * parts
    return (columns, rows) if place.out_first else (rows, columns)


def read_slice(
    name: str, place: Place, shape: Shape, index: Index, tensor: Tensor, target: np.ndarray
) -> None:
    """Fills ``target`` with the slice ``index`` of a parameter [of one layer].

    Of the tensor only the rows that hold the slice are read.
    """
    ranges = [s.indices(n)[:2] for s, n in zip(index, shape, strict=True)]
    if name in INPUTS:
        _read_matrix(name, place, shape, ranges, tensor, target)
        return
    is_flat = len(stored_shape(name, place, shape)) < len(shape) or place.part[1] > 1
    if is_flat:
        start = place.part[0] * math.prod(shape)
        values = tensor.read(start, start + math.prod(shape)).reshape(shape)[index]
        target[...] = _finish(values, place)
        return
    start, stop = ranges[0]
    for i, j in _chunks(start, stop, tensor):
        values = tensor.read(i, j)[(slice(None), *index[1:])]
        target[i - start : j - start] = _finish(values, place)


def _read_matrix(
    name: str,
    place: Place,
    shape: Shape,
    ranges: list[tuple[int, int]],
    tensor: Tensor,
    target: np.ndarray,
) -> None:
    split = INPUTS[name]
    rows = _span(shape[:split], ranges[:split])
    columns = _span(shape[split:], ranges[split:])
    first = place.part[0] * math.prod(shape[split:])
    # The slice with all of its later dimensions, as a matrix [in, out].
    size = (rows[1] - rows[0], columns[1] - columns[0])
    is_whole = size[0] * size[1] == target.size and not place.interleaved
    matrix = target.reshape(size) if is_whole else np.empty(size, tensor.dtype)
    if place.out_first:
        for i, j in _chunks(*columns, tensor):
            values = tensor.read(first + i, first + j)[:, slice(*rows)]
            _copy_transposed(values, matrix[:, i - columns[0] : j - columns[0]])
    else:
        for i, j in _chunks(*rows, tensor):
            values = tensor.read(i, j)[:, first + columns[0] : first + columns[1]]
            matrix[i - rows[0] : j - rows[0]] = values
    if not is_whole:
        heads = (ranges[0], ranges[split])
        sizes = [stop - start for start, stop in heads]
        full = matrix.reshape(sizes[0], *shape[1:split], sizes[1], *shape[split + 1 :])
        rest = [slice(*r) for r in ranges]
        rest[0] = rest[split] = slice(None)
        target[...] = _finish(full[tuple(rest)], place)


def _chunks(start: int, stop: int, tensor: Tensor) -> Iterator[tuple[int, int]]:
    """Ranges of rows of a few megabytes: what is read is still in the cache when it is copied."""
    row_bytes = math.prod(tensor.shape[1:]) * tensor.dtype.itemsize
    step = max(1, CHUNK_BYTES // max(1, row_bytes))
    for i in range(start, stop, step):
        yield i, min(i + step, stop)


def _span(shape: Shape, ranges: list[tuple[int, int]]) -> tuple[int, int]:
    """The range of a flattened dimension that holds the range of the first of its parts."""
    size = math.prod(shape[1:])
    return ranges[0][0] * size, ranges[0][1] * size


def _finish(values: np.ndarray, place: Place) -> np.ndarray:
    if place.interleaved:  # heads' numbers are never split over devices: all are here
        values = np.concatenate([values[..., 0::2], values[..., 1::2]], axis=-1)
    if place.plus:
        values = values + values.dtype.type(place.plus)
    return values


def _copy_transposed(matrix: np.ndarray, target: np.ndarray) -> None:
    """target = matrix.T, a few rows at a time: numpy's own copy is four times as slow."""
    for i in range(0, len(matrix), BLOCK):
        target[:, i : i + BLOCK] = matrix[i : i + BLOCK].T


def transposed(matrix: np.ndarray) -> np.ndarray:
    """A transposed copy."""
    result = np.empty(matrix.shape[::-1], matrix.dtype)
    _copy_transposed(matrix, result)
    return result


# ---- all tensors ---------------------------------------------------------------------------------


def wanted(cfg: ModelConfig, table: Table, where: str) -> dict[str, Shape]:
    """The name and shape of every tensor that a model of this config has in a file.

    UserError where the table has no tensor for one of its parameters.
    """
    found: dict[str, Shape] = {}
    for path, shape in leaves(shapes(cfg)):
        name = path[-1]
        if name not in table:
            raise UserError(f"{where}: the parameter {name} has no place in such a file.")
        place = table[name]
        if len(path) == 1:
            found[place.name] = stored_shape(name, place, shape)
            continue
        for n in range(cfg.num_layers):
            found[place.name.format(n=n)] = stored_shape(name, place, shape[1:])
    return found


def check(have: Mapping[str, Tensor], want: Mapping[str, Shape], where: str) -> None:
    """UserError naming a tensor that is missing, left over or of another shape."""
    for name, shape in want.items():
        if name not in have:
            hint = nearest(name, have.keys() - want.keys())
            raise UserError(f"{where}: the tensor {name} is missing{hint}.")
        if tuple(have[name].shape) != shape:
            raise UserError(
                f"{where}: the tensor {name} has the shape {list(have[name].shape)}, "
                f"but by the config it has {list(shape)}."
            )
    left_over = sorted(have.keys() - want.keys())
    if left_over:
        hint = nearest(left_over[0], want)
        raise UserError(f"{where}: the tensor {left_over[0]} belongs to no parameter{hint}.")


def nearest(name: str, names: Iterable[str]) -> str:
    """ "; the nearest name is X", where there is a near one."""
    close = difflib.get_close_matches(name, list(names)[:5000], 1)
    return f"; the nearest name is {close[0]}" if close else ""
