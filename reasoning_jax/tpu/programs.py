"""The programs that a run of an experiment would compile: updates, log-probabilities, the sampler.

Their arguments are shapes and shardings; nothing is computed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from reasoning_jax import algorithms, forwards, starting
from reasoning_jax.algorithms import Algorithm
from reasoning_jax.experiment import Experiment
from reasoning_jax.model import decoder, paged_attention, sharding
from reasoning_jax.model.paged_attention import Cache
from reasoning_jax.model.pages import Places
from reasoning_jax.sampling import engine, methods, sequences
from reasoning_jax.training import optim, train_step
from reasoning_jax.training.state import TrainState

TOKEN_ARRAYS = ("tokens", "positions", "segment_ids")  # in every batch
INTEGERS = frozenset((*TOKEN_ARRAYS, "side", "position"))  # the arrays of int32; others: float32

Lower = Callable[[], jax.stages.Lowered]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """A program of the run."""

    name: str
    kind: Literal["update", "score", "prefill", "decode"]
    batch_size: int  # sequences
    length: int  # tokens of a sequence; of prefill, of a block of a prompt
    lower: Lower
    resident: int  # bytes a device of what lies there meanwhile and is none of its arguments
    mesh: Mesh


def steps(cfg: ConfigDict, exp: Experiment) -> list[Step]:
    """The programs of a run.

    They are the update of each kind of batch that the config's method trains on, round 0's where
    its batch is another, the log-probabilities outside updates where the method has them, and the
    sampler's two. Left out: the measurements of TRICE's variance and part-filled calls of the
    sampler, a quarter of the size.
    """
    state = exp.abstract_state()
    frozen = exp.abstract_frozen()
    algorithm = algorithms.get(cfg.algorithm.name)
    needed = algorithm.programs_of(cfg)
    base_model = size(state.params) if needed.keeps_base else 0
    # The optimiser's moments and the base model stay where they are while samples are drawn.
    idle = size(state) - size(state.params) + base_model

    steps = []
    for kind, arrays in needed.updates.items():
        name = f"update ({algorithm.name}, {kind})" if kind else f"update ({algorithm.name})"
        lower = partial(_lower_update, cfg, exp, state, algorithm, arrays)
        steps.append(_update(name, cfg, exp, lower, base_model))
    steps += _base_updates(cfg, exp, state, needed, base_model)
    if needed.logprobs:
        steps.append(
            Step(
                name="reference log-probs",
                kind="score",
                batch_size=cfg.sampling.batch_size,
                length=cfg.sequence_length,
                lower=partial(_lower_logprobs, cfg, exp, frozen | state.params),
                resident=idle,
                mesh=exp.mesh,
            )
        )
    steps += _sampler(cfg, exp, frozen | state.params, idle)
    return steps


def size(tree: TrainState | decoder.Params) -> int:
    """Bytes a device of abstract arrays."""
    total = 0
    for array in jax.tree.leaves(tree):
        total += math.prod(array.sharding.shard_shape(array.shape)) * array.dtype.itemsize
    return total


# ---- updates -------------------------------------------------------------------------------------


def _update(name: str, cfg: ConfigDict, exp: Experiment, lower: Lower, resident: int) -> Step:
    return Step(
        name=name,
        kind="update",
        batch_size=cfg.batch_size,
        length=cfg.sequence_length,
        lower=lower,
        resident=resident,
        mesh=exp.mesh,
    )


def _base_updates(
    cfg: ConfigDict,
    exp: Experiment,
    state: TrainState,
    needed: algorithms.Programs,
    resident: int,
) -> list[Step]:
    """The update of round 0, where there is one and it has arrays that no update has.

    needed: the programs of the rounds that follow.
    """
    if not cfg.base.num_updates:
        return []
    base_cfg = starting.base_config(cfg)
    algorithm = algorithms.get(base_cfg.algorithm.name)
    known = [set(arrays) for arrays in needed.updates.values()]
    steps = []
    for arrays in algorithm.programs_of(base_cfg).updates.values():
        if set(arrays) not in known:
            name = f"update ({algorithm.name}, round 0)"
            lower = partial(_lower_update, base_cfg, exp, state, algorithm, arrays)
            steps.append(_update(name, base_cfg, exp, lower, resident))
    return steps


def _lower_update(
    cfg: ConfigDict,
    exp: Experiment,
    state: TrainState,
    algorithm: Algorithm,
    arrays: tuple[str, ...],
) -> jax.stages.Lowered:
    shape = (cfg.micro_batches, cfg.batch_size // cfg.micro_batches, cfg.sequence_length)
    batch = {}
    for name in sorted({*TOKEN_ARRAYS, *arrays}):
        dtype = jnp.int32 if name in INTEGERS else jnp.float32
        batch[name] = _array(exp.mesh, shape, dtype, None, "batch", None)
    learning_rate = _array(exp.mesh, (), jnp.float32)
    optimizer = optim.make(cfg.optim)
    step = train_step.make_train_step(algorithm, exp.model_cfg, optimizer, cfg)
    return step.lower(state, batch, learning_rate, exp.abstract_frozen())


# ---- log-probabilities and samples ---------------------------------------------------------------


def _lower_logprobs(cfg: ConfigDict, exp: Experiment, params: decoder.Params) -> jax.stages.Lowered:
    shape = (cfg.sampling.batch_size, cfg.sequence_length)
    batch = {name: _array(exp.mesh, shape, jnp.int32, "batch", None) for name in TOKEN_ARRAYS}
    batch["weights"] = _array(exp.mesh, shape, jnp.float32, "batch", None)
    return forwards.compiled_logprobs.lower(
        params,
        batch,
        None,
        forward=exp.forward,
        model_cfg=exp.model_cfg,
        cfg=exp.forward_cfg,
    )


def _sampler(cfg: ConfigDict, exp: Experiment, params: decoder.Params, idle: int) -> list[Step]:
    """The sampler's programs, with the parameters as they are or from copies on another mesh."""
    mesh = exp.mesh
    original = params
    if exp.sampling_mesh is not None:
        mesh = exp.sampling_mesh
        params = _copied(params, mesh, exp.model_cfg.dtype)
    with jax.set_mesh(mesh):
        params = _prepared(params, exp.model_cfg, cfg.sampling.int8)
    # What is trained waits beside what is sampled with, unless they are the same arrays.
    same = {id(x) for x in jax.tree.leaves(params)}
    waiting = [x for x in jax.tree.leaves(original) if id(x) not in same]
    steps = []
    for name, lower in (("prefill", _lower_prefill), ("decode", _lower_decode)):
        steps.append(
            Step(
                name=name,
                kind=name,
                batch_size=cfg.sampling.batch_size,
                length=engine.PREFILL_BLOCK if name == "prefill" else cfg.sequence_length,
                lower=partial(lower, cfg, exp.model_cfg, params, mesh),
                resident=idle + size(waiting),
                mesh=mesh,
            )
        )
    return steps


def _prepared(
    params: decoder.Params, model_cfg: decoder.ModelConfig, in_int8: bool
) -> decoder.Params:
    """Shapes of ``engine.prepare``'s result; what it leaves as it is, is the same object."""
    shapes = jax.eval_shape(partial(engine.prepare, cfg=model_cfg, in_int8=in_int8), params)

    def leaf(path: tuple, shape: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        before = params
        for key in path:
            before = before.get(key.key) if isinstance(before, dict) else None
        is_same = before is not None and before.dtype == shape.dtype
        return before if is_same else shape

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def _copied(params: decoder.Params, mesh: Mesh, dtype: str) -> decoder.Params:
    """Shapes of the parameters as they are sampled with on another mesh."""
    shapes = jax.eval_shape(partial(sharding.cast_matrices, dtype=dtype), params)
    shardings = sharding.parameter_specs(shapes, mesh)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
    )


def _lower_prefill(
    cfg: ConfigDict, model_cfg: decoder.ModelConfig, params: decoder.Params, mesh: Mesh
) -> jax.stages.Lowered:
    batch = cfg.sampling.batch_size
    tokens = _array(mesh, (batch, engine.PREFILL_BLOCK), jnp.int32, "batch", None)
    each = _array(mesh, (batch,), jnp.int32, "batch")
    places = Places(tables=_tables(cfg, mesh), starts=each, counts=each)
    with jax.set_mesh(mesh):
        arguments = params, _cache(cfg, model_cfg, mesh), tokens, places, _draw(cfg, mesh)
        if decoder.thought_id(params, model_cfg) is not None:
            return engine.prefill_to_think.lower(*arguments, cfg=model_cfg)
        aside = forwards.aside_of(cfg.forward)
        is_last = _array(mesh, (batch,), jnp.bool_, "batch") if aside else None
        return engine.prefill.lower(*arguments, is_last, cfg=model_cfg, aside=aside)


def _lower_decode(
    cfg: ConfigDict, model_cfg: decoder.ModelConfig, params: decoder.Params, mesh: Mesh
) -> jax.stages.Lowered:
    batch = cfg.sampling.batch_size
    each = _array(mesh, (batch,), jnp.int32, "batch")
    live = _array(mesh, (batch,), jnp.bool_, "batch")
    progress = engine.Progress(last=each, starts=each, steps=each, live=live)
    number = _array(mesh, (), jnp.int32)
    with jax.set_mesh(mesh):
        return engine.decode.lower(
            params,
            _cache(cfg, model_cfg, mesh),
            progress,
            _tables(cfg, mesh),
            _draw(cfg, mesh),
            number,  # max_new_tokens
            number,  # most
            number,  # enough
            cfg=model_cfg,
            aside=forwards.aside_of(cfg.forward),
        )


def _longest(cfg: ConfigDict) -> int:
    """Tokens of a sequence, and what is computed beyond its end."""
    aside = forwards.aside_of(cfg.forward)
    return cfg.sequence_length + (aside.room if aside else 0)


def _tables(cfg: ConfigDict, mesh: Mesh) -> jax.ShapeDtypeStruct:
    shape = (cfg.sampling.batch_size, sequences.pages_of(_longest(cfg)))
    return _array(mesh, shape, jnp.int32, "batch", None)


def _cache(cfg: ConfigDict, model_cfg: decoder.ModelConfig, mesh: Mesh) -> Cache:
    s = cfg.sampling
    sizes = sequences.Sizes.of(mesh, s.batch_size, _longest(cfg), s.cache_tokens)
    num_pages = sizes.pages * sizes.num_devices
    cache = paged_attention.cache_shapes(model_cfg, num_pages, cfg.sampling.int8_cache)
    names = paged_attention.dimensions(cache)
    return jax.tree.map(lambda x: _array(mesh, x.shape, x.dtype, *names[: x.ndim]), cache)


def _draw(cfg: ConfigDict, mesh: Mesh) -> engine.Draw:
    s = cfg.sampling
    method = methods.make_method(s.temperature, s.top_k, s.top_p)
    key = jax.eval_shape(lambda: jax.random.key(0))
    each = _array(mesh, (s.batch_size,), jnp.int32, "batch")
    return engine.Draw(
        key=_array(mesh, key.shape, key.dtype),
        ids=each,
        indices=each,
        method=jax.tree.map(lambda _: _array(mesh, (), jnp.float32), method),
        stop_ids=_array(mesh, (1,), jnp.int32, None),
    )


def _array(
    mesh: Mesh, shape: tuple[int, ...], dtype: jax.typing.DTypeLike, *names: str | None
) -> jax.ShapeDtypeStruct:
    """A shape whose dimensions have these names of model/sharding.py."""
    layout = NamedSharding(mesh, sharding.spec(shape, names, mesh))
    return jax.ShapeDtypeStruct(shape, dtype, sharding=layout)
