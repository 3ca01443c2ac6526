"""A decoder-only transformer, as pure functions: init, embed, apply, logits.

Letters of shapes: B sequences, S tokens of this call, T cached tokens, D width, K key-value heads,
H head size, V vocabulary, L layers. Sequences are padded on the right; a packed row holds several
of them as segments. Which tokens a token sees is said by a mask: see attention.py.

With an adapter, the parameters are those of the frozen model and, beside them, "lora" (stacked
factors). The ids after the vocabulary have vectors of their own, in the order of AFTER_VOCABULARY:
those of a "soft_prompt" [P, D], then of "pause" tokens [M, D], then the "thought_markers" [2, D],
which stand before the first thought and after the last. No sample has such an id. To sample
with there are "output" and, where matrices have 8 bits, "scales" and "output_scales" (int8.py); on
a GPU each layer's parameters are then arrays of their own, in a list.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from reasoning_jax.model import int8, pages, rotary
from reasoning_jax.model.attention import ColumnMask, DenseMask, Mask, MaskAfterPast
from reasoning_jax.model.config import ModelConfig
from reasoning_jax.model.linear import dot, lookup
from reasoning_jax.model.paged_attention import Cache
from reasoning_jax.model.pages import PagedMask, Places
from reasoning_jax.model.parameters import PARAMETERS
from reasoning_jax.model.past import KeysValues, Past, with_newest
from reasoning_jax.model.sharding import cast_matrices, platform, shard
from reasoning_jax.model.transformer import HIDDEN, Transformer, View, apply_separate_layers

Params = dict[str, Array | dict[str, Array] | list[dict[str, Array]]]
AFTER_VOCABULARY = ("soft_prompt", "pause", "thought_markers")
OF_LAYERS = ("layers", "lora", "scales")  # parameters whose first dimension is the layer


def init(key: Key[Array, ""], cfg: ModelConfig) -> Params:
    """Float32 parameters as a nested dict.

    Run it under jit with out_shardings, so that they are sharded from the start.
    """
    x = jnp.zeros((1, 1, cfg.width), cfg.dtype)
    position = jnp.ones((1, 1), jnp.int32)
    mask = DenseMask(jnp.ones((1, 1, 1), bool))
    view, local_view = _views(mask, position, cfg)
    return Transformer(cfg).init(key, x, view, local_view, None)["params"]


def embed(params: Params, tokens: Int[Array, "B S"], cfg: ModelConfig) -> Float[Array, "B S D"]:
    """The vectors of these tokens in the dtype of the computation: the inputs of ``apply``."""
    tables = [params[name] for name in AFTER_VOCABULARY if name in params]
    if not tables:
        return _embed_words(params, tokens, cfg)
    words = _embed_words(params, jnp.minimum(tokens, cfg.vocab_size - 1), cfg)
    number = tokens - cfg.vocab_size  # of a vector in the tables; below 0 for words
    table = tables[0] if len(tables) == 1 else jnp.concatenate(tables)
    chosen = jax.nn.one_hot(number, len(table), dtype=words.dtype)  # zeros for words
    vectors = dot("bsp,pd->bsd", chosen, table, PARAMETERS["soft_prompt"], HIDDEN)
    return jnp.where(number[..., None] >= 0, vectors, words)


def first_id(params: PyTree, name: str, cfg: ModelConfig) -> int:
    """The id of the first vector of this name of AFTER_VOCABULARY, which need not be there.

    params: arrays or their shapes.
    """
    before = AFTER_VOCABULARY[: AFTER_VOCABULARY.index(name)]
    return cfg.vocab_size + sum(params[other].shape[0] for other in before if other in params)


def thought_id(params: PyTree, cfg: ModelConfig) -> int | None:
    """The id that stands for a thought, after those of the markers; None in a model without.

    Between the markers of a model that mixes predictions are tokens. params: arrays or their
    shapes.
    """
    if "thought_markers" not in params or "mixing_first" in params:
        return None
    return first_id(params, "thought_markers", cfg) + params["thought_markers"].shape[0]


def _embed_words(params: Params, tokens: jax.Array, cfg: ModelConfig) -> jax.Array:
    vectors = lookup(params["embedding"], tokens, cfg.dtype)
    if cfg.embed_scale:
        vectors = vectors * jnp.asarray(cfg.width**0.5, cfg.dtype)
    return vectors


def apply(
    params: Params,
    inputs: Float[Array, "B S D"],
    positions: Int[Array, "B S"],
    mask: Mask,
    *,
    cfg: ModelConfig,
) -> Float[Array, "B S D"]:
    """Hidden states [B, S, D] after the final norm, of tokens that see one another.

    inputs: vectors, of tokens (``embed``) or of any other origin. positions: of the rotary
    embedding. mask: what each sees.
    """
    view, local_view = _views(mask, positions, cfg)
    hidden, _, _ = _transformer(params, inputs, positions, view, local_view, None, None, cfg)
    return hidden


def apply_after(
    params: Params,
    inputs: Float[Array, "B S D"],
    positions: Int[Array, "B S"],
    mask: MaskAfterPast,
    past: Past,
    *,
    cfg: ModelConfig,
) -> tuple[Float[Array, "B S D"], Past]:
    """``apply`` of each sequence's next tokens, which also see those in the past of T tokens.

    Gradients flow through the past. Returns the past with these tokens, T + S. mask: of T + S
    tokens; it says what is visible of the past too, less what lies outside a layer's window. Of a
    ColumnMask the past is the text and then blocks of columns, and these tokens are more blocks.
    """
    key_positions = jnp.concatenate([past.positions, positions], axis=1)
    if cfg.window and not cfg.local_layers:
        mask = _within_window(mask, positions, key_positions, cfg)
    view, local_view = _views(mask, positions, cfg, key_positions)
    before = past.keys, past.values
    hidden, _, newest = _transformer(params, inputs, positions, view, local_view, None, before, cfg)
    return hidden, with_newest(past, newest, positions)


def apply_cached(
    params: Params,
    inputs: Float[Array, "B S D"],
    places: Places,
    cache: Cache,
    *,
    cfg: ModelConfig,
) -> tuple[Float[Array, "B S D"], Cache]:
    """``apply`` of each sequence's next tokens, which also see those in the cache.

    Returns the cache with these tokens. places: where they are in it.
    """
    mask = pages.mask(places, inputs.shape[1])
    view, local_view = _views(mask, mask.positions, cfg)
    hidden, cache, _ = _transformer(
        params, inputs, mask.positions, view, local_view, cache, None, cfg
    )
    return hidden, cache


def _transformer(
    params: Params,
    inputs: jax.Array,
    positions: jax.Array,
    view: View,
    local_view: View | None,
    cache: Cache | None,
    past: KeysValues | None,
    cfg: ModelConfig,
) -> tuple[jax.Array, Cache | None, KeysValues | None]:
    if cfg.max_positions:
        inputs = inputs + lookup(params["position_embedding"], positions, cfg.dtype)
    if isinstance(params["layers"], list):
        return *apply_separate_layers(cfg, params, inputs, view, local_view, cache), None
    variables = {"params": params}
    for name in ("lora", "scales"):
        if name in params:
            variables[name] = {"layers": params[name]}
    return Transformer(cfg).apply(variables, inputs, view, local_view, cache, past)


def _views(
    mask: Mask | MaskAfterPast | PagedMask,
    positions: jax.Array,
    cfg: ModelConfig,
    key_positions: jax.Array | None = None,
) -> tuple[View, View | None]:
    """The view of the layers, or where some are local, of the others and of these.

    key_positions: of the tokens that are seen, where these are not the tokens of the call alone.
    """
    if key_positions is None:
        key_positions = positions
    view = _view(mask, positions, key_positions, cfg, False)
    if not cfg.local_layers:
        return view, None
    return view, _view(mask, positions, key_positions, cfg, True)


def _view(
    mask: Mask | MaskAfterPast | PagedMask,
    positions: jax.Array,
    key_positions: jax.Array,
    cfg: ModelConfig,
    local: bool,
) -> View:
    """The angles, and the mask; a matrix does not know of the local layers' window."""
    angles = None if cfg.rotary == "none" else rotary.angles(positions, cfg, local)
    if local and isinstance(mask, MaskAfterPast):
        mask = _within_window(mask, positions, key_positions, cfg)
    return View(angles, mask)


def _within_window(
    mask: MaskAfterPast, positions: jax.Array, key_positions: jax.Array, cfg: ModelConfig
) -> MaskAfterPast:
    if isinstance(mask, DenseMask):
        distance = positions[:, :, None] - key_positions[:, None]
        return DenseMask(mask.visible & (distance < cfg.window))
    length, blocks = mask.text.shape[2], mask.own.shape[2]
    of_text, of_columns = key_positions[:, :length], key_positions[:, length:]
    to_text = positions[:, :, None] - of_text[:, None]
    # A line of each query's own column: [B, blocks, columns] to [B, C columns, blocks].
    of_columns = jnp.moveaxis(of_columns.reshape(len(positions), blocks, -1), 1, 2)
    repeats = positions.shape[1] // of_columns.shape[1]
    to_own = positions[:, :, None] - jnp.tile(of_columns, (1, repeats, 1))
    return ColumnMask(mask.text & (to_text < cfg.window), mask.own & (to_own < cfg.window))


def for_decoding(params: Params, cfg: ModelConfig, in_int8: bool = False) -> Params:
    """The parameters to call ``apply_cached`` and ``logits`` with many times.

    Matrices are cast once to the dtype of the computation, and the output matrix is split once by
    its vocabulary, so that no step gathers it. in_int8: the layers' matrices and the output matrix
    in 8 bits; an adapter and the embedding stay as they are. On a GPU the layers become a list.
    """
    prepared = cast_matrices(params, cfg.dtype)
    output = _output(prepared, cfg)
    new: Params = {"output": output}
    if in_int8:
        layers, scales = int8.quantize_layers(params["layers"])
        output, output_scales = int8.quantize(output, (1,) if cfg.tied else (0,))
        new = {"layers": layers, "scales": scales, "output": output, "output_scales": output_scales}
    prepared |= new
    return prepared if platform() in ("cpu", "tpu") else _with_separate_layers(prepared, cfg)


def _with_separate_layers(params: Params, cfg: ModelConfig) -> Params:
    """Each layer's parameters apart: a GPU would copy them out of stacked ones at every step."""

    def layer(stacked: dict[str, Array], number: int) -> dict[str, Array]:
        return {name: x[number] for name, x in stacked.items()}

    numbers = range(cfg.num_layers)
    lists = {k: [layer(params[k], i) for i in numbers] for k in OF_LAYERS if k in params}
    return params | lists


def _output(params: Params, cfg: ModelConfig) -> jax.Array:
    if cfg.tied:
        return shard(params["embedding"], "output", None)
    return shard(params["unembedding"], None, "output")


def logits(
    params: Params, hidden: Float[Array, "B S D"], cfg: ModelConfig
) -> Float[Array, "B S V"]:
    """Float32 logits of hidden states, for a few positions at once: see logprobs.py for many."""
    matrix = params["output"] if "output" in params else _output(params, cfg)
    if cfg.tied:
        equation, names = "bsd,vd->bsv", ("output", None)
    else:
        equation, names = "bsd,dv->bsv", (None, "output")
    # The few hidden states move to the slices of the matrix, not the matrix to them.
    hidden = shard(hidden, "batch_data", None, None)
    out = dot(equation, hidden, matrix, names, ("batch_data", None, "output"), dtype=jnp.float32)
    if "output_scales" in params:
        out = out * params["output_scales"]
    # First trade vocabulary for sequences, then gather the vocabulary of a device's own sequences:
    # in one step XLA would gather all logits of the whole batch.
    out = shard(shard(out, "batch", None, "vocab"), "batch", None, None)
    if cfg.output_bias:
        out = out + shard(params["output_bias"], None)
    if cfg.output_softcap:
        out = cfg.output_softcap * jnp.tanh(out / cfg.output_softcap)
    return out


def num_params(params: PyTree) -> int:
    """How many numbers the parameters are; ``params`` may be arrays or their shapes."""
    return sum(x.size for x in jax.tree.leaves(params))
