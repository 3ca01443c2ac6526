"""How a run starts: its config and data are checked, its folder is claimed, and it goes on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from ml_collections import ConfigDict

from reasoning_jax import (
    algorithms,
    config,
    data_checks,
    default,
    experiment,
    forwards,
    metrics,
    multihost,
    run_record,
    workdir,
)
from reasoning_jax.errors import UserError
from reasoning_jax.model.decoder import Params
from reasoning_jax.position import from_meta
from reasoning_jax.run_lock import RunLock
from reasoning_jax.run_state import Run, Stage, restart
from reasoning_jax.training import checkpoint, optim, state
from reasoning_jax.training.train_step import make_train_step


def base_config(cfg: ConfigDict) -> ConfigDict:
    """The config of round 0: the experiment's, with the method and the settings of ``base``."""
    base = cfg.copy_and_resolve_references()
    with base.unlocked():
        base.algorithm = base.base.algorithm  # the copy's, not the experiment's own
    base.optim.learning_rate = cfg.base.learning_rate
    base.rounds.split = cfg.base.split
    base.rounds.examples = 0
    base.rounds.online = False
    base.rounds.restart = False
    base.rounds.updates = cfg.base.num_updates
    # The schedule is for round 1 on; in round 0 it would divide by the growth.
    base.rounds.growth = 1.0
    base.rounds.increment = 0
    forward = forwards.get(cfg.forward.name).BASE
    if forward:
        with base.unlocked():
            base.forward = default.section(forwards, forward)
    return base


def start(cfg: ConfigDict, directory: Path) -> Run:
    """The run from its newest checkpoint, or a new one from ``base.init_from`` or random
    parameters.

    UserError for anything wrong with the config or the data, before anything in the directory
    changes. The caller releases the run's lock at the end.
    """
    exp = experiment.make(cfg)
    base_stage = _base_stage(exp, cfg) if cfg.base.num_updates else None
    method_stage = _stage(exp, cfg)
    data_checks.check_shots(exp)
    data_checks.check_evaluations(exp)
    stages = [stage for stage in (base_stage, method_stage) if stage is not None]
    for stage in stages:
        last = cfg.rounds.count if stage is method_stage else 0
        data_checks.check_method(exp, stage.algorithm, stage.source, stage.cfg, last)
    memory = method_stage.algorithm.init_memory(cfg, len(method_stage.source))
    splits = {stage.cfg.rounds.split: stage.source for stage in stages}
    splits |= {split: exp.load(split) for split in (cfg.eval.split, "test")}
    fingerprints = run_record.fingerprints(exp, splits, method_stage.algorithm)
    flat_cfg = workdir.flat(config.as_dict(cfg))
    multihost.assert_same({f"config.{key}": value for key, value in flat_cfg.items()})
    multihost.assert_same(
        {f"The fingerprint of {name}": value for name, value in fingerprints.items()}
    )
    multihost.broadcast_from_process_0(lambda: _check(cfg, directory, fingerprints))
    run = Run(
        cfg=cfg,
        dir=directory,
        exp=exp,
        base_stage=base_stage,
        method_stage=method_stage,
        writer=metrics.Writer(directory, active=multihost.is_process_0()),
        lock=RunLock(directory),
        abstract=exp.abstract_state(),
        state=exp.abstract_state(),
        memory=memory,
    )
    try:
        multihost.broadcast_from_process_0(run.lock.acquire)
        _begin_or_resume(run, fingerprints)
    except BaseException:
        run.lock.release()
        raise
    return run


def _stage(exp: experiment.Experiment, cfg: ConfigDict) -> Stage:
    algorithm = algorithms.get(cfg.algorithm.name)
    algorithm.check(cfg)
    return Stage(
        algorithm=algorithm,
        cfg=cfg,
        source=exp.load(cfg.rounds.split),
        train_step=make_train_step(algorithm, exp.model_cfg, optim.make(cfg.optim), cfg),
    )


def _base_stage(exp: experiment.Experiment, cfg: ConfigDict) -> Stage:
    algorithm = algorithms.get(cfg.base.algorithm.name)
    own_memory = algorithm.init_memory is not algorithms.no_memory
    own_side_model = algorithm.side_model is not algorithms.no_side_model
    if own_memory or own_side_model or algorithm.begin:
        raise UserError(
            f"config.base.algorithm.name: {algorithm.name} has a memory, a side model or a "
            "step before round 1; the base model needs a method that has none, such as sft."
        )
    return _stage(exp, base_config(cfg))


def _check(cfg: ConfigDict, directory: Path, fingerprints: Mapping[str, str]) -> None:
    workdir.check_config(cfg, directory, _upgrade_for(directory))
    if workdir.has_begun(directory):
        run_record.check_data(directory, fingerprints)


def _claim(cfg: ConfigDict, directory: Path) -> None:
    workdir.claim(cfg, directory, _upgrade_for(directory))


def _upgrade_for(directory: Path) -> Callable[[dict], dict]:
    """A function that turns the directory's config.json into one of this version."""
    path = directory / "config.json"
    return lambda saved: config.as_dict(config.from_saved(saved, path))


def _begin_or_resume(run: Run, fingerprints: Mapping[str, str]) -> None:
    """Puts the run where its newest checkpoint was, or at its beginning.

    UserError, and nothing is written, where it has been saved and there is no checkpoint now.
    """
    folder = run.dir / "checkpoints"
    rest = {"state": run.abstract.replace(params=()), "memory": run.memory}
    restored = checkpoint.restore(folder, run.abstract.params, rest)
    meta = run.exp.check_stamp(restored.meta, folder) if restored is not None else {}

    def check_and_write() -> None:
        if restored is None and run_record.has_been_saved(run.dir):
            raise UserError(
                f"{run.dir} holds the results of a run, but {folder} holds no checkpoint to go on "
                "from; put it back or use another --workdir."
            )
        _claim(run.cfg, run.dir)
        run_record.claim(run.dir, fingerprints, saved=restored is not None)

    if restored is None:
        multihost.broadcast_from_process_0(check_and_write)
        _begin(run)
        return
    run.position = from_meta(meta, folder)
    run.state = restored.rest["state"].replace(params=restored.params)
    run.memory = restored.rest["memory"]
    run.has_been_saved = True
    multihost.broadcast_from_process_0(check_and_write)
    _resume(run)


def _resume(run: Run) -> None:
    position = run.position
    # The config may have more rounds than when the run was stopped, or fewer.
    has_rounds_left = position.round <= run.cfg.rounds.count
    stopped_early = position.finished and run.is_out_of_patience()
    position.finished = stopped_early or not has_rounds_left
    if position.finished:
        multihost.print_once(f"{run.dir}: this run is finished.")
        return
    if multihost.is_process_0() and run.writer.size() < position.metrics_bytes:
        log = run.dir / "metrics.jsonl"
        print(f"WARNING: {log}: lines of the log have been lost.", file=sys.stderr, flush=True)
    run.writer.truncate(position.metrics_bytes, int(run.state.step))
    multihost.print_once(
        f"{run.dir}: going on in round {position.round} after {position.update} updates."
    )
    run.newest_checkpoint = int(run.state.step) + position.round


def _begin(run: Run) -> None:
    run.writer.truncate(0, 0)
    optimizer = optim.make(run.cfg.optim)
    run.state = state.around(run.exp.initial_params(), optimizer)
    if run.cfg.base.init_from:
        folder = workdir.path(run.cfg.base.init_from)
        params, meta = _load_base(run, folder)
        run.exp.check_stamp(meta, folder)
        restart(run, params)


def _load_base(run: Run, folder: Path) -> tuple[Params, checkpoint.Meta]:
    """The parameters of another run, which may lack those that this run's forward adds."""
    try:
        return checkpoint.load_params(folder, run.abstract.params)
    except UserError:
        added = run.exp.forward_params()
        if not added:
            raise
    model = {name: x for name, x in run.abstract.params.items() if name not in added}
    params, meta = checkpoint.load_params(folder, model)
    return params | added, meta
