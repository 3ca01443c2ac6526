"""Every key of an experiment, once, with its default.

An experiment is ``get_config`` and the few lines that differ. The keys of a task, a grader and a
method are in the ``Config`` of its own file.
"""

from __future__ import annotations

import dataclasses
from types import ModuleType

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from reasoning_jax import algorithms, graders, tasks


def get_config(
    algorithm: str = "star", task: str = "addition", grader: str = "", base: str = "sft"
) -> ConfigDict:
    """The config of a method on a task, locked: only the keys that it has can be set.

    grader: "" is the task's own. base: the method that trains the base model in round 0. UserError
    where there is no method, task or grader of that name.
    """
    c = ConfigDict()
    c.seed = 0  # of parameters, orders and samples
    c.batch_size = 32  # packed sequences of an update
    c.micro_batches = 1  # parts that an update is computed in; must divide batch_size
    c.sequence_length = 256  # tokens of a packed sequence; the longest prompt and completion too
    c.log_every = 10  # updates of a round between two lines of metrics; the last has one too

    c.model = ConfigDict()
    c.model.preset = "0.4m"  # a size in model/presets.py; the keys below override it where set
    # Rows of the embedding; None = the preset's, else the tokenizer's. Of this and the next keys
    # None leaves what the preset says.
    c.model.vocab_size = placeholder(int)
    c.model.num_layers = placeholder(int)
    c.model.width = placeholder(int)
    c.model.num_heads = placeholder(int)
    c.model.num_kv_heads = placeholder(int)
    c.model.head_dim = placeholder(int)
    c.model.mlp_dim = placeholder(int)
    c.model.window = placeholder(int)  # a token sees so many tokens, itself included; None = all
    c.model.rope_theta = placeholder(float)
    c.model.tied = placeholder(bool)
    c.model.dtype = "float32"  # of the computation: float32 or bfloat16
    c.model.remat = "none"  # none, full or dots
    c.model.attention = "auto"  # plain, splash (a TPU kernel), or auto: splash on TPU where it fits

    c.tokenizer = ConfigDict()
    c.tokenizer.name = "characters"  # characters (of the task's alphabet), bytes or sentencepiece
    c.tokenizer.path = ""  # of the SentencePiece model

    c.task = section(tasks, task)
    c.grader = section(graders, grader or tasks.get(task).GRADER)

    c.base = ConfigDict()  # round 0: where the model that the rounds start from comes from
    # Another run: its work directory (the best round), or DIR/base; "" = random parameters.
    c.base.init_from = ""
    c.base.split = "given"  # what the base model is trained on first
    c.base.num_updates = 0  # 0 = the base model is not trained
    c.base.learning_rate = 2e-3  # its peak, with the schedule of optim
    c.base.algorithm = section(algorithms, base)
    if base == "sft":
        c.base.algorithm.hinted = 0.25

    c.algorithm = section(algorithms, algorithm)

    c.rounds = ConfigDict()
    c.rounds.count = 16  # how many
    c.rounds.split = "train"  # what the rounds draw their examples from
    c.rounds.examples = 0  # of a round; 0 = all
    c.rounds.online = False  # a round is one minibatch, and each of its updates takes all its rows
    c.rounds.restart = True  # each round trains the base model again, with a fresh optimiser
    c.rounds.updates = 40  # of round 1; of round n: int(updates * growth^(n-1)) + increment * (n-1)
    c.rounds.growth = 1.2
    c.rounds.increment = 0
    c.rounds.min_kept_rows = 100  # warn below
    c.rounds.patience = 4  # stop after so many evaluations without a gain in accuracy; 0 = never
    c.rounds.min_gain = 0.002  # in validation accuracy

    c.sampling = ConfigDict()
    c.sampling.temperature = 0.0  # 0 = greedy
    c.sampling.top_k = 0  # 0 = all tokens
    c.sampling.top_p = 1.0
    c.sampling.max_new_tokens = 128
    c.sampling.batch_size = 256

    c.optim = ConfigDict()
    c.optim.learning_rate = 1e-3  # the peak
    c.optim.warmup = 20  # updates
    c.optim.decay = 0.0  # the last fraction of a round's updates over which the rate falls to 0
    c.optim.b1 = 0.9
    c.optim.b2 = 0.95
    c.optim.eps = 1e-8
    c.optim.weight_decay = 0.0
    c.optim.clip_norm = 1.0  # 0 = none
    c.optim.max_skipped = 5  # non-finite updates in a row before the run stops

    c.mesh = ConfigDict()
    c.mesh.data = -1  # -1 = the devices that are left
    c.mesh.fsdp = 1
    c.mesh.tensor = 1
    c.mesh.sampling_tensor = 0  # sample with copies over so many devices each; 0 = no copies

    c.checkpoint = ConfigDict()
    c.checkpoint.every = 200  # updates within a round; the end of an evaluated round is saved too
    c.checkpoint.keep = 2

    c.eval = ConfigDict()
    c.eval.split = "validation"  # chooses the best round
    c.eval.every = 1  # rounds
    c.eval.num_examples = 0  # of that split; 0 = all
    c.eval.num_test = 0  # of the test split; 0 = all
    c.eval.test_every = 4  # rounds, a multiple of every; before round 1 and at the end it is too
    return c.lock()


def section(package: ModuleType, name: str) -> ConfigDict:
    """A name and the keys of its ``Config``; package: algorithms, tasks or graders."""
    keys = ConfigDict({"name": name})
    for field in dataclasses.fields(package.get(name).Config):
        keys[field.name] = field.default
    return keys
