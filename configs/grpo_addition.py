"""GRPO on n-digit addition, from the base model of configs/star_addition.py; as many samples as trice_addition.py:online.

python -m reasoning_jax.main --config=configs/grpo_addition.py --workdir=runs/grpo_addition
... --config.algorithm.kind=rloo                  or dr_grpo
... --config=configs/grpo_addition.py:dapo        asymmetric clipping, new questions for groups that are all right or wrong,
                                                  the soft penalty of long ones
... --config.algorithm.kl=0.04                    with the KL divergence from the base model
"""

from configs import trice_addition


def get_config(arg: str = ""):
    words = {word for word in arg.split(",") if word}
    if words - {"dapo", "smoke"}:
        raise ValueError(f"configs/grpo_addition.py takes the arguments dapo and smoke, not {arg!r}.")
    c = trice_addition.get_config("online,smoke" if "smoke" in words else "online")
    c.algorithm.name = "policy_gradient"
    c.algorithm.kind = "grpo"
    c.algorithm.num_samples = 8
    c.algorithm.examples_per_round //= 8
    c.optim.clip_norm = 1.0
    c.optim.learning_rate = 3e-4
    if "dapo" in words:
        c.algorithm.kind = "dapo"
        c.algorithm.clip_high = 0.28
        c.algorithm.groups = c.algorithm.examples_per_round
        c.algorithm.examples_per_round *= 4
        c.algorithm.overlong = 0.5  # of rewards 0 and 1: the paper's are -1 and 1
        c.algorithm.overlong_tokens = 16
    return c
