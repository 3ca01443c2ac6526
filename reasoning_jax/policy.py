"""A model as the methods use it: token ids in; samples, log-probabilities, score vectors out."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TypedDict, Unpack

import jax
import numpy as np
from jax.sharding import Mesh

from reasoning_jax import forwards, interrupts
from reasoning_jax.errors import UserError
from reasoning_jax.model import attention, decoder, sharding
from reasoning_jax.sampling import engine
from reasoning_jax.sampling.methods import Method
from reasoning_jax.sampling.scheduler import Scheduler
from reasoning_jax.sampling.sequences import Request, Running
from reasoning_jax.training import packing, train_step
from reasoning_jax.training.rows import Row

RowsFunction = Callable[[decoder.Params, dict[str, jax.Array], decoder.ModelConfig], jax.Array]


class DrawOptions(TypedDict):
    """How completions are drawn."""

    key: jax.Array
    method: Method
    stop_ids: Sequence[int]  # a completion ends with the first of these
    max_new_tokens: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generated:
    """N completions on the host, of which the longest has T tokens."""

    requests: list[int]  # [N]: which requests they complete
    tokens: np.ndarray  # [N, T] int32, the end token included
    logprobs: np.ndarray  # [N, T] float32
    lengths: np.ndarray  # [N] int32
    finished: np.ndarray  # [N] bool: ended with a stop token
    is_local: np.ndarray  # [N] bool: whether this process is the one that grades them


@dataclasses.dataclass(frozen=True, kw_only=True)
class Policy:
    """Parameters of a model and how they are computed with."""

    params: decoder.Params
    model_cfg: decoder.ModelConfig
    mesh: Mesh | None
    batch_size: int  # sequences of a compiled call; completions in progress at once
    max_length: int  # tokens of a sequence, prompt and completion together
    forward: forwards.Forward = dataclasses.field(default_factory=lambda: forwards.get("plain"))
    forward_cfg: forwards.ForwardConfig = ()  # an instance of the forward's Config
    sampling_mesh: Mesh | None = None  # another mesh of the same devices; None = ``mesh``
    cache_tokens: int = 0  # of the sampler's cache; 0 = as many as its sequences can have
    in_int8: bool = False  # samples with matrices in 8 bits
    int8_cache: bool = False  # and with keys and values in 8 bits

    # ---- sampling --------------------------------------------------------------------------------

    def generate(
        self,
        requests: Sequence[Request],
        **options: Unpack[DrawOptions],
    ) -> Iterator[Generated]:
        """Completes every prompt; yields completions as they end.

        A completion depends on its request alone, not on what else is drawn.
        """
        scheduler = self._scheduler(options)
        for changed in scheduler.run(requests):
            done = [one for one in changed if scheduler.is_done(one)]
            if done:
                yield _on_host(done)

    def stream(
        self, request: Request, chunk: int, **options: Unpack[DrawOptions]
    ) -> Iterator[Generated]:
        """One completion as it grows: after its first token, and after every ``chunk`` more.

        It is that of ``generate``. A chunk is at most ``engine.MOST_TOKENS``.
        """
        for changed in self._scheduler(options).run([request], chunk):
            if changed:
                yield _on_host(changed)

    def _scheduler(self, options: DrawOptions) -> Scheduler:
        mesh = self.sampling_mesh or self.mesh
        return Scheduler(
            params=self._params_to_decode,
            model_cfg=self.model_cfg,
            mesh=mesh,
            num_slots=self.batch_size,
            max_length=self.max_length,
            cache_tokens=self.cache_tokens,
            int8_cache=self.int8_cache,
            key=self._key_to_sample(options["key"]),
            method=options["method"],
            stop_ids=options["stop_ids"],
            max_new_tokens=options["max_new_tokens"],
            hidden_tokens=self.forward.hidden_tokens(self.forward_cfg),
        )

    @functools.cached_property
    def _params_to_decode(self) -> decoder.Params:
        """The parameters cast and laid out to sample with, once for all that this policy draws."""
        if self.sampling_mesh is None:
            return engine.prepare(self.params, self.model_cfg, self.in_int8)
        params = sharding.to_mesh(self.params, self.sampling_mesh, self.model_cfg.dtype)
        with jax.set_mesh(self.sampling_mesh):
            return engine.prepare(params, self.model_cfg, self.in_int8)

    def _key_to_sample(self, key: jax.Array) -> jax.Array:
        if self.sampling_mesh is None:
            return key
        # Every process knows the key and puts it on the mesh from its own host.
        seed = jax.device_get(jax.random.key_data(key))
        return jax.random.wrap_key_data(sharding.put(seed, self.sampling_mesh))

    # ---- log-probabilities -----------------------------------------------------------------------

    def logprobs(self, rows: Sequence[Row]) -> list[np.ndarray]:
        """log p of every token that has a weight, 0 elsewhere, of these rows; [N] float32 each.

        Rows that begin with the same prompt share it.
        """
        if not rows:
            return []
        packs = self.forward.PACKS
        share = packs and attention.shares_prompts(self.model_cfg)
        groups, share = packing.grouped(rows, self.max_length, share)
        longest = max(packing.packed_length(group, share) for group in groups)
        width = min(engine.bucket(longest), self.max_length)
        sequences = packing.best_fit_groups(groups, width, share) if packs else groups
        results = {id(row): np.zeros(len(row["tokens"]), np.float32) for row in rows}
        for start in range(0, len(sequences), self.batch_size):
            chunk = sequences[start : start + self.batch_size]
            out = self._on_sequences(self._logprobs_of, chunk, width, share)
            for members, row_logprobs in zip(chunk, out, strict=False):
                at = 0
                for part in packing.parts(members, width, share):
                    end = at + len(part.tokens)
                    results[id(part.row)][part.tokens] = row_logprobs[at:end]
                    at = end
        return [np.where(row["weights"] != 0, results[id(row)], 0) for row in rows]

    def _logprobs_of(
        self,
        params: decoder.Params,
        batch: dict[str, jax.Array],
        model_cfg: decoder.ModelConfig,
    ) -> jax.Array:
        return forwards.compiled_logprobs(
            params, batch, None, forward=self.forward, model_cfg=model_cfg, cfg=self.forward_cfg
        )

    def completion_logprobs(self, rows: Sequence[Row]) -> list[np.ndarray]:
        """log p of the tokens that have a weight, of rows with one completion each."""
        all_logprobs = self.logprobs(rows)
        return [p[row["weights"] != 0] for p, row in zip(all_logprobs, rows, strict=True)]

    @property
    def thought_id(self) -> int | None:
        """The id that stands for a continuous thought; None in a model without."""
        return decoder.thought_id(self.params, self.model_cfg)

    def likeliest_of_thoughts(self, rows: Sequence[Row], count: int) -> np.ndarray:
        """[n, N, 2, count]: ``forwards.likeliest_of_thoughts`` of at most ``batch_size`` rows."""
        width = min(engine.bucket(max(len(row["tokens"]) for row in rows)), self.max_length)
        function = functools.partial(self._likeliest_of_thoughts, count=count)
        return self._on_sequences(function, [[row] for row in rows], width, False)[: len(rows)]

    def _likeliest_of_thoughts(
        self,
        params: decoder.Params,
        batch: dict[str, jax.Array],
        model_cfg: decoder.ModelConfig,
        count: int,
    ) -> jax.Array:
        return forwards.likeliest_of_thoughts(
            params,
            batch,
            forward=self.forward,
            model_cfg=model_cfg,
            cfg=self.forward_cfg,
            count=count,
        )

    def score_vectors(self, rows: Sequence[Row]) -> np.ndarray:
        """[n, D]: a cheap stand-in for each row's score vector.

        The gradient of its log-likelihood by one shift of all its final hidden states
        (``train_step.score_vectors``). One row a sequence, in batches of alike lengths.
        """
        by_width: dict[int, list[int]] = {}
        for i, row in enumerate(rows):
            width = min(engine.bucket(len(row["tokens"])), self.max_length)
            by_width.setdefault(width, []).append(i)
        results: dict[int, np.ndarray] = {}
        for width, members in sorted(by_width.items()):
            for start in range(0, len(members), self.batch_size):
                chunk = members[start : start + self.batch_size]
                sequences = [[rows[i]] for i in chunk]
                out = self._on_sequences(train_step.score_vectors, sequences, width, False)
                results |= zip(chunk, out, strict=False)
        return np.stack([results[i] for i in range(len(rows))])

    def _on_sequences(
        self, function: RowsFunction, sequences: Sequence[Sequence[Row]], width: int, share: bool
    ) -> np.ndarray:
        """function(params, batch, model_cfg) of at most ``batch_size`` packed sequences."""
        interrupts.check()
        filled = packing.fill(sequences, self._compiled_size(len(sequences)), width, share)
        batch = sharding.put(filled, self.mesh, "batch", None)
        return np.asarray(sharding.whole(function(self.params, batch, self.model_cfg)))

    def _compiled_size(self, count: int) -> int:
        """batch_size, or a quarter of it for a small remainder: two compiled sizes."""
        quarter = self.batch_size // 4
        shards = 1 if self.mesh is None else self.mesh.size
        return quarter if count <= quarter and quarter % shards == 0 else self.batch_size


def _numbers(logprobs: np.ndarray) -> np.ndarray:
    """Log-probabilities of samples; UserError where some are no numbers."""
    if np.isnan(logprobs).any():
        raise UserError(
            "The model computes NaN: its parameters are not all finite, or too large for "
            "config.model.dtype."
        )
    return logprobs


def _on_host(completions: Sequence[Running]) -> Generated:
    numbers = [one.number for one in completions]
    lengths = [len(one.tokens) for one in completions]
    tokens = np.zeros((len(numbers), max(lengths)), np.int32)
    logprobs = np.zeros(tokens.shape, np.float32)
    for row, one in enumerate(completions):
        tokens[row, : lengths[row]] = one.tokens
        logprobs[row, : lengths[row]] = one.logprobs
    return Generated(
        requests=numbers,
        tokens=tokens,
        logprobs=_numbers(logprobs),
        lengths=np.asarray(lengths, np.int32),
        finished=np.asarray([one.finished for one in completions]),
        is_local=np.asarray(numbers) % jax.process_count() == jax.process_index(),
    )
