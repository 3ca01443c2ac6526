"""Prompts in, graded samples out: what an E-step and an evaluation ask of the model."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import jax
import numpy as np

from reasoning_jax import data, interrupts, logprobs, metrics, model, processes, prompts, sampling, sharding, update
from reasoning_jax.tasks import CORRECT, TRUNCATED, UNPARSED, Example
from reasoning_jax.tokenizer import Tokenizer

Row = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Sample:
    """One completion and its verdict; ``tokens`` are the model's own ids (never text that was encoded again)."""

    example: Example
    index: int  # which of the example's samples
    hinted: bool
    tokens: np.ndarray  # [N] int32, the end token included
    logprobs: np.ndarray  # [N] float32, of the temperature-scaled, untruncated law
    text: str
    answer: str | None
    verdict: str
    wrong_line: int | None

    @property
    def correct(self) -> bool:
        return self.verdict == CORRECT


@dataclasses.dataclass(frozen=True)
class Rollout:
    """Samples from one set of parameters. Every draw is named by (key, example id, sample index)."""

    params: model.Params
    model_cfg: model.ModelConfig
    tokenizer: Tokenizer
    task: ModuleType
    shots: Sequence[Example]
    rule: sampling.Rule
    batch_size: int
    max_new_tokens: int
    max_length: int  # of prompt and completion together
    mesh: Any
    key: jax.Array
    label: str = "sample"  # what the progress line calls it
    round: int | None = None
    quiet: bool = False  # no progress line: one of many short rounds
    reference: Callable[[], model.Params] | None = None  # the base model's parameters, read where a method asks for them
    sampling_mesh: Any = None  # another mesh of the same devices, to sample on; None = ``mesh``

    def prompt_ids(self, example: Example, hint: bool = False) -> list[int]:
        """The start token, once, and the prompt."""
        text = prompts.build(self.task, example, self.shots, example.answer if hint else None)
        return [self.tokenizer.bos_id, *self.tokenizer.encode(text)]

    def __call__(self, examples: Sequence[Example], *, hint: bool = False, num_samples: int = 1) -> list[Sample]:
        """``num_samples`` samples of each example, in the order of the examples.

        Each process grades the samples that its own devices hold, and they tell one another the verdicts.
        """
        work = [(e, i, self.prompt_ids(e, hint)) for e in examples for i in range(num_samples)]
        for example, _, ids in work:
            if len(ids) + self.max_new_tokens > self.max_length:
                raise ValueError(
                    f"Example {example.id}: its prompt of {len(ids)} tokens and sampling.max_new_tokens "
                    f"{self.max_new_tokens} exceed config.sequence_length {self.max_length}."
                )
        # Alike lengths together: little padding, and rows that end at about the same time.
        order = sorted(range(len(work)), key=lambda n: (len(work[n][2]), n))
        samples: list[Sample | None] = [None] * len(work)
        graded: list[int] = []  # by this process
        done = tokens = correct = parsed = 0
        label = "rationalize" if hint else self.label
        with metrics.Progress(label, len(work), self.round, active=not self.quiet and processes.first()) as progress:
            pending: tuple[list[int], sampling.Samples, np.ndarray] | None = None
            for chunk in [*self._batches(order, work), None]:  # sample a batch while the one before it is graded
                interrupts.check()
                started = (chunk, *self._shared(self._sample([work[n] for n in chunk]))) if chunk else None
                for n, sample, own in self._graded(pending, work, hint) if pending else ():
                    samples[n] = sample
                    done, tokens = done + 1, tokens + len(sample.tokens)
                    graded += [n] * own
                    correct += own and sample.correct
                    parsed += own and sample.verdict not in (UNPARSED, TRUNCATED)
                if graded:
                    progress.update(done, tokens=tokens, correct=correct / len(graded), parsed=parsed / len(graded))
                pending = started
        if processes.several():
            told = [(n, samples[n].verdict, samples[n].answer, samples[n].wrong_line) for n in graded]
            for n, verdict, answer, line in itertools.chain(*processes.gather(told)):
                samples[n] = dataclasses.replace(samples[n], verdict=verdict, answer=answer, wrong_line=line)
        return samples  # type: ignore[return-value]

    def _batches(self, order: list[int], work: list) -> Iterator[list[int]]:
        """Runs of rows that share a prompt bucket."""
        start = 0
        while start < len(order):
            width = sampling.bucket(len(work[order[start]][2]))
            end = start
            while end < len(order) and end - start < self.batch_size and len(work[order[end]][2]) <= width:
                end += 1
            yield order[start:end]
            start = end

    def _sample(self, rows: list) -> sampling.Samples:
        """One compiled call."""
        size = self._size(len(rows))
        width = sampling.bucket(max(len(ids) for _, _, ids in rows))
        tokens, lengths = np.zeros((size, width), np.int32), np.zeros((size,), np.int32)
        ids, indices = np.zeros((size,), np.int32), np.zeros((size,), np.int32)
        for n, (example, index, prompt) in enumerate(rows):
            tokens[n, : len(prompt)], lengths[n] = prompt, len(prompt)
            ids[n], indices[n] = example.id, index
        params, key = self._copies
        mesh = self.mesh if self.sampling_mesh is None else self.sampling_mesh
        with contextlib.nullcontext() if mesh is self.mesh else jax.set_mesh(mesh):
            arrays = sharding.put((tokens, lengths, ids, indices), mesh, "batch", None)
            stop_ids = sharding.put(np.asarray([self.tokenizer.eos_id], np.int32), mesh)
            rule = sharding.put(jax.tree.map(np.float32, self.rule), mesh)
            samples = sampling.sample(
                params, *arrays, key, rule, stop_ids, cfg=self.model_cfg, max_new_tokens=self.max_new_tokens
            )
        return samples if mesh is self.mesh else sharding.to_rows(samples, self.mesh)

    @functools.cached_property
    def _copies(self) -> tuple[model.Params, jax.Array]:
        """Parameters and key where they are sampled with."""
        if self.sampling_mesh is None:
            return self.params, self.key
        params = sharding.to_mesh(self.params, self.sampling_mesh, self.model_cfg.dtype)
        seed = jax.device_get(jax.random.key_data(self.key))  # each process has it, and no mesh has it from the others
        with jax.set_mesh(self.sampling_mesh):
            return params, jax.random.wrap_key_data(sharding.put(seed, self.sampling_mesh))

    def _shared(self, device: sampling.Samples) -> tuple[sampling.Samples, np.ndarray]:
        """A batch as all processes can read it, and whether this one grades each row."""
        if not processes.several():
            return device, np.ones(len(device.tokens), bool)
        return sharding.whole(device), sharding.owners(device.tokens) == jax.process_index()

    def _graded(self, pending: tuple, work: list, hint: bool) -> Iterator[tuple[int, Sample, bool]]:
        """The samples of a batch; those that another process grades have no verdict yet."""
        chunk, device, own = pending
        host = jax.device_get(device)
        for row, n in enumerate(chunk):
            example, index, _ = work[n]
            length = int(host.lengths[row])
            ids = host.tokens[row, :length]
            text = self.tokenizer.decode(ids.tolist())
            made = Sample(example, index, hint, ids, host.logprobs[row, :length], text, None, "", None)
            if not own[row]:
                yield n, made, False
                continue
            # Cut off or empty: it never counts as correct, whatever it says.
            verdict = self.task.grade(text, example) if host.finished[row] and length > 1 else TRUNCATED
            if host.finished[row] and length <= 1:
                verdict = UNPARSED
            answer = self.task.extract(text)
            line = self.task.wrong_line(text, example)
            yield n, dataclasses.replace(made, answer=answer, verdict=verdict, wrong_line=line), True

    def row(self, example: Example, tokens: np.ndarray) -> Row:
        """What a sample trains: its tokens after the prompt *without* the hint; prompt tokens weigh 0."""
        return _row(self.prompt_ids(example), tokens.tolist())

    def weighted_row(self, example: Example, tokens: np.ndarray, weight: float, share: float) -> Row:
        """A row for masked.sequence_nll: the sample's log-likelihood weighs ``weight`` and adds ``share`` to the divisor."""
        row = self.row(example, tokens)
        shares = np.zeros_like(row["weights"])
        shares[-1] = share
        return {"tokens": row["tokens"], "weights": row["weights"] * np.float32(weight), "share": shares}

    def logprobs(self, examples: Sequence[Example], tokens: Sequence[np.ndarray]) -> list[np.ndarray]:
        """log p of each token of these completions of the examples' prompts, under this rollout's parameters."""
        found = self.row_logprobs([self.row(e, t) for e, t in zip(examples, tokens, strict=True)])
        return [p[len(p) - len(t) :] for p, t in zip(found, tokens, strict=True)]

    def row_logprobs(self, rows: Sequence[Row]) -> list[np.ndarray]:
        """log p of every token of these rows, which may be pairs; a segment's first token gets 0."""
        found = self._of_rows(logprobs.score, rows) if rows else ()
        return [p[: len(row["tokens"])] for p, row in zip(found, rows, strict=True)]

    def scores(self, examples: Sequence[Example], tokens: Sequence[np.ndarray]) -> np.ndarray:
        """[n, D]: the gradient of log p(tokens | prompt) by a shift of the final hidden states (update.scores)."""
        return np.stack(self._of_rows(update.scores, [self.row(e, t) for e, t in zip(examples, tokens, strict=True)]))

    def _of_rows(self, function: Callable, rows: Sequence[Row]) -> list[np.ndarray]:
        """function(params, batch, model_cfg), a sequence a row, in batches of rows that share a bucket of length."""
        widths: dict[int, list[int]] = {}
        for i, row in enumerate(rows):
            widths.setdefault(min(sampling.bucket(len(row["tokens"])), self.max_length), []).append(i)
        out: dict[int, np.ndarray] = {}
        for width, members in sorted(widths.items()):
            for start in range(0, len(members), self.batch_size):
                interrupts.check()
                chunk = members[start : start + self.batch_size]
                filled = data.fill([[rows[i]] for i in chunk], self._size(len(chunk)), width)
                batch = sharding.put(filled, self.mesh, "batch", None)
                out |= zip(chunk, np.asarray(sharding.whole(function(self.params, batch, self.model_cfg))), strict=False)
        return [out[i] for i in range(len(rows))]

    def _size(self, count: int) -> int:
        """Rows of a compiled batch for so many: a part-filled one is a quarter the size where that is enough."""
        quarter = self.batch_size // 4
        shards = 1 if self.mesh is None else self.mesh.size
        return quarter if count <= quarter and quarter % shards == 0 else self.batch_size

    def worked_row(self, example: Example, *, hint: bool = False, direct: bool = False) -> Row | None:
        """What a given rationale (``direct``: the answer alone) trains; None where it is too long for a sequence."""
        completion = [*self.tokenizer.encode(self.task.target(example, direct)), self.tokenizer.eos_id]
        row = _row(self.prompt_ids(example, hint), completion)
        return row if len(row["tokens"]) <= self.max_length else None

    def worked_tokens(self, example: Example) -> np.ndarray | None:
        """The tokens of the given rationale; None where there is none, or where it is too long for a sequence."""
        row = self.worked_row(example) if example.rationale is not None else None
        return None if row is None else row["tokens"][row["weights"] > 0]


def _row(prompt: list[int], completion: list[int]) -> Row:
    weights = np.zeros(len(prompt) + len(completion), np.float32)
    weights[len(prompt) :] = 1.0
    return {"tokens": np.asarray([*prompt, *completion], np.int32), "weights": weights}


def summary(samples: Sequence[Sample], task: ModuleType) -> dict[str, float]:
    """Accuracy, verdicts, lengths and true lines of samples, and accuracy by difficulty, as fractions and means."""
    n = max(len(samples), 1)
    right = [s for s in samples if s.correct]
    out = {
        "samples": len(samples),
        "correct": len(right) / n,
        "unparsed": sum(s.verdict == UNPARSED for s in samples) / n,
        "truncated": sum(s.verdict == TRUNCATED for s in samples) / n,
        "true_lines": sum(s.wrong_line is None for s in right) / max(len(right), 1),
        "tokens": sum(len(s.tokens) for s in samples) / n,
        "steps": sum(task.steps(s.text) for s in samples) / n,
    }
    groups: dict[str, list[bool]] = {}
    for s in samples:
        name, value = task.difficulty(s.example)
        groups.setdefault(f"{name}_{value}", []).append(s.correct)
    return out | {f"correct_{level}": sum(hits) / len(hits) for level, hits in sorted(groups.items())}
