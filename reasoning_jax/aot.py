"""The programs that an experiment would run on a TPU slice, compiled for it by its own compiler, without the slice.

Nothing is computed: arrays are shapes and shardings. Needs libtpu, of which only the compiler is used.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import math
import multiprocessing
import re
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from reasoning_jax import algorithms, experiment, hlo, logprobs, model, optim, sampling, sharding, tpu, update
from reasoning_jax.algorithms import sft

INTEGERS = ("tokens", "positions", "segment_ids")


@dataclasses.dataclass(frozen=True)
class Step:
    """A program of the run; ``resident``: bytes a device of what lies there meanwhile and is none of its arguments."""

    name: str
    kind: str  # update, score or sample
    rows: int
    length: int  # of a row; of a sampler, of a prompt
    lower: Callable[[], Any]
    resident: int
    mesh: Any


@dataclasses.dataclass(frozen=True)
class Compiled:
    """Bytes are those of one device. What the compiler refuses has no other figure than ``needed``, what it asked for."""

    fits: bool
    needed: int  # arguments, temporaries and what of the output is no donated argument, and ``resident``
    seconds: float
    cpu_seconds: float
    arguments: int = 0
    temporaries: int = 0
    output: int = 0
    donated: int = 0
    resident: int = 0
    collectives: tuple[hlo.Collective, ...] = ()


def devices(topology: tpu.Topology, slices: int = 1) -> list[Any]:
    """The devices of so many slices; ValueError where libtpu is missing or knows no such slice."""
    try:
        import libtpu  # noqa: F401
    except ImportError:
        raise ValueError('plan needs the compiler of TPUs: pip install "jax[tpu]" (x86-64 Linux; no TPU is needed).') from None
    more = dict(topology.chip.compiler) | ({"num_slices": slices} if slices > 1 else {})
    try:
        return list(topologies.get_topology_desc(str(topology), platform="tpu", **more).devices)
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).partition("INVALID_ARGUMENT:")[2].strip().rstrip(".") or str(error).splitlines()[0]
        raise ValueError(f"--topology={topology}: {reason}; {tpu.valid_names(topology.kind)}") from None


def size(tree: Any) -> int:
    """Bytes a device of abstract arrays."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


# ---- what a run compiles ---------------------------------------------------------------------------------------------


class _Batch(dict):
    """A batch that makes each array that the loss reads, and remembers which it looks for."""

    def __init__(self, shape: tuple[int, int], keys: tuple[str, ...]):
        super().__init__()
        self.shape, self.sought = shape, set()
        for key in keys:
            self[key]

    def __missing__(self, key: str) -> jax.Array:
        self[key] = jnp.zeros(self.shape, jnp.int32 if key in INTEGERS else jnp.float32)
        return self[key]

    def __contains__(self, key: object) -> bool:
        self.sought.add(key)
        return super().__contains__(key)


def batch_keys(method: ModuleType, cfg: ConfigDict, more: tuple[str, ...] = ()) -> tuple[set[str], set[str]]:
    """The arrays that a method's update reads, given a batch that has ``more``; and those that it uses where they are there."""
    batches = []

    def loss() -> Any:
        batches.append(batch := _Batch((2, cfg.sequence_length), (*INTEGERS, *more)))
        return method.loss(jnp.zeros(batch.shape), batch, cfg)[0]

    jax.eval_shape(loss)
    return set(batches[0]), batches[0].sought - set(batches[0])


def steps(cfg: ConfigDict, exp: experiment.Experiment) -> list[Step]:
    """The update of each kind of batch that the config's method trains on, round 0's where it is another, the reference's
    log-probabilities where the method has them, and the sampler with the longest prompt that a row has room for.

    Left out: the measurements of TRICE's variance and part-filled batches of the sampler, a quarter of the size.
    """
    state, a = exp.abstract_state(), cfg.algorithm
    method = algorithms.get(a.name)
    keys, optional = batch_keys(method, cfg)
    kinds = {f"update ({a.name})": (method, keys)}
    # A loss that looks for "ref" has it from the base model: in a side model's rounds, or where there is a KL divergence.
    base_kept = "ref" in optional and (hasattr(method, "side_model") or a.kl > 0)
    if base_kept and hasattr(method, "side_model"):
        kinds[f"update ({a.name}, side model)"] = method, batch_keys(method, cfg, ("ref",))[0]
    elif base_kept and a.kl_kind != "k1":
        kinds = {f"update ({a.name})": (method, batch_keys(method, cfg, ("ref",))[0])}
    if cfg.base.num_updates and (given := batch_keys(sft, cfg)[0]) != keys:
        kinds["update (sft, round 0)"] = sft, given

    reference = size(state.params) if base_kept else 0
    out = [Step(name, "update", cfg.batch_size, cfg.sequence_length, _update(cfg, exp, state, *which), reference, exp.mesh)
           for name, which in kinds.items()]  # fmt: skip
    waiting = size(state) - size(state.params) + reference  # the optimiser's moments stay where they are
    rows, width = cfg.sampling.batch_size, sampling.bucket(cfg.sequence_length - cfg.sampling.max_new_tokens)
    if "ref" in keys or base_kept or a.stochastic:
        out.append(Step("reference log-probs", "score", rows, cfg.sequence_length, _score(cfg, exp, state), waiting, exp.mesh))
    params, mesh = state.params, exp.sampling_mesh
    if mesh is not None:  # a copy of the parameters, while they wait too
        params, waiting = _copied(params, mesh, exp.model_cfg.dtype), waiting + size(params)
    mesh = mesh or exp.mesh
    out.append(Step("sample", "sample", rows, width, _sample(cfg, exp.model_cfg, params, mesh, width), waiting, mesh))
    return out


def _copied(params: Any, mesh: Any, dtype: str) -> Any:
    """Shapes of the parameters as they are sampled with on another mesh."""

    def cast(path: tuple, x: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, dtype if path[-1].key in sharding.PARAMETERS else x.dtype)

    shapes = jax.tree_util.tree_map_with_path(cast, params)
    shardings = sharding.parameter_specs(shapes, mesh)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)


def _array(mesh: Any, shape: tuple[int, ...], dtype: Any, *names: str | None) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, sharding.spec(shape, names, mesh)))


def _update(cfg: ConfigDict, exp: experiment.Experiment, state: Any, method: ModuleType, keys: set[str]) -> Callable:
    def lower() -> Any:
        shape = cfg.micro_batches, cfg.batch_size // cfg.micro_batches, cfg.sequence_length
        types = {k: jnp.int32 if k in INTEGERS else jnp.float32 for k in sorted(keys)}
        batch = {k: _array(exp.mesh, shape, dtype, None, "batch", None) for k, dtype in types.items()}
        step = update.make_update(method, exp.model_cfg, optim.make(cfg.optim), cfg)
        return step.lower(state, batch, _array(exp.mesh, (), jnp.float32))

    return lower


def _score(cfg: ConfigDict, exp: experiment.Experiment, state: Any) -> Callable:
    def lower() -> Any:
        shape = cfg.sampling.batch_size, cfg.sequence_length
        batch = {k: _array(exp.mesh, shape, jnp.int32, "batch", None) for k in INTEGERS}
        return logprobs.score.lower(state.params, batch, exp.model_cfg)

    return lower


def _sample(cfg: ConfigDict, model_cfg: model.ModelConfig, params: Any, mesh: Any, width: int) -> Callable:
    def lower() -> Any:
        s, rows = cfg.sampling, cfg.sampling.batch_size
        rule = jax.tree.map(lambda _: _array(mesh, (), jnp.float32), sampling.make_rule(s.temperature, s.top_k, s.top_p))
        key = jax.eval_shape(lambda: jax.random.key(0))
        with jax.set_mesh(mesh):
            return sampling.sample.lower(
                params, _array(mesh, (rows, width), jnp.int32, "batch", None),
                *[_array(mesh, (rows,), jnp.int32, "batch")] * 3, _array(mesh, key.shape, key.dtype), rule,
                _array(mesh, (1,), jnp.int32, None), cfg=model_cfg, max_new_tokens=s.max_new_tokens,
            )  # fmt: skip

    return lower


# ---- compiling -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _no_cache() -> Iterator[None]:
    """Without the compilation cache: programs for absent devices can be written to it, but not read."""
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # it looks at the setting once
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


def compile_step(step: Step, chip: tpu.Chip) -> Compiled:
    """Compiles it; what does not fit is an answer, not an error."""
    began, cpu = time.monotonic(), time.process_time()

    def took() -> tuple[float, float]:
        return time.monotonic() - began, time.process_time() - cpu

    try:
        with _no_cache():
            program = step.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) or "bm" not in str(error).lower():
            raise
        return Compiled(False, needed(str(error)) + step.resident, *took(), resident=step.resident)
    seconds, m = took(), program.memory_analysis()
    arguments, temporaries, output, donated = (
        int(getattr(m, f"{name}_size_in_bytes")) for name in ("argument", "temp", "output", "alias")
    )
    total = arguments + temporaries + output - donated + step.resident
    slice_of = [getattr(d, "slice_index", 0) or 0 for d in step.mesh.devices.flat]
    found = tuple(hlo.collectives(program.as_text(), slice_of))
    return Compiled(total <= chip.hbm, total, *seconds, arguments, temporaries, output, donated, step.resident, found)


def compile_kinds(cfg: ConfigDict, topology: tpu.Topology, slices: int, kinds: tuple[str, ...]) -> list[Compiled]:
    """Every program of these kinds."""
    exp = experiment.make(cfg, devices(topology, slices))
    return [compile_step(step, topology.chip) for step in steps(cfg, exp) if step.kind in kinds]


def apart(function: Callable[..., Any], *args: Any) -> Any:
    """function(*args) in a process of its own; None where that dies, as the compiler does on some sizes of arrays."""
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(function, *args).result()
        except concurrent.futures.process.BrokenProcessPool:
            return None


def needed(message: str) -> int:
    """Bytes that the compiler says it would need; 0 where it does not say."""
    found = re.search(r"\(([\d.]+)([KMGT]?)\) exceeds available HBM|Used ([\d.]+)([KMGT]?) of", message)
    if not found:
        return 0
    number, unit = (found[1], found[2]) if found[1] else (found[3], found[4])
    return int(float(number) * 1024 ** " KMGT".index(unit or " "))
