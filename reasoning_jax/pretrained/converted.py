"""What ``convert`` makes: parameters as an Orbax checkpoint, and model.json that describes them.

DIR/model.json               the family, the fields of ModelConfig, the config.json it came with
DIR/checkpoints/0            the parameters, in the dtype that they were stored in
DIR/tokenizer.json ...       the tokenizer's files; tokenizer.gguf is a GGUF file's metadata
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import jax
from jax.sharding import Mesh

from reasoning_jax import text_files, workdir
from reasoning_jax.errors import UserError
from reasoning_jax.json_object import Json
from reasoning_jax.model import sharding
from reasoning_jax.model.config import ModelConfig, RopeScaling
from reasoning_jax.model.decoder import Params
from reasoning_jax.pretrained import families, load, stored, tables
from reasoning_jax.pretrained.families import Family
from reasoning_jax.training import checkpoint

MODEL = "model.json"
DIRECTORY = "checkpoints"
FORMAT = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Converted:
    """A model as ``convert`` wrote it."""

    path: Path
    family: Family
    config: Mapping[str, Json]  # the config.json that it came with
    fields: Mapping[str, Json]  # of ModelConfig
    dtypes: Mapping[str, str]  # of each parameter by its dotted name

    def model_config(
        self, dtype: str = "float32", remat: str = "none", attention: str = "auto"
    ) -> ModelConfig:
        """The static shape of the model; UserError naming model.json."""
        where = str(self.path / MODEL)
        fields = dict(self.fields) | dict(dtype=dtype, remat=remat, attention=attention)
        scaling = fields.get("rope_scaling")
        try:
            if isinstance(scaling, dict):
                fields["rope_scaling"] = RopeScaling(**scaling)  # type: ignore[assignment]
            fields["local_layers"] = tuple(fields.get("local_layers") or ())  # type: ignore
            _check_types(fields)
            return ModelConfig(**fields)  # type: ignore[arg-type]
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        except (TypeError, ValueError):
            raise UserError(
                f"{where}: 'model' does not describe a model of this version."
            ) from None

    def load(self, cfg: ModelConfig, mesh: Mesh | None = None, dtype: str | None = None) -> Params:
        """The parameters on the devices: see ``load.load``."""
        own_mesh = mesh or sharding.make_mesh(1, 1, 1, jax.devices()[:1])
        shapes = tables.shapes(cfg)
        abstract = load.abstract_params(shapes, "float32", own_mesh)

        def leaf(path: tuple, x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            own = self.dtypes.get(name, "float32")
            if dtype is not None:
                own = dtype if load.is_cast(path[-1].key) else "float32"
            return jax.ShapeDtypeStruct(x.shape, own, sharding=x.sharding)

        target = jax.tree_util.tree_map_with_path(leaf, abstract)
        return checkpoint.load_params(self.path / DIRECTORY, target)[0]

    def tokenizer_files(self) -> Path:
        """The folder with the tokenizer's files."""
        return self.path


def _check_types(fields: Mapping[str, object]) -> None:
    """TypeError or ValueError where a number of model.json cannot be one of a model."""
    kinds = {"int": int, "float": (int, float), "bool": bool, "str": str}
    for field in dataclasses.fields(ModelConfig):
        kind = kinds.get(str(field.type))
        if kind is None or field.name not in fields:
            continue
        value = fields[field.name]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise TypeError(field.name)
        is_size = field.default is dataclasses.MISSING
        if not isinstance(value, str) and not is_size <= value < 2**31:  # type: ignore[operator]
            raise ValueError(field.name)


def open(folder: Path) -> Converted:
    """What ``convert`` made; UserError naming model.json."""
    path = folder / MODEL
    about = stored.read_json(path)
    if about.get("format") != FORMAT:
        raise UserError(
            f"{path}: 'format' is {about.get('format')!r}; this version reads {FORMAT}."
        )
    objects = {}
    for key in ("model", "config", "dtypes"):
        value = about.get(key)
        if not isinstance(value, dict):
            raise UserError(f"{path}: {key!r} is {text_files.kind_of(value)}, not an object.")
        objects[key] = value
    return Converted(
        path=folder,
        family=families.get(str(about.get("family")), str(path)),
        config=objects["config"],
        fields=objects["model"],
        dtypes=objects["dtypes"],
    )


def save(
    folder: Path, params: Params, cfg: ModelConfig, family: Family, config: Mapping[str, Json]
) -> None:
    """Writes the parameters and then model.json, without which the folder is no model."""
    checkpoint.save(folder / DIRECTORY, 0, params, None, {"round": 0}, keep=1)
    dtypes = {}
    for path, x in jax.tree_util.tree_flatten_with_path(params)[0]:
        dtypes[jax.tree_util.keystr(path, simple=True, separator=".")] = str(x.dtype)
    fields = dataclasses.asdict(cfg)
    for name in ("dtype", "remat", "attention"):  # of a computation, not of a model
        del fields[name]
    about = {
        "format": FORMAT,
        "family": family.name,
        "model": fields,
        "config": dict(config),
        "dtypes": dtypes,
    }
    workdir.write(folder / MODEL, (json.dumps(about, indent=1, sort_keys=True) + "\n").encode())
