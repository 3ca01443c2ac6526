"""STaR on GSM8K, from scratch: a check that every step of the path works on the real files.

    python -m reasoning_jax.main --config=configs/star_gsm8k.py --workdir=runs/star_gsm8k \\
        --config.task.path=DIR

DIR holds train.jsonl and test.jsonl. A model of this size, trained from nothing on a few hundred
problems, answers next to no question: expect an accuracy of 0 to 3 %. For numbers that mean
something start from a published model (configs/published_gsm8k.py). Arguments: smoke.
"""

from reasoning_jax import config, default


def get_config(arg: str = ""):
    args = config.parse_arg(arg, smoke=False)
    c = default.get_config(algorithm="star", task="gsm8k")
    c.model.preset = "0.8m"
    c.tokenizer.name = "bytes"
    c.sequence_length = 1024
    c.batch_size = 8
    c.base.num_updates = 150
    c.rounds.count = 2
    c.rounds.examples = 64
    c.rounds.updates = 10
    c.rounds.min_kept_rows = 1
    c.sampling.max_new_tokens = 192
    c.sampling.batch_size = 64
    c.eval.num_examples = 64
    c.eval.num_test = 64
    if args.smoke:
        c.model.preset = "tiny"
        c.base.num_updates = 4
        c.rounds.examples = 8
        c.eval.num_examples = 8
        c.eval.num_test = 8
        c.sampling.batch_size = 8
        c.sampling.max_new_tokens = 32
    return c
