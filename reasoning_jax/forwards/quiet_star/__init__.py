"""Quiet-STaR: a thought after every token (Zelikman et al. 2024, arXiv:2403.09629).

After each token x_i the model draws N thoughts T of t tokens between two learned markers, and
predicts the next A tokens after each of them; a head mixes this with what it says without one
(mixing.py). With a weight c of each token, what an update adds up over the positions i is

    r_n    = sum over k = 1 .. A of c_{i+k} log p(x_{i+k} | x_{<i+k}, T_n)             mixed
    loss   = - mean over n of r_n - policy_weight * mean over n of a_n log p(T_n | x_{<=i})
    a_n    = r_n - mean over the other thoughts of r          without a gradient

The first line's k = 1 is ``logprobs``, to be weighted by the method's loss; the rest is
aux["loss"]. Thoughts are drawn from the model itself, and of how they were drawn REINFORCE is the
only gradient. The paper's baseline is the mean over all thoughts, which scales a_n by (N - 1) / N.

Letters of shapes: B sequences, S positions, N thoughts, A tokens ahead, D width.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key
from ml_collections import ConfigDict

from reasoning_jax.errors import UserError
from reasoning_jax.forwards import Aux, Batch, Encode, pause, plain
from reasoning_jax.forwards.quiet_star import columns, mixing, scores
from reasoning_jax.forwards.quiet_star.scores import Positions, Scores
from reasoning_jax.model import decoder
from reasoning_jax.model import logprobs as model_logprobs
from reasoning_jax.model.decoder import ModelConfig, Params
from reasoning_jax.model.paged_attention import Cache
from reasoning_jax.model.pages import Places
from reasoning_jax.ranges import above, at_least, between, key

RANDOM = True
SHARES_PROMPTS = False  # a thought in a prompt looks ahead into its own completion
BASE = "plain"  # thoughts begin with a language model; one from scratch has none


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    thought_length: int = key(12, between(1, 2**10))  # tokens of a thought, without the markers, t
    num_thoughts: int = key(2, between(2, 2**10))  # of a position, while training, N
    num_ahead: int = key(4, between(1, 2**10))  # tokens that each thought is to predict, A
    policy_weight: float = key(1.0, at_least(0))  # of REINFORCE's loss beside the likelihood's
    # Leave thoughts out of REINFORCE that are worse than the others, as the paper does.
    positive_only: bool = False
    # The markers are this times what is trained, so that Adam moves them as much faster.
    marker_scale: float = key(1.0, above(0))
    # The tokens whose vectors the markers begin as in round 1; "" = random.
    start_like: str = ""
    end_like: str = ""
    # Outside updates: a thought of the likeliest tokens before each token; else none.
    thinks: bool = True
    positions_at_once: int = key(0, at_least(0))  # whose thoughts are in memory; 0 = all


def check(cfg: ConfigDict) -> None:
    f = cfg.forward
    if f.positive_only and not f.policy_weight:
        raise UserError(
            "config.forward.positive_only: True has no effect where policy_weight is 0."
        )


def init(key: Key[Array, ""], model_cfg: ModelConfig, cfg: Config) -> Params:
    """{"thought_markers": [2, D]}, which begin and end a thought, and the mixing head."""
    marker_key, mixing_key = jax.random.split(key)
    std = pause.vector_std(model_cfg)
    normal = jax.random.normal(marker_key, (2, model_cfg.width))
    return {
        "thought_markers": normal * std / cfg.marker_scale,
        **mixing.init(mixing_key, model_cfg),
    }


def begin(params: Params, encode: Encode, model_cfg: ModelConfig, cfg: Config) -> Params:
    """The markers, of which those are words that the config says."""
    rows = []
    for number, text in enumerate((cfg.start_like, cfg.end_like)):
        row = params["thought_markers"][number]
        if text:
            word = decoder.embed(params, jnp.asarray([encode(text)]), model_cfg)[0, 0]
            row = word.astype(jnp.float32) / cfg.marker_scale
        rows.append(row)
    return {"thought_markers": jnp.stack(rows)}


def check_words(encode: Encode, cfg: Config) -> None:
    """UserError for a marker that is to begin as a text that is not one token."""
    for name in ("start_like", "end_like"):
        text = getattr(cfg, name)
        try:
            count = len(encode(text)) if text else 1
        except UserError as error:
            raise UserError(f"config.forward.{name}: {error}") from None
        if count != 1:
            raise UserError(f"config.forward.{name}: {text!r} is {count} tokens, not one.")


def logprobs(
    params: Params,
    batch: Batch,
    keys: Key[Array, " B"] | None,
    model_cfg: ModelConfig,
    cfg: Config,
) -> tuple[Float[Array, "B S"], Aux]:
    """log p of each token after a thought, a mean over the thoughts before it; and aux.

    keys: None = outside an update: the likeliest thought, or none where not ``cfg.thinks``.
    aux, each figure a sum over the tokens that have a weight: loss, as above; reward r, and
    reward_std over the thoughts of a position; gain: log p over that without a thought;
    mixing_weight w; thought_entropy: -log p of a thought, per token.
    """
    if keys is None and not cfg.thinks:
        return plain.logprobs(params, batch, keys, model_cfg, cfg)
    params = with_markers(params, cfg)
    hidden, text, visible = scores.read_text(params, batch, model_cfg)
    at = scores.positions_of(batch, hidden, visible, 1 if keys is None else cfg.num_ahead)
    found = scores.score(
        params,
        text,
        at,
        keys,
        length=cfg.thought_length,
        num_thoughts=1 if keys is None else cfg.num_thoughts,
        together=cfg.positions_at_once,
        model_cfg=model_cfg,
    )
    of_next = jnp.mean(found.logprobs[..., 0], axis=2)
    out = jnp.pad(of_next[:, :-1], ((0, 0), (1, 0)))
    if keys is None:
        return out, {}
    without = model_logprobs.of_hidden(*jax.lax.stop_gradient((params, hidden)), batch, model_cfg)
    figures = _figures(at, found, cfg)
    figures["gain"] = jnp.sum(jax.lax.stop_gradient(out) - without)
    return out, {"loss": _loss(at, found, cfg), **figures}


def num_lookahead_positions(cfg: Config) -> int:
    """A thought, its markers, and the tokens that it predicts but the last."""
    return cfg.thought_length + cfg.num_ahead + 1


def hidden_tokens(cfg: Config) -> Thought | None:
    return Thought(cfg) if cfg.thinks else None


@dataclasses.dataclass(frozen=True)
class Thought:
    """The likeliest thought after each sequence's newest token, and what it changes: to sample.

    It stands behind the sequence, where the next token will be written.
    """

    cfg: Config

    @property
    def room(self) -> int:
        return self.cfg.thought_length + 2

    def __call__(
        self,
        params: Params,
        hidden: Float[Array, "B 1 D"],
        places: Places,
        cache: Cache,
        model_cfg: ModelConfig,
    ) -> tuple[Float[Array, "B 1 D"], Cache]:
        """The mixed hidden states and the cache; as ``forwards.HiddenTokens``."""
        params = with_markers(params, self.cfg)
        start, end = columns.markers(params, model_cfg)

        def read(
            tokens: jax.Array, number: jax.Array | int, cache: Cache
        ) -> tuple[jax.Array, Cache]:
            inputs = decoder.embed(params, tokens[:, None], model_cfg)
            at = places.replace(starts=places.starts + number)
            return decoder.apply_cached(params, inputs, at, cache, cfg=model_cfg)

        def step(carry: tuple, number: jax.Array) -> tuple[tuple, None]:
            cache, newest = carry
            after, cache = read(newest, number, cache)
            logits = decoder.logits(params, after, model_cfg)[:, 0]
            return (cache, jnp.argmax(logits, axis=-1).astype(jnp.int32)), None

        length = self.cfg.thought_length
        carry = cache, jnp.full_like(places.starts, start)
        (cache, last), _ = jax.lax.scan(step, carry, jnp.arange(length))
        _, cache = read(last, length, cache)
        after, cache = read(jnp.full_like(last, end), length + 1, cache)
        mixed, _ = mixing.mix(params, hidden, after)
        return mixed, cache


def with_markers(params: Params, cfg: Config) -> Params:
    """The parameters with the markers as the model reads them."""
    return params | {"thought_markers": params["thought_markers"] * cfg.marker_scale}


def _rewards(at: Positions, found: Scores) -> Float[Array, "B S N"]:
    weighted = at.weights[:, :, None] * found.logprobs
    return jax.lax.stop_gradient(jnp.sum(weighted, axis=-1))


def _loss(at: Positions, found: Scores, cfg: Config) -> Float[Array, ""]:
    """The likelihood's loss of the tokens after the next, and REINFORCE's."""
    of_later = jnp.sum(at.weights[:, :, None, 1:] * found.logprobs[..., 1:], axis=-1)
    rewards = _rewards(at, found)
    count = rewards.shape[2]
    of_others = (jnp.sum(rewards, axis=2, keepdims=True) - rewards) / (count - 1)
    advantages = rewards - of_others
    if cfg.positive_only:
        advantages = jnp.maximum(advantages, 0.0)
    reinforce = cfg.policy_weight * advantages * found.thought_logprobs
    return -jnp.sum(jnp.mean(of_later + reinforce, axis=2))


def _figures(at: Positions, found: Scores, cfg: Config) -> Aux:
    """What is logged: sums over the tokens that have a weight, of means over thoughts."""
    rewards = _rewards(at, found)
    is_asked = at.weights[:, :, 0] != 0
    of_positions = {
        "reward": jnp.mean(rewards, axis=2),
        "reward_std": jnp.std(rewards, axis=2),
        "mixing_weight": jnp.mean(found.mixing_weights, axis=2),
        "thought_entropy": -jnp.mean(found.thought_logprobs, axis=2) / cfg.thought_length,
    }
    figures = {k: jnp.sum(jnp.where(is_asked, x, 0.0)) for k, x in of_positions.items()}
    return jax.lax.stop_gradient(figures)
