"""A self-rewarding model in a world where the quality of a response is known: rule cards.

    python -m reasoning_jax.main --config=configs/self_rewarding_cards.py:seeds --workdir=runs/m1
    python -m reasoning_jax.main --config=configs/self_rewarding_cards.py --workdir=runs/self \
        --config.base.init_from=runs/m1/base

The first command makes M1 of seed data alone, the second goes on to M2, M3 and M4 (Yuan et al.
2024, arXiv:2401.10020). Arms: ``self`` judges itself; ``frozen`` is judged by M1 as it was;
``oracle`` and ``random`` by the rules themselves, and by chance; ``positives`` is fine-tuned on the
responses that its judge likes best, without the others; ``short`` takes length off the score.
benchmarks/self_rewarding_study.py runs and compares them. Arguments: one of these; smoke.
"""

from reasoning_jax import config, default

ARMS = ("self", "frozen", "oracle", "random", "positives", "short", "seeds")
JUDGES = {"frozen": "base", "oracle": "grader", "random": "random"}


def get_config(arg: str = ""):
    args = config.parse_arg(arg, arm=ARMS, smoke=False)
    c = default.get_config(algorithm="self_rewarding", task="rule_cards")
    c.task.num_train = 40_000
    c.task.scores = 0.5
    c.task.judged = 0.92  # noisier judgements are learned late: 6,000 updates at .85
    c.model.preset = "0.3m"
    c.sequence_length = 96
    c.batch_size = 32
    c.base.num_updates = 5000 if args.arm == "seeds" else 0
    c.base.learning_rate = 3e-3
    c.base.algorithm.hinted = 0.0
    c.rounds.split = "given"
    c.rounds.count = 0 if args.arm == "seeds" else 3
    c.rounds.examples = 3000  # of which half are cards to show, and two fifths judgements
    c.rounds.restart = False
    c.rounds.patience = 0
    c.rounds.growth = 1.0
    c.rounds.updates = 60
    c.optim.learning_rate = 1e-4
    c.optim.decay = 0.2
    c.algorithm.judge = JUDGES.get(args.arm, "policy")
    c.algorithm.num_samples = 4
    c.algorithm.num_invented = 1500
    c.algorithm.invent_template = "cards_invent"
    c.algorithm.invent_tokens = 24
    c.algorithm.invent_temperature = 1.0
    c.algorithm.max_similarity = 1.0  # cards share most of their words
    if c.algorithm.judge in ("policy", "base"):
        c.algorithm.template = "cards_score"
        c.algorithm.judge_tokens = 26
    if args.arm == "positives":
        c.algorithm.dpo_weight = 0.0
        c.algorithm.alpha = 1.0
    if args.arm == "short":
        c.algorithm.length_weight = 0.4
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
        c.sampling.batch_size = 32
        c.eval.num_examples = 30
        c.eval.num_test = 30
    return c
