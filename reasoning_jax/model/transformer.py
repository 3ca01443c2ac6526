"""The layers of a decoder-only transformer, as Flax Linen modules; ModelConfig says which family.

Letters of shapes: B sequences, S tokens of this call, T cached tokens, D width, K key-value heads,
G query heads of each, H head size, M MLP width, V vocabulary, L layers, P learned positions.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from reasoning_jax.model import attention, rotary
from reasoning_jax.model.attention import Mask
from reasoning_jax.model.config import REMAT, ModelConfig
from reasoning_jax.model.linear import dot
from reasoning_jax.model.parameters import PARAMETERS, Names, num_inputs
from reasoning_jax.model.sharding import shard

KeysAndValues = tuple[jax.Array, jax.Array]  # of all layers, each [L, B, T, K, H]
Carry = tuple[jax.Array, KeysAndValues | None, jax.Array]  # x [B, S, D], the cache, layer index

HIDDEN: Names = ("batch", None, None)
MLP: Names = ("batch", None, "mlp")
ACTIVATIONS = {"silu": nn.silu, "gelu": partial(nn.gelu, approximate=True)}


@struct.dataclass
class View:
    """What the layers of a kind, local or not, know of the tokens: their angles and who sees whom.

    The angles are None where positions are learned.
    """

    angles: rotary.CosSin | None
    mask: Mask


def select(is_local: Bool[Array, ""], local: View, every: View) -> View:
    """The view of a layer of which the program does not know the kind.

    Of causal masks, which are equal, the kernel is chosen in attention.py.
    """
    return jax.tree.map(lambda a, b: jnp.where(is_local, a, b), local, every)


def rms_norm(
    x: Float[Array, "*B D"], scale: Float[Array, " D"], eps: float, offset: bool = False
) -> Float[Array, "*B D"]:
    """x / rms(x) * scale over the last dimension, in float32 (Zhang & Sennrich 2019, eq. 4).

    offset: the factor is 1 + scale.
    """
    x32 = x.astype(jnp.float32)
    normed = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + eps)
    factor = 1.0 + scale.astype(jnp.float32) if offset else scale
    return (normed * factor).astype(x.dtype)


def layer_norm(
    x: Float[Array, "*B D"], scale: Float[Array, " D"], bias: Float[Array, " D"], eps: float
) -> Float[Array, "*B D"]:
    """(x - mean) / std * scale + bias over the last dimension, in float32 (Ba et al. 2016)."""
    x32 = x.astype(jnp.float32)
    centred = x32 - jnp.mean(x32, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    return (centred * jax.lax.rsqrt(variance + eps) * scale + bias).astype(x.dtype)


class Layer(nn.Module):
    """What blocks and the whole model share: parameters by name, and norms."""

    cfg: ModelConfig

    @nn.nowrap
    def vector(self, name: str, shape: tuple[int, ...], value: float) -> jax.Array:
        return self.param(name, nn.initializers.constant(value), shape, jnp.float32)

    @nn.nowrap
    def norm(self, name: str, x: jax.Array) -> jax.Array:
        """The norm of x [..., D] with the parameters of this name."""
        cfg = self.cfg
        shape = x.shape[-1:]
        scale = self.vector(name, shape, 0.0 if cfg.norm_offset else 1.0)
        if cfg.norm == "rms":
            return rms_norm(x, scale, cfg.norm_eps, cfg.norm_offset)
        return layer_norm(x, scale, self.vector(f"{name}_bias", shape, 0.0), cfg.norm_eps)


class Block(Layer):
    """One layer: x + attention(norm(x)), then x + mlp(norm(x)); or both of the same norm."""

    reads_cache: bool  # attention is to the cache, not only among the tokens of this call

    @nn.compact
    def __call__(
        self,
        carry: Carry,
        every: View,
        local: View | None,
        slot: jax.Array,
        is_local: jax.Array | None,
    ) -> tuple[Carry, None]:
        """every, local: what layers see that are not local, and that are; None = there are none."""
        cfg = self.cfg
        x, cache, layer = carry
        view = every if local is None else select(is_local, local, every)
        h = self.norm("attention_norm", x)
        attended, cache = self.attention(h, view, cache, layer, slot, is_local)
        if cfg.post_norms:
            attended = self.norm("post_attention_norm", attended)
        if cfg.parallel:
            return (x + attended + self.mlp(h), cache, layer + 1), None
        x = x + attended
        changed = self.mlp(self.norm("mlp_norm", x))
        if cfg.post_norms:
            changed = self.norm("post_mlp_norm", changed)
        return (x + changed, cache, layer + 1), None

    @nn.nowrap
    def attention(
        self,
        h: jax.Array,
        view: View,
        cache: KeysAndValues | None,
        layer: jax.Array,
        slot: jax.Array,
        is_local: jax.Array | None,
    ) -> tuple[jax.Array, KeysAndValues | None]:
        """What the tokens take from those that they see, [B, S, D], and the cache with them."""
        cfg = self.cfg
        D, H = cfg.width, cfg.head_dim
        K, G = cfg.num_kv_heads, cfg.num_heads // cfg.num_kv_heads
        std = D**-0.5
        biased = cfg.qkv_bias
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
        q = q * (cfg.query_scale or H) ** -0.5
        if cache is not None:
            cache = _write(cache, (k, v), layer, slot)
        cap = cfg.attention_softcap
        if self.reads_cache:
            filled = slot + h.shape[1]
            mixed = attention.cached(q, *cache, layer, filled, view.mask.visible, cap)
        else:
            mixed = attention.attend(q, k, v, view.mask, cfg.window, is_local, cap)
        mixed = shard(mixed, *attention.QUERIES)
        # What is added to the residual stream starts small, as in GPT-2.
        std = (K * G * H * 2 * cfg.num_layers) ** -0.5
        equation = "bskgh,kghd->bsd"
        shape = (K, G, H, D)
        out = self.project("attention_out", equation, mixed, shape, std, HIDDEN, cfg.out_bias)
        return out, cache

    @nn.nowrap
    def mlp(self, h: jax.Array) -> jax.Array:
        """What the MLP makes of each token by itself, [B, S, D]."""
        cfg = self.cfg
        D, M = cfg.width, cfg.mlp_dim
        std = D**-0.5
        biased = cfg.mlp_bias
        activation = ACTIVATIONS[cfg.activation]
        if cfg.gated:
            gate = self.project("gate", "bsd,dm->bsm", h, (D, M), std, MLP, biased)
            h = activation(gate) * self.project("up", "bsd,dm->bsm", h, (D, M), std, MLP, biased)
        else:
            h = activation(self.project("up", "bsd,dm->bsm", h, (D, M), std, MLP, biased))
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
        out: Names,
        biased: bool,
    ) -> jax.Array:
        """x times the matrix of this name; with its LoRA and its bias, where there are any."""
        w = self.param(name, nn.initializers.normal(std), shape, jnp.float32)
        y = dot(equation, x, w, PARAMETERS[name], out)
        if self.has_variable("lora", f"{name}_a"):
            y = y + self.lora(name, equation, x, out)
        if biased:
            outputs = shape[num_inputs(name) :]
            y = y + self.vector(f"{name}_bias", outputs, 0.0).astype(y.dtype)
        return y

    @nn.nowrap
    def lora(self, name: str, equation: str, x: jax.Array, out: Names) -> jax.Array:
        """(alpha / rank) x A B, in place of a change of the matrix (arXiv:2106.09685, eq. 3)."""
        operands, result = equation.split("->")
        x_dims, w_dims = operands.split(",")
        inputs, outputs = w_dims[: num_inputs(name)], w_dims[num_inputs(name) :]
        down, up = f"{name}_a", f"{name}_b"
        a, b = self.get_variable("lora", down), self.get_variable("lora", up)
        inner = dot(f"{x_dims},{inputs}r->bsr", x, a, PARAMETERS[down], HIDDEN)
        change = dot(f"bsr,r{outputs}->{result}", inner, b, PARAMETERS[up], out)
        return self.cfg.lora_scale * change


def _write(
    cache: KeysAndValues, new: KeysAndValues, layer: jax.Array, slot: jax.Array
) -> KeysAndValues:
    """The cache with a layer's keys and values of this call's tokens at their slots."""
    at = (layer, 0, slot, 0, 0)
    keys = jax.lax.dynamic_update_slice(cache[0], new[0][None].astype(cache[0].dtype), at)
    values = jax.lax.dynamic_update_slice(cache[1], new[1][None].astype(cache[1].dtype), at)
    return keys, values


class Transformer(Layer):
    """Scanned layers and the final norm; returns hidden states [B, S, D], keys and values.

    Layers of a pattern are scanned as all others: which of them are local is data, so that one
    layer is compiled, whatever the pattern. What is used outside, by ``embed`` and ``logits``, is
    declared here too, so that all parameters are made together.
    """

    reads_cache: bool

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        every: View,
        local: View | None,
        cache: KeysAndValues | None,
        slot: jax.Array,
    ) -> tuple[jax.Array, KeysAndValues | None]:
        """x [B, S, D]; every, local: as ``Block`` takes them; slot: where the cache is written."""
        cfg = self.cfg
        # Linen counts the calls of ``param`` for each one's key: their order is part of a seed.
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
            block = nn.remat(Block, policy=REMAT[cfg.remat], prevent_cse=False)
        layers = nn.scan(
            block,
            length=cfg.num_layers,
            variable_axes={"params": 0, "lora": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, nn.broadcast, nn.broadcast, 0),
        )
        is_local = None if local is None else jnp.array(cfg.local_layers)
        carry = x, cache, jnp.zeros((), jnp.int32)
        scanned = layers(cfg, self.reads_cache, name="layers")
        (x, cache, _), _ = scanned(carry, every, local, slot, is_local)
        return self.norm("final_norm", x), cache
