"""Examples in, graded samples out: what an E-step and an evaluation ask of a policy."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from reasoning_jax import curriculum, extraction, multihost, prompts
from reasoning_jax.errors import UserError
from reasoning_jax.graders import Grader
from reasoning_jax.model import decoder
from reasoning_jax.policy import Policy, Request
from reasoning_jax.progress import Progress
from reasoning_jax.samples import ANSWER_TOKENS, Begun, Drawn, Sample, Sampler
from reasoning_jax.sampling.methods import make_method
from reasoning_jax.tasks import TRUNCATED, UNPARSED, Example, Task
from reasoning_jax.tokenizer import Tokenizer
from reasoning_jax.training.rows import Row, completion_row


def groups_of(samples: Sequence[Sample], size: int) -> list[list[Sample]]:
    """Samples in the order in which a rollout returns them, ``size`` of each example."""
    return [list(samples[i : i + size]) for i in range(0, len(samples), size)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rollout:
    """Samples from one policy. Every draw is named by (key, example id, sample index)."""

    policy: Policy
    tokenizer: Tokenizer
    task: Task
    task_cfg: ConfigDict
    grader: Grader
    shots: Sequence[Example]  # of the few-shot prompt
    temperature: float
    top_k: int
    top_p: float
    max_new_tokens: int
    key: jax.Array
    label: str = "sample"  # what the progress line calls it
    round: int | None = None
    quiet: bool = False  # no progress line: one of many short rounds
    chat: bool = False  # prompts are messages in the model's chat template
    # Whether a completion that goes on to ask itself another question ends before it. A model that
    # was never trained to end needs that; its samples then have no end token to be trained on.
    until_question: bool = False
    # Of a worked example's id: the tokenizer of its prompt, and how many steps are left out of its
    # rationale. None: the rollout's own, and none.
    of_training_row: Callable[[int], tuple[Tokenizer, int]] | None = None
    # The base model's parameters, read where a method asks for them.
    base_params: Callable[[], decoder.Params] | None = None

    @property
    def max_length(self) -> int:
        """Tokens of prompt and completion together."""
        return self.policy.max_length

    @property
    def room(self) -> int:
        """Tokens that a prompt may have."""
        room = self.max_length - self.max_new_tokens
        if self._second_prompt:
            room -= len(self.tokenizer.encode(self._second_prompt)) + ANSWER_TOKENS
        return room

    def base_policy(self) -> Policy:
        """The policy of the model that the rounds of the run began with."""
        if self.base_params is None:
            raise ValueError("This rollout knows no base model.")
        return dataclasses.replace(self.policy, params=self.base_params())

    # ---- prompts and rows ------------------------------------------------------------------------

    def prompt_ids(self, example: Example, hint: bool = False) -> np.ndarray:
        """The ids of a prompt, its start token among them, [P] int32."""
        return np.asarray(self._prompt(example, hint), np.int32)

    def _prompt(
        self, example: Example, hint: bool = False, tokenizer: Tokenizer | None = None
    ) -> list[int]:
        tokenizer = tokenizer or self.tokenizer
        answer = example.answer if hint else None
        asked = (self.task, example, self.task_cfg, self.shots, answer)
        if self.chat:
            return tokenizer.chat(prompts.messages(*asked))
        return tokenizer.prompt(prompts.build(*asked))

    @property
    def _second_prompt(self) -> str:
        """What follows a rationale, so that the model states its answer; "" = nothing."""
        if not extraction.is_zero_shot(self.task_cfg):
            return ""
        return extraction.second_prompt(self.task, self.task_cfg)

    def check_prompt(self, example: Example, hint: bool = False) -> list[int]:
        """Its tokens; UserError where they cannot be written, or leave no room for a completion."""
        with self._naming(example):
            ids = self._prompt(example, hint)
            if len(ids) > self.room:
                hinted = " with its hint" if hint else ""
                rest = self.max_length - self.max_new_tokens - self.room
                second = f", and {rest} of the second prompt," if rest else ""
                raise UserError(
                    f"the prompt{hinted} of {len(ids)} tokens and config.sampling.max_new_tokens "
                    f"{self.max_new_tokens}{second} exceed config.sequence_length "
                    f"{self.max_length}."
                )
        return ids

    @contextlib.contextmanager
    def _naming(self, example: Example) -> Iterator[None]:
        """Puts the example in front of what is wrong with it."""
        try:
            yield
        except UserError as error:
            place = example.where or f"example {example.id} ({example.question[:60]!r})"
            raise UserError(f"{self.label}, {place}: {error}") from None

    def worked_row(
        self, example: Example, *, hint: bool = False, direct: bool = False
    ) -> Row | None:
        """A training row of the example's own rationale (``direct``: of its answer alone).

        None where it is longer than a sequence.
        """
        with self._naming(example):
            text = self.task.target(example, direct)
            text = text.strip() if self.chat else text
            tokenizer, steps = self.tokenizer, 0
            if self.of_training_row:
                tokenizer, steps = self.of_training_row(example.id)
            text = curriculum.without_steps(text, steps, self.task.step_ends(text))
            completion = [*tokenizer.encode(text), tokenizer.eos_id]
            row = completion_row(self._prompt(example, hint, tokenizer), completion)
        return row if len(row["tokens"]) <= self.max_length else None

    def worked_tokens(self, example: Example) -> np.ndarray | None:
        """The tokens of the given rationale.

        None where there is none, or where it is too long for a sequence.
        """
        if example.rationale is None:
            return None
        row = self.worked_row(example)
        return None if row is None else row["tokens"][row["weights"] > 0]

    # ---- samples ---------------------------------------------------------------------------------

    def __call__(
        self,
        examples: Sequence[Example],
        *,
        hint: bool = False,
        num_samples: int = 1,
        temperature: float | None = None,
    ) -> list[Sample]:
        """``num_samples`` graded samples of each example, in the order of the examples.

        temperature: None is the rollout's own; top_k and top_p stay as they are. Each process
        grades the samples that its own devices hold, and the grades are then gathered. A hinted and
        a plain sample of one example and index share their noise.
        """
        asked = [np.asarray(self.check_prompt(e, hint), np.int32) for e in examples]
        plain = [self.prompt_ids(e) for e in examples] if hint else asked
        requests = [
            Request(example.id, index, ids)
            for example, ids in zip(examples, asked, strict=True)
            for index in range(num_samples)
        ]
        samples: dict[int, Sample] = {}
        graded: list[int] = []  # by this process
        counts = _Counts()
        label = "rationalize" if hint else self.label
        active = not self.quiet and multihost.is_process_0()
        with Progress(label, len(requests), self.round, active=active) as progress:
            for drawn in self._draw(requests, examples, plain, hint, temperature):
                samples |= {n: sample for n, sample, _ in drawn}
                local = [n for n, _, own in drawn if own]
                samples |= zip(local, self._grade([samples[n] for n in local]), strict=True)
                graded += local
                counts.add([samples[n] for n, _, _ in drawn], [samples[n] for n in local])
                if graded:
                    progress.update(counts.done, tokens=counts.tokens, **counts.fractions())
        if multihost.is_distributed():
            _exchange_grades(samples, graded)
        return [samples[n] for n in range(len(requests))]

    def complete(self, example: Example, index: int) -> Sample:
        """One sample, not graded; ``index`` names its random stream."""
        ids = self.prompt_ids(example)
        drawn = self._draw([Request(example.id, index, ids)], [example], [ids], False, None)
        return next(sample for batch in drawn for _, sample, _ in batch)

    def stream(self, example: Example, index: int, chunk: int) -> Iterator[Sample]:
        """That of ``complete`` as it grows by ``chunk`` tokens; the last is whole."""
        ids = self.prompt_ids(example)
        request = Request(example.id, index, ids)
        begun = Begun(request=request, example=example, prompt_ids=ids, hinted=False)
        return self._sampler(self.temperature).stream(begun, chunk)

    def _sampler(self, temperature: float) -> Sampler:
        return Sampler(
            policy=self.policy,
            tokenizer=self.tokenizer,
            key=self.key,
            method=make_method(temperature, self.top_k, self.top_p),
            max_new_tokens=self.max_new_tokens,
            until_question=self.until_question,
            second_prompt=self._second_prompt,
        )

    def _draw(
        self,
        requests: Sequence[Request],
        examples: Sequence[Example],
        plain: Sequence[np.ndarray],
        hinted: bool,
        temperature: float | None,
    ) -> Iterator[list[Drawn]]:
        """All samples, a batch at a time; equally many of each example.

        plain: the examples' prompts without a hint.
        """
        sampler = self._sampler(self.temperature if temperature is None else temperature)
        num_samples = len(requests) // max(len(examples), 1)
        begun = []
        for n, request in enumerate(requests):
            i = n // num_samples
            begun.append(
                Begun(request=request, example=examples[i], prompt_ids=plain[i], hinted=hinted)
            )
        return sampler(begun)

    def _grade(self, samples: Sequence[Sample]) -> list[Sample]:
        grades = self.grader(samples, self.policy)
        return [
            dataclasses.replace(
                sample,
                answer=grade.answer,
                verdict=grade.verdict,
                wrong_line=grade.wrong_line,
                score=grade.score,
            )
            for sample, grade in zip(samples, grades, strict=True)
        ]


@dataclasses.dataclass(kw_only=True)
class _Counts:
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


def _exchange_grades(samples: dict[int, Sample], graded: Sequence[int]) -> None:
    """Every process gets the grades of the others' samples."""
    fields = ("verdict", "answer", "wrong_line", "score")
    own = [(n, [getattr(samples[n], field) for field in fields]) for n in graded]
    for n, values in itertools.chain(*multihost.gather(own)):
        samples[n] = dataclasses.replace(samples[n], **dict(zip(fields, values, strict=True)))
