"""LoRA adapters as PEFT stores them: there, back, merged, and by PEFT itself."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import make_models
from safetensors.numpy import load_file, save_file
from test_pretrained import logits

from reasoning_jax import pretrained
from reasoning_jax.errors import UserError
from reasoning_jax.pretrained import export, peft, tables

RANK, ALPHA = 3, 6.0
TOKENS = [[5, 9, 2, 30, 17, 4, 11]]


def adapter(cfg, names=tables.ADAPTED) -> dict:
    """Random factors of some matrices of a model."""
    rng = np.random.default_rng(0)
    layers = tables.shapes(cfg)["layers"]
    lora = {}
    for name in names:
        if name not in layers:
            continue
        count, *shape = layers[name]
        split = tables.INPUTS[name]
        a = rng.normal(size=(count, *shape[:split], RANK)) * 0.2
        b = rng.normal(size=(count, RANK, *shape[split:])) * 0.2
        lora |= {f"{name}_a": jnp.asarray(a, "float32"), f"{name}_b": jnp.asarray(b, "float32")}
    return lora


@pytest.fixture
def model(tmp_path):
    """model(name) -> the source, its config and its parameters."""

    def opened(name: str):
        make_models.write(name, tmp_path / name)
        source = pretrained.open(tmp_path / name)
        cfg = source.model_config()
        return source, cfg, source.load(cfg)

    return opened


@pytest.mark.parametrize("name", ["llama2", "qwen2", "gemma3", "gptj"])
def test_an_adapter_goes_round(name, model, tmp_path):
    source, cfg, _ = model(name)
    lora = adapter(cfg)
    peft.write(tmp_path / "a", lora, cfg, RANK, ALPHA, "base", family=name)
    found = peft.read(tmp_path / "a", cfg, source.family)
    assert (found.rank, found.scale, found.base) == (RANK, 2.0, "base")
    assert found.lora.keys() == lora.keys()
    jax.tree.map(np.testing.assert_array_equal, found.lora, lora)
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    modules = {"fc_in", "fc_out", "k_proj", "out_proj", "q_proj", "v_proj"}
    if name != "gptj":
        modules = {f"{x}_proj" for x in ("q", "k", "v", "o", "gate", "up", "down")}
    assert set(config["target_modules"]) == modules
    key = f"base_model.model.{source.table['query'].name.format(n=1)}"
    values = load_file(tmp_path / "a" / "adapter_model.safetensors")
    a = values[key.replace(".weight", ".lora_A.weight")]
    np.testing.assert_array_equal(a, lora["query_a"][1].T)
    b = values[key.replace(".weight", ".lora_B.weight")]
    np.testing.assert_array_equal(b, lora["query_b"][1].reshape(RANK, -1).T)


def test_merging_adds_the_scaled_product(model):
    _, cfg, params = model("llama2")
    lora = adapter(cfg, ["query", "attention_out", "down"])
    merged = peft.merge(params | {"lora": lora}, lora, 2.0)
    assert merged.keys() == params.keys()
    for name in ("query", "attention_out", "down"):
        a, b = np.asarray(lora[f"{name}_a"], float), np.asarray(lora[f"{name}_b"], float)
        for n in range(3):
            added = 2.0 * np.tensordot(a[n], b[n], 1)
            wanted = np.asarray(params["layers"][name][n], float) + added
            np.testing.assert_allclose(merged["layers"][name][n], wanted, atol=1e-6)
    for name in ("key", "value", "gate", "up", "attention_norm"):
        assert merged["layers"][name] is params["layers"][name]


def test_a_merged_model_computes_what_the_adapted_one_does(model):
    import dataclasses

    _, cfg, params = model("gemma3")
    lora = adapter(cfg)
    merged = logits(peft.merge(params, lora, 2.0), TOKENS, cfg)
    adapted = logits(params | {"lora": lora}, TOKENS, dataclasses.replace(cfg, lora_scale=2.0))
    np.testing.assert_allclose(adapted, merged, atol=2e-3)
    assert np.abs(merged - logits(params, TOKENS, cfg)).max() > 0.1


@pytest.mark.parametrize("name", ["llama2", "gemma2", "gptj"])
def test_peft_reads_what_is_written(name, model, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    theirs = pytest.importorskip("peft")
    _, cfg, params = model(name)
    lora = adapter(cfg)
    peft.write(tmp_path / "a", lora, cfg, RANK, ALPHA, str(tmp_path / name), family=name)
    base = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / name, attn_implementation="eager"
    )
    adapted = theirs.PeftModel.from_pretrained(base, str(tmp_path / "a"))
    with torch.no_grad():
        found = adapted(torch.tensor(TOKENS)).logits.numpy()
    wanted = logits(peft.merge(params, lora, ALPHA / RANK), TOKENS, cfg)
    np.testing.assert_allclose(found, wanted, atol=2e-3)


@pytest.mark.parametrize("name", ["llama2", "gpt2"])
def test_peft_reads_a_soft_prompt(name, model, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    theirs = pytest.importorskip("peft")
    _, cfg, params = model(name)
    vectors = jnp.asarray(np.random.default_rng(0).normal(size=(3, cfg.width)), "float32")
    peft.write_prompt(tmp_path / "a", vectors, cfg, str(tmp_path / name))
    base = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / name, attn_implementation="eager"
    )
    adapted = theirs.PeftModel.from_pretrained(base, str(tmp_path / "a"))
    with torch.no_grad():
        found = adapted(torch.tensor(TOKENS)).logits.numpy()[:, -len(TOKENS[0]) :]
    tokens = [[*range(cfg.vocab_size, cfg.vocab_size + 3), *TOKENS[0]]]
    wanted = logits(params | {"soft_prompt": vectors}, tokens, cfg)
    np.testing.assert_allclose(found, wanted[:, 3:], atol=2e-4)


def test_a_soft_prompt_has_no_form_where_embeddings_are_scaled(model, tmp_path):
    _, cfg, _ = model("gemma2")
    with pytest.raises(UserError, match="no soft prompt of a model that scales embeddings"):
        peft.write_prompt(tmp_path / "a", jnp.ones((3, cfg.width)), cfg, "base")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("name, targets", [("qwen3", "all-linear"), ("gpt2", ["c_attn"])])
def test_what_peft_writes_is_read(name, targets, model, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    theirs = pytest.importorskip("peft")
    source, cfg, params = model(name)
    base = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / name, attn_implementation="eager"
    )
    torch.manual_seed(0)
    about = theirs.LoraConfig(
        r=RANK,
        lora_alpha=8,
        target_modules=targets,
        use_rslora=True,
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    adapted = theirs.get_peft_model(base, about).eval()
    with torch.no_grad():
        for key, value in adapted.named_parameters():
            if "lora_" in key:
                value.mul_(0.3)
        wanted = adapted(torch.tensor(TOKENS)).logits.numpy()
    adapted.save_pretrained(tmp_path / "a")
    found = peft.read(tmp_path / "a", cfg, source.family)
    assert found.scale == pytest.approx(8 / RANK**0.5)
    merged = peft.merge(params, found.lora, found.scale)
    np.testing.assert_allclose(logits(merged, TOKENS, cfg), wanted, atol=2e-3)


BAD = [
    ({"peft_type": "IA3"}, "'peft_type' is 'IA3'"),
    ({"use_dora": True}, "'use_dora' is True"),
    ({"modules_to_save": ["lm_head"]}, "'modules_to_save' is ['lm_head']"),
    ({"rank_pattern": {"q_proj": 4}}, "'rank_pattern' is"),
    ({"alpha_pattern": {"q_proj": 4}}, "'alpha_pattern' is"),
    ({"layers_to_transform": [0]}, "'layers_to_transform' is [0]"),
    ({"bias": "all"}, "'bias' is 'all'"),
    ({"init_lora_weights": "pissa"}, "'init_lora_weights' is 'pissa'"),
    ({"alora_invocation_tokens": [1]}, "'alora_invocation_tokens' is [1]"),
    ({"r": 4}, "has the shape [3, 32], but by the config it has [4, 32]"),
    ({"r": "3"}, "'r' is text, not a whole number"),
    ({"r": 0}, "'r' is 0, not from 1"),
    ({"lora_alpha": None}, "'lora_alpha' is null"),
    ({"use_rslora": 1}, "'use_rslora' is a number, not true or false"),
]


@pytest.mark.parametrize("changes, problem", BAD)
def test_adapters_that_are_refused(changes, problem, model, tmp_path):
    source, cfg, _ = model("llama2")
    peft.write(tmp_path / "a", adapter(cfg), cfg, RANK, ALPHA, "")
    path = tmp_path / "a" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UserError) as error:
        peft.read(tmp_path / "a", cfg, source.family)
    assert problem in str(error.value) and str(error.value).endswith(".")


def test_tensors_that_do_not_belong(model, tmp_path):
    source, cfg, _ = model("llama2")
    peft.write(tmp_path / "a", adapter(cfg, ["query"]), cfg, RANK, ALPHA, "")
    path = tmp_path / "a" / "adapter_model.safetensors"
    values = load_file(path)
    key = "base_model.model.model.layers.2.self_attn.q_proj.lora_B.weight"

    def problem(changed):
        save_file(changed, path)
        with pytest.raises(UserError) as error:
            peft.read(tmp_path / "a", cfg, source.family)
        return str(error.value)

    assert f"{key} is missing" in problem({k: v for k, v in values.items() if k != key})
    other = "base_model.model.lm_head.lora_A.weight"
    assert f"{other} belongs to no parameter" in problem(values | {other: values[key]})
    assert "there is no adapter" in problem({})
    path.unlink()
    (tmp_path / "a" / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match="this is a pickle"):
        peft.read(tmp_path / "a", cfg, source.family)


def test_a_part_of_a_matrix_has_no_adapter_in_peft(model, tmp_path):
    _, cfg, _ = model("gpt2")
    with pytest.raises(UserError, match="no matrix of its own for query"):
        peft.write(tmp_path / "a", adapter(cfg, ["query"]), cfg, RANK, ALPHA, "", family="gpt2")
    assert not (tmp_path / "a").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(UserError, match="something already"):
        export.check_free(tmp_path / "full")
