"""Quiet-STaR on GSM8K's solutions, from scratch: which of their tokens do thoughts help?

    python -m reasoning_jax.main --config=configs/quiet_star_gsm8k.py:plain --workdir=runs/plain \
        --config.tokenizer.path=DIR
    python -m reasoning_jax.main --config=configs/quiet_star_gsm8k.py --workdir=runs/quiet_gsm8k \
        --config.tokenizer.path=DIR --config.base.init_from=runs/plain/base

DIR is the folder of a tokenizer; benchmarks/gsm8k_tokenizer.py makes a small one. The first model
is a language model of the solutions, without their calculator's spans. Its round 1 goes on with as
many updates as the second has with thoughts, of four times as many solutions.
benchmarks/quiet_star_gsm8k.py runs and compares them.
Arguments: thoughts or plain; smoke.
"""

from reasoning_jax import config, default


def get_config(arg: str = ""):
    args = config.parse_arg(arg, arm=("thoughts", "plain"), smoke=False)
    forward = "quiet_star" if args.arm == "thoughts" else "plain"
    c = default.get_config(algorithm="sft", task="gsm8k", forward=forward)
    c.task.calculator = False
    c.model.preset = "0.4m"
    c.tokenizer.name = "pretrained"
    c.sequence_length = 640
    c.batch_size = 16
    c.base.num_updates = 0 if args.arm == "thoughts" else 600
    c.base.learning_rate = 1e-3
    c.base.algorithm.hinted = 0.0
    c.rounds.split = "given"
    c.rounds.count = 1
    c.rounds.updates = 100
    c.optim.learning_rate = 3e-4
    c.optim.decay = 0.2
    c.sampling.max_new_tokens = 160
    c.eval.num_examples = 50
    c.eval.num_test = 50
    if args.arm == "thoughts":
        c.batch_size = 4
        c.forward.thought_length = 4
        c.forward.num_ahead = 2
        c.forward.start_like = "\n"
        c.forward.end_like = "\n"
        c.forward.positions_at_once = 160
    if args.smoke:
        c.model.preset = "tiny"
        c.tokenizer.name = "bytes"
        c.task.num_train = 32
        c.sequence_length = 1792
        c.batch_size = 2
        c.base.num_updates = min(c.base.num_updates, 2)
        c.rounds.updates = 1
        c.rounds.min_kept_rows = 1
        c.sampling.batch_size = 4
        c.sampling.max_new_tokens = 8
        c.eval.num_examples = 4
        c.eval.num_test = 4
        if args.arm == "thoughts":
            c.forward.thought_length = 1
    return c
