"""The text of a completion while it grows: what is shown of it stays as it is."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

from reasoning_jax.errors import UserError
from reasoning_jax.policy import Generated
from reasoning_jax.tokenizer import Tokenizer

INCOMPLETE = "\ufffd"  # what decodes bytes that are not yet, or never, a character
RARE = "\U000f1234"  # a character that vocabularies write as bytes


def texts(
    tokenizer: Tokenizer, parts: Iterable[Generated], prompt: Sequence[int] = ()
) -> Iterator[str]:
    """The text of each part, as far as it is settled; and at last all of it.

    Each text begins with the one before. prompt: ids that the completion goes on from; its text is
    then what follows theirs, white space included.
    """
    start = len(tokenizer.decode(prompt))
    breaker = _breaker(tokenizer)
    ids = [*prompt]
    for part in parts:
        ids = [*prompt, *part.tokens[0, : part.lengths[0]].tolist()]
        yield _settled(tokenizer, ids, breaker)[start:]
    yield tokenizer.decode(ids)[start:]


def additions(texts: Iterable[str]) -> Iterator[str]:
    """What each text adds to the one before, which it begins with."""
    length = 0
    for text in texts:
        if len(text) > length:
            yield text[length:]
            length = len(text)


def _settled(tokenizer: Tokenizer, ids: Sequence[int], breaker: Sequence[int]) -> str:
    """The beginning of the text of these ids that no later id changes.

    Later bytes may complete a character; and of tokens that are single bytes, some tokenizers
    decode all in a row to replacement characters where one character of them is incomplete.
    """
    text = tokenizer.decode(ids)
    broken = tokenizer.decode([*ids, *breaker])
    return os.path.commonprefix([text, broken]).rstrip(INCOMPLETE)


def _breaker(tokenizer: Tokenizer) -> list[int]:
    """A token that is the beginning of a character, if there is one."""
    try:
        ids = tokenizer.encode(RARE)
    except UserError:  # a tokenizer of other characters
        return []
    return [id for id in ids if tokenizer.decode([id]) == INCOMPLETE][:1]
