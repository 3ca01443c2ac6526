"""A conversation of a user with a model, of which as many turns are kept as fit."""

from __future__ import annotations

from collections.abc import Iterator

from reasoning_jax.asking import TooLongError, check_encoding
from reasoning_jax.chat import QUESTION, Message
from reasoning_jax.loaded import LoadedModel


class Conversation:
    """Turns of a user and a model, after a system message where ``system`` is not None.

    UserError where the model has no chat template, or it takes no system message.
    """

    def __init__(self, model: LoadedModel, system: str | None = None, temperature: float = 0.0):
        self._model = model
        self._temperature = temperature
        self._system: list[Message] = []
        if system is not None:
            self._system = [{"role": "system", "content": system}]
        self._turns: list[list[Message]] = []  # the user's message and the assistant's, each
        self.forgotten = 0  # turns that no longer fitted
        model.check_chat([*self._system, QUESTION])

    def say(self, text: str) -> Iterator[str]:
        """The reply to a user's message, in pieces, as it grows.

        The oldest turns are forgotten where there is no room. UserError where the message alone is
        too long, or no text; it is then as if it had not been said.
        """
        check_encoding(text, "message")
        message = {"role": "user", "content": text}
        turns = [*self._turns]
        while True:
            earlier = [part for turn in turns for part in turn]
            try:
                pieces = self._model.chat([*self._system, *earlier, message], self._temperature)
                break
            except TooLongError:
                if not turns:
                    raise
                del turns[0]
        self.forgotten += len(self._turns) - len(turns)
        self._turns = turns
        return self._kept(message, pieces)

    def _kept(self, message: Message, pieces: Iterator[str]) -> Iterator[str]:
        """The pieces; when there are no more, the turn is part of the conversation."""
        reply = ""
        for piece in pieces:
            reply += piece
            yield piece
        # White space around it is the template's to write.
        self._turns.append([message, {"role": "assistant", "content": reply.strip()}])
