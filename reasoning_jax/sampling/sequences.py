"""What is asked of the sampler, what is in progress, and how much of it at once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from reasoning_jax.errors import UserError
from reasoning_jax.model import sharding
from reasoning_jax.model.pages import PAGE
from reasoning_jax.sampling.page_pool import Block


class Request(NamedTuple):
    """A prompt to complete; with the draw's key, the id and index name its random stream."""

    example_id: int
    sample_index: int
    prompt_ids: np.ndarray  # [P] int32


@dataclasses.dataclass(kw_only=True, eq=False)
class Running:
    """A completion in progress, or done."""

    number: int  # of its request
    request: Request
    device: int  # whose cache it is in, of the devices that split the sequences
    pages: list[int]
    cached: int  # tokens in the cache
    missing: Block | None  # the first block of the prompt that it computes for others too
    thoughts: range  # which ids of the prompt are continuous thoughts
    tokens: list[int] = dataclasses.field(default_factory=list)
    logprobs: list[float] = dataclasses.field(default_factory=list)
    finished: bool = False  # ended with a stop token

    @property
    def in_prompt(self) -> bool:
        """Whether its prompt is not all in the cache yet."""
        return not self.tokens

    @property
    def end_of_prefill(self) -> int:
        """Up to which token of the prompt the next prefills go: to the thoughts, or to its end."""
        if self.cached < self.thoughts.start:
            return self.thoughts.start
        return len(self.request.prompt_ids)


def thoughts_of(prompt_ids: np.ndarray, thought_id: int | None) -> range:
    """Which ids of a prompt are continuous thoughts; where there are none, an empty range at its
    end.
    """
    places = np.flatnonzero(prompt_ids == thought_id)
    if not len(places):
        return range(len(prompt_ids), len(prompt_ids))
    return range(int(places[0]), int(places[-1]) + 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of the compiled calls and of the cache; all but the first of each device."""

    num_devices: int  # that split the sequences
    rows: tuple[int, ...]  # sequences of a call: all slots, or a quarter where few are in use
    slots: int
    running: int  # sequences at most: those in slots, and those whose prompts are computed ahead
    pages: int
    pages_of_one: int  # that a sequence may have

    @classmethod
    def of(cls, mesh: Mesh | None, num_slots: int, max_length: int, cache_tokens: int) -> Sizes:
        """Of arguments that count over all devices; as those of ``Scheduler``."""
        num_devices = 1
        if mesh is not None:
            num_devices = math.prod(mesh.shape[axis] for axis in sharding.RULES["batch"])
        slots = -(-num_slots // num_devices)
        quarter = -(-slots // 4)
        running = slots + quarter
        pages_of_one = pages_of(max_length)
        pages = running * pages_of_one
        if cache_tokens:
            pages = cache_tokens // PAGE // num_devices
        return cls(
            num_devices=num_devices,
            rows=(quarter, slots) if slots >= 8 else (slots,),
            slots=slots,
            running=running,
            pages=pages,
            pages_of_one=pages_of_one,
        )


def pages_of(tokens: int) -> int:
    """How many pages so many tokens of a sequence fill."""
    return -(-tokens // PAGE)


def check(
    requests: Sequence[Request],
    sizes: Sizes,
    max_length: int,
    max_new_tokens: int,
    cache_tokens: int,
    room: int,
) -> None:
    """UserError for a request that has no tokens, or more than a sequence or the cache has room
    for; the arguments are those of ``Scheduler``. room: tokens beyond a sequence's end.
    """
    for request in requests:
        prompt = len(request.prompt_ids)
        length = prompt + max_new_tokens
        if not prompt:
            raise UserError(f"example {request.example_id}: the prompt is empty.")
        if length > max_length:
            raise UserError(
                f"example {request.example_id}: the prompt of {prompt} tokens and "
                f"{max_new_tokens} new ones exceed the {max_length} of a sequence."
            )
        length += room
        if length > sizes.pages * PAGE:
            needed = pages_of(length) * PAGE * sizes.num_devices
            raise UserError(
                f"example {request.example_id}: config.sampling.cache_tokens is "
                f"{cache_tokens}; a sequence of {length} tokens needs {needed}."
            )


class Rows:
    """The sequences of a call, in arrays of a compiled size: each device has as many rows."""

    def __init__(self, sizes: Sizes, by_device: Sequence[Sequence[Running]]):
        most = max(len(running) for running in by_device)
        each = next(size for size in sizes.rows if size >= most)
        self.size = each * sizes.num_devices
        self.pages_of_one = sizes.pages_of_one
        self.numbers: list[int] = []
        self.running: list[Running] = []
        for device, running in enumerate(by_device):
            self.numbers += range(device * each, device * each + len(running))
            self.running += running

    def __iter__(self) -> Iterator[tuple[int, Running]]:
        return zip(self.numbers, self.running, strict=True)

    def tables(self) -> np.ndarray:
        """The pages of each."""
        tables = np.zeros((self.size, self.pages_of_one), np.int32)
        for row, one in self:
            tables[row, : len(one.pages)] = one.pages
        return tables

    def take_blocks(self, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The next tokens [B, size] of each row's prompt, their starts and counts [B].

        From now on they are cached.
        """
        tokens = np.zeros((self.size, size), np.int32)
        starts, counts = np.zeros((2, self.size), np.int32)
        for row, one in self:
            end = min(one.cached + size, one.end_of_prefill)
            block = one.request.prompt_ids[one.cached : end]
            tokens[row, : len(block)] = block
            starts[row], counts[row] = one.cached, len(block)
            one.cached += len(block)
        return tokens, starts, counts

    def prompts_end(self, ends: np.ndarray) -> np.ndarray:
        """[B]: whether each row's prompt ends here."""
        is_last = np.zeros((self.size,), bool)
        for row, one in self:
            is_last[row] = ends[row] == len(one.request.prompt_ids)
        return is_last

    def start_thinking(self, ends: np.ndarray) -> np.ndarray:
        """[B]: the thoughts of each row whose question ends here; from now on they are cached."""
        counts = np.zeros((self.size,), np.int32)
        for row, one in self:
            if one.thoughts and ends[row] == one.thoughts.start:
                counts[row] = len(one.thoughts)
                one.cached += len(one.thoughts)
        return counts
