"""EvalPlanner: plans see no response, pairs share plan and order, and what each round trains on."""

from __future__ import annotations

import itertools
import math

import comparing
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparing import CARDS, EXAMPLES, answer_of, collect, config, flips, read, read_pair, text
from conftest import random_params
from judging import TOK

from reasoning_jax import algorithms, contrasts
from reasoning_jax.algorithms.eval_planner import executions
from reasoning_jax.errors import UserError
from reasoning_jax.model import decoder, logprobs
from reasoning_jax.policy import Policy
from reasoning_jax.training import packing, preferences

METHOD = algorithms.get("eval_planner")
PLANS = (" EVEN START", " SORTED", " MIRROR HAS NOT")


def plans(say_verdict, written=PLANS):
    """A model that plans by the number of the plan, and judges as ``say_verdict`` says."""

    def say(prompt, index):
        return say_verdict(prompt, index) if prompt.endswith("[V]") else written[index]

    return say


def plan(say, **changes):
    settings = {"num_plans": 3, "num_executions": 3} | changes
    return collect("eval_planner", say, **settings)


def right(prompt):
    return comparing.right_letter(prompt)


def by_index(rights):
    """A judge whose first so many executions are right, and the others wrong."""

    def say(prompt, index):
        letter = right(prompt)
        return text(letter if index < rights else comparing.other(letter))

    return plans(say)


def split(chain):
    """(plan, execution with its verdict) of what is trained on."""
    before, joint, after = chain.partition(" [V]")
    assert joint and " [V]" not in after
    return before, after


# ---- plans ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("round", [1, 2])
def test_a_plan_is_made_before_any_response_is_seen(round):
    _, roll = plan(by_index(2), round=round)
    [(params, prompts)] = [(p, asked) for p, purpose, asked in roll.log if purpose == "plan"]
    assert params == "new" and prompts == [f" [J] {card} [T]" for card in CARDS]
    answers = [answer_of(card) for _, purpose, cards in roll.log[:2] for card in cards]
    assert len(answers) == 8
    for prompt, answer in itertools.product(prompts, answers):
        assert answer not in prompt and "[A]" not in prompt and "[B]" not in prompt
    purposes = [purpose for _, purpose, _ in roll.log]
    assert purposes == ["answer", "answer", "plan", "judge"]


def test_each_plan_is_carried_out_in_both_orders():
    _, roll = plan(by_index(2))
    prompts = roll.log[-1][2]
    assert len(prompts) == len(set(prompts)) == 4 * 3 * 2
    ask = iter(prompts)
    for card, own_plan in itertools.product(CARDS, PLANS):
        shown = [next(ask), next(ask)]
        assert all(prompt.endswith(f" [T]{own_plan} [V]") for prompt in shown)
        (x, first, second), swapped = comparing.parts(shown[0]), comparing.parts(shown[1])
        assert x == card and first == answer_of(card) != second
        assert swapped == (card, second, first)


def test_plans_that_are_none_are_left_out():
    written = (" EVEN...", "", " EVEN [[A]]", " SORTED")  # cut off, empty, with a verdict
    found, roll = plan(plans(flips, written), num_plans=4)
    assert {prompt.partition(" [T]")[2] for prompt in roll.log[-1][2]} == {" SORTED [V]"}
    assert found.stats["distinct_plans"] == 1
    with pytest.raises(UserError, match=r"none of the plans for 4 pairs ends and leaves room"):
        plan(plans(flips, written[:3]))


def test_a_round_with_nothing_that_fits_ends_the_run():
    """A pair has its prompt twice: there is room for each judgement, and for no pair."""
    with pytest.raises(UserError, match=r"round 2: none of the 16 rows fits into config\.sequence"):
        plan(by_index(2), round=2, max_pairs=4, max_length=70)


# ---- the first round -----------------------------------------------------------------------------


def test_the_first_round_trains_one_right_chain_of_each_instruction():
    found, _ = plan(by_index(1))
    prompts = []
    for row in found.rows:
        prompt, chain = read(row)
        own_plan, execution = split(chain)
        assert prompt.endswith(" [T]") and own_plan in PLANS
        assert execution == text(right(prompt))
        assert row["tokens"][-1] == TOK.eos_id and (row["tokens"] == TOK.eos_id).sum() == 1
        prompts.append(comparing.parts(prompt)[0])
    assert prompts == CARDS and found.stats["kept"] == 1
    assert "ref" not in found.rows[0]
    assert {key[:2] for key in found.kept} <= {s.key[:2] for s in found.samples if s.correct}


def test_what_is_trained_is_what_was_carried_out():
    """The prompt of a chain and its plan are, token by token, the prompt of the execution."""
    found, roll = plan(by_index(1))
    asked = roll.log[-1][2]
    for row in found.rows:
        prompt, chain = read(row)
        assert f"{prompt}{split(chain)[0]} [V]" in asked


def test_the_tokens_of_a_chain_are_those_of_its_text():
    """The plan's own without its end token, the joint, and the execution's own."""
    _, roll = plan(by_index(1), examples=EXAMPLES[:1])
    cfg = config("eval_planner", num_plans=1, num_executions=1)
    [pair] = contrasts.make(roll, EXAMPLES[:1], 1, cfg).pairs
    [[own]] = executions.draw_plans(roll, [pair], cfg)
    assert own.tokens[-1] == TOK.eos_id
    asked = executions.asks(roll, [pair], [[own]], cfg)
    [[one], _] = executions.execute(roll, asked, cfg)
    assert TOK.decode(one.tokens) == one.text == f"{own.text} [V]{text(right(asked[0].prompt))}"
    assert len(one.tokens) == len(one.logprobs) and (one.tokens == TOK.eos_id).sum() == 1


def test_an_instruction_without_a_right_execution_is_left_out():
    def say(prompt, index):
        letter = right(prompt)
        knows = comparing.parts(prompt)[0] in CARDS[:2]
        return text(letter if knows and index < 2 else comparing.other(letter))

    for round, count in ((1, 2), (2, 2 * 3 * 2 * 2 * 1)):
        found, _ = plan(plans(say), round=round)
        assert found.stats["kept"] == 0.5 and len(found.rows) == count
        asked = {
            comparing.parts((read if round == 1 else read_pair)(row)[0])[0] for row in found.rows
        }
        assert asked == set(CARDS[:2])


# ---- pairs ---------------------------------------------------------------------------------------


def test_pairs_share_instruction_order_and_plan_and_differ_in_being_right():
    examples = comparing.many(20)
    found, roll = plan(plans(flips), round=2, examples=examples, num_executions=4)
    assert found.stats["kept_rows"] == len(found.rows) > 300
    by_order = {"A": 0, "B": 0}
    for row in found.rows:
        prompt, chosen, rejected = read_pair(row)
        (plan_of_chosen, good), (plan_of_rejected, bad) = split(chosen), split(rejected)
        assert plan_of_chosen == plan_of_rejected
        assert good == text(right(prompt)) and bad == text(comparing.other(right(prompt)))
        by_order[right(prompt)] += 1
    # The orders have executions of their own: which of them are right is another coin.
    prompts = roll.log[-1][2]
    rights = [[flips(p, i) == text(right(p)) for i in range(4)] for p in prompts]
    counts = [sum(own) * (4 - sum(own)) for own in rights]
    assert by_order == {"A": sum(counts[::2]), "B": sum(counts[1::2])}
    assert by_order["A"] != by_order["B"] and rights[::2] != rights[1::2]


@pytest.mark.parametrize("rights, pairs", [(0, 0), (1, 2), (2, 2), (3, 0)])
def test_all_right_executions_are_paired_with_all_wrong_ones(rights, pairs):
    if not pairs:
        with pytest.raises(UserError, match=r"raise config\.algorithm\.num_executions"):
            plan(by_index(rights), round=2)
        return
    found, _ = plan(by_index(rights), round=2)
    assert len(found.rows) == 4 * 3 * 2 * pairs


def test_what_cannot_be_read_is_wrong():
    def say(prompt, index):
        return [text(right(prompt)), " + -", text(right(prompt)) + "..."][index]

    found, _ = plan(plans(say), round=2)
    for row in found.rows:
        _, chosen, rejected = read_pair(row)
        assert chosen.endswith("]]") and split(rejected)[1] in (" + -", split(chosen)[1])
    assert len(found.rows) == 4 * 3 * 2 * 2
    ends = [row["tokens"][-1] == TOK.eos_id for row in found.rows]
    assert ends == [True, False] * 24
    assert found.warnings == ["67% of the judgements have no verdict that can be read."]


def test_at_most_so_many_pairs_of_an_instruction():
    examples = comparing.many(20)
    whole, _ = plan(plans(flips), round=2, examples=examples)
    found, _ = plan(plans(flips), round=2, examples=examples, max_pairs=5)
    everything = {row["tokens"].tobytes() for row in whole.rows}
    assert {row["tokens"].tobytes() for row in found.rows} <= everything
    cards = [comparing.parts(read_pair(row)[0])[0] for row in found.rows]
    assert max(cards.count(card) for card in set(cards)) == 5 and len(set(cards)) > 15


def test_a_judge_of_places_has_no_pairs():
    """Within an order all of its verdicts are right, or all wrong."""
    with pytest.raises(UserError, match=r"of 72 judgements 72 say \[\[A\]\] and 0 say"):
        plan(plans(lambda prompt, index: text("A")), round=2)


def test_pairs_that_are_too_long_are_counted():
    lengths = [len(row["tokens"]) for row in plan(by_index(1), round=2)[0].rows]
    longest = max(lengths)
    found, _ = plan(by_index(1), round=2, max_length=longest - 1)
    left_out = lengths.count(longest)
    assert len(found.rows) == len(lengths) - left_out
    assert found.warnings == [
        f"{left_out} of {len(lengths)} pairs of judgements are longer than config.sequence_length "
        "and left out."
    ]


def test_the_rounds_that_fine_tune():
    for sft_rounds, round, has_pairs in ((0, 1, True), (1, 1, False), (2, 2, False), (2, 3, True)):
        found, _ = plan(by_index(1), round=round, sft_rounds=sft_rounds)
        assert all(("ref" in row) == has_pairs for row in found.rows)
    cfg = config("eval_planner")
    assert METHOD.programs_of(cfg).updates == {"": ("weights",), "pairs": ("weights", "ref")}
    cfg.algorithm.sft_rounds = cfg.rounds.count
    assert METHOD.programs_of(cfg).updates == {"": ("weights",)}
    assert not METHOD.programs_of(cfg).logprobs


# ---- the loss ------------------------------------------------------------------------------------


def test_the_first_update_of_pairs_has_a_loss_of_ln_2():
    """The reference is the model that the round began with."""
    model_cfg = decoder.ModelConfig(
        vocab_size=TOK.vocab_size,
        width=16,
        num_layers=1,
        num_heads=2,
        num_kv_heads=2,
        head_dim=8,
        mlp_dim=16,
    )
    params = random_params(model_cfg)
    found, _ = plan(by_index(2), round=2, examples=EXAMPLES[:2])
    policy = Policy(params=params, model_cfg=model_cfg, mesh=None, batch_size=4, max_length=192)
    pairs = [{k: v for k, v in row.items() if k != "ref"} for row in found.rows]
    rows = preferences.attach_reference(pairs, policy.logprobs(pairs))
    batch = jax.tree.map(jnp.asarray, packing.pack(rows, multiple=1, length=192))
    found_logprobs = logprobs.token_logprobs(params, batch, model_cfg)
    loss = METHOD.loss(found_logprobs, batch, config("eval_planner"))
    assert loss.weight == len(rows)
    assert loss.total / loss.weight == pytest.approx(math.log(2), abs=1e-5)


def test_the_reference_is_the_model_of_the_rollout():
    found, roll = plan(by_index(1), round=2)
    [(method, asked)] = roll.policy.calls
    assert method == "logprobs" and len(asked) == len(found.rows)
    for row in found.rows:
        lengths = [np.sum((row["side"] == side) & (row["weights"] > 0)) for side in (0, 1)]
        assert row["ref"][row["ref"] != 0].tolist() == [-0.5 * n for n in lengths]


def test_in_the_log_ratio_the_tokens_of_the_plan_cancel():
    """The gradients of both sides are opposite there: what they share is not trained by DPO."""
    found, _ = plan(by_index(1), round=2, examples=EXAMPLES[:1], max_pairs=1)
    [row] = found.rows
    batch = jax.tree.map(jnp.asarray, packing.pack([row], multiple=1, length=192))
    cfg = config("eval_planner")
    lp = -0.1 * jnp.arange(batch["tokens"].size, dtype=jnp.float32).reshape(batch["tokens"].shape)
    gradient = np.asarray(jax.grad(lambda x: METHOD.loss(x, batch, cfg).total)(lp))[0]
    tokens, weights = np.asarray(batch["tokens"])[0], np.asarray(batch["weights"])[0]
    sides = np.flatnonzero(np.diff(weights, prepend=0) == 1)  # where the completions begin
    shared = len(TOK.encode(f"{split(read_pair(row)[1])[0]} [V]"))
    one, other = (slice(start, start + shared) for start in sides)
    assert (tokens[one] == tokens[other]).all()
    np.testing.assert_allclose(gradient[one] + gradient[other], 0, atol=1e-7)
    assert (gradient[one] < 0).all()
    cfg.algorithm.alpha = 1.0
    gradient = np.asarray(jax.grad(lambda x: METHOD.loss(x, batch, cfg).total)(lp))[0]
    assert (gradient[one] + gradient[other] < 0).all()


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, key",
    [
        ({"judge_temperature": 0.0}, "num_plans: at judge_temperature=0 all 5"),
        ({"judge_temperature": 0.0, "num_plans": 1}, "num_executions: at judge_temperature=0"),
        ({"num_executions": 1}, "num_executions: one execution of a plan has no other"),
        ({"sft_rounds": 16, "alpha": 1.0}, "alpha: with sft_rounds=16 no round has pairs"),
        ({"sft_rounds": 16, "max_pairs": 4}, "max_pairs: with sft_rounds=16"),
        ({"preference": "kto"}, "preference: eval_planner makes pairs"),
        ({"plan_template": "plans"}, "plan_template: there is no file 'plans'"),
        ({"execute_template": "x"}, "execute_template: there is no file 'x'"),
    ],
)
def test_what_is_refused(changes, key):
    cfg = config("eval_planner", **changes)
    with pytest.raises(UserError, match=rf"config\.algorithm\.{key}"):
        METHOD.check(cfg)


def test_a_round_goes_on_from_the_one_before():
    cfg = config("eval_planner")
    METHOD.check(cfg)
    cfg.rounds.restart = True
    with pytest.raises(UserError, match=r"config\.rounds\.restart: a round goes on"):
        METHOD.check(cfg)


def test_a_plan_has_no_room_for_a_response():
    cfg = config("eval_planner", plan_template="cards_pair")
    with pytest.raises(UserError, match=r"cards_pair\.txt: there is no field \{first\}"):
        METHOD.check(cfg)
    cfg = config("eval_planner", plan_tokens=190)
    with pytest.raises(UserError, match=r"config\.sequence_length: 192 tokens have no room for"):
        METHOD.check_data(comparing.rollout(cfg, None), EXAMPLES, cfg)
    cfg = config("eval_planner")
    assert METHOD.check_data(comparing.rollout(cfg, None), EXAMPLES, cfg) == []
