"""A published model on your disk teaches itself GSM8K: point one line at its folder.

    python -m reasoning_jax.main --config=configs/published_gsm8k.py --workdir=runs/gsm8k \\
        --config.model.source=PATH
    ... --config=configs/published_gsm8k.py:grpo              or star, dpo (iterated, as IRPO)
    ... --config=configs/published_gsm8k.py:trice,full        all parameters; prompt: a soft prompt
    ... --config.tokenizer.chat=False --config.task.shots=... a base model, from worked examples

PATH is a folder as Hugging Face's (Llama, Qwen, Gemma, Mistral, GPT), a GGUF file, or what convert
made. By default TRICE trains a LoRA of a chat model; one config serves 0.5B to 8B parameters, on
one accelerator or split over those that there are. Whether it fits, without the model and without
the chips:

    python -m reasoning_jax.plan --config=configs/published_gsm8k.py --topology=v5e-8 \\
        --config.model.preset=qwen2.5-7b --config.tokenizer.name=bytes --config.tokenizer.chat=False

On several chips add --config.mesh.sampling_tensor=4: samples come from copies over four of them.
Data: train.jsonl and test.jsonl of GSM8K in config.task.path. Arguments: trice, star, dpo or grpo;
lora, prompt or full; smoke.
"""

from reasoning_jax import config, default

ALGORITHMS = {"trice": "trice", "star": "star", "dpo": "irpo", "grpo": "policy_gradient"}
LEARNING_RATES = {"lora": 1e-4, "prompt": 1e-2, "full": 2e-6}


def get_config(arg: str = ""):
    args = config.parse_arg(arg, method=tuple(ALGORITHMS), tuned=tuple(LEARNING_RATES), smoke=False)
    c = default.get_config(algorithm=ALGORITHMS[args.method], task="gsm8k", tuned=args.tuned)
    c.model.source = ""  # the folder of the model: set this, or --config.model.source=PATH
    c.model.dtype = "bfloat16"
    c.model.remat = "full"
    c.tokenizer.chat = True
    c.task.calculator = False  # chat models do not write <<48/2=24>>
    c.mesh.data = 1
    c.mesh.fsdp = -1  # the parameters are split over all devices
    c.sequence_length = 1024
    c.batch_size = 8
    c.sampling.max_new_tokens = 384
    c.sampling.batch_size = 64
    c.sampling.temperature = 1.0
    c.rounds.restart = False
    c.rounds.growth = 1.0
    c.rounds.min_kept_rows = 0
    c.rounds.patience = 0
    c.optim.learning_rate = LEARNING_RATES[args.tuned]
    c.base.learning_rate = LEARNING_RATES[args.tuned]
    c.optim.warmup = 10
    c.eval.num_examples = 200
    c.eval.test_every = 0
    if args.method == "trice":
        c.task.num_train = 2048  # chains
        c.algorithm.max_age = 10
        c.rounds.count = 160
        c.rounds.examples = 64
        c.eval.every = 20
    if args.method == "star":
        c.rounds.count = 5
        c.rounds.examples = 1024
        c.rounds.updates = 40
    if args.method == "dpo":
        c.sequence_length = 2048  # of both sides of a pair, each with its prompt
        c.algorithm.num_samples = 8
        c.algorithm.pairs_per_question = 2
        c.rounds.count = 5
        c.rounds.examples = 512
        c.rounds.updates = 40
    if args.method == "grpo":
        c.algorithm.num_samples = 8
        c.rounds.count = 160
        c.rounds.examples = 8
        c.eval.every = 20
    if args.method in ("trice", "grpo"):
        c.rounds.online = True
        c.rounds.updates = 1
    if args.smoke:
        c.sequence_length = 1024
        c.task.num_train = 8
        c.base.num_updates = 2  # on worked solutions, as the rounds may find nothing to train on
        c.rounds.count = 2
        c.rounds.examples = 4
        c.rounds.updates = 1
        c.eval.every = 1
        c.eval.num_examples = 4
        c.eval.num_test = 4
        c.sampling.max_new_tokens = 16
        c.sampling.batch_size = 8
    return c
