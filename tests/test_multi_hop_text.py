"""Text with computations hidden in it: the oracle's kinds and entropies, by counting."""

from __future__ import annotations

import collections
import math

import numpy as np
import pytest

from reasoning_jax import default, tasks, tokenizer
from reasoning_jax.errors import UserError
from reasoning_jax.tasks import multi_hop_text as text_task
from reasoning_jax.tasks.texts import markov

SILENT = "A B C f c h A B C f h k A B C f k c A B C ? c -> h A B C"


def config(**changes):
    cfg = default.section(tasks, "multi_hop_text")
    cfg.update({"num_train": 300, "num_held_out": 100} | changes)
    return cfg


def following(tokens):
    """What the facts of a document say."""
    return {tokens[i + 1]: tokens[i + 2] for i, token in enumerate(tokens) if token == "f"}


@pytest.mark.parametrize(
    "keys", [{}, {"num_facts": 8, "hops": 5, "num_questions": 7, "stretch": 2}]
)
def test_documents_are_true(keys):
    cfg = config(**keys)
    for document in text_task.load(cfg, "given"):
        tokens = list(document.tokens)
        facts = following(tokens)
        assert len(facts) == cfg.num_facts and set(facts) == set(facts.values())
        node, length = next(iter(facts)), 0
        seen = set()
        while node not in seen:  # one cycle through all
            seen.add(node)
            node, length = facts[node], length + 1
        assert length == cfg.num_facts
        questions = [i for i, token in enumerate(tokens) if token == "?"]
        assert len(questions) == cfg.num_questions
        for i in questions:
            steps = [tokens[i + 1]]
            for _ in range(cfg.hops):
                steps.append(facts[steps[-1]])
            working = ["->", ":", *steps] if document.is_worked else []
            whole = ["?", steps[0], *working, "->", steps[-1]]
            assert tokens[i : i + len(whole)] == whole
        assert len({tokens[i + 1] for i in questions}) == cfg.num_questions


def test_the_oracle_names_every_token():
    cfg = config()
    for document in text_task.load(cfg, "given"):
        assert len(document.kinds) == len(document.tokens)
        for i, (token, kind) in enumerate(zip(document.tokens, document.kinds, strict=True)):
            if kind == "easy":
                assert token in markov.EASY
            elif kind == "computed":
                assert document.tokens[i - 1] == "->" and document.kinds[i - 1] == "before_computed"
            elif kind == "working":
                assert document.is_worked
        counts = collections.Counter(document.kinds)
        assert counts["computed"] == counts["before_computed"] == cfg.num_questions
        assert counts["working"] == document.is_worked * cfg.num_questions * (cfg.hops + 2)
        assert counts["easy"] == cfg.stretch * (cfg.num_facts + cfg.num_questions + 1) - 1


def test_easy_tokens_are_as_random_as_the_oracle_says():
    """Each easy token has four successors, the likeliest half of the time."""
    assert markov.easy_entropy() == pytest.approx(1.75 * math.log(2))
    counts = collections.defaultdict(collections.Counter)
    for document in text_task.load(config(num_train=3000), "given"):
        easy = [token for token in document.tokens if token in markov.EASY]
        for first, second in zip(easy, easy[1:], strict=False):
            counts[first][second] += 1
    assert {len(successors) for successors in counts.values()} == {4}
    total = sum(successors.total() for successors in counts.values())
    assert total > 50_000
    ranked = [[n for _, n in successors.most_common()] for successors in counts.values()]
    shares = [sum(numbers[rank] for numbers in ranked) / total for rank in (0, 1)]
    assert shares == pytest.approx([1 / 2, 1 / 4], abs=0.01)


def test_the_language_is_one_whatever_the_seed():
    def pairs(seed):
        counts = collections.Counter()
        for document in text_task.load(config(seed=seed, num_train=400), "given"):
            easy = [token for token in document.tokens if token in markov.EASY]
            counts.update(zip(easy, easy[1:], strict=False))
        return counts

    often = {pair for pair, count in pairs(0).items() if count > 20}
    assert len(often) > 50 and often <= pairs(1).keys()


def test_computed_tokens_are_uniform_over_what_the_oracle_leaves():
    """Counted over 6,000 documents of five facts, for each of three questions."""
    cfg = config(num_facts=5, hops=2, num_questions=3, num_train=6000, worked=0.0)
    assert [text_task.computed_entropy(cfg, n) for n in range(3)] == [
        math.log(4),
        math.log(3),
        math.log(2),
    ]
    counts = [collections.Counter() for _ in range(3)]
    for document in text_task.load(cfg, "given"):
        tokens = document.tokens
        start = tokens.index("?")
        symbols = sorted(following(tokens))
        answered: dict[str, str] = {}
        questions = [i for i in range(start, len(tokens)) if tokens[i] == "?"]
        for number, i in enumerate(questions):
            asked, answer = tokens[i + 1], tokens[i + 3]
            head = asked  # where the chain of answers that ends in what is asked began
            before = {value: key for key, value in answered.items()}
            while head in before:
                head = before[head]
            left = [s for s in symbols if s not in answered.values() and s != head]
            assert len(left) == round(math.exp(text_task.computed_entropy(cfg, number)))
            counts[number][left.index(answer)] += 1
            answered[asked] = answer
    for number, counter in enumerate(counts):
        shares = np.array(list(counter.values())) / 6000
        assert shares == pytest.approx(1 / (4 - number), abs=4 * 0.5 / 6000**0.5)


@pytest.mark.parametrize("worked", [0.0, 0.3, 1.0])
def test_the_fraction_of_worked_documents(worked):
    for split, count in (("train", 300), ("test", 100)):
        documents = text_task.load(config(worked=worked), split)
        share = np.mean([text_task.difficulty(d) == ("worked", 1) for d in documents])
        assert share == pytest.approx(worked, abs=4 * 0.46 / count**0.5)


def test_training_is_on_whole_documents_and_evaluation_on_the_last_answer():
    cfg = config()
    words = tokenizer.Characters(text_task.ALPHABET)
    assert words.vocab_size == 58
    for split in ("train", "given"):
        for document in text_task.load(cfg, split):
            assert text_task.prompt(document, cfg) == ""
            assert text_task.target(document) == document.text == document.rationale
            assert len(words.encode(document.text)) == (84 if document.is_worked else 66)
    for document in text_task.load(cfg, "test"):
        prompt = text_task.prompt(document, cfg)
        assert prompt + text_task.target(document) == document.text
        assert prompt.endswith(" -> :" if document.is_worked else " ->")
        last = max(i for i, kind in enumerate(document.kinds) if kind == "computed")
        assert document.answer == document.tokens[last]
        assert document.question.count("?") == cfg.num_questions
    with pytest.raises(UserError, match=r"no place for a hint.*config\.base\.algorithm\.hinted=0"):
        text_task.prompt(document, cfg, hint="a")


def test_a_walk_names_all_symbols_in_turn():
    cfg = config(num_train=20, num_facts=16)
    for walk in text_task.load(cfg, "walked"):
        prompt = text_task.prompt(walk, cfg).split()
        assert prompt[-4] == "?" and prompt[-2:] == ["->", ":"] and len(prompt) == 3 * 16 + 4
        following = {prompt[i + 1]: prompt[i + 2] for i in range(0, 3 * 16, 3)}
        named = text_task.target(walk).split()
        assert named[0] == prompt[-3]
        assert named[1:] == [following[symbol] for symbol in named[:-1]]
        assert sorted(named) == sorted(following)
        assert text_task.wrong_line(text_task.target(walk), walk) is None
        assert text_task.wrong_line(text_task.target(walk)[:-2], walk) == 0


@pytest.mark.parametrize(
    "question, text, answer, line, steps",
    [
        ("? c ->", " h A B C", "h", None, 0),
        ("? c ->", " k A B C", "k", 0, 0),
        ("? c -> :", " c h k c h -> h A B C", "h", None, 4),
        ("? c -> :", " c h k k h -> h A B C", "h", 0, 4),
        ("? c -> :", " c h k c h -> k A B C", "k", 0, 4),
        ("? c ->", " A h", None, 0, 0),
        ("? c ->", " : c h k c h -> h A", "h", None, 4),
        ("? c -> :", " h k c h -> h A B C", "h", 0, 3),
        ("? c -> :", " c h -> ", None, 0, 1),
        ("? c ->", "", None, 0, 0),
        ("? c ->", " f", None, 0, 0),
    ],
)
def test_reading_and_judging(question, text, answer, line, steps):
    start = SILENT.partition("?")[0]
    example = tasks.Example(id=0, question=f"{start}{question}", answer="h")
    assert text_task.extract(text) == answer
    assert text_task.wrong_line(text, example) == line
    assert text_task.steps(text) == steps
