"""The end of a round: evaluation, the best model so far, and a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator

from reasoning_jax import metrics, multihost, thoughts
from reasoning_jax.errors import UserError
from reasoning_jax.evaluation import accuracy_metrics
from reasoning_jax.events import Event, log, warn
from reasoning_jax.model.decoder import Params
from reasoning_jax.run_state import Run, note_position, save
from reasoning_jax.training import checkpoint


def assess(run: Run) -> Iterator[Event]:
    """Ends a round: validation, the best round so far, the test split now and then, a checkpoint.

    A side model, such as a verifier, is saved under its name instead, and does not compete.
    """
    cfg = run.cfg
    position = run.position
    n = position.round
    if position.update:  # else what was collected is read, and logged, again from the checkpoint
        note_position(run)
    if n == 0:
        _save_params(run, "base", {"round": 0})
    side = run.side_model()
    if side:
        _save_params(run, side.name, {"round": n})
    else:
        yield _compete(run)
    position.finished = n == cfg.rounds.count or run.is_out_of_patience()
    if not side and (position.finished or _is_tested(run, n)):
        yield _evaluate(run, "test", n, run.state.params)
    best = position.best_round
    if position.finished and best != n and not _is_tested(run, best):
        params = _best_params(run)
        if params is not None:
            yield _evaluate(run, "test", best, params)
    if position.finished and n < cfg.rounds.count:
        multihost.print_once(
            f"no gain in {cfg.eval.split} accuracy for {cfg.rounds.patience} evaluations: "
            "stopping here."
        )
    position.round = n + 1
    position.update = 0
    position.iterator = None
    save(run)


def _save_params(run: Run, name: str, meta: checkpoint.Meta) -> None:
    """What is trained, by itself, in a folder of this name."""
    n = run.position.round
    checkpoint.save(run.dir / name, n, run.state.params, None, run.exp.stamped(meta), 1)


def _best_params(run: Run) -> Params | None:
    """The parameters of the best round; None, and a warning, where they are damaged or gone."""
    folder = run.dir / "best"
    best = run.position.best_round
    reason = "it is gone"
    try:
        restored = checkpoint.restore(folder, run.abstract.params)
        if restored is not None and restored.meta["round"] == best:
            return restored.params
    except UserError as error:
        reason = str(error).rstrip(".")
    warn(f"{folder}: the model of round {best}, the best, is not tested ({reason}).")
    return None


def _is_tested(run: Run, round: int) -> bool:
    """Whether a round's model is evaluated on the test split, be it the last or not."""
    every = run.cfg.eval.test_every
    return round == 0 or (every > 0 and round % every == 0)


def _compete(run: Run) -> Event:
    """Whether this round's model is the best so far, by validation accuracy."""
    position = run.position
    n = position.round
    event = _evaluate(run, run.cfg.eval.split, n, run.state.params)
    accuracy = event.values["eval/accuracy"]
    least = position.best_accuracy + run.cfg.rounds.min_gain
    gained = position.best_round <= 0 or accuracy > least
    position.evaluations_without_gain = 0 if gained else position.evaluations_without_gain + 1
    if accuracy > position.best_accuracy or not run.method_stage.algorithm.SELECTS_BEST:
        position.best_accuracy = accuracy
        position.best_round = n
        _save_params(run, "best", {"round": n, "accuracy": accuracy})
    return event


def _evaluate(run: Run, split: str, round: int, params: Params) -> Event:
    """Greedy accuracy on a split, written down; the same questions and draws in every round."""
    label = f"evaluate {split}"
    roll = run.exp.rollout(
        params,
        label,
        round,
        temperature=0.0,
        until_question=True,
        base_params=run.kept_base_params,
    )
    graded = roll(run.exp.load_eval(split))
    values = accuracy_metrics(graded, run.exp.task)
    if split == run.cfg.eval.split:
        thoughts.write(run.dir, round, roll, graded)
    # How many samples an earlier round had drawn is not known any more.
    samples = run.position.samples if round == run.position.round else None
    event = log(run, "eval", values, round=round, split=split, samples=samples)
    levels = metrics.by_difficulty(values).items()
    parts = [f"{name} {value}: {metrics.percent(p)}" for (name, value), (p, _) in levels]
    listed = f" ({', '.join(parts)})" if parts else ""
    accuracy = metrics.percent(values["eval/accuracy"])
    multihost.print_once(f"round {round} {split} accuracy {accuracy}{listed}")
    return event
