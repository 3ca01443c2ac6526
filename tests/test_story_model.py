"""A real published model, stories260K, through the methods, with a LoRA and with a soft prompt."""

from __future__ import annotations

import itertools
import json

import jax
import numpy as np
import pytest

from reasoning_jax import api, default, experiment, loop, metrics, pretrained
from reasoning_jax.errors import UserError
from reasoning_jax.training import checkpoint_folders

pytestmark = pytest.mark.usefixtures("one_device")
NAMES = "Lily Tim Tom Ben Sue Mia Max Anna Jack Lucy Sam Spot".split()
THINGS = "ball park dog cat tree car box".split()
RATES = {"lora": 1e-2, "prompt": 1e-1}


@pytest.fixture(scope="module")
def stories(data_dir):
    return data_dir / "stories260k"


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """84 questions about who saw what, with worked answers, and preferences among answers."""
    folder = tmp_path_factory.mktemp("questions")
    records, pairs = [], []
    order = np.random.default_rng(0).permutation(len(NAMES) * len(THINGS))
    seen = [*itertools.product(NAMES, THINGS)]
    for name, thing in (seen[i] for i in order):
        question = f"{name} saw a big {thing}. Who saw it?"
        rationale = f"{name} saw the {thing}."
        records.append({"question": question, "rationale": rationale, "answer": name})
        prompt = f"Q: {question}\nA:"
        pairs.append(
            {
                "prompt": prompt,
                "chosen": f" {rationale}\nThe answer is {name}.",
                "rejected": f" The {thing} saw {name}.\nThe answer is {thing}.",
            }
        )
    for file, lines in (("who.jsonl", records), ("pairs.jsonl", pairs[:24])):
        (folder / file).write_text("\n".join(map(json.dumps, lines)) + "\n")
    return folder


@pytest.fixture(scope="module")
def config(stories, questions):
    def config(algorithm, tuned, **changes):
        cfg = default.get_config(algorithm=algorithm, task="jsonl", tuned=tuned)
        cfg.model.source = str(stories / "stories260K.bin")
        cfg.tokenizer.update(name="sentencepiece", path=str(stories / "tok512.model"))
        cfg.task.update(path=str(questions / "who.jsonl"), kind="text", rationale="rationale")
        cfg.task.held_out = 8
        cfg.update(sequence_length=128, batch_size=8, log_every=1)
        cfg.rounds.update(count=2, examples=16, updates=6, growth=1.0, min_kept_rows=0)
        cfg.rounds.restart = False
        cfg.sampling.update(batch_size=16, max_new_tokens=32, temperature=1.0)
        cfg.optim.update(learning_rate=RATES[tuned] / 10, warmup=2)
        cfg.base.update(learning_rate=RATES[tuned])
        if algorithm == "dpo":
            cfg.algorithm.pairs = str(questions / "pairs.jsonl")
            cfg.rounds.examples = 0
            cfg.sequence_length = 192  # both sides of a pair, with their soft prompts
        if algorithm == "policy_gradient":
            cfg.algorithm.num_samples = 8
            cfg.rounds.update(examples=8, updates=2, online=True)
        if algorithm == "trice":
            cfg.rounds.update(examples=8, updates=1, online=True)
        for key, value in changes.items():
            section, _, name = key.partition("__")
            cfg[section][name] = value
        return cfg

    return config


@pytest.fixture(scope="module", params=["lora", "prompt"])
def tuned(request):
    return request.param


@pytest.fixture(scope="module")
def base(config, tuned, tmp_path_factory):
    """A run whose base stage has taught the adapter to answer at all."""
    directory = tmp_path_factory.mktemp(f"base_{tuned}")
    cfg = config("star", tuned, base__num_updates=80, rounds__count=0)
    loop.train(cfg, directory)
    return directory


def losses(directory, round):
    lines = metrics.read(directory)
    return [m["update/loss"] for m in lines if m["phase"] == "update" and m["round"] == round]


def test_the_base_stage_teaches_the_adapter_and_leaves_the_model(base, config, tuned, stories):
    first, *_, last = losses(base, 0)
    assert last < 0.5 * first
    exp = experiment.make(config("star", tuned))
    source = pretrained.open(stories / "stories260K.bin")
    assert exp.base_fingerprint == pretrained.fingerprint(exp.frozen)
    with jax.set_mesh(exp.mesh):
        fresh = source.load(exp.model_cfg, exp.mesh, dtype="float32")
        assert pretrained.fingerprint(fresh) == exp.base_fingerprint
    # What is saved is the adapter, not the model's million bytes.
    [step] = checkpoint_folders.steps(base / "base")
    size = sum(p.stat().st_size for p in (base / "base" / str(step)).rglob("*") if p.is_file())
    assert size < {"lora": 500_000, "prompt": 60_000}[tuned]
    accuracy = api.open(base).evaluate("train")["eval/accuracy"]
    assert accuracy > 0.3


@pytest.mark.parametrize("algorithm", ["star", "trice", "dpo", "policy_gradient"])
def test_a_method_runs_two_rounds_from_it(algorithm, base, config, tuned, tmp_path):
    cfg = config(algorithm, tuned, base__init_from=str(base))
    loop.train(cfg, tmp_path)
    trained = [*losses(tmp_path, 1), *losses(tmp_path, 2)]
    assert trained and np.isfinite(trained).all()
    if algorithm in ("star", "dpo"):  # in each round: the next has other rows
        # After one round STaR's model says what it is taught, and little is left to learn.
        for round in {"star": [1], "dpo": [1, 2]}[algorithm]:
            first, *_ = losses(tmp_path, round)
            assert np.mean(losses(tmp_path, round)[-3:]) < first
    if algorithm == "dpo":
        assert trained[0] == pytest.approx(np.log(2), abs=1e-4)
    run = api.open(tmp_path)
    exp, params, _ = run._on_all_devices
    assert set(params) == {"lora" if tuned == "lora" else "soft_prompt"}
    assert exp.base_fingerprint == experiment.make(cfg).base_fingerprint
    [record] = run.sample(["Tim saw a big car. Who saw it?"])
    assert record["rationale"]


def test_an_adapter_of_another_model_is_refused(base, config, tuned, stories, tmp_path):
    """The same shapes, other numbers: a file of which one weight has changed."""
    content = bytearray((stories / "stories260K.bin").read_bytes())
    content[5000:5004] = np.float32(0.5).tobytes()
    (tmp_path / "other.bin").write_bytes(content)
    cfg = config("star", tuned, base__init_from=str(base))
    cfg.model.source = str(tmp_path / "other.bin")
    with pytest.raises(UserError, match="trained beside a frozen model with the fingerprint"):
        loop.train(cfg, tmp_path / "run")
