"""The stages of continuous thoughts: what a round replaces, what is refused, and a whole run."""

from __future__ import annotations

import html

import jax.numpy as jnp
import numpy as np
import pytest
from test_pause import tiny_config

from reasoning_jax import (
    api,
    curriculum,
    default,
    experiment,
    forwards,
    loop,
    rows_file,
    run_export,
    starting,
    tasks,
    thoughts,
    workdir,
)
from reasoning_jax.errors import UserError
from reasoning_jax.tpu import programs
from reasoning_jax.training import checkpoint

COCONUT = forwards.get("coconut")
TEXT = "one\ntwo\nthree\nfour"  # three steps and the answer


def test_the_stage_of_each_round():
    assert [curriculum.stage_of(n, 3, 2) for n in range(9)] == [0, 1, 1, 2, 2, 3, 3, 3, 3]
    cfg = COCONUT.Config(stages=3, rounds_per_stage=2)
    begins = [n for n in range(9) if COCONUT.resets_optimizer(cfg, n)]
    assert begins == [1, 3, 5]


def test_steps_are_left_out():
    assert tasks.line_ends(TEXT) == tasks.line_ends(f"{TEXT}\n") == [4, 8, 14]
    assert tasks.line_ends(" 4") == []
    texts = [curriculum.without_steps(TEXT, count, [4, 8, 14]) for count in range(5)]
    assert texts == [TEXT, "two\nthree\nfour", "three\nfour", "four", "four"]


def test_a_step_of_a_path_is_a_node():
    text = " 17 9 4 [A] 4"
    ends = tasks.get("graph_search").step_ends(text)
    texts = [curriculum.without_steps(text, count, ends) for count in range(5)]
    assert texts == [text, " 9 4 [A] 4", " 4 [A] 4", " [A] 4", " [A] 4"]
    assert tasks.get("graph_search").step_ends(" [A] 4") == []


def test_thoughts_replace_steps():
    cfg = COCONUT.Config(thoughts_per_step=2, stages=2)
    suffixes = [COCONUT.prompt_suffix(cfg, 20, n) for n in range(4)]
    thoughts = [[], [22] * 2, [22] * 4, [22] * 4]
    assert suffixes == [[20, *own, 21] for own in thoughts]
    for n in range(4):
        assert COCONUT.training_suffix(cfg, 20, n, [0, n, 1]) == (suffixes[n], min(n, 2))


def test_a_last_stage_has_the_answer_alone():
    cfg = COCONUT.Config(thoughts_per_step=2, stages=1, answer_stage=True)
    assert [COCONUT.resets_optimizer(cfg, n) for n in range(4)] == [False, True, True, False]
    thinking = [20, 22, 22, 21]
    found = [COCONUT.training_suffix(cfg, 20, n, [0, n, 1]) for n in range(4)]
    assert [suffix for suffix, _ in found] == [[20, 21], thinking, thinking, thinking]
    left = [curriculum.without_steps(TEXT, steps, tasks.line_ends(TEXT)) for _, steps in found]
    assert left == [TEXT, "two\nthree\nfour", "four", "four"]


def test_without_a_marker_before_the_thoughts():
    cfg = COCONUT.Config(thoughts_per_step=2, stages=2, begin_marker=False)
    suffixes = [COCONUT.prompt_suffix(cfg, 20, n) for n in range(3)]
    assert suffixes == [[], [22, 22, 21], [22, 22, 22, 22, 21]]
    assert COCONUT.training_suffix(cfg, 20, 1, [0, 1, 1]) == ([22, 22, 21], 1)


@pytest.mark.parametrize("begin", [[], [20]])
def test_without_a_marker_after_the_thoughts(begin):
    cfg = COCONUT.Config(thoughts_per_step=2, stages=1, begin_marker=bool(begin), end_marker=False)
    suffixes = [COCONUT.prompt_suffix(cfg, 20, n) for n in range(2)]
    assert suffixes == [begin, [*begin, 22, 22]]


def test_without_a_curriculum_all_is_of_the_last_stage():
    cfg = COCONUT.Config(thoughts_per_step=2, stages=2, curriculum=False)
    for n in range(3):
        assert COCONUT.prompt_suffix(cfg, 20, n) == [20, *[22] * 4, 21]
        assert COCONUT.training_suffix(cfg, 20, n, [0, n, 1]) == ([20, *[22] * 4, 21], 2)
        assert not COCONUT.resets_optimizer(cfg, n)


def test_earlier_stages_are_mixed_in():
    """A fraction uniform_prob of the examples, evenly from the stages before; always the same."""
    stages = [curriculum.mixed_stage(3, 0.3, [0, 5, id]) for id in range(4000)]
    assert stages == [curriculum.mixed_stage(3, 0.3, [0, 5, id]) for id in range(4000)]
    counts = np.bincount(stages) / len(stages)
    np.testing.assert_allclose(counts, [0.1, 0.1, 0.1, 0.7], atol=0.02)
    assert {curriculum.mixed_stage(3, 0.0, [0, id]) for id in range(50)} == {3}
    assert curriculum.mixed_stage(0, 1.0, [0]) == 0


def test_a_run_with_a_learned_vector_as_thought(tmp_path, one_device):
    loop.train(thinking_run(fed="learned"), tmp_path)
    [answer] = api.open(tmp_path).sample(["1+2"])
    assert answer["question"] == "1+2"


def thinking_run(**changes):
    """The config of a run of seconds, of two stages."""
    c = tiny_config("coconut")
    c.forward.update(stages=2, thoughts_per_step=2, **changes)
    c.rounds.update(count=2, restart=False)
    return c


@pytest.mark.parametrize("begin, end", [(False, False), (True, False), (False, True)])
def test_a_run(tmp_path, one_device, begin, end):  # with both: the run with a learned vector
    cfg = thinking_run(uniform_prob=0.3, begin_marker=begin, end_marker=end)
    loop.train(cfg, tmp_path)
    exp = experiment.make(cfg)
    thought = exp.model_cfg.vocab_size + 2
    lengths = []
    for n, allowed in ((0, {0}), (1, {0, 2}), (2, {0, 2, 4})):
        path = tmp_path / "rounds" / f"{n:04d}" / "rows.npz"
        rows, _ = rows_file.read_rows(path, ((), np.int64(0)), n, {"tokens"})
        counts = [int((row["tokens"] == thought).sum()) for row in rows]
        assert set(counts) <= allowed and max(counts) == max(allowed)
        for row in rows:
            assert not row["weights"][row["tokens"] >= thought - 2].any()
        lengths.append(np.mean([row["weights"].sum() for row in rows]))
    assert lengths[0] > lengths[1] > lengths[2]  # steps are gone from what is trained
    [answer] = api.open(tmp_path).sample(["1+2"])
    assert answer["question"] == "1+2"
    for n, count in ((1, 2), (2, 4)):  # the thoughts of each round, in its folder and the report
        lines = workdir.read_lines(tmp_path / "rounds" / f"{n:04d}" / "thoughts.jsonl")
        assert {line["rationale"].count("thought ") for line in lines} == {count}
    assert not (tmp_path / "rounds" / "0000" / "thoughts.jsonl").exists()
    assert (
        html.escape(lines[0]["rationale"].split("\n")[3]) in (tmp_path / "report.html").read_text()
    )


def test_what_thoughts_say(tmp_path, one_device):
    """The likeliest tokens of each thought, as the same passes over one prompt give them."""
    exp = experiment.make(thinking_run())
    params = exp.initial_params()
    roll = exp.rollout(params, "test", 1, temperature=0.0)
    samples = roll(exp.load_eval("validation")[:3])
    thoughts.write(tmp_path, 1, roll, samples)
    lines = workdir.read_lines(tmp_path / "rounds" / "0001" / "thoughts.jsonl")
    assert [line["id"] for line in lines] == [sample.example.id for sample in samples]
    for line, sample in zip(lines, samples, strict=True):
        ids = jnp.asarray(sample.prompt_ids)[None]
        batch = {"tokens": ids, "segment_ids": jnp.ones_like(ids)}
        wanted = COCONUT.thought_distributions(params, batch, exp.model_cfg, exp.forward_cfg)[0]
        for number, said in enumerate(line["rationale"].split("\n")):
            likeliest = int(jnp.argmax(wanted[number]))
            name = repr(exp.tokenizer.decode([likeliest]))
            name = name if name != "''" else f"token {likeliest}"
            percent = 100 * float(wanted[number, likeliest])
            assert said.startswith(f"thought {number + 1}: {name} {percent:.0f} %, ")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"forward.stages": 6, "rounds.count": 6},
            "config.forward.stages: 6, but no rationale has more than 5 steps",
        ),
        (
            {"forward.question_length": 2},
            "config.forward.question_length: 2, but a row's question has",
        ),
        ({"forward.answer_length": 3}, "config.forward.answer_length: 3 have no room for"),
        (
            {"rounds.count": 1},
            "forward.stages: 2, but config.rounds.count 1 ends in stage 1",
        ),
        (
            {"forward.answer_stage": True},
            "forward.stages: 2 and the answer_stage, but config.rounds.count 2 ends in stage 2",
        ),
        ({"rounds.restart": True}, "config.rounds.restart: a stage goes on from the stage before"),
        (
            {"forward.fed": "learned", "forward.question_length": 9},
            "config.forward.question_length: 9 has no effect where no hidden state is fed",
        ),
        (
            {"forward.curriculum": False, "forward.uniform_prob": 0.1},
            "config.forward.uniform_prob: 0.1 mixes stages, of which there is one without",
        ),
        (
            {"forward.stages": 0, "forward.uniform_prob": 0.1},
            "config.forward.uniform_prob: 0.1 mixes stages, of which there is one without",
        ),
        (
            {"forward.fed": "learned", "forward.thoughts_per_step": 0},
            "config.forward.fed: learned has no effect where there is no thought",
        ),
        (
            {"forward.question_length": 65},
            "config.forward.question_length: 65 is more than config.sequence_length 64",
        ),
        (
            {"forward.answer_length": 2**31 - 1},
            "config.forward.answer_length: 2147483647 is more than config.sequence_length 64",
        ),
        ({"forward.thoughts_per_step": 40}, "exceed config.sequence_length 64"),
    ],
)
def test_what_has_no_room_is_refused(tmp_path, one_device, changes, sentence):
    cfg = thinking_run()
    for key, value in changes.items():
        section, name = key.split(".")
        cfg[section][name] = value
    with pytest.raises(UserError, match=sentence):
        starting.start(cfg, tmp_path)


@pytest.mark.parametrize("forward", ["pause", "coconut"])
def test_the_planner_lowers_its_programs(forward, one_device):
    cfg = thinking_run() if forward == "coconut" else tiny_config(forward)
    exp = experiment.make(cfg)
    steps = programs.steps(cfg, exp)
    thoughts = ["think"] if forward == "coconut" else []
    assert [step.kind for step in steps] == ["update", "prefill", *thoughts, "decode"]
    for step in steps:
        step.lower()


def test_a_base_model_without_markers(tmp_path, one_device):
    """A run may begin with one that another forward trained; its own vectors are added."""
    plain = tiny_config("plain")
    plain.rounds.count = 0
    loop.train(plain, tmp_path / "plain")
    cfg = thinking_run()
    cfg.base.update(num_updates=0, init_from=str(tmp_path / "plain" / "base"))
    loop.train(cfg, tmp_path / "coconut")
    params, _ = checkpoint.load_params(
        tmp_path / "coconut", experiment.make(cfg).abstract_state().params
    )
    assert params["thought_markers"].shape == (2, 16)


def test_it_is_not_exported(tmp_path, one_device):
    cfg = tiny_config("pause")
    cfg.rounds.count = 0
    loop.train(cfg, tmp_path / "run")
    with pytest.raises(UserError, match="config.forward.name: the vectors of pause have no place"):
        run_export.write(tmp_path / "run", tmp_path / "out", merge=False)


@pytest.mark.parametrize("method", ["irpo", "vstar", "trice"])
def test_methods_that_it_does_not_go_with(method, one_device):
    cfg = default.get_config(algorithm=method, forward="coconut")
    with pytest.raises(UserError, match=f"coconut does not go with algorithm {method}, which goes"):
        experiment.make(cfg)
