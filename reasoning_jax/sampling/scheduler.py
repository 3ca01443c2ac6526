"""Continuous batching: a queue of requests, of which as many run at once as there are slots.

A sequence that ends makes room for the next one at once. The host decides what a compiled step
computes: which sequences, and which pages of the cache are theirs. It reads back which have ended.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import deque
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from reasoning_jax import interrupts
from reasoning_jax.forwards import HiddenTokens
from reasoning_jax.model import decoder, sharding
from reasoning_jax.model.paged_attention import Cache
from reasoning_jax.model.pages import PAGE, Places
from reasoning_jax.sampling import engine, sequences
from reasoning_jax.sampling.engine import MOST_TOKENS, PREFILL_BLOCK, Draw, Emitted
from reasoning_jax.sampling.methods import Method
from reasoning_jax.sampling.page_pool import Block, PagePool
from reasoning_jax.sampling.sequences import Request, Rows, Running, Sizes

NumberedRows = list[tuple[int, Running]]  # rows of a compiled call, and whose they are


@dataclasses.dataclass(kw_only=True)
class Scheduler:
    """Draws completions. Sizes are of all devices together."""

    params: decoder.Params  # as engine.prepare returns them
    model_cfg: decoder.ModelConfig
    mesh: Mesh | None
    num_slots: int  # completions in progress at once
    max_length: int  # tokens of a sequence
    cache_tokens: int = 0  # that the cache has room for; 0 = for the longest sequences everywhere
    int8_cache: bool = False  # keys and values in 8 bits
    key: jax.Array
    method: Method
    stop_ids: Sequence[int]
    max_new_tokens: int
    hidden_tokens: HiddenTokens | None = None  # computed between tokens, behind the newest

    def __post_init__(self) -> None:
        self.room = self.hidden_tokens.room if self.hidden_tokens else 0
        longest = self.max_length + self.room
        self.sizes = Sizes.of(self.mesh, self.num_slots, longest, self.cache_tokens)
        method = jax.tree.map(np.float32, self.method)
        constants = (method, np.asarray(self.stop_ids, np.int32), np.int32(self.max_new_tokens))
        self.on_device = sharding.put(constants, self.mesh)
        self.thought_id = decoder.thought_id(self.params, self.model_cfg)
        self._start_anew(())

    def _start_anew(self, requests: Sequence[Request]) -> None:
        self.waiting: deque[tuple[int, Request]] = deque(enumerate(requests))
        self.running: list[Running] = []
        self.pools = [PagePool(self.sizes.pages) for _ in range(self.sizes.num_devices)]
        self.is_full = False  # pages ran out: nothing is admitted until a completion is done

    def run(self, requests: Sequence[Request], most: int = MOST_TOKENS) -> Iterator[list[Running]]:
        """The completions to which a compiled call gave tokens, once the next call is under way.

        They go on growing: the caller reads them before it asks for more. One that is not done may
        begin again with its first token, where pages run out. most: tokens of a completion in one
        call, MOST_TOKENS at the largest. UserError where a request does not fit the cache.
        """
        most = min(most, MOST_TOKENS)
        if min(most, self.max_new_tokens) < 1:
            raise ValueError(f"{most} tokens of a call, {self.max_new_tokens} of a completion.")
        sequences.check(
            requests, self.sizes, self.max_length, self.max_new_tokens, self.cache_tokens, self.room
        )
        self._start_anew(requests)
        cache = self._new_cache() if requests else None
        changed: list[Running] = []
        while self.waiting or self.running:
            interrupts.check()
            self._admit()
            if self._should_prefill():
                cache, emitted, rows = self._prefill(cache)
            else:
                cache, emitted, rows = self._decode(cache, most)
            if changed:
                yield changed
            changed = self._read(emitted, rows)
            for one in changed:
                if self.is_done(one):
                    self._leave(one)
                    self.is_full = False
        if changed:
            yield changed

    def is_done(self, one: Running) -> bool:
        return one.finished or len(one.tokens) >= self.max_new_tokens

    def _new_cache(self) -> Cache:
        with self._on_mesh():
            num_pages = self.sizes.pages * self.sizes.num_devices
            return engine.new_cache(self.model_cfg, num_pages, self.int8_cache)

    def _on_mesh(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext() if self.mesh is None else jax.set_mesh(self.mesh)

    # ---- who runs --------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Admits waiting requests in their order, up to a quarter more than there are slots.

        So a slot that becomes free finds a prompt in the cache, and a prefill is full. A
        request whose prompt begins as one that is being computed waits for that, and others go
        before it.
        """
        if self.is_full and self.running:
            return
        counts = [0] * self.sizes.num_devices
        pending: list[set[Block]] = [set() for _ in counts]
        for one in self.running:
            counts[one.device] += 1
            if one.in_prompt and one.missing:
                pending[one.device].add(one.missing)
        deferred = []
        while self.waiting and len(deferred) < self.num_slots:
            device = counts.index(min(counts))
            if counts[device] == self.sizes.running:
                break
            number, request = self.waiting.popleft()
            thoughts = sequences.thoughts_of(request.prompt_ids, self.thought_id)
            # What thoughts follow is computed by each sequence: it needs the last hidden state.
            pages, missing = self.pools[device].find(request.prompt_ids[: thoughts.start])
            if missing in pending[device]:
                deferred.append((number, request))
                continue
            one = self._start(number, request, device, pages, missing, thoughts)
            if one is None:
                deferred.append((number, request))
                break
            self.running.append(one)
            counts[device] += 1
            if missing:
                pending[device].add(missing)
        self.waiting.extendleft(reversed(deferred))

    def _start(
        self,
        number: int,
        request: Request,
        device: int,
        shared: Sequence[int],
        missing: Block | None,
        thoughts: range,
    ) -> Running | None:
        """A sequence with pages for its prompt and the first token; None where there are none."""
        pool = self.pools[device]
        pool.share(shared)  # first: they may be free, and ``take`` would give them away
        tokens = len(request.prompt_ids) + max(1, self.room)
        needed = sequences.pages_of(tokens) - len(shared)
        if needed > pool.num_free:
            pool.release(shared)
            return None
        return Running(
            number=number,
            request=request,
            device=device,
            pages=[*shared, *pool.take(needed)],
            cached=len(shared) * PAGE,
            missing=missing,
            thoughts=thoughts,
        )

    def _should_prefill(self) -> bool:
        """Whether a slot waits for a prompt that is not all in the cache."""
        slots = [self.sizes.slots] * self.sizes.num_devices
        for one in self.running:
            slots[one.device] -= not one.in_prompt
        return any(one.in_prompt and slots[one.device] > 0 for one in self.running)

    def _leave(self, one: Running) -> None:
        self.running.remove(one)
        self.pools[one.device].release(one.pages)
        one.pages = []

    def _make_room(self, one: Running, tokens: int) -> None:
        """Pages for so many more tokens of a completion.

        Where there are none, the newest sequence on its device is preempted and waits again: drawn
        anew, it is the same.
        """
        most = len(one.request.prompt_ids) + self.max_new_tokens
        needed = sequences.pages_of(min(one.cached + tokens, most) + self.room) - len(one.pages)
        pool = self.pools[one.device]
        while needed > pool.num_free:
            newest = [other for other in self.running if other.device == one.device][-1]
            self._leave(newest)
            self.waiting.appendleft((newest.number, newest.request))
            self.is_full = True
            if newest is one:
                return
        one.pages += pool.take(max(0, needed))

    # ---- compiled calls --------------------------------------------------------------------------

    def _prefill(self, cache: Cache) -> tuple[Cache, Emitted, NumberedRows]:
        """Blocks of prompts, as many as fit a call; and the rows that have a first token."""
        by_device: list[list[Running]] = [[] for _ in range(self.sizes.num_devices)]
        for one in self.running:
            if one.in_prompt:
                left = one.end_of_prefill - one.cached
                room = self.sizes.slots - len(by_device[one.device])
                by_device[one.device] += [one] * min(-(-left // PREFILL_BLOCK), room)
        assert any(by_device), "a prompt is in the cache and has no first token"
        rows = Rows(self.sizes, by_device)
        tokens, starts, counts = rows.take_blocks(PREFILL_BLOCK)
        places = Places(tables=rows.tables(), starts=starts, counts=counts)
        tokens, places = sharding.put((tokens, places), self.mesh, "batch", None)
        draw = self._draw_inputs(rows)
        arguments = self.params, cache, tokens, places, draw
        ends = starts + counts
        with self._on_mesh():
            if self.thought_id is None:
                is_last = rows.prompts_end(ends)
                at_end = sharding.put(is_last, self.mesh, "batch") if self.hidden_tokens else None
                static = {"cfg": self.model_cfg, "hidden_tokens": self.hidden_tokens}
                cache, emitted = engine.prefill(*arguments, at_end, **static)
            else:
                cache, emitted, vectors = engine.prefill_to_think(*arguments, cfg=self.model_cfg)
                thoughts = rows.start_thinking(ends)
                if thoughts.any():
                    at = Places(tables=rows.tables(), starts=ends, counts=thoughts)
                    at = sharding.put(at, self.mesh, "batch", None)
                    arguments = self.params, cache, vectors, at, draw, emitted
                    cache, emitted = engine.think(*arguments, cfg=self.model_cfg)
                is_last = rows.prompts_end(ends + thoughts)
        return cache, emitted, [(row, one) for row, one in rows if is_last[row]]

    def _decode(self, cache: Cache, most: int) -> tuple[Cache, Emitted, NumberedRows]:
        """More tokens of the sequences in slots, until enough of them have ended."""
        by_device: list[list[Running]] = [[] for _ in range(self.sizes.num_devices)]
        for one in self.running:
            if not one.in_prompt and len(by_device[one.device]) < self.sizes.slots:
                by_device[one.device].append(one)
        for one in [one for some in by_device for one in some]:
            if one.pages:  # it has not been preempted
                self._make_room(one, most)
        rows = Rows(self.sizes, [[one for one in some if one.pages] for some in by_device])
        last, starts, steps = np.zeros((3, rows.size), np.int32)
        live = np.zeros((rows.size,), bool)
        for row, one in rows:
            last[row], starts[row], steps[row] = one.tokens[-1], one.cached, len(one.tokens)
            live[row] = True
        progress = engine.Progress(last=last, starts=starts, steps=steps, live=live)
        arrays = progress, rows.tables()
        progress, tables = sharding.put(arrays, self.mesh, "batch", None)
        others_wait = len(rows.running) < len(self.running) or self.waiting
        enough = max(1, len(rows.running) // 8) if others_wait else len(rows.running)
        most_now, enough_now = sharding.put((np.int32(most), np.int32(enough)), self.mesh)
        draw = self._draw_inputs(rows)
        _, _, max_new_tokens = self.on_device
        with self._on_mesh():
            cache, emitted = engine.decode(
                self.params,
                cache,
                progress,
                tables,
                draw,
                max_new_tokens,
                most_now,
                enough_now,
                cfg=self.model_cfg,
                hidden_tokens=self.hidden_tokens,
            )
        return cache, emitted, list(rows)

    def _read(self, emitted: Emitted, rows: NumberedRows) -> list[Running]:
        """Waits for a call; the completions that have new tokens from it."""
        with self._on_mesh():
            on_host = jax.device_get(sharding.whole(emitted))
        for row, one in rows:
            count = int(on_host.lengths[row])
            if one.in_prompt:
                question = one.request.prompt_ids[: one.thoughts.start]
                self.pools[one.device].remember(question, one.pages)
            else:
                one.cached += count
            one.tokens += on_host.tokens[row, :count].tolist()
            one.logprobs += on_host.logprobs[row, :count].tolist()
            one.finished = bool(on_host.finished[row])
        return [one for _, one in rows]

    def _draw_inputs(self, rows: Rows) -> Draw:
        ids, indices = np.zeros((2, rows.size), np.int32)
        for row, one in rows:
            ids[row], indices[row] = one.request.example_id, one.request.sample_index
        ids, indices = sharding.put((ids, indices), self.mesh, "batch")
        method, stop_ids, _ = self.on_device
        return Draw(key=self.key, ids=ids, indices=indices, method=method, stop_ids=stop_ids)
