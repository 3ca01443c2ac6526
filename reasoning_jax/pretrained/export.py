"""Parameters to a Hugging Face folder: config.json, safetensors of at most 5 GB, the tokenizer.

Numbers stay in the dtype that they are stored in. A folder is written under another name and
renamed when it is complete.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import numpy as np
from safetensors.numpy import save_file

from reasoning_jax import gguf_metadata, workdir
from reasoning_jax.errors import UserError
from reasoning_jax.json_object import Json
from reasoning_jax.model.config import ModelConfig
from reasoning_jax.model.decoder import Params
from reasoning_jax.pretrained import folder, hf_tokenizer, hf_write, tables
from reasoning_jax.pretrained.tables import Place, Table

SHARD_BYTES = 5 * 10**9
# What is copied from the model's own folder.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "tokenizer.gguf",
)
DTYPES = {"float32": "float32", "bfloat16": "bfloat16", "float16": "float16"}


def write(
    destination: Path,
    params: Params,
    cfg: ModelConfig,
    *,
    family: str = "",
    base: Mapping[str, Json] | None = None,
    extra: Mapping[str, Json] | None = None,
    tokenizer: Path | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes a folder that other programs load.

    family: the one to try first. base: the config.json that the model came with. extra: more keys
    of config.json. tokenizer: the folder, or the SentencePiece model, whose files go along.
    UserError where there is something at ``destination``, or the model is of no family.
    """
    found, config = hf_write.config_for(cfg, family, base)
    config |= extra or {}
    config["torch_dtype"] = DTYPES[str(params["embedding"].dtype)]
    with new_folder(destination) as target:
        write_tensors(target, tensors(params, cfg, found.table), shard_bytes)
        _write_json(target / "config.json", config)
        if tokenizer is not None:
            copy_tokenizer(tokenizer, target)
        gguf = target / "tokenizer.gguf"
        if gguf.exists() and hf_tokenizer.write(gguf, target):
            gguf.unlink()
        if not (target / "generation_config.json").exists():
            ids = {key: value for key, value in config.items() if key.endswith("token_id")}
            _write_json(target / "generation_config.json", ids)


@contextlib.contextmanager
def new_folder(destination: Path) -> Iterator[Path]:
    """A temporary folder that gets the name ``destination`` when its content is complete."""
    if not workdir.is_local(destination):
        raise UserError(f"{destination}: such a folder is written on this machine; copy it then.")
    check_free(destination)
    temporary = destination.with_name(f"{destination.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for path in temporary.rglob("*"):
            _sync(path)
        if destination.is_dir():
            destination.rmdir()  # it is empty
        temporary.rename(destination)
        _sync(destination.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def check_outside(source: Path, destination: Path) -> None:
    """UserError where the result would be a part of what it is made from."""
    if workdir.is_local(source) and workdir.is_local(destination):
        if destination.resolve().is_relative_to(source.resolve()):
            raise UserError(f"{destination}: this is inside of {source}; name another folder.")


def check_free(destination: Path) -> None:
    """UserError where there is a file, or a folder that is not empty."""
    if not destination.exists():
        return
    if not destination.is_dir() or any(destination.iterdir()):
        raise UserError(f"{destination}: there is something already; name a new folder.")


def _sync(path: Path) -> None:
    """Returns when a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_json(path: Path, value: Mapping[str, Json]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copies what there is of TOKENIZER_FILES in a folder.

    Of a GGUF file the metadata is kept; another file is a SentencePiece model.
    """
    if not source.is_dir() and gguf_metadata.is_gguf(source):
        (target / "tokenizer.gguf").write_bytes(gguf_metadata.without_tensors(source))
    elif not source.is_dir():
        (target / "tokenizer.model").write_bytes(source.read_bytes())
    else:
        for name in TOKENIZER_FILES:
            if (source / name).exists():
                (target / name).write_bytes((source / name).read_bytes())


# ---- tensors -------------------------------------------------------------------------------------


def tensors(params: Params, cfg: ModelConfig, table: Table) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors by the names of a table, one parameter after another.

    What the table does not name (an adapter) is a KeyError.
    """
    fused: dict[str, dict[str, jax.Array]] = {}
    for path, _ in tables.leaves(tables.shapes(cfg)):
        name = path[-1]
        place = table[name]
        value = params[name] if len(path) == 1 else params["layers"][name]  # type: ignore[index]
        if place.part[1] > 1:
            parts = fused.setdefault(place.name, {})
            parts[name] = value
            if len(parts) == place.part[1]:
                yield from _layers(place, _joined(parts, table))
            continue
        stored = np.asarray(value)
        if len(path) == 1:
            yield place.name, _matrix(name, place, stored)
        else:
            yield from _layers(place, (_matrix(name, place, layer) for layer in stored))


def _layers(place: Place, values: Iterator[np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    for n, value in enumerate(values):
        yield place.name.format(n=n), value


def _joined(parts: Mapping[str, jax.Array], table: Table) -> Iterator[np.ndarray]:
    """The layers of a tensor that holds several parameters."""
    names = sorted(parts, key=lambda name: table[name].part)
    arrays = [np.asarray(parts[name]) for name in names]
    place = table[names[0]]
    is_columns = arrays[0].ndim > 2 and names[0] in tables.INPUTS and not place.out_first
    for layers in zip(*arrays, strict=True):
        matrices = [_matrix(name, place, x) for name, x in zip(names, layers, strict=True)]
        yield np.concatenate(matrices, axis=1 if is_columns else 0)


def _matrix(name: str, place: Place, value: np.ndarray) -> np.ndarray:
    """A parameter [of one layer] as the file has it."""
    inputs = tables.INPUTS.get(name)
    if inputs is None:
        return value.reshape(tables.stored_shape(name, Place(name=place.name), value.shape))
    rows = int(np.prod(value.shape[:inputs]))
    matrix = value.reshape(rows, -1)
    return tables.transposed(matrix) if place.out_first else matrix


def save(named: Mapping[str, np.ndarray], path: Path) -> None:
    """One safetensors file, which others may read too."""
    save_file({k: np.ascontiguousarray(v) for k, v in named.items()}, path, {"format": "pt"})
    path.chmod(0o644)


def write_tensors(
    target: Path, named: Iterator[tuple[str, np.ndarray]], shard_bytes: int = SHARD_BYTES
) -> None:
    """model.safetensors, or several files with an index where there are more bytes."""
    shards: list[list[str]] = []
    batch: dict[str, np.ndarray] = {}
    size = total = 0

    def flush() -> None:
        path = target / f"part-{len(shards)}"
        save(batch, path)
        shards.append(list(batch))
        batch.clear()

    for name, value in named:
        if batch and size + value.nbytes > shard_bytes:
            flush()
            size = 0
        batch[name] = value
        size += value.nbytes
        total += value.nbytes
    flush()
    if len(shards) == 1:
        (target / "part-0").rename(target / folder.SINGLE)
        return
    where = {}
    for i, names in enumerate(shards):
        file = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        (target / f"part-{i}").rename(target / file)
        where |= dict.fromkeys(names, file)
    folder.write_index(target, where, total)
