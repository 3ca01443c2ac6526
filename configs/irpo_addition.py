"""Iterative reasoning preference optimisation on n-digit addition, best from the demo's base model (configs/star_addition.py).

    python -m reasoning_jax.main --config=configs/irpo_addition.py --workdir=runs/irpo_addition \\
        --config.base.init_from=runs/star_addition/base --config.base.num_updates=0
    ... --config=configs/irpo_addition.py:dpo     or :nll

Four rounds of DPO + NLL, and its ablations on equally many samples: DPO alone (alpha 0), under which the chosen log-probs fall
(update/chosen_logprob in metrics.jsonl), and fine-tuning on the chosen side alone (dpo_weight 0). From the demo's base, one
seed, with optim.decay 0.5: validation 32.4 % before, then 31.4, 35.6 and 38.4 %. Without init_from it trains a base of its
own, in packed rows of 256 tokens, which was weaker (26 %) and lost 6 points in the first round.
"""

from configs import star_addition


def get_config(arg: str = ""):
    words = {word for word in arg.split(",") if word}
    if words - {"dpo", "nll", "smoke"} or {"dpo", "nll"} <= words:
        raise ValueError(f"configs/irpo_addition.py takes the arguments dpo or nll, and smoke, not {arg!r}.")
    c = star_addition.get_config("smoke" if "smoke" in words else "")
    c.sequence_length = 256  # of both halves of a pair, each with its prompt
    c.batch_size = 12 if "smoke" not in words else 16
    c.algorithm.name = "irpo"
    c.algorithm.restart = False
    c.algorithm.alpha = 0.0 if "dpo" in words else 10.0  # the paper's 1 is too little for a model of this size
    c.algorithm.dpo_weight = 0.0 if "nll" in words else 1.0
    c.algorithm.num_samples = 8
    c.algorithm.pairs_per_question = 4
    c.algorithm.temperatures = (1.0,)
    c.algorithm.examples_per_round = 750
    c.algorithm.num_rounds = 4
    c.algorithm.increment = 0
    c.algorithm.patience = 0
    c.optim.learning_rate = 2e-4
    if "smoke" in words:
        c.algorithm.num_samples = 4
        c.algorithm.pairs_per_question = 2
        c.algorithm.examples_per_round = 32
        c.algorithm.num_rounds = 2
        c.algorithm.min_kept_rows = 0
    else:
        c.algorithm.start_updates = 40  # more wear the model out
    return c
