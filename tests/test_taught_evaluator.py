"""Self-taught evaluators: pairs with a known order, and which of their judgements are kept."""

from __future__ import annotations

import dataclasses

import comparing
import jax.numpy as jnp
import judging
import numpy as np
import pytest
import speaking
from comparing import EXAMPLES, collect, config, flips, other, parts, right_letter, text
from judging import TASK, TOK

from reasoning_jax import algorithms, contrasts, default, tasks, templates, verdicts
from reasoning_jax.errors import UserError
from reasoning_jax.tasks import CORRECT, TRUNCATED, UNPARSED, WRONG, cards
from reasoning_jax.tasks.cards import seeds, writing
from reasoning_jax.training import packing

METHOD = algorithms.get("taught_evaluator")


def teach(say, **changes):
    return collect("taught_evaluator", say, **{"num_judgements": 3} | changes)


def knows(prompt, index):
    return text(right_letter(prompt))


def letters(rows):
    """The verdicts that rows end with."""
    return [comparing.read(row)[1][-2 - 1] for row in rows]


# ---- changed instructions ------------------------------------------------------------------------


def test_a_changed_card_has_two_other_rules():
    rng = np.random.default_rng(0)
    similar = []
    for example in comparing.many(300):
        own, changed = comparing.rules(example), TASK.changed(example, rng)
        assert changed.id == example.id and changed.answer == "" and changed.rationale is None
        found = cards.read_card(changed.question)
        assert found is not None and found == changed.card and not cards.contradicts(found)
        different = sum(a != b for a, b in zip(own, found, strict=True))
        assert different == min(2, len(own))
        similar.append(len(own) - different)
    assert max(similar) == 3 and min(similar) == 0


@pytest.mark.parametrize("round", [1, 2])
def test_what_is_judged_answers_the_card_and_a_changed_one(round):
    found, roll = teach(knows, round=round)
    (first, asked), (second, changed) = (
        (params, questions) for params, purpose, questions in roll.log if purpose == "answer"
    )
    assert first == second == "base"  # who answers is not who judges
    assert asked == comparing.CARDS
    assert all(x != y for x, y in zip(asked, changed, strict=True))
    [(judge, prompts)] = [(p, prompts) for p, purpose, prompts in roll.log if purpose == "judge"]
    assert judge == "new" and len(prompts) == 2 * len(asked)
    for i, (x, other_x) in enumerate(zip(asked, changed, strict=True)):
        y, other_y = comparing.answer_of(x), comparing.answer_of(other_x)
        assert parts(prompts[2 * i]) == (x, y, other_y)
        assert parts(prompts[2 * i + 1]) == (x, other_y, y)
    assert found.stats["changed"] == 1 and 0 < found.stats["similarity"] < 0.9
    _, again = teach(knows, round=round)
    assert again.log == roll.log
    _, another = teach(knows, round=round + 1)
    assert another.log[1] != roll.log[1]  # cards are changed anew


def test_given_responses():
    given = [comparing.card("START 1 ; EVEN", 0, "1 . 1 1"), comparing.card("NOT 7", 1, "8 8 8 8")]

    def says(prompt, index):
        _, first, _ = parts(prompt)
        return text("A" if first in ("1 . 1 1", "8 8 8 8") else "B")

    found, roll = teach(says, examples=given, responses="given")
    assert len([purpose for _, purpose, _ in roll.log if purpose == "answer"]) == 1  # of x' alone
    assert found.stats["kept"] == 1 and len(found.rows) == 4
    cfg = config("taught_evaluator", responses="given")
    contrasts.check_data(comparing.rollout(cfg, says), given, cfg)
    with pytest.raises(UserError, match=r"config\.algorithm\.responses: .* no answer to 'START 1"):
        contrasts.check_data(comparing.rollout(cfg, says), EXAMPLES, cfg)


@pytest.fixture
def change_file(tmp_path):
    path = tmp_path / "change.txt"
    path.write_text(" [P] {instruction} [P]\n")
    return str(path)


def test_instructions_that_the_model_changes(change_file):
    """Those that cannot be read, are the same, are cut off or get the same answer make no pair."""
    written = {
        "START 1 ; EVEN": " START 2 ; EVEN",
        "NOT 7 ; SORTED": " NOT 7 ; SORTED",  # the same
        "HAS 2 2 ; START 3 ; MIRROR": " MIRROR ; MIRROR",  # no card
        "COUNT 4 ; EVEN": " COUNT 4...",  # cut off
        "CHECK": " EVEN",  # has the same answer
    }
    answers = {"CHECK": [" 1 1 1 3"], "EVEN": [" 1 1 1 3"]}

    def says(prompt, index):
        if prompt.endswith("[P]"):
            return written[prompt.removeprefix(" [P] ").removesuffix(" [P]")]
        return knows(prompt, index)

    examples = [*EXAMPLES, judging.card("CHECK", 4)]
    found, roll = teach(says, examples=examples, answers=answers, change_template=change_file)
    assert found.stats["changed"] == pytest.approx(2 / 5)
    assert found.stats["contrasts"] == pytest.approx(1 / 5)
    assert found.stats["similarity"] == pytest.approx(3 / 4)  # START 2 ; EVEN
    assert roll.log[0][:2] == ("base", "change")
    with pytest.raises(UserError, match=r"round 1: of 1 instructions 0 could be changed"):
        teach(says, examples=EXAMPLES[1:2], change_template=change_file)


def test_labels_are_compared_with_the_score_of_the_task():
    """Right, wrong and tied by the rules, which the method never sees."""
    example = judging.card("START 1 ; EVEN")

    def contrast(better, worse):
        return contrasts.Contrast(example=example, changed="NOT 1", better=better, worse=worse)

    pairs = [
        contrast("1 2 3 4", "2 2 3 4"),
        contrast("2 2 3 4", "1 2 3 4"),
        contrast("2 2 3 4 5", "[W] 1"),  # what cannot be read follows nothing
        contrast("2 2 3 4", "2 2 3 3"),
    ]
    assert contrasts.label_noise(TASK, pairs) == {"labels_wrong": 0.25, "labels_tied": 0.5}
    assert contrasts.label_noise(tasks.get("jsonl"), pairs) == {}


# ---- judgements ----------------------------------------------------------------------------------


def test_a_coin_keeps_what_chance_gives_and_as_many_of_both_verdicts():
    """Of N flips one is right with probability 1 - 2^-N."""
    examples = comparing.many(150)
    found, _ = teach(flips, examples=examples, num_judgements=2)
    num_orders = len({sample.example.id for sample in found.samples})
    assert num_orders == 2 * found.stats["contrasts"] * len(examples)
    assert found.stats["reached"] == pytest.approx(3 / 4, abs=0.08)
    verdicts_of_rows = letters(found.rows)
    assert verdicts_of_rows.count("A") == verdicts_of_rows.count("B") > 80
    assert found.stats["kept"] == pytest.approx(len(found.rows) / num_orders)
    for row in found.rows:
        prompt, completion = comparing.read(row)
        assert completion == text(right_letter(prompt))
    prompts = [comparing.read(row)[0] for row in found.rows]
    assert len(set(prompts)) == len(prompts)  # one of each order
    right = {s.key for s in found.samples if s.correct}
    assert found.kept <= right and len(found.kept) == len(found.rows)


def test_a_judge_that_always_names_the_first():
    """Half of its verdicts are right, none in both orders; nothing balanced is left to keep."""
    asked = verdicts.both_orders(contrasts_of(6))
    cfg = config("taught_evaluator")
    roll = comparing.rollout(cfg, lambda prompt, index: text("A"))
    template = templates.read("cards_pair", templates.PAIR_FIELDS, "template")
    prompts = [one.fill(template, TASK) for one in asked]
    groups = verdicts.judge(roll, prompts, asked, 3, cfg.algorithm)
    assert np.mean([s.correct for group in groups for s in group]) == 0.5
    assert verdicts.statistics(groups) == {
        "reached": 0.5,
        "said_first": 1.0,
        "consistent": 0.0,
        "right_in_both": 0.0,
    }
    with pytest.raises(UserError, match=r"of 24 judgements 24 say \[\[A\]\] and 0 say \[\[B\]\]"):
        teach(lambda prompt, index: text("A"))


def contrasts_of(count):
    found = []
    for i, example in enumerate(comparing.many(count)):
        found.append(
            contrasts.Contrast(example=example, changed="", better=f"1 1 1 {i}", worse="2 2 2 2")
        )
    return found


def test_judgements_are_graded_by_the_known_order():
    said = {0: text("A"), 1: text("B"), 2: " [[A]] [[B]]", 3: " +", 4: text("A") + "..."}
    [better_first, _] = verdicts.both_orders(contrasts_of(1))
    cfg = config("taught_evaluator")
    roll = comparing.rollout(cfg, lambda prompt, index: said[index])
    [group] = verdicts.judge(roll, [" [J]"], [better_first], 5, cfg.algorithm)
    assert [s.verdict for s in group] == [CORRECT, WRONG, UNPARSED, UNPARSED, TRUNCATED]
    assert [s.answer for s in group] == ["A", "B", None, None, None]
    assert {s.example.answer for s in group} == {"A"} and [s.index for s in group] == [*range(5)]
    assert group[0].calls[0].prompt == " [J]"


def test_consistency_by_hand():
    """n-th judgements of both orders: the same response; another; not read; a tie."""

    def graded(letter, right):
        verdict = CORRECT if letter == right else WRONG
        return Stub(letter, verdict == CORRECT)

    one = [graded(x, "A") for x in ("A", "B", "A", None, "A")]
    two = [graded(x, "B") for x in ("B", "A", "A", "B", "C")]
    found = verdicts.statistics([one, two])
    assert found["consistent"] == pytest.approx(2 / 5)
    assert found["right_in_both"] == pytest.approx(1 / 5)
    assert found["said_first"] == pytest.approx(5 / 8) and found["reached"] == 1


class Stub:
    def __init__(self, answer, correct):
        self.answer, self.correct = answer, correct


def test_the_excess_is_left_out():
    def says(prompt, index):
        right = right_letter(prompt)
        is_wrong = right == "B" and parts(prompt)[0] != comparing.CARDS[0]
        return text(other(right) if is_wrong else right)

    found, _ = teach(says)
    assert sorted(letters(found.rows)) == ["A", "B"]
    assert found.stats["reached"] == pytest.approx(5 / 8) and found.stats["kept"] == 2 / 8


def test_judgements_that_cannot_be_read():
    found, _ = teach(lambda prompt, index: knows(prompt, index) if index else " + -")
    assert found.warnings == ["33% of the judgements have no verdict that can be read."]
    with pytest.raises(UserError, match=r"none of 24 judgements has a verdict.*config\.algorithm"):
        teach(lambda prompt, index: " + -")


def test_pairs_without_room():
    long = {question: [f" {' '.join('1' * 24)}"] for question in comparing.CARDS[:1]}
    found, _ = teach(knows_of(long), answers=long, max_length=54)
    assert found.warnings == ["1 of 4 pairs are longer than config.sequence_length and left out."]
    assert len({sample.example.question for sample in found.samples}) == 3
    with pytest.raises(UserError, match="round 1: none of the 4 pairs leaves room"):
        teach(knows, judge_tokens=180)


def knows_of(answers):
    def says(prompt, index):
        request, first, _ = parts(prompt)
        own = comparing.Answers(answers)[request][0].strip()
        return text("A" if first == own else "B")

    return says


def test_the_loss_is_the_likelihood_of_judgements():
    found, _ = teach(knows)
    packed = packing.pack(found.rows, multiple=1, length=192)
    batch = {key: jnp.asarray(value) for key, value in packed.items()}
    lp = jnp.full(batch["tokens"].shape, -0.25)
    loss = METHOD.loss(lp, batch, None)
    assert loss.total / loss.weight == pytest.approx(0.25)
    assert loss.weight == sum(row["weights"].sum() for row in found.rows)
    ends = [row["tokens"][-1] == TOK.eos_id and row["weights"][-1] == 1 for row in found.rows]
    assert all(ends)


# ---- in words ------------------------------------------------------------------------------------


def test_a_model_of_words_changes_answers_and_judges():
    """GSM8K, whose task changes nothing: the templates that come with the package."""
    given = [
        speaking.problem(3, "How many legs have two cats?", "8", rationale="2 * 4 = 8."),
        speaking.problem(5, "How many legs has a bee?", "6", rationale="It has 6."),
    ]

    def speak(prompt):
        if prompt.endswith("Another request:"):
            return f"{prompt.splitlines()[-3]} And a spider?"
        if "[[A]]" in prompt:
            first, second = (prompt.index(part) for part in ("2 * 4 = 8.", "Sixteen."))
            return "So it is [[A]]." if first < second else "So it is [[B]]."
        return "Sixteen." if "cats" in prompt else tasks.get("gsm8k").target(given[1])

    cfg = default.get_config(algorithm="taught_evaluator", task="gsm8k")
    cfg.algorithm.update({"change_template": "change", "responses": "given", "num_judgements": 2})
    cfg.algorithm.judge_tokens = cfg.algorithm.change_tokens = 60
    METHOD.check(cfg)
    roll = speaking.rollout(speak, base_params=lambda: None)
    assert METHOD.check_data(roll, given, cfg) == []
    found = METHOD.collect(roll, given, (), 1, cfg)
    assert found.stats["contrasts"] == 0.5  # to the bee's question both answers are the same
    assert [sample.text for sample in found.samples] == ["So it is [[A]]."] * 2 + [
        "So it is [[B]]."
    ] * 2
    assert len(found.rows) == 2 and "labels_wrong" not in found.stats
    [question] = {sample.example.question for sample in found.samples}
    assert question == given[0].question
    cfg.algorithm.change_template = ""
    with pytest.raises(UserError, match="the task gsm8k changes no instruction: name a template"):
        METHOD.check_data(roll, given, cfg)


# ---- verdicts alone ------------------------------------------------------------------------------


def test_verdicts_alone():
    found, roll = teach(None, num_judgements=15, verdict_only=True)
    assert [purpose for _, purpose, _ in roll.log] == ["answer", "answer"]
    assert len(found.rows) == 8 and sorted(letters(found.rows)) == ["A"] * 4 + ["B"] * 4
    for row in found.rows:
        prompt, completion = comparing.read(row)
        assert completion == f" [[{right_letter(prompt)}]]" and row["tokens"][-1] == TOK.eos_id


@pytest.mark.parametrize(
    "changes, key",
    [
        ({"verdict_only": True, "num_judgements": 2}, "num_judgements: with verdict_only"),
        ({"verdict_only": True, "judge_tokens": 9}, "judge_tokens: with verdict_only"),
        ({"judge_temperature": 0.0}, "num_judgements: at judge_temperature=0 all 15"),
        ({"change_tokens": 9}, "change_tokens: without change_template it has no effect"),
        ({"change_temperature": 0.1}, "change_temperature: without change_template"),
        ({"change_template": "changes"}, "change_template: there is no file 'changes'"),
        ({"template": "pair"}, "template: there is no file 'pair'"),
    ],
)
def test_what_is_refused(changes, key):
    cfg = config("taught_evaluator")
    cfg.algorithm.update({"judge_tokens": 256} | changes)
    with pytest.raises(UserError, match=rf"config\.algorithm\.{key}"):
        METHOD.check(cfg)


def test_data_that_will_not_do():
    cfg = config("taught_evaluator")
    roll = comparing.rollout(cfg, knows)
    judgement = judging.judgement(1)
    with pytest.raises(UserError, match=r"config\.rounds\.split: train has no instruction"):
        METHOD.check_data(roll, [judgement], cfg)
    assert METHOD.check_data(roll, [judgement, *EXAMPLES], cfg) == []
    unable = dataclasses.replace(roll, task=dataclasses.replace(TASK, changed=None))
    with pytest.raises(UserError, match=r"config\.algorithm\.change_template: the task rule_cards"):
        METHOD.check_data(unable, EXAMPLES, cfg)


# ---- seed data with plans ------------------------------------------------------------------------


def given(**changes):
    cfg = default.section(tasks, "rule_cards")
    cfg.update({"num_train": 200, "scores": 0.0, "invented": 0.0} | changes)
    return cfg, TASK.load(cfg, "given")


def test_plans_in_seed_data_leave_the_rest_as_it_is():
    _, without = given(pairs=0.5)
    _, off = given(pairs=0.5, plans=0.0, planned=0.0)
    assert without == off
    with pytest.raises(UserError, match=r"config\.task\.scores, pairs.* plans, .* more than 1"):
        given(pairs=0.7, plans=0.5)


def test_seed_pairs_with_a_plan():
    cfg, examples = given(pairs=1.0, planned=1.0, judged=1.0, bias=0.0)
    for example in examples:
        prompt = TASK.prompt(example, cfg)
        request, first, second = parts(prompt)
        assert prompt.endswith(" [T]") and TASK.role(example) == "judge"
        plan, _, judgement = TASK.target(example).partition(" [V] ")
        rules = {rule.kind: rule for rule in cards.read_card(request)}
        order = [rules[kind] for kind in plan.split()]
        assert len(set(order)) == len(order) >= 1
        own = [cards.marks(tuple(order), response.split()) for response in (first, second)]
        assert judgement == f"{seeds.text_of_marks(tuple(order), *own)} {example.answer}"
        assert example.answer == ("[[A]]" if sum(own[0]) > sum(own[1]) else "[[B]]")


def test_seed_plans_are_of_the_card_alone():
    cfg, examples = given(plans=1.0)
    complete = 0
    for example in examples:
        assert TASK.prompt(example, cfg) == f" {example.question}"
        card = cards.read_card(example.question.removeprefix("[J] ").removesuffix(" [T]"))
        kinds = TASK.target(example).split()
        assert set(kinds) <= {rule.kind for rule in card} and len(set(kinds)) == len(kinds)
        complete += len(kinds) == len(card)
    assert 0.3 < complete / len(examples) < 0.8


def test_a_response_follows_its_own_card_more_than_a_changed_one():
    """So that labels say something: y and y' as one who follows the rules would write them."""
    rng = np.random.default_rng(0)
    margins = []
    for example in comparing.many(100):
        own, changed = comparing.rules(example), TASK.changed(example, rng).card
        y, other_y = (writing.write(rng, card) for card in (own, changed))
        margins.append(cards.quality(own, y) - cards.quality(own, other_y))
    assert min(margins) >= 0 and np.mean(margins) > 1
