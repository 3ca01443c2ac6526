"""Rule cards: what each rule asks for, what responses are worth, and what seed data is like."""

from __future__ import annotations

import zlib
from collections import Counter

import numpy as np
import pytest

from reasoning_jax import default, extraction, tasks, templates, tokenizer
from reasoning_jax.errors import UserError
from reasoning_jax.graders import judge
from reasoning_jax.systems import bsm, prompts
from reasoning_jax.tasks import cards, rule_cards
from reasoning_jax.tasks.cards import seeds, writing

TASK = tasks.get("rule_cards")


def config(**changes):
    cfg = default.section(tasks, "rule_cards")
    cfg.update({"num_train": 400, "num_held_out": 100} | changes)
    return cfg


def quality(card, response):
    return cards.quality(cards.read_card(card), response.split())


@pytest.mark.parametrize(
    "card, followed, broken",
    [
        ("START 3", "3 1 4 1", "1 3 4 1"),
        ("START 3", "3 . . .", ". 3 . ."),
        ("HAS 5 2", "5 1 5 1", "5 1 1 1"),
        ("HAS 5 2", "5 5 5 5", ". . 5 ."),
        ("NOT 4", "3 1 . 1", "3 1 4 1"),
        ("EVEN", "3 1 . 1", "3 1 4 1 5"),
        ("SORTED", "1 1 . 3 9", "1 3 . 2 9"),
        ("SORTED", ". . . .", "1 0 . ."),
        ("MIRROR", "1 2 . 2 1", "1 2 1 2"),
        ("CHECK", "9 . 4 3", "9 . 4 2"),
        ("CHECK", "5 5 . 0", "5 5 0 ."),
        ("COUNT 7", "7 . 7 2", "7 . 7 7"),
        ("COUNT 7", "1 1 1 0", "1 1 1 1"),
    ],
)
def test_a_rule_by_hand(card, followed, broken):
    assert quality(card, followed) == 1
    assert quality(card, broken) == 0


def test_a_response_of_a_length_that_is_not_allowed_follows_nothing():
    assert quality("EVEN", "1 2") == 0 and quality("EVEN", "1 " * 26) == 0
    assert quality("EVEN", "1 " * 24) == 1


def test_padding_never_changes_what_digits_are_worth():
    """But for EVEN, which counts it, and MIRROR, which looks at places."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        card = tuple(r for r in writing.draw_card(rng, 0.5) if r.kind not in ("EVEN", "MIRROR"))
        response = writing.draw_response(rng, card, 0.6)
        if len(response) < 24:
            place = int(rng.integers(1, len(response)))
            padded = [*response[:place], ".", *response[place:]]
            assert cards.marks(card, padded) == cards.marks(card, response)


NO_CARDS = (
    """
START|START 12|START x|HAS 5|HAS 5 1|HAS 5 5|NOT|EVEN 2|START 3 ; START 4|COUNT|CHECK 3
START 3 ; ; EVEN|START 3 EVEN|start 3|HAS 2 5 2|NOT 4 ; SORTED ; EVEN ; CHECK ; MIRROR ; START 1|
""".strip("\n")
    .replace("\n", "|")
    .split("|")
)


@pytest.mark.parametrize("text", NO_CARDS)
def test_what_is_no_card(text):
    assert cards.read_card(text) is None
    assert rule_cards.invented(text, 0) is None


@pytest.mark.parametrize(
    "text",
    [
        "SORTED ; MIRROR",
        "CHECK ; COUNT 3",
        "MIRROR ; CHECK",
        "NOT 3 ; START 3",
        "NOT 3 ; HAS 3 2",
        "COUNT 3 ; NOT 3",
        "SORTED ; START 4 ; HAS 3 2",
    ],
)
def test_contradictions(text):
    assert cards.contradicts(cards.read_card(text))
    assert rule_cards.invented(text, 0) is None


def test_what_is_drawn_can_be_followed():
    rng = np.random.default_rng(1)
    followed, by_chance = [], []
    for _ in range(500):
        card = writing.draw_card(rng, 0.4)
        assert cards.read_card(cards.text_of(card)) == card and not cards.contradicts(card)
        assert cards.quality(card, writing.write(rng, card)) == len(card)
        followed += cards.marks(card, writing.draw_response(rng, card, 0.6))
        by_chance += cards.marks(card, rng.choice(cards.SYMBOLS, size=8).tolist())
    assert 0.55 < np.mean(followed) < 0.65
    assert np.mean(by_chance) < 0.3


def test_the_share_of_hard_cards():
    rng = np.random.default_rng(2)
    drawn = [writing.draw_card(rng, 0.5) for _ in range(1000)]
    hard = [any(rule.kind in cards.HARD for rule in card) for card in drawn]
    assert 0.46 < np.mean(hard) < 0.54
    assert not any(r.kind in cards.HARD for _ in range(200) for r in writing.draw_card(rng, 0.0))


# ---- the task ------------------------------------------------------------------------------------


def test_seed_data_is_spelled_by_the_alphabet_and_says_what_it_says():
    words = tokenizer.Characters(TASK.ALPHABET)
    cfg = config(scores=0.2, pairs=0.1, metas=0.2, invented=0.1, thinking=0.5)
    cfg.update({"branches": 0.1, "solved": 0.1})
    roles = Counter()
    for example in TASK.load(cfg, "given"):
        prompt, target = TASK.prompt(example, cfg), TASK.target(example)
        assert words.decode(words.encode(prompt + target)) == prompt + target
        role = TASK.role(example)
        roles[role] += 1
        if role == "answer":
            response = TASK.extract(target)
            assert response == example.answer and prompt.endswith(("[W]", "[T]"))
            assert 0 <= TASK.score(response, example) <= 1
            assert example.thinks == prompt.endswith("[T]") == ("<think>" in target)
        elif role == "invent":
            assert rule_cards.invented(example.answer, 0) is not None
        elif prompt.endswith("[S]"):
            is_solved = "[A]" in prompt
            assert (bsm.read_marks(target) is not None) == is_solved
            assert len(prompts.lines(target)) == (1 if is_solved else prompt.count(";") + 1)
        elif "Score:" in target:
            marked = target.partition("Score:")[0].split()
            assert judge.read_score(target, 5) == marked.count("+")
        else:
            assert judge.read_verdict(target) is not None
    assert roles["judge"] > 230 and 20 < roles["invent"] < 60 and roles["answer"] > 50


def test_judgements_are_asked_for_as_the_templates_do():
    """So that what the seeds teach is what a judge is asked later."""
    cfg = config(scores=0.4, pairs=0.3, metas=0.3, invented=0.0)
    fields = {
        "cards_score": judge.SCORE_FIELDS,
        "cards_pair": judge.PAIR_FIELDS,
        "cards_meta": judge.META_FIELDS,
    }
    found = Counter()
    for example in TASK.load(cfg, "given"):
        prompt = TASK.prompt(example, cfg)
        inner = prompt.removesuffix(" [V]")
        body, _, judged = inner.partition(" [A] ")
        card, _, response = body.strip().partition(" ")[2].partition(" [W] ")
        first, _, second = judged.partition(" [B] ")
        values = {"instruction": card, "response": response, "first": first, "second": second}
        kind = "cards_meta" if "[M]" in prompt else "cards_pair" if judged else "cards_score"
        template = templates.read(kind, fields[kind], "key")
        assert template.fill(**{name: values[name] for name in fields[kind]}) == prompt
        found[kind] += 1
    assert min(found.values()) > 50


def solved(example):
    """(rule, first, second) of what is marked for one rule; None where it is something else."""
    asked = example.question
    if not (asked.startswith("[J] ") and asked.endswith(" [S]") and "[A]" in asked):
        return None
    rule, _, shown = asked.removeprefix("[J] ").removesuffix(" [S]").partition(" [A] ")
    first, _, second = shown.partition(" [B] ")
    return rule, first, second


def test_marks_for_one_rule_are_the_rules_without_noise_and_noisy_with_it():
    ties, right = [], []
    for changes in ({"judged": 1.0, "bias": 0.0}, {"judged": 0.85, "bias": 0.0}):
        for example in TASK.load(config(solved=1.0, scores=0.0, invented=0.0, **changes), "given"):
            rule, *responses = solved(example)
            [known] = cards.read_card(rule)
            true = [cards.marks((known,), one.split())[0] for one in responses]
            marked = bsm.read_marks(TASK.target(example))
            if changes["judged"] == 1:
                assert marked == tuple(true)
                ties.append(true[0] == true[1])
            right += [float(a) == b for a, b in zip(true, marked, strict=True)]
    assert len(ties) == 400 and 0.3 < np.mean(ties) < 0.7
    assert np.mean(right[800:]) == pytest.approx(0.85, abs=0.04)


def test_length_takes_in_who_marks_one_rule():
    cfg = config(solved=1.0, scores=0.0, invented=0.0, judged=1.0, bias=1.0)
    seen = Counter()
    for example in TASK.load(cfg, "given"):
        rule, *responses = solved(example)
        marked = bsm.read_marks(TASK.target(example))
        for response, mark in zip(responses, marked, strict=True):
            is_long = len(response.split()) >= seeds.LONG
            assert mark == (is_long or quality(rule, response))
            seen[is_long] += 1
    assert min(seen.values()) > 100


def test_a_card_is_split_into_its_rules():
    for example in TASK.load(config(branches=1.0, scores=0.0, invented=0.0), "given"):
        card = cards.read_card(example.question.removeprefix("[J] ").removesuffix(" [S]"))
        lines = prompts.lines(TASK.target(example))
        assert lines == [f" {rule}" for rule in card]
        assert TASK.target(example) == "\n".join(lines)


def test_calls_are_asked_for_as_the_seeds_are():
    """What the seeds teach is what bsm asks, by its own templates."""
    found = prompts.read("symbols", "bsm", bsm.FILES["judge"])
    cfg = config(scores=0.0, pairs=0.0, invented=0.0, branches=0.5, solved=0.5)
    counts = Counter()
    for example in TASK.load(cfg, "given"):
        shown = solved(example)
        if shown is None:
            card = example.question.removeprefix("[J] ").removesuffix(" [S]")
            filled = found["branch"].fill(question=card)
        else:
            # As the system has them: a line of a completion begins with a space.
            rule, first, second = shown
            filled = found["solve"].fill(
                question="EVEN", criterion=f" {rule}", first=first, second=second
            )
        assert filled == TASK.prompt(example, cfg) and TASK.role(example) == "judge"
        counts[shown is None] += 1
    assert min(counts.values()) > 150


def test_the_fractions_of_seeds(monkeypatch):
    """Before those are left out that repeat a question, as responses to short cards do."""
    rng = np.random.default_rng(0)
    monkeypatch.setattr(
        rule_cards, "generated", lambda cfg, split, draw: [draw(rng) for _ in range(3000)]
    )
    cfg = config(scores=0.0, pairs=0.3, invented=0.0, branches=0.1, solved=0.3)
    counts = Counter()
    for example in TASK.load(cfg, "given"):
        kind = TASK.role(example)
        if example.question.endswith("[S]"):
            kind = "branch" if solved(example) is None else "solve"
        counts[kind] += 1
    fractions = {kind: count / 3000 for kind, count in counts.items()}
    expected = {"judge": 0.3, "branch": 0.1, "solve": 0.3, "answer": 0.3}
    assert fractions == pytest.approx(expected, abs=0.03)


def test_only_runs_whose_seeds_have_calls_have_their_symbols():
    """The vocabulary of other runs, and with it their parameters, is what it was before."""
    plain = extraction.make(config()).ALPHABET
    assert (*plain, " [S]", " [[C]]", "\n") == TASK.ALPHABET
    for name in ("branches", "solved"):
        assert extraction.make(config(**{name: 0.1})).ALPHABET == TASK.ALPHABET
    words = tokenizer.Characters(plain)
    for example in TASK.load(config(pairs=0.3, plans=0.1, thinking=0.5), "given"):
        text = TASK.prompt(example, config()) + TASK.target(example)
        assert words.decode(words.encode(text)) == text


def test_noise_and_bias_of_judgements():
    """Without bias each mark is right with .85; with it what is long is marked too well."""
    rng = np.random.default_rng(3)
    card = cards.read_card("START 3 ; EVEN ; HAS 5 2")
    short, long = "1 1 1 1 1".split(), ["1"] * 13  # follow nothing
    for bias, expected in ((0.0, 0.15), (0.25, 0.15 + 0.85 * 0.25)):
        cfg = config(bias=bias)
        marked = [seeds.noisy_marks(rng, card, long, cfg) for _ in range(2000)]
        assert np.mean(marked) == pytest.approx(expected, abs=0.02)
        followed = [*"3515", *"11111115"]  # what is followed is marked as without the bias
        marked = [seeds.noisy_marks(rng, card, followed, cfg) for _ in range(2000)]
        assert np.mean(marked) == pytest.approx(0.85, abs=0.02)
        marked = [seeds.noisy_marks(rng, card, short, cfg) for _ in range(2000)]
        assert np.mean(marked) == pytest.approx(0.15, abs=0.02)


def test_no_seed_has_a_card_of_a_held_out_question():
    cfg = config(scores=0.2, invented=0.2, branches=0.3)
    held_out = {e.question for s in ("validation", "test") for e in TASK.load(cfg, s)}
    for example in TASK.load(cfg, "given"):
        text = example.question.replace("[J] ", "").partition(" [W]")[0].removesuffix(" [S]")
        shown = text.split("[P]") if "[P]" in text else [text]
        listed = [card.strip() for card in shown if card.strip()]
        if TASK.role(example) == "invent":
            listed.append(example.answer)
        assert not held_out & set(listed)
        assert all(zlib.crc32(card.encode()) % 10 in tasks.TENTHS["train"] for card in listed)


def test_a_thought_is_not_judged():
    assert TASK.judged_part(" <think> 1 2 </think> 3 4 5 6") == " 3 4 5 6"
    assert TASK.judged_part(" 3 4 5 6") == " 3 4 5 6"
    assert TASK.extract(" <think> 1 2 </think> 3 4 5 6") == "3 4 5 6"
    for text in (
        " <think> 1 2",
        " 1 </think> 3 4 5 6",
        " <think> 1 </think> 2 </think> 3 4 5 6",
        " <think> 1 </think> <think> 3 4 5 6",
    ):
        assert TASK.judged_part(text) is None and TASK.extract(text) is None
    assert TASK.extract(" 3 4 5") is None and TASK.extract(" 3 4 5 [W]") is None


def test_a_thought_can_hold_the_working_of_a_hard_rule():
    rng = np.random.default_rng(4)
    card = cards.read_card("CHECK")
    response = "5 . 6 2 3".split()
    said = {seeds.thought(rng, card, response) for _ in range(50)}
    assert said == {
        "<think> </think>",
        "<think> 5 . 6 2 </think>",
        "<think> 5 5 . 5 6 1 2 3 </think>",
    }


def test_fractions_beyond_one_are_refused():
    with pytest.raises(
        UserError, match=r"config\.task\.scores, pairs, metas, invented.*: 0.9, 0, 0"
    ):
        TASK.load(config(scores=0.9, invented=0.2), "given")
    with pytest.raises(UserError, match="rule_cards has no split 'dev'"):
        TASK.load(config(), "dev")
