"""Models that judge their own responses: pairs by hand, prompts of their own, what is refused."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from judging import TASK, card, config, judgement, rollout, sides
from ml_collections import ConfigDict

from reasoning_jax import algorithms, judged, self_instruct
from reasoning_jax.errors import UserError
from reasoning_jax.training import losses, packing
from reasoning_jax.training.rows import attach, pair_row

METHOD = algorithms.get("self_rewarding")
# Of EVEN ; START 1: both, one, one and none of the rules.
ANSWERS = {
    "EVEN ; START 1": [" 1 2 3 4", " 2 2 3 4", " 1 2 3 4 5", " 2 2 3 4 5"],
    "NOT 7": [" 1 1 1 1", " 7 1 1 1", " 7 7 1 1", " 2 2 2 2"],
}
EXAMPLES = [card("EVEN ; START 1", 1), card("NOT 7", 2)]


def by_rule(prompt, index):
    """A judge that likes what has few symbols: scores 5 less those after the fourth."""
    response = prompt.partition("[W] ")[2].removesuffix(" [V]").split()
    return f" Score: {5 - len(response) + 4}"


def collect(say, examples=EXAMPLES, answers=ANSWERS, round=1, memory=None, **changes):
    cfg = config("self_rewarding", **{"replayed": 0.0, **changes})
    METHOD.check(cfg)
    roll = rollout(cfg, answers, say)
    memory = METHOD.init_memory(cfg, len(examples)) if memory is None else memory
    return METHOD.collect(roll, examples, memory, round, cfg), roll


def test_the_best_is_paired_with_the_worst():
    scores = {"1 2 3 4": "4", "2 2 3 4": "1", "1 2 3 4 5": "3", "2 2 3 4 5": "2"}
    scores |= {"1 1 1 1": "2", "7 1 1 1": "2", "7 7 1 1": "2", "2 2 2 2": "2"}

    def say(prompt, index):
        return f" + Score: {scores[prompt.partition('[W] ')[2].removesuffix(' [V]')]}"

    found, roll = collect(say)
    assert [sides(row) for row in found.rows] == [(" 1 2 3 4", " 2 2 3 4")]  # the other card ties
    assert found.kept == {(1, 0, False)}
    assert found.stats["kept"] == 0.5 and found.stats["kept_rows"] == 1
    assert len(roll.prompts) == 2 * 4 and roll.prompts[0] == " [J] EVEN ; START 1 [W] 1 2 3 4 [V]"
    # Quality: 1, .5, .5, 0 and 1, 0, 0, 1. The judge prefers (right) the first, and a tie of all.
    assert found.stats["quality"] == pytest.approx(0.5)
    assert found.stats["best_quality"] == pytest.approx((1.0 + 0.5) / 2)
    assert found.stats["gap"] == pytest.approx(0.25)
    # Of the first card's five pairs of different quality 1 > .5, 1 > .5, 1 > 0, .5 > 0 (3 against
    # 2) are right and .5 > 0 (1 against 2) is wrong; of the other's four all are ties.
    assert found.stats["agreement"] == pytest.approx((4 + 0 + 4 * 0.5) / 9)
    assert found.stats["unread"] == 0


def test_the_mean_of_several_judgements_decides():
    said = {"1 2 3 4": "055", "2 2 3 4": "444", "1 2 3 4 5": "333", "2 2 3 4 5": "331"}

    def say(prompt, index):
        return f" Score: {said[prompt.partition('[W] ')[2].removesuffix(' [V]')][index]}"

    found, _ = collect(say, examples=EXAMPLES[:1])
    assert [sides(row) for row in found.rows] == [(" 2 2 3 4", " 2 2 3 4 5")]


def test_what_is_cut_off_or_unread_is_no_side():
    answers = {"NOT 7": [" 1 1 1 1...", " 2 2 2 2", " 3 3 3 3", " 4 4 4 4"]}
    said = {"1": " Score: 5", "2": " Score: 6", "3": " Score: 3", "4": " Score: 0"}

    def say(prompt, index):
        return said[prompt.split()[-2]]

    found, _ = collect(say, examples=EXAMPLES[1:], answers=answers)
    assert [sides(row) for row in found.rows] == [(" 3 3 3 3", " 4 4 4 4")]
    assert found.stats["unread"] == 0.25 and found.stats["unparsed_pairs"] == 0


def test_what_is_cut_off_is_rejected_in_a_part_of_the_pairs():
    """The judge likes it best, and it is never chosen; what is only unread is no side at all."""
    answers = {"NOT 7": [" 1 1 1 1...", " 2 2 2 2", " 3 3 3 3", " 4 4 4 4"]}
    said = {"1": " Score: 5", "2": " Score: 6", "3": " Score: 3", "4": " Score: 0"}

    def say(prompt, index):
        return said[prompt.split()[-2]]

    found, _ = collect(say, examples=EXAMPLES[1:], answers=answers, max_unparsed=0.5)
    assert [sides(row) for row in found.rows] == [
        (" 3 3 3 3", " 4 4 4 4"),
        (" 3 3 3 3", " 1 1 1 1"),
    ]
    assert found.stats["unparsed_pairs"] == 0.5 and found.stats["kept"] == 1
    assert any("25% of the judgements" in sentence for sentence in found.warnings)


@pytest.mark.parametrize(
    "text, sentence",
    [
        (" Score: 3", "round 1: all responses to an instruction score the same"),
        (" + + +", "round 1: no judgement has a score that can be read"),
    ],
)
def test_a_round_without_pairs_says_what_to_change(text, sentence):
    with pytest.raises(UserError, match=sentence):
        collect(lambda prompt, index: text)


def test_other_judges():
    """The task's own grader, chance, and the model before round 1; only the last is asked."""
    keys = {"template": "additive", "judge_tokens": 256}  # the defaults
    found, roll = collect(None, judge="grader", **keys)
    assert [sides(row) for row in found.rows] == [
        (" 1 2 3 4", " 2 2 3 4 5"),
        (" 1 1 1 1", " 7 1 1 1"),
    ]
    assert found.stats["agreement"] == 1 and not roll.prompts
    found, roll = collect(None, judge="random", **keys)
    assert len(found.rows) == 2 and not roll.prompts
    found, roll = collect(by_rule, judge="base")
    assert len(roll.prompts) == 8 and roll.writers == ["base"]
    assert collect(by_rule)[1].writers == ["new"]
    other = {"judge": "run", "judge_run": "runs/m1"}
    assert collect(by_rule, **other)[1].writers == ["that of runs/m1"]
    with pytest.raises(UserError, match=r"config\.algorithm\.judge_run: without judge=run"):
        collect(by_rule, judge_run="runs/m1")
    with pytest.raises(UserError, match=r"config\.algorithm\.judge_tokens: with .*judge=grader"):
        collect(None, judge="grader", **(keys | {"judge_tokens": 9}))


def test_length_is_taken_off_the_score():
    answers = {"NOT 7": [" 1 1 1 1 . . . . .", " 2 2 2 2", " 3 3 3 3", " 4 4 4 4 4"]}
    said = {".": " Score: 5", "2": " Score: 4", "3": " Score: 1", "4": " Score: 0"}

    def say(prompt, index):
        return said[prompt.split()[-2]]

    for weight, chosen in ((0.0, answers["NOT 7"][0]), (1.0, answers["NOT 7"][1])):
        found, _ = collect(say, EXAMPLES[1:], answers, length_weight=weight)
        assert sides(found.rows[0])[0] == chosen


# ---- replayed judgements -------------------------------------------------------------------------


def test_judgements_are_replayed():
    examples = [*EXAMPLES, judgement(1), judgement(0)]
    found, _ = collect(by_rule, examples, replayed=0.75)
    replayed = [row for row in found.rows if row["replayed"].sum() > 0]
    pairs = [row for row in found.rows if row["replayed"].sum() == 0]
    assert len(pairs) == 1 and len(replayed) == 3
    for row in replayed:
        chosen, other = sides(row)
        assert chosen in (" + Score: 1", " - Score: 0") and other == ""
    with pytest.raises(UserError, match=r"config\.algorithm\.replayed: none of the round's"):
        collect(by_rule, EXAMPLES, replayed=0.5)


def test_the_loss_of_what_is_replayed():
    """Pairs lose what pair_loss says, replayed ones the chosen side's mean; none the other side."""
    prompt = [1, 5, 6]
    pair = attach(
        attach(pair_row(prompt, [[7, 8, 2], [9, 2]]), "ref", (-3, -1)), "replayed", (0, 0)
    )
    again = attach(attach(pair_row(prompt, [[5, 7, 9, 2], [2]]), "ref", (0, 0)), "replayed", (1, 0))
    cfg = ConfigDict(
        {"preference": "dpo", "beta": 0.5, "label_smoothing": 0.0, "dpo_weight": 1.0, "alpha": 0.0}
    )

    def loss(rows, logprobs):
        filled = packing.fill([[row] for row in rows], len(rows), 16, False)
        batch = {name: jnp.asarray(value) for name, value in filled.items()}
        return losses.pair_or_replayed_loss(jnp.asarray(logprobs), batch, cfg), batch

    rng = np.random.default_rng(0)
    logprobs = -rng.random((2, 16)).astype(np.float32)
    both, batch = loss([pair, again], logprobs)
    one, batch_of_pair = loss([pair], logprobs[:1])
    plain = losses.pair_loss(jnp.asarray(logprobs[:1]), batch_of_pair, cfg)
    assert float(one.total) == pytest.approx(float(plain.total))
    chosen = logprobs[1][np.asarray(batch["segment_ids"])[1] == 1][3:]
    assert float(both.total) == pytest.approx(float(plain.total) - float(chosen.mean()), rel=1e-5)
    assert float(both.weight) == 2 and float(both.means["replayed"]) == 1
    assert float(both.means["margin"]) == pytest.approx(float(plain.means["margin"]))
    logprobs[1][np.asarray(batch["segment_ids"])[1] == 2] = -99  # its other side has no part
    assert float(loss([pair, again], logprobs)[0].total) == pytest.approx(float(both.total))


# ---- instructions of its own ---------------------------------------------------------------------


def invent(texts, earlier=(), **changes):
    cfg = config(
        "self_rewarding", num_invented=len(texts), invent_template="cards_invent", **changes
    )
    roll = rollout(cfg, {}, lambda prompt, index: next(said))
    said = iter(texts)
    return self_instruct.invent(roll, EXAMPLES, list(earlier), 1, 0, cfg.algorithm), roll


def test_invented_instructions_are_read_and_filtered():
    unread = [" EVEN ; EVEN", " SORTED...", " START 3 ; HAS 5 2"]  # the last is held out
    alike = [" EVEN", " NOT 7 ; EVEN", " NOT 7"]  # as others, an earlier one, one that is shown
    texts = [" EVEN", *unread, *alike, " START 3 ; HAS 5 3"]
    found, roll = invent(texts, earlier=["NOT 7 ; EVEN"], max_similarity=1.0)
    assert [e.question for e in found.examples] == ["EVEN", "START 3 ; HAS 5 3"]
    assert (found.num_unread, found.num_alike) == (3, 3)
    assert len({e.id for e in found.examples}) == 2
    assert all(prompt.count("[P]") == 3 for prompt in roll.prompts)


def test_what_is_much_like_another_is_left_out():
    texts = [" START 3 ; HAS 5 3", " START 3 ; HAS 5 4", " MIRROR"]
    found, _ = invent(texts, max_similarity=0.8)  # six of seven words
    assert [e.question for e in found.examples] == ["START 3 ; HAS 5 3", "MIRROR"]
    found, _ = invent(texts, max_similarity=0.9)
    assert len(found.examples) == 3


def test_instructions_of_earlier_rounds_are_remembered():
    changes = {"num_invented": 2, "invent_template": "cards_invent", "max_similarity": 1.0}
    answers = dict.fromkeys(("EVEN", "NOT 3", "MIRROR"), ANSWERS["EVEN ; START 1"])

    def say(own):
        texts = iter(own)
        return lambda prompt, i: next(texts) if "[P]" in prompt else by_rule(prompt, i)

    first, _ = collect(say([" EVEN", " NOT 3"]), answers=answers, **changes)
    assert {s.example.question for s in first.samples} == {"EVEN", "NOT 3"}
    assert first.stats["invented"] == 2
    second, _ = collect(
        say([" NOT 3", " MIRROR"]), answers=answers, round=2, memory=first.memory, **changes
    )
    assert {s.example.question for s in second.samples} == {"MIRROR"}
    assert second.stats["invented_alike"] == 0.5
    # Eight rounds are remembered, however many there are: the ninth may write the first's again.
    own = say([" EVEN", " MIRROR"])
    ninth, _ = collect(own, answers=answers, round=9, memory=second.memory, **changes)
    assert {s.example.question for s in ninth.samples} == {"EVEN"}
    cfg = config("self_rewarding", **changes)
    cfg.rounds.count = 99
    assert METHOD.init_memory(cfg, 2).shape == ninth.memory.shape
    with pytest.raises(UserError, match="round 2: none of the 2 instructions that the model wrote"):
        collect(say([" EVEN", " 1 2"]), answers=answers, round=2, memory=first.memory, **changes)


def test_what_does_not_go_together():
    for section, name, value, sentence in (
        ("rounds", "restart", True, r"config\.rounds\.restart: a round's reference"),
        ("sampling", "temperature", 0.0, r"config\.sampling\.temperature: at 0"),
        ("algorithm", "preference", "kto", "self_rewarding makes pairs"),
    ):
        cfg = config("self_rewarding")
        cfg[section][name] = value
        with pytest.raises(UserError, match=sentence):
            METHOD.check(cfg)


def test_what_no_round_could_use_is_refused_before_any_training():
    """By check_data, which sees the examples and the rollout."""

    def refused(message, examples=EXAMPLES, max_length=96, **changes):
        cfg = config("self_rewarding", **{"replayed": 0.0, **changes})
        with pytest.raises(UserError, match=message):
            METHOD.check_data(rollout(cfg, ANSWERS, max_length=max_length), examples, cfg)

    refused(r"config\.rounds\.split: train has no instruction", [judgement(1)])
    refused(r"config\.algorithm\.replayed: train has no judgement", replayed=0.2)
    refused(r"config\.algorithm\.judge_tokens: 95 have no room", judge_tokens=95)
    refused(r"config\.algorithm\.template: The character", template="additive")
    cfg = config("self_rewarding", replayed=0.2)
    assert METHOD.check_data(rollout(cfg, ANSWERS), [*EXAMPLES, judgement(1)], cfg) == []
    cfg = config("self_rewarding", replayed=0.0)
    cfg.algorithm.num_invented = 2
    roll = rollout(cfg, ANSWERS)
    roll = dataclasses.replace(roll, task=dataclasses.replace(roll.task, invented=None))
    with pytest.raises(UserError, match=r"config\.algorithm\.num_invented: .* set 0"):
        METHOD.check_data(roll, EXAMPLES, cfg)


def test_a_response_that_leaves_no_room_is_not_judged():
    """Its judgements count as unread, and the round goes on."""

    def say(prompt, index):
        shown = prompt.partition("[W] ")[2]
        return None if shown.startswith("2") else f" Score: {5 - shown.count('7')}"

    found, _ = collect(say, examples=EXAMPLES[1:])
    assert found.stats["unread"] == 0.25
    assert {side for row in found.rows for side in sides(row)} & {" 2 2 2 2"} == set()


def test_a_blank_response_is_neither_judged_nor_chosen():
    """The judge would like it best; it is rejected as what cannot be read is."""
    answers = {"NOT 7": ["", " 2 2 2 2", " 3 3 3 3", " 4 4 4 4"]}

    def say(prompt, index):
        shown = prompt.partition("[W] ")[2]
        return " Score: 5" if shown.startswith("[V]") else f" Score: {shown[0]}"

    found, roll = collect(say, examples=EXAMPLES[1:], answers=answers, max_unparsed=0.5)
    assert [sides(row) for row in found.rows] == [(" 4 4 4 4", " 2 2 2 2"), (" 4 4 4 4", "")]
    assert len(roll.prompts) == 3


def test_what_cannot_be_chosen_has_no_part_in_agreement_and_gap():
    """The best response of all is unread, another is cut off: the others are ordered rightly."""
    answers = {"EVEN ; START 1": [" 1 2 3 4", " 1 2 3 4 5", " 2 2 3 4 5", " 1 2 3 4 5 6..."]}

    def say(prompt, index):
        shown = prompt.partition("[W] ")[2].removesuffix(" [V]")
        scores = {"1 2 3 4 5": " Score: 2", "2 2 3 4 5": " Score: 1", "1 2 3 4 5 6": " Score: 5"}
        return scores.get(shown, " -")

    found, _ = collect(say, examples=EXAMPLES[:1], answers=answers)
    assert found.stats["agreement"] == 1 and found.stats["best_quality"] == 0.5
    assert found.stats["gap"] == pytest.approx(0.5 - found.stats["quality"])


def test_with_a_judge_as_the_grader_there_is_no_quality():
    """A sample's score is then the judge's own, and says nothing of it."""
    cfg = config("self_rewarding", replayed=0.0)
    assert judged.has_quality(TASK, cfg)
    cfg.grader.name = "judge"
    assert not judged.has_quality(TASK, cfg)


def test_keys_of_instructions_need_instructions():
    with pytest.raises(UserError, match=r"config\.algorithm\.invent_tokens: with num_invented=0"):
        collect(by_rule, invent_tokens=9)
