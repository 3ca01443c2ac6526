"""The contract of a forward: plain is the model's own pass; a loss, means and keys of another."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_train_step import Stepper, first_part, make_batch

from reasoning_jax import config, default, forwards, overrides
from reasoning_jax.errors import UserError
from reasoning_jax.model import logprobs

PLAIN = forwards.get("plain")


def test_plain_is_the_models_own_pass(tiny):
    cfg, params = tiny
    batch = first_part(make_batch())
    settings = forwards.settings(default.get_config().forward)
    own = forwards.compiled_logprobs(
        params, batch, None, forward=PLAIN, model_cfg=cfg, cfg=settings
    )
    wanted = logprobs.compiled_token_logprobs(params, batch, cfg)
    np.testing.assert_array_equal(own, wanted)
    assert PLAIN.init(jax.random.key(0), cfg, settings) == {}


def test_an_unknown_forward_is_refused():
    with pytest.raises(UserError, match="there is no 'plane'; there are .*plain"):
        forwards.get("plane")
    cfg = default.get_config()
    with pytest.raises(UserError, match="there is no forward 'plane'; they are .*plain"):
        overrides.change(cfg, {"forward": "plane"})


def test_a_config_without_the_section_is_plain():
    saved = config.as_dict(default.get_config())
    del saved["forward"]
    assert config.from_saved(saved, "config.json").forward.name == "plain"


def drawing_forward(params, batch, keys, model_cfg, cfg):
    """Adds a number of each sequence's own key to what is plain, and a loss."""
    out, _ = PLAIN.logprobs(params, batch, None, model_cfg, cfg)
    drawn = jax.vmap(jax.random.uniform)(keys)
    asked = jnp.where(batch["weights"] != 0, 1.0, 0.0)
    shift = jnp.sum(drawn[:, None] * asked)
    scale = jnp.sum(params["embedding"])
    return out + drawn[:, None] * asked, {"loss": 0.5 * shift * scale, "shift": shift}


@pytest.fixture
def stepper(tiny, monkeypatch):
    """A function that makes the step of a model with the forward above."""
    made_up = dataclasses.replace(PLAIN, name="made_up", logprobs=drawing_forward, RANDOM=True)
    monkeypatch.setattr(forwards, "get", lambda name: made_up)
    return lambda dims=None: Stepper(tiny, dims)


def test_what_a_forward_draws_and_adds(tiny, stepper):
    """Its loss is added to the method's, its means are logged; neither the number of
    micro-batches nor that of devices changes what a sequence draws."""
    _, first, second = stepper().twice()
    shift = float(first["shift"]) * float(first["weight"])
    assert 0 < shift < float(first["weight"])
    assert first["shift"] != second["shift"]
    for other in (stepper().twice(parts=4), stepper((2, 2, 2)).twice(parts=2)):
        for mine, wanted in zip(other[1:], (first, second), strict=True):
            np.testing.assert_allclose(mine["shift"], wanted["shift"], rtol=1e-5)
            np.testing.assert_allclose(mine["loss"], wanted["loss"], rtol=1e-4)


def test_the_added_loss_is_trained(tiny, stepper):
    """Of the first update: the mean loss has it, and the gradient is that of the sum."""
    _, first, _ = stepper().twice()
    params = tiny[1]
    scale = float(jnp.sum(params["embedding"]))
    batch = first_part(make_batch())

    def nll(params):
        out = logprobs.token_logprobs(params, batch, tiny[0])
        return -jnp.sum(out * batch["weights"])

    # The shift of log-probabilities lowers the method's loss by itself.
    shift, weight = float(first["shift"]), float(first["weight"])
    wanted = float(nll(params)) / weight - shift + 0.5 * shift * scale
    np.testing.assert_allclose(first["loss"], wanted, rtol=1e-4)

    def total(params):
        return nll(params) / weight + 0.5 * shift * jnp.sum(params["embedding"])

    norm = optax.global_norm(jax.grad(total)(params))
    np.testing.assert_allclose(first["grad_norm"], norm, rtol=1e-4)
