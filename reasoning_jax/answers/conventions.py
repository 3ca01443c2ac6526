"""The conventions by which a text says what its answer is, by name.

``find`` of each gives the answer of a completion, in the form that ``read`` gives it, or None: what
is marked twice, denied, taken back or followed by more words states no answer. ``last_number`` is
the exception. It takes what no text has marked, and so what a text may not mean: use it to
evaluate, never to choose what is trained on.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from reasoning_jax.answers import MAX_CHARACTERS, quantities, statements
from reasoning_jax.answers.doubt import TAKEN_BACK

Read = Callable[[str], str | None]  # an answer's text -> its one form; None = it is none

MAX_MARKS = 20  # of a completion: what comes after so many is not judged
MAX_DEPTH = 50  # of braces in a box
OTHER = re.compile(r"\s?or\b")
BOX = re.compile(r"\\boxed\s*\{")
# What may stand between two boxes of one statement, "\boxed{3} or \boxed{4}".
JOINED = re.compile(r"[\s$\\()\[\]]*(?:,|or|and|,\s*(?:or|and))?[\s$\\()\[\]]*")
AFTER_BOX = re.compile(r"[\s$*_.\\()\[\]]*")
# A sign is none after a word, a digit or a bracket: "10-12", "x-2".
LAST_NUMBER = re.compile(
    r"(?:(?<![\w)\]}.])-)?[$€£¥]?(?<![\w.])"
    r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:\s?/\s?\d+(?:\.\d+)?|e[+-]?\d+)?(?!\d)%?"
    r"|(?<![\w.])-?\.\d+%?"
)
TAGGED = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL)


class Convention(NamedTuple):
    """How answers are marked: how to read one, to write one, and to ask for one."""

    find: Callable[[str, Read], str | None]  # (completion, read) -> the answer
    mark: str  # how a worked solution ends, with {} for the answer
    instruction: str  # what a user says of it, with {} for what the answer is


def hashes(text: str, read: Read) -> str | None:
    """What follows "####" on its line, as GSM8K marks it.

    None where two different ones are marked, or the text goes on to take it back. Text after a new
    question does not count.
    """
    _, *marked = statements.own_words(text).split("####", MAX_MARKS)
    found = []
    for following in marked:
        line, _, rest = following.lstrip("#: \t\n").partition("\n")
        answer = read(line)
        if answer is not None:
            found.append(answer)
        if found and (TAKEN_BACK.search(rest) or OTHER.match(rest)):
            return None
    return found[0] if len(set(found)) == 1 else None


def answer_is(text: str, read: Read) -> str | None:
    """What follows the last "the answer is", to the end of that sentence and of the text."""
    stated = statements.final(statements.own_words(text))
    return None if stated is None else read(stated)


def boxed(text: str, read: Read) -> str | None:
    r"""What the last "\boxed{...}" holds, with braces inside it.

    None where the clause before it doubts it, where another one is joined to it, and where the text
    goes on to take it back.
    """
    text = statements.own_words(text)[-statements.SEARCHED :]
    last = list(BOX.finditer(text))[-2:]
    boxes = [(match.start(), *_box(text, match.end())) for match in last]
    if not boxes:
        return None
    start, end, answer = boxes[-1]
    if answer is None or statements.is_doubted(text[:start]):
        return None
    for _, other_end, other in boxes[:-1]:
        if other != answer and JOINED.fullmatch(text[other_end:start]):
            return None
    rest = text[end:]
    if TAKEN_BACK.search(rest) or OTHER.match(AFTER_BOX.sub("", rest, count=1)):
        return None
    return read(answer)


def _box(text: str, start: int) -> tuple[int, str | None]:
    """The end and the content of a box that is open at ``start``; None where it stays open."""
    depth = 1
    for end in range(start, min(len(text), start + MAX_CHARACTERS)):
        depth += (text[end] == "{") - (text[end] == "}")
        if depth == 0:
            return end + 1, text[start:end]
        if depth > MAX_DEPTH:
            break
    return start, None


def last_number(text: str, read: Read) -> str | None:
    """The last number of the text, whatever is said of it."""
    numbers = LAST_NUMBER.findall(statements.own_words(text)[-statements.SEARCHED :])
    return read(numbers[-1]) if numbers else None


def tags(text: str, read: Read) -> str | None:
    """What the last <answer>...</answer> holds; None where words follow it."""
    text = statements.own_words(text)[-statements.SEARCHED :]
    matches = list(TAGGED.finditer(text))
    if not matches or statements.MARKUP.sub("", text[matches[-1].end() :]):
        return None
    return read(matches[-1][1].strip())


CONVENTIONS = {
    "hashes": Convention(hashes, "#### {}", 'End with "#### " and {}.'),
    "answer_is": Convention(answer_is, "The answer is {}.", 'End with "The answer is", then {}.'),
    "boxed": Convention(boxed, "\\boxed{{{}}}", "Put {} within \\boxed{{}} at the end."),
    "last_number": Convention(last_number, "The answer is {}.", "End with {}."),
    "tags": Convention(tags, "<answer>{}</answer>", "End with {} between <answer> and </answer>."),
}


def restate(solution: str, answer: str, name: str) -> str:
    """A worked solution that ends with "#### 72", whose answer is marked by another convention."""
    if name in ("", "hashes"):
        return solution
    worked = solution.rpartition("####")[0].rstrip()
    return f"{worked}\n{CONVENTIONS[name].mark.format(answer)}".lstrip("\n")


# ---- how tasks read what a convention finds ------------------------------------------------------


def number(answer: str) -> str | None:
    """A number in decimals and without its unit."""
    quantity = quantities.read_answer(answer)
    return None if quantity is None else quantities.canonical(quantity)


def any_text(answer: str) -> str | None:
    """Any text that is not blank."""
    return answer.strip() or None
