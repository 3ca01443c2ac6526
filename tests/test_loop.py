"""The loop as a whole: what a run writes, STaR's restart from the base, any number of devices."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import star_addition
from reasoning_jax.training import checkpoint, state
from reasoning_jax import experiment, loop, metrics, workdir
from reasoning_jax.algorithms import sft, star

ROOT = Path(__file__).resolve().parent.parent
OVERRIDES = {
    "task.num_eval": 8,
    "base.num_updates": 12,
    "base.hinted": 1.0,  # so that rationalization keeps something even of a model that has hardly begun
    "algorithm.examples_per_round": 48,
    "algorithm.start_updates": 7,
    "algorithm.increment": 1,
    "algorithm.min_kept_rows": 1,
    "algorithm.patience": 0,
    "sampling.max_new_tokens": 40,
    "sampling.batch_size": 32,
    "checkpoint.every": 3,
    "log_every": 1,
}


def config(**more):
    c = star_addition.get_config("smoke")
    for key, value in (OVERRIDES | more).items():
        section, _, name = key.rpartition(".")
        (c[section] if section else c)[name] = value
    return c


def final_params(directory):
    exp = experiment.make(config())
    steps = sorted(int(p.name) for p in (directory / "checkpoints").iterdir() if p.name.isdigit())
    found = checkpoint.restore(directory / "checkpoints", exp.abstract_state().params)
    return steps[-1], jax.tree.map(np.asarray, found[0]), found[2]


def same(a, b):
    return all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A whole run on eight devices, which also notes the parameters that each round's updates began from."""
    directory = tmp_path_factory.mktemp("run") / "run"
    starts, compiled = [], loop.update.make_update

    def watched(method, *args):
        step = compiled(method, *args)

        def update(state, batch, rate):
            if not any(np.any(x) for x in jax.tree.leaves(state.opt_state)):  # a fresh optimiser
                starts.append((method, jax.device_get(state)))
            return step(state, batch, rate)

        return update

    # The base model must keep something, or there is nothing to test: it is trained until hinted samples come out right.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.update, "make_update", watched)
        loop.train(config(**{"base.num_updates": 80}), directory)
    return directory, starts


def test_a_run_writes_what_it_promises(run):
    directory, _ = run
    lines = metrics.read(directory)
    assert {m["phase"] for m in lines} == {"collect", "update", "eval"}
    evaluated = [(m["round"], m["split"]) for m in lines if m["phase"] == "eval"]
    assert (0, "validation") in evaluated and (0, "test") in evaluated  # accuracy before round 1
    assert {(1, "validation"), (2, "validation"), (2, "test")} <= set(evaluated)
    assert all(a["step"] <= b["step"] for a, b in zip(lines, lines[1:], strict=False))
    collected = [m for m in lines if m["phase"] == "collect" and m["round"]]
    for line in collected:
        for key in (
            "correct",
            "kept",
            "kept_rows",
            "rationalized",
            "hinted_accuracy",
            "unparsed",
            "truncated",
            "true_lines",
        ):
            assert f"collect/{key}" in line
    for n in (1, 2):
        samples = [
            json.loads(s)
            for s in (directory / f"rounds/000{n}/samples.jsonl").read_text().splitlines()
        ]
        rows, _ = workdir.read_rows(directory / f"rounds/000{n}/rows.npz", ())
        assert (
            len(rows)
            == sum(s["kept"] for s in samples)
            == collected[n - 1]["collect/kept_rows"]
            > 0
        )
        assert all(s["verdict"] == "correct" for s in samples if s["kept"])
    assert (directory / "report.html").stat().st_size > 10_000
    assert any(p.name.startswith("events.out.tfevents") for p in directory.iterdir())
    assert (
        len([p for p in (directory / "checkpoints").iterdir() if p.name.isdigit()])
        <= config().checkpoint.keep
    )


def test_every_round_starts_from_the_base_with_a_fresh_optimiser(run):
    directory, starts = run
    exp = experiment.make(config())
    base = checkpoint.restore(directory / "base", exp.abstract_state().params)[0]
    assert [method for method, _ in starts] == [sft, star, star]
    for _, begun in starts[1:]:
        assert same(begun.params, jax.device_get(base))
    assert [int(begun.step) for _, begun in starts] == [0, 80, 87]


def test_no_hint_and_no_failure_in_what_is_trained_on(run):
    directory, _ = run
    exp = experiment.make(config())
    for n in (1, 2):
        rows, _ = workdir.read_rows(directory / f"rounds/000{n}/rows.npz", ())
        for row in rows:
            assert (
                np.sum(row["tokens"] == exp.tokenizer.bos_id) == 1
                and row["tokens"][0] == exp.tokenizer.bos_id
            )
            prompt = exp.tokenizer.decode(row["tokens"][row["weights"] == 0].tolist())
            completion = exp.tokenizer.decode(row["tokens"][row["weights"] == 1].tolist())
            a, b = map(int, prompt.removesuffix("\n").split("+"))  # the question and no more
            assert exp.task.extract(completion) == str(a + b)
            assert row["tokens"][-1] == exp.tokenizer.eos_id and row["weights"][-1] == 1


@pytest.mark.parametrize("devices, fsdp", [(1, 1), (2, 2), (8, 4)])
def test_any_number_of_devices_collects_the_same_and_learns_the_same(run, tmp_path, devices, fsdp):
    """Against the run on eight `data` devices: the base model's samples token for token, and the first losses."""
    directory, _ = run
    cfg = config(**{"base.num_updates": 80, "mesh.fsdp": fsdp, "mesh.data": -1})
    exp = experiment.make(cfg, jax.devices()[:devices])
    params = checkpoint.restore(directory / "base", exp.abstract_state().params)[0]
    source = exp.load("train")
    indices = loop.data.examples_for_round(len(source), 48, cfg.seed, 0)
    examples = [source[int(i)] for i in indices]
    rows, _, _ = star.collect(exp.rollout(params, "collect", 1), examples, (), 1, cfg)
    kept, _ = workdir.read_rows(directory / "rounds/0001/rows.npz", ())
    assert len(rows) == len(kept)
    for mine, theirs in zip(rows, kept, strict=True):
        np.testing.assert_array_equal(mine["tokens"], theirs["tokens"])

    step = loop.update.make_update(star, exp.model_cfg, loop.optim.make(cfg.optim), cfg)
    shardings = jax.tree.map(lambda x: x.sharding, exp.abstract_state())
    begun = jax.jit(lambda p: state.fresh(p, loop.optim.make(cfg.optim)), out_shardings=shardings)(
        params
    )
    batches = iter(
        loop.data.batches(
            kept, batch_size=cfg.batch_size, length=cfg.sequence_length, seed=cfg.seed * 4096 + 1
        )
    )
    theirs = [
        m["update/loss"]
        for m in metrics.read(directory)
        if m["phase"] == "update" and m["round"] == 1
    ]
    for update in range(3):
        batch = loop.sharding.put(
            {k: v[None] for k, v in next(batches).items()}, exp.mesh, None, "batch", None
        )
        rate = np.float32(loop.optim.learning_rate(cfg.optim, cfg.optim.learning_rate, update, 7))
        begun, measured = step(begun, batch, rate)
        assert float(measured["loss"]) == pytest.approx(theirs[update], rel=2e-5)


def test_finished_runs_say_so_and_go_on_when_given_more_rounds(run, capsys):
    directory, _ = run
    before = final_params(directory)
    loop.train(config(**{"base.num_updates": 80}), directory)
    assert "finished" in capsys.readouterr().out
    assert same(before[1], final_params(directory)[1])
