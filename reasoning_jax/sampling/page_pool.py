"""Which pages of a device's cache are free, and which hold the beginnings of prompts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from reasoning_jax.model.pages import PAGE

Block = tuple[int, bytes]  # a page's tokens, and which block stands before them (0: none)


class _Known(NamedTuple):
    page: int
    number: int  # names the block, as long as the page holds it


class PagePool:
    """Pages that sequences take and release.

    A page that holds a whole block of a prompt is remembered by the tokens up to its end: prompts
    that begin alike share it, also after it was released, until another sequence needs it.
    """

    def __init__(self, count: int):
        self._free = dict.fromkeys(range(count))  # an ordered set: the longest free first
        self._users = [0] * count
        self._known: dict[Block, _Known] = {}
        self._block_of: dict[int, Block] = {}
        self._numbers = itertools.count(1)

    @property
    def num_free(self) -> int:
        return len(self._free)

    def take(self, count: int) -> list[int]:
        """So many free pages; what they held is forgotten. There must be so many."""
        pages = list(itertools.islice(self._free, count))
        for page in pages:
            del self._free[page]
            self._users[page] = 1
            if page in self._block_of:
                del self._known[self._block_of.pop(page)]
        return pages

    def share(self, pages: Sequence[int]) -> None:
        """One more user of each page."""
        for page in pages:
            self._free.pop(page, None)
            self._users[page] += 1

    def release(self, pages: Sequence[int]) -> None:
        """One user less of each page; the last page of a sequence is taken again first."""
        for page in reversed(pages):
            self._users[page] -= 1
            if not self._users[page]:
                self._free[page] = None

    def find(self, prompt: np.ndarray) -> tuple[list[int], Block | None]:
        """The pages that hold the beginning of a prompt; and the first whole block that none holds.

        The last token is left out: what follows it is to be computed.
        """
        pages: list[int] = []
        before = 0
        for tokens in _blocks(prompt[:-1]):
            known = self._known.get((before, tokens))
            if known is None:
                return pages, (before, tokens)
            pages.append(known.page)
            before = known.number
        return pages, None

    def remember(self, prompt: np.ndarray, pages: Sequence[int]) -> None:
        """Notes that ``pages`` now hold this prompt."""
        before = 0
        for page, tokens in zip(pages, _blocks(prompt), strict=False):
            block = (before, tokens)
            if block not in self._known:
                self._known[block] = _Known(page, next(self._numbers))
                self._block_of[page] = block
            before = self._known[block].number


def _blocks(tokens: np.ndarray) -> Iterator[bytes]:
    """The whole pages of tokens."""
    for start in range(0, len(tokens) - PAGE + 1, PAGE):
        yield tokens[start : start + PAGE].astype(np.int32).tobytes()
