"""Where arrays live: the mesh, the table of names, and functions that agree on every mesh."""

from __future__ import annotations

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from reasoning_jax.errors import UserError
from reasoning_jax.model import decoder, linear, sharding
from reasoning_jax.training import state


@pytest.fixture(scope="module")
def cube():
    return sharding.make_mesh(2, 2, 2)


def test_mesh_sizes():
    assert dict(sharding.make_mesh().shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    assert dict(sharding.make_mesh(2, -1, 2).shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    one = sharding.make_mesh(1, 1, -1, devices=jax.devices()[:1])
    assert dict(one.shape) == {"data": 1, "fsdp": 1, "tensor": 1}


def test_a_sampling_mesh_has_groups_of_neighbours_of_one_process():
    device = dataclasses.make_dataclass("device", ("process_index", "id"), frozen=True)
    train = types.SimpleNamespace(devices=np.array([device(i % 2, 7 - i) for i in range(8)]))
    for tensor in (1, 2, 4):
        mesh = sharding.sampling_mesh(train, tensor)
        assert mesh.axis_names == sharding.AXES
        assert mesh.devices.shape == (8 // tensor, 1, tensor)
        for group in mesh.devices.reshape(-1, tensor):
            assert len({device.process_index for device in group}) == 1
    for tensor in (3, 8):
        with pytest.raises(
            UserError, match=r"^config\.mesh\.sampling_tensor: [^\n]* 4 devices [^\n]*\.$"
        ):
            sharding.sampling_mesh(train, tensor)


BAD_SIZES = [
    (3, 1, 1),
    (-1, 3, 1),
    (-1, -1, 1),
    (0, 1, 1),
    (-2, 1, 1),
    (16, 1, 1),
    (-1, 16, 1),
    (4, 1, 1),
]


@pytest.mark.parametrize("sizes", BAD_SIZES)
def test_a_mesh_that_does_not_fit_is_one_sentence_with_its_key(sizes):
    with pytest.raises(UserError, match=r"^config\.mesh: [^\n]*\.$"):
        sharding.make_mesh(*sizes)


def test_specs_take_axes_that_divide_and_each_once(cube):
    spec = sharding.spec
    assert spec((8, 5), ("batch", None), cube) == P(("data", "fsdp"), None)
    assert spec((6, 4), ("batch", "vocab"), cube) == P("data", "tensor")  # 6 is no multiple of 4
    assert spec((3, 4), ("batch", "mlp"), cube) == P(None, "tensor")
    assert spec((8, 8), ("batch", "embed"), cube) == P(("data", "fsdp"), None)  # fsdp is taken
    assert spec((8, 8), ("embed", "batch"), cube) == P("fsdp", "data")
    query = ("embed", "kv_heads", "q_groups", None)
    assert spec((16, 2, 4, 8), query, cube) == P("fsdp", "tensor", None, None)
    assert spec((16, 1, 4, 8), query, cube) == P("fsdp", None, "tensor", None)
    assert spec((8,), ("unknown",), cube) == P(None)
    with pytest.raises(ValueError, match="2 names"):
        spec((8,), ("batch", None), cube)


def test_every_matrix_of_the_model_and_its_moments_are_split(cube, tiny):
    cfg, params = tiny
    expected = {
        "embedding": P("tensor", "fsdp"),
        "final_norm": P(None),
        "layers": {
            "attention_norm": P(None, None),
            "mlp_norm": P(None, None),
            "query": P(None, "fsdp", "tensor", None, None),
            "key": P(None, "fsdp", "tensor", None),
            "value": P(None, "fsdp", "tensor", None),
            "attention_out": P(None, "tensor", None, None, "fsdp"),
            "gate": P(None, "fsdp", "tensor"),
            "up": P(None, "fsdp", "tensor"),
            "down": P(None, "tensor", "fsdp"),
        },
    }

    def specs(tree):
        return jax.tree.map(lambda s: s.spec, sharding.parameter_specs(tree, cube))

    assert specs(params) == expected
    train_state = specs(state.fresh(params, optax.scale_by_adam()))
    assert train_state.params == expected
    assert train_state.opt_state.mu == expected
    assert train_state.opt_state.nu == expected
    assert train_state.step == train_state.opt_state.count == P()
    untied = {"unembedding": jax.ShapeDtypeStruct((16, 20), "float32")}
    assert specs(untied)["unembedding"] == P("fsdp", "tensor")


def test_every_parameter_of_every_kind_of_model_has_a_rule(cube, tiny):
    cfg = dataclasses.replace(tiny[0], tied=False)
    shapes = jax.eval_shape(lambda: decoder.init(jax.random.key(0), cfg))
    assert jax.tree.structure(sharding.parameter_specs(shapes, cube)) == jax.tree.structure(shapes)


def test_a_parameter_without_a_rule_is_an_error_that_names_it(cube, tiny):
    _, params = tiny
    unknown = params | {"adapter": {"lora_a": np.zeros((16, 2), np.float32)}}
    with pytest.raises(ValueError, match=r"^The parameter adapter\.lora_a has no sharding rule: "):
        sharding.parameter_specs(unknown, cube)
    made = jax.eval_shape(lambda: state.fresh(unknown, optax.scale_by_adam()))
    with pytest.raises(ValueError, match=r"adapter\.lora_a has no sharding rule: "):
        sharding.parameter_specs(made, cube)
    with pytest.raises(ValueError, match=r"^The parameter embedding has 4 dimensions, "):
        sharding.parameter_specs({"embedding": np.zeros((2, 2, 2, 2))}, cube)


def test_the_scales_of_norms_stay_in_float32(tiny):
    _, params = tiny
    cast = sharding.cast_matrices(params, "bfloat16")
    kept = {
        jax.tree_util.keystr(path, simple=True, separator=".")
        for path, x in jax.tree_util.tree_leaves_with_path(cast)
        if x.dtype == jnp.float32
    }
    assert kept == {"final_norm", "layers.attention_norm", "layers.mlp_norm"}


def test_without_a_mesh_every_helper_is_the_identity():
    x = jnp.ones((4, 6))
    assert sharding.shard(x, "batch", "embed") is x
    assert np.array_equal(sharding.put(np.ones((4, 6)), None, "batch", None), x)


def test_put_splits_the_batch(cube):
    host = np.arange(16).reshape(8, 2)
    tokens, lengths = sharding.put((host, np.arange(8)), cube, "batch", None)
    assert tokens.sharding.spec == P(("data", "fsdp"), None)
    assert tokens.addressable_shards[0].data.shape == (2, 2)
    assert lengths.sharding.spec == P(("data", "fsdp"))
    assert np.array_equal(tokens, host)
    assert sharding.put(np.ones((3,)), cube).sharding.is_fully_replicated


@pytest.mark.parametrize("dims", [(8, 1, 1), (1, 8, 1), (2, 2, 2)])
def test_lookup_and_products_are_those_of_one_device(dims):
    """Value and gradient of a look-up, a column-split and a row-split product, against numpy's."""
    rng = np.random.default_rng(0)
    arrays = {"embedding": (20, 16), "up": (16, 8), "down": (8, 16)}
    params = {k: rng.normal(size=s).astype(np.float32) for k, s in arrays.items()}
    ids = rng.integers(0, 20, (8, 3)).astype(np.int32)

    def f(p, ids):
        x = linear.lookup(p["embedding"], ids, jnp.float32)
        h = linear.dot("bsd,dm->bsm", x, p["up"], ("embed", "mlp"), ("batch", None, "mlp"))
        y = linear.dot("bsm,md->bsd", h, p["down"], ("mlp", "embed"), ("batch", None, None))
        return jnp.sum(jnp.square(sharding.shard(y, "batch", None, None)))

    x = params["embedding"][ids]
    y = x @ params["up"] @ params["down"]
    down = np.einsum("bsm,bsd->md", x @ params["up"], 2 * y)
    up = np.einsum("bsd,bsm->dm", x, 2 * y @ params["down"].T)
    embedding = np.zeros((20, 16), np.float32)
    np.add.at(embedding, ids, 2 * y @ params["down"].T @ params["up"].T)

    mesh = sharding.make_mesh(*dims)
    with jax.set_mesh(mesh):
        sharded = jax.device_put(params, sharding.parameter_specs(params, mesh))
        value, grad = jax.jit(jax.value_and_grad(f))(
            sharded, sharding.put(ids, mesh, "batch", None)
        )
    np.testing.assert_allclose(value, np.sum(y**2), rtol=1e-5)
    for name, expected in {"embedding": embedding, "up": up, "down": down}.items():
        np.testing.assert_allclose(grad[name], expected, rtol=1e-4, atol=1e-3)
        # It is reduce-scattered back to where the parameter lives.
        assert grad[name].sharding == sharded[name].sharding


def test_a_bfloat16_product_has_the_gradient_of_its_weight_summed_in_float32():
    """1001 tokens whose gradients are 1: bfloat16 has 1000 and 1004 only."""
    x, w = jnp.ones((7, 143, 2), jnp.bfloat16), jnp.full((2, 3), 0.5)

    def f(x, w):
        y = linear.dot("bsd,dm->bsm", x, w, ("embed", "mlp"), ("batch", None, "mlp"))
        assert y.dtype == jnp.bfloat16
        return jnp.sum(y.astype(jnp.float32))

    dx, dw = jax.grad(f, (0, 1))(x, w)
    assert dx.dtype == jnp.bfloat16
    assert (dx == 1.5).all()
    assert dw.dtype == jnp.float32
    assert (dw == 1001).all()
    names = ("embed", "mlp"), ("batch", None, "mlp")
    wide = linear.dot("bsd,dm->bsm", x, w, *names, dtype=jnp.float32)
    assert wide.dtype == jnp.float32
    assert (wide == 1).all()


def test_logits_of_a_model_are_whole_on_a_tensor_mesh(cube, tiny):
    """The sampler's argmax and sort see the whole vocabulary on every device."""
    cfg, params = tiny
    with jax.set_mesh(cube):
        sharded = jax.device_put(params, sharding.parameter_specs(params, cube))
        hidden = sharding.put(np.ones((4, 1, cfg.width), np.float32), cube, "batch", None, None)
        out = jax.jit(decoder.logits, static_argnums=2)(sharded, hidden, cfg)
    assert out.sharding.spec == P(("data", "fsdp"), None, None)
    expected = np.asarray(params["embedding"]).sum(1)
    np.testing.assert_allclose(np.asarray(out)[0, 0], expected, atol=1e-5)
