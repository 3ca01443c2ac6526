"""Examples in, graded samples out: what an E-step and an evaluation ask of a policy."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from reasoning_jax import curriculum, extraction, multihost, prng, prompts
from reasoning_jax.errors import UserError
from reasoning_jax.graders import Grader
from reasoning_jax.model import decoder
from reasoning_jax.policy import Policy, Request
from reasoning_jax.progress import Progress
from reasoning_jax.samples import (
    ANSWER_TOKENS,
    Begun,
    Counts,
    Drawn,
    Sample,
    Sampler,
    exchange_grades,
    groups_of,
    requests_for,
)
from reasoning_jax.sampling.methods import make_method
from reasoning_jax.tasks import Example, Task
from reasoning_jax.tokenizer import Tokenizer
from reasoning_jax.training.rows import Row, completion_row


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
    quiet: bool = False  # no progress line
    chat: bool = False  # prompts are messages in the model's chat template
    # Whether a completion that goes on to ask itself another question ends before it. A model that
    # was never trained to end needs that; its samples then have no end token to be trained on.
    until_question: bool = False
    # Of a worked example's id: the tokenizer of its prompt, and how many steps are left out of its
    # rationale. None: the rollout's own, and none.
    of_training_row: Callable[[int], tuple[Tokenizer, int]] | None = None
    # The base model's parameters, read where a method asks for them.
    base_params: Callable[[], decoder.Params] | None = None
    params_of_run: Callable[[str], decoder.Params] | None = None  # by its folder

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

    def base(self) -> Rollout:
        """This rollout with the model that the rounds of the run began with."""
        if self.base_params is None:
            raise UserError(f"{self.label}: no base model is known here to ask.")
        return self._with(self.base_params())

    def of_run(self, folder: str) -> Rollout:
        """This rollout with the model of another run, of the same shape."""
        assert self.params_of_run, "experiment.rollout gives it"
        return self._with(self.params_of_run(folder))

    def _with(self, params: decoder.Params) -> Rollout:
        return dataclasses.replace(self, policy=dataclasses.replace(self.policy, params=params))

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
        requests = requests_for(examples, asked, num_samples)
        samples: dict[int, Sample] = {}
        graded: list[int] = []  # by this process
        counts = Counts()
        label = "rationalize" if hint else self.label
        with self._progress(label, len(requests)) as progress:
            for drawn in self._draw(requests, examples, plain, hint, temperature):
                samples |= {n: sample for n, sample, _ in drawn}
                local = [n for n, _, own in drawn if own]
                samples |= zip(local, self._grade([samples[n] for n in local]), strict=True)
                graded += local
                counts.add([samples[n] for n, _, _ in drawn], [samples[n] for n in local])
                if graded:
                    progress.update(counts.done, tokens=counts.tokens, **counts.fractions())
        if multihost.is_distributed():
            exchange_grades(samples, graded)
        return [samples[n] for n in range(len(requests))]

    def write(
        self,
        prompts: Sequence[str],
        *,
        num_samples: int,
        temperature: float,
        max_new_tokens: int,
        purpose: str,
    ) -> list[list[Sample]]:
        """``num_samples`` completions of each prompt as it is, or as a user's message; not graded.

        [] where it leaves no room. The prompt and the purpose name a random stream.
        """
        writer = dataclasses.replace(
            self,
            max_new_tokens=max_new_tokens,
            key=prng.for_purpose(self.key, purpose),
            task=dataclasses.replace(self.task, prompt=_as_it_is),
            task_cfg=ConfigDict(),
            shots=(),
        )
        examples = [Example(id=prng.text_id(text), question=text, answer="") for text in prompts]
        asked = {}
        for n, example in enumerate(examples):
            with writer._naming(example):
                asked[n] = writer.prompt_ids(example)
        asked = {n: ids for n, ids in asked.items() if len(ids) <= writer.room}
        fitting, ids_of = [examples[n] for n in asked], list(asked.values())
        requests = requests_for(fitting, ids_of, num_samples)
        samples: dict[int, Sample] = {}
        with self._progress(purpose, len(requests)) as progress:
            for drawn in writer._draw(requests, fitting, ids_of, False, temperature):
                samples |= {n: sample for n, sample, _ in drawn}
                progress.update(len(samples))
        written = groups_of([samples[n] for n in range(len(requests))], num_samples)
        groups = dict(zip(asked, written, strict=True))
        return [groups.get(n, []) for n in range(len(prompts))]

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

    def _progress(self, label: str, total: int) -> Progress:
        is_shown = multihost.is_process_0() and not self.quiet
        return Progress(label, total, self.round, active=is_shown)

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
        grades = self.grader(samples, self)
        return [
            dataclasses.replace(sample, **grade._asdict())
            for sample, grade in zip(samples, grades, strict=True)
        ]


def _as_it_is(example: Example, cfg: ConfigDict, hint: str | None = None) -> str:
    return example.question
