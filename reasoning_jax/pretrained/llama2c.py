"""Files of llama2.c: version 0 (float32) and version 2 (int8 with a scale for a group of numbers).

Llama 2 in one file: a header of seven whole numbers, then all tensors without names. Queries and
keys are stored as the pairs that turn together.
"""

from __future__ import annotations

import dataclasses
import math
import struct
from collections.abc import Iterator
from pathlib import Path

from reasoning_jax.errors import UserError
from reasoning_jax.json_object import Json
from reasoning_jax.pretrained import families, stored
from reasoning_jax.pretrained.names import LLAMA
from reasoning_jax.pretrained.source import Published
from reasoning_jax.pretrained.stored import Grouped, Stored, Tensor
from reasoning_jax.pretrained.tables import Shape, Table

MAGIC = 0x616B3432  # "ak42", of version 1 and later
HEADER = struct.Struct("<7i")
LONG_HEADER = 256
NORMS = ("attention_norm", "mlp_norm", "final_norm")
# The order of the tensors in a file; each for all layers before the next.
ORDER = (
    "embedding",
    "attention_norm",
    "query",
    "key",
    "value",
    "attention_out",
    "mlp_norm",
    "gate",
    "down",
    "up",
    "final_norm",
)
QUANTISED_ORDER = (
    "embedding",
    "query",
    "key",
    "value",
    "attention_out",
    "gate",
    "down",
    "up",
    "unembedding",
)
TABLE: Table = dict(LLAMA) | {
    name: dataclasses.replace(LLAMA[name], interleaved=True) for name in ("query", "key")
}
START = 1  # the token before each text of its training data, and so also where a text ends


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Sizes:
    width: int
    mlp: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    positions: int
    tied: bool

    @property
    def head(self) -> int:
        return self.width // self.heads

    def shape(self, name: str) -> Shape:
        """The shape of a tensor [of one layer], matrices as [out, in]."""
        if name in NORMS:
            return (self.width,)
        kv = self.kv_heads * self.head
        return {
            "embedding": (self.vocab, self.width),
            "unembedding": (self.vocab, self.width),
            "key": (kv, self.width),
            "value": (kv, self.width),
            "gate": (self.mlp, self.width),
            "up": (self.mlp, self.width),
            "down": (self.width, self.mlp),
        }.get(name, (self.width, self.width))

    def names(self, name: str) -> Iterator[str]:
        """The names of a tensor, of all layers where it is of a layer."""
        stored_name = LLAMA[name].name
        layers = range(self.layers if "{n}" in stored_name else 1)
        return (stored_name.format(n=n) for n in layers)


def open(path: Path) -> Published:
    """A llama2.c file as a source; UserError where header and size of the file do not agree."""
    size = stored.size(path)
    unknown = UserError(
        f"{path}: this is no known model (a GGUF or llama2.c file, or a folder with config.json)."
    )
    if size < HEADER.size:
        raise unknown
    start = stored.read_at(path, 0, min(size, LONG_HEADER)).tobytes()
    magic, version = struct.unpack_from("<Ii", start)
    if magic == MAGIC:
        if version != 2 or len(start) < LONG_HEADER:
            raise UserError(f"{path}: this is llama2.c's version {version}; 0 and 2 can be read.")
        sizes = _sizes(HEADER.unpack_from(start, 8), bool(start[36]))
        group = struct.unpack_from("<i", start, 37)[0]
        if sizes is None or not _fits_group(sizes, group):
            raise UserError(f"{path}: the header of this llama2.c file is damaged.")
        tensors, end = _quantised(path, sizes, group)
    else:
        numbers = HEADER.unpack_from(start)
        sizes = _sizes((*numbers[:5], abs(numbers[5]), numbers[6]), numbers[5] > 0)
        if sizes is None:
            raise unknown
        tensors, end = _floats(path, sizes)
    if size != end:
        raise UserError(
            f"{path}: the file has {size} bytes, but by its header a llama2.c file has {end}."
        )
    return Published(
        path=path,
        family=families.BY_NAME["llama"],
        config=_config(sizes),
        where=str(path),
        tensors=tensors,
        table=TABLE,
        tokenizer=None,
        end_id=START,
    )


def _sizes(numbers: tuple[int, ...], tied: bool) -> _Sizes | None:
    """None where these cannot be the numbers of a model's header."""
    width, mlp, layers, heads, kv_heads, vocab, positions = numbers
    if min(numbers) < 1 or layers > 4096 or width % heads or heads % kv_heads:
        return None
    return _Sizes(
        width=width,
        mlp=mlp,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        vocab=vocab,
        positions=positions,
        tied=tied,
    )


def _fits_group(sizes: _Sizes, group: int) -> bool:
    return group > 0 and sizes.width % group == 0 and sizes.mlp % group == 0


def _floats(path: Path, sizes: _Sizes) -> tuple[dict[str, Tensor], int]:
    tensors: dict[str, Tensor] = {}
    offset = HEADER.size
    for name in ORDER:
        offset = _add(tensors, path, sizes, name, offset)
    offset += sizes.positions * sizes.head * 4  # rotary cos and sin, which are computed here
    if not sizes.tied:
        offset = _add(tensors, path, sizes, "unembedding", offset)
    return tensors, offset


def _quantised(path: Path, sizes: _Sizes, group: int) -> tuple[dict[str, Tensor], int]:
    tensors: dict[str, Tensor] = {}
    offset = LONG_HEADER
    for name in NORMS:
        offset = _add(tensors, path, sizes, name, offset)
    for name in QUANTISED_ORDER:
        if name == "unembedding" and sizes.tied:
            continue
        shape = sizes.shape(name)
        for stored_name in sizes.names(name):
            tensors[stored_name] = Grouped(path=path, offset=offset, shape=shape, group=group)
            offset += math.prod(shape) + math.prod(shape) // group * 4
    return tensors, offset


def _add(tensors: dict[str, Tensor], path: Path, sizes: _Sizes, name: str, offset: int) -> int:
    """Adds a float32 tensor, of all layers; the offset of what follows."""
    shape = sizes.shape(name)
    for stored_name in sizes.names(name):
        tensors[stored_name] = Stored(path=path, offset=offset, shape=shape, kind="F32")
        offset += math.prod(shape) * 4
    return offset


def _config(sizes: _Sizes) -> dict[str, Json]:
    return {
        "vocab_size": sizes.vocab,
        "hidden_size": sizes.width,
        "intermediate_size": sizes.mlp,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "max_position_embeddings": sizes.positions,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": sizes.tied,
        "bos_token_id": START,
        "eos_token_id": START,
    }
