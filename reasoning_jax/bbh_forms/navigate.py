"""Walks on a grid: does one return to the start? Published rows have 2 to 9 instructions, of one of two kinds.

Either all face forward and step in four directions, or all step ahead and turn. A line of the rationale is the place
after an instruction, as (steps right, steps forward) of the start, and where one looks.

    (-3,0) north
    (-3,2) north
"""

from __future__ import annotations

import re

import numpy as np

LEVELS = (2, 3, 4, 5, 6, 7, 8, 9)
START, AHEAD = "If you follow these instructions, do you return to the starting point?", " Always face forward."
OPTIONS = "\nOptions:\n- Yes\n- No"
COMPASS = {1j: "north", 1: "east", -1j: "south", -1: "west"}  # places are complex numbers
SIDES, TURNS = ("left", "right", "forward", "backward"), ("left", "right", "around")
WAYS = {"": 1, "left": 1j, "right": -1j, "forward": 1, "backward": -1, "around": -1}
WORDS = (f" {START}", AHEAD, OPTIONS, " Take ", " step.", " steps.", *(f" Turn {way}." for way in TURNS))
WORDS += tuple(f" {steps} {way}." for steps in ("step", "steps") for way in SIDES)
WORDS += (" (", "\n(", " Yes", " No", "\n(Yes)", "\n(No)", *(f") {name}" for name in COMPASS.values()))
INSTRUCTION = re.compile(r" (?:Take (\d+) steps?|(Turn))(?: (\w+))?\.")
YES = 0.42  # of the published rows

Instructions = list[tuple[int, str]]  # (steps, way) to take, (0, way) to turn


def question(rng: np.random.Generator, level: int) -> str:
    """Random instructions, or those that return, in the published proportion."""
    ahead, returns = level < 3 or rng.random() < 0.5, rng.random() < YES
    walk = _walk(rng, level, ahead)
    while returns != (_places(walk)[-1][0] == 0):
        walk = _walk(rng, level, ahead)
        if returns:
            _close(rng, walk)
    texts = [f" Take {n} step{'s' * (n > 1)}{' ' * bool(way)}{way}." if n else f" Turn {way}." for n, way in walk]
    return START + AHEAD * ahead + "".join(texts) + OPTIONS


def solve(question: str) -> tuple[str, str]:
    body = question.removeprefix(START).removesuffix(OPTIONS).removeprefix(AHEAD)
    walk = [(int(steps or 0), way) for steps, _, way in INSTRUCTION.findall(body)]
    if not question.startswith(START) or not walk or INSTRUCTION.sub("", body):
        raise ValueError(f"These are no instructions to walk: {question!r}.")
    lines = [f"({place.real:.0f},{place.imag:.0f}) {COMPASS[facing]}" for place, facing in _places(walk)]
    return "Yes" if lines[-1].startswith("(0,0)") else "No", "\n".join(lines)


def difficulty(question: str) -> tuple[str, int]:
    return "instructions", len(INSTRUCTION.findall(question))


def _walk(rng: np.random.Generator, level: int, ahead: bool) -> Instructions:
    steps, draws = rng.integers(1, 11, level).tolist(), rng.integers(36, size=level).tolist()
    if ahead:
        return [(n, SIDES[i % 4]) for n, i in zip(steps, draws, strict=True)]
    return [(0, TURNS[i % 3]) if i < 12 else (n, "") for n, i in zip(steps, draws, strict=True)]  # a third are turns


def _places(walk: Instructions) -> list[tuple[complex, complex]]:
    """(place, facing) after each instruction."""
    place, facing, places = 0j, 1j, []
    for steps, way in walk:
        if not steps:
            facing *= WAYS[way]
        place += steps * facing * WAYS[way]
        places.append((place, facing))
    return places


def _close(rng: np.random.Generator, walk: Instructions) -> None:
    """Changes the steps of one instruction so that the walk returns, if they can: any returning walk is equally likely."""
    taken = [i for i, (steps, _) in enumerate(walk) if steps]
    if taken:
        i, places = taken[rng.integers(len(taken))], _places(walk)
        steps, way = walk[i]
        beyond = places[-1][0] * (places[i][1] * WAYS[way]).conjugate()  # how far ahead the walk ends, as instruction i goes
        if beyond.imag == 0 and 1 <= steps - beyond.real <= 10:
            walk[i] = (steps - int(beyond.real), way)
