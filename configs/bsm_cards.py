"""Branch, solve, merge on rule cards: a small judge of one rule at a time, from scratch.

    python -m reasoning_jax.main --config=configs/bsm_cards.py --workdir=runs/bsm_cards
    python benchmarks/systems_study.py --out=runs/systems --arms=cards

Round 0 learns from seed data (tasks/cards/seeds.py) to answer cards, to compare two responses in
one pass, and what the calls of the system go on with; there are no other rounds. The test split
asks for responses: the second command trains what is missing and compares judges on fixed pairs of
responses to its cards. It prints how often a verdict is right in both orders, how often it differs
in them, how often it is for the longer response, and the tokens, of one pass, of votes, and of the
system. Arguments: smoke.
"""

from reasoning_jax import config, default


def get_config(arg: str = ""):
    args = config.parse_arg(arg, smoke=False)
    c = default.get_config(algorithm="sft", task="rule_cards")
    c.task.num_train = 80_000
    c.task.scores = 0.25  # marks are learned of one response first
    c.task.pairs = 0.25
    c.task.branches = 0.03
    c.task.solved = 0.3
    c.task.invented = 0.0
    c.task.judged = 0.96
    c.model.preset = "0.3m"
    c.sequence_length = 128
    c.batch_size = 24
    c.base.num_updates = 7000
    c.base.learning_rate = 3e-3
    c.base.algorithm.hinted = 0.0
    c.rounds.count = 0
    c.rounds.split = "given"
    c.optim.decay = 0.2
    c.sampling.max_new_tokens = 32
    c.sampling.batch_size = 128
    if args.smoke:
        c.model.preset = "tiny"
        c.task.num_train = 300
        c.task.num_held_out = 30
        c.base.num_updates = 20
        c.batch_size = 8
        c.sampling.batch_size = 32
    return c
