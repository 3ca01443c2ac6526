"""Adapters as PEFT stores them: adapter_config.json and adapter_model.safetensors.

An adapter of a matrix W is two thin ones, and the model computes with W + scale * A B
(Hu et al. 2022, eq. 3). Here ``query_a`` is [L, D, r] and ``query_b`` [L, r, K, G, H]; PEFT's
lora_A is [r, in] and its lora_B [out, r].
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from reasoning_jax.errors import UserError
from reasoning_jax.json_object import Json
from reasoning_jax.model.config import ModelConfig
from reasoning_jax.model.decoder import Params
from reasoning_jax.pretrained import export, folder, hf_write, stored, tables
from reasoning_jax.pretrained.families import Family
from reasoning_jax.pretrained.hf_values import Values
from reasoning_jax.pretrained.stored import Tensor
from reasoning_jax.pretrained.tables import ADAPTED, INPUTS, Shape

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
# Keys of adapter_config.json that change what an adapter is, and the values that this one has.
PLAIN: dict[str, tuple[Json, ...]] = {
    "peft_type": ("LORA",),
    "bias": (None, "none"),
    "use_dora": (None, False),
    "use_qalora": (None, False),
    "lora_bias": (None, False),
    "modules_to_save": (None, []),
    "rank_pattern": (None, {}),
    "alpha_pattern": (None, {}),
    "layers_to_transform": (None, []),
    "layer_replication": (None, []),
    "trainable_token_indices": (None, [], {}),
    "target_parameters": (None, []),
    # Of others (pissa, olora, corda, loftq) PEFT changes the model's matrices too.
    "init_lora_weights": (None, True, False, "gaussian", "eva", "orthogonal"),
    "alora_invocation_tokens": (None, []),
    "arrow_config": (None,),
    "use_bdlora": (None, False),
}

Lora = dict[str, jax.Array]


class Adapter(NamedTuple):
    """What a PEFT folder holds."""

    lora: Lora
    rank: int
    scale: float  # of A B: alpha / rank, or alpha / sqrt(rank)
    base: str  # the name of the model that it belongs to, "" where it is not said


# ---- writing -------------------------------------------------------------------------------------


def write(
    destination: Path,
    lora: Mapping[str, jax.Array],
    cfg: ModelConfig,
    rank: int,
    alpha: float,
    base: str,
    *,
    family: str = "",
) -> None:
    """Writes an adapter that PEFT loads over the base model's folder.

    UserError where there is something at ``destination``, or an adapted matrix is only a part of
    one of the family's.
    """
    found, _ = hf_write.config_for(cfg, family)
    named: dict[str, np.ndarray] = {}
    modules = set()
    for name in (name for name in ADAPTED if f"{name}_a" in lora):
        module = _module(name, found, str(destination))
        modules.add(_target(module))
        shape = _shape(name, cfg)
        inputs, outputs = _flat(name, shape)
        a = np.asarray(lora[f"{name}_a"]).reshape(cfg.num_layers, inputs, rank)
        b = np.asarray(lora[f"{name}_b"]).reshape(cfg.num_layers, rank, outputs)
        for n in range(cfg.num_layers):
            start = PREFIX + module.format(n=n)
            named[f"{start}.lora_A.weight"] = tables.transposed(a[n])
            named[f"{start}.lora_B.weight"] = tables.transposed(b[n])
    config: dict[str, Json] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted(modules),
        "bias": "none",
        "fan_in_fan_out": not found.table["up"].out_first,
        "inference_mode": True,
    }
    _save(destination, named, config)


def write_prompt(destination: Path, vectors: jax.Array, cfg: ModelConfig, base: str) -> None:
    """Writes a soft prompt [P, D] that PEFT loads over the base model's folder.

    UserError where there is something at ``destination``, or the model scales its embeddings: PEFT
    gives the vectors to some of these before that, and to some after it.
    """
    if cfg.embed_scale:
        raise UserError(
            f"{destination}: PEFT has no soft prompt of a model that scales embeddings."
        )
    config: dict[str, Json] = {
        "peft_type": "PROMPT_TUNING",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "num_virtual_tokens": vectors.shape[0],
        "token_dim": vectors.shape[1],
        "num_transformer_submodules": 1,
        "num_attention_heads": cfg.num_heads,
        "num_layers": cfg.num_layers,
        "prompt_tuning_init": "RANDOM",
        "inference_mode": True,
    }
    _save(destination, {"prompt_embeddings": np.asarray(vectors)}, config)


def _save(destination: Path, named: Mapping[str, np.ndarray], config: Mapping[str, Json]) -> None:
    with export.new_folder(destination) as target:
        export.save(dict(named), target / WEIGHTS)
        (target / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _module(name: str, family: Family, where: str) -> str:
    """The module of an adapted matrix, with "{n}" for its layer."""
    place = family.table.get(name)
    if place is None or place.part[1] > 1:
        raise UserError(
            f"{where}: {family.architecture} has no matrix of its own for {name}, "
            "so PEFT has no such adapter; merge it instead."
        )
    return place.name.removesuffix(".weight")


def _target(module: str) -> str:
    """What target_modules calls a module: the end of its name, with its block where needed."""
    block, name = module.split(".")[-2:]
    return f"{block}.{name}" if name == "c_proj" else name


def _shape(name: str, cfg: ModelConfig) -> Shape:
    layers = tables.shapes(cfg)["layers"]
    return layers[name][1:]  # type: ignore[index,call-overload]


def _flat(name: str, shape: Shape) -> tuple[int, int]:
    """The inputs and outputs of a matrix as single dimensions."""
    split = INPUTS[name]
    return int(np.prod(shape[:split])), int(np.prod(shape[split:]))


# ---- reading -------------------------------------------------------------------------------------


def read(source: Path, cfg: ModelConfig, family: Family) -> Adapter:
    """A PEFT folder's adapter for a model of this config, in float32, on the host.

    UserError naming what is missing, left over, of another shape, or of a kind that is refused.
    """
    values = Values(stored.read_json(source / CONFIG), str(source / CONFIG))
    rank, scale = _rank_and_scale(values)
    path = source / WEIGHTS
    if not path.exists() and (source / "adapter_model.bin").exists():
        raise UserError(folder.pickle_problem(source / "adapter_model.bin"))
    have = {
        re.sub(r"\.default(?=\.weight$)", "", name): tensor
        for name, tensor in folder.read_header(path).items()
    }
    lora: Lora = {}
    want: dict[str, Shape] = {}
    for name in ADAPTED:
        place = family.table.get(name)
        if place is None:
            continue
        start = PREFIX + place.name.removesuffix(".weight")
        if f"{start.format(n=0)}.lora_A.weight" not in have:
            continue
        _, outputs = _flat(name, _shape(name, cfg))
        inputs = _flat(name, _shape(name, cfg))[0]
        for n in range(cfg.num_layers):
            want[f"{start.format(n=n)}.lora_A.weight"] = (rank, inputs)
            want[f"{start.format(n=n)}.lora_B.weight"] = (outputs * place.part[1], rank)
    tables.check(have, want, str(path))
    if not want:
        raise UserError(f"{path}: there is no adapter of a matrix of this model in it.")
    for name in ADAPTED:
        place = family.table.get(name)
        start = PREFIX + place.name.removesuffix(".weight") if place else ""
        if place and f"{start.format(n=0)}.lora_A.weight" in have:
            lora |= _stacks(name, start, place.part, have, cfg, rank)
    base = values.values.get("base_model_name_or_path")
    return Adapter(lora=lora, rank=rank, scale=scale, base=base if isinstance(base, str) else "")


def _rank_and_scale(values: Values) -> tuple[int, float]:
    for key, plain in PLAIN.items():
        value = values.values.get(key)
        if value not in plain:
            raise values.error(key, f"is {value!r}, which is not supported here")
    rank, alpha = values.whole("r"), values.number("lora_alpha")
    if rank is None or alpha is None:
        raise values.error("r" if rank is None else "lora_alpha", "is null")
    return rank, alpha / (rank**0.5 if values.flag("use_rslora") else rank)


def _stacks(
    name: str,
    start: str,
    part: tuple[int, int],
    have: Mapping[str, Tensor],
    cfg: ModelConfig,
    rank: int,
) -> Lora:
    shape = _shape(name, cfg)
    split = INPUTS[name]
    outputs = _flat(name, shape)[1]
    a, b = [], []
    for n in range(cfg.num_layers):
        first = have[f"{start.format(n=n)}.lora_A.weight"]
        second = have[f"{start.format(n=n)}.lora_B.weight"]
        a.append(first.read(0, rank).T.reshape(*shape[:split], rank))
        rows = second.read(part[0] * outputs, (part[0] + 1) * outputs)
        b.append(rows.T.reshape(rank, *shape[split:]))
    stacks = {f"{name}_a": np.stack(a), f"{name}_b": np.stack(b)}
    return {key: jnp.asarray(value, jnp.float32) for key, value in stacks.items()}


# ---- merging -------------------------------------------------------------------------------------


def merge(params: Params, lora: Mapping[str, jax.Array], scale: float) -> Params:
    """The parameters with W + scale * A B in place of W, in W's dtype; summed in float32."""
    layers = dict(params["layers"])  # type: ignore[arg-type]
    for name in (name for name in ADAPTED if f"{name}_a" in lora):
        layers[name] = _merged(layers[name], lora[f"{name}_a"], lora[f"{name}_b"], scale)
    kept = {key: value for key, value in params.items() if key != "lora"}
    return kept | {"layers": layers}


@jax.jit
def _merged(w: jax.Array, a: jax.Array, b: jax.Array, scale: float) -> jax.Array:
    added = jax.vmap(lambda a, b: jnp.tensordot(a, b, 1, precision="highest"))(
        a.astype(jnp.float32), b.astype(jnp.float32)
    )
    return (w.astype(jnp.float32) + scale * added).astype(w.dtype)
