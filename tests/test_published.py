"""Published models without a run: the command, and the same in a notebook."""

from __future__ import annotations

import json

import jax
import pytest
from golden import make_models

import reasoning_jax as rj
from reasoning_jax import api, command_line, evaluate, experiment, loaded, published
from reasoning_jax.model import decoder

QUESTIONS = [{"question": f"What is {i} and 1?", "answer": f"#### {i + 1}"} for i in range(6)]
SMALL = {
    "tokenizer.name": "bytes",
    "model.preset": "tiny",
    "sequence_length": 1024,
    "sampling.max_new_tokens": 4,
    "sampling.batch_size": 8,
    "batch_size": 8,
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of GSM8K's kind, and a tiny random model in the place of a published one."""
    data = tmp_path / "data" / "gsm8k"
    data.mkdir(parents=True)
    (data / "test.jsonl").write_text("".join(json.dumps(r) + "\n" for r in QUESTIONS))
    monkeypatch.setenv("REASONING_DATA", str(tmp_path / "data"))
    loads = []

    def load_source(exp):
        loads.append(exp.cfg.model.source)
        return decoder.init(jax.random.key(0), exp.model_cfg)

    monkeypatch.setattr(loaded, "load_source", load_source)
    monkeypatch.setattr(experiment.pretrained, "open", lambda path: None)
    monkeypatch.setattr(published, "_longest", lambda source: published.SEQUENCE_LENGTH)
    return tmp_path


def test_a_prompt_is_no_longer_than_the_model_was_made_for(tmp_path):
    make_models.write("gpt2", tmp_path)
    longest = make_models.CONFIGS["gpt2"]["n_positions"]
    cfg = published.config(str(tmp_path), "gsm8k", {})
    assert (cfg.sequence_length, cfg.sampling.max_new_tokens) == (longest, longest // 2)


def write_shots(folder, count: int = 3) -> None:
    shots = folder / "data" / "cot_exemplars"
    shots.mkdir()
    lines = [
        json.dumps({"question": f"{i}?", "target": f"The answer is {i}."}) for i in range(count)
    ]
    (shots / "gsm8k_8shot_wei.jsonl").write_text("\n".join(lines))


def command(*arguments, small=SMALL):
    keys = [f"--config.{key}={value}" for key, value in small.items()]
    command_line.run(
        evaluate.main,
        evaluate._define,
        new_config=evaluate._new_config,
        unused=evaluate.UNUSED,
        argv=["--model=some/model", *arguments, *keys],
    )


def said(capsys, *arguments, **options) -> str:
    """The sentence about a mistake."""
    with pytest.raises(SystemExit) as error:
        command(*arguments, **options)
    assert error.value.code == 1
    out, err = capsys.readouterr()
    assert len(err.splitlines()) == 1 and not out
    return err


def test_a_table_and_nothing_written(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    command("--task=gsm8k", "--samples=2", "--num_examples=4")
    out = capsys.readouterr().out
    assert "greedy" in out and "maj@2" in out and "pass@2" in out
    assert out.splitlines()[-2:] == [
        "test split, 4 examples, some/model",
        "100% of the completions were cut off at sampling.max_new_tokens=4.",
    ]
    assert sorted(folder.rglob("*")) == before


def test_the_figures_are_written_where_they_are_asked_for(folder, capsys):
    path = folder / "figures.json"
    command("--task=gsm8k", f"--output={path}")
    values = json.loads(path.read_text())
    assert values["config"]["model.preset"] == "tiny" and "task.name" not in values["config"]
    assert values["model"] == "some/model" and values["task"] == "gsm8k"
    assert values["eval/count"] == 6 and "round" not in values
    assert str(path) in capsys.readouterr().out
    command("--task=gsm8k", f"--workdir={folder / 'new'}", "--split=test")
    assert json.loads((folder / "new" / "evaluation_gsm8k_test.json").read_text()) == values


def test_what_is_asked(folder):
    write_shots(folder)
    cfg = published.config("m", "gsm8k", {"shots": 2, "num_examples": 3, "max_new_tokens": 7})
    assert (cfg.task.shots, cfg.task.num_shots) == ("wei", 2)
    assert (cfg.eval.num_test, cfg.eval.num_examples, cfg.sampling.max_new_tokens) == (3, 3, 7)
    assert cfg.model.source == "m"
    cfg = published.config("m", "commonsense_qa", {"prompting": "zero_shot", "chat": True})
    assert cfg.task.prompting == "zero_shot" and cfg.task.shots == "" and cfg.tokenizer.chat


def test_the_prompt_has_the_first_shots(folder, monkeypatch):
    write_shots(folder)
    prompts = []
    original = api.LoadedModel._load

    def load(self, exp):
        roll = exp.rollout({}, "x", 0)
        ids = roll.prompt_ids(exp.load("test")[0])
        prompts.append(exp.tokenizer.decode(ids.tolist()))
        return original(self, exp)

    monkeypatch.setattr(api.LoadedModel, "_load", load)
    command("--task=gsm8k", "--shots=2")
    assert prompts == [
        "Q: 0?\nA: The answer is 0.\n\nQ: 1?\nA: The answer is 1.\n\nQ: What is 0 and 1?\nA:"
    ]


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ([], "--task is missing"),
        (["--task=gsm9k"], "there is no task 'gsm9k'"),
        (["--task=gsm8k", "--config=configs/star_gsm8k.py"], "--config and --model"),
        (["--task=gsm8k", "--output=a.json", "--workdir=b"], "--output and --workdir both"),
        (["--task=gsm8k", "--output=none/a.json"], "--output=none/a.json: there is no folder none"),
        (["--task=gsm8k", "--output=/"], "--output=/: this is a folder"),
        (["--task=gsm8k", "--temperature=1"], "--temperature goes with --samples"),
        (["--task=gsm8k", "--config.sampling.top_k=1"], "top_k has no effect here: nothing"),
        (["--task=gsm8k", "--config.eval.split=x"], "split has no effect here: --split says"),
        (["--task=gsm8k", "--config.tune=lora"], "config.tune: lora is for training"),
        (["--task=gsm8k", "--shots=9"], "num_shots: .* has 3 examples, not 9"),
        (["--task=gsm8k", "--shots=0"], "--shots=0: this must be"),
        (["--task=gsm8k", "--shots=2", "--prompting=zero_shot"], "task.shots=wei.* no effect"),
        (["--task=gsm8k", "--prompting=two_shot"], "'two_shot' is not one of few_shot, zero_shot"),
        (["--task=addition", "--prompting=zero_shot"], "addition has no key prompting"),
        (
            ["--task=gsm8k", "--num_examples=2", "--config.eval.num_test=3"],
            "num_examples=2 and config.eval.num_test=3 contradict",
        ),
        (["--task=gsm8k", "--split=given", "--samples=-1"], "--samples=-1"),
        (["--task=gsm8k", "--config.task.extraction=box"], "extraction: 'box' is not one of"),
    ],
)
def test_flags_that_do_not_go_together(folder, capsys, arguments, sentence):
    write_shots(folder)
    import re

    assert re.search(sentence, said(capsys, *arguments))
    assert not (folder / "a.json").exists()


def test_a_run_has_none_of_these_flags(folder, capsys):
    for flag in ("--task=gsm8k", "--shots=8", "--chat", "--output=x", "--num_examples=3"):
        with pytest.raises(SystemExit):
            command_line.run(
                evaluate.main,
                evaluate._define,
                new_config=evaluate._new_config,
                unused=evaluate.UNUSED,
                argv=[f"--workdir={folder}", flag],
            )
        name = flag.partition("=")[0]
        assert capsys.readouterr().err.startswith(f"{name} goes with --model")


def test_a_folder_of_a_run_is_no_place(folder, capsys):
    (folder / "config.json").write_text("{}")
    line = said(capsys, "--task=gsm8k", f"--workdir={folder}")
    assert "holds a run" in line


def test_in_a_notebook(folder):
    write_shots(folder)
    model = rj.load_model("some/model", task="gsm8k", shots=2, **SMALL)
    assert repr(model) == "LoadedModel('some/model')"
    values = model.evaluate("test", samples=2)
    assert values["eval/count"] == 6 and 0 <= values["eval/maj_at_2"] <= 1
    [record] = model.sample(["What is 1 and 1?"])
    assert set(record) == {"question", "rationale", "answer", "finished"}
    with pytest.raises(rj.UserError, match="no key config.tsk.shots"):
        rj.load_model("some/model", task="gsm8k", **{"tsk.shots": "x"})
    with pytest.raises(rj.UserError, match="no key config.shot"):
        rj.load_model("some/model", task="gsm8k", shot=2)
