"""Completions of arrays of prompts, and hidden states through the cache, as the tests ask for
them."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from reasoning_jax.model import decoder, paged_attention
from reasoning_jax.model.pages import PAGE, Places
from reasoning_jax.policy import Policy
from reasoning_jax.sampling.sequences import Request


@struct.dataclass
class Samples:
    """Completions [B, N]; what is beyond a length is 0."""

    tokens: np.ndarray
    logprobs: np.ndarray
    lengths: np.ndarray
    finished: np.ndarray


def sample(
    params,
    prompts,
    lengths,
    ids,
    indices,
    key,
    method,
    stop_ids,
    *,
    cfg,
    max_new_tokens,
    mesh=None,
    num_slots=None,
    cache_tokens=0,
    room=0,
    **forward,
):
    """Of the prompts that are not empty; room: tokens that a sequence could have and has not."""
    prompts, ids, indices = (np.asarray(x) for x in (prompts, ids, indices))
    rows = np.flatnonzero(np.asarray(lengths))
    policy = Policy(
        params=params,
        model_cfg=cfg,
        mesh=mesh,
        batch_size=num_slots or len(prompts),
        max_length=int(max(lengths)) + max_new_tokens + room,
        cache_tokens=cache_tokens,
        **forward,
    )
    requests = [
        Request(int(ids[row]), int(indices[row]), prompts[row, : lengths[row]]) for row in rows
    ]
    shape = len(prompts), max_new_tokens
    out = Samples(
        tokens=np.zeros(shape, np.int32),
        logprobs=np.zeros(shape, np.float32),
        lengths=np.zeros(shape[:1], np.int32),
        finished=np.zeros(shape[:1], bool),
    )
    options = {"key": key, "method": method, "stop_ids": stop_ids}
    for part in policy.generate(requests, max_new_tokens=max_new_tokens, **options):
        for i, n in enumerate(part.requests):
            row, length = rows[n], part.lengths[i]
            out.tokens[row, :length] = part.tokens[i, :length]
            out.logprobs[row, :length] = part.logprobs[i, :length]
            out.lengths[row], out.finished[row] = length, part.finished[i]
    return out


@partial(jax.jit, static_argnames="cfg")
def _apply_cached(params, tokens, places, cache, cfg):
    inputs = decoder.embed(params, tokens, cfg)
    return decoder.apply_cached(params, inputs, places, cache, cfg=cfg)


def cached_states(params, sequences, calls, cfg, mesh=None):
    """Hidden states [len(sequence), D] of each sequence, so many tokens of each in every call."""
    B, most = len(sequences), -(-max(map(len, sequences)) // PAGE)
    # Pages in no order, and more of them than needed.
    tables = np.random.default_rng(0).permutation(B * most + 3)[: B * most]
    tables = tables.reshape(B, most).astype(np.int32)
    cache = paged_attention.init(cfg, B * most + 3)
    starts = np.zeros((B,), np.int32)
    states = [[] for _ in sequences]
    for call in calls:
        counts = np.asarray([min(call, len(s) - n) for s, n in zip(sequences, starts, strict=True)])
        tokens = np.zeros((B, call), np.int32)
        for row, (sequence, start) in enumerate(zip(sequences, starts, strict=True)):
            tokens[row, : counts[row]] = sequence[start : start + counts[row]]
        places = Places(
            tables=jnp.asarray(tables),
            starts=jnp.asarray(starts),
            counts=jnp.asarray(counts, jnp.int32),
        )
        hidden, cache = _apply_cached(params, jnp.asarray(tokens), places, cache, cfg)
        assert np.isfinite(hidden).all()  # padding too
        for row, count in enumerate(counts):
            states[row] += list(np.asarray(hidden[row, :count]))
        starts = starts + counts.astype(np.int32)
    return [np.stack(rows) for rows in states]
