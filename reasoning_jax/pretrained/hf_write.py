"""ModelConfig to config.json: the family is the first whose config.json says the same model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from reasoning_jax.errors import UserError
from reasoning_jax.json_object import Json
from reasoning_jax.model.config import ModelConfig
from reasoning_jax.pretrained import hf_config
from reasoning_jax.pretrained.families import FAMILIES, Family


def config_for(
    cfg: ModelConfig, name: str = "", base: Mapping[str, Json] | None = None
) -> tuple[Family, dict[str, Json]]:
    """The family and the config.json of a model; UserError where it is of no family.

    name: the family to try first. base: the config.json that the model came with, whose other keys
    are kept.
    """
    for family in sorted(FAMILIES, key=lambda family: family.name != name):
        config = _write(family, cfg)
        try:
            again = hf_config.model_config(family, config, "config.json", **_computation(cfg))
        except UserError:
            continue
        if again == cfg:
            return family, _kept(base) | config
    raise UserError("This model is of no published family: no config.json can describe it.")


def _computation(cfg: ModelConfig) -> dict[str, object]:
    return {name: getattr(cfg, name) for name in hf_config.COMPUTATION}


def _kept(base: Mapping[str, Json] | None) -> dict[str, Json]:
    """Keys of the model's own config.json that say nothing about what it computes."""
    if base is None:
        return {}
    names = ("max_position_embeddings", "n_positions", "n_ctx", "initializer_range", "use_cache")
    text = hf_config.text_config(base, "config.json")
    merged = dict(base) | dict(text)
    ids = [key for key in merged if key.endswith("token_id")]
    return {key: merged[key] for key in (*names, *ids) if key in merged}


def _write(family: Family, cfg: ModelConfig) -> dict[str, Json]:
    config: dict[str, Json] = {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        family.activation: hf_config.WRITTEN[cfg.activation],
    }
    if family.activation == "activation_function":
        config[family.activation] = "gelu_new"
    for field, key in family.keys.items():
        value = getattr(cfg, field)
        is_none = value == 0 and hf_config.TYPES[field] != "bool"
        config[key] = None if is_none else value
    if "query_pre_attn_scalar" in config and float(cfg.query_scale).is_integer():
        config["query_pre_attn_scalar"] = int(cfg.query_scale)
    for key, fields in family.switches.items():
        config[key] = all(getattr(cfg, field) for field in fields)
    return config | _window(family, cfg) | (_rotary(family, cfg) if family.rotary else {})


def _window(family: Family, cfg: ModelConfig) -> dict[str, Json]:
    if not family.window:
        return {}
    config: dict[str, Json] = {"sliding_window": cfg.window or None}
    if family.window == "all":
        return config
    local = cfg.local_layers if cfg.window else (False,) * cfg.num_layers
    names = [hf_config.LOCAL if is_local else hf_config.FULL for is_local in local]
    config["layer_types"] = names
    if family.window == "upper":
        config["use_sliding_window"] = bool(cfg.window)
        config["max_window_layers"] = names.count(hf_config.FULL)
    return config


def _rotary(family: Family, cfg: ModelConfig) -> dict[str, Json]:
    config: dict[str, Json] = {"rope_theta": cfg.rope_theta, "rope_scaling": None}
    if family.local_rotary:
        config["rope_local_base_freq"] = cfg.local_rope_theta or cfg.rope_theta
    scaling = cfg.rope_scaling
    if scaling is None:
        return config
    values = dataclasses.asdict(scaling)
    names = {"kind": "rope_type", "original_length": "original_max_position_embeddings"}
    own = {names.get(key, key): value for key, value in values.items()}
    if scaling.kind == "linear":
        own = {key: own[key] for key in ("rope_type", "factor")}
    return config | {"rope_scaling": own}
