"""SECToR: its sums, votes and curriculum; no answer beyond the given lengths is read."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import scripted

from reasoning_jax import algorithms, default, extraction, graders
from reasoning_jax import config as configuration
from reasoning_jax.algorithms.sector import curriculum, guesses
from reasoning_jax.errors import UserError
from reasoning_jax.tasks import CORRECT, addition
from reasoning_jax.tasks.addition_forms import simplify
from reasoning_jax.tasks.addition_forms.simplify import FAST, SLOW, Sum
from reasoning_jax.tokenizer import Characters

SECTOR = algorithms.get("sector")
MAX_DIGITS = 4
FIELD = MAX_DIGITS + simplify.SHIFTS - 1  # places
TOK = Characters(simplify.ALPHABET)
EXAMPLE = Sum(1, ((8, 1), (3, 7), (9, 0), (2, 5)))  # 2938 + 5071 + 1 = 08010


def number(problem: Sum) -> int:
    return problem.carry + sum((a + b) * 10**i for i, (a, b) in enumerate(problem.pairs))


def sums(num_pairs: int) -> list[Sum]:
    """All sums of so many digits, leading zeros included."""
    pairs = list(itertools.product(range(10), repeat=2))
    return [Sum(k, p) for k in (0, 1) for p in itertools.product(pairs, repeat=num_pairs)]


def config(**changes):
    cfg = default.get_config(algorithm="sector", task="addition")
    cfg.task.update(
        form="simplify", max_digits=MAX_DIGITS, given=(20, 20), num_train=160, num_eval=10
    )
    cfg.rounds.update(examples=10, patience=0, count=3, restart=False)
    cfg.sampling.max_new_tokens = 10
    cfg.sequence_length = 32
    for name, value in changes.items():
        section, _, key = name.partition("__")
        cfg[section][key] = value
    return cfg


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model(scripted.Scripted):
    """Answers what ``script(mode, problem)`` says, and the truth where that is None."""

    def attempt(self, e, index, hint):
        problem = simplify.asked(e.question)
        mode = e.question[0]
        text = self.script(mode, problem)
        if text is None:
            text = true_answer(mode, problem)
        tokens = np.asarray([*TOK.encode(text), TOK.eos_id], np.int32)
        sample = scripted.sample(scripted.example(0), CORRECT)
        return dataclasses.replace(
            sample,
            example=e,
            prompt_ids=self.prompt_ids(e),
            tokens=tokens,
            text=text,
            answer=self.task.extract(text),
            verdict=CORRECT if text == e.answer else "wrong",
        )


def true_answer(mode: str, problem: Sum) -> str:
    """Of arithmetic on whole numbers, not of the code that is tested."""
    digits = f"{number(problem):0{len(problem.pairs) + 1}d}"[::-1]
    if mode == FAST:
        return digits
    low = problem.carry + sum(problem.pairs[0])
    return f"{digits[0]}{simplify.write(Sum(low // 10, problem.pairs[1:]))}"


def rollout(script=lambda mode, problem: None, cfg=None):
    cfg = cfg or config()
    task = extraction.make(cfg.task)
    changes = {"tokenizer": TOK, "task": task, "task_cfg": cfg.task}
    changes["grader"] = graders.make(cfg, task)
    changes["max_new_tokens"] = cfg.sampling.max_new_tokens
    return scripted.rollout(script, kind=Model, max_length=cfg.sequence_length, **changes)


def play_round(script=lambda mode, problem: None, cfg=None, memory=None, source=None, round=1):
    cfg = cfg or config()
    source = addition.load(cfg.task, "train") if source is None else source
    memory = SECTOR.init_memory(cfg, len(source)) if memory is None else memory
    examples = SECTOR.examples(source, memory, round, cfg)
    return examples, SECTOR.collect(rollout(script, cfg), examples, memory, round, cfg)


def texts(rows) -> list[str]:
    return [TOK.decode(row["tokens"]) for row in rows]


def parts(text: str) -> tuple[str, Sum, str, int]:
    """Mode, problem, answer without its dots, and the number of these, of a row's text."""
    question, _, answer = text.partition("=")
    shift = len(answer.split(".")) - 1
    problem = simplify.asked(f"{question}=")
    assert question.startswith(question[0] + simplify.EMPTY * shift + str(problem.carry))
    assert len(TOK.encode(question)) == FIELD + 2
    return question[0], problem, answer.removeprefix(simplify.EMPTY * shift), shift


# ---- the sums ------------------------------------------------------------------------------------


def test_the_example_of_the_docstring():
    assert simplify.question(FAST, EXAMPLE, 4) == "F1 8+1 3+7 9+0 2+5 . .="
    assert simplify.question(FAST, EXAMPLE, 4, 2) == "F . .1 8+1 3+7 9+0 2+5="
    assert simplify.shifted("01080", 2) == " . .01080"
    assert simplify.digits(EXAMPLE) == "01080" and number(EXAMPLE) == 8010
    assert simplify.simplification(EXAMPLE) == "01 3+7 9+0 2+5"
    assert simplify.simplification(Sum(1, ((2, 5),))) == "80"


@pytest.mark.parametrize("num_pairs", [1, 2])
def test_a_simplification_keeps_the_sum(num_pairs):
    """a + b + k = 10 (a' + b' + c) + d, of all sums; and what is written is read again."""
    for problem in sums(num_pairs):
        digit, left = simplify.read_simplification(simplify.simplification(problem))
        assert number(problem) == 10 * number(left) + int(digit)
        assert len(left.pairs) == num_pairs - 1
        assert int(simplify.digits(problem)[::-1]) == number(problem)
        assert simplify.asked(simplify.question(SLOW, problem, MAX_DIGITS)) == problem
        assert number(simplify.swapped(problem)) == number(problem)


@pytest.mark.parametrize("text", ["", "2", "2 1+1", "1 1+1 ", "0 11+1", "11+1", "0 1+1 .", "a"])
def test_what_is_no_sum(text):
    assert simplify.read(text) is None
    assert simplify.read_simplification(f"5{text}") is None


@pytest.mark.parametrize("text", ["", " ", "1 ", "F", "1+1", "²"])
def test_what_is_no_answer(text):
    assert simplify.read_digits(text) is None
    assert simplify.extract(text) is None and simplify.read_simplification(text) is None


def test_splits_share_no_sum_in_either_order():
    cfg = config(task__num_eval=40).task
    loaded = {split: addition.load(cfg, split) for split in addition.SPLITS}
    pairs = {}
    for split, examples in loaded.items():
        asked = [simplify.asked(e.question).pairs for e in examples]
        assert {len(p) for p in asked} == {1, 2} | ({3, 4} if split != "given" else set())
        pairs[split] = {frozenset((p, simplify.swapped(Sum(0, p)).pairs)) for p in asked}
        assert all(p[-1][0] and p[-1][1] for p in asked if len(p) > 1), "a leading zero"
    for one, other in itertools.combinations(pairs, 2):
        if {one, other} != {"train", "given"}:
            assert not pairs[one] & pairs[other]
    ids = [e.id for examples in loaded.values() for e in examples]
    assert len(set(ids)) == len(ids)
    for e in loaded["train"]:
        num_pairs = len(simplify.asked(e.question).pairs)
        assert (e.rationale is None) == (num_pairs > 2)
        assert e.answer == true_answer(e.question[0], simplify.asked(e.question))


def test_prompts_are_spelled_by_the_alphabet():
    cfg = config()
    task = extraction.make(cfg.task)
    for e in addition.load(cfg.task, "given"):
        asked = task.prompt(e, cfg.task)
        assert TOK.decode(TOK.encode(asked + task.target(e))) == asked + task.target(e)
        assert len(TOK.encode(asked)) == FIELD + 3  # whatever the length of the sum
        assert task.extract(task.target(e)) == e.answer
        assert parts(asked + task.target(e))[2] == e.answer
    with pytest.raises(UserError, match="no hints"):
        task.prompt(e, cfg.task, hint="1")


# ---- votes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "votes, expected",
    [
        ([], None),
        (["1"], None),
        (["1", "2", "3"], None),
        (["1", "2", "2"], "2"),
        (["1", "2", "1"], "1"),
        (["2", "1", "1", "2"], "2"),
        (["1", "2", "2", "1", "2"], "2"),
    ],
)
def test_majority(votes, expected):
    assert guesses.majority(votes) == expected


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_a_perfect_model_guesses_the_truth_after_each_simplification(steps):
    problems = [*sums(1), *sums(2)[::97], EXAMPLE]
    solved = guesses.solve(rollout(), problems, steps, MAX_DIGITS)
    for problem, solution in zip(problems, solved, strict=True):
        truth = true_answer(FAST, problem)
        assert solution.guesses == [truth] * min(steps, len(problem.pairs))
        assert solution.from_first == truth and solution.first.correct


def wrong_first_guess(mode, problem):
    """A model whose fast answers to sums of two pairs have a false last digit."""
    if mode == FAST and len(problem.pairs) == 2:
        digits = true_answer(FAST, problem)
        return digits[:-1] + str((int(digits[-1]) + 1) % 10)
    return None


def test_a_vote_corrects_a_guess_and_without_checks_it_is_the_label():
    for checks, error in (("none", 1.0), ("vote", 0.0), ("commutativity", 0.0)):
        _, collected = play_round(wrong_first_guess, config(algorithm__checks=checks))
        assert collected.stats["kept"] == 1.0
        assert collected.stats["label_error"] == error


def is_ordered(problem):
    return problem.pairs < simplify.swapped(problem).pairs


def wrong_in_one_order(mode, problem):
    """False simplifications, whose error every later guess shares, of a + b but not of b + a."""
    if mode == SLOW and len(problem.pairs) == 3 and is_ordered(problem):
        digit, left = simplify.read_simplification(true_answer(SLOW, problem))
        return f"{(int(digit) + 1) % 10}{simplify.write(left)}"
    return None


def test_commutativity_drops_what_depends_on_the_order():
    examples, voted = play_round(wrong_in_one_order, config(algorithm__checks="vote"))
    problems = [simplify.asked(e.question) for e in examples if e.rationale is None]
    unequal = sum(p != simplify.swapped(p) for p in problems)
    assert unequal and voted.stats["kept"] == 1
    assert voted.stats["label_error"] == unequal / (2 * len(problems))
    _, checked = play_round(wrong_in_one_order)
    assert checked.stats["kept"] == 1 - unequal / len(problems)
    assert checked.stats["label_error"] == 0


def test_an_error_of_both_orders_passes_and_is_logged():
    def wrong(mode, problem):
        if mode == SLOW and len(problem.pairs) == 3:
            digit, left = simplify.read_simplification(true_answer(SLOW, problem))
            return f"{(int(digit) + 1) % 10}{simplify.write(left)}"
        return None

    _, collected = play_round(wrong)
    assert collected.stats["kept"] == collected.stats["label_error"] == 1
    assert collected.stats["learned"] == 1, "nothing but the log knows"


@pytest.mark.parametrize("text", ["x", "0", "0 1+1", "00 1+1 1+1 1+1 1+1 1+1", "7" * 9])
def test_what_cannot_be_read_ends_a_chain(text):
    def broken(mode, problem):
        return text.replace("x", "") if mode == SLOW and len(problem.pairs) == 3 else None

    _, collected = play_round(broken)
    assert collected.rows == [] and collected.stats["kept"] == 0
    assert collected.memory.failures == 1


# ---- rows ----------------------------------------------------------------------------------------


def test_rows_of_a_kept_problem():
    """Fast and slow, in both orders; as many rows of the given lengths beside them."""
    examples, collected = play_round()
    new = [simplify.asked(e.question) for e in examples if e.rationale is None]
    assert len(new) == 10 and {len(p.pairs) for p in new} == {3}
    expected = [
        (mode, problem, true_answer(mode, problem))
        for problem in [*new, *map(simplify.swapped, new)]
        for mode in (FAST, SLOW)
    ]
    found = [parts(text) for text in texts(collected.rows)[:40]]
    assert [row[:3] for row in found] == expected
    assert {shift for *_, shift in found} == set(range(simplify.SHIFTS))
    worked = {e.question + e.rationale for e in examples if e.rationale is not None}
    assert len(worked) == 10 and set(texts(collected.rows)[40:]) == worked
    for row in collected.rows:
        prompt = FIELD + 3 + 1  # and the start token
        assert not row["weights"][:prompt].any() and row["weights"][prompt:].all()
        assert row["tokens"][0] == TOK.bos_id and row["tokens"][-1] == TOK.eos_id


def test_a_false_first_simplification_is_not_trained_on():
    _, collected = play_round(wrong_first_guess)
    slow = [text for text in texts(collected.rows)[: 2 * 10] if text.startswith(SLOW)]
    assert not slow, "its guess was outvoted"
    assert collected.stats["kept_rows"] == 2 * 10


def test_no_truth_beyond_the_given_lengths_is_read(monkeypatch):
    """With false answers of longer sums, all but the log is the same."""

    def noisy(mode, problem):
        if sum(problem.pairs[0]) > 12:
            return wrong_in_one_order(mode, problem)
        return wrong_first_guess(mode, problem)

    cfg = config()
    source = addition.load(cfg.task, "train")
    _, honest = play_round(noisy, cfg, source=source)
    for name in ("digits", "simplification"):
        monkeypatch.setattr(simplify, name, lambda problem: "?")
    false = [e if e.rationale else dataclasses.replace(e, answer="?") for e in source]
    _, other = play_round(noisy, cfg, source=false)
    assert texts(honest.rows) == texts(other.rows) and honest.kept == other.kept
    for mine, theirs in zip(honest.memory, other.memory, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    changed = {name for name, value in honest.stats.items() if other.stats[name] != value}
    assert changed == {"label_error"} and 0 < honest.stats["kept"] < 1


# ---- the curriculum ------------------------------------------------------------------------------


def test_a_length_a_round_and_the_rows_of_those_before():
    cfg = config()
    source = addition.load(cfg.task, "train")
    _, first = play_round(cfg=cfg, source=source)
    assert first.memory.digits == 4 and first.memory.num_rows == 40
    for stored, row in zip(curriculum.rows(first.memory), first.rows[:40], strict=True):
        np.testing.assert_array_equal(stored["tokens"], row["tokens"])
        np.testing.assert_array_equal(stored["weights"], row["weights"])
    examples, second = play_round(cfg=cfg, source=source, memory=first.memory, round=2)
    assert {simplify.difficulty(e)[1] for e in examples} == {1, 2, 4}
    earlier = texts(second.rows)[40:]
    assert len(earlier) == 40 and set(earlier) & set(texts(first.rows)[:40])
    assert all(len(parts(text)[1].pairs) < 4 for text in earlier)
    assert second.memory.digits == 5 and second.memory.num_rows == 80
    examples, last = play_round(cfg=cfg, source=source, memory=second.memory, round=3)
    assert last.rows == [] and last.memory is second.memory, "no longer sums"


def test_a_length_is_tried_again_and_then_the_run_learns_nothing_more():
    cfg = config(algorithm__least_kept=0.9, algorithm__max_failed_rounds=2)
    source = addition.load(cfg.task, "train")
    memory, asked = None, []
    for round in (1, 2, 3):
        examples, collected = play_round(
            wrong_in_one_order, cfg, memory=memory, source=source, round=round
        )
        memory = collected.memory
        asked.append([e.id for e in examples if e.rationale is None])
        assert memory.digits == 3 and collected.stats.get("learned", 0) == 0
    assert memory.failures == 2 and collected.rows == []
    assert not set(asked[0]) & set(asked[1]), "other problems"


def test_more_rounds_need_no_other_memory():
    more = config(rounds__count=9)
    for a, b in zip(SECTOR.init_memory(config(), 160), SECTOR.init_memory(more, 160), strict=True):
        np.testing.assert_array_equal(a, b)


def test_memory_is_arrays_of_one_shape():
    """A checkpoint holds it, and is read into the shapes of the beginning."""
    cfg = config()
    before = SECTOR.init_memory(cfg, 160)
    _, collected = play_round(cfg=cfg)
    for old, new in zip(before, collected.memory, strict=True):
        assert type(old) is type(new) is np.ndarray
        assert old.shape == new.shape and old.dtype == new.dtype


# ---- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"task__form": "scratchpad"}, "config.task.form=simplify"),
        ({"algorithm__num_simplifications": 1}, "config.algorithm.num_simplifications: 1 guess"),
        ({"sampling__temperature": 1.0}, "config.sampling.temperature"),
        ({"rounds__patience": 2}, "config.rounds.patience"),
        ({"rounds__restart": True}, "config.rounds.restart"),
        ({"base__num_updates": 5, "base__split": "train"}, "config.base.split: train has sums"),
        ({"algorithm__checks": "none"}, "config.algorithm.num_simplifications: 3 has no effect"),
        ({"rounds__examples": 0}, "config.rounds.examples"),
        ({"task__max_digits": 2}, "config.task.max_digits: 2"),
    ],
)
def test_configs_that_are_refused(changes, sentence):
    SECTOR.check(config())
    with pytest.raises(UserError, match=f"^{sentence}|^config.algorithm.name: .*{sentence}"):
        SECTOR.check(config(**changes))


def test_too_few_problems_of_a_length():
    cfg = config()
    source = [
        e for e in addition.load(cfg.task, "train") if len(simplify.asked(e.question).pairs) < 4
    ]
    wanted = "config.rounds.examples: 10 are more than the 0 problems of 4 digits"
    with pytest.raises(UserError, match=wanted):
        SECTOR.check_data(rollout(cfg=cfg), source, cfg)


def test_no_simplifications_are_refused():
    cfg = config(algorithm__num_simplifications=0)
    with pytest.raises(UserError, match=r"config.algorithm.num_simplifications"):
        default.check(cfg)


def test_one_guess_needs_no_checks():
    SECTOR.check(config(algorithm__num_simplifications=1, algorithm__checks="none"))


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"sequence_length": 19}, "config.sequence_length 19"),
        ({"max_new_tokens": 8}, "config.sampling.max_new_tokens: 8 have no room"),
    ],
)
def test_sums_that_have_no_room(changes, sentence):
    cfg = config()
    source = addition.load(cfg.task, "train")
    assert SECTOR.check_data(rollout(cfg=cfg), source, cfg) == []
    cfg.sequence_length = changes.get("sequence_length", cfg.sequence_length)
    cfg.sampling.max_new_tokens = changes.get("max_new_tokens", cfg.sampling.max_new_tokens)
    with pytest.raises(UserError, match=sentence):
        SECTOR.check_data(rollout(cfg=cfg), source, cfg)


@pytest.mark.parametrize("arg", ["", "smoke"])
def test_the_experiment_has_room(arg):
    folder = Path(__file__).resolve().parent.parent / "configs"
    cfg = configuration.load(f"{folder / 'sector_addition.py'}:{arg}")
    source = addition.load(cfg.task, "train")
    assert SECTOR.check_data(rollout(cfg=cfg), source, cfg) == []
    lengths = [simplify.difficulty(e)[1] for e in source if e.rationale is None]
    beyond = range(len(cfg.task.given) + 1, cfg.task.max_digits + 1)
    assert set(lengths) == set(beyond)
    assert all(lengths.count(n) >= cfg.rounds.examples for n in beyond)


def test_the_scratchpad_has_a_limit_and_this_form_has_none():
    cfg = config(task__max_digits=40)
    assert len(addition.load(cfg.task, "test")) == 400
    cfg.task.form = "scratchpad"
    with pytest.raises(UserError, match="config.task.max_digits: 40.* at most 18"):
        addition.load(cfg.task, "test")
