"""BIG-Bench Hard: published questions solved, others made like them, splits, and grading."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json
import re

import graded
import numpy as np
import pytest
from ml_collections import ConfigDict

from reasoning_jax import tasks
from reasoning_jax.tasks import CORRECT, UNPARSED, WRONG, Example, bbh, bbh_forms
from reasoning_jax.tokenizer import Characters

TASK = tasks.get("bbh")
MADE = [name for name in bbh_forms.NAMES if bbh_forms.get(name)]
SIZES = {
    f"tracking_shuffled_objects_{name}_objects": size for name, size in bbh_forms.SIZES.items()
}
SPLITS = ("train", "given", "validation")


def config(form, path="absent", **changes):
    levels = getattr(bbh_forms.get(form), "LEVELS", (1,))
    keys = {"num_train": 300, "num_eval": 60, "seed": 0, "given": (20,) * len(levels)} | changes
    return ConfigDict(dataclasses.asdict(bbh.Config(form=form, path=str(path), **keys)))


CFG = config("navigate")  # for prompts, which are the same whatever the config


def solved(form, question, id=0):
    answer, rationale = bbh_forms.get(form).solve(question)
    return bbh.FormExample(id=id, question=question, answer=answer, rationale=rationale, form=form)


def problem(answer, question="?"):
    return Example(id=0, question=question, answer=answer)


def grade(text, example):
    return graded.verdict(TASK, text, example)


def questions(examples):
    return [e.question for e in examples]


# Rationales, by hand

WALK = """If you follow these instructions, do you return to the starting point? {}
Options:
- Yes
- No"""
BALLS = """Alice, Bob, and Claire are playing a game. At the start of the game, they are each \
holding a ball: Alice has a red ball, Bob has a orange ball, and Claire has a pink ball.
As the game progresses, pairs of players trade balls. First, Claire and Bob swap balls. Finally, \
Bob and Alice swap balls. At the end of the game, Claire has the
Options:
(A) red ball
(B) orange ball
(C) pink ball"""
INPUT = (
    "Complete the rest of the sequence, making sure that the parentheses are closed properly. "
    "Input:"
)


@pytest.mark.parametrize(
    "form, question, answer, rationale",
    [
        ("boolean_expressions", "not ( False or not False ) is", "False",
         "= not ( False or True )\n= not ( True )\n= not True\n= False"),
        ("boolean_expressions", "True or True and False is", "True", "= True or False\n= True"),
        ("boolean_expressions", "True and ( False ) or True is", "True",
         "= True and False or True\n= False or True\n= True"),
        ("boolean_expressions", "False and ( True or True ) or not True is", "False",
         "= False and ( True or True ) or False\n= False and ( True ) or False\n"
         "= False and True or False\n"
         "= False or False\n= False"),
        ("boolean_expressions", "True or False and ( False or False ) is", "True",
         "= True or False and ( False )\n= True or False and False\n= True or False\n= True"),
        ("web_of_lies",
         "Question: Ka lies. Jim says Ka lies. Sal says Jim lies. Does Sal tell the truth?", "No",
         "| Ka lies.\n| Jim tells the truth.\n| Sal lies."),
        ("navigate",
         WALK.format("Always face forward. Take 3 steps left. Take 1 step backward. "
                     "Take 3 steps right."), "No",
         "(-3,0) north\n(-3,-1) north\n(0,-1) north"),
        ("navigate",
         WALK.format("Turn left. Take 10 steps. Turn around. Take 10 steps. Turn right."), "Yes",
         "(0,0) west\n(-10,0) west\n(-10,0) east\n(0,0) east\n(0,0) south"),
        ("object_counting",
         "I have two yams, an oven, and a head of broccoli. How many vegetables do I have?", "3",
         "| two yams: 2\n| a head of broccoli: 3"),
        ("object_counting", "I have a car, and five violins. How many objects do I have?", "6",
         "| a car: 1\n| five violins: 6"),
        ("tracking_shuffled_objects_three_objects", BALLS, "(B)",
         "| Claire Bob: ACB\n| Bob Alice: CAB"),
        ("dyck_languages", f"{INPUT} [ < ( ) > {{ [ ] <", "> } ]",
         "| [a <b (c )c >b\n| {b [c ]c\n| <c\nc <,b {,a ["),
        ("multistep_arithmetic_two", "((-3 + 8 * 5 - 0) * (9 * -4 - -7 + 2)) =",
         "-999", "-3 + 40 - 0\n37 - 0\n37\n-36 - -7 + 2\n-29 + 2\n-27\n37 * -27\n"
         "37 * -20 + 37 * -7\n-740 + 37 * -7\n-740 + -259\n-999"),
        ("multistep_arithmetic_two", "((9 * 8 * 3 + 1) * (9 - 1 * 0 + 3)) =", "2604",
         "72 * 3 + 1\n216 + 1\n217\n9 - 0 + 3\n9 + 3\n12\n217 * 12\n217 * 10 + 217 * 2\n"
         "2170 + 217 * 2\n2170 + 434\n2604"),
    ],
)  # fmt: skip
def test_rationales(form, question, answer, rationale):
    made = solved(form, question)
    assert (made.answer, made.rationale) == (answer, rationale)
    assert bbh.target(made) == f" {rationale} So the answer is {answer}."
    assert bbh.target(made, direct=True) == f" So the answer is {answer}."
    assert bbh.steps(bbh.target(made)) == len(rationale.split("\n"))
    assert bbh.steps(bbh.target(made, direct=True)) == 0


def test_prompts():
    made = solved("boolean_expressions", "True and False is")
    assert bbh.prompt(made, CFG) == "Q: True and False is\nA:"
    assert bbh.prompt(made, CFG, hint=made.answer) == "Q: True and False is\n(False)\nA:"
    with pytest.raises(ValueError, match="no worked examples"):
        bbh.target(problem("Yes"))


@pytest.mark.parametrize("form", MADE)
def test_other_texts_are_not_solved(form):
    module = bbh_forms.get(form)
    question = module.question(np.random.default_rng(0), module.LEVELS[-1])
    half = len(question) // 2
    for bad in ("", "What is 1 + 1?", question[::-1], question[half:], question[:half]):
        if form == "dyck_languages" and bad and question.startswith(bad):
            continue  # the beginning of such a question is one too
        with pytest.raises(ValueError, match=re.escape(repr(bad))):
            module.solve(bad)


# The published questions


@pytest.mark.parametrize("form", MADE)
def test_every_published_question_is_solved(data_dir, form):
    examples = bbh.load(config(form, data_dir / "bbh"), "test")
    assert len(examples) == 250 and examples[0].id == 30_000_000
    assert all(e.rationale is None for e in examples)
    for e in examples:
        worked = solved(form, e.question)
        assert worked.answer == e.answer
        text = bbh.target(worked)
        assert grade(text, e) == CORRECT and bbh.wrong_line(text, e) is None
        assert bbh.difficulty(e)[1] in bbh_forms.get(form).LEVELS


def grams(form, question):
    """Runs of three words or signs, with one symbol for all names, things and numbers."""
    things = "|".join(re.findall(r"\n\([A-G]\) (.*)", question))
    patterns = {
        "web_of_lies": r"\b(?!Question|Does)[A-Z]\w+",
        "object_counting": r"(?<=, )[a-z ]+?(?=[,.])|(?<=have )[a-z ]+?(?=,)",
        "navigate": r"\d+",
        "multistep_arithmetic_two": r"\d",
    }
    names = r"\b(?:Alice|Bob|Claire|Dave|Eve|Fred|Gertrude)\b"
    pattern = patterns.get(form, f"{things}|{names}" if things else "^$")
    words = re.findall(r"\w+|\s|[^\w\s]", re.sub(pattern, "X", question))
    return set(zip(words, words[1:], words[2:], strict=False))


@pytest.mark.parametrize("form", MADE)
def test_made_questions_look_like_published_ones(data_dir, form):
    module, rng = bbh_forms.get(form), np.random.default_rng(0)
    real = [question for question, _ in bbh_forms.published(data_dir / "bbh", form)]
    levels = [module.difficulty(question)[1] for question in real for _ in range(4)]
    made = [module.question(rng, level) for level in levels]

    def repeated(question):
        swaps = [set(pair) for pair in re.findall(r", (\w+) and (\w+) s", question)]
        return {a == b for a, b in itertools.pairwise(swaps)}

    for traits in (
        lambda q: grams(form, q),
        lambda q: set(re.findall(r"\w+|\S", q)),
        lambda q: set(re.findall(r"-?\d+", q)),
        lambda q: {len(module.solve(q)[0].split())},  # brackets left open
        repeated,
    ):
        theirs, ours = (set(itertools.chain(*map(traits, source))) for source in (real, made))
        assert theirs <= ours and ours - theirs <= {"donkeys"}
    same_rates(real, made, lambda q: [module.solve(q)[0]], at_least=61)  # of two or three answers
    same_rates(real, made, lambda q: set(re.findall(r"\w+", q)), at_least=1)
    theirs, ours = (
        np.mean([module.solve(q)[1].count("\n") + 1 for q in source]) for source in (real, made)
    )
    assert ours == pytest.approx(theirs, rel=0.03)


def same_rates(real, made, words, at_least):
    """The words of so many real questions at least are in as many of those that were made."""
    theirs, ours = (
        collections.Counter(w for q in source for w in words(q)) for source in (real, made)
    )
    for word in (w for w in theirs if theirs[w] >= at_least):
        assert ours[word] / len(made) == pytest.approx(theirs[word] / len(real), abs=0.1), word


# Made questions


@pytest.mark.parametrize("form", MADE)
def test_every_level_can_be_made(form):
    module, rng = bbh_forms.get(form), np.random.default_rng(0)
    for level in module.LEVELS:
        for question in (module.question(rng, level) for _ in range(20)):
            made = solved(form, question)
            text = bbh.target(made)
            assert bbh.difficulty(made)[1] == level
            assert grade(text, made) == CORRECT and bbh.wrong_line(text, made) is None
            # Python reads these the same way.
            if form in ("boolean_expressions", "multistep_arithmetic_two"):
                lines = [question.removesuffix(" is").removesuffix(" =")]
                lines += made.rationale.split("\n")
                values = [str(eval(line.removeprefix("= "))) for line in lines]
                assert values[0] == values[-1] == made.answer
                assert form != "boolean_expressions" or len(set(values)) == 1


def test_boolean_expressions_are_all_as_likely():
    """All 22 of four words, and nothing else."""
    form, rng = bbh_forms.get("boolean_expressions"), np.random.default_rng(0)
    counts = collections.Counter(form.question(rng, 4) for _ in range(2200))
    assert len(counts) == 22 and min(counts.values()) > 60 and max(counts.values()) < 145


@pytest.mark.parametrize("form", MADE)
def test_splits_never_meet(form):
    cfg = config(form)
    splits = {name: bbh.load(cfg, name) for name in SPLITS}
    for one, other in itertools.combinations(SPLITS, 2):
        assert not set(questions(splits[one])) & set(questions(splits[other]))
    ids = [e.id for examples in splits.values() for e in examples]
    assert len(set(ids)) == len(ids) and max(ids) < 2**31 and ids[0] == 0
    levels = bbh_forms.get(form).LEVELS
    assert form not in SIZES or levels == tuple(range(1, SIZES[form] + 1))
    per_level = {}
    for name, examples in splits.items():
        found = [bbh.difficulty(e)[1] for e in examples]
        per_level[name] = [found.count(level) for level in levels]
    assert per_level["given"] == list(cfg.given) and sum(per_level["train"]) == 300
    assert max(per_level["train"]) - min(per_level["train"]) <= 1
    assert max(per_level["validation"]) == -(-60 // len(levels))
    assert min(per_level["validation"]) >= 1
    assert len(set(questions(splits["validation"]))) == len(splits["validation"])
    for name, examples in splits.items():
        for e in examples:
            worked = solved(form, e.question, e.id)
            assert e == (worked if name == "given" else dataclasses.replace(worked, rationale=None))


def test_seeds_change_the_problems_and_nothing_else_does():
    cfg = config("web_of_lies", given=(5, 6, 7, 0))
    for name in SPLITS:
        assert bbh.load(cfg, name) == bbh.load(cfg, name)
        other = config("web_of_lies", seed=1, given=cfg.given)
        assert questions(bbh.load(cfg, name)) != questions(bbh.load(other, name))
    more = bbh.load(config("web_of_lies", num_train=600), "train")
    assert set(questions(bbh.load(cfg, "train"))) <= set(questions(more)) and len(more) == 600


def test_a_level_with_few_questions():
    """There are 12 expressions of three words: each belongs to one split.

    The split repeats it, except in validation.
    """
    cfg = config("boolean_expressions", num_train=600, num_eval=600, given=(100,))
    short = {}
    for name in SPLITS:
        short[name] = [q for q in questions(bbh.load(cfg, name)) if len(q.split()) == 4]
    assert len(short["train"]) == len(short["given"]) == 100
    assert len(set(short["train"])) + len(set(short["given"])) + len(short["validation"]) == 12


def test_no_published_question_is_made(data_dir):
    """Of the 2122 expressions of eight words 250 are published: they are left out.

    Where the files are absent, they are not.
    """
    real = {
        question for question, _ in bbh_forms.published(data_dir / "bbh", "boolean_expressions")
    }
    found = {}
    for path in (data_dir / "bbh", "absent"):
        sizes = {"num_train": 6 * 800, "num_eval": 6 * 150, "given": (0, 0, 0, 0, 0, 600)}
        cfg = config("boolean_expressions", path, **sizes)
        made = [q for name in SPLITS for q in questions(bbh.load(cfg, name)) if len(q.split()) == 9]
        found[path] = set(made) & real
    assert not found[data_dir / "bbh"] and len(found["absent"]) > 100


def test_wrong_line_is_the_first_that_differs():
    made = solved("navigate", WALK.format("Take 4 steps. Turn around. Take 4 steps."))
    lines = bbh.target(made).split("\n")
    for i in range(len(lines)):
        assert bbh.wrong_line("\n".join([*lines[:i], f"{lines[i]}1", *lines[i + 1 :]]), made) == i
    lucky = "\n".join(lines).replace("(0,4) south", "(0,5) south")
    assert grade(lucky, made) == CORRECT and bbh.wrong_line(lucky, made) == 1
    assert bbh.wrong_line("\n".join(lines[:-1]), made) == 1
    assert bbh.wrong_line("\n".join([*lines, "."]), made) == 3
    assert bbh.wrong_line(" So the answer is Yes.", made) is None
    assert bbh.wrong_line(" So the answer is No.", made) == 0
    assert bbh.wrong_line("", made) == 0
    assert bbh.wrong_line("nonsense", problem("Yes", made.question)) is None


# The alphabet


@pytest.fixture(scope="module")
def tok():
    assert len(bbh.ALPHABET) < 600
    return Characters(bbh.ALPHABET)


# The most tokens of a published question: of its prompt, and of its prompt and worked answer.
LONGEST = {
    "boolean_expressions": (11, 49),
    "dyck_languages": (102, 323),
    "multistep_arithmetic_two": (28, 173),
    "navigate": (33, 93),
    "object_counting": (42, 100),
    "tracking_shuffled_objects_five_objects": (74, 122),
    "tracking_shuffled_objects_seven_objects": (100, 180),
    "tracking_shuffled_objects_three_objects": (48, 72),
    "web_of_lies": (24, 42),
}


def test_sequences_are_short(data_dir, tok):
    for form in MADE:
        records = bbh_forms.published(data_dir / "bbh", form)
        examples = [solved(form, question) for question, _ in records]
        prompts = [len(tok.encode(bbh.prompt(e, CFG))) for e in examples]
        targets = [len(tok.encode(bbh.target(e))) for e in examples]
        sums = [prompt + target for prompt, target in zip(prompts, targets, strict=True)]
        assert (max(prompts), max(sums)) == LONGEST[form]


def test_the_alphabet_spells_made_questions_with_every_symbol(tok):
    """No symbol is hidden by another one, and a word of a form is one symbol wherever it stands."""
    used = set()
    for form in MADE:
        letters = set()
        for e in bbh.load(config(form, given=(40,) * len(bbh_forms.get(form).LEVELS)), "given"):
            prompt, target = bbh.prompt(e, CFG), bbh.target(e)
            for text in (prompt, bbh.prompt(e, CFG, hint=e.answer), target):
                ids = tok.encode(text)
                assert tok.decode(ids) == text
                used.update(ids)
            symbols = {tok.decode([i]) for i in tok.encode(prompt + target)}
            letters |= {symbol for symbol in symbols if symbol.isalpha() and len(symbol) == 1}
        allowed = "abcdefghijklmnopqrstuvwxyz" if form == "dyck_languages" else ""
        assert letters <= set("ABCDEFG" if "tracking" in form else allowed)
    words = {symbol for symbol in tok.alphabet if len(symbol) > 1}
    assert words <= {tok.decode([i]) for i in used}


def test_the_alphabet_spells_every_published_question(data_dir, tok):
    files = (data_dir / "bbh" / "bbh").glob("*.json")
    assert sorted(path.stem for path in files) == sorted(bbh_forms.NAMES)
    for form in bbh_forms.NAMES:
        records = bbh_forms.published(data_dir / "bbh", form)
        assert not {c for pair in records for text in pair for c in text} - set(tok.alphabet)
        question, answer = records[0]
        text = f"Q: {question}\nA: So the answer is {answer}."
        assert tok.decode(tok.encode(text)) == text


# The grader


@pytest.mark.parametrize(
    "text, answer",
    [
        (" So the answer is No.", "No"),
        ("So the answer is (A).", "(A)"),
        ("so THE ANSWER IS: True.\n", "True"),
        ("The answer is ] ) >.", "] ) >"),
        ("the answer is 3.5.", "3.5"),
        ("the answer is -35", "-35"),
        ("the answer is A. No, the answer is B.", "B"),
        ("the answer is 8. That is all.", None),
        ("the answer is costume counterpart oven.", "costume counterpart oven"),
        ("the answer is\n(A).", "(A)"),
        ("the answer is Yes.\n\nQ: And now?\nA: the answer is No.", "Yes"),
        ("the answer is Yes\nor No.", None),
        ("the answer is not (A).", "not (A)"),
        ("no\n\nQ: x\nA: the answer is No.", None),
        ("the answer island.", None),
        ("the answer is .", None),
        ("the answer is", None),
        ("the answer is \n", None),
        ("The answer.", None),
        ("", None),
    ],
)
def test_extract(text, answer):
    assert bbh.extract(text) == answer
    assert answer is not None or grade(text, problem("No")) == UNPARSED


@pytest.mark.parametrize(
    "gold, right, wrong",
    [
        (
            "(B)",
            "(B)|B|b|(b)|B.|B)|**(B)**| (B) |(B) some text",
            "(A)|A|(A) (B)|B some text|(BB)|not (B)|by|B or C",
        ),
        ("True", "True|true|TRUE|**True**", "False|True or False|Yes|1"),
        ("yes", "yes|Yes|plausible", "no|implausible|not yes"),
        ("No", "No|no|implausible", "Yes|plausible|None"),
        ("invalid", "invalid|Invalid", "valid|in valid"),
        ("-1960", "-1960|-1,960|−1960|-1960.0|-1 960", "1960|-196|-19600|-1960.5|-19 60"),
        ("8", "8|8.0|+8|08|$8$|8 objects", "9|80|eight|8 or 9|-8"),
        ("] ) >", "] ) >|])>|]  ) >", ") ]|] ) > >|[ ( <|] )"),
        (
            "act bee cat",
            "act bee cat|act, bee, cat|Act,Bee  cat",
            "act cat bee|act bee|act bee cat dog|actbeecat",
        ),
        ("it&t o'connell", "it&t o'connell|it&t, o'connell", "it&t oconnell"),
    ],
)
def test_grade(gold, right, wrong):
    for answers, is_right in ((right, True), (wrong, False)):
        for answer in answers.split("|"):
            verdict = grade(f"So the answer is {answer}.", problem(gold))
            assert (verdict == CORRECT) is is_right, answer


@pytest.mark.parametrize("form", bbh_forms.NAMES)
def test_the_answers_of_every_file(data_dir, form):
    records = bbh_forms.published(data_dir / "bbh", form)
    golds = list(dict.fromkeys(answer for _, answer in records))
    for gold, other in zip(golds, [*golds[1:], golds[0]], strict=True):
        example = problem(gold)
        texts = (gold, f" {gold} ", gold.lower(), gold.upper(), f"**{gold}**")
        for text in (*texts, gold.replace(" ", ", ")):
            verdict = grade(f"Hence.\nSo the answer is {text}.", example)
            assert verdict == CORRECT or (form == "dyck_languages" and "," in text), (gold, text)
        assert grade(f"So the answer is {other}.", example) in (WRONG, UNPARSED)
        assert grade(f"It is {gold}.", example) == UNPARSED


# Forms without a generator


@pytest.mark.parametrize(
    "form, sizes",
    [
        ("snarks", (106, 21, 72)),
        ("penguins_in_a_table", (87, 17, 59)),
        ("hyperbaton", (150, 30, 100)),
    ],
)
def test_published_splits(data_dir, form, sizes):
    cfg = config(form, data_dir / "bbh")
    train, validation, test = (bbh.load(cfg, name) for name in ("train", "validation", "test"))
    assert (len(train), len(validation), len(test)) == sizes and train[0].id == 0
    assert questions(train[-len(validation) :]) == questions(validation)
    records = bbh_forms.published(data_dir / "bbh", form)
    assert questions(train) + questions(test) == [question for question, _ in records]
    assert len({e.id for e in [*train, *validation, *test]}) == sum(sizes)
    assert bbh.wrong_line("nonsense", test[0]) is None
    assert bbh.difficulty(test[0]) == ("characters", len(test[0].question) // 200 * 200)
    with pytest.raises(ValueError, match=f"{form} has no worked examples.*train, validation, test"):
        bbh.load(cfg, "given")


def test_mistakes_are_one_sentence(tmp_path):
    assert len(bbh_forms.NAMES) == 27
    with pytest.raises(ValueError, match=r"no split 'dev'.*train.*test"):
        bbh.load(config("navigate"), "dev")
    with pytest.raises(ValueError, match=r"config\.task\.given names 5 levels"):
        bbh.load(config("web_of_lies", given=(1,) * 5), "given")
    with pytest.raises(ValueError, match="given split of web_of_lies is empty"):
        bbh.load(config("web_of_lies", given=(0,)), "given")
    for form, split in (("snarks", "train"), ("navigate", "test")):
        with pytest.raises(FileNotFoundError, match=rf"config\.task\.path: .*{form}\.json"):
            bbh.load(config(form, tmp_path), split)
    (tmp_path / "bbh").mkdir()
    path, good = tmp_path / "bbh" / "snarks.json", {"input": "?", "target": "(A)"}
    for text in ("[]", "{}", "3", *(f'{{"examples": {x}}}' for x in ("3", "null", "{}", "[]"))):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"snarks\.json: not a file of BIG-Bench Hard"):
            bbh.load(config("snarks", tmp_path), "train")
    for text, sentence in (
        ("{", "not valid JSON"),
        ("\xff", "line 1: this is not UTF-8"),
        ("[" * 9999, "nested"),
    ):
        path.write_text(text, encoding="latin-1")
        with pytest.raises(ValueError, match=rf"snarks\.json.*{sentence}"):
            bbh.load(config("snarks", tmp_path), "train")
    for bad in ({"input": "?"}, {"input": "?", "target": 3}, "?"):
        path.write_text(json.dumps({"examples": [good, bad]}))
        with pytest.raises(ValueError, match=r"snarks\.json, record 2: .*'target'"):
            bbh.load(config("snarks", tmp_path), "train")
    half = {"input": "\ud800", "target": "(A)"}
    path.write_text(json.dumps({"examples": [good, half]}))
    with pytest.raises(ValueError, match=r"snarks\.json, record 2: 'input' holds .ud800, half"):
        bbh.load(config("snarks", tmp_path), "train")


def test_a_published_question_that_its_form_cannot_read_is_named(tmp_path):
    """Grading line by line would fail in the middle of a run."""
    (tmp_path / "bbh").mkdir()
    path = tmp_path / "bbh" / "boolean_expressions.json"
    good = {"input": "not ( True ) is", "target": "False"}
    path.write_text(json.dumps({"examples": [good, {"input": "Who?", "target": "False"}]}))
    with pytest.raises(
        ValueError, match=r"boolean_expressions\.json, record 2: this is no questio"
    ):
        bbh.load(config("boolean_expressions", tmp_path), "test")
    path.write_text(json.dumps({"examples": [good, good]}))
    [first, second] = bbh.load(config("boolean_expressions", tmp_path), "test")
    assert second.where == f"{path}, record 2" and first.question == second.question
