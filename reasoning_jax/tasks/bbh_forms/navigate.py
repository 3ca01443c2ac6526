"""Walks on a grid: does one return to the start? Published questions have 2 to 9 instructions.

Either all face forward and step in four directions, or all step ahead and turn. A line of the
rationale is the position after an instruction, as (steps right, steps forward) of the start, and
where one looks.

    (-3,0) north
    (-3,2) north
"""

from __future__ import annotations

import re

import numpy as np

LEVELS = (2, 3, 4, 5, 6, 7, 8, 9)  # instructions
START = "If you follow these instructions, do you return to the starting point?"
FORWARD = " Always face forward."
OPTIONS = "\nOptions:\n- Yes\n- No"
COMPASS = {1j: "north", 1: "east", -1j: "south", -1: "west"}  # positions are complex numbers
SIDES, TURNS = ("left", "right", "forward", "backward"), ("left", "right", "around")
WAYS = {"": 1, "left": 1j, "right": -1j, "forward": 1, "backward": -1, "around": -1}
WORDS = (
    *(f" {START}", FORWARD, OPTIONS, " Take ", " step.", " steps."),
    *(f" Turn {way}." for way in TURNS),
    *(f" {steps} {way}." for steps in ("step", "steps") for way in SIDES),
    *(" (", "\n(", " Yes", " No", "\n(Yes)", "\n(No)"),
    *(f") {name}" for name in COMPASS.values()),
)
INSTRUCTION = re.compile(r" (?:Take (\d+) steps?|(Turn))(?: (\w+))?\.")
MAX_STEPS = 10  # of an instruction
YES = 0.42  # of the published questions

Instructions = list[tuple[int, str]]  # (steps, way) to take, (0, way) to turn


def question(rng: np.random.Generator, level: int) -> str:
    """Random instructions, or those that return, in the published proportion."""
    faces_forward = level < 3 or rng.random() < 0.5
    returns = rng.random() < YES
    walk = _walk(rng, level, faces_forward)
    while returns != _returns(walk):
        walk = _walk(rng, level, faces_forward)
        if returns:
            _close(rng, walk)
    texts = [START, FORWARD] if faces_forward else [START]
    texts += [_text(steps, way) for steps, way in walk]
    return "".join([*texts, OPTIONS])


def solve(question: str) -> tuple[str, str]:
    body = question.removeprefix(START).removesuffix(OPTIONS).removeprefix(FORWARD)
    walk = [(int(steps or 0), way) for steps, _, way in INSTRUCTION.findall(body)]
    if not question.startswith(START) or not walk or INSTRUCTION.sub("", body):
        raise ValueError(f"These are no instructions to walk: {question!r}.")
    lines = []
    for position, facing in _path(walk):
        lines.append(f"({position.real:.0f},{position.imag:.0f}) {COMPASS[facing]}")
    return "Yes" if lines[-1].startswith("(0,0)") else "No", "\n".join(lines)


def difficulty(question: str) -> tuple[str, int]:
    return "instructions", len(INSTRUCTION.findall(question))


def _text(steps: int, way: str) -> str:
    if steps == 0:
        return f" Turn {way}."
    unit = "step" if steps == 1 else "steps"
    return f" Take {steps} {unit} {way}." if way else f" Take {steps} {unit}."


def _walk(rng: np.random.Generator, level: int, faces_forward: bool) -> Instructions:
    steps = rng.integers(1, MAX_STEPS + 1, level).tolist()
    draws = rng.integers(36, size=level).tolist()
    if faces_forward:
        return [(n, SIDES[i % 4]) for n, i in zip(steps, draws, strict=True)]
    # A third are turns.
    return [(0, TURNS[i % 3]) if i < 12 else (n, "") for n, i in zip(steps, draws, strict=True)]


def _path(walk: Instructions) -> list[tuple[complex, complex]]:
    """(position, facing) after each instruction."""
    position, facing = 0j, 1j
    path = []
    for steps, way in walk:
        if steps == 0:
            facing *= WAYS[way]
        position += steps * facing * WAYS[way]
        path.append((position, facing))
    return path


def _returns(walk: Instructions) -> bool:
    position, _ = _path(walk)[-1]
    return position == 0


def _close(rng: np.random.Generator, walk: Instructions) -> None:
    """Changes the steps of one instruction so that the walk returns, if they can.

    Any returning walk is equally likely.
    """
    taken = [i for i, (steps, _) in enumerate(walk) if steps]
    if not taken:
        return
    i = taken[rng.integers(len(taken))]
    steps, way = walk[i]
    path = _path(walk)
    (end, _), (_, facing) = path[-1], path[i]
    # How far ahead the walk ends, in the direction of instruction i.
    beyond = end * (facing * WAYS[way]).conjugate()
    if beyond.imag == 0 and 1 <= steps - beyond.real <= MAX_STEPS:
        walk[i] = (steps - int(beyond.real), way)
