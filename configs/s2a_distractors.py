"""System 2 attention on two-step sums with a sentence too many: a small model, from scratch.

    python -m reasoning_jax.main --config=configs/s2a_distractors.py --workdir=runs/s2a_distractors
    python -m reasoning_jax.evaluate --workdir=runs/s2a_distractors
    python -m reasoning_jax.evaluate --workdir=runs/s2a_distractors --system=s2a \
        --config.system.prompts=symbols

Round 0 learns to work sums out and to write problems anew without the distractor
(tasks/distractors.py); there are no other rounds. ``clean`` has never worked out a problem with a
distractor, half of the problems of ``distracted`` have one. The columns of the tables are clean
problems (0) and distracted ones (1). benchmarks/systems_study.py counts a problem only where it is
right with every distractor. Arguments: clean or distracted; smoke.
"""

from reasoning_jax import config, default


def get_config(arg: str = ""):
    args = config.parse_arg(arg, arm=("clean", "distracted"), smoke=False)
    c = default.get_config(algorithm="sft", task="distractors")
    c.task.num_train = 100_000
    c.task.distracted = 0.5 if args.arm == "distracted" else 0.0
    c.model.preset = "0.4m"
    c.sequence_length = 128
    c.batch_size = 32
    c.base.num_updates = 1000
    c.base.learning_rate = 2e-3
    c.base.algorithm.hinted = 0.0
    c.rounds.count = 0
    c.rounds.split = "given"
    c.optim.decay = 0.3
    c.sampling.max_new_tokens = 32
    c.sampling.batch_size = 128
    if args.smoke:
        c.model.preset = "tiny"
        c.task.num_train = 200
        c.task.num_held_out = 4
        c.base.num_updates = 20
        c.batch_size = 8
        c.sampling.batch_size = 32
    return c
