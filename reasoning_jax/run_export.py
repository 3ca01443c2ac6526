"""The model that a run has trained, or its adapter, as files that other programs load."""

from __future__ import annotations

from pathlib import Path

import jax
from ml_collections import ConfigDict

from reasoning_jax import config, experiment, workdir
from reasoning_jax.errors import UserError
from reasoning_jax.experiment import Experiment
from reasoning_jax.model.decoder import Params
from reasoning_jax.pretrained import export, peft
from reasoning_jax.training import checkpoint


def write(source: Path, destination: Path, merge: bool) -> str:
    """The model of a run's best round as a Hugging Face folder, or its adapter as a PEFT folder."""
    cfg = config.rebuild(source)
    cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.tensor, cfg.mesh.sampling_tensor = 1, 1, 1, 0
    exp = experiment.make(cfg, jax.devices()[:1])  # wherever the run was, one device is enough
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
    if exp.source is not None:
        export.write(
            destination,
            params,
            exp.model_cfg,
            family=exp.source.family.name,
            base=exp.source.config,
            tokenizer=exp.source.tokenizer_files(),
        )
        return
    words = exp.tokenizer
    ids = {"bos_token_id": words.bos_id, "eos_token_id": words.eos_id, "pad_token_id": words.pad_id}
    export.write(
        destination,
        params,
        exp.model_cfg,
        extra=ids | {"max_position_embeddings": exp.cfg.sequence_length},
        tokenizer=_tokenizer(exp.cfg),
    )


def _tokenizer(cfg: ConfigDict) -> Path | None:
    """The tokenizer's files, where the run has one that others read too."""
    if cfg.tokenizer.name not in ("sentencepiece", "pretrained") or not cfg.tokenizer.path:
        return None
    path = workdir.path(cfg.tokenizer.path)
    return path if path.exists() else None
