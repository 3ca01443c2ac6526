"""Chat templates: conversations as the text that a published model was trained on.

A template is a Jinja program that comes with the model. It is rendered in a sandbox, within limits
(``chat_sandbox``). Special tokens that it writes are tokens; the same characters in a message are
ordinary text: ``Disguise`` hides them from the template, and tells the two apart afterwards.
"""

from __future__ import annotations

import functools
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from reasoning_jax import text_files
from reasoning_jax.errors import UserError

ROLES = ("system", "developer", "user", "assistant", "tool")
LONGEST_TEMPLATE = 200_000  # characters

Message = Mapping[str, str]  # its "role" and "content"

# What a template is tried with; the answer is found again in what it writes.
QUESTION = {"role": "user", "content": "Question"}
ANSWER = {"role": "assistant", "content": "TheAnswerOfTheAssistant"}


class Piece(NamedTuple):
    """A part of a rendered conversation."""

    text: str
    is_special: bool  # the text of one special token


def check_messages(messages: Sequence[Message]) -> None:
    """UserError for what is no conversation that an assistant's turn can follow."""
    if not isinstance(messages, list | tuple) or not messages:
        raise UserError("a conversation is a list of messages, one at least.")
    for number, message in enumerate(messages, start=1):
        problem = message_problem(message)
        if problem is not None:
            raise UserError(f"message {number}: {problem}.")
    if messages[-1]["role"] == "assistant":
        raise UserError("the last message of a prompt must not be the assistant's.")


def message_problem(message: object) -> str | None:
    """Why a value is no message, such as "'content' is null, not text"; None where it is one."""
    if not isinstance(message, Mapping):
        return f"this is {text_files.kind_of(message)}, not an object with a role and a content"
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        return f"the role {str(role)[:40]!r} is not one of {', '.join(ROLES)}"
    if not isinstance(content, str):
        return f"'content' is {text_files.kind_of(content)}, not text"
    problem = text_files.encoding_problem(content)
    return None if problem is None else f"'content' {problem}"


class Template:
    """A model's chat template.

    where: what a sentence calls it; tokens: bos_token, eos_token and others that it may name.
    """

    def __init__(self, source: str, where: str, tokens: Mapping[str, str]):
        self.source, self.where, self.tokens = source, where, dict(tokens)

    @functools.cached_property
    def _program(self):  # type: ignore[no-untyped-def]
        from reasoning_jax.chat_sandbox import Sandbox  # jinja2, which few runs need

        if len(self.source) > LONGEST_TEMPLATE:
            raise ValueError(f"it is longer than {LONGEST_TEMPLATE} characters")
        sandbox = Sandbox()
        program = sandbox.from_string(self.source)
        return functools.partial(sandbox.render, program)

    def render(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        """The text of a conversation; UserError where the template cannot write it."""
        plain = [{"role": m["role"], "content": m["content"]} for m in messages]
        variables = {
            **self.tokens,
            "messages": plain,
            "tools": None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            return self._program(variables)
        except Exception as error:  # it is a program, and may fail in any way
            reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
            raise UserError(
                f"{self.where}: the chat template cannot write this conversation ({reason[:200]})."
            ) from None

    def prompt(self, messages: Sequence[Message]) -> str:
        """The conversation up to where the assistant's next words begin."""
        return self.render(messages, True) + self._header

    @functools.cached_property
    def _header(self) -> str:
        """What begins an assistant's turn where ``add_generation_prompt`` does not write it."""
        closed = self.render([QUESTION], False)
        if self.render([QUESTION], True) != closed:
            return ""
        before, _ = self._around_turn
        header = before.removeprefix(closed)
        # White space before the content is the model's to write.
        return header if header != before and header.strip() else ""

    @functools.cached_property
    def _around_turn(self) -> tuple[str, str]:
        """What stands before and after the content of an assistant's message."""
        text = self.render([QUESTION, ANSWER], False)
        before, found, after = text.rpartition(ANSWER["content"])
        if not found:
            raise UserError(f"{self.where}: the chat template leaves out what the assistant says.")
        return before, after

    def turn_end(self, special: Mapping[str, int]) -> int | None:
        """The id of the special token that ends an assistant's turn; None where none does."""
        first = _pattern(list(special)).match(self._around_turn[1].lstrip())
        return special[first[0]] if first else None


class Disguise:
    """Hides special tokens that messages spell from a template, and shows them afterwards."""

    def __init__(self, special: Sequence[str]):
        self._special = _pattern(special)
        self._beginnings = {text[:end] for text in special for end in range(1, len(text))}
        self._longest = max(map(len, self._beginnings), default=0)
        self._mark = f"\ue000{secrets.token_hex(8)}"  # no message can know it
        self._marks = re.compile(f"{self._mark}\\.([0-9]+)\ue001")
        self._numbers: dict[str, int] = {}  # of what has been hidden

    def hide(self, content: str) -> str:
        """The content with a mark in the place of each special token.

        So too for the beginning of one at its end, which the next text could complete.
        """
        content = self._special.sub(lambda match: self._put(match[0]), content)
        end = len(content.rstrip())
        for start in range(max(0, end - self._longest), end):
            if content[start:end] in self._beginnings:
                return content[:start] + self._put(content[start:end]) + content[end:]
        return content

    def _put(self, text: str) -> str:
        number = self._numbers.setdefault(text, len(self._numbers))
        return f"{self._mark}.{number}\ue001"

    def show(self, text: str) -> str:
        """The text with what was hidden in it."""
        hidden = list(self._numbers)
        return self._marks.sub(lambda match: hidden[int(match[1])], text)

    def pieces(self, rendered: str) -> list[Piece]:
        """The special tokens of a rendered text, and what is between them as it really is."""
        found = []
        end = 0
        for match in self._special.finditer(rendered):
            found += [Piece(self.show(rendered[end : match.start()]), False)]
            found += [Piece(match[0], True)]
            end = match.end()
        found.append(Piece(self.show(rendered[end:]), False))
        return [piece for piece in found if piece.text]


def _pattern(special: Sequence[str]) -> re.Pattern[str]:
    """A pattern that finds the texts of special tokens, the longest that there is."""
    longest_first = sorted(special, key=len, reverse=True)
    return re.compile("|".join(re.escape(text) for text in longest_first) or r"(?!)")


def without_special(text: str, special: Sequence[str]) -> list[str]:
    """The text in parts, none of which spells a special token."""
    return _pattern(special).sub(lambda match: f"{match[0][:1]}\0{match[0][1:]}", text).split("\0")
