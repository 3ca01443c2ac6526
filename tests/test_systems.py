"""Systems of several calls: their prompts, rollouts through them, configs and commands."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import types

import numpy as np
import pytest
import speaking
from absl import flags
from speaking import problem, section
from test_cove import DRAFT, ask_cove, verify

import reasoning_jax as rj
from reasoning_jax import (
    algorithms,
    arguments,
    command_line,
    data_checks,
    default,
    evaluate,
    evaluation,
    metrics,
    overrides,
    systems,
    workdir,
)
from reasoning_jax import config as configuration
from reasoning_jax.errors import UserError
from reasoning_jax.systems import bsm, cove, prompts, s2a
from reasoning_jax.tasks import CORRECT, WRONG

ROOT = pathlib.Path(__file__).resolve().parent.parent

# ---- system 2 attention --------------------------------------------------------------------------


def attend(text: str) -> str:
    """A model that leaves out what is thought, and is swayed by it where it is shown."""
    stage, _, rest = text.partition("\n")
    if stage == "REWRITE":
        return rest.removeprefix("<question> ").replace("I guess 17. ", "")
    return "#### 17" if "I guess" in rest else "#### 42"


BIASED = "I guess 17. What is 40 plus 2?"


def test_the_second_call_holds_no_token_of_the_opinion(short):
    roll = speaking.rollout(attend)
    [sample] = s2a.answer(roll, [problem(0, BIASED)], section("s2a", prompts=short))
    assert sample.verdict == CORRECT
    rewrite, answer = roll.policy.asked
    assert BIASED in rewrite
    assert not [word for word in "I guess 17.".split() if word in answer.split()]
    assert "What is 40 plus 2?" in answer
    assert [call.stage for call in sample.calls] == ["rewrite", "answer"]


def test_the_variant_that_keeps_the_original_holds_it(short):
    roll = speaking.rollout(attend)
    cfg = section("s2a", prompts=short, variant="keep")
    [sample] = s2a.answer(roll, [problem(0, BIASED)], cfg)
    assert sample.verdict == WRONG and sample.answer == "17"
    assert BIASED in roll.policy.asked[1] and "<context> What is 40" in roll.policy.asked[1]


def test_an_empty_rewrite_leaves_the_original(short):
    def speak(text):
        return " " if text.startswith("REWRITE") else "#### 42"

    roll = speaking.rollout(speak)
    [sample] = s2a.answer(roll, [problem(0, "What?")], section("s2a", prompts=short))
    assert sample.stats == {"empty_rewrites": 1} and "What?" in roll.policy.asked[1]


# ---- prompts -------------------------------------------------------------------------------------


def test_lists_are_read_without_their_bullets():
    text = "1. Who?\n\n 2) When?\n- Where?\n* Why?\n city p3\n3.5 miles?\n"
    expected = ["Who?", "When?", "Where?", "Why?", " city p3", "3.5 miles?"]
    assert prompts.lines(text) == expected
    assert prompts.lines(" \n\n") == []


@pytest.mark.parametrize("chosen", prompts.names())
def test_the_prompts_of_the_package_have_their_fields(chosen):
    checked = 0
    for name, module in (("cove", cove), ("s2a", s2a), ("bsm", bsm)):
        for variant in module.FILES:
            if chosen == "symbols" and variant == "write":
                continue  # which has no small world
            systems.get(name).check(section(name, variant=variant, prompts=chosen))
            checked += 1
    assert checked >= 7


def test_prompts_that_will_not_do_are_one_sentence(short, tmp_path):
    def refused(sentence, name="cove", **keys):
        with pytest.raises(UserError, match=sentence) as error:
            systems.get(name).check(section(name, **keys))
        assert "\n" not in str(error.value)

    refused(
        r"^config\.system\.prompts: there is no folder 'werds'; the prompts here are .*words\.$",
        prompts="werds",
    )
    refused(r"^config\.system\.prompts: there is no folder ''", prompts="")
    refused(r"^config\.system\.prompts: there is no folder '~nobody_x/p'", prompts="~nobody_x/p")
    answer = tmp_path / "cove_answer.txt"
    answer.write_text("Say it.\n")
    refused(r"cove_answer\.txt: the field \{verification\} is missing\.$", prompts=short)
    # A factored prompt that shows the draft is none.
    answer.write_text("{draft} {verification}\n")
    refused(r"cove_answer\.txt: there is no field \{draft\}; there are \{ver", prompts=short)
    section_of_other = {"prompts": short, "variant": "two_step"}
    systems.get("cove").check(section("cove", **section_of_other))  # which does not read the file
    answer.unlink()
    refused(r"there is no file .*cove_answer\.txt, which cove needs\.$", prompts=short)
    (tmp_path / "s2a_keep.txt").write_text("{question} {context!r}\n")
    refused(r"s2a_keep\.txt: a field is a name", name="s2a", prompts=short, variant="keep")


def test_a_prompt_that_cannot_be_written_names_its_file(short):
    from reasoning_jax.tokenizer import Characters

    words = Characters([*"Q:? A\nw0123456789#"])
    roll = speaking.rollout(lambda text: "#### 42", tokenizer=words)
    with pytest.raises(UserError, match=r"cove_plan\.txt: The character 'P' is not in the alphab"):
        cove.answer(roll, [problem(0, "w?")], section("cove", prompts=short))


# ---- rollouts, configs, figures ------------------------------------------------------------------


def with_system(roll, cfg):
    fields = {field.name: getattr(roll, field.name) for field in dataclasses.fields(roll)}
    return systems.SystemRollout(**fields, system=cfg)


def test_a_rollout_with_a_system_answers_through_it(short):
    plain = speaking.rollout(verify)
    cfg = section("cove", prompts=short)
    roll = with_system(plain, cfg)
    examples = [problem(0, "Who is in Rome?"), problem(1, "Who?")]
    assert [s.text for s in roll(examples, num_samples=2)] == ["#### 42"] * 4
    assert [s.text for s in plain(examples)] == [DRAFT] * 2
    for alone in (with_system(plain, section("plain")), with_system(plain, None)):
        assert [s.text for s in alone(examples)] == [DRAFT] * 2
        assert not any(s.calls for s in alone(examples))
    hinted = roll(examples, hint=True)
    assert all(s.hinted and not s.calls for s in hinted)  # they know the answer: one call
    same = systems.get("cove").answer(plain, examples, cfg)
    assert [s.calls for s in roll(examples)] == [s.calls for s in same]


def test_the_temperature_of_a_call_is_the_rollouts_own(short):
    heard = []

    class Hearing(speaking.Speaking):
        def generate(self, requests, **options):
            heard.append(getattr(options["method"], "temperature", 0.0))
            return super().generate(requests, **options)

    plain = speaking.rollout(verify)
    policy = Hearing(**{f.name: getattr(plain.policy, f.name) for f in dataclasses.fields(Hearing)})
    roll = with_system(dataclasses.replace(plain, policy=policy), section("cove", prompts=short))
    roll([problem(0, "Who is in Rome?")], temperature=0.7)
    assert heard == [0.7] * 4


def test_a_chat_asks_in_its_template_and_refuses_conversations(short):
    class Chat(speaking.Bytes):
        def chat(self, messages):
            [message] = messages
            return self.prompt(f"[{message['role']}] {message['content']}")

    def speak(text):
        assert text.startswith("[user] ")
        text = text.removeprefix("[user] ")
        return DRAFT if text.startswith("Who") else verify(text)

    roll = speaking.rollout(speak, tokenizer=Chat(), chat=True)
    cfg = section("cove", prompts=short)
    [sample] = cove.answer(roll, [problem(0, "Who is in Rome?")], cfg)
    assert sample.verdict == CORRECT
    assert "<instruction> End" in sample.calls[-1].prompt
    turns = (("user", "Hello."), ("assistant", "Hello."))
    with pytest.raises(UserError, match=r"^config\.system\.name: cove asks questions"):
        cove.answer(roll, [problem(0, "Who?", turns=turns)], cfg)


def test_figures_have_calls_and_tokens_beside_accuracy(short):
    roll, samples = ask_cove(short, examples=[problem(0, "Who?"), problem(1, "Who?", "41")])
    values = evaluation.accuracy_metrics(samples, roll.task)
    assert values["eval/accuracy"] == 0.5 and values["eval/system_draft_correct"] == 0.5
    assert values["eval/calls"] == 6.0 and values["eval/system_questions"] == 3.0
    assert values["eval/drawn_tokens"] == np.mean([s.num_drawn for s in samples])
    assert values["eval/tokens"] < values["eval/drawn_tokens"]
    plain = evaluation.accuracy_metrics(roll([problem(0, "Who?")]), roll.task)
    assert not [name for name in plain if "system" in name or "drawn" in name or "calls" in name]
    votes = evaluation.vote_metrics(samples, 1)
    rows = evaluate.table_rows(values | votes | {"eval/vote_tokens": 100.0})
    table = metrics.accuracy_table(rows).splitlines()
    assert table[0].split()[-2:] == ["all", "tokens"]
    assert table[1].split()[0] == "greedy" and table[2].split()[-1] == "100.0"
    assert "tokens" not in metrics.accuracy_table(evaluate.table_rows(plain))


def test_a_config_names_a_system_and_its_keys_only():
    cfg = default.get_config(system="cove")
    assert cfg.system.to_dict() == {"name": "cove", "variant": "factored", "prompts": "words"}
    plain = default.get_config()
    assert plain.system.to_dict() == {"name": "plain"}
    with pytest.raises(
        UserError, match=r"config\.system\.variant: plain has no key variant; bsm, "
    ):
        overrides.change(plain, {"system.variant": "joint"})
    overrides.change(plain, {"system": "s2a", "system.variant": "keep"})
    assert plain.system.variant == "keep"
    with pytest.raises(
        UserError, match=r"there is no system 'cov'; they are bsm, cove, plain, s2a"
    ):
        overrides.change(plain, {"system": "cov"})
    cfg.system.variant = "jointly"
    with pytest.raises(UserError, match=r"config\.system\.variant: 'jointly'.*joint, two_step"):
        default.check(cfg)


def test_zero_shot_has_no_place_in_a_system():
    cfg = default.get_config(task="gsm8k", system="s2a")
    cfg.task.prompting = "zero_shot"
    with pytest.raises(UserError, match=r"^config\.task\.prompting: zero_shot .*name=s2a has no"):
        systems.check(cfg)


# ---- training and commands -----------------------------------------------------------------------


def test_what_a_system_answers_trains_the_model_to_answer_at_once(short):
    """A row is the task's own prompt and the last call's tokens; samples.jsonl has all calls."""
    cfg = default.get_config(algorithm="star", task="gsm8k", system="cove")
    cfg.system.prompts = short
    roll = with_system(speaking.rollout(verify), cfg.system)
    examples = [problem(0, "Who is in Rome?"), problem(1, "Who?")]
    collected = algorithms.get("star").collect(roll, examples, (), 1, cfg)
    assert len(collected.rows) == 2 and all(len(s.calls) == 6 for s in collected.samples)
    row = collected.rows[0]
    trained = row["weights"] > 0
    assert speaking.TOK.decode(row["tokens"][~trained].tolist()) == "Q: Who is in Rome?\nA:"
    assert speaking.TOK.decode(row["tokens"][trained].tolist()) == "#### 42"
    workdir.write_samples(pathlib.Path(short) / "s.jsonl", collected.samples, set(), roll.task)
    line = workdir.read_lines(pathlib.Path(short) / "s.jsonl")[0]
    assert [call["stage"] for call in line["calls"]][:2] == ["draft", "plan"]


@pytest.mark.parametrize("name", ["policy_gradient", "wake_sleep", "trice"])
def test_a_method_that_weighs_its_own_samples_refuses_systems(name):
    cfg = default.get_config(algorithm=name, system="s2a")
    exp = types.SimpleNamespace(cfg=cfg)
    with pytest.raises(UserError, match=rf"^config\.system\.name: s2a does not .* {name}, which"):
        data_checks.check_method(exp, algorithms.get(name), [], cfg)


def test_a_flag_names_the_system_before_its_keys_are_set():
    values = flags.FlagValues()
    flags.DEFINE_string("system", None, "", values)
    given = ["--config.system.variant=joint", "more"]
    assert arguments.with_sections(given, values, ["system"]) == given
    values(["", "--system=cove"])
    named = arguments.with_sections(given, values, ["system"])
    assert named == ["--config.system.name=cove", *given]
    for other in ("--config.system=s2a", "--config.system.name=s2a", "--config.system.name"):
        with pytest.raises(UserError, match=rf"^--system=cove and {other} both name the system\.$"):
            arguments.with_sections([other], values, ["system"])


@pytest.fixture(scope="module")
def run(tmp_path_factory, one_device):
    """A tiny run on lists of people, which has learned nothing."""
    folder = tmp_path_factory.mktemp("systems") / "run"
    changes = {"base.num_updates": 2, "task.num_train": 40, "sampling.max_new_tokens": 16}
    cfg = rj.load_config(str(ROOT / "configs" / "cove_people.py:smoke"), **changes)
    for _ in rj.train(cfg, folder):
        pass
    return folder


def test_a_run_is_evaluated_through_a_system(run, capsys):
    saved = rj.open(run)
    plain = saved.evaluate()
    assert "eval/calls" not in plain
    values = saved.evaluate(samples=2, system="cove", variant="joint", prompts="symbols")
    assert values["eval/calls"] >= 2 and values["eval/vote_tokens"] > 0
    assert "eval/maj_at_2" in values
    written = json.loads((run / "evaluation_test_cove.json").read_text())
    assert written["eval/accuracy"] == values["eval/accuracy"]
    assert written["config"]["system.variant"] == "joint"
    assert json.loads((run / "evaluation_test.json").read_text())["eval/count"] == 8
    assert saved.config.system.name == "plain"  # as before
    with pytest.raises(
        UserError, match=r"there is no system 'cov'; they are bsm, cove, plain, s2a"
    ):
        saved.evaluate(system="cov")
    with pytest.raises(UserError, match=r"config\.system\.variant: plain has no key variant; "):
        saved.evaluate(variant="joint")

    options = {"new_config": evaluate._new_config, "sections": ["system"]}
    argv = [f"--workdir={run}", "--system=cove", "--config.system.prompts=symbols"]
    command_line.run(evaluate.main, evaluate._define, argv=argv, **options)
    out = capsys.readouterr().out
    assert "tokens" in out and str(run / "evaluation_test_cove.json") in out
    with pytest.raises(SystemExit):
        argv = [f"--workdir={run}", "--system=plain", "--config.system.prompts=symbols"]
        command_line.run(evaluate.main, evaluate._define, argv=argv, **options)
    error = capsys.readouterr().err.strip().split("\n")
    assert error == ["config.system.prompts: plain has no key prompts; bsm, cove and s2a have."]


def test_a_config_that_is_older_than_systems_answers_plainly(run):
    saved = json.loads((run / "config.json").read_text())
    del saved["system"]
    assert configuration.from_saved(saved, "config.json") == rj.open(run).config
