"""Every key of an experiment, once, with its default. An experiment is this and the few lines that differ."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict()
    c.seed = 0
    c.batch_size = 32  # packed rows an update
    c.micro_batches = 1  # parts that an update is computed in; must divide batch_size
    c.sequence_length = 256  # tokens of a packed row; also the longest prompt and completion together
    c.log_every = 10  # updates between two lines of metrics

    c.model = ConfigDict()
    c.model.preset = "0.4m"  # a size in reasoning_jax/presets.py; the keys below override it where they are set
    c.model.vocab_size = placeholder(int)  # rows of the embedding, padding included; None = the preset's, else the tokenizer's
    for key in ("num_layers", "width", "num_heads", "num_kv_heads", "head_dim", "mlp_dim"):
        c.model[key] = placeholder(int)
    c.model.window = placeholder(int)  # a token sees so many tokens at most, itself included; None = all before it
    c.model.rope_theta = placeholder(float)
    c.model.tied = placeholder(bool)
    c.model.dtype = "float32"  # of the computation: float32 or bfloat16
    c.model.remat = "none"  # none, full or dots
    c.model.attention = "auto"  # plain, splash (a TPU kernel) or auto: splash on TPU, for rows of a multiple of 128 tokens

    c.tokenizer = ConfigDict()
    c.tokenizer.name = "characters"  # characters (of the task's alphabet), bytes or sentencepiece
    c.tokenizer.path = ""  # of the SentencePiece model

    c.task = ConfigDict()
    c.task.name = "addition"  # a file in reasoning_jax/tasks
    c.task.seed = 0  # of the problems themselves: the same for every config.seed
    c.task.max_digits = 5  # addition: operands have 1 to this many digits
    c.task.num_train = 50_000  # addition: problems without a rationale
    c.task.num_eval = 500  # addition: held-out problems a length, in validation and in test
    c.task.given = (0,)  # addition: worked examples of 1, 2, ... digits
    c.task.path = ""  # other tasks: folder of the data; "" = $REASONING_DATA/<task>, else ../shared/data/<task>
    c.task.form = "boolean_expressions"  # bbh: which of its 27 tasks
    c.task.source = "jsonl"  # gsm8k: jsonl or tfds
    c.task.calculator = True  # gsm8k: keep the <<48/2=24>> spans
    c.task.shots = ""  # a few-shot prompt file; "" = none

    c.base = ConfigDict()  # round 0: where the model that every method starts from comes from
    c.base.init_from = ""  # another run: its work directory (the best round), or DIR/base; "" = random parameters
    c.base.split = "given"  # worked examples to train on first
    c.base.num_updates = 0
    c.base.learning_rate = 2e-3
    c.base.hinted = 0.25  # the part of the worked examples that is shown with the hint too

    c.algorithm = ConfigDict()
    c.algorithm.name = "star"  # a file in reasoning_jax/algorithms
    c.algorithm.split = "train"
    c.algorithm.num_rounds = 16
    c.algorithm.examples_per_round = 0  # 0 = all
    c.algorithm.online = False  # a round is one minibatch, and each of its updates takes all of its rows
    c.algorithm.restart = True  # each round trains the base model again, with a fresh optimiser
    c.algorithm.rationalize = True  # star: a second, hinted attempt at what failed
    c.algorithm.direct = False  # sft: answers without rationales
    c.algorithm.control_variate = "history"  # trice: none, batch (the paper's), history (ours)
    c.algorithm.refresh = 0  # trice: how many of a round's chains get a proposal; the others stay; 0 = all
    c.algorithm.stochastic = False  # trice: p(y|x,z) is the model's own, instead of whether the sample's answer is right
    c.algorithm.subsample = 0  # trice: terms of a gradient, by systematic resampling; 0 = all
    c.algorithm.max_age = 0  # trice: a chain without an acceptance in so many visits is left out; 0 = never
    c.algorithm.measure_every = 10  # trice: rounds between two measurements of the gradient's variance; 0 = never
    c.algorithm.num_samples = 4  # rejection, wake_sleep, irpo, policy_gradient, vstar: samples a question
    c.algorithm.max_kept = 0  # rejection: of a question's correct samples; 0 = all
    c.algorithm.distinct = False  # rejection: one sample of each path, without false lines
    c.algorithm.per_question = False  # rejection: a question weighs 1 however many samples it keeps
    c.algorithm.kind = "grpo"  # policy_gradient: rloo, grpo, dr_grpo or dapo
    c.algorithm.groups = 0  # policy_gradient: train on so many groups that are neither all right nor all wrong; 0 = on all
    c.algorithm.epochs = 1  # policy_gradient: updates on all samples of a round, where online
    c.algorithm.clip_low = 0.2  # policy_gradient: ratios are clipped to 1 - clip_low, 1 + clip_high
    c.algorithm.clip_high = 0.2
    c.algorithm.kl = 0.0  # policy_gradient: weight of the KL divergence from the base model
    c.algorithm.kl_kind = "k3"  # policy_gradient: k2 or k3, in the loss, or k1, in the rewards
    c.algorithm.format_reward = 0.0  # policy_gradient: what <think>...</think><answer>...</answer> adds to the reward
    c.algorithm.overlong = 0.0  # policy_gradient: weight of the penalty, 0 to -1, of the last tokens before the limit
    c.algorithm.overlong_tokens = 32  # policy_gradient: how many tokens these are
    c.algorithm.preference = "dpo"  # dpo, irpo, vstar: dpo, ipo, ipo_mean or kto (kto: dpo.py only)
    c.algorithm.beta = 0.1  # dpo, irpo, vstar: of the implicit reward (ipo: tau)
    c.algorithm.label_smoothing = 0.0  # dpo, irpo, vstar: how often the preferences are taken to be wrong
    c.algorithm.dpo_weight = 1.0  # dpo, irpo, vstar: weight of the preference loss; 0 = alpha's term alone
    c.algorithm.alpha = 0.0  # dpo, irpo, vstar: weight of the chosen side's negative log-likelihood, a mean over its tokens
    c.algorithm.pairs = ""  # dpo: a JSONL file with prompt, chosen, rejected (kto: prompt, completion, label), or tfds:...
    c.algorithm.whole_text = False  # dpo: chosen and rejected begin with the prompt
    c.algorithm.skip_bad = False  # dpo: leave unusable pairs out and count them, instead of an error
    c.algorithm.desirable_weight = 1.0  # dpo, kto: lambda of desirable completions
    c.algorithm.undesirable_weight = 1.0
    c.algorithm.pairs_per_question = 10  # irpo, vstar (at most)
    c.algorithm.verifier_updates = 200  # vstar: of its last round
    c.algorithm.verifier_learning_rate = 1e-4
    c.algorithm.temperatures = ()  # irpo: of each round, the last for all that follow; () = sampling.temperature
    c.algorithm.gold = True  # irpo: a worked rationale wins where no sample is right
    c.algorithm.schedule = "exponential"  # updates a round: int(start * growth^(n-1)); linear: start + increment * (n-1)
    c.algorithm.start_updates = 40
    c.algorithm.growth = 1.2
    c.algorithm.increment = 20
    c.algorithm.min_kept_rows = 100  # warn below
    c.algorithm.patience = 4  # stop after so many evaluations without a gain in validation accuracy; 0 = never
    c.algorithm.min_gain = 0.002

    c.sampling = ConfigDict()
    c.sampling.temperature = 0.0  # 0 = greedy
    c.sampling.top_k = 0
    c.sampling.top_p = 1.0
    c.sampling.max_new_tokens = 128
    c.sampling.batch_size = 256

    c.optim = ConfigDict()
    c.optim.learning_rate = 1e-3
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
    c.mesh.sampling_tensor = 0  # sample with copies of the parameters, each over so many devices of a host; 0 = as they are

    c.checkpoint = ConfigDict()
    c.checkpoint.every = 200  # updates; every round's end is saved too
    c.checkpoint.keep = 2

    c.eval = ConfigDict()
    c.eval.split = "validation"  # chooses the best round
    c.eval.every = 1  # rounds
    c.eval.num_examples = 0  # of that split; 0 = all
    c.eval.num_test = 0  # of the test split; 0 = all
    c.eval.test_every = 4  # rounds (a multiple of every); the test split is also evaluated before round 1 and at the end
    return c.lock()
