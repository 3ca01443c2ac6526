"""Quiet-STaR on text with computations hidden in it: thoughts that no one shows the model.

    python -m reasoning_jax.main --config=configs/quiet_star_text.py --workdir=runs/quiet_star

Round 0 is a plain language model of the documents, of which some write their working out; round 1
goes on with the same loss and a thought after every token. ``plain`` goes on without thoughts, for
as many updates: what thoughts have to beat. Arguments: thoughts or plain, smoke.
"""

from reasoning_jax import config, default


def get_config(arg: str = ""):
    args = config.parse_arg(arg, arm=("thoughts", "plain"), smoke=False)
    forward = {"thoughts": "quiet_star", "plain": "plain"}[args.arm]
    c = default.get_config(algorithm="sft", task="multi_hop_text", forward=forward)
    c.model.preset = "0.4m"
    c.model.num_layers = 2
    c.sequence_length = 96
    c.batch_size = 32
    c.base.num_updates = 3000
    c.base.split = "train"
    c.base.algorithm.hinted = 0.0
    c.rounds.split = "train"
    c.rounds.count = 1
    c.rounds.updates = 300
    c.optim.learning_rate = 3e-4
    c.sampling.max_new_tokens = 12
    c.sampling.batch_size = 128
    if args.arm == "thoughts":
        c.forward.thought_length = 4  # ":" and three steps, or three steps and "->"
        c.forward.num_ahead = 2
        c.forward.start_like = " :"  # what opens the working of a document
        c.forward.end_like = " ->"
    if args.smoke:
        c.model.preset = "tiny"
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
