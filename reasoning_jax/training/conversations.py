"""Preferences as lists of messages, as published sets have them.

    {"prompt": [{"role": "user", "content": "1+2"}],
     "chosen": [{"role": "assistant", "content": "3"}], "rejected": [...]}

The sides may hold the whole conversation, and the prompt may then be missing, or be a copy of its
question as text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from reasoning_jax import chat
from reasoning_jax.training.data import Record

Problem = str


class Turn(NamedTuple):
    """A message of a conversation."""

    role: str
    content: str


Conversation = tuple[Turn, ...]


def is_conversation(value: object) -> bool:
    """[{"role": ..., "content": ...}, ...], or what TFDS makes of it: an object of two lists."""
    if isinstance(value, list | tuple) and value:
        value = value[0]
    return isinstance(value, dict) and "content" in value


def has_conversation(record: Record, keys: Sequence[str]) -> bool:
    return any(is_conversation(record.get(key)) for key in keys)


def as_prompt(record: Record, keys: Sequence[str]) -> Record | Problem:
    """The record with its prompt as a conversation, and its sides as the assistant's text.

    keys: those of the prompt and the sides. Or why it cannot be read, in words that can be counted.
    """
    read: dict[str, Conversation] = {}
    for key in keys:
        if key not in record:
            continue
        turns = _turns(record[key], "user" if key == "prompt" else "assistant")
        if isinstance(turns, Problem):
            return f"{key!r}{turns}"
        read[key] = turns
    sides = [read[key] for key in keys if key != "prompt"]
    prompt = _prompt(record, read.get("prompt"), sides)
    if isinstance(prompt, Problem):
        return prompt
    texts = {}
    for key, side in zip((key for key in keys if key != "prompt"), sides, strict=True):
        own = side[len(prompt) :] if side[: len(prompt)] == prompt else side
        if len(own) != 1 or own[0].role != "assistant":
            return "a side is not one message of the assistant's after the prompt"
        texts[key] = own[0].content
    return {**record, "prompt": prompt, **texts}


def _turns(value: object, role: str) -> Conversation | Problem:
    """The messages of a value, which may be the text of one with this role."""
    if isinstance(value, str):
        value = [{"role": role, "content": value}]
    if isinstance(value, dict):
        value = _messages_of_columns(value)
    if not isinstance(value, list) or not value:
        return " is no list of messages"
    turns = []
    for number, message in enumerate(value, start=1):
        problem = chat.message_problem(message)
        if problem is not None:
            return f", message {number}: {problem}"
        turns.append(Turn(message["role"], message["content"]))
    return tuple(turns)


def _messages_of_columns(columns: Record) -> list[Record] | None:
    """The messages of an object of two lists, as TFDS holds them; None where it is another."""
    roles, contents = columns.get("role"), columns.get("content")
    is_list = all(isinstance(column, list | np.ndarray) for column in (roles, contents))
    if not is_list or len(roles) != len(contents):
        return None
    pairs = zip(roles, contents, strict=True)
    return [{"role": _text(role), "content": _text(content)} for role, content in pairs]


def _text(value: object) -> object:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


def _prompt(
    record: Record, prompt: Conversation | None, sides: Sequence[Conversation]
) -> Conversation | Problem:
    """The given prompt, or what the sides begin with."""
    begins = [prompt is not None and side[: len(prompt)] == prompt for side in sides]
    if prompt is None or (isinstance(record["prompt"], str) and not all(begins)):
        shared = _shared(sides)
        if prompt is not None and not shared:
            shared = prompt
        elif prompt is not None and shared[-1].content.strip() != prompt[0].content.strip():
            return "the prompt is not what its conversation asks"
        prompt = shared
    if not prompt or prompt[-1].role == "assistant":
        return "the conversation before the sides is missing, or ends with the assistant"
    return prompt


def _shared(sides: Sequence[Conversation]) -> Conversation:
    """The messages that all sides begin with, less an assistant's at their end."""
    first, *others = sides
    count = 0
    while all(side[: count + 1] == first[: count + 1] for side in others) and count < len(first):
        count += 1
    while count and first[count - 1].role == "assistant":
        count -= 1
    return first[:count]
