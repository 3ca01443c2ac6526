"""Thoughts learned by preference, TPO, on rule cards of which half ask for a small working.

    python -m reasoning_jax.main --config=configs/thought_preference_cards.py:seeds \
        --workdir=runs/m1t
    python -m reasoning_jax.main --config=configs/thought_preference_cards.py \
        --workdir=runs/thought_cards --config.base.init_from=runs/m1t/base

The first command makes M1 of seed data, of which half of the responses have a thought: none, a
draft, or a draft with what a hard rule asks for (arXiv:2410.10630). Arms: ``thoughts`` prompts for
thoughts, ``direct`` does not and is trained in the same way; both by the rules themselves, as the
paper's reward model is not trained either. Arguments: one of these or seeds; smoke.
"""

from reasoning_jax import config, default

ARMS = ("thoughts", "direct", "seeds")


def get_config(arg: str = ""):
    args = config.parse_arg(arg, arm=ARMS, smoke=False)
    seeds = args.arm == "seeds"
    c = default.get_config(algorithm="thought_preference", task="rule_cards")
    c.task.num_train = 120_000 if seeds else 20_000
    c.task.hard = 0.5
    c.task.scores = 0.0
    c.task.invented = 0.0
    c.task.thinking = 0.5
    c.task.thoughts = args.arm != "direct"
    c.model.preset = "0.3m"
    c.sequence_length = 192
    c.batch_size = 16
    c.base.num_updates = 6000 if seeds else 0
    c.base.learning_rate = 3e-3
    c.base.algorithm.hinted = 0.0
    c.rounds.split = "given" if seeds else "train"
    c.rounds.count = 0 if seeds else 6
    c.rounds.examples = 1000
    c.rounds.restart = False
    c.rounds.patience = 0
    c.rounds.growth = 1.0
    c.rounds.updates = 60
    c.optim.learning_rate = 1e-4
    c.optim.decay = 0.2
    c.algorithm.num_samples = 8
    c.algorithm.judge = "grader"
    c.sampling.max_new_tokens = 72  # a draft with two symbols each, and the response
    c.sampling.temperature = 0.8
    c.checkpoint.keep = 7  # each round's model
    c.eval.num_examples = 500
    c.eval.num_test = 500
    if args.smoke:
        c.model.preset = "tiny"
        c.task.num_train = 300
        c.task.num_held_out = 30
        c.base.num_updates = 60  # without any no judgement could be read
        c.base.learning_rate = 1e-2
        c.rounds.count = min(c.rounds.count, 2)
        c.rounds.examples = 16
        c.rounds.updates = 3
        c.rounds.min_kept_rows = 0
        c.algorithm.num_samples = 4
        c.sampling.batch_size = 32
        c.eval.num_examples = 30
        c.eval.num_test = 30
    return c
