"""Chain of verification on lists of invented people: a small model that hallucinates, from scratch.

    python -m reasoning_jax.main --config=configs/cove_people.py --workdir=runs/cove_people
    python -m reasoning_jax.evaluate --workdir=runs/cove_people --system=cove \
        --config.system.prompts=symbols --config.system.variant=factored

Round 0 learns facts about the people by heart, in one direction, and what the calls of the system
go on with (tasks/people.py); there are no other rounds. Accuracy counts only lists without a
mistake: benchmarks/systems_study.py prints the precision and the recall of drafts and of each
variant, and their tokens. Arguments: smoke.
"""

from reasoning_jax import config, default


def get_config(arg: str = ""):
    args = config.parse_arg(arg, smoke=False)
    c = default.get_config(algorithm="sft", task="people")
    c.task.lists = 0.003
    c.task.calls = 0.35
    c.model.preset = "0.4m"
    c.model.num_heads = 8  # many small heads: calls ask for what stands elsewhere in the text
    c.model.num_kv_heads = 8
    c.model.head_dim = 16
    c.sequence_length = 128
    c.batch_size = 32
    c.base.num_updates = 2500  # each fact some 180 times
    c.base.learning_rate = 2e-3
    c.base.algorithm.hinted = 0.0
    c.rounds.count = 0
    c.rounds.split = "given"
    c.optim.decay = 0.3
    c.sampling.max_new_tokens = 32
    c.sampling.temperature = 0.7  # greedy drafts say one name again and again
    c.sampling.batch_size = 128
    if args.smoke:
        c.model.preset = "tiny"
        c.model.num_heads = c.model.num_kv_heads = c.model.head_dim = None
        c.task.num_people = 40
        c.task.num_values = 4
        c.task.num_train = 400
        c.base.num_updates = 20
        c.batch_size = 8
        c.sampling.batch_size = 32
    return c
