"""STaR on GSM8K, from scratch: a check that every step of the path works on the real files, and nothing more.

    python -m reasoning_jax.main --config=configs/star_gsm8k.py --workdir=runs/star_gsm8k --config.task.path=DIR

DIR holds train.jsonl and test.jsonl. A model of this size, trained from nothing on a few hundred problems, answers next to
no question: expect an accuracy of 0 to 3 %. For numbers that mean something start from a published model.
"""

from configs import default


def get_config(arg: str = ""):
    c = default.get_config()
    c.model.preset = "0.8m"
    c.tokenizer.name = "bytes"
    c.task.name = "gsm8k"
    c.sequence_length = 1024
    c.batch_size = 8
    c.base.num_updates = 150
    c.algorithm.num_rounds = 2
    c.algorithm.examples_per_round = 64
    c.algorithm.start_updates = 10
    c.algorithm.min_kept_rows = 1
    c.sampling.max_new_tokens = 192
    c.sampling.batch_size = 64
    c.eval.num_examples = c.eval.num_test = 64
    if arg == "smoke":
        c.model.preset = "tiny"
        c.base.num_updates = 4
        c.algorithm.examples_per_round = c.eval.num_examples = c.eval.num_test = 8
        c.sampling.batch_size = 8
        c.sampling.max_new_tokens = 32
    return c
