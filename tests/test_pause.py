"""Pause tokens: none is plain; their vectors are trained; every part of a run puts them there."""

from __future__ import annotations

from pathlib import Path

import drawing
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_model import ragged

from reasoning_jax import api, default, experiment, forwards, loop, rows_file
from reasoning_jax.errors import UserError
from reasoning_jax.model import decoder, logprobs
from reasoning_jax.model.attention import CausalMask
from reasoning_jax.sampling import methods

PAUSE = forwards.get("pause")


def tiny_config(forward):
    """The config of a run of seconds: a base model and one round, on sums of one digit."""
    c = default.get_config(algorithm="sft", task="addition", forward=forward)
    c.model.update(num_layers=1, width=16, num_heads=2, num_kv_heads=2, head_dim=8, mlp_dim=16)
    c.task.update(max_digits=1, given=(12,), num_train=12, num_eval=8)
    c.base.update(num_updates=2)
    c.base.algorithm.hinted = 0.0
    c.rounds.update(count=1, split="given", updates=2, min_kept_rows=0)
    c.batch_size, c.sequence_length = 8, 64
    c.sampling.update(max_new_tokens=8, batch_size=8)
    return c


def tiny_run(**changes):
    c = tiny_config("pause")
    c.forward.update({"count": 3, "shared": False} | changes)
    return c


def test_stages_that_there_are_not_are_refused():
    for stages, section, key in (("rounds", "rounds", "count"), ("base", "base", "num_updates")):
        cfg = tiny_run(stages=stages)
        PAUSE.check(cfg)
        cfg[section][key] = 0
        with pytest.raises(UserError, match=f"config.forward.stages: {stages}.*{section}.{key}"):
            PAUSE.check(cfg)


# ---- exact ---------------------------------------------------------------------------------------


def test_without_pauses_it_is_plain(tiny):
    none = PAUSE.Config(count=0)
    assert PAUSE.init(jax.random.key(0), tiny[0], none) == {}
    assert PAUSE.prompt_suffix(none, 20, 1) == []
    assert PAUSE.logprobs is forwards.get("plain").logprobs


def test_the_ids_of_each_stage():
    own = {"count": 3, "shared": False}
    for stages, base, rounds in (
        ("both", [20, 21, 22], [20, 21, 22]),
        ("base", [20, 21, 22], []),
        ("rounds", [], [20, 21, 22]),
    ):
        cfg = PAUSE.Config(stages=stages, **own)
        assert PAUSE.prompt_suffix(cfg, 20, 0) == base
        assert PAUSE.prompt_suffix(cfg, 20, 1) == PAUSE.prompt_suffix(cfg, 20, 7) == rounds
    assert PAUSE.prompt_suffix(PAUSE.Config(count=3), 20, 1) == [20, 20, 20]


@pytest.fixture
def paused(tiny):
    """The tiny model with three pause vectors; and a batch of two rows that have them."""
    cfg, params = tiny
    drawn = PAUSE.init(jax.random.key(1), cfg, PAUSE.Config(count=3, shared=False))
    suffix = PAUSE.prompt_suffix(PAUSE.Config(count=3, shared=False), cfg.vocab_size, 1)
    rows = [[4, 5, 6, *suffix, 7, 8], [9, *suffix, 10]]
    tokens, positions, segments = (jnp.asarray(x) for x in ragged(rows, 10))
    weights = np.zeros(tokens.shape, np.float32)
    weights[0, 6:8] = weights[1, 4] = 1
    batch = {"tokens": tokens, "positions": positions, "segment_ids": segments, "weights": weights}
    return cfg, params | drawn, batch


def test_the_answer_is_read_after_the_last(paused):
    """The same as feeding the vectors by hand, and reading the logits of the last of them."""
    cfg, params, batch = paused
    own, aux = PAUSE.logprobs(params, batch, None, cfg, PAUSE.Config(count=3))
    words = decoder.embed(params, jnp.asarray([[4, 5, 6]]), cfg)
    inputs = jnp.concatenate([words, params["pause"][None]], axis=1)
    mask = CausalMask(jnp.ones((1, 6), jnp.int32))
    hidden = decoder.apply(params, inputs, jnp.arange(6)[None], mask, cfg=cfg)
    logits = decoder.logits(params, hidden[:, -1:], cfg)[0, 0]
    np.testing.assert_allclose(own[0, 6], jax.nn.log_softmax(logits)[7], atol=1e-5)
    assert aux == {} and (np.asarray(own)[batch["weights"] == 0] == 0).all()


def test_gradients_are_those_of_finite_differences(paused):
    cfg, params, batch = paused

    def total(pause):
        return jnp.sum(logprobs.token_logprobs(params | {"pause": pause}, batch, cfg))

    gradient = jax.grad(total)(params["pause"])
    direction = jax.random.normal(jax.random.key(2), gradient.shape)
    direction = direction / jnp.linalg.norm(direction)
    step = 1e-2
    ahead, behind = (total(params["pause"] + s * direction) for s in (step, -step))
    difference = (ahead - behind) / (2 * step)
    np.testing.assert_allclose(jnp.sum(gradient * direction), difference, rtol=5e-3)


def test_samples_follow_the_pauses(paused):
    """Their log-probabilities are those that an update computes of the same rows."""
    cfg, params, batch = paused
    prompts = np.asarray(batch["tokens"])[:, :6]
    out = drawing.sample(
        params,
        prompts,
        [6, 4],
        [0, 1],
        [0, 0],
        jax.random.key(0),
        methods.make_method(1.0),
        (3,),
        cfg=cfg,
        max_new_tokens=3,
    )
    assert (out.tokens < cfg.vocab_size).all()
    for row, length in enumerate((6, 4)):
        ids = [*prompts[row, :length], *out.tokens[row, : out.lengths[row]]]
        tokens, positions, segments = (jnp.asarray(x) for x in ragged([ids], 12))
        one = {"tokens": tokens, "positions": positions, "segment_ids": segments}
        wanted = logprobs.token_logprobs(params, one, cfg)[0, length : len(ids)]
        np.testing.assert_allclose(out.logprobs[row, : out.lengths[row]], wanted, atol=1e-5)


# ---- a run ---------------------------------------------------------------------------------------


def pauses_of(folder: Path, round: int, first: int) -> set[int]:
    """How many pause tokens the rows of a round have, each before its first weight."""
    rows, _ = rows_file.read_rows(
        folder / "rounds" / f"{round:04d}" / "rows.npz", ((), np.int64(0)), round, {"tokens"}
    )
    for row in rows:
        assert not row["weights"][row["tokens"] >= first].any()
    return {int((row["tokens"] >= first).sum()) for row in rows}


@pytest.mark.parametrize("stages", ["both", "rounds"])
def test_a_run(tmp_path, one_device, stages):
    cfg = tiny_run(stages=stages)
    loop.train(cfg, tmp_path)
    exp = experiment.make(cfg)
    first = exp.model_cfg.vocab_size
    assert pauses_of(tmp_path, 1, first) == {3}
    assert pauses_of(tmp_path, 0, first) == {3 if stages == "both" else 0}
    model = api.open(tmp_path)
    figures = model.evaluate("validation")
    [answer] = model.sample(["1+2"])
    assert 0 <= figures["eval/accuracy"] <= 1 and answer["question"] == "1+2"


def test_pauses_count_as_tokens_of_the_prompt(one_device, tmp_path):
    cfg = tiny_run(count=60)
    with pytest.raises(UserError, match="config.sequence_length 64"):
        loop.train(cfg, tmp_path)
