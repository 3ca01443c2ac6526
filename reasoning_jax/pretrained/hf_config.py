"""config.json of a Hugging Face folder to ModelConfig and back, by the family's table.

The two spellings of rotary frequencies are read: rope_theta with rope_scaling (transformers 4) and
rope_parameters (transformers 5, for Gemma 3 one for each kind of layer). The first is written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from reasoning_jax.errors import UserError
from reasoning_jax.json_object import Json
from reasoning_jax.model.config import ModelConfig, RopeScaling
from reasoning_jax.pretrained.families import BY_NAME, FAMILIES, Family
from reasoning_jax.pretrained.hf_values import LARGEST, Values, shown
from reasoning_jax.pretrained.tables import nearest

ACTIVATIONS = {  # by the names of config.json
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu",
    "gelu_new": "gelu",
}
WRITTEN = {"silu": "silu", "gelu": "gelu_pytorch_tanh"}
MOST_LAYERS = 4096
COMPUTATION = ("dtype", "remat", "attention", "lora_scale")  # fields that no config.json has
TYPES = {field.name: str(field.type) for field in dataclasses.fields(ModelConfig)}
# Keys that stand beside text_config and are about it too.
OUTER = ("tie_word_embeddings", "quantization_config", "compression_config")
FULL, LOCAL = "full_attention", "sliding_attention"


def family_of(config: Mapping[str, Json], where: str) -> Family:
    """The family of a config.json; UserError with the known ones for another."""
    names = config.get("architectures")
    if names is None:
        name, by = config.get("model_type"), "model_type"
        known = {family.model_type: family for family in FAMILIES} | {"gemma3": BY_NAME["gemma3"]}
    else:
        name, by = names[0] if isinstance(names, list) and names else names, "architectures"
        known = {}
        for family in FAMILIES:
            known |= dict.fromkeys((family.architecture, *family.others), family)
    if not isinstance(name, str) or name not in known:
        listed = ", ".join(sorted(known))
        hint = nearest(str(name), known)
        raise UserError(
            f"{where}: {by} is {name!r}, which this decoder is not{hint}; it reads {listed}."
        )
    return known[name]


def text_config(config: Mapping[str, Json], where: str) -> Mapping[str, Json]:
    """The part about the language model: text_config where there is one, else all."""
    inner = Values(config, where).object("text_config")
    if inner is None:
        return config
    return {key: config[key] for key in OUTER if key in config} | dict(inner)


def model_config(
    family: Family, config: Mapping[str, Json], where: str, **computation: Any
) -> ModelConfig:
    """The ModelConfig of a family's config.json.

    computation: dtype, remat, attention. UserError names the key that is missing, of the wrong
    type, or asks for what this decoder does not compute.
    """
    values = Values(text_config(config, where), where, family.defaults)
    _check_computed(family, values)
    fields = dict(family.flags) | _sizes(family, values)
    fields["activation"] = _activation(family, values)
    for key, names in family.switches.items():
        if values.flag(key):
            fields |= dict.fromkeys(names, True)
    fields |= _window(family, values, fields["num_layers"])
    if family.rotary:
        fields |= _rotary(family, values, any(fields.get("local_layers", ())))
    try:
        return ModelConfig(**fields, **computation)
    except UserError as error:
        raise UserError(f"{where}: {str(error).replace('config.model', 'the model')}") from None


def _check_computed(family: Family, values: Values) -> None:
    """UserError naming a key that asks for what this decoder does not compute."""
    for key in ("quantization_config", "compression_config"):
        if values.values.get(key) is not None:
            raise values.error(
                key, "says that the weights are quantised; load the model with full weights"
            )
    for key, wanted in family.fixed.items():
        if values.values.get(key) not in (None, wanted):
            raise values.error(key, f"is not {str(wanted).lower()}, which this decoder does not do")
    for key in ("attention_bias", "mlp_bias"):
        if key not in family.switches and values.flag(key):
            raise values.error(key, f"is true, which {family.architecture} does not have here")
    for key, value in values.values.items():
        if "experts" in key and type(value) is int and value > 1:
            raise values.error(key, f"is {value}: mixtures of experts are not supported")
    if values.values.get("partial_rotary_factor") not in (None, 1, 1.0):
        raise values.error("partial_rotary_factor", "is not 1, which this decoder does not do")


def _sizes(family: Family, values: Values) -> dict[str, Any]:
    """The fields of ``Family.keys``."""
    fields: dict[str, Any] = {}
    for field, key in family.keys.items():
        if TYPES[field] == "bool":
            fields[field] = values.flag(key)
        elif TYPES[field] == "float":
            fields[field] = values.number(key)
        else:
            most = MOST_LAYERS if field == "num_layers" else LARGEST
            fields[field] = values.whole(key, most)
    fields.setdefault("num_kv_heads")
    fields.setdefault("head_dim")
    _fill(fields, family, values)
    turned = fields.get("rotary_dim", 0)
    if turned > fields["head_dim"] or turned % 2:
        raise values.error("rotary_dim", f"is {turned}, no even part of a head")
    return fields


def _fill(fields: dict[str, Any], family: Family, values: Values) -> None:
    """What a size is where the config says null; UserError where it must not be null."""
    heads, width = fields["num_heads"], fields["width"]
    for field in ("width", "num_heads", "num_layers", "vocab_size", "norm_eps", "mlp_dim"):
        may_be_null = family.keys[field] == "n_inner"
        if fields[field] is None and not may_be_null:
            raise values.error(family.keys[field], "is null")
    if fields["head_dim"] is None and width % heads:
        raise values.error(
            family.keys["num_heads"], f"is {heads}, which does not divide the width {width}"
        )
    instead = {"num_kv_heads": heads, "head_dim": width // heads, "mlp_dim": 4 * width}
    for field, value in fields.items():
        if value is None:
            fields[field] = instead.get(field, 0.0 if TYPES[field] == "float" else 0)


def _activation(family: Family, values: Values) -> str:
    """Gemma's old configs have ``hidden_act`` instead of ``hidden_activation``, or null."""
    key = family.activation
    if values.values.get(key) is None:
        key = "hidden_act"
    name = values.get(key)
    if not isinstance(name, str) or name not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise values.error(key, f"is {name!r}; this decoder has {known}")
    return ACTIVATIONS[name]


def _window(family: Family, values: Values, num_layers: int) -> dict[str, Any]:
    """The fields ``window`` and ``local_layers``."""
    if not family.window:
        return {}
    window = values.whole("sliding_window")
    if family.window == "upper" and not values.flag("use_sliding_window"):
        window = None
    if window is None:
        return {}
    if family.window == "all":
        return {"window": window}
    local = _layer_types(values, num_layers)
    if local is None and family.window == "upper":
        first = values.get("max_window_layers")
        if type(first) is not int:
            raise values.error("max_window_layers", f"is {shown(first)}, not a whole number")
        local = tuple(i >= first for i in range(num_layers))
    if local is None:
        pattern = family.pattern
        if values.values.get("sliding_window_pattern") is not None:
            pattern = values.whole("sliding_window_pattern")
        local = tuple(bool((i + 1) % pattern) for i in range(num_layers))
    return {"window": window, "local_layers": local} if any(local) else {}


def _layer_types(values: Values, num_layers: int) -> tuple[bool, ...] | None:
    types = values.values.get("layer_types")
    if types is None:
        return None
    if not isinstance(types, list) or len(types) != num_layers:
        raise values.error("layer_types", f"is no list of one name for each of {num_layers} layers")
    for name in types:
        if name not in (FULL, LOCAL):
            raise values.error("layer_types", f"has {name!r}; this decoder has {FULL} and {LOCAL}")
    return tuple(name == LOCAL for name in types)


def _rotary(family: Family, values: Values, has_local: bool) -> dict[str, Any]:
    """The fields of rotary embedding."""
    parameters = values.object("rope_parameters") or {}
    scaling = parameters or values.object("rope_scaling") or {}
    local: Mapping[str, Json] = {}
    if isinstance(parameters.get(FULL), dict):
        scaling, local = parameters[FULL], parameters.get(LOCAL) or {}  # type: ignore[assignment]
    where = f"{values.where}: rope_parameters" if parameters else f"{values.where}: rope_scaling"
    if not isinstance(local, dict):
        raise UserError(f"{where}: {LOCAL!r} is {shown(local)}, not an object.")
    own = Values(scaling, where, {"rope_theta": values.values.get("rope_theta")})
    fields: dict[str, Any] = {"rope_theta": own.number("rope_theta")}
    if fields["rope_theta"] is None:
        raise UserError(f"{values.where}: 'rope_theta' is null.")
    if family.local_rotary and has_local:
        theta = values.values.get("rope_local_base_freq")
        local_values = Values(local, where, {"rope_theta": theta})
        _scaling(local_values, {"default"})
        fields["local_rope_theta"] = local_values.number("rope_theta") or 0.0
    return fields | {"rope_scaling": _scaling(own, {"default", "linear", "llama3"})}


def _scaling(own: Values, kinds: set[str]) -> RopeScaling | None:
    kind = own.values.get("rope_type", own.values.get("type")) or "default"
    if not isinstance(kind, str) or kind not in kinds:
        raise UserError(
            f"{own.where} is of the type {kind!r}; this decoder has {', '.join(sorted(kinds))}."
        )
    if own.values.get("partial_rotary_factor") not in (None, 1, 1.0):
        raise own.error("partial_rotary_factor", "is not 1, which this decoder does not do")
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling(kind="linear", factor=_needed(own, "factor"))
    length = own.whole("original_max_position_embeddings")
    if length is None:
        raise own.error("original_max_position_embeddings", "is null")
    return RopeScaling(
        kind="llama3",
        factor=_needed(own, "factor"),
        low_freq_factor=_needed(own, "low_freq_factor"),
        high_freq_factor=_needed(own, "high_freq_factor"),
        original_length=length,
    )


def _needed(values: Values, key: str) -> float:
    value = values.number(key)
    if value is None:
        raise values.error(key, "is null")
    return value
