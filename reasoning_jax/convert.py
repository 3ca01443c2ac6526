"""Converts models between files of other programs and this one's.

    python -m reasoning_jax.convert SOURCE DEST [--merge] [--base=PATH]

SOURCE decides what DEST becomes:
    a Hugging Face folder, a GGUF file, a llama2.c file    a folder that model.source reads
    such a folder, or a run's work directory               a Hugging Face folder
    the work directory of a run that trained an adapter    a PEFT folder; with --merge the model
    a PEFT folder, with --base=MODEL                       the Hugging Face folder of both

A run's model is read from where the run read it; --base=MODEL says where it is now.

Of a work directory the best round is taken, else the newest checkpoint. DEST must be new or empty.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags
from ml_collections import ConfigDict

from reasoning_jax import command_line, workdir
from reasoning_jax.errors import MissingFileError, UserError

if TYPE_CHECKING:
    from reasoning_jax.pretrained import Source


def define(values: flags.FlagValues) -> None:
    """The command's own flags."""
    flags.DEFINE_multi_string("paths", [], "SOURCE and DEST, which may stand alone.", values)
    flags.DEFINE_boolean("merge", False, "Adds a trained adapter to the model's matrices.", values)
    flags.DEFINE_string(
        "base", None, "The model that a PEFT folder, or a run's adapter, belongs to.", values
    )


def main(cfg: ConfigDict, folder: Path, values: flags.FlagValues) -> None:
    """The command."""
    if len(values.paths) != 2:
        raise UserError(f"convert takes two paths, SOURCE and DEST, not {len(values.paths)}.")
    source, destination = (workdir.path(name) for name in values.paths)
    if not source.exists():
        raise MissingFileError(f"{source}: there is no such file or folder.")

    from reasoning_jax import run_export
    from reasoning_jax.pretrained import export

    export.check_outside(source, destination)
    export.check_free(destination)
    if (source / "adapter_config.json").exists():
        made = _merge_peft(source, destination, values.base)
    elif _is_run(source):
        made = run_export.write(source, destination, values.merge, values.base or "")
    elif values.base:
        raise UserError(f"--base={values.base}: {source} is neither a PEFT folder nor a run.")
    elif values.merge:
        raise UserError(f"--merge: {source} is no run that trained an adapter.")
    else:
        made = _convert(source, destination)
    print(f"{destination}: {made}")


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
    tokenizer = opened.tokenizer_files()
    with export.new_folder(destination) as folder:
        if tokenizer is not None:
            export.copy_tokenizer(tokenizer, folder)
        converted.save(folder, params, cfg, opened.family, opened.config)


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


def _merge_peft(source: Path, destination: Path, base: str | None) -> str:
    """A model and a PEFT adapter of it as one Hugging Face folder."""
    if not base:
        raise UserError(f"{source}: this is an adapter; name its model by --base=PATH.")
    from reasoning_jax import pretrained
    from reasoning_jax.pretrained import export, peft

    opened = pretrained.open(base)
    cfg = opened.model_config()
    adapter = peft.read(source, cfg, opened.family)
    if adapter.base and Path(adapter.base).name != Path(base).name:
        print(f"The adapter names the model {adapter.base!r}; it is merged into {base}.")
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
