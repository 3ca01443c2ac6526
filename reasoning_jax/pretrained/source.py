"""A published model in files: its config, and its tensors by the names of a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from jax.sharding import Mesh

from reasoning_jax.json_object import Json
from reasoning_jax.model.config import ModelConfig
from reasoning_jax.model.decoder import Params
from reasoning_jax.pretrained import hf_config
from reasoning_jax.pretrained.families import Family
from reasoning_jax.pretrained.load import load
from reasoning_jax.pretrained.stored import Tensor
from reasoning_jax.pretrained.tables import Table


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
    """A model in files of another program."""

    path: Path
    family: Family
    config: Mapping[str, Json]  # as a config.json says it
    where: str  # what sentences about the config name
    tensors: Mapping[str, Tensor]
    table: Table
    tokenizer: Path | None
    end_id: int | None = None  # the token that ends a text, where it is not the tokenizer's

    def model_config(
        self, dtype: str = "float32", remat: str = "none", attention: str = "auto"
    ) -> ModelConfig:
        """The static shape of the model; UserError naming the key that cannot be computed."""
        computation = dict(dtype=dtype, remat=remat, attention=attention)
        return hf_config.model_config(self.family, self.config, self.where, **computation)

    def load(self, cfg: ModelConfig, mesh: Mesh | None = None, dtype: str | None = None) -> Params:
        """The parameters on the devices: see ``load.load``."""
        return load(self.tensors, self.table, cfg, mesh, dtype, str(self.path))

    def tokenizer_files(self) -> Path | None:
        """What ``pretrained_tokenizer.read`` reads: a folder or a GGUF file; None without one."""
        return self.tokenizer
