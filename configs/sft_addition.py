"""Supervised fine-tuning on n-digit addition: the baselines of the STaR paper.

    python -m reasoning_jax.main --config=configs/sft_addition.py:direct --workdir=runs/sft_direct

``direct`` (the default) trains on the answers of all problems without a rationale; ``given`` trains on the worked examples
of configs/star_addition.py alone, for as many updates.
"""

from configs import star_addition


def get_config(arg: str = "direct"):
    smoke = "smoke" in arg
    c = star_addition.get_config("smoke" if smoke else "")
    c.base.num_updates = 0
    c.algorithm.name = "sft"
    c.algorithm.direct = "given" not in arg
    c.algorithm.split = "given" if "given" in arg else "train"
    c.algorithm.num_rounds = 1
    c.algorithm.examples_per_round = 0
    c.algorithm.start_updates = 20 if smoke else 1500
    return c
