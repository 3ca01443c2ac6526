"""Chain of verification: what each call is shown, how many there are, what becomes of a draft."""

from __future__ import annotations

import itertools

import pytest
import speaking
from speaking import problem, section

from reasoning_jax.systems import cove
from reasoning_jax.tasks import CORRECT, TRUNCATED, WRONG

VARIANTS = ("joint", "two_step", "factored", "factor_revise")


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
