"""Rule cards: what each rule asks for, what responses are worth, and what seed data is like."""

from __future__ import annotations

import zlib
from collections import Counter

import numpy as np
import pytest

from reasoning_jax import default, tasks, templates, tokenizer
from reasoning_jax.errors import UserError
from reasoning_jax.graders import judge
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
    cfg = config(scores=0.3, pairs=0.2, metas=0.2, invented=0.1, thinking=0.5)
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
    cfg = config(scores=0.3, invented=0.3)
    held_out = {e.question for s in ("validation", "test") for e in TASK.load(cfg, s)}
    for example in TASK.load(cfg, "given"):
        text = example.question.replace("[J] ", "").partition(" [W]")[0]
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
