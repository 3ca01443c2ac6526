"""Formulas for what a step must compute, read and send at least: ceilings of its speed.

Letters of the formulas: N parameters that a token is multiplied with (a tied embedding counts once,
as the head; an untied one, which is only looked up, does not), L layers, H query heads, K key-value
heads, h head size, S tokens a sequence, B sequences, c cached tokens a sequence, R replicas of the
parameters. ``frozen``: an adapter is trained and the model is not; what the adapter itself adds,
usually below a hundredth, is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from reasoning_jax.model.decoder import ModelConfig
from reasoning_jax.tpu.chips import Topology
from reasoning_jax.tpu.collectives import Collective

FORMULAS = """
Ceilings: the slowest of three times, as if they overlapped perfectly. N = parameters that a token
is multiplied with.
  compute   FLOPs / (chips x peak in bfloat16). A forward pass: 2 N + 2 layers x heads x head size
            x sequence length a token (causal attention). An update: three times that, less 2 N
            where an adapter is trained; with remat=full a forward pass more is executed.
            Decoding: 2 N + 4 layers x heads x head size x context a token.
  memory    bytes a chip / bandwidth. An update: 28 bytes a trained parameter and the gathered
            weights once a pass, no activations. Decoding: the weights once for each of data x fsdp
            replicas, and every sequence's cache at the middle of the completion.
  network   the collectives above, one after another, as rings over as many axes of the torus as
            their group fills; between slices 6.25e9 bytes/s a chip (assumed).
MFU: FLOPs without recomputation over peak. MBU: bytes that must be read over bandwidth."""


# ---- sizes of a model ----------------------------------------------------------------------------


def num_params(cfg: ModelConfig) -> int:
    """Parameters of a model, norms and biases left out."""
    attention = 2 * cfg.width * cfg.head_dim * (cfg.num_heads + cfg.num_kv_heads)
    layer = attention + (3 if cfg.gated else 2) * cfg.width * cfg.mlp_dim
    tables = 1 if cfg.tied else 2
    table_rows = tables * cfg.vocab_size + cfg.max_positions
    return cfg.num_layers * layer + table_rows * cfg.width


def multiplied_params(cfg: ModelConfig) -> int:
    """N."""
    looked_up = cfg.max_positions + (0 if cfg.tied else cfg.vocab_size)
    return num_params(cfg) - looked_up * cfg.width


def itemsize(cfg: ModelConfig) -> int:
    """Bytes of a number in the type of the computation."""
    return 2 if cfg.dtype == "bfloat16" else 4


def _forward_passes(cfg: ModelConfig) -> int:
    """How often an update makes each layer's forward pass."""
    return 2 if cfg.remat == "full" else 1


# ---- FLOPs ---------------------------------------------------------------------------------------


def forward_flops(
    cfg: ModelConfig, tokens: int, length: int, with_logits: int | None = None
) -> float:
    """2 N + 2 L H h S a token.

    Attention is causal: half of the full square, or with a window a band of it. with_logits: how
    many tokens get logits; None = all.
    """
    window = min(cfg.window or length, length)
    # Tokens that a token sees on average: S / 2 without a window.
    seen = window - window * window / (2 * length) if length else 0.0
    attention = 4.0 * cfg.num_layers * cfg.num_heads * cfg.head_dim * seen
    flops = tokens * (2.0 * multiplied_params(cfg) + attention)
    if with_logits is not None:
        flops -= (tokens - with_logits) * 2.0 * cfg.vocab_size * cfg.width
    return flops


def train_flops(cfg: ModelConfig, tokens: int, length: int, frozen: bool = False) -> float:
    """6 N + 6 L H h S a token: forward and backward; 4 N where no parameter has a gradient."""
    flops = 3 * forward_flops(cfg, tokens, length)
    if frozen:
        flops -= tokens * 2.0 * multiplied_params(cfg)
    return flops


def executed_flops(cfg: ModelConfig, tokens: int, length: int, frozen: bool = False) -> float:
    """What the hardware computes for them: with remat=full each forward pass is made twice."""
    again = forward_flops(cfg, tokens, length) if cfg.remat == "full" else 0.0
    return train_flops(cfg, tokens, length, frozen) + again


def decode_flops(cfg: ModelConfig, batch: int, context: float) -> float:
    """2 N B + 4 L H h c B, of one step of all sequences."""
    context = min(context, cfg.window or context)
    attention = 4.0 * cfg.num_layers * cfg.num_heads * cfg.head_dim * context
    return batch * (2.0 * multiplied_params(cfg) + attention)


# ---- bytes of memory -----------------------------------------------------------------------------


def decode_bytes(
    cfg: ModelConfig,
    batch: int,
    context: float,
    token_bytes: float,
    replicas: int = 1,
    itemsize: int = 2,
    in_int8: bool = False,
) -> float:
    """Bytes that all chips together read in one step: R times the weights and B c cached tokens.

    Each of R replicas reads the weights, each sequence its own cache. token_bytes: of a token in
    the cache, as it is laid out; in_int8: the weights.
    """
    weights = replicas * multiplied_params(cfg) * float(1 if in_int8 else itemsize)
    return weights + batch * context * token_bytes


def train_bytes(
    cfg: ModelConfig, mesh: Mapping[str, int], micro_batches: int, frozen: bool = False
) -> float:
    """Bytes that one chip reads and writes in an update; activations are left out: a lower bound.

    Its shard of float32 parameters, gradient and two moments is read, and parameters and moments
    are written (28 bytes a parameter that is trained). The gathered weights are read in the
    computation's type, in every forward pass, recomputation and backward pass.
    """
    passes = (_forward_passes(cfg) + 1) * micro_batches
    gathered = multiplied_params(cfg) / mesh["tensor"] * itemsize(cfg) * passes
    trained = 0 if frozen else num_params(cfg)
    return 28.0 * trained / (mesh["fsdp"] * mesh["tensor"]) + gathered


def state_bytes(cfg: ModelConfig, mesh: Mapping[str, int], frozen: bool = False) -> float:
    """Bytes that one chip holds of float32 parameters, gradients and two moments.

    Of a frozen model: of parameters in the computation's type.
    """
    bytes_a_param = itemsize(cfg) if frozen else 16
    return bytes_a_param * num_params(cfg) / mesh["fsdp"] / mesh["tensor"]


# ---- seconds on the network ----------------------------------------------------------------------


def network_seconds(topology: Topology, collectives: Iterable[Collective]) -> float:
    """Seconds of collectives, one after another.

    Rings over the axes of the torus that a group fills move (n - 1) / n of the bytes through every
    chip, twice for all-reduce; what is permuted moves once; and across slices each chip then sends
    its n-th part over the data-centre network.
    """
    total = 0.0
    for c in collectives:
        inside = max(1, c.group // c.slices)
        passes = c.count * (2 if c.kind.startswith("all-reduce") else 1)
        ring = 1.0 if c.kind == "collective-permute" else (inside - 1) / inside
        total += passes * c.bytes * ring / topology.ici(inside)
        total += passes * c.bytes / inside * (c.slices - 1) / c.slices / topology.chip.dcn
    return total


def predicted_network(
    cfg: ModelConfig,
    topology: Topology,
    mesh: Mapping[str, int],
    *,
    slices: int,
    micro_batches: int,
    tokens: int,
    frozen: bool = False,
) -> float:
    """Seconds of an update's collectives, for choosing a mesh before anything is compiled.

    In every micro-batch weights are gathered over fsdp (forward, backward, recomputation) and
    gradients, unless frozen, reduce-scattered in float32, then all-reduced over data; over tensor
    two all-reduces of the activations a layer in each of these passes.
    """

    def seconds_a_byte(group: int) -> float:
        return (group - 1) / group / topology.ici(group)

    passes = _forward_passes(cfg) + 1
    shards = mesh["fsdp"] * mesh["tensor"]
    data_inside = mesh["data"] // slices  # the part of the data axis that lies within a slice

    gradient = 0 if frozen else 4  # bytes a parameter

    sent_over_fsdp = num_params(cfg) / mesh["tensor"] * (passes * itemsize(cfg) + gradient)
    total = sent_over_fsdp * seconds_a_byte(mesh["fsdp"])

    total += 2 * gradient * num_params(cfg) / shards * seconds_a_byte(data_inside)

    local_tokens = tokens / micro_batches / (mesh["data"] * mesh["fsdp"])
    activations = local_tokens * cfg.width * itemsize(cfg)
    total += 2 * cfg.num_layers * passes * activations * 2 * seconds_a_byte(mesh["tensor"])

    between_slices = 2 * gradient * num_params(cfg) / shards / data_inside * (slices - 1) / slices
    return micro_batches * (total + between_slices / topology.chip.dcn)
