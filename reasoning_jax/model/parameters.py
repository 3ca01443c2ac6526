"""All parameters that a model may have, and the names of their dimensions.

They go by the last name of a parameter's path. Parameters under "layers" and "lora" are stacked:
one more dimension in front. What the names of dimensions mean is said in sharding.py.
"""

from __future__ import annotations

Names = tuple[str | None, ...]

# The first dimensions of a block's matrix are summed over, ``num_inputs`` of them.
BLOCK_MATRICES: dict[str, Names] = {
    "query": ("embed", "kv_heads", "q_groups", None),
    "key": ("embed", "kv_heads", None),
    "value": ("embed", "kv_heads", None),
    "attention_out": ("kv_heads", "q_groups", None, "embed"),
    "gate": ("embed", "mlp"),
    "up": ("embed", "mlp"),
    "down": ("mlp", "embed"),
}
TABLES: dict[str, Names] = {
    "embedding": ("vocab", "embed"),
    "unembedding": ("embed", "vocab"),
    "position_embedding": (None, "embed"),
    "soft_prompt": (None, None),
    "pause": (None, None),
    "thought_markers": (None, None),
}
# Of a head that mixes hidden states before and after a thought.
MIXING: dict[str, Names] = {
    "mixing_first": (None, None),
    "mixing_second": (None, None),
    "mixing_last": (None, None),
}
NORMS = (
    "attention_norm",
    "post_attention_norm",
    "mlp_norm",
    "post_mlp_norm",
    "query_norm",
    "key_norm",
    "final_norm",
)


def num_inputs(matrix: str) -> int:
    """How many dimensions of a block's matrix are summed over: they come first."""
    return 3 if matrix == "attention_out" else 1


def _adapters() -> dict[str, Names]:
    """The two factors of each matrix's LoRA: its inputs to the rank, the rank to its outputs."""
    names: dict[str, Names] = {}
    for matrix, dimensions in BLOCK_MATRICES.items():
        count = num_inputs(matrix)
        names[f"{matrix}_a"] = (*dimensions[:count], None)
        names[f"{matrix}_b"] = (None, *dimensions[count:])
    return names


def _vectors() -> dict[str, Names]:
    """The scales and biases of norms, and the biases of matrices, split as their outputs are."""
    names: dict[str, Names] = {"output_bias": ("vocab",)}
    for norm in NORMS:
        names |= {norm: (None,), f"{norm}_bias": (None,)}
    names |= {f"{matrix}_bias": (None,) for matrix in MIXING}
    for matrix, dimensions in BLOCK_MATRICES.items():
        outputs = dimensions[num_inputs(matrix) :]
        names[f"{matrix}_bias"] = tuple(None if name == "embed" else name for name in outputs)
    return names


LORA = _adapters()
# The parameters that are multiplied with, in the dtype of the computation and with weight decay.
MATRICES: dict[str, Names] = BLOCK_MATRICES | TABLES | MIXING | LORA
PARAMETERS: dict[str, Names] = MATRICES | _vectors()
