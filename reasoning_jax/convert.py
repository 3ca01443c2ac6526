"""Converts models between files of other programs and this one's.

    python -m reasoning_jax.convert SOURCE DEST [--merge] [--base=PATH]

SOURCE decides what DEST becomes:
    a Hugging Face folder, a GGUF file, a llama2.c file    a folder that model.source reads
    such a folder, or a run's work directory               a Hugging Face folder
    the work directory of a run that trained an adapter    a PEFT folder; with --merge the model
    a PEFT folder, with --base=MODEL                       the Hugging Face folder of both

Of a work directory the best round is taken, else the newest checkpoint. DEST must be new.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags
from ml_collections import ConfigDict

from reasoning_jax import command_line, workdir
from reasoning_jax.errors import MissingFileError, UserError

if TYPE_CHECKING:
    from reasoning_jax.experiment import Experiment
    from reasoning_jax.model.decoder import Params
    from reasoning_jax.pretrained import Source


def define(values: flags.FlagValues) -> None:
    """The command's own flags."""
    flags.DEFINE_multi_string("paths", [], "SOURCE and DEST, which may stand alone.", values)
    flags.DEFINE_boolean("merge", False, "Adds a trained adapter to the model's matrices.", values)
    flags.DEFINE_string("base", None, "The model that a PEFT folder belongs to.", values)


def main(cfg: ConfigDict, folder: Path, values: flags.FlagValues) -> None:
    """The command."""
    if len(values.paths) != 2:
        raise UserError(f"convert takes two paths, SOURCE and DEST, not {len(values.paths)}.")
    source, destination = (workdir.path(name) for name in values.paths)
    if not source.exists():
        raise MissingFileError(f"{source}: there is no such file or folder.")
    _check_outside(source, destination)

    from reasoning_jax.pretrained import export

    export.check_free(destination)
    if (source / "adapter_config.json").exists():
        made = _merge_peft(source, destination, values.base)
    elif values.base:
        raise UserError(f"--base={values.base}: {source} is no PEFT folder.")
    elif _is_run(source):
        made = _export_run(source, destination, values.merge)
    elif values.merge:
        raise UserError(f"--merge: {source} is no run that trained an adapter.")
    else:
        made = _convert(source, destination)
    print(f"{destination}: {made}")


def _check_outside(source: Path, destination: Path) -> None:
    """UserError where the result would be a part of what it is made from."""
    if workdir.is_local(source) and workdir.is_local(destination):
        if destination.resolve().is_relative_to(source.resolve()):
            raise UserError(f"{destination}: this is inside of {source}; name another folder.")


def _is_run(source: Path) -> bool:
    """Whether this is the work directory of a run: its config.json is an experiment's."""
    if not (source / "config.json").exists() or (source / "model.json").exists():
        return False
    from reasoning_jax.pretrained import stored

    return {"rounds", "algorithm"} <= stored.read_json(source / "config.json").keys()


def _convert(source: Path, destination: Path) -> str:
    from reasoning_jax import pretrained
    from reasoning_jax.pretrained import converted

    opened = pretrained.open(source)
    if isinstance(opened, converted.Converted):
        _export_source(opened, destination)
        return "a Hugging Face folder"
    _import(opened, destination)
    return f"a model of the family {opened.family.name}, for model.source"


def _import(opened: Source, destination: Path) -> None:
    """A model in another program's files as this one's folder."""
    from reasoning_jax.pretrained import converted, export

    cfg = opened.model_config()
    params = opened.load(cfg)
    destination.mkdir(parents=True, exist_ok=True)
    tokenizer = opened.tokenizer_files()
    if tokenizer is not None:
        export.copy_tokenizer(tokenizer, destination)
    converted.save(destination, params, cfg, opened.family, opened.config)


def _export_source(opened: Source, destination: Path) -> None:
    """One of this program's folders as a Hugging Face folder."""
    from reasoning_jax.pretrained import export

    cfg = opened.model_config()
    export.write(
        destination,
        opened.load(cfg),
        cfg,
        family=opened.family.name,
        base=opened.config,
        tokenizer=opened.tokenizer_files(),
    )


def _export_run(source: Path, destination: Path, merge: bool) -> str:
    """The model of a run's best round as a Hugging Face folder, or its adapter as a PEFT folder."""
    import jax

    from reasoning_jax import config, experiment
    from reasoning_jax.pretrained import peft
    from reasoning_jax.training import checkpoint

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
    from reasoning_jax.pretrained import export

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


def _merge_peft(source: Path, destination: Path, base: str | None) -> str:
    """A model and a PEFT adapter of it as one Hugging Face folder."""
    if not base:
        raise UserError(f"{source}: this is an adapter; name its model by --base=PATH.")
    from reasoning_jax import pretrained
    from reasoning_jax.pretrained import export, peft

    opened = pretrained.open(base)
    cfg = opened.model_config()
    adapter = peft.read(source, cfg, opened.family)
    params = peft.merge(opened.load(cfg), adapter.lora, adapter.scale)
    export.write(
        destination,
        params,
        cfg,
        family=opened.family.name,
        base=opened.config,
        tokenizer=opened.tokenizer_files(),
    )
    return f"a Hugging Face folder, of {base} with the adapter"


if __name__ == "__main__":
    command_line.run(main, define, words="paths", needs_run=False, needs_config=False)
