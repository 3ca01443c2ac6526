"""The layers of a decoder-only transformer, as Flax Linen modules.

The fields of ModelConfig switch the parts on in which published families differ.

Letters of shapes: B sequences, S tokens of this call, T cached tokens, D width, K key-value heads,
G query heads of each, H head size, M MLP width, L layers.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from reasoning_jax.model import attention, paged_attention, rotary
from reasoning_jax.model.attention import Mask, MaskAfterPast
from reasoning_jax.model.config import REMAT, ModelConfig
from reasoning_jax.model.linear import dot
from reasoning_jax.model.norms import WithNorms
from reasoning_jax.model.paged_attention import Cache
from reasoning_jax.model.pages import PagedMask
from reasoning_jax.model.parameters import PARAMETERS, Names, num_inputs
from reasoning_jax.model.past import KeysValues
from reasoning_jax.model.sharding import shard

Carry = tuple[jax.Array, Cache | None, jax.Array]  # x [B, S, D], the cache, layer index

# Names of the dimensions of activations, by which they are split over devices.
HIDDEN: Names = ("batch", None, None)
MLP: Names = ("batch", None, "mlp")
ACTIVATIONS = {"silu": nn.silu, "gelu": partial(nn.gelu, approximate=True)}


@struct.dataclass
class View:
    """What attention needs to know of the tokens.

    Local layers, those with a window (``ModelConfig.local_layers``), have a view of their own.
    """

    angles: rotary.CosSin | None  # None where positions are learned
    mask: Mask | MaskAfterPast | PagedMask


def select(is_local: Bool[Array, ""], local_view: View, view: View) -> View:
    """``local_view`` where ``is_local``, which is a traced value, else ``view``.

    Masks that are no matrix are the same in both: attention is told is_local.
    """
    return jax.tree.map(lambda a, b: jnp.where(is_local, a, b), local_view, view)


class Block(WithNorms):
    """One layer: x + attention(norm(x)), then x + mlp(norm(x)); or both of the same norm."""

    @nn.compact
    def __call__(
        self,
        carry: Carry,
        view: View,
        local_view: View | None,
        is_local: Bool[Array, ""] | None,
        past: KeysValues | None,
    ) -> tuple[Carry, KeysValues | None]:
        """The carry after this layer; and, where there is a past, these tokens' keys and values.

        view: of the layers that are not local; local_view: of those that are, None, as is_local
        then is, where all layers are of one kind.
        """
        cfg = self.cfg
        x, cache, layer = carry
        if local_view is not None:
            view = select(is_local, local_view, view)
        h = self.norm("attention_norm", x)
        attended, cache, newest = self.attention(h, view, cache, layer, is_local, past)
        if cfg.post_norms:
            attended = self.norm("post_attention_norm", attended)
        if cfg.parallel:
            return (x + attended + self.mlp(h), cache, layer + 1), newest
        x = x + attended
        changed = self.mlp(self.norm("mlp_norm", x))
        if cfg.post_norms:
            changed = self.norm("post_mlp_norm", changed)
        return (x + changed, cache, layer + 1), newest

    @nn.nowrap
    def attention(
        self,
        h: Float[Array, "B S D"],
        view: View,
        cache: Cache | None,
        layer: Int[Array, ""],
        is_local: Bool[Array, ""] | None,
        past: KeysValues | None,
    ) -> tuple[Float[Array, "B S D"], Cache | None, KeysValues | None]:
        """Attention's result, the cache with this layer's keys and values of these tokens, and
        themselves where there is a past, whose tokens are seen before these.
        """
        cfg = self.cfg
        D, H = cfg.width, cfg.head_dim
        K, G = cfg.num_kv_heads, cfg.num_heads // cfg.num_kv_heads
        std = D**-0.5
        biased = cfg.qkv_bias
        # q [B, S, K, G, H]; k and v [B, S, K, H]
        q = self.project(
            "query", "bsd,dkgh->bskgh", h, (D, K, G, H), std, attention.QUERIES, biased
        )
        k = self.project("key", "bsd,dkh->bskh", h, (D, K, H), std, attention.KEYS, biased)
        v = self.project("value", "bsd,dkh->bskh", h, (D, K, H), std, attention.KEYS, biased)
        if cfg.qk_norm:
            q, k = self.norm("query_norm", q), self.norm("key_norm", k)
        if view.angles is not None:
            q = rotary.rotate(q, *view.angles, cfg.rotary)
            k = rotary.rotate(k, *view.angles, cfg.rotary)
        scale = (cfg.query_scale or H) ** -0.5
        q = q * scale
        cap = cfg.attention_softcap
        newest = None
        if past is not None:
            newest = k, v
            k, v = jnp.concatenate([past[0], k], axis=1), jnp.concatenate([past[1], v], axis=1)
            mixed = attention.after_past(q, k, v, view.mask, cap)
        elif cache is None:
            choice = cfg.attention
            mixed = attention.attend(q, k, v, view.mask, cfg.window, is_local, cap, choice)
        else:
            mixed, cache = paged_attention.write_and_attend(
                q, k, v, cache, layer, view.mask, cfg.window, is_local, cap
            )
        mixed = shard(mixed, *attention.QUERIES)
        # What is added to the residual stream starts small, as in GPT-2.
        std = (K * G * H * 2 * cfg.num_layers) ** -0.5
        equation = "bskgh,kghd->bsd"
        shape = (K, G, H, D)
        out = self.project("attention_out", equation, mixed, shape, std, HIDDEN, cfg.out_bias)
        return out, cache, newest

    @nn.nowrap
    def mlp(self, h: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        """The MLP, of each token by itself."""
        cfg = self.cfg
        D, M = cfg.width, cfg.mlp_dim
        std = D**-0.5
        biased = cfg.mlp_bias
        if cfg.gated:
            gate = self.project("gate", "bsd,dm->bsm", h, (D, M), std, MLP, biased)
            up = self.project("up", "bsd,dm->bsm", h, (D, M), std, MLP, biased)
            h = gated(gate, up, cfg.activation)
        else:
            up = self.project("up", "bsd,dm->bsm", h, (D, M), std, MLP, biased)
            h = ACTIVATIONS[cfg.activation](up)
        std = (M * 2 * cfg.num_layers) ** -0.5
        return self.project("down", "bsm,md->bsd", h, (M, D), std, HIDDEN, biased)

    @nn.nowrap
    def project(
        self,
        name: str,
        equation: str,
        x: jax.Array,
        shape: tuple[int, ...],
        std: float,
        out_names: Names,
        biased: bool,
    ) -> jax.Array:
        """x times the matrix of this name, with its LoRA and its bias, where there are any.

        equation: the product as einsum writes it; shape, std: of the matrix, and of what it begins
        with; out_names: of the result's dimensions.
        """
        w = self.param(name, nn.initializers.normal(std), shape, jnp.float32)
        y = dot(equation, x, w, PARAMETERS[name], out_names)
        if self.has_variable("scales", name):  # w is in 8 bits
            y = y * self.get_variable("scales", name).astype(y.dtype)
        if self.has_variable("lora", f"{name}_a"):
            y = y + self.lora(name, equation, x, out_names)
        if biased:
            bias_shape = shape[num_inputs(name) :]
            y = y + self.vector(f"{name}_bias", bias_shape, 0.0).astype(y.dtype)
        return y

    @nn.nowrap
    def lora(self, name: str, equation: str, x: jax.Array, out_names: Names) -> jax.Array:
        """``lora_scale * (x @ A) @ B``, which adds to x W (arXiv:2106.09685, eq. 3).

        A has the inputs of W and then the rank, B the rank and then the outputs of W. Both are in
        the collection "lora", of which ``decoder.apply`` gives each layer its own.
        """
        operands, result = equation.split("->")
        x_letters, w_letters = operands.split(",")
        inputs, outputs = w_letters[: num_inputs(name)], w_letters[num_inputs(name) :]
        a = self.get_variable("lora", f"{name}_a")
        b = self.get_variable("lora", f"{name}_b")
        inner = dot(f"{x_letters},{inputs}r->bsr", x, a, PARAMETERS[f"{name}_a"], HIDDEN)
        change = dot(f"bsr,r{outputs}->{result}", inner, b, PARAMETERS[f"{name}_b"], out_names)
        return self.cfg.lora_scale * change


# Of the six arrays that autodiff would keep for the backward pass, two are enough.
@partial(jax.checkpoint, static_argnums=2)
def gated(
    gate: Float[Array, "B S M"], up: Float[Array, "B S M"], activation: str
) -> Float[Array, "B S M"]:
    """activation(gate) * up (GLU variants, arXiv:2002.05202)."""
    return ACTIVATIONS[activation](gate) * up


class Transformer(WithNorms):
    """Scanned layers and the final norm; returns hidden states [B, S, D], keys and values.

    Whether a layer is local is an input of the scan, so that one layer is compiled whatever the
    pattern. The parameters that decoder.py uses itself (both tables of tokens, positions, the bias
    of the logits) are declared here too, so that one ``init`` makes all.
    """

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B S D"],
        view: View,
        local_view: View | None,
        cache: Cache | None,
        past: KeysValues | None = None,
    ) -> tuple[Float[Array, "B S D"], Cache | None, KeysValues | None]:
        """Hidden states, the cache with these tokens and, where there is a past, their keys and
        values; the arguments are as of ``Block``.
        """
        cfg = self.cfg
        # Linen makes each parameter's random key from how many came before it: in another order a
        # seed would give another model.
        normal = nn.initializers.normal(cfg.width**-0.5)
        self.param("embedding", normal, (cfg.vocab_size, cfg.width), jnp.float32)
        if not cfg.tied:
            self.param("unembedding", normal, (cfg.width, cfg.vocab_size), jnp.float32)
        if cfg.max_positions:
            shape = (cfg.max_positions, cfg.width)
            self.param("position_embedding", normal, shape, jnp.float32)
        if cfg.output_bias:
            self.vector("output_bias", (cfg.vocab_size,), 0.0)
        block = Block
        if cfg.remat != "none":
            # In a scan nothing can be merged with what is computed again.
            block = nn.remat(Block, policy=REMAT[cfg.remat], prevent_cse=False)
        Layers = nn.scan(
            block,
            length=cfg.num_layers,
            variable_axes={"params": 0, "lora": 0, "scales": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, nn.broadcast, 0, 0),  # both views; is_local; past
        )
        layers = Layers(cfg, name="layers")
        is_local = None if local_view is None else jnp.array(cfg.local_layers)  # [L]
        carry = x, cache, jnp.zeros((), jnp.int32)
        (x, cache, _), newest = layers(carry, view, local_view, is_local, past)
        return self.norm("final_norm", x), cache, newest


class FinalNorm(WithNorms):
    """The norm after the layers."""

    @nn.compact
    def __call__(self, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        return self.norm("final_norm", x)


def apply_separate_layers(
    cfg: ModelConfig,
    params: dict,
    x: Float[Array, "B S D"],
    view: View,
    local_view: View | None,
    cache: Cache | None,
) -> tuple[Float[Array, "B S D"], Cache | None]:
    """``Transformer``, for parameters whose layers are a list (``decoder.for_decoding``).

    Without remat: it is for sampling only.
    """
    for number, layer in enumerate(params["layers"]):
        variables = {"params": layer}
        for name in ("lora", "scales"):
            if name in params:
                variables[name] = params[name][number]
        is_local = None if local_view is None else jnp.array(cfg.local_layers[number])
        carry = x, cache, jnp.asarray(number, jnp.int32)
        (x, cache, _), _ = Block(cfg).apply(variables, carry, view, local_view, is_local, None)
    of_norm = {name: value for name, value in params.items() if name.startswith("final_norm")}
    return FinalNorm(cfg).apply({"params": of_norm}, x), cache
