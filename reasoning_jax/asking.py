"""One question at a time: answers to a task's questions, texts that go on, and chats."""

from __future__ import annotations

import dataclasses
import functools
import numbers
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from reasoning_jax import growing, workdir
from reasoning_jax.chat import Message
from reasoning_jax.errors import UserError
from reasoning_jax.experiment import Experiment
from reasoning_jax.model.decoder import Params
from reasoning_jax.policy import Request
from reasoning_jax.rollout import Rollout, Sample
from reasoning_jax.sampling.methods import make_method
from reasoning_jax.tasks import Example

CHUNK = 4  # tokens between two looks at a completion that grows


class TooLongError(UserError):
    """A prompt that leaves no room for what is to follow."""


class Asker:
    """A model that is asked; ``load`` gives its parameters and their round, when first needed.

    A text that grows comes whole each time, and begins with what came before.
    """

    def __init__(self, exp: Experiment, load: Callable[[], tuple[Params, int]]):
        self.exp = exp
        self._load = load
        self._asked = 0

    # ---- questions of the task -------------------------------------------------------------------

    def answer(self, question: str, temperature: float) -> workdir.Line:
        """The record of ``LoadedModel.sample``."""
        roll = self._rollout_at(temperature)
        example = self._example(roll, question)
        sample = roll.complete(example, self._next_index())
        return {
            "question": example.question,
            "rationale": sample.text.strip(),
            "answer": _stated(roll, sample),
            "finished": sample.finished,
        }

    def answer_as_it_grows(self, question: str, temperature: float) -> Iterator[str]:
        """The rationale of ``answer``, at last with the line "answer: ..." after it."""
        roll = self._rollout_at(temperature)
        example = self._example(roll, question)
        samples = roll.stream(example, self._next_index(), CHUNK)

        def texts() -> Iterator[str]:
            for sample in samples:
                yield sample.text.strip()
            end = "" if sample.finished else f" (cut off after {roll.max_new_tokens} tokens)"
            answer = _stated(roll, sample) or "none"
            yield f"{sample.text.strip()}\n\nanswer: {answer}{end}"

        return texts()

    def _example(self, roll: Rollout, question: str) -> Example:
        """The question as an example; UserError where it cannot be asked."""
        check_encoding(question, "question")
        question = _without_decoration(question, getattr(self.exp.tokenizer, "alphabet", None))
        if not question.strip():
            raise UserError("The question is empty.")
        example = Example(id=0, question=question, answer="")
        try:
            ids = roll.prompt_ids(example)
        except ValueError as error:
            raise UserError(f"The question cannot be asked: {error}") from None
        self._check_room(ids, roll.room, "question")
        return example

    # ---- texts and chats -------------------------------------------------------------------------

    def continuation(self, text: str, temperature: float) -> Iterator[str]:
        """What follows the text, as it grows; UserError where that cannot be."""
        check_encoding(text, "text")
        if not self.exp.tokenizer.prompt(text):
            raise UserError("The text is empty, and the model has no start token to begin with.")
        prompt = self._rollout.tokenizer.prompt(text)
        self._check_room(prompt, self._room, "text")
        return self._complete(prompt, temperature, prompt)

    def reply(self, messages: Sequence[Message], temperature: float) -> Iterator[str]:
        """The assistant's next words, as they grow; UserError where that cannot be."""
        self.check_chat(messages)
        prompt = self._rollout.tokenizer.chat(messages)
        goes_on = any(message["role"] == "assistant" for message in messages)
        self._check_room(prompt, self._room, "conversation" if goes_on else "message")
        return self._complete(prompt, temperature)

    def check_chat(self, messages: Sequence[Message]) -> None:
        """UserError where there is no chat template, or it cannot write this."""
        self.exp.tokenizer.chat(messages)

    def _complete(
        self, prompt: Sequence[int], temperature: float, after: Sequence[int] = ()
    ) -> Iterator[str]:
        """The text of a completion as it grows; after: as ``growing.texts`` takes it."""
        roll = self._rollout_at(temperature)
        parts = roll.policy.stream(
            Request(0, self._next_index(), np.asarray(prompt, np.int32)),
            CHUNK,
            key=roll.key,
            method=make_method(temperature),
            stop_ids=roll.tokenizer.stop_ids,
            max_new_tokens=roll.max_new_tokens,
        )
        return growing.texts(roll.tokenizer, parts, after)

    # ---- parts -----------------------------------------------------------------------------------

    def _rollout_at(self, temperature: float) -> Rollout:
        """The rollout at this temperature; from now on its mesh is set."""
        check_temperature(temperature)
        jax.set_mesh(self.exp.mesh)
        return dataclasses.replace(self._rollout, temperature=temperature)

    @functools.cached_property
    def _rollout(self) -> Rollout:
        """Its policy, the same for all questions, prepares its parameters once."""
        jax.set_mesh(self.exp.mesh)
        params, round = self._load()
        roll = self.exp.rollout(params, "ask", 0, temperature=0.0, until_question=True)
        return dataclasses.replace(roll, tokenizer=self.exp.prompts.tokenizer(round))

    def _next_index(self) -> int:
        """The random stream of the next completion."""
        self._asked += 1
        return self._asked - 1

    @property
    def _room(self) -> int:
        """Tokens that a prompt without a task may have."""
        return self.exp.cfg.sequence_length - self.exp.cfg.sampling.max_new_tokens

    def _check_room(self, ids: Sequence[int], room: int, what: str) -> None:
        if len(ids) > room:
            raise TooLongError(
                f"The {what} is too long: {len(ids)} tokens, and with sampling.max_new_tokens="
                f"{self.exp.cfg.sampling.max_new_tokens} there is room for {room}."
            )


def check_temperature(temperature: float) -> None:
    """UserError unless it is 0, or logits divided by it are numbers that differ."""
    if not isinstance(temperature, numbers.Real):
        raise UserError(f"temperature={temperature!r}: this must be a number.")
    if temperature != 0 and not 1e-4 <= temperature <= 1e4:
        raise UserError(f"temperature={temperature}: this must be 0, or from 0.0001 to 10000.")


def _stated(roll: Rollout, sample: Sample) -> str | None:
    """The answer that a completion states; None where it was cut off."""
    return roll.task.extract(sample.text) if sample.finished else None


def check_encoding(text: str, what: str) -> None:
    """UserError for what is no text, or holds halves of characters; what: what it is called."""
    if not isinstance(text, str):
        raise UserError(f"The {what} is of the type {type(text).__name__}, not text.")
    if any("\ud800" <= c <= "\udfff" for c in text):  # bytes that are no UTF-8
        raise UserError(f"The {what} is not valid UTF-8: {ascii(text)}.")


def _without_decoration(question: str, alphabet: Sequence[str] | None) -> str:
    """People write "12 + 34 = ?": without what a tokenizer of characters does not know of that."""
    if alphabet is None:
        return question
    known = set("".join(alphabet))  # a symbol may be several characters
    return "".join(c for c in question if c in known or c not in " \t=?")
