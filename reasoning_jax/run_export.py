"""The model that a run has trained, or its adapter, as files that other programs load."""

from __future__ import annotations

import os
from pathlib import Path

import jax
from ml_collections import ConfigDict

from reasoning_jax import config, experiment, workdir
from reasoning_jax.errors import MissingFileError, UserError
from reasoning_jax.experiment import Experiment
from reasoning_jax.json_object import Json
from reasoning_jax.model.decoder import Params
from reasoning_jax.pretrained import export, peft
from reasoning_jax.training import checkpoint


def write(source: Path, destination: Path, merge: bool, base: str = "") -> str:
    """The model of a run's best round as a Hugging Face folder, or its adapter as a PEFT folder.

    base: where the published model that it was trained from is now; "" = where the run read it.
    """
    cfg = config.rebuild(source)
    cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.tensor, cfg.mesh.sampling_tensor = 1, 1, 1, 0
    if base and not cfg.model.source:
        raise UserError(f"--base={base}: {source} was trained from no published model.")
    cfg.model.source = _absolute(base or cfg.model.source)
    try:
        exp = experiment.make(cfg, jax.devices()[:1])  # wherever the run was, one is enough
    except MissingFileError as error:
        raise UserError(f"The model of {source}: {error} --base=PATH says where it is.") from None
    if exp.forward_params():
        raise UserError(
            f"config.forward.name: the vectors of {cfg.forward.name} have no place in a file that "
            "other programs load."
        )
    params, meta = checkpoint.load_params(source, exp.abstract_state().params)
    exp.check_stamp(meta, source)
    round = f"of round {meta['round']}"
    if not exp.tuning.FREEZES:
        if merge:
            raise UserError(f"--merge: {source} is no run that trained an adapter.")
        _export_experiment(exp, params, destination)
        return f"a Hugging Face folder, {round}"
    if exp.source is None:
        raise UserError(f"{source}: the run names no model that its adapter belongs to.")
    if "soft_prompt" in params:
        if merge:
            raise UserError("--merge: a soft prompt is no part of the model's matrices.")
        peft.write_prompt(destination, params["soft_prompt"], exp.model_cfg, cfg.model.source)
        return f"a PEFT soft prompt, {round}, of {cfg.model.source}"
    if merge:
        whole = exp.source.load(exp.model_cfg, exp.mesh)
        merged = peft.merge(whole, params["lora"], exp.model_cfg.lora_scale)
        _export_experiment(exp, merged, destination)
        return f"a Hugging Face folder, {round}, with its adapter merged"
    peft.write(
        destination,
        params["lora"],
        exp.model_cfg,
        cfg.tune.rank,
        cfg.tune.alpha,
        cfg.model.source,
        family=exp.source.family.name,
    )
    return f"a PEFT adapter, {round}, of {cfg.model.source}"


def _export_experiment(exp: Experiment, params: Params, destination: Path) -> None:
    """A run's whole model as a Hugging Face folder."""
    own_tokenizer = _own_tokenizer(exp.cfg)
    if exp.source is not None:
        export.write(
            destination,
            params,
            exp.model_cfg,
            family=exp.source.family.name,
            base=exp.source.config,
            extra=_ids(exp) if own_tokenizer else None,
            tokenizer=own_tokenizer or exp.source.tokenizer_files(),
        )
        return
    export.write(
        destination,
        params,
        exp.model_cfg,
        extra=_ids(exp) | {"max_position_embeddings": exp.cfg.sequence_length},
        tokenizer=own_tokenizer,
    )


def _ids(exp: Experiment) -> dict[str, Json]:
    """The keys of config.json that belong to the tokenizer."""
    words = exp.tokenizer
    stop_ids = list(words.stop_ids)
    return {
        "bos_token_id": words.bos_id,
        "eos_token_id": stop_ids[0] if len(stop_ids) == 1 else stop_ids,
        "pad_token_id": words.pad_id,
    }


def _absolute(path: str) -> str:
    """A path of this machine from its root, so that it is found from any folder."""
    return os.path.abspath(path) if path and workdir.is_local(workdir.path(path)) else path


def _own_tokenizer(cfg: ConfigDict) -> Path | None:
    """The files of the tokenizer that the config names, where others read it too."""
    if cfg.tokenizer.name not in ("sentencepiece", "pretrained") or not cfg.tokenizer.path:
        return None
    path = workdir.path(cfg.tokenizer.path)
    return path if path.exists() else None
