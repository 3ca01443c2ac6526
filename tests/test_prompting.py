"""Ways to ask: known worked examples, the first of them, step by step, and in a chat."""

from __future__ import annotations

import json

import pytest

from reasoning_jax import default, extraction, prompts
from reasoning_jax.errors import UserError
from reasoning_jax.tasks import Example

CHOICES = "(a) in\n(b) on\n(c) up\n(d) off\n(e) at"
EXAMPLES = {
    "gsm8k": Example(id=7, question="How many are 40 and 2?", answer="42"),
    "commonsense_qa": Example(id=7, question=f"Where?\nAnswer Choices:\n{CHOICES}", answer="d"),
    "addition": Example(id=7, question="40+02", answer="42"),
}
STEPS = "Let's think step by step."


def settled(task: str = "gsm8k", **changes):
    """(the task, its settled section) with these keys."""
    cfg = default.get_config(task=task).task
    cfg.update(changes)
    cfg = extraction.settle(cfg)
    return extraction.make(cfg), cfg


@pytest.fixture
def real(data_dir, monkeypatch):
    monkeypatch.setenv("REASONING_DATA", str(data_dir))
    return data_dir


# ---- worked examples -----------------------------------------------------------------------------


def test_the_eight_of_wei_et_al(real):
    task, cfg = settled(shots="wei")
    shots = prompts.read_shots(cfg.shots, task, cfg)
    assert [shot.answer for shot in shots] == ["6", "5", "39", "8", "9", "29", "33", "8"]
    text = prompts.build(task, shots[-1], cfg, shots[:-1]) + task.target(shots[-1])
    published = (real / "cot_exemplars" / "gsm8k_8shot_wei_prompt.txt").read_text()
    assert text == published.rstrip("\n")
    assert task.extract(" There are 6. The answer is 6.") == "6"
    assert task.extract("#### 6") is None


@pytest.mark.parametrize("task, number", [("gsm8k", 6), ("commonsense_qa", 7)])
def test_those_of_star(real, task, number):
    made, cfg = settled(task, shots="star")
    assert cfg.extraction == ""
    assert len(prompts.read_shots(cfg.shots, made, cfg)) == number


def test_the_first_of_them(real):
    task, cfg = settled(shots="wei", num_shots=2)
    assert [s.answer for s in prompts.read_shots(cfg.shots, task, cfg)] == ["6", "5"]
    task, cfg = settled(shots="wei", num_shots=9)
    with pytest.raises(UserError, match=r"num_shots: .*wei\.jsonl has 8 examples, not 9"):
        prompts.read_shots(cfg.shots, task, cfg)


def test_another_convention_is_named(real):
    """The answers of Wei et al. have no "####"; those of STaR have."""
    task, cfg = settled(shots=str(real / "cot_exemplars" / "gsm8k_8shot_wei.jsonl"))
    with pytest.raises(UserError, match=r"jsonl, line 1: .*config\.task\.extraction=answer_is"):
        prompts.read_shots(cfg.shots, task, cfg)
    task, cfg = settled(shots="star", extraction="answer_is")
    with pytest.raises(UserError, match=r"prompts\.txt, line 1: .*config\.task\.extraction=hashes"):
        prompts.read_shots(cfg.shots, task, cfg)


def test_records_of_ones_own(tmp_path):
    path = tmp_path / "shots.jsonl"
    task, cfg = settled(shots=str(path))
    good = {"question": "1 and 1?", "answer": "It is 2.\n#### 2"}
    path.write_text(json.dumps(good))
    [shot] = prompts.read_shots(path, task, cfg)
    assert prompts.build(task, EXAMPLES["gsm8k"], cfg, [shot]) == (
        "Q: 1 and 1?\nA: It is 2.\n#### 2\n\nQ: How many are 40 and 2?\nA:"
    )
    for bad, sentence in [
        ({"question": "1 and 1?", "answer": "It is two."}, "a shot needs .* an answer at the end"),
        ({"question": "1 and 1?"}, "the key 'answer' is missing"),
        ({"question": "1 and 1? (2)", "answer": "#### 2"}, r"holds the hint '\(2\)'"),
    ]:
        path.write_text(json.dumps(good) + "\n" + json.dumps(bad))
        with pytest.raises(UserError, match=rf"shots\.jsonl, line 2: .*{sentence}"):
            prompts.read_shots(path, task, cfg)


# ---- step by step --------------------------------------------------------------------------------


def test_zero_shot_prompts():
    task, cfg = settled(prompting="zero_shot")
    example = EXAMPLES["gsm8k"]
    assert prompts.build(task, example, cfg) == f"Q: How many are 40 and 2?\nA: {STEPS}"
    assert prompts.build(task, example, cfg, hint="42").endswith(f"40 and 2? (42)\nA: {STEPS}")
    second = "\nTherefore, the answer (arabic numerals) is"
    assert extraction.second_prompt(task, cfg) == second
    choice, cfg = settled("commonsense_qa", prompting="zero_shot")
    second = "\nTherefore, among A through E, the answer is"
    assert extraction.second_prompt(choice, cfg) == second


@pytest.mark.parametrize(
    "answer, read",
    [
        (" 42.", "42"),
        (" 42", "42"),
        (" $42.00.", "42"),
        ("\n\n42\n\nQ: And now?", "42"),
        (" 42 clips.", "42"),
        (" 42. Or is it 43?", None),
        (" 41 or 42.", None),
        (" unknown.", None),
        ("", None),
    ],
)
def test_the_second_answer(answer, read):
    task, cfg = settled(prompting="zero_shot")
    rationale = "40 and 2 are 42. The answer is 7."
    assert task.extract(f"{rationale}{extraction.second_prompt(task, cfg)}{answer}") == read
    assert task.extract(rationale) is None


def test_the_second_answer_of_a_choice():
    task, cfg = settled("commonsense_qa", prompting="zero_shot")
    example = EXAMPLES["commonsense_qa"]
    text = f"It is off.{extraction.second_prompt(task, cfg)} D."
    assert task.reading(task.extract(text), example) == "d"


# ---- chats ---------------------------------------------------------------------------------------


def test_a_chat():
    task, cfg = settled()
    shot = Example(id=-1, question="1 and 1?", answer="2", rationale="It is 2.\n#### 2")
    how = 'Solve the problem step by step. End with "#### " and the number.'
    assert prompts.messages(task, EXAMPLES["gsm8k"], cfg, [shot]) == [
        {"role": "user", "content": f"1 and 1?\n\n{how}"},
        {"role": "assistant", "content": "It is 2.\n#### 2"},
        {"role": "user", "content": f"How many are 40 and 2?\n\n{how}"},
    ]
    hinted = prompts.messages(task, EXAMPLES["gsm8k"], cfg, [shot], hint="42")
    assert [turn["content"].partition("\n")[0] for turn in hinted[::2]] == [
        "1 and 1? (2)",
        "How many are 40 and 2? (42)",
    ]


def test_what_a_chat_says_of_the_format():
    for changes, ending in [
        ({"extraction": "boxed"}, r"Put the number within \boxed{} at the end."),
        ({"prompting": "zero_shot"}, f"40 and 2?\n\n{STEPS}"),
    ]:
        task, cfg = settled(**changes)
        [turn] = prompts.messages(task, EXAMPLES["gsm8k"], cfg)
        assert turn["content"].endswith(ending)
    task, cfg = settled("commonsense_qa")
    [turn] = prompts.messages(task, EXAMPLES["commonsense_qa"], cfg, hint="d")
    assert turn["content"].startswith("Where?\nAnswer Choices:\n(a) in\n")
    assert "(d) off (CORRECT)\n(e) at\n\nSolve" in turn["content"]
    task, cfg = settled("addition")
    [turn] = prompts.messages(task, EXAMPLES["addition"], cfg)
    assert turn["content"] == "40+02"


def test_earlier_turns_need_a_chat():
    task, cfg = settled()
    turns = (("user", "Hi"), ("assistant", "Hello."))
    example = Example(id=7, question="40 and 2?", answer="42", turns=turns)
    contents = [turn["content"] for turn in prompts.messages(task, example, cfg)]
    assert contents[:2] == ["Hi", "Hello."] and contents[2].startswith("40 and 2?")
    with pytest.raises(UserError, match=r"config\.tokenizer\.chat=True"):
        prompts.build(task, example, cfg)
