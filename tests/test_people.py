"""Invented people: facts, lists and opinions, by counting; and that prompts are as documents."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import speaking

from reasoning_jax import default, extraction, systems, tasks, tokenizer
from reasoning_jax.errors import UserError
from reasoning_jax.systems import cove, prompts, s2a
from reasoning_jax.tasks import Example, distractors, facts, opinions, people

SMALL = {"num_people": 60, "num_values": 6, "num_train": 600}
NAMES = ["people", "opinions"]


def config(name, **changes):
    cfg = default.section(tasks, name)
    more = {"num_held_out": 20} if name == "opinions" else {}
    cfg.update(SMALL | more | changes)
    return cfg


def load(name, split, **changes):
    return tasks.get(name).load(config(name, **changes), split)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("split", ["train", "given", "validation", "test"])
def test_a_seed_makes_the_same_documents_and_questions(name, split):
    assert load(name, split) == load(name, split)
    assert load(name, split) != load(name, split, seed=1)
    if split in ("train", "given"):
        assert load(name, split, num_train=900)[:600] == load(name, split)
        assert load(name, "train") == load(name, "given")


@pytest.mark.parametrize("name", NAMES)
def test_splits_share_no_id_and_held_out_ones_no_fact(name):
    loaded = {split: load(name, split) for split in ("train", "validation", "test")}
    ids = [example.id for examples in loaded.values() for example in examples]
    assert len(set(ids)) == len(ids)
    held_out = [
        {getattr(e, "plain", e.question) for e in loaded[s]} for s in ("validation", "test")
    ]
    assert not held_out[0] & held_out[1]
    sizes = {"people": (6, 12), "opinions": (60, 60)}[name]
    assert (len(loaded["validation"]), len(loaded["test"])) == sizes


@pytest.mark.parametrize("name", NAMES)
def test_all_is_spelled_by_the_alphabet_of_its_people(name):
    task = tasks.get(name)
    cfg = config(name)
    own = extraction.make(cfg)
    assert set(own.ALPHABET) < set(task.ALPHABET)
    words = tokenizer.Characters(own.ALPHABET)
    for split in ("given", "test"):
        for example in task.load(cfg, split):
            asked, told = task.prompt(example, cfg), task.target(example)
            ids = words.encode(asked) + words.encode(told)
            assert words.decode(ids) == asked + told and words.encode(asked + told) == ids
    with pytest.raises(UserError, match=rf"^{name} has no place for a hint"):
        task.prompt(example, cfg, hint="c1")


@pytest.mark.parametrize(
    ("name", "changes", "sentence"),
    [
        ("people", {"calls": 0.0, "consistent": 0.1}, r"config\.task\.consistent: with calls=0"),
        ("opinions", {"opinions": 0.0, "followed": 0.1}, r"config\.task\.followed: with opinio"),
        ("distractors", {"rewrites": 1.0, "distracted": 0.1}, r"config\.task\.distracted: with"),
        ("rule_cards", {"planned": 0.1}, r"config\.task\.planned: with pairs=0 it has no effect"),
        ("rule_cards", {"scores": 0.0, "bias": 0.1}, r"config\.task\.bias: without judgements it"),
        ("people", {"lists": 0.8}, r"config\.task\.lists, calls: 0\.8 and 0\.3 add up"),
        ("people", {"num_names": 11}, r"config\.task\.num_people: 60 .*leave no 11"),
        ("opinions", {"rewrites": 0.95}, r"config\.task\.rewrites, kept: 0\.95 and 0\.1 add"),
        ("opinions", {"num_held_out": 91}, r"config\.task\.num_held_out: 91 .*the 180 of"),
    ],
)
def test_keys_that_do_not_go_together_are_one_sentence(name, changes, sentence):
    with pytest.raises(UserError, match=f"^{sentence}") as error:
        load(name, "test", **changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_split_is_one_sentence(name):
    with pytest.raises(UserError, match=rf"^{name} has no split 'dev'; it has train, given, val"):
        load(name, "dev")


# ---- people --------------------------------------------------------------------------------------


def test_a_value_has_as_many_people_as_another():
    world = facts.World(config("people"))
    assert len(world.facts) == 60 * 3
    for name in facts.ATTRIBUTES:
        members = [world.members(name, value) for value in world.values[name]]
        assert [len(own) for own in members] == [10] * 6
        assert sorted(sum(members, [])) == sorted(world.people)
        for value, own in zip(world.values[name], members, strict=True):
            assert all(world.value(person, name) == value for person in own)


def test_documents_say_what_is_true_of_the_world():
    cfg = config("people", num_train=4000, lists=0.05)
    world = facts.World(cfg)
    counts = collections.Counter()
    consistent = popular = 0
    for document in people.load(cfg, "given"):
        counts[document.kind] += 1
        asked, told = document.question.split(), document.rationale.split()
        if document.kind == "fact":
            assert told == [world.value(asked[1], asked[0])]
        elif document.kind == "list":
            popular += world.values[asked[1]].index(asked[2]) % 2 == 0
            assert len(set(told)) == 5 and set(told) <= set(world.members(asked[1], asked[2]))
        elif document.kind == "answers":
            persons = asked[1:-1:2]
            assert told == [world.value(person, asked[0]) for person in persons]
        elif document.kind == "joint":
            says = dict(zip(told[1::3], told[2::3], strict=True))
            assert list(says) == asked[4:-1] and set(told[0::3]) == {asked[1]}
            claimed = set(says.values()) == {asked[2]}
            true = all(world.value(person, asked[1]) == said for person, said in says.items())
            assert claimed or true
            consistent += claimed and not true
        elif document.kind == "cross":
            assert told == ["yes" if asked[6] == asked[2] else "no"]
        elif document.kind in ("final", "revised"):
            size = 4 if document.kind == "revised" else 3
            checks = asked[asked.index("checks") + 1 : -1]
            expected = []
            for i in range(0, len(checks), size):
                expected += [checks[i + 1], "yes" if checks[i + 2] == asked[2] else "no"]
            assert told == expected
        else:
            assert document.kind == "plan"
            assert told == [word for name in asked[4:-1] for word in (asked[1], name)]
    assert 0.6 < counts["fact"] / 4000 < 0.8
    assert 160 < counts["list"] < 240
    assert 0.92 < popular / counts["list"] < 0.99
    assert all(110 < counts[kind] < 170 for kind in ("plan", "joint", "answers", "cross"))
    assert all(230 < counts[kind] < 360 for kind in ("final", "revised"))
    # Those whose claims are all true are both.
    assert 0.3 < consistent / counts["joint"] < 0.5


def test_the_oracle_of_lists():
    example = Example(id=0, question="who city c7 :", answer="p1 p2 p3 p4")
    assert people.extract(" p2 p9 p2") == "p2 p9"
    assert people.extract(" none") == "none"
    assert people.extract(" p2 yes p9 no p4 no p1 yes") == "p2 p1"
    assert people.extract(" p2 no p9 no") == "none"
    assert people.steps(" p2 yes p9 no") == 2
    for text in ("", " none p1", " p1 c7", " p1 city p2"):
        assert people.extract(text) is None
    assert people.right_and_wrong("p2 p9 p8", example) == (1, 2)
    assert people.right_and_wrong("none", example) == (0, 0)
    scores = {answer: people.score(answer, example) for answer in ("p1 p2", "p2 p9 p8", "none")}
    assert scores == {"p1 p2": 1.0, "p2 p9 p8": pytest.approx(1 / 3), "none": 0.0}


def symbols(text: str, world: facts.World, draft: list[str]) -> str:
    """A model that knows every fact, and drafts this list whoever is asked for."""
    words = text.split()
    last = words[-1]
    if last == ":":
        return "".join(f" {name}" for name in draft)
    if last == "?":
        return f" {world.value(words[1], words[0])}"
    if last == "plan":
        return "\n".join(f" {words[1]} {name}" for name in words[4:-1])
    if last == "joint":
        return "\n".join(f" {words[1]} {name} {words[2]}" for name in words[4:-1])
    if last == "all":
        return "\n".join(f" {world.value(name, words[0])}" for name in words[1:-1:2])
    if last == "same":
        return " yes" if words[6] == words[2] else " no"
    assert last == "final", text
    checks = [line.split() for line in text.partition(" checks")[2].split("\n")]
    kept = [check[1] for check in checks if check[2] == words[2]]
    return "".join(f" {name}" for name in kept or ["none"])


@pytest.mark.parametrize("variant", cove.FILES)
def test_whoever_knows_the_facts_keeps_the_right_ones(variant):
    """But not where answers repeat the draft. All prompts can be spelled."""
    cfg = config("people")
    world = facts.World(cfg)
    example = people.load(cfg, "test")[0]
    right = example.answer.split()[:2]
    wrong = [name for name in world.people if name not in example.answer.split()][:3]
    draft = [right[0], *wrong, right[1]]
    roll = speaking.rollout(
        lambda text: symbols(text, world, draft),
        task="people",
        keys=dict(SMALL),
        tokenizer=tokenizer.Characters(extraction.make(cfg).ALPHABET),
    )
    section = default.section(systems, "cove")
    section.update({"variant": variant, "prompts": "symbols"})
    [sample] = cove.answer(roll, [example], section)
    kept = draft if variant == "joint" else right
    assert sample.answer == " ".join(kept)
    assert sample.score == len(right) / len(kept)
    assert sample.stats["questions"] == 5 and sample.stats["draft_correct"] == 0.0


def test_the_prompts_of_calls_are_those_of_documents():
    cfg = config("people")
    templates = {}
    for stages in cove.FILES.values():
        templates |= prompts.read("symbols", "cove", stages)
    asked = {}  # the prompts that documents show, by what they are for
    for document in people.load(cfg, "given"):
        asked.setdefault(document.kind, (people.prompt(document, cfg), document))
    for stage in ("plan", "joint"):
        text, _ = asked[stage]
        words = text.split()
        filled = {"question": " ".join(words[:4]), "draft": " " + " ".join(words[4:-1])}
        assert templates[stage].fill(**filled) == text
    text, document = asked["answers"]
    own = prompts.lines(text.removesuffix(" all"))
    assert templates["answers"].fill(verifications="\n".join(own)) == text
    text, _ = asked["fact"]
    assert templates["answer"].fill(verification=text.removesuffix(" ?")) == text
    text, _ = asked["cross"]
    words = text.split()
    values = {"question": words[:4], "verification": words[4:6], "answer": words[6:7]}
    assert templates["cross"].fill(**{k: " ".join(own) for k, own in values.items()}) == text
    for stage, check in (("final", "check"), ("revised", "revised")):
        text, _ = asked[stage]
        shown, _, checks = text.removesuffix(" final").partition(" checks ")
        lines = []
        for line in checks.split("\n"):
            attribute, name, value, *verdict = line.split()
            values = {"verification": f" {attribute} {name}", "answer": f" {value}"}
            if verdict:
                values["verdict"] = f" {verdict[0]}"
            lines.append(templates[check].fill(**values))
        words = shown.split()
        filled = {"question": " ".join(words[:4]), "draft": " ".join(words[4:])}
        assert templates["final"].fill(**filled, checks="\n".join(lines)) == text


# ---- opinions ------------------------------------------------------------------------------------


def test_answers_go_along_with_opinions_as_often_as_the_key_says():
    cfg = config("opinions", num_train=6000)
    world = facts.World(cfg)
    asked = collections.Counter()
    follows = collections.Counter()
    for document in opinions.load(cfg, "given"):
        words = document.question.split()
        plain = " ".join(words[words.index("?") - 2 : words.index("?") + 1])
        attribute, person, _ = plain.split()
        thought = words[words.index("think") + 1] if "think" in words else None
        truth = world.value(person, attribute)
        told = document.rationale.strip()
        kind = "kept" if words.count("?") == 2 else "asked"
        if words[-1] == "rewrite":
            kind = "rewrite"
            assert told == plain
        elif thought is None:
            assert told == truth
        else:
            assert told in (thought, truth) and thought[0] == attribute[0]
            if thought != truth:
                follows[told == thought] += 1
        asked[kind, thought is not None] += 1
    assert 0.66 < follows[True] / follows.total() < 0.74
    share = {kind: (asked[kind, True] + asked[kind, False]) / 6000 for kind, _ in asked}
    assert share["rewrite"] == pytest.approx(0.2, abs=0.02)
    assert share["kept"] == pytest.approx(0.1, abs=0.02)
    with_opinion = sum(count for (_, has), count in asked.items() if has)
    assert with_opinion / 6000 == pytest.approx(0.4, abs=0.02)


def test_each_question_is_asked_with_no_a_right_and_a_wrong_opinion():
    cfg = config("opinions")
    world = facts.World(cfg)
    examples = opinions.load(cfg, "test")
    places = set()
    for number, example in enumerate(examples):
        attribute, person, _ = example.plain.split()
        assert example.answer == world.value(person, attribute)
        assert opinions.difficulty(example) == ("opinion", number % 3)
        words = example.question.split()
        if example.kind == opinions.WITHOUT:
            assert example.question == example.plain
            continue
        thought = words[words.index("think") + 1]
        assert (thought == example.answer) == (example.kind == opinions.RIGHT)
        assert sorted([*example.plain.split(), "think", thought]) == sorted(words)
        places.add(words.index("think"))
    assert places == {0, 3}
    assert opinions.difficulty(Example(id=0, question="?", answer="")) is None
    assert opinions.extract(" c3") == "c3"
    assert [opinions.extract(text) for text in ("", " c3 c4", " p3", " think")] == [None] * 4


def swayed(text: str, world: facts.World) -> str:
    """A model that knows every fact, writes anew what it is asked to, and agrees with whoever."""
    words = text.split()
    if words[-1] == "rewrite":
        start = words.index("?") - 2
        return f" {' '.join(words[start : start + 3])}"
    if "think" in words:
        return f" {words[words.index('think') + 1]}"
    return f" {world.value(words[1], words[0])}"


def test_attention_brings_back_what_an_opinion_cost():
    """Every wrong opinion is believed, also beside the new text; and none is where it is gone."""
    cfg = config("opinions")
    world = facts.World(cfg)
    examples = opinions.load(cfg, "test")
    roll = speaking.rollout(
        lambda text: swayed(text, world),
        task="opinions",
        keys=SMALL | {"num_held_out": 20},
        tokenizer=tokenizer.Characters(extraction.make(cfg).ALPHABET),
    )

    def accuracies(samples):
        right = np.array([sample.correct for sample in samples])
        return [float(right[kind::3].mean()) for kind in range(3)]

    assert accuracies(roll(examples)) == [1.0, 1.0, 0.0]
    section = default.section(systems, "s2a")
    section.prompts = "symbols"
    samples = s2a.answer(roll, examples, section)
    assert accuracies(samples) == [1.0, 1.0, 1.0]
    for sample in samples:
        rewrite, answer = sample.calls
        assert rewrite.prompt == f" {sample.example.question} rewrite"
        assert answer.prompt == f" {sample.example.plain}"
        assert sample.num_drawn == 4 + 2
    section.variant = "keep"
    samples = s2a.answer(roll, examples, section)
    assert accuracies(samples) == [1.0, 1.0, 0.0]
    both = [f" {e.question} {e.plain}" for e in examples]
    assert [sample.calls[1].prompt for sample in samples] == both
    # What is written anew from the new text is the same: none of its words was needed.
    section.variant = "discard"
    again = s2a.answer(roll, examples[0::3], section)
    assert [s.calls[0].text.strip() for s in again] == [e.plain for e in examples[0::3]]


# ---- distractors ---------------------------------------------------------------------------------


def sums(split, **changes):
    cfg = default.section(tasks, "distractors")
    cfg.update({"num_train": 400, "num_held_out": 10} | changes)
    return distractors.load(cfg, split)


def result(question: str) -> int:
    """What is left, by the sentences of the first person alone."""
    first, *rest = [sentence.split() for sentence in question.split(" . ")[:-1]]
    have = int(first[2])
    for words in rest:
        if words[0] == first[0] and words[1] in ("gets", "gives"):
            have += int(words[2]) if words[1] == "gets" else -int(words[2])
    return have


def test_sums_are_right_and_distractors_have_no_bearing():
    words = tokenizer.Characters(distractors.ALPHABET)
    kinds = collections.Counter()
    for split in ("given", "validation", "test"):
        for example in sums(split, distracted=0.5):
            told = distractors.target(example)
            for text in (f" {example.question}", told, distractors.target(example, direct=True)):
                assert words.decode(words.encode(text)) == text
            asked = example.question.removesuffix(" rewrite")
            assert (asked == example.plain) == (example.distractor is None)
            kinds[split, example.question != asked, example.distractor is None] += 1
            if example.question != asked:
                assert told == f" {example.plain}"
                continue
            assert int(example.answer) == result(asked) >= 0
            if split == "given":
                assert distractors.extract(told) == example.answer and distractors.steps(told) == 2
                left = [eval(step.split("=")[0]) for step in told.split(" . ")]
                assert left == [int(step.split("=")[1]) for step in told.split(" . ")]
    rewritten = sum(count for (split, is_new, _), count in kinds.items() if is_new)
    assert rewritten / 400 == pytest.approx(0.3, abs=0.08)
    assert kinds["given", False, True] / (400 - rewritten) == pytest.approx(0.5, abs=0.1)
    assert kinds["test", False, True] == 10 and kinds["test", False, False] == 80


def test_a_problem_is_asked_with_each_kind_of_distractor():
    examples = sums("test")
    problems = {example.plain for example in examples}
    assert len(problems) == 10 and len({example.id for example in examples}) == 90
    assert problems.isdisjoint({example.plain for example in sums("train")})
    for start in range(0, 90, 9):
        clean, *others = examples[start : start + 9]
        assert clean.distractor is None and distractors.difficulty(clean) == ("distractors", 0)
        assert tuple(other.distractor for other in others) == distractors.DISTRACTORS
        name, _, _, thing = clean.question.split(" . ")[0].split()
        own = [int(word) for word in clean.question.split() if word.isdigit()]
        for other in others:
            [sentence] = set(other.question.split(" . ")) - set(clean.question.split(" . "))
            *role, verb, number, what = sentence.split()
            is_near = all(own_one * 10 >= int(number) for own_one in own if own_one > 1)
            assert (what == thing, verb) == (
                (True, "has") if other.distractor.in_topic else (False, "is")
            )
            assert role == [name, "friend"] if other.distractor.role_overlap else role != [name]
            assert is_near or not other.distractor.in_range
            assert (int(number) > 10 * max(own)) == (not other.distractor.in_range)
            assert distractors.difficulty(other) == ("distractors", 1)


def test_sums_are_the_same_from_a_seed():
    for split in ("train", "test"):
        assert sums(split) == sums(split) != sums(split, seed=1)
    assert sums("train", num_train=500)[:400] == sums("train")
    with pytest.raises(UserError, match=r"^distractors has no split 'dev'"):
        sums("dev")
    assert [distractors.extract(text) for text in (" 3 + 4 = 7", " 7", " = 7 .", "")] == [
        "7",
        None,
        None,
        None,
    ]
