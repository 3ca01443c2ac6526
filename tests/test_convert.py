"""convert: what becomes of each kind of source, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import gguf
import jax
import ml_dtypes
import numpy as np
import published
import pytest
import tokenizers
from conftest import random_params
from golden import make_models
from safetensors.numpy import load_file, save_file
from test_gguf import write as write_gguf

from reasoning_jax import command_line, convert, default, experiment, pretrained, workdir
from reasoning_jax.errors import UserError
from reasoning_jax.model import sharding
from reasoning_jax.pretrained import export, peft
from reasoning_jax.pretrained_tokenizer import Pretrained
from reasoning_jax.training import checkpoint


def run(*arguments) -> None:
    """The command, whose mistakes are raised here."""
    command_line.run(
        convert.main,
        convert.define,
        words="paths",
        needs_run=False,
        needs_config=False,
        argv=[str(argument) for argument in arguments],
    )


def refused(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    text = capsys.readouterr().err
    assert stopped.value.code == 1 and text.count("\n") == 1 and text.endswith(".\n")
    return text


def same_tensors(one: Path, other: Path) -> None:
    before, after = load_file(one), load_file(other)
    assert before.keys() == after.keys()
    for key in before:
        assert before[key].dtype == after[key].dtype
        assert before[key].tobytes() == after[key].tobytes(), key


@pytest.mark.parametrize("name", ["gpt2", "gemma3"])
def test_there_and_back_again(name, tmp_path):
    make_models.write(name, tmp_path / "hf")
    (tmp_path / "hf" / "tokenizer.json").write_text("{}")
    (tmp_path / "hf" / "generation_config.json").write_text('{"eos_token_id": [3, 4]}')
    (tmp_path / "hf" / "secret.txt").write_text("not the tokenizer's")
    run(tmp_path / "hf", tmp_path / "own")
    source = pretrained.open(tmp_path / "own")
    assert source.family.name == name
    cfg = source.model_config(dtype="bfloat16", remat="full")
    assert cfg == pretrained.open(tmp_path / "hf").model_config(dtype="bfloat16", remat="full")
    run(tmp_path / "own", tmp_path / "again")
    same_tensors(tmp_path / "hf" / "model.safetensors", tmp_path / "again" / "model.safetensors")
    assert (tmp_path / "again" / "tokenizer.json").read_text() == "{}"
    assert json.loads((tmp_path / "again" / "generation_config.json").read_text()) == {
        "eos_token_id": [3, 4]
    }
    assert not (tmp_path / "again" / "secret.txt").exists()
    assert pretrained.open(tmp_path / "again").model_config() == source.model_config()
    positions = {"gpt2": "n_positions", "gemma3": "max_position_embeddings"}[name]
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert config[positions] == make_models.CONFIGS[name][positions]


def test_what_convert_made_loads_on_any_mesh(tmp_path):
    make_models.write("qwen2", tmp_path / "hf")
    path = tmp_path / "hf" / "model.safetensors"
    half = {key: value.astype(ml_dtypes.bfloat16) for key, value in load_file(path).items()}
    save_file(half, path)
    run(tmp_path / "hf", tmp_path / "own")
    source = pretrained.open(tmp_path / "own")
    cfg = source.model_config()
    wanted = pretrained.open(tmp_path / "hf").load(cfg)
    fingerprint = pretrained.fingerprint(wanted)
    assert pretrained.fingerprint(source.load(cfg)) == fingerprint
    mesh = sharding.make_mesh(2, 2, 2)
    with jax.set_mesh(mesh):
        split = source.load(cfg, mesh)
        assert pretrained.fingerprint(split) == fingerprint
        assert split["layers"]["query"].sharding.spec[:3] == (None, "fsdp", "tensor")
        mixed = source.load(cfg, mesh, dtype="float32")
        assert {x.dtype for x in jax.tree.leaves(mixed)} == {np.dtype("float32")}


def test_a_gguf_file_keeps_its_tokenizer(tmp_path):
    def words(writer):
        writer.add_tokenizer_model("llama")
        writer.add_token_list([f"t{i}" for i in range(make_models.V)])

    write_gguf(tmp_path / "model.gguf", "qwen3", change=words)
    run(tmp_path / "model.gguf", tmp_path / "own")
    run(tmp_path / "own", tmp_path / "hf")
    for name in ("own", "hf"):
        reader = gguf.GGUFReader(tmp_path / name / "tokenizer.gguf")
        assert reader.fields["tokenizer.ggml.tokens"].contents()[:2] == ["t0", "t1"]
        assert not reader.tensors
    make_models.write("qwen3", tmp_path / "wanted")
    same_tensors(tmp_path / "hf" / "model.safetensors", tmp_path / "wanted" / "model.safetensors")


def test_the_tokenizer_of_a_gguf_file_becomes_a_tokenizer_json(tmp_path):
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    template = "{% for m in messages %}<s>{{ m['content'] }}</s>{% endfor %}"

    def words(writer):
        tokens = ["<s>", "</s>", *letters, "he", "hel"]
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list(tokens)
        writer.add_token_types([3, 3, *[1] * (len(tokens) - 2)])
        writer.add_token_merges(["h e", "he l"])
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(1)
        writer.add_add_bos_token(True)
        writer.add_chat_template(template)

    write_gguf(tmp_path / "model.gguf", "qwen3", change=words)
    run(tmp_path / "model.gguf", tmp_path / "own")
    run(tmp_path / "own", tmp_path / "hf")
    assert not (tmp_path / "hf" / "tokenizer.gguf").exists()
    paths = [tmp_path / name for name in ("model.gguf", "own", "hf")]
    for text in ("hello\n\nwhere  is 12?", "<s> is text"):
        ids = [Pretrained(path).prompt(text) for path in paths]
        assert ids[0] == ids[1] == ids[2] and ids[0][0] == 0
    chats = [Pretrained(path, chats=True) for path in paths]
    assert len({tuple(chat.prompt("hello")) for chat in chats}) == 1
    assert [chat.stop_ids for chat in chats] == [(1,)] * 3
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "hf" / "tokenizer.json"))
    assert library.encode("hello").ids == Pretrained(paths[0]).prompt("hello")


# ---- runs ----------------------------------------------------------------------------------------


def test_a_run_becomes_a_llama_folder(tmp_path):
    cfg = default.get_config()
    cfg.model.preset = "tiny"
    exp = experiment.make(cfg, jax.devices()[:1])
    workdir.claim(cfg, tmp_path / "run", dict)
    params = random_params(exp.model_cfg)
    meta = {"round": 3}
    checkpoint.save(tmp_path / "run" / "best", 3, params, None, meta, keep=1)
    jax.set_mesh(None)
    run(tmp_path / "run", tmp_path / "hf")
    jax.set_mesh(None)
    source = pretrained.open(tmp_path / "hf")
    assert source.config["architectures"] == ["LlamaForCausalLM"]
    assert source.config["eos_token_id"] == exp.tokenizer.eos_id
    assert source.config["max_position_embeddings"] == exp.cfg.sequence_length
    cfg = dataclasses.replace(exp.model_cfg, dtype="float32")
    assert source.model_config() == cfg
    found = source.load(cfg)
    jax.tree.map(np.testing.assert_array_equal, found, params)


def test_a_runs_adapter_becomes_a_peft_folder_or_is_merged(tmp_path, capsys):
    make_models.write("mistral", tmp_path / "base", 20)  # as many words as addition has symbols
    cfg = default.get_config(tuned="lora")
    cfg.model.source = str(tmp_path / "base")
    cfg.tokenizer.name = "characters"
    exp = experiment.make(cfg, jax.devices()[:1])
    workdir.claim(cfg, tmp_path / "run", dict)
    rng = np.random.default_rng(0)
    shapes = exp.abstract_state().params
    trained = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32) * 0.1, shapes)
    trained = jax.tree.map(jax.numpy.asarray, trained)
    meta = exp.stamped({"round": 2})
    checkpoint.save(tmp_path / "run" / "best", 2, trained, None, meta, keep=1)
    run(tmp_path / "run", tmp_path / "adapter")
    source = pretrained.open(tmp_path / "base")
    own = source.model_config()
    adapter = peft.read(tmp_path / "adapter", own, source.family)
    assert adapter.base == str(tmp_path / "base")
    assert (adapter.rank, adapter.scale) == (cfg.tune.rank, cfg.tune.alpha / cfg.tune.rank)
    jax.tree.map(np.testing.assert_array_equal, adapter.lora, trained["lora"])
    run(tmp_path / "run", tmp_path / "merged", "--merge")
    base = tmp_path / "base"
    jax.set_mesh(None)
    run(tmp_path / "adapter", tmp_path / "other", f"--base={base}")
    same_tensors(
        tmp_path / "merged" / "model.safetensors", tmp_path / "other" / "model.safetensors"
    )
    wanted = peft.merge(source.load(own), adapter.lora, adapter.scale)
    merged = pretrained.open(tmp_path / "merged").load(own)
    jax.tree.map(np.testing.assert_array_equal, merged, wanted)
    assert "name its model by --base" in refused(capsys, tmp_path / "adapter", tmp_path / "x")
    with pytest.raises(UserError, match="at the scale 2, and config.tune.alpha / rank is 6.25"):
        other = cfg.copy_and_resolve_references()
        other.tune.alpha = 100.0
        experiment.make(other, jax.devices()[:1]).check_stamp(meta, tmp_path)


def test_a_run_whose_model_has_moved(tmp_path, capsys):
    make_models.write("llama3", tmp_path / "base", 20)
    cfg = default.get_config(tuned="lora")
    cfg.model.source = str(tmp_path / "base")
    cfg.tokenizer.name = "characters"
    exp = experiment.make(cfg, jax.devices()[:1])
    workdir.claim(cfg, tmp_path / "run", dict)
    meta = exp.stamped({"round": 1})
    checkpoint.save(tmp_path / "run" / "best", 1, exp.initial_params(), None, meta, keep=1)
    jax.set_mesh(None)
    (tmp_path / "base").rename(tmp_path / "moved")
    problem = refused(capsys, tmp_path / "run", tmp_path / "adapter")
    assert f"The model of {tmp_path / 'run'}: " in problem and "--base=PATH says" in problem
    run(tmp_path / "run", tmp_path / "adapter", f"--base={tmp_path / 'moved'}")
    about = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert about["base_model_name_or_path"] == str(tmp_path / "moved")
    make_models.write("llama3", tmp_path / "other", 20)
    tensors = load_file(tmp_path / "other" / "model.safetensors")
    tensors["model.norm.weight"] += 1
    save_file(tensors, tmp_path / "other" / "model.safetensors")
    jax.set_mesh(None)
    problem = refused(capsys, tmp_path / "run", tmp_path / "x", f"--base={tmp_path / 'other'}")
    assert "was trained beside a frozen model" in problem


def test_a_run_is_exported_with_the_tokenizer_that_it_was_trained_with(tmp_path):
    base = published.chat_model(tmp_path / "base")
    own = published.write(tmp_path / "own", ["<s>", "</s>"], eos_token="</s>")
    cfg = default.get_config()
    cfg.model.source = str(base)
    cfg.tokenizer.name = "pretrained"
    cfg.tokenizer.path = str(own)
    exp = experiment.make(cfg, jax.devices()[:1])
    workdir.claim(cfg, tmp_path / "run", dict)
    params = exp.initial_params()
    checkpoint.save(tmp_path / "run" / "best", 1, params, None, {"round": 1}, keep=1)
    jax.set_mesh(None)
    run(tmp_path / "run", tmp_path / "hf")
    about = json.loads((tmp_path / "hf" / "tokenizer_config.json").read_text())
    assert about == json.loads((own / "tokenizer_config.json").read_text())
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["eos_token_id"] == exp.tokenizer.eos_id == 257


# ---- what is refused -----------------------------------------------------------------------------


def test_mistakes_are_one_sentence(tmp_path, capsys):
    make_models.write("llama3", tmp_path / "hf")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    hf, new = tmp_path / "hf", tmp_path / "new"
    assert "takes two paths, SOURCE and DEST, not 1" in refused(capsys, hf)
    assert "takes two paths, SOURCE and DEST, not 0" in refused(capsys)
    assert "no such file or folder" in refused(capsys, tmp_path / "nothing", new)
    assert "there is something already" in refused(capsys, hf, tmp_path / "full")
    assert "this is inside of" in refused(capsys, hf, hf / "new")
    assert "is no run that trained an adapter" in refused(capsys, hf, new, "--merge")
    assert "is neither a PEFT folder nor a run" in refused(capsys, hf, new, f"--base={hf}")
    assert "flag 'workdir'" in refused(capsys, hf, new, "--workdir=x")
    (hf / "config.json").write_text("{}")
    assert "model_type is None" in refused(capsys, hf, new)
    (hf / "config.json").write_text('{"rounds": {}, "algorithm": {}}')
    assert "config.json" in refused(capsys, hf, new)
    assert not new.exists() and sorted(p.name for p in tmp_path.iterdir()) == ["full", "hf"]


def test_a_damaged_model_json(tmp_path):
    make_models.write("llama3", tmp_path / "hf")
    run(tmp_path / "hf", tmp_path / "own")
    path = tmp_path / "own" / "model.json"
    about = json.loads(path.read_text())

    def problem(**changes) -> str:
        path.write_text(json.dumps(about | changes))
        with pytest.raises(UserError) as error:
            pretrained.open(tmp_path / "own").model_config()
        assert "model.json" in str(error.value)
        return str(error.value)

    assert "'format' is 2" in problem(format=2)
    assert "'model' is a list, not an object" in problem(model=[])
    assert "there is no family 'x'" in problem(family="x")
    assert "does not describe a model" in problem(model=about["model"] | {"colour": 1})
    assert "does not describe a model" in problem(model={"width": 3})
    assert "does not describe a model" in problem(model=about["model"] | {"num_heads": "4"})
    assert "does not describe a model" in problem(model=about["model"] | {"num_kv_heads": 0})
    assert "does not describe a model" in problem(model=about["model"] | {"rope_scaling": {"a": 1}})
    path.write_text(json.dumps(about))
    params = tmp_path / "own" / "checkpoints" / "0"
    largest = max((p for p in params.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1] + b"x")
    source = pretrained.open(tmp_path / "own")
    with pytest.raises(UserError, match="damaged"):
        source.load(source.model_config())


def test_a_stop_in_the_middle_leaves_nothing_that_looks_whole(tmp_path, monkeypatch):
    make_models.write("llama3", tmp_path / "hf")

    def fail(*_, **__):
        raise OSError("no space")

    monkeypatch.setattr(checkpoint, "save", fail)
    with pytest.raises(OSError):
        run(tmp_path / "hf", tmp_path / "own")
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]
    assert export.SHARD_BYTES == 5 * 10**9
