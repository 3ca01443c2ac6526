"""Published models: files of other programs, opened as one kind of source.

    source = pretrained.open(path)
    model_cfg = source.model_config(dtype="bfloat16")
    params = source.load(model_cfg, mesh, dtype="bfloat16")

Nothing above this package but the command ``convert`` knows formats of files.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from reasoning_jax import gguf_metadata, workdir
from reasoning_jax.errors import MissingFileError, UserError
from reasoning_jax.json_object import Json
from reasoning_jax.pretrained import converted, folder, gguf_file, hf_config, llama2c, stored
from reasoning_jax.pretrained.load import fingerprint
from reasoning_jax.pretrained.source import Published

__all__ = ["Published", "Source", "fingerprint", "open"]

Source = Published | converted.Converted


def open(path: str | os.PathLike[str]) -> Source:
    """A Hugging Face folder, a GGUF file, a llama2.c file, or what ``convert`` made.

    UserError naming the file where it is none of these.
    """
    place = workdir.path(path)
    if not place.exists():
        raise MissingFileError(f"{place}: there is no such file or folder.")
    if place.is_dir():
        return _open_folder(place)
    if not workdir.is_local(place):
        raise UserError(f"{place}: a model in one file is read from this machine; copy it here.")
    stored.check_is_file(place)
    magic = stored.read_at(place, 0, min(4, stored.size(place))).tobytes()
    if magic == gguf_metadata.MAGIC:
        return gguf_file.open(place)
    if place.suffix == ".safetensors":
        raise UserError(f"{place}: name its folder, which has config.json too.")
    if folder.PICKLES.fullmatch(place.name) and magic[:2] in (b"PK", b"\x80\x02"):
        raise UserError(folder.pickle_problem(place))
    return llama2c.open(place)


def _open_folder(place: Path) -> Source:
    if (place / converted.MODEL).exists():
        return converted.open(place)
    path = place / "config.json"
    if not path.exists():
        raise MissingFileError(
            f"{place}: there is no model in this folder (it has no config.json)."
        )
    config = stored.read_json(path)
    if "rounds" in config and "algorithm" in config:
        raise UserError(f"{place}: this is the work directory of a run; convert it first.")
    return hugging_face(place, config)


def hugging_face(place: Path, config: Mapping[str, Json]) -> Published:
    """A Hugging Face folder as a source; UserError naming the file."""
    where = str(place / "config.json")
    family = hf_config.family_of(config, where)
    hf_config.model_config(family, config, where)  # its errors come before those of the tensors
    found = folder.canonical(folder.tensors(place), family, str(place))
    return Published(
        path=place,
        family=family,
        config=config,
        where=where,
        tensors=found,
        table=family.table,
        tokenizer=place,
    )
