"""DPO from files: which rows are usable, what their records hold, the frozen reference, and steps that lower the loss."""

from __future__ import annotations

import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest
import scripted
from scripted import TOK, config

from configs import dpo_jsonl
from reasoning_jax.training import optim, packing, state, train_step
from reasoning_jax.model import logprobs
from reasoning_jax.sampling import methods
from reasoning_jax.algorithms import dpo
from reasoning_jax.rollout import Rollout
from reasoning_jax.tasks import CORRECT, Example, WRONG, addition

pytestmark = pytest.mark.usefixtures("quick_compile")
PAIRS = [
    {"prompt": "1+2\n", "chosen": "3", "rejected": "4"},
    {"prompt": "3+4\n", "chosen": "7", "rejected": "11"},
    {"prompt": "5+6\n", "chosen": "11", "rejected": "1"},
]
VERDICTS = [
    {"prompt": "1+2\n", "completion": "3", "label": True},
    {"prompt": "1+2\n", "completion": "4", "label": False},
    {"prompt": "3+4\n", "completion": "7", "label": True},
    {"prompt": "5+6\n", "completion": "12", "label": False},
    {"prompt": "1+2\n", "completion": "5", "label": False},
]


@pytest.fixture
def settings(tmp_path):
    """A function of rows and settings: the config of a file with these rows."""

    def of(rows, **changes):
        path = tmp_path / "pairs.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return config(name="dpo", pairs=str(path), **changes)

    return of


class Counted(scripted.Scripted):
    """The log-prob of every token is -place."""

    def row_logprobs(self, rows):
        self.calls.append(len(rows))
        return [-row["place"].astype(np.float32) for row in rows]


def collect(cfg, memory=None, round=1, max_length=256):
    kind = type("Script", (Counted,), {"script": {}, "calls": []})
    memory = dpo.init_memory(cfg, 9) if memory is None else memory
    roll = kind(None, None, TOK, addition, (), None, 8, 64, max_length, None, None)
    return *dpo.collect(roll, [], memory, round, cfg), kind


def texts(row):
    """Prompt and completion of both halves, which have their own start and end tokens."""
    out = []
    for part in (0, 1):
        tokens, weights = row["tokens"][row["part"] == part], row["weights"][row["part"] == part]
        assert (
            tokens[0] == TOK.bos_id
            and tokens[-1] == TOK.eos_id
            and weights[0] == 0
            and weights[-1] == 1
        )
        out += [TOK.decode(tokens[weights == 0]), TOK.decode(tokens[weights == 1])]
    return tuple(out)


# ---- records -------------------------------------------------------------------------------------------------------------


def test_a_file_becomes_pairs(settings):
    rows, memory, report, _ = collect(settings(PAIRS))
    assert [texts(r) for r in rows] == [
        (p["prompt"], p["chosen"], p["prompt"], p["rejected"]) for p in PAIRS
    ]
    assert memory.tolist() == [
        [-11, -11],
        [-11, -18],
        [-18, -11],
    ]  # places 5, 6 (and 7) are the completion and its end
    assert [r["ref"][r["ref"] != 0].tolist() for r in rows] == memory.tolist()
    assert (
        report.values == {"kept_rows": 3, "kept": 1}
        and report.warnings == []
        and report.samples == []
    )


def test_the_reference_is_read_in_round_1_only(settings):
    """Later rounds are given another model, and keep what the start model said."""
    cfg = settings(PAIRS)
    first, memory, _, kind = collect(cfg)
    later, kept, _, silent = collect(cfg, memory, round=2)
    assert kind.calls == [3] and silent.calls == [] and np.array_equal(kept, memory)
    assert all(
        np.array_equal(a[key], b[key]) for a, b in zip(first, later, strict=True) for key in a
    )


def test_sides_that_repeat_the_prompt(settings):
    whole = [p | {side: p["prompt"] + p[side] for side in ("chosen", "rejected")} for p in PAIRS]
    for a, b in zip(
        collect(settings(PAIRS))[0], collect(settings(whole, whole_text=True))[0], strict=True
    ):
        assert all(np.array_equal(a[key], b[key]) for key in a)


def test_verdicts_for_kto(settings):
    """Each with the next completion that belongs to another prompt, and what it is on its own half's last token."""
    rows, memory, _, _ = collect(settings(VERDICTS, preference="kto"))
    assert [texts(r)[1::2] for r in rows] == [
        ("3", "7"),
        ("4", "7"),
        ("7", "12"),
        ("12", "5"),
        ("5", "7"),
    ]
    assert all(texts(r)[0] == texts(r)[2] for r in rows) and memory.shape == (5, 2)
    for row, verdict in zip(rows, VERDICTS, strict=True):
        assert np.flatnonzero(row["desirable"]).tolist() == (
            [(row["part"] == 0).sum() - 1] if verdict["label"] else []
        )
    with pytest.raises(ValueError, match="more than one prompt"):
        dpo.load(settings(VERDICTS[:2], preference="kto"))


def test_tfds(tmp_path):
    """Real data sets in ArrayRecord, written by TFDS itself."""
    import tensorflow_datasets as tfds

    class Pairs(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            kinds = {
                key: np.bool_ if key == "label" else tfds.features.Text() for key in self.rows[0]
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(kinds))

        def _split_generators(self, manager):
            return {"train": enumerate(self.rows)}

        def _generate_examples(self):
            raise NotImplementedError

    for name, rows in (("hh", PAIRS), ("verdicts", VERDICTS)):
        made = type(name, (Pairs,), {"name": name, "rows": rows})
        made(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    found, _ = dpo.load(config(pairs=f"tfds:{tmp_path}:hh:train"))
    assert {(p.prompt, *p.sides) for p in found} == {tuple(row.values()) for row in PAIRS}
    part, _ = dpo.load(config(pairs=f"tfds:{tmp_path}:hh:train[1:]"))
    assert [p.sides for p in part] == [p.sides for p in found[1:]]
    assert part[0].where.endswith("train[1:], row 1"), "a row keeps its number in a slice"
    verdicts, _ = dpo.load(config(pairs=f"tfds:{tmp_path}:verdicts:train", preference="kto"))
    assert {(p.prompt, p.sides[0], p.desirable) for p in verdicts} == {
        tuple(row.values()) for row in VERDICTS
    }
    with pytest.raises(ValueError, match=r"row 0: the key 'completion' is missing"):
        dpo.load(config(pairs=f"tfds:{tmp_path}:hh:train", preference="kto"))
    with pytest.raises(ValueError, match="is not tfds:FOLDER:NAME:SPLIT"):
        dpo.load(config(pairs="tfds:hh:train"))


# ---- bad input -----------------------------------------------------------------------------------------------------------

BAD = [
    ({"prompt": "1+2\n", "chosen": "", "rejected": "4"}, "a side is empty", {}),
    ({"prompt": "1+2\n", "chosen": "4", "rejected": " \n"}, "a side is empty", {}),
    ({"prompt": "1+2\n", "chosen": "3", "rejected": "3"}, "the sides are equal", {}),
    ({"prompt": "1+2\n", "chosen": 3, "rejected": "4"}, "a value is not text", {}),
    (
        {"prompt": "1+2\n", "chosen": "1+2\n3", "rejected": "1+3\n4"},
        "the prompt is no prefix",
        {"whole_text": True},
    ),
    (
        {"prompt": "1+2\n", "chosen": "1+2\n3", "rejected": "1+2\n"},
        "a side is empty",
        {"whole_text": True},
    ),
    (
        {"prompt": "1+2\n", "completion": "", "label": True},
        "a side is empty",
        {"preference": "kto"},
    ),
    (
        {"prompt": "1+2\n", "completion": "3", "label": "yes"},
        "the label is neither",
        {"preference": "kto"},
    ),
]


@pytest.mark.parametrize("row, message, changes", BAD)
def test_a_bad_row_is_a_sentence_or_is_counted(settings, row, message, changes):
    good = VERDICTS if "preference" in changes else PAIRS
    if "whole_text" in changes:
        good = [p | {side: p["prompt"] + p[side] for side in ("chosen", "rejected")} for p in PAIRS]
    rows = [*good[:2], row, *good[2:], row]
    with pytest.raises(
        ValueError, match=rf"pairs\.jsonl, line 3: {message}.*skip_bad=True"
    ) as error:
        dpo.init_memory(settings(rows, **changes), 9)
    assert "\n" not in str(error.value)
    records, _, report, _ = collect(settings(rows, skip_bad=True, **changes))
    assert len(records) == len(good) and report.values["kept"] == len(good) / (len(good) + 2)
    (warning,) = report.warnings
    assert (
        warning.startswith(f"2 rows are left out, as {message}")
        and "line 3; " in warning
        and "jsonl, line" in warning
    )


def test_pairs_over_the_limit(settings):
    """Named, or counted beside what else is left out; the reference's numbers stay with their pairs."""
    rows = [PAIRS[1], PAIRS[0], PAIRS[1] | {"rejected": "7"}]
    limit = 2 * len([TOK.bos_id, *TOK.encode("1+2\n3"), TOK.eos_id])
    with pytest.raises(ValueError, match=r"line 3: the sides are equal"):
        dpo.load(settings(rows))
    with pytest.raises(ValueError, match=r"line 1: it is longer than config\.sequence_length"):
        collect(settings(rows[:2]), max_length=limit)
    records, memory, report, kind = collect(settings(rows, skip_bad=True), max_length=limit)
    assert (
        [texts(r)[0] for r in records] == ["1+2\n"]
        and memory.tolist() == [[0, 0], [-11, -11]]
        and kind.calls == [1]
    )
    assert (
        report.values == pytest.approx({"kept_rows": 1, "kept": 1 / 3})
        and len(report.warnings) == 2
    )


def test_other_errors(settings, tmp_path):
    with pytest.raises(ValueError, match=r"config\.algorithm\.pairs: dpo needs a JSONL file"):
        dpo.init_memory(config(), 9)
    with pytest.raises(FileNotFoundError, match="absent"):
        dpo.init_memory(config(pairs=str(tmp_path / "absent.jsonl")), 9)
    with pytest.raises(ValueError, match=r"line 1: the key 'rejected' is missing"):
        dpo.init_memory(settings([{"prompt": "1", "chosen": "2"}]), 9)
    with pytest.raises(ValueError, match="no row is a preference"):
        dpo.init_memory(settings([PAIRS[0] | {"chosen": ""}], skip_bad=True), 9)
    with pytest.raises(
        ValueError, match=r"pairs\.jsonl, line 2: The character 'x' is not in the alphabet"
    ):
        collect(settings([PAIRS[0], PAIRS[1] | {"chosen": "x"}]))
    with pytest.raises(ValueError, match=r"config\.algorithm\.beta"):
        dpo.init_memory(settings(PAIRS, beta=0.0), 9)


# ---- training ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preference", ["dpo", "kto"])
def test_updates_of_a_model_from_its_own_reference(tiny, settings, preference):
    """ln 2 (KTO: a half) at step 0, from references that the same model computed one pair a row; then it falls."""
    model_cfg, params = tiny
    cfg = settings(
        VERDICTS if preference == "kto" else PAIRS, preference=preference, start_updates=7, beta=0.5
    )
    roll = Rollout(
        params, model_cfg, TOK, addition, (), methods.Greedy(), 8, 8, 48, None, jax.random.key(0)
    )
    rows, memory, _ = dpo.collect(roll, [], dpo.init_memory(cfg, 9), 1, cfg)
    assert (memory < -1).all() and dpo.num_updates(3, len(rows), cfg) == 7
    batch = packing.pack(rows, multiple=2, length=48)
    _, metrics = dpo.loss(logprobs.score(params, batch, model_cfg), batch, cfg)
    start, weight = (0.5 if preference == "kto" else math.log(2)), float(metrics["weight"])
    assert weight == len(rows) and float(metrics["loss"]) / weight == pytest.approx(start, abs=1e-5)

    step = train_step.make_update(dpo, model_cfg, optim.make(cfg.optim), cfg)
    train_state = jax.jit(lambda p: state.fresh(p, optim.make(cfg.optim)))(params)
    losses, margins = [], []
    for _ in range(6):
        train_state, metrics = step(
            train_state, {k: v[None] for k, v in batch.items()}, np.float32(0.01)
        )
        losses.append(float(metrics["loss"]))
        margins.append(float(metrics["reward" if preference == "kto" else "margin"]))
    assert losses[0] == pytest.approx(start, abs=1e-5) and losses[-1] < 0.7 * start
    assert abs(margins[0]) < 1e-4 and (
        preference == "kto" or (margins[-1] > 0.5 and float(metrics["accuracy"]) == 1)
    )


def test_the_pairs_of_the_config():
    """Right beside wrong, in the task's own words."""
    cfg = dpo_jsonl.get_config()
    assert Path(cfg.algorithm.pairs).is_file()
    found, _ = dpo.load(cfg)
    assert len(found) == 64
    for p in found:
        a, b = p.prompt.split("+")
        e = Example(0, p.prompt.strip(), str(int(a) + int(b)))
        assert p.prompt == addition.prompt(e) and [addition.grade(side, e) for side in p.sides] == [
            CORRECT,
            WRONG,
        ]
        assert addition.wrong_line(p.sides[0], e) is None
