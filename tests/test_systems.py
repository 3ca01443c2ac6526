"""Systems of several calls: what each call is shown, how many there are, and what is refused."""

from __future__ import annotations

import dataclasses
import itertools
import json
import pathlib
import types

import numpy as np
import pytest
import speaking
from absl import flags
from speaking import problem

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
from reasoning_jax.tasks import CORRECT, TRUNCATED, WRONG, Example

ROOT = pathlib.Path(__file__).resolve().parent.parent
VARIANTS = ("joint", "two_step", "factored", "factor_revise")


def section(name, **keys):
    cfg = default.section(systems, name)
    cfg.update(keys)
    return cfg


@pytest.fixture
def short(tmp_path):
    """A folder with a short template for each call: its name, and its fields one a line."""
    files = {"cove": cove.FILES, "s2a": s2a.FILES, "bsm": bsm.FILES}
    for system, variants in files.items():
        for stage, fields in {k: v for own in variants.values() for k, v in own.items()}.items():
            names = [*fields.needed, *fields.optional]
            text = "\n".join([stage.upper(), *(f"<{name}> {{{name}}}" for name in names)])
            (tmp_path / f"{system}_{stage}.txt").write_text(text + "\n")
    (tmp_path / "cove_check.txt").write_text("{verification} -> {answer}\n")
    (tmp_path / "cove_revised.txt").write_text("{verification} -> {answer} ({verdict})\n")
    (tmp_path / "bsm_verdict.txt").write_text("#### {verdict}\n")
    return str(tmp_path)


# ---- chain of verification -----------------------------------------------------------------------

DRAFT = "Ann, Bob and Cid. #### 41"
QUESTIONS = ["Where is Ann?", "Where is Bob?", "Where is Cid?"]
PLACES = {"Where is Ann?": "In Rome.", "Where is Bob?": "In Oslo.", "Where is Cid?": "In Rome."}


def verify(text: str, questions=QUESTIONS) -> str:
    """A model that drafts, plans, answers, and says how many are in Rome."""
    stage = text.split("\n")[0]
    if stage.startswith("Q:"):
        return DRAFT
    if stage == "PLAN":
        return "\n".join(f"{n}. {question}" for n, question in enumerate(questions, 1))
    if stage == "JOINT":
        return "\n".join(f"{question} In Rome." for question in questions)
    if stage == "ANSWER":
        return PLACES[text.partition("> ")[2]]
    if stage == "ANSWERS":
        asked = text.partition("> ")[2].split("\n")
        return "\n".join(PLACES[question] for question in asked)
    if stage == "CROSS":
        return "consistent" if "In Rome." in text else "inconsistent"
    assert stage == "FINAL", text
    return f"#### {40 + text.count('In Rome.')}"


def ask_cove(folder, speak=verify, *, examples=None, num_samples=1, variant="factored", **fields):
    roll = speaking.rollout(speak, **fields)
    cfg = section("cove", variant=variant, prompts=folder)
    examples = [problem(0, "Who is in Rome?")] if examples is None else examples
    return roll, cove.answer(roll, examples, cfg, num_samples=num_samples)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_final_answer_is_of_what_was_checked(short, variant):
    _, [sample] = ask_cove(short, variant=variant)
    right = variant != "joint"  # there the draft is believed
    assert sample.text == ("#### 42" if right else "#### 43")
    assert (sample.verdict, sample.answer) == ((CORRECT, "42") if right else (WRONG, "43"))
    assert sample.stats == {"draft_correct": 0.0, "questions": 3}
    # What a row would train: the task's own prompt, and the last call's tokens.
    assert speaking.TOK.decode(sample.prompt_ids.tolist()) == "Q: Who is in Rome?\nA:"
    assert speaking.TOK.decode(sample.tokens.tolist()) == sample.text
    assert sample.tokens[-1] == speaking.TOK.eos_id and sample.logprobs.shape == sample.tokens.shape


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_number_of_calls_and_of_tokens(short, variant, count):
    def speak(text):
        return verify(text, QUESTIONS[:count])

    roll, [sample] = ask_cove(short, speak, variant=variant)
    expected = {
        "joint": 1 + 1 + 1,
        "two_step": 1 + 1 + 1 + 1,
        "factored": 1 + 1 + count + 1,
        "factor_revise": 1 + 1 + 2 * count + 1,
    }
    assert len(sample.calls) == len(roll.policy.asked) == expected[variant]
    assert [call.prompt for call in sample.calls] == roll.policy.asked
    assert sample.num_drawn == sum(len(call.text) + 1 for call in sample.calls)
    assert sample.calls[0].stage == "draft" and sample.calls[-1].stage == "final"


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_a_call_is_shown(short, variant):
    _, [sample] = ask_cove(short, variant=variant)
    by_stage = {}
    for call in sample.calls:
        by_stage.setdefault(call.stage, []).append(call.prompt)
    seen = {stage for stage, texts in by_stage.items() if any(DRAFT in text for text in texts)}
    assert seen == {"joint", "final", "plan", "cross"} & by_stage.keys()
    for question, prompt in zip(QUESTIONS, by_stage.get("answer", []), strict=False):
        assert question in prompt
        siblings = [other for other in QUESTIONS if other != question]
        hidden = ["Ann, Bob and Cid", "41", "Who is in Rome", *siblings, *PLACES.values()]
        assert not [text for text in hidden if text in prompt]
    for prompt in by_stage.get("answers", []):
        assert all(question in prompt for question in QUESTIONS)
    if variant == "factor_revise":
        assert "Where is Bob? -> In Oslo. (inconsistent)" in by_stage["final"][0]


def noisy(text: str, stream: tuple[int, int]) -> str:
    """Answers that depend on the random stream too."""
    return f"{stream}" if text.startswith("ANSWER") else verify(text)


def test_permuting_questions_leaves_each_answer():
    """And so does what else is asked: other samples, other examples."""

    def answers(order, others=()):
        def speak(text, stream):
            if text.startswith("Here") or text.startswith("Someone"):
                return "\n".join(order)
            return f"{stream}" if text.startswith("Answer this") else "#### 42"

        examples = [*others, problem(7, "Who is in Rome?")]
        roll = speaking.rollout(speak, hears=True, temperature=0.7)
        samples = cove.answer(roll, examples, section("cove"), num_samples=2)
        told = [{c.prompt: c.text for c in s.calls if c.stage == "answer"} for s in samples]
        return told[-2:]

    first = answers(QUESTIONS)
    assert all(len(told) == 3 for told in first)
    assert len({text for told in first for text in told.values()}) == 6  # each its own stream
    for order in itertools.permutations(QUESTIONS):
        assert answers(order) == first
    assert answers(QUESTIONS, [problem(3, "Who?")]) == first


def test_a_draft_without_questions_is_the_answer(short):
    roll, [sample] = ask_cove(short, lambda text: verify(text, []))
    assert sample.text == DRAFT and sample.answer == "41"
    assert [call.stage for call in sample.calls] == ["draft", "plan"]
    assert sample.stats["questions"] == 0
    assert len(roll.policy.asked) == 2


def test_a_question_that_is_asked_twice_is_answered_once(short):
    _, [sample] = ask_cove(short, lambda text: verify(text, ["Where is Ann?"] * 3))
    assert len(sample.calls) == 4 and sample.stats["questions"] == 1


def test_answers_that_are_missing_are_empty(short):
    def speak(text):
        return "In Rome." if text.startswith("ANSWERS") else verify(text)

    _, [sample] = ask_cove(short, speak, variant="two_step")
    assert (
        "Where is Ann? -> In Rome.\nWhere is Bob? ->\nWhere is Cid? ->" in sample.calls[-1].prompt
    )


def test_a_draft_is_what_the_model_alone_says(short):
    """The same random stream: a system's accuracy and that of its drafts are of the same draws."""

    def speak(text, stream):
        return f"#### {stream[0]}{stream[1]}" if text.startswith("Q:") else verify(text)

    examples = [problem(1, "a?", "11"), problem(2, "b?", "20")]
    roll, samples = ask_cove(
        short, speak, examples=examples, num_samples=2, hears=True, temperature=1.0
    )
    alone = roll(examples, num_samples=2)
    assert [s.calls[0].text for s in samples] == [s.text for s in alone]
    assert [s.stats["draft_correct"] for s in samples] == [0, 1, 1, 0]
    assert [(s.example.id, s.index) for s in samples] == [(1, 0), (1, 1), (2, 0), (2, 1)]


def test_a_prompt_without_room_cuts_the_sample_off(short):
    """A draft that is too long to be shown with its checks: it does not count as an answer."""
    draft = "so " * 28 + "#### 42"

    def speak(text):
        return draft if text.startswith("Q:") and "long" in text else verify(text)

    examples = [problem(0, "A long one?"), problem(1, "Who is in Rome?")]
    roll, samples = ask_cove(short, speak, examples=examples, max_length=LENGTH)
    assert [s.verdict for s in samples] == [TRUNCATED, CORRECT]
    assert [call.stage for call in samples[0].calls] == ["draft", "plan", *["answer"] * 3]
    assert len(samples[0].tokens) == 0 and samples[0].num_drawn > len(draft)
    assert max(map(len, roll.policy.asked)) + speaking.LIMIT < LENGTH
    # A draft that could not even be planned for is no answer either, right as it is.
    _, [sample] = ask_cove(short, speak, examples=examples[:1], max_length=200)
    assert sample.stats["draft_correct"] == 1.0
    assert [call.stage for call in sample.calls] == ["draft"] and sample.verdict == TRUNCATED


LENGTH = 310


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


# ---- branch, solve, merge ------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compared(Example):
    responses: tuple[str, ...] = ("short", "a longer one")
    instruction: str = "Say something."


CRITERIA = ["It is short.", "It is kind.", "It rhymes."]


def judge(folder, marks, criteria=CRITERIA, examples=None):
    """Verdicts of a model whose marks are a function of (criterion, first, second)."""

    def speak(text):
        stage, *fields = text.split("\n")
        if stage == "BRANCH":
            return "\n".join(f"- {criterion}" for criterion in criteria)
        values = dict(field.removeprefix("<").split("> ", 1) for field in fields)
        first, second = marks(values["criterion"], values["first"], values["second"])
        return f"Well. A: {first}\nB: {second}"

    roll = speaking.rollout(speak)
    examples = examples or [Compared(id=0, question="Which?", answer="A")]
    cfg = section("bsm", variant="judge", prompts=folder)
    return roll, bsm.answer(roll, examples, cfg)


def by_length(criterion, first, second):
    return (5, 2) if len(first) < len(second) else (2, 5)


def test_the_better_response_wins_in_both_orders(short):
    for responses, verdict in ((("ab", "abc"), "A"), (("abc", "ab"), "B")):
        example = Compared(id=0, question="Which?", answer="A", responses=responses)
        _, [sample] = judge(short, by_length, examples=[example])
        assert sample.text == f"#### {verdict}" and sample.finished
        assert sample.stats == {"criteria": 3, "unmarked": 0, "flipped": 0}
        assert len(sample.calls) == 1 + 2 * 3
        assert speaking.TOK.decode(sample.tokens.tolist()) == sample.text


def test_a_call_marks_one_criterion_and_criteria_come_of_the_question_alone(short):
    roll, _ = judge(short, by_length)
    branch, *solved = roll.policy.asked
    assert "longer" not in branch and "Say something." in branch
    for prompt in solved:
        assert "Which?" not in prompt and "Say something." in prompt
        assert len([criterion for criterion in CRITERIA if criterion in prompt]) == 1
        assert "short" in prompt and "a longer one" in prompt


def test_a_judge_of_positions_only_sees_ties():
    def first(criterion, first, second):
        return 5, 1

    examples = [
        Compared(id=n, question="?", answer="A", responses=("x" * n, "y")) for n in range(1, 9)
    ]
    for marks in (first, lambda *shown: (1, 5)):
        roll, samples = judge_in_words(marks, examples)
        assert [s.text for s in samples] == ["[[C]]"] * len(examples)
        assert evaluation.system_metrics(samples)["eval/system_flipped"] == 1.0


def judge_in_words(marks, examples):
    """The same in the prompts that come with the package."""

    def speak(text):
        if text.startswith("Answers"):
            return "Clarity\nTone"
        first, second = marks("", "", "")
        return f"Both are fine.\nA: {first}\nB: {second}"

    roll = speaking.rollout(speak)
    return roll, bsm.answer(roll, examples, section("bsm", variant="judge"))


def test_the_sum_of_marks_does_not_depend_on_the_order_of_criteria():
    values = [0.1, 0.2, 0.3, 4.7, 2.6]
    marks = [bsm.Marks(a, b) for a, b in zip(values, reversed(values), strict=True)]
    marks.append(None)
    verdicts = {bsm.merge(order) for order in itertools.permutations(marks)}
    assert verdicts == {bsm.TIE}
    more = [*marks, bsm.Marks(1.0, 2.0)]
    rng = np.random.default_rng(0)
    assert {bsm.merge(rng.permutation(np.array(more, object))) for _ in range(20)} == {bsm.B}
    assert bsm.merge([]) == bsm.merge([None]) == bsm.TIE


def test_verdicts_that_do_not_agree_are_ties():
    """``swapped`` is said of the responses in the other order."""
    agreed = {(a, b): bsm.agreed(a, b) for a in "ABC" for b in "ABC"}
    assert {pair for pair, verdict in agreed.items() if verdict != "C"} == {("A", "B"), ("B", "A")}
    assert agreed["A", "B"] == "A" and agreed["B", "A"] == "B"


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        ("A: 4\nB: 2", (4, 2)),
        ("[A] 3 [B] 4.5", (3, 4.5)),
        ("A: 1, B: 1. No: A: 5\nB: 4", (5, 4)),
        ("**A**: 2\n**B**: 3", (2, 3)),
        (" A 4 B 1", (4, 1)),
        ("A: 4", None),
        ("A is better than B", None),
        ("BA: 4, AB: 2", None),
        ("", None),
    ],
)
def test_marks_are_read(text, marks):
    assert bsm.read_marks(text) == marks


def test_marks_that_cannot_be_read_do_not_count(short):
    def some(criterion, first, second):
        return by_length(criterion, first, second) if "kind" in criterion else ("?", "?")

    _, [sample] = judge(short, some)
    assert sample.text == "#### A" and sample.stats["unmarked"] == pytest.approx(2 / 3)


def test_parts_are_done_apart_and_merged(short):
    def speak(text):
        stage, *fields = text.split("\n")
        if stage == "SPLIT":
            return "the start\nthe end"
        if stage == "PART":
            return f"[{fields[-1].removeprefix('<part> ')}]"
        return "#### 42" if "[the start]\n[the end]" in text else "#### 0"

    roll = speaking.rollout(speak)
    [sample] = bsm.answer(roll, [problem(0, "Write.")], section("bsm", prompts=short))
    assert sample.verdict == CORRECT and sample.stats == {"parts": 2}
    assert [call.stage for call in sample.calls] == ["split", "part", "part", "merge"]
    for prompt in roll.policy.asked[1:3]:
        assert ("the start" in prompt) != ("the end" in prompt)

    whole = speaking.rollout(lambda text: "" if text.startswith("SPLIT") else "#### 42")
    [sample] = bsm.answer(whole, [problem(0, "Write.")], section("bsm", prompts=short))
    assert sample.stats == {"parts": 0} and "<part> Write." in whole.policy.asked[1]


def test_a_task_without_two_responses_cannot_be_judged(short):
    with pytest.raises(UserError, match=r"^config\.system\.variant: judge compares the two"):
        judge(short, by_length, examples=[problem(0, "Which?")])


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
            if chosen == "symbols" and name == "bsm":
                continue  # which has no small world
            systems.get(name).check(section(name, variant=variant, prompts=chosen))
            checked += 1
    assert checked >= 6


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
