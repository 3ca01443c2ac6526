"""Published models that are refused: each in one sentence that names the file and the key."""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from golden import make_models
from safetensors.numpy import load_file, save_file

from reasoning_jax import pretrained
from reasoning_jax.errors import UserError
from reasoning_jax.pretrained import folder, hf_config

CASES = sorted(make_models.CONFIGS)

BAD_CONFIGS = [
    ("llama3", {"hidden_size": "32"}, "'hidden_size' is text, not a whole number"),
    ("llama3", {"hidden_size": 32.0}, "'hidden_size' is 32.0, not a whole number"),
    ("llama3", {"hidden_size": "-"}, "the key 'hidden_size' is missing"),
    ("llama3", {"num_hidden_layers": 10**12}, "'num_hidden_layers' is 1000000000000, not from 1"),
    ("llama3", {"num_hidden_layers": 0}, "'num_hidden_layers' is 0, not from 1"),
    ("llama3", {"vocab_size": None}, "'vocab_size' is null"),
    ("llama3", {"intermediate_size": None}, "'intermediate_size' is null"),
    ("llama3", {"num_attention_heads": 5}, "'num_attention_heads' is 5, which does not divide"),
    ("llama3", {"num_key_value_heads": 3}, "num_heads 4 is no multiple of num_kv_heads 3"),
    ("llama3", {"head_dim": 7}, "rotary embedding needs an even size"),
    ("llama3", {"rms_norm_eps": True}, "'rms_norm_eps' is true or false, not a number"),
    ("llama3", {"rms_norm_eps": -1}, "'rms_norm_eps' is -1, not above 0"),
    ("llama3", {"tie_word_embeddings": 1}, "'tie_word_embeddings' is a number, not true or false"),
    ("llama3", {"hidden_act": "gelu"}, "'hidden_act' is 'gelu'; this decoder has silu"),
    ("llama3", {"rope_scaling": [1]}, "'rope_scaling' is a list, not an object"),
    ("llama3", {"rope_scaling": {"rope_type": "yarn"}}, "of the type 'yarn'"),
    ("llama3", {"rope_scaling": {"type": "dynamic"}}, "of the type 'dynamic'"),
    ("llama3", {"rope_scaling": {"type": "longrope"}}, "of the type 'longrope'"),
    ("llama3", {"rope_scaling": {"type": "linear"}}, "the key 'factor' is missing"),
    ("llama3", {"rope_scaling": {"type": ["linear"]}}, "of the type"),
    ("llama3", {"partial_rotary_factor": 0.5}, "'partial_rotary_factor' is not 1"),
    ("llama3", {"num_local_experts": 8}, "mixtures of experts"),
    ("llama3", {"quantization_config": {"bits": 4}}, "the weights are quantised"),
    ("llama3", {"architectures": ["LlamaForCausaLM"]}, "the nearest name is LlamaForCausalLM"),
    ("llama3", {"architectures": ["FalconForCausalLM"]}, "it reads GPT2LMHeadModel, GPTJ"),
    ("llama3", {"architectures": "-", "model_type": "t5"}, "model_type is 't5'"),
    ("llama3", {"architectures": {}}, "architectures is {}"),
    ("mistral", {"attention_bias": True}, "'attention_bias' is true, which MistralForCausalLM"),
    ("qwen2", {"mlp_bias": True}, "'mlp_bias' is true, which Qwen2ForCausalLM"),
    ("qwen2", {"max_window_layers": "2"}, "'max_window_layers' is text, not a whole number"),
    ("qwen2", {"layer_types": ["full_attention"]}, "no list of one name for each of 3 layers"),
    ("qwen2", {"layer_types": ["a", "b", "c"]}, "'layer_types' has 'a'"),
    ("gemma3", {"use_bidirectional_attention": True}, "is not false, which this decoder"),
    ("gemma3", {"text_config": 3}, "'text_config' is a number, not an object"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "is not false, which this decoder"),
    ("gptj", {"rotary_dim": 16}, "'rotary_dim' is 16, no even part of a head"),
]


@pytest.mark.parametrize("name, changes, problem", BAD_CONFIGS)
def test_configs_that_are_refused(name, changes, problem, case):
    place = case(name, **changes)
    with pytest.raises(UserError) as error:
        pretrained.open(place)
    assert problem in str(error.value) and "config.json" in str(error.value)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content, problem",
    [
        (b"", "the file is empty"),
        (b"{", "not valid JSON"),
        (b"[]", "this is a list, not an object"),
        (b'{"a": 1, "a": 2}', "'a' is there twice"),
        (b'{"a": NaN}', "NaN is no JSON"),
        (b"\xff\xff\xff", "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_broken_json(content, problem, case):
    place = case("llama3")
    (place / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=problem):
        pretrained.open(place)


ODD = [None, -1, 0, 1, 1.5, "x", "", [], {}, True, 10**30, [[]], {"a": 1}, [None], "silu", {"": []}]


@pytest.mark.parametrize("name", CASES)
def test_any_value_of_any_key_is_read_or_one_sentence(name):
    base = make_models.CONFIGS[name]
    family = hf_config.family_of(base, "config.json")
    keys = {*base, *family.defaults, *family.fixed, *family.switches, "rope_scaling", "layer_types"}
    keys |= {"rope_parameters", "text_config", "use_sliding_window", "sliding_window_pattern"}
    for key in sorted(keys):
        for value in ODD:
            for config in (base | {key: value}, {"text_config": base | {key: value}}):
                try:
                    hf_config.model_config(family, config, "config.json")
                except UserError as error:
                    assert str(error).startswith("config.json") and str(error).endswith(".")
    for key, inner in make_models.LLAMA3.items():
        for value in (*ODD, inner):
            for outer in ("rope_scaling", "rope_parameters"):
                changed = base | {outer: make_models.LLAMA3 | {key: value}}
                layers = {"full_attention": changed[outer], "sliding_attention": {key: value}}
                for config in (changed, base | {outer: layers}):
                    try:
                        hf_config.model_config(family, config, "config.json")
                    except UserError as error:
                        assert str(error).endswith(".")


def refused(place: Path) -> str:
    with pytest.raises(UserError) as error:
        source = pretrained.open(place)
        source.load(source.model_config())
    text = str(error.value)
    assert text.endswith(".") and "\n" not in text and str(place) in text
    return text


def test_tensors_that_do_not_fit(case):
    place = case("llama3")
    path = place / "model.safetensors"
    values = load_file(path)
    name = "model.layers.1.mlp.up_proj.weight"

    def write(**changes):
        kept = {key: value for key, value in values.items() if changes.get(key, 0) is not None}
        save_file(kept | {k: v for k, v in changes.items() if v is not None}, path)

    write(**{name: None, "model.layers.1.mlp.upp_proj.weight": values[name]})
    assert f"{name} is missing; the nearest name is model.layers.1.mlp.upp_proj" in refused(place)
    write(**{"model.layers.3.mlp.up_proj.weight": values[name]})
    assert "model.layers.3.mlp.up_proj.weight belongs to no parameter; the near" in refused(place)
    write(**{name: values[name].T.copy()})
    assert f"{name} has the shape [32, 48], but by the config it has [48, 32]" in refused(place)
    write(**{name: values[name].astype(np.int32)})
    assert f"{name} is of the type 'I32'; F32, F16, BF16 can be read" in refused(place)
    write(**{name: values[name].astype(np.float64)})
    assert "'F64'" in refused(place)
    write(**{"lm_head.weight": values["model.embed_tokens.weight"] + 1})
    assert "lm_head.weight is not the embedding" in refused(place)
    write(**{"layers.0.input_layernorm.weight": np.zeros(32, np.float32)})
    assert "is there twice, under two names" in refused(place)


def test_files_that_are_damaged(case):
    place = case("llama3")
    path = place / "model.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    for cut in (4, 8, 100, 8 + length, len(content) - 1):
        path.write_bytes(content[:cut])
        assert "cut off" in refused(place), cut
    path.write_bytes(b"\xff" * 100)
    assert "not a safetensors file" in refused(place)
    for header, problem in [
        (b"[]", "not a safetensors file"),
        (b'{"a": 3}', "does not say where the tensor a is"),
        (b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}', "does not say where"),
        (b'{"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 4]}}', "not as many bytes"),
        (b'{"a": {"dtype": ["F32"], "shape": [3], "data_offsets": [0, 4]}}', "of the type"),
        (b'{"a": ', "not valid JSON"),
    ]:
        path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)
        assert problem in refused(place), header


def test_pickles_are_never_opened(case, tmp_path):
    place = case("llama3")
    (place / "model.safetensors").unlink()
    assert "there is no file *.safetensors" in refused(place)
    for name in ("pytorch_model.bin", "model.pt", "consolidated.00.pth"):
        (place / name).write_bytes(pickle.dumps(Trap(tmp_path / "ran")))
        text = refused(place)
        assert name in text and "save_pretrained(folder, safe_serialization=True)" in text
        assert "pickle" in refused(place / name)
        (place / name).unlink()
    assert not (tmp_path / "ran").exists()


class Trap:
    """A pickle of this writes a file when it is read."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_an_index_that_lies(case):
    place = case("llama3")
    values = load_file(place / "model.safetensors")
    (place / "model.safetensors").unlink()
    names = sorted(values)
    half = len(names) // 2
    parts = {"a.safetensors": names[:half], "b.safetensors": names[half:]}
    where = {}
    for file, own in parts.items():
        save_file({name: values[name] for name in own}, place / file)
        where |= dict.fromkeys(own, file)
    index = place / folder.INDEX

    def write(**changes):
        index.write_text(json.dumps({"weight_map": where | changes}))

    write()
    source = pretrained.open(place)
    source.load(source.model_config())
    index.unlink()
    pretrained.open(place)  # without an index, all files count
    write(**{names[0]: "c.safetensors"})
    assert "names the file c.safetensors, which is not there" in refused(place)
    write(**{names[0]: "../a.safetensors"})
    assert "is not the name of a file" in refused(place)
    write(**{"model.norm.weigth": "b.safetensors"})
    assert "does not hold the tensor model.norm.weigth; the nearest" in refused(place)
    write(**{names[0]: "b.safetensors"})
    assert f"the tensor {names[0]} is in b.safetensors too" in refused(place)
    save_file({name: values[name] for name in names[half - 1 :]}, place / "b.safetensors")
    write()
    assert f"the tensor {names[half - 1]} is in a.safetensors" in refused(place)
    index.unlink()
    assert f"the tensor {names[half - 1]} is in a.safetensors already" in refused(place)
    index.write_text(json.dumps({"weight_map": []}))
    assert "'weight_map' is no object" in refused(place)


def test_paths_that_are_no_model(tmp_path):
    for name, problem in [("nothing", "no such file"), (".", "no config.json")]:
        with pytest.raises(UserError, match=problem):
            pretrained.open(tmp_path / name)
    (tmp_path / "x.bin").write_bytes(b"hello there, this is a text")
    assert "this is no known model" in refused(tmp_path / "x.bin")
    (tmp_path / "empty").write_bytes(b"")
    assert "this is no known model" in refused(tmp_path / "empty")
