"""Meta-rewarding on rule cards: one model acts, judges, and judges its judgements.

    python -m reasoning_jax.main --config=configs/meta_rewarding_cards.py:seeds --workdir=runs/m1m
    python -m reasoning_jax.main --config=configs/meta_rewarding_cards.py --workdir=runs/meta \
        --config.base.init_from=runs/m1m/base

The first command makes M1 of seed data, among which are compared judgements (arXiv:2407.19594).
Arms: ``meta`` trains actor and judge, ``actor`` the actor alone, which is self-rewarding with the
same responses and judgements; ``long`` is meta without length control. Arguments: one of these or
seeds; smoke.
"""

from reasoning_jax import config, default

ARMS = ("meta", "actor", "long", "seeds")


def get_config(arg: str = ""):
    args = config.parse_arg(arg, arm=ARMS, smoke=False)
    seeds = args.arm == "seeds"
    c = default.get_config(algorithm="meta_rewarding", task="rule_cards")
    c.task.num_train = 40_000
    c.task.scores = 0.3
    c.task.metas = 0.2
    c.task.judged = 0.92
    c.model.preset = "0.3m"
    c.sequence_length = 144
    c.batch_size = 24
    c.base.num_updates = 5000 if seeds else 0
    c.base.learning_rate = 3e-3
    c.base.algorithm.hinted = 0.0
    c.rounds.split = "given"
    c.rounds.count = 0 if seeds else 3
    c.rounds.examples = 3000
    c.rounds.restart = False
    c.rounds.patience = 0
    c.rounds.growth = 1.0
    c.rounds.updates = 60
    c.optim.learning_rate = 1e-4
    c.optim.decay = 0.2
    c.algorithm.num_samples = 4
    c.algorithm.num_judgements = 5
    c.algorithm.template = "cards_score"
    c.algorithm.judge_tokens = 26
    c.algorithm.tiers = (0.0,) if args.arm == "long" else (0.25,)
    if args.arm == "actor":
        c.algorithm.judge_rounds = 0
    else:
        c.algorithm.judge_rounds = 2
        c.algorithm.meta_template = "cards_meta"
        c.algorithm.meta_tokens = 26
    c.algorithm.num_invented = 1500
    c.algorithm.invent_template = "cards_invent"
    c.algorithm.invent_tokens = 24
    c.algorithm.invent_temperature = 1.0
    c.algorithm.max_similarity = 1.0  # cards share most of their words
    c.algorithm.replayed = 0.2
    c.sampling.max_new_tokens = 26
    c.sampling.temperature = 0.7
    c.checkpoint.keep = 4  # each round's model
    c.eval.num_examples = 500
    c.eval.num_test = 500
    if args.smoke:
        c.model.preset = "tiny"
        c.task.num_train = 300
        c.task.num_held_out = 30
        c.base.num_updates = 60  # without any no judgement could be read
        c.base.learning_rate = 1e-2
        c.rounds.count = min(c.rounds.count, 2)
        c.rounds.examples = 64
        c.rounds.updates = 3
        c.rounds.min_kept_rows = 0
        c.algorithm.num_invented = 16
        c.algorithm.num_samples = 3
        c.sampling.batch_size = 32
        c.eval.num_examples = 30
        c.eval.num_test = 30
    return c
