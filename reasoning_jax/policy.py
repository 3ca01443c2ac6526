"""A model as the methods use it: token ids in; samples, log-probabilities, score vectors out."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypedDict, Unpack

import jax
import numpy as np
from jax.sharding import Mesh

from reasoning_jax import interrupts, multihost
from reasoning_jax.errors import UserError
from reasoning_jax.model import decoder, logprobs, sharding
from reasoning_jax.sampling import engine
from reasoning_jax.sampling.methods import Method
from reasoning_jax.training import train_step
from reasoning_jax.training.packing import fill
from reasoning_jax.training.rows import Row

RowsFunction = Callable[[decoder.Params, dict[str, jax.Array], decoder.ModelConfig], jax.Array]


class Request(NamedTuple):
    """A prompt to complete; with the draw's key, the id and index name its random stream."""

    example_id: int
    sample_index: int
    prompt_ids: np.ndarray  # [P] int32


class DrawOptions(TypedDict):
    """How completions are drawn."""

    key: jax.Array
    method: Method
    stop_ids: Sequence[int]  # a completion ends with the first of these
    max_new_tokens: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generated:
    """A batch of completions on the host: N requests in arrays of the compiled size B >= N.

    Sequence i < N completes request requests[i]; later ones are empty.
    """

    requests: list[int]  # [N]: which requests they complete
    tokens: np.ndarray  # [B, T] int32, the end token included
    logprobs: np.ndarray  # [B, T] float32
    lengths: np.ndarray  # [B] int32
    finished: np.ndarray  # [B] bool: ended with a stop token
    is_local: np.ndarray  # [B] bool: whether this process is the one that grades them


@dataclasses.dataclass(frozen=True, kw_only=True)
class Policy:
    """Parameters of a model and how they are computed with."""

    params: decoder.Params
    model_cfg: decoder.ModelConfig
    mesh: Mesh | None
    batch_size: int  # sequences of a compiled call
    max_length: int  # tokens of a sequence, prompt and completion together
    sampling_mesh: Mesh | None = None  # another mesh of the same devices; None = ``mesh``

    # ---- sampling --------------------------------------------------------------------------------

    def generate(
        self,
        requests: Sequence[Request],
        **options: Unpack[DrawOptions],
    ) -> Iterator[Generated]:
        """Completes every prompt, a batch at a time; the next batch runs while one is looked at.

        Prompts of alike lengths share a batch: little padding, and sequences that end at about the
        same time. A completion depends on its request alone, not on the batch.
        """
        pending: tuple[list[int], engine.Samples, np.ndarray] | None = None
        for batch in self._batches(requests):
            interrupts.check()
            samples = self.sample_batch([requests[n] for n in batch], **options)
            started = (batch, *_readable_by_all(samples))
            if pending is not None:
                yield _on_host(*pending)
            pending = started
        if pending is not None:
            interrupts.check()
            yield _on_host(*pending)

    def _batches(self, requests: Sequence[Request]) -> Iterator[list[int]]:
        """Numbers of requests, shortest prompts first, each batch within one bucket of lengths."""
        lengths = [len(request.prompt_ids) for request in requests]
        order = sorted(range(len(requests)), key=lambda n: (lengths[n], n))
        start = 0
        while start < len(order):
            width = engine.bucket(lengths[order[start]])
            end = start
            while (
                end < len(order) and end - start < self.batch_size and lengths[order[end]] <= width
            ):
                end += 1
            yield order[start:end]
            start = end

    def sample_batch(
        self,
        requests: Sequence[Request],
        **options: Unpack[DrawOptions],
    ) -> engine.Samples:
        """One compiled call for at most ``batch_size`` requests; the rest of it is empty."""
        mesh = self.sampling_mesh or self.mesh
        own_mesh = mesh is self.mesh
        params = self._params_to_sample
        with contextlib.nullcontext() if own_mesh else jax.set_mesh(mesh):
            samples = engine.sample(
                params,
                *self._prompt_arrays(requests, mesh),
                *self._draw_arrays(options, mesh),
                cfg=self.model_cfg,
                max_new_tokens=options["max_new_tokens"],
            )
        if own_mesh or self.mesh is None:
            return samples
        return sharding.batch_to_mesh(samples, self.mesh)

    def stream(
        self, request: Request, chunk: int, **options: Unpack[DrawOptions]
    ) -> Iterator[Generated]:
        """One completion as it grows: after its first token, and after every ``chunk`` more.

        It is that of ``generate``. On the policy's own mesh.
        """
        arrays = self._prompt_arrays([request], self.mesh)
        key, *how = self._draw_arrays(options, self.mesh)
        params, cfg = self._params_to_decode, self.model_cfg
        limit = options["max_new_tokens"]
        state = engine.start(params, *arrays, key, *how, cfg=cfg, max_new_tokens=limit)
        while True:
            interrupts.check()
            yield _on_host([0], *_readable_by_all(state.samples))
            step, done = jax.device_get((state.step, state.done))
            if step >= limit or done[0]:
                return
            until = sharding.put(np.int32(min(step + chunk, limit)), self.mesh)
            state = engine.advance(params, state, *how, until, cfg=cfg)

    def _prompt_arrays(
        self, requests: Sequence[Request], mesh: Mesh | None
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """Prompts, their lengths, example ids and sample indices, in arrays of a compiled size."""
        size = self._compiled_size(len(requests))
        width = engine.bucket(max(len(request.prompt_ids) for request in requests))
        tokens = np.zeros((size, width), np.int32)
        lengths = np.zeros((size,), np.int32)
        ids = np.zeros((size,), np.int32)
        indices = np.zeros((size,), np.int32)
        for n, request in enumerate(requests):
            lengths[n] = len(request.prompt_ids)
            tokens[n, : lengths[n]] = request.prompt_ids
            ids[n] = request.example_id
            indices[n] = request.sample_index
        return sharding.put((tokens, lengths, ids, indices), mesh, "batch", None)

    def _draw_arrays(
        self, options: DrawOptions, mesh: Mesh | None
    ) -> tuple[jax.Array, Method, jax.Array]:
        """The draw's key, its method and its stop ids."""
        return (
            self._key_to_sample(options["key"]),
            sharding.put(jax.tree.map(np.float32, options["method"]), mesh),
            sharding.put(np.asarray(options["stop_ids"], np.int32), mesh),
        )

    @functools.cached_property
    def _params_to_decode(self) -> decoder.Params:
        return engine.prepare(self.params, self.model_cfg)

    @functools.cached_property
    def _params_to_sample(self) -> decoder.Params:
        """The parameters, or a copy of them, on the mesh that samples."""
        if self.sampling_mesh is None:
            return self.params
        return sharding.to_mesh(self.params, self.sampling_mesh, self.model_cfg.dtype)

    def _key_to_sample(self, key: jax.Array) -> jax.Array:
        if self.sampling_mesh is None:
            return key
        # Every process knows the key and puts it on the mesh from its own host.
        seed = jax.device_get(jax.random.key_data(key))
        return jax.random.wrap_key_data(sharding.put(seed, self.sampling_mesh))

    # ---- log-probabilities -----------------------------------------------------------------------

    def logprobs(self, rows: Sequence[Row]) -> list[np.ndarray]:
        """log p of every token of these rows, [N] float32 each; a segment's first token gets 0."""
        padded = self._for_rows(logprobs.compiled_token_logprobs, rows)
        return [p[: len(row["tokens"])] for p, row in zip(padded, rows, strict=True)]

    def completion_logprobs(self, rows: Sequence[Row]) -> list[np.ndarray]:
        """log p of the tokens that have a weight, of rows with one completion each."""
        all_logprobs = self.logprobs(rows)
        return [p[row["weights"] != 0] for p, row in zip(all_logprobs, rows, strict=True)]

    def score_vectors(self, rows: Sequence[Row]) -> np.ndarray:
        """[n, D]: a cheap stand-in for each row's score vector.

        The gradient of its log-likelihood by one shift of all its final hidden states
        (``train_step.score_vectors``).
        """
        return np.stack(self._for_rows(train_step.score_vectors, rows))

    def _for_rows(self, function: RowsFunction, rows: Sequence[Row]) -> list[np.ndarray]:
        """function(params, batch, model_cfg), one row a sequence, in batches of alike lengths."""
        by_width: dict[int, list[int]] = {}
        for i, row in enumerate(rows):
            width = min(engine.bucket(len(row["tokens"])), self.max_length)
            by_width.setdefault(width, []).append(i)
        results: dict[int, np.ndarray] = {}
        for width, members in sorted(by_width.items()):
            for start in range(0, len(members), self.batch_size):
                interrupts.check()
                chunk = members[start : start + self.batch_size]
                sequences = [[rows[i]] for i in chunk]
                filled = fill(sequences, self._compiled_size(len(chunk)), width)
                batch = sharding.put(filled, self.mesh, "batch", None)
                result = function(self.params, batch, self.model_cfg)
                results |= zip(chunk, np.asarray(sharding.whole(result)), strict=False)
        return [results[i] for i in range(len(rows))]

    def _compiled_size(self, count: int) -> int:
        """batch_size, or a quarter of it for a small remainder: two compiled sizes."""
        quarter = self.batch_size // 4
        shards = 1 if self.mesh is None else self.mesh.size
        return quarter if count <= quarter and quarter % shards == 0 else self.batch_size


def _readable_by_all(samples: engine.Samples) -> tuple[engine.Samples, np.ndarray]:
    """A batch as every process can read it, and whether this process grades each sequence."""
    if not multihost.is_distributed():
        return samples, np.ones(len(samples.tokens), bool)
    is_local = sharding.owners(samples.tokens) == jax.process_index()
    return sharding.whole(samples), is_local


def _numbers(logprobs: np.ndarray) -> np.ndarray:
    """Log-probabilities of samples; UserError where some are no numbers."""
    if np.isnan(logprobs).any():
        raise UserError(
            "The model computes NaN: its parameters are not all finite, or too large for "
            "config.model.dtype."
        )
    return logprobs


def _on_host(batch: list[int], samples: engine.Samples, is_local: np.ndarray) -> Generated:
    host = jax.device_get(samples)
    return Generated(
        requests=batch,
        tokens=host.tokens,
        logprobs=_numbers(host.logprobs),
        lengths=host.lengths,
        finished=host.finished,
        is_local=is_local,
    )
