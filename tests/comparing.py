"""Methods whose judge learns from pairs of rule cards' responses: scripted models, rows read."""

from __future__ import annotations

import dataclasses
import zlib

import judging
import numpy as np
from judging import TASK, TOK

from reasoning_jax import algorithms, default
from reasoning_jax.tasks import Example, cards

CARDS = ["START 1 ; EVEN", "NOT 7 ; SORTED", "HAS 2 2 ; START 3 ; MIRROR", "COUNT 4 ; EVEN"]
EXAMPLES = [judging.card(question, id) for id, question in enumerate(CARDS)]


class Answers(dict):
    """What is answered to each card: to those that are not given, a response of their own."""

    def __missing__(self, question):
        return [f" {' '.join(f'{zlib.crc32(question.encode()):010}')}"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparing(judging.Cards):
    """Notes who answers and writes: the parameters, and what for."""

    log: list = dataclasses.field(default_factory=list)  # (params, purpose, prompts)

    def __call__(self, examples, **options):
        self.log.append((self.policy.params, "answer", [e.question for e in examples]))
        return super().__call__(examples, **options)

    def write(self, prompts, *, purpose, **options):
        self.log.append((self.policy.params, purpose, list(prompts)))
        return super().write(prompts, purpose=purpose, **options)


def config(algorithm, **changes):
    cfg = default.get_config(algorithm=algorithm, task="rule_cards")
    cfg.rounds.restart = algorithm != "eval_planner"
    cfg.sampling.temperature = 1.0
    template = "cards_pair"
    if algorithm == "eval_planner":
        template = "cards_pair_planned"
        plans = {"plan_template": "cards_plan", "execute_template": "cards_execute"}
        cfg.algorithm.update(plans | {"joint": " [V]", "plan_tokens": 8})
    cfg.algorithm.update({"template": template} | changes)
    if not changes.get("verdict_only"):
        cfg.algorithm.judge_tokens = changes.get("judge_tokens", 14)
    return cfg


def rollout(cfg, say, answers=None, max_length=192):
    made = judging.rollout(cfg, Answers(answers or {}), say, max_length)
    fields = {f.name: getattr(made, f.name) for f in dataclasses.fields(made)}
    return Comparing(**fields)


def collect(algorithm, say, *, examples=EXAMPLES, answers=None, round=1, max_length=192, **changes):
    """What a round collects, and the rollout."""
    method = algorithms.get(algorithm)
    cfg = config(algorithm, **changes)
    method.check(cfg)
    roll = rollout(cfg, say, answers, max_length)
    return method.collect(roll, examples, (), round, cfg), roll


def many(count):
    """So many cards."""
    cfg = default.get_config(task="rule_cards").task
    cfg.num_train = count
    return TASK.load(cfg, "train")


# ---- judges --------------------------------------------------------------------------------------


def parts(prompt):
    """(card, first, second) of what a judge is asked."""
    request, _, rest = prompt.removeprefix(" [J] ").partition(" [A] ")
    first, _, rest = rest.partition(" [B] ")
    second = rest.partition(" [")[0]
    return request, first, second


def answer_of(question):
    """What ``Answers`` has for it."""
    [answer] = Answers()[question]
    return answer.strip()


def right_letter(prompt):
    """The known verdict: y is what answers the card itself."""
    request, first, second = parts(prompt)
    assert (answer_of(request) == first) != (answer_of(request) == second)
    return "A" if answer_of(request) == first else "B"


def other(letter):
    return {"A": "B", "B": "A"}[letter]


def text(letter):
    return f" EVEN + - [[{letter}]]"


def flips(prompt, index):
    """A coin, the same for a prompt and index in every process."""
    coin = np.random.default_rng([index, *map(ord, prompt)]).integers(2)
    return text("AB"[coin])


# ---- rows ----------------------------------------------------------------------------------------


def read(row):
    """(prompt, completion) of a row that is no pair."""
    tokens, used = row["tokens"], row["weights"] > 0
    return TOK.decode(tokens[~used].tolist()), TOK.decode(tokens[used].tolist())


def read_pair(row):
    """(prompt, chosen, rejected)."""
    own = [(row["side"] == side, row["weights"] > 0) for side in (0, 1)]
    prompts = {TOK.decode(row["tokens"][side & ~used].tolist()) for side, used in own}
    assert len(prompts) == 1
    return prompts.pop(), *judging.sides(row)


def card(question, id=0, answer=""):
    return dataclasses.replace(judging.card(question, id), answer=answer)


def rules(example: Example):
    return cards.read_card(example.question)
