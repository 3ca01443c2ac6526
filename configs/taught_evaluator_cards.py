"""Judges that teach themselves, in a world where the quality of a response is known: rule cards.

    python -m reasoning_jax.main --config=configs/taught_evaluator_cards.py:seeds \
        --workdir=runs/judge_seeds
    python -m reasoning_jax.main --config=configs/taught_evaluator_cards.py \
        --workdir=runs/taught_cards --config.base.init_from=runs/judge_seeds/base

The first command makes the seed model of given responses, plans and noisy judgements; the second
teaches it to compare responses (Wang et al. 2024, arXiv:2408.02666). Arms: ``taught`` does that,
each round anew from the seed model; ``verdict_only`` is fine-tuned on known verdicts without
judgements; ``planner`` plans before it compares (Saha et al. 2025, arXiv:2501.18099): a round of
fine-tuning, then DPO; ``planner_sft`` only fine-tunes. benchmarks/evaluator_study.py runs all, and
compares their judges with the oracle. Arguments: one of these; smoke.
"""

from reasoning_jax import config, default

ARMS = ("taught", "verdict_only", "planner", "planner_sft", "seeds")


def get_config(arg: str = ""):
    args = config.parse_arg(arg, arm=ARMS, smoke=False)
    plans = args.arm.startswith("planner")
    algorithm = "eval_planner" if plans else "taught_evaluator"
    c = default.get_config(algorithm=algorithm, task="rule_cards")
    c.task.num_train = 80_000 if args.arm == "seeds" else 20_000
    c.task.scores = 0.25  # marks are learned of one response first
    c.task.pairs = 0.3
    c.task.planned = 0.5
    c.task.plans = 0.05
    c.task.invented = 0.0
    c.task.judged = 0.96
    c.task.followed = 0.85  # with less, what answers another card is often as good
    c.model.preset = "0.3m"
    c.sequence_length = 192  # two judgements of two responses
    c.batch_size = 16
    c.base.num_updates = 7000 if args.arm == "seeds" else 0
    c.base.learning_rate = 3e-3
    c.base.algorithm.hinted = 0.0
    c.rounds.split = "given"
    c.rounds.count = 0 if args.arm == "seeds" else 3
    c.rounds.examples = 3000  # of which two fifths are cards to be answered
    c.rounds.restart = not plans
    c.rounds.patience = 0
    c.rounds.growth = 1.0
    c.rounds.updates = 200
    c.optim.learning_rate = 2e-4 if plans else 5e-4
    c.optim.decay = 0.2
    c.algorithm.template = "cards_pair_planned" if plans else "cards_pair"
    if args.arm == "verdict_only":
        c.algorithm.verdict_only = True
    else:
        c.algorithm.judge_tokens = 32
    if args.arm in ("taught", "seeds"):
        c.algorithm.num_judgements = 8
    if plans:
        c.algorithm.plan_template = "cards_plan"
        c.algorithm.execute_template = "cards_execute"
        c.algorithm.joint = " [V]"
        c.algorithm.plan_tokens = 8
        c.algorithm.num_plans = 3
    if args.arm == "planner":
        c.algorithm.max_pairs = 4
        c.algorithm.alpha = 1.0  # without it nothing trains the plan
    c.sampling.max_new_tokens = 26
    c.sampling.temperature = 0.5
    c.checkpoint.keep = 4  # every round's judge
    c.eval.num_examples = 200
    c.eval.num_test = 500
    if args.smoke:
        c.model.preset = "tiny"
        c.task.num_train = 300
        c.task.num_held_out = 30
        c.base.num_updates = 60  # verdicts that can be read
        c.base.learning_rate = 1e-2
        c.rounds.count = min(c.rounds.count, 2)
        c.rounds.examples = 48
        c.rounds.updates = 3
        c.rounds.min_kept_rows = 0
        c.sampling.batch_size = 32
        c.eval.num_examples = 30
        c.eval.num_test = 30
    if args.arm == "planner_sft":
        c.algorithm.sft_rounds = c.rounds.count
    return c
