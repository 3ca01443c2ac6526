"""Continuous thoughts on graphs that leave no shortcut, from scratch, with two layers.

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
``prosqa_symbols`` asks the published questions of ProsQA in place of the graphs, from generated
ones of their shape, and ``prosqa`` the same in sentences. Arguments: one of the arms or walk; one
of the tasks; smoke. benchmarks/coconut_study.py runs and compares all arms.
"""

from reasoning_jax import config, default

ARMS = ("coconut", "learned", "dropped", "at_once", "cot", "direct", "walk")
TASKS = ("graph_search", "prosqa_symbols", "prosqa")
# Of each task: the steps of its longest paths, and the tokens of a question, of an answer, of a
# whole path with its answer, and of a walk with its ring.
STEPS = {"graph_search": 3, "prosqa_symbols": 6, "prosqa": 6}
QUESTION = {"graph_search": 72, "prosqa_symbols": 200, "prosqa": 360}
ANSWER = {"graph_search": 16, "prosqa_symbols": 16, "prosqa": 56}
WHOLE = {"graph_search": 96, "prosqa_symbols": 224, "prosqa": 416}
WALK = {"graph_search": 80, "prosqa_symbols": 192, "prosqa": 416}
PLAIN = ("cot", "direct", "walk")
FROM_PATHS = ("coconut", "learned", "dropped")


def get_config(arg: str = ""):
    args = config.parse_arg(arg, arm=ARMS, task=TASKS, smoke=False)
    forward = "plain" if args.arm in PLAIN else "coconut"
    c = default.get_config(algorithm="sft", task=args.task, forward=forward)
    if args.task == "graph_search":
        c.task.num_steps = (1, 2, 3)  # with three alone nothing is learned
        c.task.width = 2
    elif args.arm != "walk":
        c.task.short = 0.5  # nor with the published numbers of steps
    # A model learns 18,000 of ProsQA's questions by heart in 3,000 updates, and no search.
    c.task.num_train = 25_000 if args.task == "graph_search" else 100_000
    c.model.preset = "0.4m"
    c.model.num_layers = 2 if args.task == "graph_search" else 4
    # Many heads: which of them learns to look a node up, and when, is chance.
    c.model.num_heads = 8
    c.model.num_kv_heads = 8
    c.model.mlp_dim = 384
    c.sequence_length = WHOLE[args.task]
    c.batch_size = 32
    c.base.num_updates = 1500 if args.task == "graph_search" else 3000
    c.base.learning_rate = 1e-3
    c.base.algorithm.hinted = 0.0
    c.rounds.split = "given"
    c.rounds.count = STEPS[args.task] + 1
    c.rounds.updates = 300
    c.rounds.growth = 1.0
    c.rounds.restart = False
    c.rounds.patience = 0
    c.optim.learning_rate = 1e-3
    c.optim.decay = 0.2
    c.sampling.max_new_tokens = 52 if args.task == "prosqa" else 12
    c.eval.num_examples = 300
    if args.arm in FROM_PATHS:
        c.base.num_updates = 0
    if args.arm == "walk":
        c.base.split = "walked"
        c.base.num_updates = 400
        c.base.learning_rate = 2e-3
        c.rounds.count = 0
        c.sequence_length = WALK[args.task]
    elif forward == "plain":
        c.algorithm.direct = args.arm == "direct"
        c.base.algorithm.direct = args.arm == "direct"
    else:
        c.forward.stages = STEPS[args.task]
        c.forward.begin_marker = False
        c.forward.end_marker = False
        c.forward.uniform_prob = 0.0 if args.arm == "at_once" else 0.1
        c.forward.thoughts_per_step = 0 if args.arm == "dropped" else 1
        c.forward.fed = "learned" if args.arm == "learned" else "hidden"
        c.forward.curriculum = args.arm != "at_once"
        if args.arm in ("coconut", "at_once"):
            c.forward.question_length = QUESTION[args.task]
            c.forward.answer_length = ANSWER[args.task]
    if args.smoke:
        c.model.update({"preset": "tiny", "num_heads": None, "num_kv_heads": None, "mlp_dim": None})
        c.task.num_train = 300
        c.eval.num_examples = 30
        c.eval.num_test = 30
        c.batch_size = 16
        c.base.num_updates = min(c.base.num_updates, 10)
        c.rounds.updates = 5
        c.rounds.min_kept_rows = 10
        c.sampling.batch_size = 32
    return c
