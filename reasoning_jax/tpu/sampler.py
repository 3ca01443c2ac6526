"""The sampler's programs as the planner lowers them: their arguments are shapes and shardings."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from reasoning_jax import forwards
from reasoning_jax.model import decoder, paged_attention, sharding
from reasoning_jax.model.paged_attention import Cache
from reasoning_jax.model.pages import Places
from reasoning_jax.sampling import engine, methods, sequences

Lower = Callable[[], jax.stages.Lowered]


def lowerings(
    cfg: ConfigDict, model_cfg: decoder.ModelConfig, params: decoder.Params, mesh: Mesh
) -> dict[str, Lower]:
    """prefill, think where thoughts are fed back, and decode."""
    found = {"prefill": _prefill, "think": _think, "decode": _decode}
    if decoder.thought_id(params, model_cfg) is None:
        del found["think"]
    return {name: partial(lower, cfg, model_cfg, params, mesh) for name, lower in found.items()}


def prepared(
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


def copied(params: decoder.Params, mesh: Mesh, dtype: str) -> decoder.Params:
    """Shapes of the parameters as they are sampled with on another mesh."""
    shapes = jax.eval_shape(partial(sharding.cast_matrices, dtype=dtype), params)
    shardings = sharding.parameter_specs(shapes, mesh)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
    )


def _prefill(
    cfg: ConfigDict, model_cfg: decoder.ModelConfig, params: decoder.Params, mesh: Mesh
) -> jax.stages.Lowered:
    batch = cfg.sampling.batch_size
    tokens = abstract_array(mesh, (batch, engine.PREFILL_BLOCK), jnp.int32, "batch", None)
    each = abstract_array(mesh, (batch,), jnp.int32, "batch")
    places = Places(tables=_tables(cfg, mesh), starts=each, counts=each)
    with jax.set_mesh(mesh):
        arguments = params, _cache(cfg, model_cfg, mesh), tokens, places, _draw(cfg, mesh)
        if decoder.thought_id(params, model_cfg) is not None:
            return engine.prefill_to_think.lower(*arguments, cfg=model_cfg)
        hidden_tokens = forwards.hidden_tokens_of(cfg.forward)
        is_last = abstract_array(mesh, (batch,), jnp.bool_, "batch") if hidden_tokens else None
        return engine.prefill.lower(*arguments, is_last, cfg=model_cfg, hidden_tokens=hidden_tokens)


def _think(
    cfg: ConfigDict, model_cfg: decoder.ModelConfig, params: decoder.Params, mesh: Mesh
) -> jax.stages.Lowered:
    batch = cfg.sampling.batch_size
    vectors = abstract_array(
        mesh, (batch, 1, model_cfg.width), jnp.dtype(model_cfg.dtype), "batch", None, None
    )
    each = abstract_array(mesh, (batch,), jnp.int32, "batch")
    places = Places(tables=_tables(cfg, mesh), starts=each, counts=each)
    emitted = engine.Emitted(
        tokens=abstract_array(mesh, (batch, 1), jnp.int32, "batch", None),
        logprobs=abstract_array(mesh, (batch, 1), jnp.float32, "batch", None),
        lengths=each,
        finished=abstract_array(mesh, (batch,), jnp.bool_, "batch"),
    )
    with jax.set_mesh(mesh):
        return engine.think.lower(
            params,
            _cache(cfg, model_cfg, mesh),
            vectors,
            places,
            _draw(cfg, mesh),
            emitted,
            cfg=model_cfg,
        )


def _decode(
    cfg: ConfigDict, model_cfg: decoder.ModelConfig, params: decoder.Params, mesh: Mesh
) -> jax.stages.Lowered:
    batch = cfg.sampling.batch_size
    each = abstract_array(mesh, (batch,), jnp.int32, "batch")
    live = abstract_array(mesh, (batch,), jnp.bool_, "batch")
    progress = engine.Progress(last=each, starts=each, steps=each, live=live)
    number = abstract_array(mesh, (), jnp.int32)
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
            hidden_tokens=forwards.hidden_tokens_of(cfg.forward),
        )


def _longest(cfg: ConfigDict) -> int:
    """Tokens of a sequence, and what is computed beyond its end."""
    hidden_tokens = forwards.hidden_tokens_of(cfg.forward)
    return cfg.sequence_length + (hidden_tokens.room if hidden_tokens else 0)


def _tables(cfg: ConfigDict, mesh: Mesh) -> jax.ShapeDtypeStruct:
    shape = (cfg.sampling.batch_size, sequences.pages_of(_longest(cfg)))
    return abstract_array(mesh, shape, jnp.int32, "batch", None)


def _cache(cfg: ConfigDict, model_cfg: decoder.ModelConfig, mesh: Mesh) -> Cache:
    s = cfg.sampling
    sizes = sequences.Sizes.of(mesh, s.batch_size, _longest(cfg), s.cache_tokens)
    num_pages = sizes.pages * sizes.num_devices
    cache = paged_attention.cache_shapes(model_cfg, num_pages, cfg.sampling.int8_cache)
    names = paged_attention.dimensions(cache)
    return jax.tree.map(lambda x: abstract_array(mesh, x.shape, x.dtype, *names[: x.ndim]), cache)


def _draw(cfg: ConfigDict, mesh: Mesh) -> engine.Draw:
    s = cfg.sampling
    method = methods.make_method(s.temperature, s.top_k, s.top_p)
    key = jax.eval_shape(lambda: jax.random.key(0))
    each = abstract_array(mesh, (s.batch_size,), jnp.int32, "batch")
    return engine.Draw(
        key=abstract_array(mesh, key.shape, key.dtype),
        ids=each,
        indices=each,
        method=jax.tree.map(lambda _: abstract_array(mesh, (), jnp.float32), method),
        stop_ids=abstract_array(mesh, (1,), jnp.int32, None),
    )


def abstract_array(
    mesh: Mesh, shape: tuple[int, ...], dtype: jax.typing.DTypeLike, *names: str | None
) -> jax.ShapeDtypeStruct:
    """A shape whose dimensions have these names of model/sharding.py."""
    layout = NamedSharding(mesh, sharding.spec(shape, names, mesh))
    return jax.ShapeDtypeStruct(shape, dtype, sharding=layout)
