"""Branch, solve, merge (Saha et al. 2023, arXiv:2310.15123).

judge compares two responses: the model writes criteria for the question, which alone it sees;
marks both responses for one criterion at a time; and the marks are summed. That is done with the
responses in both orders, and what does not win in both is a tie (section 3.2). Of n criteria these
are 2 n + 1 calls. The verdict is A, B, or C for a tie.

write splits a task into parts, does each part by itself, and writes one answer from all of them
(section 3.3): n + 2 calls. A task that is split into nothing is one part.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from reasoning_jax.calls import Ask, Caller, Pending, make_caller
from reasoning_jax.errors import UserError
from reasoning_jax.ranges import key, one_of
from reasoning_jax.rollout import Rollout
from reasoning_jax.samples import Sample
from reasoning_jax.systems import prompts
from reasoning_jax.systems.prompts import Fields, lines
from reasoning_jax.tasks import Example

FILES = {
    "judge": {
        "branch": Fields(("question",)),
        "solve": Fields(("first", "second", "criterion"), ("question",)),
        "verdict": Fields(("verdict",)),
    },
    "write": {
        "split": Fields(("question",)),
        "part": Fields(("question", "part")),
        "merge": Fields(("question", "parts"), ("instruction",)),
    },
}
A, B, TIE = "A", "B", "C"
MOST = 5  # the highest mark
MARK = r"\b{}[^\w-]{{1,4}}(-?\d+(?:\.\d+)?)"  # the mark of a response: "A: 4", "[A] 4"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    # judge: which of an example's two responses is better; write: a response.
    variant: str = key("write", one_of(*FILES))
    prompts: str = "words"  # a folder of prompts: of systems/prompts, or a path


def check(cfg: ConfigDict) -> None:
    """UserError for prompt files that will not do."""
    prompts.read(cfg.prompts, "bsm", FILES[cfg.variant])


def answer(
    rollout: Rollout, examples: Sequence[Example], cfg: ConfigDict, *, num_samples: int = 1
) -> list[Sample]:
    """Verdicts, or responses; ``stats`` has the number of criteria or parts, and more."""
    templates = prompts.read(cfg.prompts, "bsm", FILES[cfg.variant])
    caller = make_caller(rollout, "bsm", templates)
    begun = caller.begin(examples, num_samples)
    return _judge(caller, begun) if cfg.variant == "judge" else _write(caller, begun)


# ---- responses -----------------------------------------------------------------------------------


def _write(caller: Caller, begun: Sequence[Pending]) -> list[Sample]:
    split = caller.ask("split", [Ask(one, {"question": one.question}) for one in begun])
    parts = [lines(sample.text) for sample in split]
    asked = []
    for one, own in zip(begun, parts, strict=True):
        one.stats["parts"] = len(own)
        for part in own or [one.question]:
            asked.append(Ask(one, {"question": one.question, "part": part}))
    done: dict[Pending, list[str]] = {one: [] for one in begun}
    for (one, _), sample in zip(asked, caller.ask("part", asked), strict=True):
        done[one].append(sample.text)
    to_merge = []
    for one in begun:
        values = {"question": one.question, "parts": "\n".join(done[one])}
        to_merge.append(Ask(one, values | {"instruction": caller.instruction}))
    return caller.finish(dict(zip(begun, caller.ask("merge", to_merge), strict=True)))


# ---- verdicts ------------------------------------------------------------------------------------


class Marks(NamedTuple):
    """What a call gives the response shown first and the one shown second."""

    first: float
    second: float


def read_marks(text: str) -> Marks | None:
    """The last mark of A and of B in a text; None where one of them has none from 0 to 5."""
    found = [re.findall(MARK.format(name), text) for name in (A, B)]
    if not all(found):
        return None
    first, second = (float(marks[-1]) for marks in found)
    if not (0 <= first <= MOST and 0 <= second <= MOST):
        return None
    return Marks(first, second)


def _marks_of(sample: Sample) -> Marks | None:
    return read_marks(sample.text) if sample.finished else None


def merge(marks: Sequence[Marks | None]) -> str:
    """Who has the larger sum of marks: A, shown first, or B; TIE where the sums are equal.

    Criteria without marks do not count; the order of the criteria does not matter.
    """
    read = [one for one in marks if one is not None]
    first = sum(sorted(one.first for one in read))
    second = sum(sorted(one.second for one in read))
    if first == second:
        return TIE
    return A if first > second else B


def agreed(shown: str, swapped: str) -> str:
    """The verdict where it is the same response in both orders, else TIE.

    swapped: the verdict with the responses in the other order, where A is the second response.
    """
    return shown if shown == OTHER[swapped] else TIE


OTHER = {A: B, B: A, TIE: TIE}


def _judge(caller: Caller, begun: Sequence[Pending]) -> list[Sample]:
    """UserError where an example has no two responses."""
    for one in begun:
        if len(_responses(one)) != 2:
            raise UserError(
                "config.system.variant: judge compares the two responses of an example, and the "
                "examples of this task have none; set write."
            )
    branches = caller.ask("branch", [Ask(one, {"question": _request(one)}) for one in begun])
    criteria = [list(dict.fromkeys(lines(sample.text))) for sample in branches]
    orders = []
    for swapped in (False, True):
        asked = []
        for one, own in zip(begun, criteria, strict=True):
            asked += [Ask(one, _shown(one, criterion, swapped)) for criterion in own]
        orders.append(iter(caller.ask("solve", asked)))
    finals = {}
    for one, own in zip(begun, criteria, strict=True):
        marks = [[_marks_of(next(order)) for _ in own] for order in orders]
        verdicts = [merge(of_order) for of_order in marks]
        unread = sum(mark is None for of_order in marks for mark in of_order)
        one.stats["criteria"] = len(own)
        one.stats["unmarked"] = unread / max(2 * len(own), 1)
        one.stats["flipped"] = float(verdicts[0] != OTHER[verdicts[1]])
        finals[one] = _said(caller, one, agreed(*verdicts))
    return caller.finish(finals)


def _responses(pending: Pending) -> tuple[str, ...]:
    return getattr(pending.example, "responses", ())


def _request(pending: Pending) -> str:
    """What the responses answer: a question about responses may have them in its text."""
    return getattr(pending.example, "instruction", pending.question)


def _shown(pending: Pending, criterion: str, swapped: bool) -> Mapping[str, str]:
    """What a call is shown: one criterion, and the responses in one order."""
    first, second = _responses(pending)
    if swapped:
        first, second = second, first
    return {
        "question": _request(pending),
        "first": first,
        "second": second,
        "criterion": criterion,
    }


def _said(caller: Caller, pending: Pending, verdict: str) -> Sample:
    """The verdict as a sample, which no call has drawn: its log-probabilities are 0."""
    text = caller.templates["verdict"].fill(verdict=verdict)
    tokenizer = caller.rollout.tokenizer
    tokens = np.asarray([*tokenizer.encode(text), tokenizer.eos_id], np.int32)
    return Sample(
        example=pending.example,
        index=pending.index,
        hinted=False,
        prompt_ids=pending.prompt_ids,
        tokens=tokens,
        logprobs=np.zeros(len(tokens), np.float32),
        finished=True,
        text=text,
    )
