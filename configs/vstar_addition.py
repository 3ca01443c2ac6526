"""V-STaR on n-digit addition.

    python -m reasoning_jax.main --config=configs/vstar_addition.py --workdir=runs/vstar_addition
    python -m reasoning_jax.evaluate --workdir=runs/vstar_addition --samples=64 --temperature=1.0

Three rounds of the generator, 8 samples for each of 1,000 sums, and one of the verifier. The second
command gives pass@k, maj@k and best-of-k of the same samples for k = 1, 2, 4 ... 64. Arguments:
smoke.
"""

from reasoning_jax import config, default


def get_config(arg: str = ""):
    args = config.parse_arg(arg, smoke=False)
    c = default.get_config(algorithm="vstar", task="addition")
    c.task.given = (64, 900, 100, 50, 50)
    c.base.num_updates = 1200
    c.base.learning_rate = 1e-3
    c.sampling.max_new_tokens = 96
    c.eval.num_examples = 500
    c.task.num_train = 1000
    c.sequence_length = 256  # room for two solutions
    c.batch_size = 12
    c.algorithm.num_samples = 8
    c.algorithm.pairs_per_question = 8
    c.algorithm.verifier_learning_rate = 2e-4
    c.rounds.count = 4
    c.rounds.updates = 60
    c.rounds.growth = 1.0
    c.rounds.increment = 20
    c.rounds.patience = 0
    c.sampling.temperature = 1.0
    c.optim.learning_rate = 3e-4
    c.optim.decay = 0.5
    if args.smoke:
        c.model.preset = "tiny"
        c.task.max_digits = 2
        c.task.given = (60, 300)
        c.task.num_eval = 50
        c.base.num_updates = 100
        c.base.learning_rate = 1e-2
        c.sampling.max_new_tokens = 48
        c.sampling.batch_size = 64
        c.checkpoint.every = 5
        c.task.num_train = 32
        c.batch_size = 8
        c.algorithm.num_samples = 4
        c.algorithm.verifier_updates = 10
        c.rounds.count = 2
        c.rounds.updates = 10
        c.rounds.min_kept_rows = 10
        c.optim.learning_rate = 1e-3
        c.optim.decay = 0.2
    return c
