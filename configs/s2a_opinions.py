"""System 2 attention on facts that are asked with an opinion, by a model that goes along with it.

    python -m reasoning_jax.main --config=configs/s2a_opinions.py --workdir=runs/s2a_opinions
    python -m reasoning_jax.evaluate --workdir=runs/s2a_opinions
    python -m reasoning_jax.evaluate --workdir=runs/s2a_opinions --system=s2a \
        --config.system.prompts=symbols

Round 0 learns facts about invented people by heart, to agree with whoever asks, and to write a
question anew without the opinion (tasks/opinions.py); there are no other rounds. The columns of the
tables are questions without an opinion (0), with the right one (1) and with a wrong one (2).
benchmarks/systems_study.py prints them beside the variant that keeps the original. Arguments:
smoke.
"""

from reasoning_jax import config, default


def get_config(arg: str = ""):
    args = config.parse_arg(arg, smoke=False)
    c = default.get_config(algorithm="sft", task="opinions")
    c.model.preset = "0.4m"
    c.sequence_length = 128
    c.batch_size = 32
    c.base.num_updates = 900
    c.base.learning_rate = 2e-3
    c.base.algorithm.hinted = 0.0
    c.rounds.count = 0
    c.rounds.split = "given"
    c.optim.decay = 0.3
    c.sampling.max_new_tokens = 8
    c.sampling.batch_size = 128
    if args.smoke:
        c.model.preset = "tiny"
        c.task.num_people = 40
        c.task.num_values = 4
        c.task.num_train = 400
        c.task.num_held_out = 10
        c.base.num_updates = 20
        c.batch_size = 8
        c.sampling.batch_size = 32
    return c
