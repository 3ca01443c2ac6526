"""Conventions for answers: exact texts, and the filters of lm-evaluation-harness beside them."""

from __future__ import annotations

import collections
import json
import re

import pytest

from reasoning_jax import default, extraction, tasks
from reasoning_jax.answers import conventions, equivalence
from reasoning_jax.answers.conventions import CONVENTIONS, any_text, number
from reasoning_jax.errors import UserError
from reasoning_jax.tasks import Example

FALLBACK = "[invalid]"
SOLVERS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")


def find(name: str, text: str, read=number) -> str | None:
    return CONVENTIONS[name].find(text, read)


@pytest.mark.parametrize(
    "name, text, answer",
    [
        ("hashes", "It is 18.\n#### 18", "18"),
        ("hashes", "#### $1,800", "1800"),
        ("hashes", "#### 18\n#### 19", None),
        ("hashes", "The answer is 18.", None),
        ("answer_is", "So there are 18. The answer is 18.", "18"),
        ("answer_is", "So the answer is $18.50.", "18.5"),
        ("answer_is", "The answer is 18.\n\nQ: And now?\nA: The answer is 3.", "18"),
        ("answer_is", "The answer is 18. But then she eats three.", None),
        ("answer_is", "I doubt that the answer is 18.", None),
        ("answer_is", "#### 18", None),
        ("boxed", r"Thus \boxed{18}.", "18"),
        ("boxed", r"First \boxed{3}. Then, in all, $\boxed{18}$.", "18"),
        ("boxed", r"It is \boxed{\frac{1}{2}}", "0.5"),
        ("boxed", r"It is \boxed{\text{18}}", "18"),
        ("boxed", r"The answer is $\boxed{18}$. I hope it is correct.", "18"),
        ("boxed", r"It is \boxed{18", None),
        ("boxed", r"It is \boxed{3} or \boxed{18}", None),
        ("boxed", r"It is $\boxed{3}$ and $\boxed{18}$.", None),
        ("boxed", r"It is \boxed{18}, \boxed{18}", "18"),
        ("boxed", r"It is \boxed{3} or 4", None),
        ("boxed", r"It is not \boxed{18}", None),
        ("boxed", r"It is \boxed{18}. Wait, that is wrong.", None),
        ("boxed", "18", None),
        ("last_number", "She has 3 and 18 clips left over.", "18"),
        ("last_number", "That is $1,234.50 in all", "1234.5"),
        ("last_number", "from 10-12", "12"),
        ("last_number", "it falls to -12", "-12"),
        ("last_number", "a half is 1/2", "0.5"),
        ("last_number", "that is 50%.", "50%"),
        ("last_number", "about .5 of it", "0.5"),
        ("last_number", "none", None),
        ("tags", "<think>3</think><answer> 18 </answer>", "18"),
        ("tags", "<answer>3</answer> no, <answer>18</answer>.", "18"),
        ("tags", "<answer>18</answer> or 19", None),
        ("tags", "<answer>18", None),
    ],
)
def test_what_is_found(name, text, answer):
    assert find(name, text) == answer


def test_answers_that_are_no_numbers():
    assert find("boxed", r"\boxed{(1, \{2\})}", any_text) == r"(1, \{2\})"
    assert find("tags", "<answer>1 2\n3 4</answer>", any_text) == "1 2\n3 4"
    assert find("answer_is", "So the answer is (b).", any_text) == "(b)"
    assert find("boxed", r"\boxed{ }", any_text) is None


@pytest.mark.parametrize("name", CONVENTIONS)
def test_what_is_written_is_found(name):
    text = f"It is 3 and 4.\n{CONVENTIONS[name].mark.format('72')}"
    assert find(name, text) == "72"
    assert find(name, "") is None
    # A long text takes linear time.
    for part in ("\\boxed{", "#### ", "<answer>", "1,", "The answer is ", "-"):
        assert find(name, part * (300_000 // len(part))) is None or name == "last_number"


@pytest.mark.parametrize("name", CONVENTIONS)
def test_a_task_follows_its_convention(name):
    """Grading, direct answers and worked solutions go by the same one."""
    cfg = default.get_config(task="gsm8k").task
    cfg.extraction = name
    task = extraction.make(extraction.settle(cfg))
    rationale = conventions.restate("It is 70+2 = 72.\n#### 72", "72", name)
    example = Example(id=0, question="?", answer="72", rationale=rationale)
    assert task.extract(task.target(example)) == "72"
    assert task.extract(task.target(example, direct=True)) == "72"
    marked = CONVENTIONS[name].mark.format("72")
    assert task.target(example) == f" It is 70+2 = 72.\n{marked}"


def test_a_choice_is_marked_in_parentheses():
    cfg = default.get_config(task="commonsense_qa").task
    cfg.extraction = "boxed"
    task = extraction.make(extraction.settle(cfg))
    listed = "Where?\nAnswer Choices:\n(a) in\n(b) on\n(c) up\n(d) off\n(e) at"
    example = Example(id=0, question=listed, answer="b")
    assert task.target(example, direct=True) == r" \boxed{(b)}"
    assert task.reading(task.extract(r"It is \boxed{(b)}."), example) == "b"
    assert extraction.instruction(task, cfg).endswith(r"within \boxed{} at the end.")


@pytest.mark.parametrize(
    "name, form",
    [(name, "object_counting") for name in CONVENTIONS]
    + [(name, "boolean_expressions") for name in ("hashes", "answer_is", "boxed", "tags")],
)
def test_worked_examples_of_a_form_end_as_the_convention_says(name, form):
    cfg = default.get_config(task="bbh").task
    cfg.form, cfg.extraction, cfg.given = form, name, (4,)
    cfg = extraction.settle(cfg)
    task = extraction.make(cfg)
    for example in task.load(cfg, "given"):
        for direct in (False, True):
            text = task.target(example, direct)
            assert text.endswith(CONVENTIONS[name].mark.format(example.answer))
            gold = task.reading(example.answer, example)
            assert task.reading(task.extract(text), example) == gold
            assert task.wrong_line(text, example) is None


def test_a_task_without_words_has_no_convention():
    cfg = default.get_config(task="addition").task
    assert "extraction" not in cfg
    assert extraction.make(extraction.settle(cfg)) == tasks.get("addition")


def test_keys_without_effect_are_refused():
    for changes, key in [
        ({"num_shots": 3}, "num_shots"),
        ({"prompting": "zero_shot", "extraction": "boxed"}, "extraction"),
        ({"prompting": "zero_shot", "shots": "wei"}, "shots"),
    ]:
        cfg = default.get_config(task="gsm8k").task
        cfg.update(changes)
        with pytest.raises(UserError, match=rf"^config\.task\.{key}"):
            extraction.settle(cfg)


# ---- lm-evaluation-harness -----------------------------------------------------------------------
# Its filters of gsm8k and gsm8k-cot, written anew from their YAML.


def strict_match(pattern: str, text: str) -> str:
    found = re.findall(pattern, text)
    return found[0].strip() if found else FALLBACK


def flexible_extract(text: str) -> str:
    found = re.findall(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", text)
    return next(part for part in found[-1] if part).strip() if found else FALLBACK


def exact_match(answer: str, gold: str) -> bool:
    for pattern in (",", r"\$", r"(?s).*#### ", r"\.$"):
        answer, gold = re.sub(pattern, "", answer), re.sub(pattern, "", gold)
    return answer.lower() == gold.lower()


def by_hashes(text: str) -> str:
    return strict_match(r"#### (\-?[0-9\.\,]+)", text)


def by_answer_is(text: str) -> str:
    return strict_match(r"The answer is (\-?[0-9\.\,]+).", text)


FILTERS = {"hashes": by_hashes, "answer_is": by_answer_is, "last_number": flexible_extract}


def verdicts(name: str, text: str, gold: str) -> tuple[bool, bool]:
    """Whether the answer of a text is right: here, and by the filter of this convention."""
    own = find(name, text)
    ours = own is not None and equivalence.equal(own, gold)
    return ours, exact_match(FILTERS[name](text), gold)


def published(data_dir):
    """(text that ends with "A: 18", gold, whether the authors call it correct) of each solution."""
    folder = data_dir / "gsm8k"
    records = [json.loads(line) for line in (folder / "test.jsonl").open()]
    solutions = [json.loads(line) for line in (folder / "example_model_solutions.jsonl").open()]
    for record, solution in zip(records, solutions, strict=True):
        gold = record["answer"].rpartition("#### ")[2]
        for solver in SOLVERS:
            yield solution[solver]["solution"], gold, solution[solver]["is_correct"]


def rewritten(text: str, name: str) -> str:
    """The file writes "A: 18" where the models were trained on "#### 18"."""
    mark = {"hashes": "#### ", "answer_is": "The answer is ", "last_number": "A: "}[name]
    end = "." if name == "answer_is" else ""
    worked, separator, answer = text.rpartition("\nA: ")
    return f"{worked}\n{mark}{answer}{end}" if separator else text


@pytest.mark.parametrize("name", FILTERS)
def test_verdicts_on_published_solutions(name, data_dir):
    """All agree, with lm-evaluation-harness and with the authors' own flags."""
    counts = collections.Counter()
    for text, gold, is_correct in published(data_dir):
        ours, theirs = verdicts(name, rewritten(text, name), gold)
        counts[ours, theirs, is_correct] += 1
    assert counts == {(True, True, True): 2001, (False, False, False): 3275}


def reason(text: str, gold: str) -> str:
    """Why the last number of a text is judged in two ways."""
    ours, theirs = verdicts("last_number", text, gold)
    if ours == theirs:
        return "none"
    if ours and re.fullmatch(r"\$?[\d,]+\.0+\.?", flexible_extract(text)):
        return "4.00 is 4"  # theirs are texts
    if theirs and re.fullmatch(r"\d+/\d+", find("last_number", text)):
        return "1/3 is not 3"  # the end of a fraction is no number
    return f"unknown: {text[-40:]!r}"


def test_verdicts_on_solutions_without_their_last_line(data_dir):
    """What no mark helps with: the harness compares texts, this code numbers, read whole."""
    counts = collections.Counter()
    for text, gold, _ in published(data_dir):
        counts[reason(text.rpartition("\nA: ")[0], gold)] += 1
    assert counts == {"none": 5053, "4.00 is 4": 219, "1/3 is not 3": 4}


@pytest.mark.parametrize(
    "name, text, gold, ours, theirs",
    [
        # Both accept.
        ("hashes", "#### 1,234", "1234", True, True),
        ("hashes", "#### 18\n\nQ: Next?\nA: #### 3", "18", True, True),
        ("answer_is", "The answer is 18.", "18", True, True),
        ("last_number", "so $18.", "18", True, True),
        # A currency, a unit before the number, decimals: the same number.
        ("hashes", "#### $18", "18", True, False),
        ("hashes", "#### 18.00", "18", True, False),
        ("answer_is", "The answer is $18.", "18", True, False),
        ("answer_is", "the answer is 18.", "18", True, False),
        ("answer_is", "So the answer is: **18**", "18", True, False),
        ("last_number", "so 18.0.", "18", True, False),
        ("last_number", "from 10-12", "12", True, False),
        ("last_number", "it is 7...", "7", True, False),
        # The first mark may be taken back, or another follow; the harness reads the first.
        ("hashes", "#### 18\n#### 19", "18", False, True),
        ("hashes", "#### 18\nWait, that is wrong.", "18", False, True),
        ("hashes", "#### 18 or 19", "18", False, True),
        ("hashes", "#### 18 dozen", "18", False, True),
        ("answer_is", "The answer is 18. But she has 3 more.", "18", False, True),
        ("answer_is", "I doubt it. If The answer is 18.", "18", False, True),
        ("answer_is", "The answer is 18. The answer is 19.", "18", False, True),
        # A number is read whole.
        ("last_number", "it is 1/3", "3", False, True),
        ("last_number", "it is 1e3", "3", False, True),
    ],
)
def test_verdicts_on_own_texts(name, text, gold, ours, theirs):
    assert verdicts(name, text, gold) == (ours, theirs)
