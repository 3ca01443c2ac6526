"""Rules that answer without reading a story: what they get right needs no reasoning.

Print their accuracies beside any result.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence

from reasoning_jax.tasks.stories import Form, Story, choices, named, words

# Names of the sort that is asked for, in the order of the story, and the story -> an answer.
Rule = Callable[[list[str], Story], str]


def last(names: list[str], story: Story) -> str:
    return names[-1]


def first(names: list[str], story: Story) -> str:
    return names[0]


def most(names: list[str], story: Story) -> str:
    """The one that is named most often; the latest of several."""
    counts = collections.Counter(names)
    return max(reversed(names), key=lambda name: counts[name])


def beside(names: list[str], story: Story) -> str:
    """The last one up to the last statement that shares a name with the question."""
    shares = [bool(named([told], _about(story.asked))) for told in story.statements]
    until = len(shares) - shares[::-1].index(True) if True in shares else 0
    return (named(story.statements[:until], names) or names)[-1]


RULES: dict[str, Rule] = {"last": last, "first": first, "most": most, "beside": beside}
# What a question asks with.
GRAMMAR = """Where Who What Why How Is Does the in is was did does will to go of have give before
    just north south east west""".split()


def _about(asked: str) -> list[str]:
    """The names in a question."""
    return [word for word in words(asked) if word not in GRAMMAR]


def _choices(story: Story, form: Form) -> list[str]:
    """Names in the story of the sort that is asked for."""
    [sort] = [sort for sort in form.answers if story.answer in sort]
    return choices(story, sort)


def constant(told: Sequence[Story]) -> float:
    """The fraction of stories that have the commonest answer."""
    return max(collections.Counter(story.answer for story in told).values()) / len(told)


def at_random(told: Sequence[Story], form: Form) -> float:
    """How often one of the names that the story has of the right sort is right by chance."""
    right = 0.0
    for story in told:
        found = set(_choices(story, form))
        right += (story.answer in found) / max(1, len(found))
    return right / len(told)


def accuracy(rule: str, told: Sequence[Story], form: Form) -> float:
    """The fraction of stories on which a rule of RULES is right."""
    right = 0
    for story in told:
        found = _choices(story, form)
        right += bool(found) and RULES[rule](found, story) == story.answer
    return right / len(told)


def together(told: Sequence[Story]) -> float:
    """How often yes is right where one statement names all that the question names, else no."""
    right = 0
    for story in told:
        about = set(_about(story.asked))
        says_yes = any(about <= set(words(statement)) for statement in story.statements)
        right += story.answer == ("yes" if says_yes else "no")
    return right / len(told)
