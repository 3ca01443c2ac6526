"""Stories of kinds and of moods: what holds of one holds of its kind, or why one does a thing."""

from __future__ import annotations

import dataclasses

import numpy as np

from reasoning_jax.tasks.stories import (
    PERSONS,
    Form,
    Story,
    coin,
    moved,
    one,
    some,
    unless_last,
)

KINDS = ("badger", "ferret", "hare", "heron", "mole", "raven", "toad", "weasel")
COLORS = ("black", "brown", "gray", "green", "red", "white")
NUM_RULES = (2, 3, 4, 6, 8)  # of each level, in ``deduction``
NUM_ANIMALS = (1, 2, 3, 4, 6)
NUM_COLORED = (2, 3, 3, 4, 5)  # in ``induction``: one of each kind, with two statements
NUM_OTHERS = (0, 0, 1, 2, 2)  # animals whose color is not told, and that are not asked about
NUM_PERSONS = (2, 2, 3, 4, 5)  # in ``motivations``
NUM_STATEMENTS = (3, 5, 7, 10, 13)
# Where persons of a mood go: two moods for a place, as otherwise it would tell why they went.
GOES_TO = {
    "hungry": "kitchen",
    "thirsty": "kitchen",
    "tired": "bedroom",
    "sleepy": "bedroom",
    "bored": "library",
    "curious": "library",
    "restless": "garden",
    "cheerful": "garden",
}
DESTINATIONS = tuple(dict.fromkeys(GOES_TO.values()))
WORDS = (
    *(f" {word}" for word in (*KINDS, *COLORS, *GOES_TO, *DESTINATIONS)),
    *(" A", " fears a", " is a", " is", " What does", " fear", " What color is"),
    *(" Where will", " Why did", " go", " go to the"),
)


def deduction(rng: np.random.Generator, level: int) -> Story:
    """What does an animal fear? What its kind fears."""

    def draw() -> Story:
        kinds = some(rng, KINDS, NUM_RULES[level - 1])
        rules = {}
        for kind in kinds:
            feared = one(rng, [other for other in KINDS if other != kind])
            rules[kind] = (f"A {kind} fears a {feared}.", feared)
        animals = {name: one(rng, kinds) for name in some(rng, PERSONS, NUM_ANIMALS[level - 1])}
        statements = [statement for statement, _ in rules.values()]
        statements += [f"{name} is a {kind}." for name, kind in animals.items()]
        name = one(rng, list(animals))
        rule, feared = rules[animals[name]]
        return Story(
            statements=tuple(some(rng, statements, len(statements))),
            asked=f"What does {name} fear?",
            answer=feared,
            lines=(f"{name} is a {animals[name]}.", rule),
        )

    return unless_last(rng, KINDS, draw)


def induction(rng: np.random.Generator, level: int) -> Story:
    """What color is an animal? That of the other one of its kind whose color is told."""

    def draw() -> Story:
        num_colored, num_others = NUM_COLORED[level - 1], NUM_OTHERS[level - 1]
        names = some(rng, PERSONS, num_colored + num_others + 1)
        kinds = some(rng, KINDS, num_colored)
        colors = [one(rng, COLORS) for _ in kinds]
        statements = []
        for name, kind, color in zip(names, kinds, colors, strict=False):
            statements += [f"{name} is a {kind}.", f"{name} is {color}."]
        asked = int(rng.integers(num_colored))
        statements.append(f"{names[-1]} is a {kinds[asked]}.")
        for name in names[num_colored:-1]:
            statements.append(f"{name} is a {one(rng, kinds)}.")
        return Story(
            statements=tuple(some(rng, statements, len(statements))),
            asked=f"What color is {names[-1]}?",
            answer=colors[asked],
            lines=(
                f"{names[-1]} is a {kinds[asked]}.",
                f"{names[asked]} is a {kinds[asked]}.",
                f"{names[asked]} is {colors[asked]}.",
            ),
        )

    return unless_last(rng, COLORS, draw)


def motivations(rng: np.random.Generator, level: int) -> Story:
    """Where will a person go, or why did they? By the mood that they were in."""
    if coin(rng):
        return unless_last(rng, GOES_TO, lambda: _why(rng, *_moods(rng, level)))
    while True:
        statements, moods = _moods(rng, level)
        waiting = [mood for mood in moods if mood.went is None]
        if waiting:
            break
    mood = one(rng, waiting)
    return Story(
        statements=tuple(statements),
        asked=f"Where will {mood.person} go?",
        answer=GOES_TO[mood.mood],
        lines=(mood.told,),
    )


@dataclasses.dataclass(kw_only=True)
class Mood:
    person: str
    mood: str
    told: str  # the statement
    went: str | None = None  # that of where the person went then


def _moods(rng: np.random.Generator, level: int) -> tuple[list[str], list[Mood]]:
    """Statements, and the moods that they tell of."""
    persons = some(rng, PERSONS, NUM_PERSONS[level - 1])
    statements: list[str] = []
    moods: list[Mood] = []
    for _ in range(NUM_STATEMENTS[level - 1]):
        person = one(rng, persons)
        waiting = [mood for mood in moods if mood.person == person and mood.went is None]
        if waiting:
            waiting[0].went = moved(rng, person, GOES_TO[waiting[0].mood])
            statements.append(waiting[0].went)
        else:
            mood = one(rng, list(GOES_TO))
            statements.append(f"{person} is {mood}.")
            moods.append(Mood(person=person, mood=mood, told=statements[-1]))
    return statements, moods


def _why(rng: np.random.Generator, statements: list[str], moods: list[Mood]) -> Story | None:
    """Asks for a mood, where the person went to the place only once."""
    walks = [(mood.person, GOES_TO[mood.mood]) for mood in moods if mood.went]
    once = []  # moods, and what they made the person do
    for mood in moods:
        if mood.went and walks.count((mood.person, GOES_TO[mood.mood])) == 1:
            once.append((mood, mood.went))
    if not once:
        return None
    mood, went = one(rng, once)
    return Story(
        statements=tuple(statements),
        asked=f"Why did {mood.person} go to the {GOES_TO[mood.mood]}?",
        answer=mood.mood,
        lines=(mood.told, went),
    )


FORMS = {
    "deduction": Form(draw=deduction, answers=(KINDS,)),
    "induction": Form(draw=induction, answers=(COLORS,)),
    "motivations": Form(draw=motivations, answers=(tuple(GOES_TO), DESTINATIONS)),
}
