"""Samples before they are graded: completions, and what a second prompt makes of a rationale."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from reasoning_jax import extraction, growing, multihost
from reasoning_jax.policy import DrawOptions, Generated, Policy, Request
from reasoning_jax.sampling.methods import Method, make_method
from reasoning_jax.tasks import CORRECT, TRUNCATED, UNPARSED, Example
from reasoning_jax.tokenizer import Tokenizer

ANSWER_TOKENS = 32  # of the answer to a second prompt


@dataclasses.dataclass(frozen=True, kw_only=True)
class Call:
    """What a system asked the model on the way to an answer, and was told."""

    stage: str  # such as "plan"
    prompt: str
    text: str
    num_tokens: int  # drawn for it, the end token included


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """One completion and its verdict.

    ``tokens`` are the model's own ids, never text that was encoded again.
    """

    example: Example
    index: int  # which of the example's samples
    hinted: bool
    prompt_ids: np.ndarray  # [P] int32: the prompt without the hint, before it in a training row
    tokens: np.ndarray  # [N] int32, the end token included
    logprobs: np.ndarray  # [N] float32, of the temperature-scaled, untruncated distribution
    finished: bool  # ended with an end token; False = cut off by the length limit
    text: str  # with zero-shot prompting also the second prompt, and the answer to it
    answer: str | None = None
    verdict: str = ""  # "" = not graded yet
    wrong_line: int | None = None  # the first line (from 0) that the task can tell is false
    score: float = 0.0  # the grader's: 1 where correct, and what a reward adds
    # Of a system's answer: all calls for it, its own the last, and what the system counts of it.
    calls: tuple[Call, ...] = ()
    stats: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def correct(self) -> bool:
        return self.verdict == CORRECT

    @property
    def num_drawn(self) -> int:
        """The tokens drawn for it, over all calls."""
        return sum(call.num_tokens for call in self.calls) if self.calls else len(self.tokens)

    @property
    def key(self) -> tuple[int, int, bool]:
        """What tells it from the other samples of its round: example id, sample index, hinted."""
        return self.example.id, self.index, self.hinted


@dataclasses.dataclass(frozen=True, kw_only=True)
class Begun:
    """A sample that is to be drawn."""

    request: Request
    example: Example
    prompt_ids: np.ndarray  # [P] int32: the prompt without the hint
    hinted: bool


class Drawn(NamedTuple):
    """A sample that is not graded yet."""

    number: int  # of its request
    sample: Sample
    is_local: bool  # whether this process grades it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampler:
    """How samples are drawn and read."""

    policy: Policy
    tokenizer: Tokenizer
    key: jax.Array
    method: Method
    max_new_tokens: int
    until_question: bool  # a completion that asks another question ends before it
    second_prompt: str  # after each rationale, to be answered greedily; "" = none

    def __call__(self, begun: Sequence[Begun]) -> Iterator[list[Drawn]]:
        """All samples, a batch at a time, not in their order."""
        requests = [one.request for one in begun]
        reasoned: list[tuple[int, Sample]] = []
        for batch in self.policy.generate(requests, **self._options()):
            drawn = []
            for row, n in enumerate(batch.requests):
                sample = self._read(batch, row, begun[n])
                if self.second_prompt and sample.finished:
                    reasoned.append((n, sample))
                else:
                    drawn.append(Drawn(n, sample, bool(batch.is_local[row])))
            yield drawn
        if reasoned:
            yield from self._draw_answers(reasoned, requests)

    def stream(self, begun: Begun, chunk: int) -> Iterator[Sample]:
        """One sample as it grows by ``chunk`` tokens, and at last that of ``__call__``.

        The text of each begins with that of the one before.
        """
        read: list[Sample] = []  # what the completion is so far

        def parts() -> Iterator[Generated]:
            for batch in self.policy.stream(begun.request, chunk, **self._options()):
                read[:] = [self._read(batch, 0, begun)]
                yield batch

        for text in growing.texts(self.tokenizer, parts()):
            text = extraction.surely_of_answer(text) if self.until_question else text
            yield dataclasses.replace(read[0], text=text)
        [sample] = read
        if self.second_prompt and sample.finished:
            [[drawn]] = self._draw_answers([(0, sample)], [begun.request])
            sample = drawn.sample
        yield sample

    def _draw_answers(
        self, reasoned: Sequence[tuple[int, Sample]], requests: Sequence[Request]
    ) -> Iterator[list[Drawn]]:
        """The samples with the line that follows the second prompt after their rationales."""
        prompt = self.tokenizer.encode(self.second_prompt)
        seconds = []
        for n, sample in reasoned:
            rationale = sample.tokens[: _length_without_end(sample.tokens, self._stop_ids)]
            ids = np.asarray([*requests[n].prompt_ids, *rationale, *prompt], np.int32)
            seconds.append(Request(sample.example.id, sample.index, ids))
        options = self._options()
        options.update({"method": make_method(0.0, 0, 1.0), "max_new_tokens": ANSWER_TOKENS})
        for batch in self.policy.generate(seconds, **options):
            drawn = []
            for row, m in enumerate(batch.requests):
                n, sample = reasoned[m]
                answer = self.tokenizer.decode(batch.tokens[row, : batch.lengths[row]].tolist())
                line = extraction.first_line(answer, bool(batch.finished[row]))
                sample = dataclasses.replace(sample, text=sample.text + self.second_prompt + line)
                drawn.append(Drawn(n, sample, bool(batch.is_local[row])))
            yield drawn

    @property
    def _stop_ids(self) -> Sequence[int]:
        return self.tokenizer.stop_ids

    def _options(self) -> DrawOptions:
        return {
            "key": self.key,
            "method": self.method,
            "stop_ids": self._stop_ids,
            "max_new_tokens": self.max_new_tokens,
        }

    def _read(self, batch: Generated, row: int, begun: Begun) -> Sample:
        """One completion of a batch."""
        length = int(batch.lengths[row])
        tokens = batch.tokens[row, :length]
        text = self.tokenizer.decode(tokens.tolist())
        finished = bool(batch.finished[row])
        end = extraction.end_of_answer(text) if self.until_question and not finished else None
        if end is not None:
            finished, text = True, text[:end]
            length = self._num_tokens(tokens, end)
        return Sample(
            example=begun.example,
            index=begun.request.sample_index,
            hinted=begun.hinted,
            prompt_ids=begun.prompt_ids,
            tokens=tokens[:length],
            logprobs=batch.logprobs[row, :length],
            finished=finished,
            text=text,
        )

    def _num_tokens(self, tokens: np.ndarray, end: int) -> int:
        """How many of the tokens it takes to write so many characters."""

        def length(count: int) -> int:
            return len(self.tokenizer.decode(tokens[:count].tolist()))

        return bisect.bisect_left(range(len(tokens) + 1), end, key=length)


def _length_without_end(tokens: np.ndarray, stop_ids: Sequence[int]) -> int:
    """How many tokens stand before the end token, where there is one."""
    ends = len(tokens) > 0 and tokens[-1] in stop_ids
    return len(tokens) - 1 if ends else len(tokens)


# ---- graded samples ------------------------------------------------------------------------------


def requests_for(
    examples: Sequence[Example], prompts: Sequence[np.ndarray], num_samples: int
) -> list[Request]:
    """``num_samples`` requests of each example, with its prompt."""
    return [
        Request(example.id, index, ids)
        for example, ids in zip(examples, prompts, strict=True)
        for index in range(num_samples)
    ]


def groups_of(samples: Sequence[Sample], size: int) -> list[list[Sample]]:
    """Samples in the order in which a rollout returns them, ``size`` of each example."""
    return [list(samples[i : i + size]) for i in range(0, len(samples), size)]


@dataclasses.dataclass(kw_only=True)
class Counts:
    """What the progress line says of the samples so far."""

    done: int = 0
    tokens: int = 0
    graded: int = 0
    correct: int = 0
    parsed: int = 0

    def add(self, samples: Sequence[Sample], graded: Sequence[Sample]) -> None:
        self.done += len(samples)
        self.tokens += sum(len(s.tokens) for s in samples)
        self.graded += len(graded)
        self.correct += sum(s.correct for s in graded)
        self.parsed += sum(s.verdict not in (UNPARSED, TRUNCATED) for s in graded)

    def fractions(self) -> dict[str, float]:
        return {"correct": self.correct / self.graded, "parsed": self.parsed / self.graded}


def exchange_grades(samples: dict[int, Sample], graded: Sequence[int]) -> None:
    """Every process gets the grades of the others' samples."""
    fields = ("verdict", "answer", "wrong_line", "score")
    own = [(n, [getattr(samples[n], field) for field in fields]) for n in graded]
    for n, values in itertools.chain(*multihost.gather(own)):
        samples[n] = dataclasses.replace(samples[n], **dict(zip(fields, values, strict=True)))
