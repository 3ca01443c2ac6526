"""bAbI: stories solved from their text alone, what rationales may say, balance, and shortcuts."""

from __future__ import annotations

import collections
import dataclasses
import itertools

import graded
import numpy as np
import pytest

from reasoning_jax import config, default, ranges, tasks, tokenizer
from reasoning_jax.errors import UserError
from reasoning_jax.tasks import CORRECT, UNPARSED, WRONG, Example, babi, stories
from reasoning_jax.tasks.stories import Story, orders, rules, shortcuts

TASK = tasks.get("babi")
FORMS = sorted(babi.FORMS)
LEVELS = range(1, stories.LEVELS + 1)


def section(**changes):
    cfg = default.section(tasks, "babi")
    cfg.update({"num_train": 60, "num_held_out": 30} | changes)
    return cfg


def drawn(form, level, count, seed=0):
    rng = np.random.default_rng([seed, level])
    return [babi.FORMS[form].draw(rng, level) for _ in range(count)]


def solved(form, question):
    return babi.ORACLES[form](*stories.sentences(question))


def example(form, question, answer, rationale=None):
    return babi.StoryExample(
        id=0, question=question, answer=answer, rationale=rationale, form=form, level=1
    )


# ---- the oracles ---------------------------------------------------------------------------------

PENS = "The pen is left of the cup. The jar is below the pen. The jar is right of the cup. "
SIDES = "The barn is just north of the attic. The dairy is just west of the barn. "
GIFTS = "Ada took the map. Ada gave the map to Ben. Ben gave the map to Ada. Ben took the rope. "
MOODS = "Ada is bored. Ben is tired. Ada went to the library. Ada is curious. "
HELD = "Ada went to the barn. Ada took the map. Ben went to the barn. Ada picked up the rope. "


@pytest.mark.parametrize(
    "form, question, answer",
    [
        ("one_fact", "Ada went to the barn. Ben walked to the attic. Where is Ada?", "barn"),
        ("one_fact", "Ada went to the barn. Ada walked to the attic. Where is Ada?", "attic"),
        ("yes_no", "Ada went to the barn. Ada went to the attic. Is Ada in the barn?", "no"),
        ("yes_no", "Ada went to the attic. Ada went to the barn. Is Ada in the barn?", "yes"),
        ("negation", "Ada went to the barn. Is Ada in the barn?", "yes"),
        ("negation", "Ada is no longer in the barn. Ben went to the barn. Is Ada in the barn?",
         "no"),
        ("indefinite", "Ada is in the barn or the attic. Is Ada in the attic?", "maybe"),
        ("indefinite", "Ada is in the barn or the attic. Is Ada in the forge?", "no"),
        ("indefinite", "Ada is in the barn or the attic. Ada is in the barn. Is Ada in the barn?",
         "yes"),
        ("time", "At dusk Ada went to the barn. At midnight Ada went to the attic. In the morning "
         "Ada walked to the forge. At noon Ben went to the dairy. Where was Ada before the barn?",
         "forge"),
        ("coreference", "Ada went to the barn. Then she went to the attic. Fay went to the forge. "
         "Where is Ada?", "attic"),
        ("conjunction", "Ada and Ben went to the barn. Ben and Fay went to the attic. Where is "
         "Ada?", "barn"),
        ("compound_coreference", "Ada and Ben went to the barn. Then they went to the forge. Ada "
         "and Fay went to the attic. Then they went to the dairy. Where is Ben?", "forge"),
        ("two_facts", f"{HELD}Ada went to the forge. Where is the map?", "forge"),
        ("two_facts", f"{HELD}Ada dropped the map. Ada went to the forge. Where is the map?",
         "barn"),
        ("three_facts", f"{HELD}Ada went to the forge. Ada put down the map. Ada went to the "
         "attic. Where was the map before the forge?", "barn"),
        ("counting", f"{HELD}How many things does Ada have?", "two"),
        ("counting", f"{HELD}Ada gave the map to Ben. How many things does Ben have?", "one"),
        ("counting", f"{HELD}Ada put down the map. Ada gave the rope to Ben. How many things does "
         "Ada have?", "none"),
        ("lists", f"{HELD}What does Ada have?", "map, rope"),
        ("lists", f"{HELD}Ada dropped the map. Ada dropped the rope. What does Ada have?",
         "nothing"),
        ("three_arguments", f"{GIFTS}Who gave the map to Ada?", "Ben"),
        ("three_arguments", f"{GIFTS}What did Ada give to Ben?", "map"),
        ("three_arguments", f"{GIFTS}Who did Ben give the map to?", "Ada"),
        ("two_arguments", f"{SIDES}What is just north of the attic?", "barn"),
        ("two_arguments", f"{SIDES}What is just east of the dairy?", "barn"),
        ("two_arguments", f"{SIDES}What is the barn just north of?", "attic"),
        ("paths", f"{SIDES}How does one go from the attic to the dairy?", "north, west"),
        ("paths", f"{SIDES}How does one go from the dairy to the attic?", "east, south"),
        ("positions", f"{PENS}Is the pen left of the jar?", "yes"),
        ("positions", f"{PENS}Is the jar left of the pen?", "no"),
        ("positions", f"{PENS}Is the pen above the jar?", "yes"),
        ("sizes", "The cup fits in the jar. The box is bigger than the jar. Does the cup fit in "
         "the box?", "yes"),
        ("sizes", "The cup fits in the jar. The box is bigger than the jar. Is the cup bigger than "
         "the box?", "no"),
        ("deduction", "A hare fears a toad. Ada is a hare. A toad fears a mole. What does Ada "
         "fear?", "toad"),
        ("induction", "Ada is a hare. Ben is a toad. Ada is red. Fay is a hare. Ben is gray. What "
         "color is Fay?", "red"),
        ("motivations", f"{MOODS}Where will Ben go?", "bedroom"),
        ("motivations", f"{MOODS}Where will Ada go?", "library"),
        ("motivations", f"{MOODS}Why did Ada go to the library?", "bored"),
    ],
)  # fmt: skip
def test_stories_by_hand(form, question, answer):
    assert solved(form, question).answer == answer
    grade = graded.verdict(TASK, f" The answer is {answer}.", example(form, question, answer))
    assert grade == CORRECT


def test_every_form_has_an_oracle_and_they_are_twenty():
    assert len(FORMS) == 20 and set(babi.ORACLES) == set(FORMS)
    assert rules.GOES_TO == {
        mood: place for place, moods in babi.oracle_relations.MOODS.items() for mood in moods
    }


@pytest.mark.parametrize(
    "form, question",
    [
        ("one_fact", "Ada went to the barn. Where is Ben?"),
        ("one_fact", "Ada ate the barn. Where is Ada?"),
        ("negation", "Ada is no longer in the barn. Is Ada in the attic?"),
        ("time", "At noon Ada went to the barn. Where was Ada before the barn?"),
        ("counting", "Ada went to the barn. How many things does Ada have?"),
        ("three_arguments", f"{GIFTS}Ada gave the map to Fay. Who did Ada give the map to?"),
        ("positions", f"{PENS}Is the jar above the cup?"),
    ],
)
def test_what_a_story_does_not_say_is_not_answered(form, question):
    with pytest.raises(ValueError):
        solved(form, question)


@pytest.mark.parametrize("form", FORMS)
def test_stories_are_answered_by_their_text(form):
    for level in LEVELS:
        for story in drawn(form, level, 25):
            assert stories.sentences(story.question) == ([*story.statements], story.asked)
            found = solved(form, story.question)
            assert found.answer == story.answer
            assert set(story.lines) <= {*story.statements, *found.conclusions}


@pytest.mark.parametrize("form", sorted(set(FORMS) - {"two_facts", "three_facts"}))
def test_the_supporting_statements_are_enough(form):
    for level in LEVELS:
        for story in drawn(form, level, 10):
            support = [line.partition(":")[0].removesuffix(".") + "." for line in story.lines]
            if "coreference" not in form:  # in the order of the story
                support = [s for s in story.statements if s in support]
            assert babi.ORACLES[form](support, story.asked).answer == story.answer


@pytest.mark.parametrize("form", ["two_facts", "three_facts"])
def test_a_carrier_and_the_carrier_s_moves_tell_where_a_thing_is(form):
    """The oracle has to see who took a thing that was put down, and where."""
    for level in LEVELS:
        for story in drawn(form, level, 25):
            [thing] = stories.named([story.asked], stories.THINGS)
            carrier = stories.words(story.lines[0])[0]
            named_places = stories.named([story.asked], stories.PLACES)
            places = [*named_places, story.answer]
            assert len(places) == len(story.lines) - 1
            assert thing in stories.words(story.lines[0])
            for line, place in zip(story.lines[1:], places, strict=True):
                assert stories.words(line)[0] == carrier and line.endswith(f" to the {place}.")


@pytest.mark.parametrize("form", FORMS)
def test_harder_levels_are_longer(form):
    sizes = [np.mean([len(story.statements) for story in drawn(form, n, 10)]) for n in LEVELS]
    assert all(b > a for a, b in itertools.pairwise(sizes))


# ---- balance and shortcuts -----------------------------------------------------------------------


def near(fraction, expected, count):
    """Within four standard errors."""
    return fraction == pytest.approx(expected, abs=4 * (expected * (1 - expected) / count) ** 0.5)


@pytest.mark.parametrize("form", FORMS)
def test_answers_are_balanced(form):
    """All of one sort are as likely; of lists, each number of things."""
    level, count = 3, 200
    told = drawn(form, level, count)
    if form == "lists":
        sizes = [0 if s.answer == "nothing" else len(s.answer.split(", ")) for s in told]
        assert near(sizes.count(0) / count, 1 / 3, count)
        return
    if form == "paths":
        firsts = collections.Counter(story.answer.split(",")[0] for story in told)
        assert all(near(n / count, 1 / 4, count) for n in firsts.values()) and len(firsts) == 4
        return
    for sort in babi.FORMS[form].answers:
        answers = [story.answer for story in told if story.answer in sort]
        possible = sort[:3] if form == "counting" else sort
        counts = collections.Counter(answers)
        assert set(counts) <= set(possible)
        for answer in possible:
            assert near(counts[answer] / len(answers), 1 / len(possible), len(answers)), answer


@pytest.mark.parametrize("form", [name for name in FORMS if babi.FORMS[name].is_named])
def test_the_last_name_is_right_no_more_often_than_another(form):
    for level in (3, 5):
        told = drawn(form, level, 200)
        chance = shortcuts.at_random(told, babi.FORMS[form])
        assert near(shortcuts.accuracy("last", told, babi.FORMS[form]), chance, len(told)), level


@pytest.mark.parametrize("form", ["yes_no", "negation", "indefinite"])
def test_names_in_one_statement_do_not_tell(form):
    told = drawn(form, 4, 300)
    chance = 1 / 3 if form == "indefinite" else 1 / 2
    assert near(shortcuts.together(told), chance, len(told))


@pytest.mark.parametrize("form", ["positions", "sizes"])
def test_the_thing_that_is_said_to_be_more_is_not(form):
    """Left or right of, how often a thing is said to come first does not tell; a tie is a half."""
    words = {order.before: 1 for order in (*orders.POSITIONS, *orders.SIZES)}
    words |= {order.after: -1 for order in (*orders.POSITIONS, *orders.SIZES)}
    asks = {"left of": 1, "below": 1, "fit in": 1, "right of": -1, "above": -1, "bigger than": -1}
    told = drawn(form, 4, 300)
    right = 0.0
    for story in told:
        counts = collections.Counter()
        for statement in story.statements:
            first, said, second = stories.read(r"The (\w+) (.+) the (\w+)\.", statement)
            counts[first] += words[said]
            counts[second] -= words[said]
        first, said, second = stories.read(r"\w+ the (\w+) (.+) the (\w+)\?", story.asked)
        lead = (counts[first] - counts[second]) * asks[said]
        right += 0.5 if lead == 0 else (lead > 0) == (story.answer == "yes")
    assert near(right / len(told), 0.5, len(told))


def test_each_rule_by_hand():
    told = ("Ada went to the barn.", "Fay went to the forge.", "Ben went to the forge.")
    story = Story(
        statements=("Ada went to the attic.", *told, "Ben went to the dairy."),
        asked="Where is Ada?",
        answer="barn",
        lines=(told[0],),
    )
    names = stories.choices(story, stories.PLACES)
    assert names == ["attic", "barn", "forge", "forge", "dairy"]
    found = {name: rule(names, story) for name, rule in shortcuts.RULES.items()}
    assert found == {"last": "dairy", "first": "attic", "most": "forge", "beside": "barn"}
    form = babi.FORMS["one_fact"]
    assert [shortcuts.accuracy(name, [story], form) for name in found] == [0, 0, 0, 1]
    assert shortcuts.at_random([story], form) == 1 / 4
    assert shortcuts.constant([story]) == 1
    asked = Story(statements=told, asked="Is Fay in the barn?", answer="no", lines=told[:1])
    assert shortcuts.together([asked]) == 1


# ---- the task ------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_splits_of_every_form(form):
    """No two share a question, none repeats one; all is spelled, and every line is true."""
    cfg = section(form=form)
    symbols = tokenizer.Characters(babi.ALPHABET)
    loaded = {split: babi.load(cfg, split) for split in ("given", "validation", "test")}
    questions = [e.question for examples in loaded.values() for e in examples]
    assert len(set(questions)) == len(questions) == 60 + 30 + 30
    for e in itertools.chain(*loaded.values()):
        text = babi.target(e)
        for whole in (
            babi.prompt(e, cfg) + text,
            babi.prompt(e, cfg, hint=e.answer),
            babi.target(e, direct=True),
        ):
            assert symbols.decode(symbols.encode(whole)) == whole
        assert graded.verdict(TASK, text, e) == CORRECT
        assert babi.wrong_line(text, e) is None
        assert babi.steps(text) == e.rationale.count("\n") + 1
        assert babi.difficulty(e) == ("level", e.level)
    assert {e.level for e in loaded["given"]} == set(LEVELS)


def test_the_levels_of_each_split():
    cfg = section(levels=(3, 4), given_levels=(1,))
    found = {split: {e.level for e in babi.load(cfg, split)} for split in ("train", "validation")}
    assert found == {"train": {3, 4}, "validation": {3, 4}}
    given = babi.load(cfg, "given")
    assert {e.level for e in given} == {1} and all(e.rationale for e in given)
    assert not any(e.rationale for e in babi.load(cfg, "train"))


@pytest.mark.parametrize("name, split", [("levels", "train"), ("given_levels", "given")])
def test_no_level_is_one_sentence(name, split):
    with pytest.raises(UserError, match=rf"^config\.task\.{name}: \(\) names no level\.$"):
        babi.load(section(**{name: ()}), split)


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"levels": (6,)}, r"config\.task\.levels: \(6,\) is not a tuple .* from 1 to 5"),
        ({"form": "four_facts"}, r"config\.task\.form: 'four_facts' is not one of one_fact, "),
    ],
)
def test_values_out_of_range_are_one_sentence(changes, sentence):
    values = {f"task.{name}": value for name, value in section(**changes).items()}
    with pytest.raises(UserError, match=f"^{sentence}"):
        ranges.check(babi.Config, values, "task.")


def test_prompt_and_target():
    question = "Ada went to the barn. Where is Ada?"
    e = example("one_fact", question, "barn", " Ada went to the barn.")
    cfg = section()
    assert babi.prompt(e, cfg) == f"Q: {question}\nA:"
    assert babi.prompt(e, cfg, hint="barn") == f"Q: {question} The answer is barn.\nA:"
    assert babi.target(e) == " Ada went to the barn.\n The answer is barn."
    assert babi.target(e, direct=True) == " The answer is barn."


def test_wrong_line_is_the_first_that_the_story_does_not_support():
    question = f"{HELD}Ada dropped the map. What does Ada have?"
    e = example("lists", question, "rope")
    lines = [" Ada took the map: map.", " Ada picked up the rope: map, rope."]
    lines += [" Ada dropped the map: rope.", " The answer is rope."]
    assert babi.wrong_line("\n".join(lines), e) is None
    for number, wrong in enumerate(
        (" Ada took the map: map, rope.", " Ada took the rope: map, rope.", " Ada has the map.")
    ):
        text = "\n".join([*lines[:number], wrong, *lines[number + 1 :]])
        assert babi.wrong_line(text, e) == number
        assert graded.verdict(TASK, text, e) == CORRECT
    assert babi.wrong_line("\n".join(lines[:3]), e) == 2  # no answer
    assert babi.wrong_line("\n".join([*lines[:3], " The answer is map."]), e) == 3
    assert babi.wrong_line(" The answer is rope.", e) is None
    assert babi.wrong_line(" The answer is the rope.", e) is None
    assert babi.wrong_line(" Ada has it. The answer is rope.", e) == 0
    assert babi.wrong_line("", e) == 0
    assert babi.wrong_line("nonsense", Example(id=0, question=question, answer="rope")) is None
    sizes = "The cup fits in the jar. The box is bigger than the jar. Does the cup fit in the box?"
    e = example("sizes", sizes, "yes")
    assert babi.wrong_line(" So the box is bigger than the cup.\n The answer is yes.", e) is None
    assert babi.wrong_line(" So the cup is bigger than the box.\n The answer is yes.", e) == 0
    assert babi.difficulty(Example(id=0, question=sizes, answer="yes")) == ("level", 0)


@pytest.mark.parametrize(
    "form, gold, text, verdict",
    [
        ("one_fact", "barn", "The answer is the barn.", CORRECT),
        ("one_fact", "barn", "The answer is in the barn.", CORRECT),
        ("one_fact", "barn", "The answer is Barn", CORRECT),
        ("one_fact", "barn", "The answer is not the barn.", WRONG),
        ("one_fact", "barn", "The answer is barn or attic.", WRONG),
        ("one_fact", "barn", "The answer is barn. Or the attic.", UNPARSED),
        ("one_fact", "barn", "barn", UNPARSED),
        ("one_fact", "barn", "The answer is the .", WRONG),
        ("deduction", "hare", "The answer is a hare.", CORRECT),
        ("counting", "two", "The answer is 2.", CORRECT),
        ("counting", "none", "The answer is 0.", CORRECT),
        ("lists", "map, rope", "The answer is the rope and the map.", CORRECT),
        ("lists", "map, rope", "The answer is map.", WRONG),
        ("lists", "map, rope", "The answer is map, rope, and drum.", WRONG),
        ("paths", "north, west", "The answer is north and west.", CORRECT),
        ("paths", "north, west", "The answer is west, north.", WRONG),
        ("indefinite", "maybe", "The answer is maybe.", CORRECT),
    ],
)
def test_answers_are_read(form, gold, text, verdict):
    task = dataclasses.replace(TASK, wrong_line=lambda text, example: None)
    assert graded.verdict(task, text, example(form, "?", gold)) == verdict


def test_lines_are_not_judged_where_answers_are_marked_otherwise():
    e = example("one_fact", "Ada went to the barn. Where is Ada?", "barn")
    boxed = TASK.configured(TASK, section(extraction="boxed"))
    assert boxed.wrong_line("nonsense", e) is None
    assert TASK.configured(TASK, section()).wrong_line("nonsense", e) == 0


# ---- the experiment ------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_the_longest_stories_fit_into_the_experiment(form):
    cfg = config.load(f"configs/babi.py:{form}")
    symbols = tokenizer.Characters(babi.ALPHABET)
    cfg.task.update({"levels": (5,), "num_held_out": 30})
    for e in babi.load(cfg.task, "test"):
        completion = len(symbols.encode(babi.target(e))) + 1
        assert completion <= cfg.sampling.max_new_tokens
        prompt = 1 + len(symbols.encode(babi.prompt(e, cfg.task, hint=e.answer)))
        assert prompt + cfg.sampling.max_new_tokens <= cfg.sequence_length
