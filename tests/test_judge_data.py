"""The tasks of judges: LLMBar, RewardBench's format, MT-Bench, self-instruct's instructions."""

from __future__ import annotations

import collections
import dataclasses
import json

import graded
import pyarrow as pa
import pytest
import speaking
from ml_collections import ConfigDict
from pyarrow import parquet

from reasoning_jax import default, extraction, graders, systems, tasks, templates
from reasoning_jax.errors import UserError
from reasoning_jax.graders import judge
from reasoning_jax.tasks import CORRECT, UNPARSED, WRONG, comparisons
from reasoning_jax.tasks import reward_bench as bench

llmbar, reward_bench = tasks.get("llmbar"), tasks.get("reward_bench")
mt_bench, self_instruct = tasks.get("mt_bench"), tasks.get("self_instruct")
PART_FILES = (
    "Natural.json",
    "Adversarial/Neighbor.json",
    "Adversarial/GPTInst.json",
    "Adversarial/GPTOut.json",
    "Adversarial/Manual.json",
    "Processed_MT-Bench.json",
)


def config(task, path, **keys):
    return ConfigDict(dataclasses.asdict(task.Config(path=str(path), **keys)))


def lines(records):
    return "".join(json.dumps(record) + "\n" for record in records)


def output_pair(i, label=1):
    return {"input": f"Say {i}.", "output_1": f"{i}", "output_2": f"not {i}", "label": label}


def write_llmbar(folder, count=2):
    """Parts of ``count`` pairs, the first of which is right in its first output; mt_bench: 52."""
    (folder / "Adversarial").mkdir()
    for number, name in enumerate(PART_FILES):
        size = 52 if number == 5 else count
        records = [output_pair(10 * number + i, label=1 + i % 2) for i in range(size)]
        (folder / name).write_text(json.dumps(records))
    return folder


# ---- comparisons ---------------------------------------------------------------------------------


def test_a_pair_is_asked_as_a_judge_is(tmp_path):
    folder = write_llmbar(tmp_path)
    cfg = config(llmbar, folder)
    example, other = llmbar.load(cfg, "natural")
    text = llmbar.prompt(example, cfg)
    assert "Request:\nSay 0.\n" in text
    assert "assistant A:\n0\n" in text and "assistant B:\nnot 0\n" in text
    assert (example.answer, other.answer, example.part) == ("A", "B", "natural")
    assert llmbar.prompt(example, cfg, hint="A") == f"{text} ([[A]])"
    assert llmbar.target(example, direct=True) == " [[A]]"
    with pytest.raises(UserError, match="no judgements to train on"):
        llmbar.target(example)
    [swapped, _] = llmbar.load(config(llmbar, folder, order="swapped"), "natural")
    assert (swapped.first, swapped.second, swapped.answer) == ("not 0", "0", "B")
    assert swapped.id == example.id and "assistant A:\nnot 0\n" in swapped.question


def test_the_prompt_of_the_task_is_that_of_the_judge(tmp_path):
    """Both orders of the task are the two prompts of ``judge.compare``."""
    folder = write_llmbar(tmp_path)
    rollout = speaking.rollout(lambda text: "[[A]]")
    shown = llmbar.load(config(llmbar, folder), "natural")
    swapped = llmbar.load(config(llmbar, folder, order="swapped"), "natural")
    asked = [(example.instruction, example.first, example.second) for example in shown]
    judge.compare(rollout, asked, "pairwise", max_new_tokens=9, purpose="compare")
    assert sorted(rollout.policy.asked) == sorted(e.question for e in [*shown, *swapped])


@pytest.mark.parametrize(
    "text, verdict",
    [
        (" It follows. [[A]]", CORRECT),
        ("[[B]]", WRONG),
        ("[[C]]", WRONG),  # a tie is a judgement, but right of no pair
        ("[[A]] or [[B]]", UNPARSED),
        ("A", UNPARSED),
        ("", UNPARSED),
    ],
)
def test_verdicts(tmp_path, text, verdict):
    [example, _] = llmbar.load(config(llmbar, write_llmbar(tmp_path)), "natural")
    assert graded.verdict(llmbar, text, example) == verdict


def test_another_template(tmp_path):
    folder = write_llmbar(tmp_path)
    [example, _] = llmbar.load(config(llmbar, folder, template="cards_pair"), "natural")
    assert example.question == " [J] Say 0. [A] 0 [B] not 0 [V]"
    with pytest.raises(UserError, match=r"additive\.txt: the field \{first\} is missing"):
        llmbar.load(config(llmbar, folder, template="additive"), "natural")
    with pytest.raises(UserError, match=r"config\.task\.template: there is no file 'rubric'"):
        llmbar.load(config(llmbar, folder, template="rubric"), "natural")


def test_no_key_of_them_has_no_effect():
    """How an answer ends is said by the template: none of these tasks says it again in a chat."""
    for name in ("llmbar", "reward_bench", "mt_bench", "self_instruct"):
        cfg = default.get_config(task=name).task
        assert "extraction" not in cfg and "prompting" not in cfg
        assert extraction.settle(cfg).path.endswith(name)


@pytest.mark.parametrize("order, letter", [("given", "A"), ("swapped", "B")])
def test_a_judge_that_branches(tmp_path, order, letter):
    """The system bsm: criteria for the instruction alone; of both outputs the shorter one wins."""

    def speak(text):
        if "Which qualities matter" in text:
            assert text.endswith("Request:\nSay 0.") and "not 0" not in text
            return "- short"
        first = text.partition("Answer A:\n")[2].partition("\n")[0]
        return "A: 5\nB: 1" if first == "0" else "A: 1\nB: 5"

    cfg = config(llmbar, write_llmbar(tmp_path), order=order)
    keys = {"path": cfg.path, "order": order}
    rollout = speaking.rollout(speak, task="llmbar", keys=keys, max_length=2048)
    system = default.section(systems, "bsm")
    system.variant = "judge"
    [sample] = systems.get("bsm").answer(rollout, llmbar.load(cfg, "natural")[:1], system)
    assert (sample.answer, sample.verdict) == (letter, CORRECT)


# ---- LLMBar --------------------------------------------------------------------------------------


def test_the_splits_of_llmbar(tmp_path):
    cfg = config(llmbar, write_llmbar(tmp_path))
    parts = ("natural", "neighbor", "gptinst", "gptout", "manual")
    for number, part in enumerate((*parts, "mt_bench")):
        examples = llmbar.load(cfg, part)
        assert [example.id for example in examples[:2]] == [number * 100_000, number * 100_000 + 1]
        assert examples[0].instruction == f"Say {10 * number}." and examples[0].part == part
    sizes = {name: len(llmbar.load(cfg, name)) for name in ("adversarial", "test", "validation")}
    assert sizes["adversarial"] == 8 and sizes["test"] == 10
    train, held_out = (llmbar.load(cfg, split) for split in ("train", "validation"))
    assert sorted(e.id for e in [*train, *held_out]) == [e.id for e in llmbar.load(cfg, "mt_bench")]
    assert 8 <= len(held_out) <= 18  # of 52 instructions
    assert not {e.instruction for e in train} & {e.instruction for e in held_out}
    levels = collections.Counter(llmbar.difficulty(e) for e in llmbar.load(cfg, "test"))
    assert levels == {("natural", 0): 2} | {(part, 1): 2 for part in parts[1:]}
    with pytest.raises(UserError, match="llmbar has no split 'given' as it has no judgements"):
        llmbar.load(cfg, "given")
    with pytest.raises(UserError, match="no split 'dev'; it has natural, neighbor"):
        llmbar.load(cfg, "dev")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"label": 3}, "'label' must be 1 or 2"),
        ({"label": True}, "'label' must be 1 or 2"),
        ({"label": "1"}, "'label' must be 1 or 2"),
        ({"output_2": ""}, "'output_2' is empty"),
        ({"input": None}, "'input' is null, not text"),
        ({"input": "\ud800"}, r"'input' holds \\ud800"),
    ],
)
def test_a_malformed_pair(tmp_path, change, message):
    folder = write_llmbar(tmp_path)
    (folder / "Natural.json").write_text(json.dumps([output_pair(0), output_pair(1) | change]))
    with pytest.raises(UserError, match=rf"Natural\.json, record 2: {message}"):
        llmbar.load(config(llmbar, folder), "test")


def test_too_few_pairs_for_training(tmp_path):
    folder = write_llmbar(tmp_path)
    (folder / PART_FILES[5]).write_text(json.dumps([output_pair(0)]))
    with pytest.raises(UserError, match="MT-Bench.json: no pair is of (train|validation); more"):
        for split in ("train", "validation"):
            llmbar.load(config(llmbar, folder), split)


def test_the_published_pairs(data_dir):
    if not (data_dir / "llmbar").is_dir():
        pytest.skip(f"there is no LLMBar at {data_dir}")
    cfg = config(llmbar, data_dir / "llmbar")
    sizes = {"natural": 100, "neighbor": 134, "gptinst": 92, "gptout": 47, "manual": 46}
    assert {part: len(llmbar.load(cfg, part)) for part in sizes} == sizes
    examples = llmbar.load(cfg, "test")
    assert len({example.id for example in examples}) == 419
    assert collections.Counter(example.answer for example in examples) == {"A": 206, "B": 213}
    train, held_out = (llmbar.load(cfg, split) for split in ("train", "validation"))
    assert len(train) + len(held_out) == len(llmbar.load(cfg, "mt_bench")) == 200
    assert not {e.instruction for e in train} & {e.instruction for e in held_out}
    assert 30 <= len(held_out) <= 70
    for example in examples:
        assert graded.verdict(llmbar, llmbar.target(example, direct=True), example) == CORRECT


# ---- RewardBench ---------------------------------------------------------------------------------

REWARDED = [
    {"prompt": f"p{i}", "chosen": f"good {i}", "rejected": f"bad {i}", "subset": subset, "id": i}
    for i, subset in enumerate(["alpacaeval-easy", "hep-cpp", "refusals-offensive", "mine"])
]


def test_a_file_of_reward_bench(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(lines(REWARDED))
    examples = reward_bench.load(config(reward_bench, path), "test")
    for i, example in enumerate(examples):
        is_first = bench.place_of(i) == 0
        assert example.answer == ("A" if is_first else "B")
        both = [f"good {i}", f"bad {i}"]
        assert [example.first, example.second] == (both if is_first else both[::-1])
    assert {example.answer for example in examples} == {"A", "B"}
    assert [reward_bench.difficulty(example) for example in examples] == [
        ("alpacaeval_easy", 1),
        ("hep_cpp", 4),
        ("refusals_offensive", 3),
        ("mine", 0),
    ]
    # The order goes with the id, not with the place in the file.
    path.write_text(lines(REWARDED[::-1]))
    moved = reward_bench.load(config(reward_bench, path), "test")
    assert [example.question for example in moved] == [e.question for e in examples[::-1]]
    with pytest.raises(UserError, match="no split 'raw' of one file; it has test"):
        reward_bench.load(config(reward_bench, path), "raw")


def test_a_folder_of_reward_bench_as_published(tmp_path):
    """The columns and file names of the published Parquet files."""
    full = [record | {"chosen_model": "x", "rejected_model": "y"} for record in REWARDED]
    name = "filtered-00000-of-00001.parquet"
    parquet.write_table(pa.Table.from_pylist(full), tmp_path / name)
    (tmp_path / "raw.jsonl").write_text(lines([*REWARDED, REWARDED[0]]))
    cfg = config(reward_bench, tmp_path)
    sizes = {split: len(reward_bench.load(cfg, split)) for split in ("test", "filtered", "raw")}
    assert sizes == {"test": 4, "filtered": 4, "raw": 5}
    with pytest.raises(UserError, match="no split 'train'; it has test, filtered, raw"):
        reward_bench.load(cfg, "train")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"chosen": [{"role": "user"}]}, "'chosen' is a list, not text"),
        ({"subset": " "}, "'subset' is empty"),
        ({"id": 1.5}, "'id' must be a whole number or a text"),
        ({"id": None}, "'id' must be a whole number or a text"),
        ({"id": "\ud800"}, r"'id' holds \\ud800"),
    ],
)
def test_a_malformed_record_of_reward_bench(tmp_path, change, message):
    path = tmp_path / "pairs.jsonl"
    path.write_text(lines([REWARDED[0], REWARDED[1] | change]))
    with pytest.raises(UserError, match=rf"pairs\.jsonl, line 2: {message}"):
        reward_bench.load(config(reward_bench, path), "test")
    del change
    path.write_text(lines([{"prompt": "p", "chosen": "c"}]))
    with pytest.raises(UserError, match="line 1: the key 'rejected' is missing"):
        reward_bench.load(config(reward_bench, path), "test")


def test_the_orders_of_reward_bench_are_balanced():
    places = [bench.place_of(i) for i in range(2985)]
    assert sum(places) / 2985 == pytest.approx(0.5, abs=0.02)
    assert [bench.place_of(f"{i}") for i in range(9)] == places[:9]


# ---- MT-Bench ------------------------------------------------------------------------------------

QUESTIONS = [
    {"question_id": 81, "category": "writing", "turns": ["Write.", "Again, shorter."]},
    {"question_id": 101, "category": "common-sense", "turns": ["1+1?", "And 2+2?"]},
]
ANSWERS = [{"question_id": 101, "choices": [{"index": 0, "turns": ["2", "4"]}]}]


def write_mt_bench(folder, questions=QUESTIONS, answers=ANSWERS, name="mt_bench"):
    (folder / name / "reference_answer").mkdir(parents=True)
    (folder / name / "question.jsonl").write_text(lines(questions))
    (folder / name / "reference_answer" / "gpt-4.jsonl").write_text(lines(answers))
    return folder


def test_first_questions(tmp_path):
    cfg = config(mt_bench, write_mt_bench(tmp_path))
    writing, adding = mt_bench.load(cfg, "test")
    assert (writing.question, writing.answer, writing.turns) == ("Write.", "", ())
    assert (adding.question, adding.answer, adding.id) == ("1+1?", "2", 101)
    assert mt_bench.prompt(adding, cfg) == "Q: 1+1?\nA:"
    assert mt_bench.difficulty(adding) == ("common_sense", 1)
    assert mt_bench.judged_request(writing) == "Write."
    assert mt_bench.judged_request(adding).endswith("to check the answer against:\n2")
    assert mt_bench.target(adding) == " 2"
    with pytest.raises(UserError, match="no reference answer"):
        mt_bench.target(writing)


def test_a_second_question_goes_on_from_the_reference_answer(tmp_path):
    cfg = config(mt_bench, write_mt_bench(tmp_path), turn=2)
    [example] = mt_bench.load(cfg, "mt_bench")
    assert (example.question, example.answer) == ("And 2+2?", "4")
    assert example.turns == (("user", "1+1?"), ("assistant", "2"))
    assert mt_bench.difficulty(example) == ("common_sense", 2)
    request = mt_bench.judged_request(example)
    assert request.startswith("User: 1+1?\n\nAssistant: 2\n\nUser: And 2+2?\n\n")
    assert request.endswith(":\n4")


def test_vicuna_bench_has_one_turn(tmp_path):
    one = [{"question_id": 1, "category": "generic", "turns": ["How?"]}]
    folder = write_mt_bench(tmp_path, one, [], "vicuna_bench")
    answers = [{"question_id": 1, "choices": [{"turns": ["So."]}]}]
    (folder / "vicuna_bench" / "reference_answer" / "gpt-4.jsonl").write_text(lines(answers))
    [example] = mt_bench.load(config(mt_bench, folder), "vicuna_bench")
    assert (example.id, example.question, example.answer) == (1_000_001, "How?", "So.")
    with pytest.raises(UserError, match=r"config\.task\.turn: .*vicuna_bench have one turn; set 1"):
        mt_bench.load(config(mt_bench, folder, turn=2), "vicuna_bench")
    with pytest.raises(UserError, match="no split 'train'; it has test, mt_bench, vicuna_bench"):
        mt_bench.load(config(mt_bench, folder), "train")


def test_a_judge_sees_the_conversation_and_the_reference(tmp_path):
    [example] = mt_bench.load(config(mt_bench, write_mt_bench(tmp_path), turn=2), "test")
    cfg = default.get_config(task="mt_bench")
    assert cfg.grader.name == "judge"
    cfg.grader.num_judgements = 1
    model = speaking.rollout(lambda text: "Score: 5")
    sample = graded.Completion(example=example, text="Four.")
    [grade] = graders.make(cfg, mt_bench)([sample], model)
    assert (grade.score, grade.verdict) == (1.0, CORRECT)
    [asked] = model.policy.asked
    assert f"Request:\n{mt_bench.judged_request(example)}\n" in asked and "Four." in asked
    for name in ("exact", "math", "rewards"):
        other = default.get_config(task="mt_bench", grader=name)
        with pytest.raises(UserError, match=rf"config\.grader\.name: {name} reads .* set judge"):
            graders.make(other, mt_bench)


@pytest.mark.parametrize(
    "questions, answers, message",
    [
        ([QUESTIONS[0], QUESTIONS[0]], [], r"question\.jsonl, line 2: the 'question_id' 81 is"),
        ([QUESTIONS[0] | {"question_id": "81"}], [], r"line 1: 'question_id' must be a whole"),
        ([QUESTIONS[0] | {"turns": ["a"]}], [], r"line 1: 'turns' must be a list of 2 texts"),
        ([QUESTIONS[0] | {"turns": ["a", 2]}], [], r"line 1: a text of 'turns' is a number"),
        ([QUESTIONS[0] | {"category": ""}], [], r"line 1: 'category' is empty"),
        (QUESTIONS[:1], ANSWERS, r"gpt-4\.jsonl, line 1: there is no question .*101"),
        (QUESTIONS, [{"question_id": 101, "choices": []}], r"line 1: 'choices' must be a list"),
        (
            QUESTIONS,
            [{"question_id": 101, "choices": [{"turns": ["2"]}]}],
            r"gpt-4\.jsonl, line 1: 'turns' must be a list of 2 texts",
        ),
    ],
)
def test_malformed_questions(tmp_path, questions, answers, message):
    good = {"question_id": questions[0]["question_id"], "choices": [{"turns": ["x", "y"]}]}
    folder = write_mt_bench(tmp_path, questions, answers or [good])
    with pytest.raises(UserError, match=message):
        mt_bench.load(config(mt_bench, folder), "test")


def test_the_published_questions(data_dir):
    if not (data_dir / "mt_bench").is_dir():
        pytest.skip(f"there is no MT-Bench at {data_dir}")
    cfg = config(mt_bench, data_dir / "mt_bench")
    first = mt_bench.load(cfg, "test")
    assert len(first) == 80 and sum(bool(example.answer) for example in first) == 30
    assert collections.Counter(example.category for example in first).keys() == {
        *("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
    }
    cfg.turn = 2
    assert len(mt_bench.load(cfg, "test")) == 30
    cfg.turn = 1
    assert len(mt_bench.load(cfg, "vicuna_bench")) == 80


# ---- self-instruct -------------------------------------------------------------------------------


def seed_task(i, **changes):
    instance = {"input": f"in {i}" if i % 2 else "", "output": f"out {i}"}
    return {"id": f"seed_task_{i}", "instruction": f"Do {i}.", "instances": [instance]} | changes


def write_self_instruct(folder, seeds):
    (folder / "seed_tasks.jsonl").write_text(lines(seeds))
    (folder / "user_oriented_instructions.jsonl").write_text(lines([seed_task(3), seed_task(4)]))
    return folder


def test_seed_tasks(tmp_path):
    seeds = [seed_task(i) for i in range(27)]
    cfg = config(self_instruct, write_self_instruct(tmp_path, seeds))
    train, given = (self_instruct.load(cfg, split) for split in ("train", "given"))
    assert [example.question for example in train] == ["Do 0.", "Do 1.\n\nin 1"]
    assert [example.rationale for example in train] == [None, None]
    assert [example.rationale for example in given] == ["out 0", "out 1"]
    assert self_instruct.target(given[0]) == " out 0"
    assert self_instruct.prompt(given[1], cfg) == "Q: Do 1.\n\nin 1\nA:"
    held_out = self_instruct.load(cfg, "validation")
    assert [example.id for example in held_out] == list(range(2, 27))
    users = self_instruct.load(cfg, "test")
    assert [example.id for example in users] == [tasks.IDS, tasks.IDS + 1]
    assert self_instruct.extract(" a\nb ") == "a\nb" and self_instruct.extract(" ") is None
    with pytest.raises(UserError, match="no split 'dev'; it has train, given"):
        self_instruct.load(cfg, "dev")


def test_an_instance_is_an_example(tmp_path):
    instances = [{"input": "a", "output": "b"}, {"input": "c", "output": "d"}]
    seeds = [seed_task(0, instances=instances), *(seed_task(i) for i in range(1, 26))]
    seeds[-1] = seed_task(25, instances=instances)
    cfg = config(self_instruct, write_self_instruct(tmp_path, seeds))
    given = self_instruct.load(cfg, "given")
    assert [(e.question, e.answer) for e in given] == [("Do 0.\n\na", "b"), ("Do 0.\n\nc", "d")]
    held_out = self_instruct.load(cfg, "validation")  # by tasks: all instances of the last 25
    assert len(held_out) == 26 and held_out[-1].question == "Do 25.\n\nc"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"instruction": ""}, "'instruction' is empty"),
        ({"instances": []}, "'instances' must be a list of objects"),
        ({"instances": ["x"]}, "an instance must be an object with a text 'input'"),
        ({"instances": [{"input": None, "output": "x"}]}, "an instance must be an object"),
        ({"instances": [{"input": "", "output": ""}]}, "in an instance: 'output' is empty"),
        ({"instances": [{"input": ""}]}, "in an instance: the key 'output' is missing"),
        ({"instances": [{"input": "\ud800", "output": "x"}]}, "in an instance: 'input' holds"),
    ],
)
def test_a_malformed_seed_task(tmp_path, changes, message):
    seeds = [seed_task(0), seed_task(1, **changes), *(seed_task(i) for i in range(2, 30))]
    cfg = config(self_instruct, write_self_instruct(tmp_path, seeds))
    with pytest.raises(UserError, match=rf"seed_tasks\.jsonl, line 2.*{message}"):
        self_instruct.load(cfg, "train")


def test_too_few_seed_tasks(tmp_path):
    cfg = config(self_instruct, write_self_instruct(tmp_path, [seed_task(0)]))
    with pytest.raises(UserError, match=r"seed_tasks\.jsonl: more than 25 tasks are needed"):
        self_instruct.load(cfg, "train")


@pytest.mark.parametrize(
    "text, question",
    [
        (" Write a poem about rain.\n", "Write a poem about rain."),
        ("Name three rivers.\nOne a line.", "Name three rivers.\nOne a line."),
        ("Sort these five words.\n\nRequest: Name a river.", "Sort these five words."),
        ("Name it.", None),
        ("word " * 151, None),
        ("- write a poem about rain", None),
        ("Draw a picture of the sea.", None),
        ("Describe the picturesque old harbour.", "Describe the picturesque old harbour."),
        ("", None),
    ],
)
def test_what_a_model_invents(text, question):
    found = self_instruct.invented(text, 7)
    assert (found and found.question) == question
    assert found is None or (found.id, found.answer) == (7, "")


def test_the_published_instructions(data_dir):
    if not (data_dir / "self_instruct").is_dir():
        pytest.skip(f"there are no seed tasks at {data_dir}")
    cfg = config(self_instruct, data_dir / "self_instruct")
    splits = {name: self_instruct.load(cfg, name) for name in ("given", "validation", "test")}
    assert [len(examples) for examples in splits.values()] == [150, 25, 252]
    instructions = [e.question for e in splits["given"]]
    kept = [text for text in instructions if self_instruct.invented(text, 0)]
    assert len(kept) > 0.8 * len(instructions)  # the rule keeps most of what people wrote


def test_the_fields_of_comparisons_are_those_of_the_template():
    fields = {field.name for field in dataclasses.fields(comparisons.Comparison)}
    assert fields >= set(templates.PAIR_FIELDS)
