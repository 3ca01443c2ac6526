"""Continuous thoughts on questions about graphs, from scratch, with two or four layers.

    python -m reasoning_jax.main --config=configs/coconut_graphs.py:walk --workdir=runs/walk
    python -m reasoning_jax.main --config=configs/coconut_graphs.py:cot --workdir=runs/cot \
        --config.base.init_from=runs/walk/base
    python -m reasoning_jax.main --config=configs/coconut_graphs.py --workdir=runs/coconut_graphs \
        --config.base.init_from=runs/cot/base

The first model goes around rings, node by node, and so learns to look nodes up; from it the second
learns whole paths; and from that the third gives up a step a round for a thought (arXiv:2412.06769;
graphs of arXiv:2505.12514). The last round stays at the last stage.

``coconut`` (the default) feeds the hidden state, ``learned`` one vector in its place, ``dropped``
nothing: all three begin from the base model of ``cot``, whose own rounds keep the paths.
``at_once`` has all thoughts from the start, ``direct`` has no paths; these begin from the first.
By default no rule that ignores the root is right more often than chance. ``prosqa_symbols`` asks
the published questions of ProsQA, which such rules answer, and trains on generated ones of their
shape. Arguments: one of the arms or walk; prosqa_symbols; smoke. benchmarks/coconut_study.py runs
and compares all arms.
"""

from reasoning_jax import config, default

ARMS = ("coconut", "learned", "dropped", "at_once", "cot", "direct", "walk")
TASKS = ("graph_search", "prosqa_symbols")
PLAIN = ("cot", "direct", "walk")
FROM_PATHS = ("coconut", "learned", "dropped")


def get_config(arg: str = ""):
    args = config.parse_arg(arg, arm=ARMS, task=TASKS, smoke=False)
    forward = "plain" if args.arm in PLAIN else "coconut"
    c = default.get_config(algorithm="sft", task=args.task, forward=forward)
    prosqa = args.task == "prosqa_symbols"
    if not prosqa:
        c.task.num_steps = (1, 2, 3)  # with three alone nothing is learned
        c.task.width = 2
    elif args.arm != "walk":
        c.task.short = 0.5  # with the published lengths alone a path is that of random children
    # Of ProsQA's shape, 18,000 were learned by heart in 3,000 updates.
    c.task.num_train = 200_000 if prosqa and args.arm != "walk" else 25_000
    c.model.preset = "0.4m"
    c.model.num_layers = 4 if prosqa else 2
    # Many heads: which of them learns to look a node up, and when, is chance.
    c.model.num_heads = 8
    c.model.num_kv_heads = 8
    c.model.mlp_dim = 384
    c.sequence_length = 192 if prosqa else 96
    c.batch_size = 32
    c.base.num_updates = 11_000 if prosqa else 1500
    c.base.learning_rate = 1e-3
    c.base.algorithm.hinted = 0.0
    c.rounds.split = "given"
    c.rounds.count = 7 if prosqa else 4
    c.rounds.updates = 300
    if prosqa:
        c.rounds.examples = c.batch_size * c.rounds.updates
    c.rounds.growth = 1.0
    c.rounds.restart = False
    c.rounds.patience = 0
    c.optim.learning_rate = 1e-3
    c.optim.decay = 0.2
    c.sampling.max_new_tokens = 12
    c.eval.num_examples = 300
    if args.arm in FROM_PATHS:
        c.base.num_updates = 0
    if args.arm == "walk":
        c.base.split = "walked"
        c.base.num_updates = 400
        c.base.learning_rate = 2e-3
        c.rounds.count = 0
        c.sequence_length = 192 if prosqa else 80
    elif forward == "plain":
        c.algorithm.direct = args.arm == "direct"
        c.base.algorithm.direct = args.arm == "direct"
    else:
        c.forward.stages = 6 if prosqa else 3  # as many as a path has steps
        c.forward.begin_marker = False
        c.forward.end_marker = False
        c.forward.uniform_prob = 0.0 if args.arm == "at_once" else 0.1
        c.forward.thoughts_per_step = 0 if args.arm == "dropped" else 1
        c.forward.fed = "learned" if args.arm == "learned" else "hidden"
        c.forward.curriculum = args.arm != "at_once"
        if args.arm in ("coconut", "at_once"):
            # With a step, [A], the answer and the end, a question of 188 tokens fills a row.
            c.forward.question_length = 188 if prosqa else 72
            c.forward.answer_length = 16
    if args.smoke:
        c.model.update({"preset": "tiny", "num_heads": None, "num_kv_heads": None, "mlp_dim": None})
        c.task.num_train = 300
        c.eval.num_examples = 30
        c.eval.num_test = 30
        c.batch_size = 16
        c.base.num_updates = min(c.base.num_updates, 10)
        c.rounds.updates = 5
        c.rounds.examples = 0
        c.rounds.min_kept_rows = 10
        c.sampling.batch_size = 32
    return c
