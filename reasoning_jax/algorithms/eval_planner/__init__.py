"""EvalPlanner: a judge that plans, and then does what it has planned (Saha et al. 2025,
arXiv:2501.18099).

A judgement is a plan z, its execution e and a verdict. A round, from the judge J_t:

    x, y, y'   pairs with a known order (contrasts.py)
    z_1..P     num_plans plans of J_t, which sees x alone
    e, v       num_executions of each plan for (x, y, y'), and as many for (x, y', y)
    rounds up to sft_rounds: J_t+1 is J_t fine-tuned on one right (z, e, v) of each instruction
    later rounds:            J_t+1 is J_t after DPO, with J_t as the reference, on all pairs of a
                             right and a wrong (e, v) with one plan and one order

What is trained writes plan, execution and verdict after a prompt with x and both responses; so the
judge plans for itself where it is used. The two sides of a pair begin with the same plan, and in
DPO's log-ratio its tokens cancel; ``alpha`` trains the plans that succeed. An execution without a
verdict that can be read is a wrong one. An instruction without a right one is left out.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from reasoning_jax import contrasts, templates, verdicts
from reasoning_jax.algorithms import Collected, Memory, Programs, left_out_warnings
from reasoning_jax.algorithms.eval_planner import executions
from reasoning_jax.errors import UserError
from reasoning_jax.ranges import at_least, between, key
from reasoning_jax.rollout import Rollout, Sample
from reasoning_jax.tasks import Example
from reasoning_jax.training import preferences
from reasoning_jax.training.losses import Loss, pair_loss, weighted_nll
from reasoning_jax.training.rows import Row, completion_row, pair_row

BATCH = ("weights",)
PAIR_BATCH = ("weights", "ref")
FORWARDS = ("plain", "pause")  # pairs share a packed sequence
SELECTS_BEST = False  # an evaluation asks for responses, not for judgements
CHARTS = (*verdicts.CHARTS, *preferences.CHARTS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(preferences.PreferenceConfig, contrasts.ContrastConfig):
    # Files, or names of templates: with {instruction}; with {plan}, {instruction}, {first} and
    # {second}; and, of what is trained and used, with {instruction}, {first} and {second}.
    plan_template: str = "plan"
    execute_template: str = "execute"
    template: str = "pairwise_planned"
    joint: str = "\n\n"  # between a plan and its execution
    plan_tokens: int = key(256, at_least(2))  # of a plan, at most
    num_plans: int = key(5, between(1, 1000))  # of an instruction
    num_executions: int = key(4, between(1, 1000))  # of a plan in each order
    max_pairs: int = key(0, at_least(0))  # of an instruction, drawn at random; 0 = all
    sft_rounds: int = key(1, at_least(0))  # rounds that fine-tune; later ones are of pairs


def check(cfg: ConfigDict) -> None:
    a = cfg.algorithm
    contrasts.check(a)
    verdicts.check_alike(a, "num_plans", "num_executions")
    for name, fields in (
        ("plan_template", contrasts.INSTRUCTION_FIELD),
        ("execute_template", executions.EXECUTE_FIELDS),
        ("template", templates.PAIR_FIELDS),
    ):
        templates.read(a[name], fields, f"config.algorithm.{name}")
    if cfg.rounds.restart:
        raise UserError(
            "config.rounds.restart: a round goes on from the judge of the one before: False."
        )
    if not _has_pairs(cfg):
        _check_no_pairs(a)
        return
    preferences.check_pairs(a, "eval_planner")
    if a.num_executions < 2:
        raise UserError(
            "config.algorithm.num_executions: one execution of a plan has no other to be paired "
            "with."
        )


def _has_pairs(cfg: ConfigDict) -> bool:
    return cfg.rounds.count == 0 or cfg.algorithm.sft_rounds < cfg.rounds.count


def _check_no_pairs(cfg: ConfigDict) -> None:
    """UserError for a key of pairs, where every round fine-tunes."""
    defaults = {field.name: field.default for field in dataclasses.fields(Config)}
    own = [field.name for field in dataclasses.fields(preferences.PreferenceConfig)]
    for name in (*own, "max_pairs"):
        if cfg[name] != defaults[name]:
            raise UserError(
                f"config.algorithm.{name}: with sft_rounds={cfg.sft_rounds} no round has pairs, "
                "and it has no effect."
            )


def check_data(rollout: Rollout, examples: Sequence[Example], cfg: ConfigDict) -> list[str]:
    """The instructions can be asked, changed and planned for."""
    a = cfg.algorithm
    contrasts.check_data(rollout, examples, cfg)
    asked = contrasts.instructions(rollout.task, examples)
    contrasts.check_room(rollout, asked, "plan_template", a.plan_template, a.plan_tokens)
    try:
        rollout.tokenizer.encode(a.joint)
    except UserError as error:
        raise UserError(f"config.algorithm.joint: {error}") from None
    return []


def collect(
    rollout: Rollout, examples: Sequence[Example], memory: Memory, round: int, cfg: ConfigDict
) -> Collected:
    """The round's pairs, judged by plans in both orders; right chains, or right against wrong."""
    a = cfg.algorithm
    found = contrasts.make(rollout, examples, round, cfg)
    plans = executions.draw_plans(rollout, found.pairs, cfg)
    asked = executions.asks(rollout, found.pairs, plans, cfg)
    if not asked:
        raise UserError(
            f"round {round}: none of the plans for {len(found.pairs)} pairs ends and leaves room "
            "for its execution: see config.algorithm.plan_tokens and config.sequence_length."
        )
    groups = executions.execute(rollout, asked, cfg)
    by_pair: dict[int, list[list[Sample]]] = {}
    for ask, group in zip(asked, groups, strict=True):
        by_pair.setdefault(ask.number, []).append(group)
    rng = np.random.default_rng([cfg.seed, round])
    fine_tunes = round <= a.sft_rounds
    chosen: list[list[tuple[Sample, ...]]] = []
    for own in by_pair.values():
        if fine_tunes:
            right = verdicts.one_right([sample for group in own for sample in group], rng)
            chosen.append([] if right is None else [(right,)])
        else:
            chosen.append(pairs_of_executions(own, a.max_pairs, rng))
    kept = [chains for own in chosen for chains in own]
    if not kept:
        raise UserError(verdicts.why_none_right(round, groups, "config.algorithm.num_executions"))
    rows = [_row(chains) for chains in kept]
    fitting = [row for row in rows if len(row["tokens"]) <= rollout.max_length]
    if not fitting:
        raise UserError(
            f"round {round}: none of the {len(rows)} rows fits into config.sequence_length; raise "
            "it, or lower config.algorithm.judge_tokens and plan_tokens."
        )
    if not fine_tunes:
        fitting = preferences.attach_reference(fitting, rollout.policy.logprobs(fitting))
    stats = {
        "kept_rows": len(fitting),
        "kept": sum(bool(own) for own in chosen) / len(found.pairs),
        "distinct_plans": float(np.mean([len({plan.text for plan in own}) for own in plans])),
    }
    what = "judgements" if fine_tunes else "pairs of judgements"
    without_plan = len(found.pairs) - len(by_pair)
    return Collected(
        rows=fitting,
        memory=memory,
        stats=found.stats | verdicts.statistics(groups) | stats,
        samples=[sample for group in groups for sample in group],
        kept={chains[0].key for chains in kept},
        warnings=[
            *verdicts.warnings(groups),
            *left_out_warnings(without_plan, len(found.pairs), "pairs, with any plan,"),
            *left_out_warnings(len(rows) - len(fitting), len(rows), what),
        ],
    )


# ---- what is trained on --------------------------------------------------------------------------


def pairs_of_executions(
    groups: Sequence[Sequence[Sample]], max_pairs: int, rng: np.random.Generator
) -> list[tuple[Sample, ...]]:
    """All pairs of a right and a wrong judgement of an instruction with one plan and order.

    groups: the judgements of each plan and order. max_pairs: a random choice of so many; 0 = all.
    """
    pairs: list[tuple[Sample, ...]] = []
    for group in groups:
        right = [sample for sample in group if sample.correct]
        wrong = [sample for sample in group if not sample.correct]
        pairs += itertools.product(right, wrong)
    if not max_pairs:
        return pairs
    return [pairs[int(i)] for i in np.sort(rng.permutation(len(pairs))[:max_pairs])]


def _row(chains: Sequence[Sample]) -> Row:
    prompt_ids, tokens = chains[0].prompt_ids, [sample.tokens for sample in chains]
    return completion_row(prompt_ids, *tokens) if len(tokens) == 1 else pair_row(prompt_ids, tokens)


def programs(cfg: ConfigDict) -> Programs:
    updates: dict[str, tuple[str, ...]] = {"": BATCH}
    if _has_pairs(cfg):
        updates["pairs"] = PAIR_BATCH
    return Programs(updates=updates, logprobs=_has_pairs(cfg), keeps_base=True)


def loss(logprobs: jax.Array, batch: Mapping[str, jax.Array], cfg: ConfigDict) -> Loss:
    """Of pairs, which have "ref", the preference loss; of right judgements their likelihood."""
    if "ref" in batch:
        return pair_loss(logprobs, batch, cfg.algorithm)
    return weighted_nll(logprobs, batch)
