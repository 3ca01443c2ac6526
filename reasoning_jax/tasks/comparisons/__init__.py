"""Two responses to an instruction, of which one is better: what a judge of pairs is asked.

The question is a template of judges (templates/pairwise.txt), filled in, and the answer the letter
of the better response, which a judgement gives as [[A]] or [[B]].
"""

from __future__ import annotations

import dataclasses

from ml_collections import ConfigDict

from reasoning_jax import templates
from reasoning_jax.answers import judgements
from reasoning_jax.errors import UserError
from reasoning_jax.ranges import key, one_of
from reasoning_jax.tasks import Example, FolderConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareConfig(FolderConfig):
    """The keys of a task that asks which of two responses is better."""

    # A file with {instruction}, {first} and {second}, or one of templates.
    template: str = "pairwise"
    # Of the two responses: the data set's, or the other way around.
    order: str = key("given", one_of("given", "swapped"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison(Example):
    instruction: str
    first: str  # as it is shown: the response of assistant A
    second: str
    part: str  # of the data set

    @property
    def responses(self) -> tuple[str, str]:
        return self.first, self.second


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """Two responses as a data set has them."""

    id: int
    where: str
    part: str
    instruction: str
    responses: tuple[str, str]
    better: int  # the place of the better one, 0 or 1


def shown(pairs: list[Pair], cfg: ConfigDict) -> list[Comparison]:
    """The questions of pairs, in the order that the config says.

    UserError for a template that is none of pairs.
    """
    template = templates.read(cfg.template, templates.PAIR_FIELDS, "config.task.template")
    places = (0, 1) if cfg.order == "given" else (1, 0)
    examples = []
    for pair in pairs:
        first, second = (pair.responses[place] for place in places)
        text = template.fill(instruction=pair.instruction, first=first, second=second)
        examples.append(
            Comparison(
                id=pair.id,
                question=text,
                answer="A" if pair.better == places[0] else "B",
                where=pair.where,
                instruction=pair.instruction,
                first=first,
                second=second,
                part=pair.part,
            )
        )
    return examples


def prompt(example: Example, cfg: ConfigDict, hint: str | None = None) -> str:
    """The template as a judge reads it; the hint is the verdict in parentheses after it."""
    hinted = "" if hint is None else f" ({marked(hint)})"
    return f"{example.question}{hinted}"


def target(example: Example, direct: bool = False) -> str:
    """The verdict alone, " [[A]]"; UserError where a judgement before it is asked for."""
    if not direct:
        raise UserError(
            "there are no judgements to train on; collect some, or train directly on verdicts."
        )
    return f" {marked(example.answer)}"


def extract(text: str) -> str | None:
    """A, B, or C for a tie, which is right of no pair."""
    return judgements.read_letter(text)


def marked(answer: str) -> str:
    return f"[[{answer}]]"
