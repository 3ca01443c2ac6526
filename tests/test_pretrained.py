"""Published models: configs, tensors, and numbers against transformers'."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from conftest import random_params
from golden import make_models
from safetensors.numpy import load_file, save_file
from test_multihost import bucket  # noqa: F401  (a fixture)

from reasoning_jax import pretrained
from reasoning_jax.errors import UserError
from reasoning_jax.model import decoder, sharding
from reasoning_jax.model.attention import CausalMask
from reasoning_jax.model.config import RopeScaling
from reasoning_jax.pretrained import export, folder, hf_config, hf_write, load, tables

GOLDEN = json.loads((Path(__file__).parent / "golden" / "published_models.json").read_text())
CASES = sorted(make_models.CONFIGS)


def fields(cfg) -> dict:
    """The fields of a ModelConfig that are not their defaults, less sizes."""
    sizes = {"vocab_size", "width", "num_layers", "num_heads", "num_kv_heads", "mlp_dim"}
    return {
        field.name: getattr(cfg, field.name)
        for field in dataclasses.fields(cfg)
        if getattr(cfg, field.name) != field.default and field.name not in sizes
    }


# ---- config.json ---------------------------------------------------------------------------------

GPT_FLAGS = {"norm": "layer", "activation": "gelu", "gated": False, "mlp_bias": True}
GEMMA_FLAGS = {
    "norm_offset": True,
    "post_norms": True,
    "embed_scale": True,
    "activation": "gelu",
    "query_scale": 24.0,
    "window": 5,
    "norm_eps": 1e-6,
    "head_dim": 16,
}
FLAGS = {
    "llama2": {"tied": False, "head_dim": 8},
    "llama3": {
        "rope_theta": 500.0,
        "norm_eps": 1e-6,
        "head_dim": 8,
        "rope_scaling": RopeScaling(kind="llama3", factor=8.0, original_length=32),
    },
    "llama_bias": {
        "tied": False,
        "norm_eps": 1e-6,
        "head_dim": 16,
        "rope_theta": 1000.0,
        "qkv_bias": True,
        "out_bias": True,
        "mlp_bias": True,
        "rope_scaling": RopeScaling(kind="linear", factor=2.0),
    },
    "mistral": {
        "tied": False,
        "norm_eps": 1e-6,
        "head_dim": 16,
        "rope_theta": 1000.0,
        "window": 5,
    },
    "qwen2": {
        "norm_eps": 1e-6,
        "head_dim": 8,
        "rope_theta": 1000.0,
        "qkv_bias": True,
        "window": 5,
        "local_layers": (False, True, True),
    },
    "qwen3": {
        "tied": False,
        "norm_eps": 1e-6,
        "head_dim": 16,
        "rope_theta": 1000.0,
        "qk_norm": True,
    },
    "gemma2": GEMMA_FLAGS
    | {
        "attention_softcap": 2.0,
        "output_softcap": 4.0,
        "local_layers": (True, False, True),
    },
    "gemma3": GEMMA_FLAGS
    | {
        "qk_norm": True,
        "rope_theta": 1000.0,
        "local_rope_theta": 100.0,
        "local_layers": (True, True, False),
        "rope_scaling": RopeScaling(kind="linear", factor=4.0),
    },
    "gptj": GPT_FLAGS
    | {
        "tied": False,
        "head_dim": 8,
        "rotary": "interleaved",
        "rotary_dim": 4,
        "parallel": True,
        "output_bias": True,
    },
    "gpt2": GPT_FLAGS
    | {
        "head_dim": 8,
        "rotary": "none",
        "max_positions": 128,
        "qkv_bias": True,
        "out_bias": True,
    },
}


@pytest.mark.parametrize("name", CASES)
def test_config_json_is_read(name, case):
    cfg = pretrained.open(case(name)).model_config()
    assert fields(cfg) == FLAGS[name]
    assert (cfg.vocab_size, cfg.width, cfg.num_layers, cfg.num_heads) == (64, 32, 3, 4)
    config = make_models.CONFIGS[name]
    assert cfg.mlp_dim == config.get("intermediate_size", 128)
    assert cfg.num_kv_heads == config.get("num_key_value_heads", 4)


@pytest.mark.parametrize("name", CASES)
def test_config_json_is_written_as_what_reads_back(name, case):
    cfg = pretrained.open(case(name)).model_config(dtype="bfloat16", remat="full")
    family, config = hf_write.config_for(cfg)  # the family is found from the flags
    assert hf_config.family_of(config, "") is family
    again = hf_config.model_config(family, config, "", dtype="bfloat16", remat="full")
    assert again == cfg
    assert config["architectures"] == make_models.CONFIGS[name]["architectures"]


def test_a_model_of_this_project_is_a_llama_or_a_mistral(tiny):
    cfg, _ = tiny
    assert hf_write.config_for(cfg)[0].name == "llama"
    assert hf_write.config_for(dataclasses.replace(cfg, window=8))[0].name == "mistral"
    with pytest.raises(UserError, match="of no published family"):
        hf_write.config_for(dataclasses.replace(cfg, parallel=True))


def test_the_two_spellings_of_rotary_frequencies_agree(case):
    old = case("gemma3")
    wanted = pretrained.open(old).model_config()
    layers = {
        "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
    }
    gone = dict.fromkeys(("rope_theta", "rope_scaling", "rope_local_base_freq"), "-")
    make_models.edit(old, rope_parameters=layers, **gone)
    assert pretrained.open(old).model_config() == wanted
    llama = case("llama3")
    wanted = pretrained.open(llama).model_config()
    parameters = make_models.LLAMA3 | {"rope_theta": 500.0}
    make_models.edit(llama, rope_scaling="-", rope_theta="-", rope_parameters=parameters)
    assert pretrained.open(llama).model_config() == wanted


def test_layer_types_and_their_older_spellings(case):
    place = case("qwen2")
    kinds = ["sliding_attention", "full_attention", "full_attention"]
    make_models.edit(place, layer_types=kinds)
    assert pretrained.open(place).model_config().local_layers == (True, False, False)
    make_models.edit(place, use_sliding_window=False)
    assert pretrained.open(place).model_config().window == 0
    place = case("mistral", sliding_window=None)
    assert pretrained.open(place).model_config().window == 0


def test_the_shapes_are_those_of_the_decoder(case):
    for name in CASES:
        cfg = pretrained.open(case(name)).model_config()
        made = jax.eval_shape(lambda key, cfg=cfg: decoder.init(key, cfg), jax.random.key(0))
        assert jax.tree.map(lambda x: x.shape, made) == tables.shapes(cfg), name


# ---- tensors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_what_is_written_equals_what_was_read_bit_by_bit(name, case, tmp_path):
    place = case(name)
    source = pretrained.open(place)
    cfg = source.model_config()
    params = source.load(cfg)
    assert jax.tree.map(lambda x: x.shape, params) == tables.shapes(cfg)
    export.write(tmp_path / "out", params, cfg, base=source.config, shard_bytes=20_000)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1
    again = pretrained.open(tmp_path / "out")
    assert again.model_config() == cfg
    before = folder.tensors(place)
    after = folder.tensors(tmp_path / "out")
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        assert after[key].kind == tensor.kind and after[key].shape == tensor.shape
        rows = (0, tensor.shape[0])
        assert after[key].read(*rows).tobytes() == tensor.read(*rows).tobytes(), key


@pytest.mark.parametrize("name", ["llama3", "gpt2"])
def test_half_precision_goes_round_too(name, case, tmp_path):
    place = case(name)
    values = load_file(place / "model.safetensors")
    half = {key: value.astype(ml_dtypes.bfloat16) for key, value in values.items()}
    save_file(half, place / "model.safetensors")
    source = pretrained.open(place)
    cfg = source.model_config()
    params = source.load(cfg)
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}
    export.write(tmp_path / "out", params, cfg)
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert {key: x.tobytes() for key, x in after.items()} == {
        key: x.tobytes() for key, x in half.items()
    }
    mixed = source.load(cfg, dtype="float16")
    assert mixed["embedding"].dtype == mixed["layers"]["query"].dtype == jnp.float16
    assert mixed["layers"]["attention_norm"].dtype == mixed["final_norm"].dtype == jnp.float32


@pytest.mark.parametrize("shape", [(2, 2, 2), (1, 2, 4), (1, 8, 1)])
def test_shards_are_slices_of_the_whole(shape, case):
    source = pretrained.open(case("llama2"))
    cfg = source.model_config()
    whole = source.load(cfg)
    fingerprint = pretrained.fingerprint(whole)
    mesh = sharding.make_mesh(*shape)
    with jax.set_mesh(mesh):
        split = source.load(cfg, mesh)
        assert jax.tree.map(lambda x: x.sharding, split) == sharding.parameter_specs(split, mesh)
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(split), jax.device_get(whole))
        assert pretrained.fingerprint(split) == fingerprint


def test_a_shard_reads_its_rows_alone(case, monkeypatch):
    source = pretrained.open(case("llama2"))
    cfg = source.model_config()
    name = "model.layers.0.self_attn.q_proj.weight"
    reads = []
    tensor = source.tensors[name]
    own = type(tensor).read

    def read(self, start, stop):
        if self is tensor:
            reads.append((start, stop))
        return own(self, start, stop)

    monkeypatch.setattr(type(tensor), "read", read)
    source.load(cfg, sharding.make_mesh(1, 2, 4))
    assert sorted(set(reads)) == [(0, 8), (8, 16), (16, 24), (24, 32)]
    assert len(reads) == 8  # four heads, each as two halves of the width


def test_a_folder_on_an_object_store_is_read(case, bucket):  # noqa: F811
    """By ranges, as on a disk; what the store does not have is a sentence."""
    place = case("qwen3")
    wanted = pretrained.open(place)
    cfg = wanted.model_config()
    for file in place.iterdir():
        (bucket / file.name).write_bytes(file.read_bytes())
    source = pretrained.open(str(bucket))
    assert source.model_config() == cfg
    fingerprint = pretrained.fingerprint(wanted.load(cfg))
    assert pretrained.fingerprint(source.load(cfg)) == fingerprint
    (bucket / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match="is read from this machine; copy it here"):
        pretrained.open(str(bucket / "model.gguf"))
    (bucket / "model.safetensors").write_bytes((place / "model.safetensors").read_bytes()[:-1])
    with pytest.raises(UserError, match="cut off"):
        pretrained.open(str(bucket))
    (bucket / "config.json").unlink()
    with pytest.raises(UserError, match="no model in this folder"):
        pretrained.open(str(bucket))


def test_fingerprints_tell_contents_apart(tiny):
    _, params = tiny
    print_ = pretrained.fingerprint(params)
    assert print_ == pretrained.fingerprint(jax.tree.map(jnp.copy, params))
    assert len(print_) == 16 and int(print_, 16) >= 0
    others = [jax.tree.map(lambda x: x.astype("bfloat16"), params)]
    w = params["embedding"]
    for changed in (w.at[3, 4].add(1e-6), w[::-1], w.at[0].set(w[1]).at[1].set(w[0]), -w):
        others.append(params | {"embedding": changed})
    others.append({("other" if k == "embedding" else k): v for k, v in params.items()})
    prints = [print_, *(pretrained.fingerprint(other) for other in others)]
    assert len(set(prints)) == len(prints)


def test_other_spellings_of_names(case):
    place = case("gemma3")
    wanted = pretrained.fingerprint(
        pretrained.open(place).load(pretrained.open(place).model_config())
    )
    values = load_file(place / "model.safetensors")
    text = json.loads((place / "config.json").read_text())
    config = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3"}
    (place / "config.json").write_text(json.dumps(config | {"text_config": text}))
    tower = {"vision_tower.vision_model.post_layernorm.bias": np.zeros(3, np.float32)}
    for start in ("language_model.model.", "model.language_model."):
        renamed = {start + key.removeprefix("model."): value for key, value in values.items()}
        save_file(renamed | tower, place / "model.safetensors")
        source = pretrained.open(place)
        assert pretrained.fingerprint(source.load(source.model_config())) == wanted
    place = case("gpt2")
    source = pretrained.open(place)
    wanted = pretrained.fingerprint(source.load(source.model_config()))
    values = load_file(place / "model.safetensors")
    bare = {key.removeprefix("transformer."): value for key, value in values.items()}
    bare |= {f"h.{n}.attn.bias": np.ones((1, 1, 4, 4), np.float32) for n in range(3)}
    bare["lm_head.weight"] = values["transformer.wte.weight"]
    save_file(bare, place / "model.safetensors")
    source = pretrained.open(place)
    assert pretrained.fingerprint(source.load(source.model_config())) == wanted


# ---- numbers -------------------------------------------------------------------------------------


def logits(params, tokens, cfg):
    """[B, S, V] logits of a padded batch of prompts."""
    length = max(map(len, tokens))
    ids = np.zeros((len(tokens), length), np.int32)
    segments = np.zeros((len(tokens), length), np.int32)
    for i, row in enumerate(tokens):
        ids[i, : len(row)] = row
        segments[i, : len(row)] = 1
    positions = jnp.broadcast_to(jnp.arange(length), ids.shape)
    inputs = decoder.embed(params, jnp.asarray(ids), cfg)
    mask = CausalMask(jnp.asarray(segments))
    hidden = decoder.apply(params, inputs, positions, mask, cfg=cfg)
    return decoder.logits(params, hidden, cfg)


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_transformers(name, case):
    source = pretrained.open(case(name))
    cfg = source.model_config()
    found = logits(source.load(cfg), GOLDEN["prompts"], cfg)
    for row, prompt, wanted in zip(
        found, GOLDEN["prompts"], GOLDEN["cases"][name]["logits"], strict=True
    ):
        at = [p % len(prompt) for p in GOLDEN["positions"]]
        np.testing.assert_allclose(row[np.array(at)], wanted, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_greedy_continuations_are_those_of_transformers(name, case):
    """Each token is the most likely one after those before it: one pass checks all 64."""
    source = pretrained.open(case(name))
    cfg = source.model_config()
    greedy = GOLDEN["cases"][name]["greedy"]
    whole = [prompt + new for prompt, new in zip(GOLDEN["prompts"], greedy, strict=True)]
    found = np.argmax(logits(source.load(cfg), whole, cfg), -1)
    for row, prompt, new in zip(found, GOLDEN["prompts"], greedy, strict=True):
        start = len(prompt) - 1
        assert row[start : start + len(new)].tolist() == new


@pytest.mark.parametrize("name", CASES)
def test_transformers_reads_what_is_written(name, case, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    source = pretrained.open(case(name))
    cfg = source.model_config()
    export.write(tmp_path / "out", source.load(cfg), cfg, base=source.config)
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", attn_implementation="eager", output_loading_info=True
    )
    assert not any(info.values())
    with torch.no_grad():
        for prompt, wanted in zip(GOLDEN["prompts"], GOLDEN["cases"][name]["logits"], strict=True):
            rows = model(torch.tensor([prompt])).logits[0, list(GOLDEN["positions"])]
            np.testing.assert_allclose(rows.numpy(), wanted, atol=1e-4)
    model.save_pretrained(tmp_path / "theirs")
    again = pretrained.open(tmp_path / "theirs")
    assert again.model_config() == cfg
    assert pretrained.fingerprint(again.load(cfg)) == pretrained.fingerprint(source.load(cfg))


def test_the_text_part_of_a_model_that_sees_is_read(tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    text = {k: v for k, v in make_models.CONFIGS["gemma3"].items() if k != "architectures"}
    tower = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    tower |= {"num_attention_heads": 2, "image_size": 8, "patch_size": 4}
    config = transformers.Gemma3Config(text_config=text, vision_config=tower)
    torch.manual_seed(0)
    model = transformers.Gemma3ForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path / "hf")
    source = pretrained.open(tmp_path / "hf")
    cfg = source.model_config()
    assert cfg.local_layers == (True, True, False)
    prompt = GOLDEN["prompts"][0]
    with torch.no_grad():
        wanted = model(torch.tensor([prompt])).logits[0].numpy()
    np.testing.assert_allclose(logits(source.load(cfg), [prompt], cfg)[0], wanted, atol=1e-4)


# ---- writing -------------------------------------------------------------------------------------


def test_a_folder_is_written_whole_or_not_at_all(tiny, tmp_path, monkeypatch):
    cfg, params = tiny
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    for name in ("full", "full/x"):
        with pytest.raises(UserError, match="something already"):
            export.write(tmp_path / name, params, cfg)
    (tmp_path / "empty").mkdir()
    export.write(tmp_path / "empty", params, cfg)
    assert (tmp_path / "empty" / "model.safetensors").exists()

    def fail(*_):
        raise OSError("no space")

    monkeypatch.setattr(export, "save", fail)
    with pytest.raises(OSError):
        export.write(tmp_path / "new", params, cfg)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "full"]


def test_what_this_project_trains_goes_round(tiny, tmp_path):
    """Random parameters of the decoder itself, as a folder and back, with its logits."""
    cfg, params = tiny
    cfg = dataclasses.replace(cfg, tied=False, window=4)
    params = random_params(cfg, seed=1)
    export.write(tmp_path / "out", params, cfg)
    source = pretrained.open(tmp_path / "out")
    assert source.family.name == "mistral" and source.model_config() == cfg
    again = source.load(cfg)
    jax.tree.map(np.testing.assert_array_equal, again, params)
    assert load.fingerprint(again) == load.fingerprint(params)
