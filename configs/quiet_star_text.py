"""Quiet-STaR on text with computations hidden in it: thoughts that no one shows the model.

    python -m reasoning_jax.main --config=configs/quiet_star_text.py:walk --workdir=runs/walk
    python -m reasoning_jax.main --config=configs/quiet_star_text.py:plain --workdir=runs/plain \
        --config.base.init_from=runs/walk/base
    python -m reasoning_jax.main --config=configs/quiet_star_text.py --workdir=runs/quiet_star \
        --config.base.init_from=runs/plain/base

The first model names all symbols of a document in turn, and so learns to look them up; the second
is a language model of documents of which some write their working out. From its round 0 the third
goes on with the same loss and a thought after every token, and the second's own round 1 without
thoughts, for as many updates of four times as many documents: what thoughts have to beat.
benchmarks/quiet_star_study.py runs and compares them. Arguments: thoughts, plain or walk; smoke.
"""

from reasoning_jax import config, default


def get_config(arg: str = ""):
    args = config.parse_arg(arg, arm=("thoughts", "plain", "walk"), smoke=False)
    forward = "quiet_star" if args.arm == "thoughts" else "plain"
    c = default.get_config(algorithm="sft", task="multi_hop_text", forward=forward)
    c.model.preset = "0.4m"
    c.model.num_layers = 2
    c.model.num_heads = 8
    c.model.num_kv_heads = 8
    c.model.mlp_dim = 384
    c.sequence_length = 96
    c.batch_size = 32
    c.base.num_updates = 0 if args.arm == "thoughts" else 900
    # At a higher rate, or with fewer worked documents, the lookups are forgotten.
    c.base.learning_rate = 3e-4
    c.task.worked = 0.5
    c.base.split = "train"
    c.base.algorithm.hinted = 0.0
    c.rounds.split = "train"
    c.rounds.count = 0 if args.arm == "walk" else 1
    c.rounds.updates = 120
    c.optim.learning_rate = 1e-3
    c.sampling.max_new_tokens = 12
    c.sampling.batch_size = 128
    if args.arm == "walk":
        c.base.split = "walked"
        c.base.num_updates = 300
        c.base.learning_rate = 2e-3
        c.task.num_facts = 16  # the longer a walk, the sooner it is learned
        # What it is asked has never been trained, and is short; its accuracy means nothing.
        c.task.num_questions = 1
        c.task.stretch = 2
        c.sequence_length = 104
    if args.arm == "thoughts":
        c.batch_size = 8  # a document costs as much as 18 without thoughts
        c.forward.thought_length = 4  # the symbol asked for, and three steps
        c.forward.num_ahead = 2
        c.forward.start_like = " :"  # what opens the working of a document
        c.forward.end_like = " ->"
    if args.smoke:
        c.model.update({"preset": "tiny", "num_heads": None, "num_kv_heads": None, "mlp_dim": None})
        c.task.num_train = 200
        c.task.num_held_out = 8
        c.batch_size = 8
        c.base.num_updates = 20
        c.rounds.updates = 4
        c.rounds.min_kept_rows = 10
        c.sampling.batch_size = 4
        c.checkpoint.every = 5
        if args.arm == "thoughts":
            c.forward.thought_length = 2
    return c
