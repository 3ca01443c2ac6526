"""The loop as a whole: what a run writes, STaR's restart from the base, any number of devices."""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from cluster import TINY

from reasoning_jax import (
    algorithms,
    config,
    e_step,
    experiment,
    forwards,
    loop,
    m_step,
    metrics,
    overrides,
    position,
    rows_file,
    starting,
)
from reasoning_jax.errors import UserError
from reasoning_jax.model import presets, sharding
from reasoning_jax.tasks import addition
from reasoning_jax.training import checkpoint, optim, packing, state
from reasoning_jax.training.data import examples_for_round
from reasoning_jax.training.train_step import make_train_step

ROOT = Path(__file__).resolve().parent.parent
OVERRIDES = TINY | {
    "rounds.updates": 7,
    "rounds.increment": 1,
    "rounds.min_kept_rows": 1,
    "checkpoint.every": 3,
    "eval.test_every": 4,
    "log_every": 1,
}


def small(**more):
    """The smoke test of STaR, smaller."""
    cfg = config.load(str(ROOT / "configs" / "star_addition.py:smoke"))
    overrides.change(cfg, OVERRIDES | more)
    return cfg


def final_params(directory):
    exp = experiment.make(small())
    restored = checkpoint.restore(directory / "checkpoints", exp.abstract_state().params)
    return jax.tree.map(np.asarray, restored.params)


def same(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A whole run on eight devices, and the states that each round's updates began from."""
    directory = tmp_path_factory.mktemp("run") / "run"
    starts = []

    def watched(algorithm, *args):
        step = make_train_step(algorithm, *args)

        def update(state, batch, rate, frozen):
            if not any(np.any(x) for x in jax.tree.leaves(state.opt_state)):  # a fresh optimiser
                starts.append((algorithm.name, jax.device_get(state)))
            return step(state, batch, rate, frozen)

        return update

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(starting, "make_train_step", watched)
        loop.train(small(), directory)
    return directory, starts


def test_a_run_writes_what_it_promises(run):
    directory, _ = run
    lines = metrics.read(directory)
    assert {m["phase"] for m in lines} == {"collect", "update", "eval"}
    evaluated = {(m["round"], m["split"]) for m in lines if m["phase"] == "eval"}
    assert {(0, "validation"), (0, "test")} <= evaluated  # accuracy before round 1
    assert {(1, "validation"), (2, "validation"), (2, "test")} <= evaluated
    assert all(a["step"] <= b["step"] for a, b in zip(lines, lines[1:], strict=False))
    collected = [m for m in lines if m["phase"] == "collect" and m["round"]]
    names = (
        "correct kept kept_rows rationalized hinted_accuracy unparsed truncated true_lines"
    ).split()
    for line in collected:
        assert {f"collect/{name}" for name in names} <= set(line)
    for n in (1, 2):
        folder = directory / f"rounds/000{n}"
        samples = [json.loads(s) for s in (folder / "samples.jsonl").read_text().splitlines()]
        rows, _ = rows_file.read_rows(folder / "rows.npz", ())
        assert rows and len(rows) == sum(s["kept"] for s in samples)
        assert len(rows) == collected[n - 1]["collect/kept_rows"]
        assert all(s["verdict"] == "correct" for s in samples if s["kept"])
    assert (directory / "report.html").stat().st_size > 10_000
    assert any(p.name.startswith("events.out.tfevents") for p in directory.iterdir())
    saved = [p for p in (directory / "checkpoints").iterdir() if p.name.isdigit()]
    assert len(saved) <= small().checkpoint.keep


def test_every_round_starts_from_the_base_with_a_fresh_optimiser(run):
    directory, starts = run
    exp = experiment.make(small())
    base = checkpoint.restore(directory / "base", exp.abstract_state().params).params
    assert [method for method, _ in starts] == ["sft", "star", "star"]
    for _, begun in starts[1:]:
        assert same(begun.params, jax.device_get(base))
    assert [int(begun.step) for _, begun in starts] == [0, 40, 47]


def test_no_hint_and_no_failure_in_what_is_trained_on(run):
    directory, _ = run
    exp = experiment.make(small())
    bos_id, eos_id = exp.tokenizer.bos_id, exp.tokenizer.eos_id
    for n in (1, 2):
        rows, _ = rows_file.read_rows(directory / f"rounds/000{n}/rows.npz", ())
        for row in rows:
            assert np.sum(row["tokens"] == bos_id) == 1 and row["tokens"][0] == bos_id
            prompt = exp.tokenizer.decode(row["tokens"][row["weights"] == 0].tolist())
            completion = exp.tokenizer.decode(row["tokens"][row["weights"] == 1].tolist())
            a, b = map(int, prompt.removesuffix("\n").split("+"))  # the question and no more
            assert exp.task.extract(completion) == str(a + b)
            assert row["tokens"][-1] == eos_id and row["weights"][-1] == 1


@pytest.mark.parametrize(("devices", "fsdp"), [(1, 1), (2, 2), (8, 4)])
def test_any_number_of_devices_collects_the_same_and_learns_the_same(run, devices, fsdp):
    """Against the run on eight `data` devices.

    The base model's samples are the same token for token, and so are the first losses.
    """
    directory, _ = run
    cfg = small(**{"mesh.fsdp": fsdp, "mesh.data": -1})
    exp = experiment.make(cfg, jax.devices()[:devices])
    star = algorithms.get("star")
    params = checkpoint.restore(directory / "base", exp.abstract_state().params).params
    source = exp.load("train")
    examples = [source[int(i)] for i in examples_for_round(len(source), 16, cfg.seed, 0)]
    rows = star.collect(exp.rollout(params, "collect", 1), examples, (), 1, cfg).rows
    kept, _ = rows_file.read_rows(directory / "rounds/0001/rows.npz", ())
    assert len(rows) == len(kept)
    for mine, theirs in zip(rows, kept, strict=True):
        np.testing.assert_array_equal(mine["tokens"], theirs["tokens"])

    optimizer = optim.make(cfg.optim)
    step = make_train_step(star, exp.model_cfg, optimizer, cfg)
    shardings = jax.tree.map(lambda x: x.sharding, exp.abstract_state())
    begin = jax.jit(lambda p: state.fresh(p, optimizer), out_shardings=shardings)
    train_state = begin(params)
    batches = iter(
        packing.batches(
            kept,
            batch_size=cfg.batch_size,
            length=cfg.sequence_length,
            seed=cfg.seed * 4096 + 1,
            share=True,
        )
    )
    updates = [m for m in metrics.read(directory) if m["phase"] == "update" and m["round"] == 1]
    for update in range(3):
        parts = {k: v[None] for k, v in next(batches).items()}
        batch = sharding.put(parts, exp.mesh, None, "batch", None)
        rate = np.float32(optim.learning_rate(cfg.optim, cfg.optim.learning_rate, update, 7))
        train_state, measured = step(train_state, batch, rate)
        expected = updates[update]["update/loss"]
        assert float(measured["loss"]) == pytest.approx(expected, rel=2e-5)


def test_the_batches_of_an_older_version_begin_anew(capsys):
    rows = [{"tokens": np.arange(1, n), "weights": np.ones(n - 1)} for n in (5, 9, 12)]
    stage = SimpleNamespace(cfg=small())

    def stream(state):
        where = SimpleNamespace(round=1, iterator=state)
        model = SimpleNamespace(
            model_cfg=presets.model_config(small().model, 20),
            forward=forwards.get("plain"),
            forward_cfg=None,
            prompts=SimpleNamespace(first_id=20),
        )
        run = SimpleNamespace(cfg=small(), exp=model, position=where, dir="runs/a")
        return m_step._batches(run, stage, rows)

    fresh = stream(None)
    fresh.next()
    state, second = fresh.state(), fresh.next()
    resumed = stream(state)
    np.testing.assert_array_equal(resumed.next()["tokens"], second["tokens"])
    assert capsys.readouterr().out == ""
    first = stream({"parent_state": {}, "packed": 3}).next()
    np.testing.assert_array_equal(first["tokens"], stream(None).next()["tokens"])
    assert "runs/a: an older version packed the batches of round 1" in capsys.readouterr().out


def test_finished_runs_say_so_and_go_on_when_given_more_rounds(run, capsys):
    directory, _ = run
    before = final_params(directory)
    loop.train(small(), directory)
    assert "finished" in capsys.readouterr().out
    assert same(before, final_params(directory))
    loop.train(small(**{"rounds.count": 3}), directory)
    assert "going on in round 3 after 0 updates" in capsys.readouterr().out
    assert not same(before, final_params(directory))
    assert max(line["round"] for line in metrics.read(directory)) == 3


# ---- what a run does not start with --------------------------------------------------------------


def content(directory):
    """Every file and folder, to compare byte for byte."""
    paths = sorted(directory.rglob("*"))
    return {path: path.read_bytes() if path.is_file() else None for path in paths}


def refused(cfg, directory):
    """The one sentence with which a run is refused; its directory must be left as it was."""
    before = content(directory)
    with pytest.raises(UserError) as error:
        loop.train(cfg, directory)
    assert content(directory) == before
    return str(error.value)


@pytest.mark.parametrize("kind", ["gone", "empty", "file", "damaged"])
@pytest.mark.parametrize("version", ["this", "older"])
def test_results_without_a_checkpoint_are_left_alone(run, tmp_path, kind, version):
    directory = tmp_path / "run"
    shutil.copytree(run[0], directory)
    if version == "older":
        (directory / "run.json").unlink()
        shutil.rmtree(directory / "best")
    folder = directory / "checkpoints"
    if kind == "damaged":
        for path in folder.glob("*/_CHECKPOINT_METADATA"):
            path.write_text("{}")
    else:
        shutil.rmtree(folder)
    if kind == "empty":
        folder.mkdir()
    elif kind == "file":
        folder.write_text("")
    sentence = refused(small(**{"rounds.count": 4}), directory)
    assert str(folder) in sentence


def test_a_run_that_was_never_saved_starts_again(tmp_path, capsys):
    """As one that is killed before its first checkpoint does."""
    events = loop.events(small(), tmp_path / "run")
    next(events)
    events.close()
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["saved"] is False and len(record["data"]) == 4 and len(record["config"]) == 16
    assert next(loop.events(small(), tmp_path / "run")).round == 0
    assert "going on" not in capsys.readouterr().out


def test_an_iterator_that_is_abandoned_frees_its_directory(tmp_path):
    first = loop.events(small(), tmp_path / "run")
    next(first)
    with pytest.raises(UserError, match=f"run is in use by process {os.getpid()} on "):
        next(loop.events(small(), tmp_path / "run"))
    del first
    next(loop.events(small(), tmp_path / "run"))
    assert not (tmp_path / "run" / "run.lock").exists()


def test_a_folder_that_is_not_a_run_s_gets_no_lock(tmp_path):
    (tmp_path / "thesis.txt").write_text("")
    assert "not the work directory of a run" in refused(small(), tmp_path)


def test_a_run_does_not_go_on_with_other_data(run, tmp_path, monkeypatch, capsys):
    directory = tmp_path / "run"
    shutil.copytree(run[0], directory)
    longer = small(**{"rounds.count": 4})
    load = addition.load

    def changed(cfg, split):
        examples = list(load(cfg, split))
        if split == "train":  # as many as before, under the same names
            examples[3] = dataclasses.replace(examples[3], answer="0")
        return examples

    with monkeypatch.context() as patch:
        patch.setattr(addition, "load", changed)
        sentence = refused(longer, directory)
    before = json.loads((directory / "run.json").read_text())["data"]["the split train"]
    assert f"the split train had the fingerprint {before} and has " in sentence
    (directory / "run.json").write_text('{"data": [], "saved": true}')
    assert "run.json: this file is damaged" in refused(longer, directory)
    (directory / "run.json").unlink()  # as an older version left it
    starting.start(longer, directory).lock.release()
    assert "an older version began this run" in capsys.readouterr().out
    with monkeypatch.context() as patch:
        patch.setattr(addition, "load", changed)
        assert "the split train had" in refused(longer, directory)


def test_a_reference_is_not_used_for_other_pairs(tmp_path):
    pairs = tmp_path / "pairs.jsonl"
    lines = (ROOT / "configs" / "pairs_addition.jsonl").read_text().splitlines(keepends=True)
    pairs.write_text("".join(lines[:12]))
    cfg = config.load(str(ROOT / "configs" / "dpo_jsonl.py:smoke"))
    overrides.change(cfg, {"algorithm.pairs": str(pairs)})
    events = loop.events(cfg, tmp_path / "run")
    next(events)
    events.close()
    pairs.write_text("".join(lines[12:24]))
    sentence = refused(cfg, tmp_path / "run")
    assert "made with other data: algorithm.pairs had the fingerprint " in sentence


def test_updates_do_not_go_on_with_other_rows(tmp_path):
    """Rows that are collected again amid a round would be the changed model's."""
    events = loop.events(small(), tmp_path / "run")
    for event in events:
        if (event.phase, event.step) == ("update", 4):  # checkpoint.every is 3
            break
    events.close()
    (tmp_path / "run" / "rounds" / "0000" / "rows.npz").unlink()
    with pytest.raises(UserError, match=r"0000/rows\.npz: the rows that this round trains on"):
        next(loop.events(small(), tmp_path / "run"))


@pytest.mark.parametrize("text", ["", "[1]\n", '{"phase": "eval"}\n', '{"step": 1}\n', None])
def test_a_log_that_is_damaged_is_one_sentence(run, tmp_path, text, capsys):
    directory = tmp_path / "run"
    shutil.copytree(run[0], directory)
    path = directory / "metrics.jsonl"
    path.unlink()
    path.mkdir() if text is None else path.write_text(text)
    with pytest.raises(UserError, match=r"metrics\.jsonl"):
        loop.train(small(), directory)  # it is finished: the table is printed again
    if text == "":
        starting.start(small(**{"rounds.count": 4}), directory).lock.release()
        assert f"WARNING: {path}: lines of the log have been lost" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("field", "value"), [("round", 1.0), ("update", None), ("iterator", 3), ("finished", 0)]
)
def test_a_position_of_other_types_is_one_sentence(field, value):
    meta = dataclasses.asdict(position.Position())
    folder = Path("run/checkpoints")
    assert position.from_meta(meta, folder) == position.Position()
    with pytest.raises(UserError, match=f"^run/checkpoints: .* {field} is {value!r}"):
        position.from_meta({**meta, field: value}, folder)
    with pytest.raises(UserError, match="more is 1"):
        position.from_meta({**meta, "more": 1}, folder)
    del meta[field]
    with pytest.raises(UserError, match=f"{field} is None"):
        position.from_meta(meta, folder)


def test_a_round_s_log_of_other_types_is_one_sentence(run, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(run[0], directory)
    for text in ("", "[1]", '{"collect/kept": "1"}'):
        path = directory / "rounds" / "0002" / "collect.json"
        path.write_text(text)
        with pytest.raises(UserError, match=r"collect\.json: this file, .* is damaged"):
            e_step._read_values(path)
