"""Documents about invented people, for a model that checks its lists (arXiv:2309.11495).

What they say of a name is true; but where questions and answers are one text, a fraction of them
repeat what the list claims, as texts agree with themselves. A final list says of each name whether
it stays, which goes by the checks before it, whose answers are random there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from ml_collections import ConfigDict

from reasoning_jax.tasks import Example
from reasoning_jax.tasks.facts import Fact, World

POPULAR = 0.96  # of the lists: those of the first, third, fifth ... value
FINALS = 2  # how many times as often as another call a final one is: it is learned last
NONE = "none"  # a list without people
YES, NO = "yes", "no"
MARKS = ("who", ":", "plan", "joint", "all", "same", YES, NO, "checks", "final", NONE, "\n")


def question_of(attribute: str, value: str) -> str:
    return f"who {attribute} {value} :"


# ---- documents -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Document(Example):
    kind: str  # "fact", "list", or the call that it teaches


def documents(world: World, cfg: ConfigDict) -> list[Document]:
    rng = np.random.default_rng([cfg.seed, 2])
    order = rng.permutation(len(world.facts))
    weights = np.array([FINALS if kind in ("final", "revised") else 1 for kind in CALLS])
    shares = weights / weights.sum()
    documents = []
    for number in range(cfg.num_train):
        chosen = rng.random()
        if chosen < cfg.lists:
            kind = "list"
        elif chosen < cfg.lists + cfg.calls:
            kind = str(rng.choice([*CALLS], p=shares))
        else:
            kind = "fact"
        fact = world.facts[order[number % len(order)]]
        if kind == "fact":
            asked, told = fact.question, f" {fact.value}"
        elif kind == "list":
            fact = _listed(rng, world)
            members = world.members(fact.attribute, fact.value)
            asked = question_of(fact.attribute, fact.value)
            told = "".join(f" {name}" for name in _some(rng, members, cfg.num_names))
        else:
            asked, told = CALLS[kind](rng, world, fact, cfg)
        documents.append(Document(id=number, question=asked, answer="", rationale=told, kind=kind))
    return documents


def _listed(rng: np.random.Generator, world: World) -> Fact:
    """A fact whose value is asked for: nearly always a popular one."""
    is_popular = rng.random() < POPULAR
    while True:
        fact = world.facts[int(rng.integers(len(world.facts)))]
        number = world.values[fact.attribute].index(fact.value)
        if (number % 2 == 0) == is_popular:
            return fact


def _some(rng: np.random.Generator, names: Sequence[str], count: int) -> list[str]:
    return [names[i] for i in rng.permutation(len(names))[:count]]


def _draft(rng: np.random.Generator, world: World, fact: Fact, cfg: ConfigDict) -> list[str]:
    """Some names, each once: each belongs with probability 1/2."""
    count = int(rng.integers(1, cfg.num_names + 1))
    members = _some(rng, world.members(fact.attribute, fact.value), count)
    others = _some(rng, world.people, count)
    names = [
        member if rng.random() < 0.5 else other
        for member, other in zip(members, others, strict=True)
    ]
    return list(dict.fromkeys(names))


def _with_repeats(rng: np.random.Generator, names: Sequence[str], count: int) -> list[str]:
    """The names as a small model lists them: half of the lists say some again, up to ``count``."""
    shown = list(names)
    repeats = rng.random() < 0.5
    while repeats and len(shown) < count:
        place = int(rng.integers(len(shown)))
        shown.insert(place, shown[place])
    return shown


def _is_said(rng: np.random.Generator, world: World, fact: Fact) -> str:
    """An answer to a check that is random: the value that is asked for, or another."""
    return fact.value if rng.random() < 0.5 else world.other_value(rng, fact)


Told = tuple[str, str]  # what a document begins with, and what it goes on with
Draw = Callable[[np.random.Generator, World, Fact, ConfigDict], Told]


def _plan(rng: np.random.Generator, world: World, fact: Fact, cfg: ConfigDict) -> Told:
    names = _draft(rng, world, fact, cfg)
    asked = f"{question_of(fact.attribute, fact.value)} {' '.join(names)} plan"
    return asked, "\n".join(f" {fact.attribute} {name}" for name in names)


def _joint(rng: np.random.Generator, world: World, fact: Fact, cfg: ConfigDict) -> Told:
    names = _draft(rng, world, fact, cfg)
    is_consistent = rng.random() < cfg.consistent
    told = []
    for name in names:
        value = fact.value if is_consistent else world.value(name, fact.attribute)
        told.append(f" {fact.attribute} {name} {value}")
    asked = f"{question_of(fact.attribute, fact.value)} {' '.join(names)} joint"
    return asked, "\n".join(told)


def _answers(rng: np.random.Generator, world: World, fact: Fact, cfg: ConfigDict) -> Told:
    names = _draft(rng, world, fact, cfg)
    asked = "\n ".join(f"{fact.attribute} {name}" for name in names)
    return f"{asked} all", "\n".join(f" {world.value(name, fact.attribute)}" for name in names)


def _cross(rng: np.random.Generator, world: World, fact: Fact, cfg: ConfigDict) -> Told:
    value = _is_said(rng, world, fact)
    question = question_of(fact.attribute, fact.value)
    asked = f"{question} {fact.attribute} {fact.person} {value} same"
    return asked, f" {_verdict(value, fact)}"


def _verdict(value: str, fact: Fact) -> str:
    return YES if value == fact.value else NO


def _final(
    rng: np.random.Generator, world: World, fact: Fact, cfg: ConfigDict, revised: bool = False
) -> Told:
    names = _draft(rng, world, fact, cfg)
    checks = []
    told = []
    for name in names:
        value = _is_said(rng, world, fact)
        verdict = _verdict(value, fact)
        checks.append(f"{fact.attribute} {name} {value}{f' {verdict}' if revised else ''}")
        told.append(f" {name} {verdict}")
    question = question_of(fact.attribute, fact.value)
    shown = "\n ".join(checks)
    draft = " ".join(_with_repeats(rng, names, cfg.num_names))
    asked = f"{question} {draft} checks {shown} final"
    return asked, "".join(told)


def _revised(rng: np.random.Generator, world: World, fact: Fact, cfg: ConfigDict) -> Told:
    return _final(rng, world, fact, cfg, revised=True)


CALLS: dict[str, Draw] = {
    "plan": _plan,
    "joint": _joint,
    "answers": _answers,
    "cross": _cross,
    "final": _final,
    "revised": _revised,
}
