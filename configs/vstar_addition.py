"""V-STaR on n-digit addition, from the base model of configs/star_addition.py.

    python -m reasoning_jax.main --config=configs/vstar_addition.py --workdir=runs/vstar_addition
    python -m reasoning_jax.evaluate --workdir=runs/vstar_addition --samples=64 --temperature=1.0

Three rounds of the generator, 8 samples for each of 1,000 sums, and one of the verifier. The second command gives pass@k, maj@k
and best-of-k of the same samples for k = 1, 2, 4 ... 64.
"""

from configs import star_addition


def get_config(arg: str = ""):
    c = star_addition.get_config(arg)
    c.algorithm.name = "vstar"
    c.algorithm.num_rounds = 4
    c.algorithm.examples_per_round = 0
    c.algorithm.num_samples = 8
    c.algorithm.patience = 0
    c.algorithm.pairs_per_question = 8
    c.algorithm.verifier_learning_rate = 2e-4
    c.task.num_train = 1000
    c.sequence_length = 256  # room for two solutions
    c.batch_size = 12
    c.sampling.temperature = 1.0
    if arg == "smoke":
        c.algorithm.num_rounds = 2
        c.algorithm.num_samples = 4
        c.algorithm.verifier_updates = 10
        c.task.num_train = 32
        c.batch_size = 8
    else:
        c.algorithm.start_updates = 60
        c.optim.learning_rate = 3e-4
        c.optim.decay = 0.5
    return c
