"""What tensors are called in the files of each family and format: a table each."""

from __future__ import annotations

from reasoning_jax.pretrained.tables import Place, Table

L = "model.layers.{n}."
H = "transformer.h.{n}."


def _places(**names: str) -> dict[str, Place]:
    return {name: Place(name=stored) for name, stored in names.items()}


def _fused(weight: str, bias: str, *, out_first: bool) -> dict[str, Place]:
    """Queries, keys and values as three parts of one tensor."""
    places = {}
    for i, name in enumerate(("query", "key", "value")):
        places[name] = Place(name=weight, out_first=out_first, part=(i, 3))
        places[f"{name}_bias"] = Place(name=bias, part=(i, 3))
    return places


LLAMA: Table = _places(
    embedding="model.embed_tokens.weight",
    unembedding="lm_head.weight",
    final_norm="model.norm.weight",
    attention_norm=L + "input_layernorm.weight",
    query=L + "self_attn.q_proj.weight",
    key=L + "self_attn.k_proj.weight",
    value=L + "self_attn.v_proj.weight",
    attention_out=L + "self_attn.o_proj.weight",
    query_bias=L + "self_attn.q_proj.bias",
    key_bias=L + "self_attn.k_proj.bias",
    value_bias=L + "self_attn.v_proj.bias",
    attention_out_bias=L + "self_attn.o_proj.bias",
    query_norm=L + "self_attn.q_norm.weight",
    key_norm=L + "self_attn.k_norm.weight",
    mlp_norm=L + "post_attention_layernorm.weight",
    gate=L + "mlp.gate_proj.weight",
    up=L + "mlp.up_proj.weight",
    down=L + "mlp.down_proj.weight",
    gate_bias=L + "mlp.gate_proj.bias",
    up_bias=L + "mlp.up_proj.bias",
    down_bias=L + "mlp.down_proj.bias",
)
GEMMA: Table = LLAMA | _places(
    post_attention_norm=L + "post_attention_layernorm.weight",
    mlp_norm=L + "pre_feedforward_layernorm.weight",
    post_mlp_norm=L + "post_feedforward_layernorm.weight",
)
GPTJ: Table = _places(
    embedding="transformer.wte.weight",
    unembedding="lm_head.weight",
    output_bias="lm_head.bias",
    final_norm="transformer.ln_f.weight",
    final_norm_bias="transformer.ln_f.bias",
    attention_norm=H + "ln_1.weight",
    attention_norm_bias=H + "ln_1.bias",
    query=H + "attn.q_proj.weight",
    key=H + "attn.k_proj.weight",
    value=H + "attn.v_proj.weight",
    attention_out=H + "attn.out_proj.weight",
    up=H + "mlp.fc_in.weight",
    up_bias=H + "mlp.fc_in.bias",
    down=H + "mlp.fc_out.weight",
    down_bias=H + "mlp.fc_out.bias",
)
GPT2: Table = {
    **_places(
        embedding="transformer.wte.weight",
        unembedding="lm_head.weight",
        position_embedding="transformer.wpe.weight",
        final_norm="transformer.ln_f.weight",
        final_norm_bias="transformer.ln_f.bias",
        attention_norm=H + "ln_1.weight",
        attention_norm_bias=H + "ln_1.bias",
        mlp_norm=H + "ln_2.weight",
        mlp_norm_bias=H + "ln_2.bias",
        attention_out_bias=H + "attn.c_proj.bias",
        up_bias=H + "mlp.c_fc.bias",
        down_bias=H + "mlp.c_proj.bias",
    ),
    **_fused(H + "attn.c_attn.weight", H + "attn.c_attn.bias", out_first=False),
    "attention_out": Place(name=H + "attn.c_proj.weight", out_first=False),
    "up": Place(name=H + "mlp.c_fc.weight", out_first=False),
    "down": Place(name=H + "mlp.c_proj.weight", out_first=False),
}

# ---- GGUF files: the same names for all families -------------------------------------------------

B = "blk.{n}."
GGUF: Table = {
    **_places(
        embedding="token_embd.weight",
        unembedding="output.weight",
        position_embedding="position_embd.weight",
        final_norm="output_norm.weight",
        final_norm_bias="output_norm.bias",
        attention_norm=B + "attn_norm.weight",
        attention_norm_bias=B + "attn_norm.bias",
        query=B + "attn_q.weight",
        key=B + "attn_k.weight",
        value=B + "attn_v.weight",
        attention_out=B + "attn_output.weight",
        query_bias=B + "attn_q.bias",
        key_bias=B + "attn_k.bias",
        value_bias=B + "attn_v.bias",
        attention_out_bias=B + "attn_output.bias",
        query_norm=B + "attn_q_norm.weight",
        key_norm=B + "attn_k_norm.weight",
        post_attention_norm=B + "post_attention_norm.weight",
        mlp_norm=B + "ffn_norm.weight",
        mlp_norm_bias=B + "ffn_norm.bias",
        post_mlp_norm=B + "post_ffw_norm.weight",
        gate=B + "ffn_gate.weight",
        up=B + "ffn_up.weight",
        down=B + "ffn_down.weight",
        gate_bias=B + "ffn_gate.bias",
        up_bias=B + "ffn_up.bias",
        down_bias=B + "ffn_down.bias",
    ),
}
GGUF_GPT2: Table = GGUF | _fused(B + "attn_qkv.weight", B + "attn_qkv.bias", out_first=True)
