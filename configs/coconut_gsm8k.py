"""Continuous thoughts in the place of GSM8K's equations, by a small model from scratch.

    python -m reasoning_jax.main --config=configs/coconut_gsm8k.py:cot --workdir=runs/cot \
        --config.tokenizer.path=DIR
    python -m reasoning_jax.main --config=configs/coconut_gsm8k.py --workdir=runs/coconut_gsm8k \
        --config.tokenizer.path=DIR --config.base.init_from=runs/cot/base

DIR is the folder of a tokenizer: a published one (the paper's, arXiv:2412.06769, is GPT-2's), or a
small one by benchmarks/gsm8k_tokenizer.py. As in the paper, a thought's stage replaces an equation
by two thoughts, three stages long, and a last one leaves out all equations. ``coconut`` (the
default) begins from the base model of ``cot``, whose own rounds keep the equations; ``direct``
never has any. The 6,973 questions are GSM8K's own, where the paper has 385,620 that a large model
wrote: expect two percent. --config.task.train=augmented reads those, or GSM8K's with other numbers
by benchmarks/gsm8k_renumbered.py. Data: train.jsonl of GSM8K, and valid.txt and test.txt of the
augmented set. Arguments: one of the three; smoke.
"""

from reasoning_jax import config, default


def get_config(arg: str = ""):
    args = config.parse_arg(arg, arm=("coconut", "cot", "direct"), smoke=False)
    forward = "coconut" if args.arm == "coconut" else "plain"
    c = default.get_config(algorithm="sft", task="gsm8k_aug", forward=forward)
    c.model.preset = "4m"
    c.tokenizer.name = "pretrained"
    c.sequence_length = 512
    c.batch_size = 32
    c.base.num_updates = 0 if args.arm == "coconut" else 600
    c.base.learning_rate = 1e-3
    c.base.algorithm.hinted = 0.0
    c.rounds.split = "given"
    c.rounds.count = 6
    c.rounds.updates = 120
    c.rounds.growth = 1.0
    c.rounds.restart = False
    c.rounds.patience = 0
    c.optim.learning_rate = 5e-4
    c.optim.decay = 0.2
    c.sampling.max_new_tokens = 128
    c.eval.num_examples = 500
    if forward == "plain":
        c.algorithm.direct = args.arm == "direct"
        c.base.algorithm.direct = args.arm == "direct"
    else:
        c.forward.thoughts_per_step = 2
        c.forward.stages = 3
        c.forward.answer_stage = True
        c.forward.question_length = 320
        c.forward.answer_length = 184
    if args.smoke:
        c.model.preset = "tiny"
        c.tokenizer.name = "bytes"
        c.task.num_train = 64
        c.sequence_length = 1536
        c.batch_size = 4
        c.base.num_updates = min(c.base.num_updates, 4)
        c.rounds.updates = 2
        c.rounds.min_kept_rows = 1
        c.sampling.batch_size = 8
        c.sampling.max_new_tokens = 16
        c.eval.num_examples = 8
        c.eval.num_test = 8
        c.rounds.count = 2
        if forward == "coconut":
            c.forward.stages = 1
            c.forward.question_length = 0
            c.forward.answer_length = 0
    return c
