"""Every family of published models, compiled for a TPU slice."""

from __future__ import annotations

import dataclasses
import importlib

import pytest
from golden import make_models

from reasoning_jax import default, experiment, tune
from reasoning_jax.pretrained import hf_config
from reasoning_jax.tpu import chips, compiler, programs

VOCAB = 8192
LENGTH = 128


FAMILIES = sorted(make_models.CONFIGS.keys() - {"llama2"})  # it has no part that llama3 has not
FIRST = ("gemma3", "gpt2")  # the others need minutes
CASES = [("gemma3", "lora"), *((name, "full") for name in FIRST)]
OTHERS = [(name, "full") for name in FAMILIES if name not in FIRST]


@pytest.mark.parametrize(
    "name, tuned", [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in OTHERS)]
)
def test_no_table_is_gathered(tpu_compiler, name, tuned):
    values = make_models.CONFIGS[name] | {"vocab_size": VOCAB}
    family = hf_config.family_of(values, name)
    model_cfg = hf_config.model_config(family, values, name, dtype="bfloat16", remat="full")
    cfg = importlib.import_module("configs.star_addition").get_config("smoke")
    cfg.tune = default.section(tune, tuned)
    cfg.sequence_length = LENGTH
    cfg.batch_size = 16
    cfg.sampling.batch_size = 16
    cfg.base.num_updates = 0
    cfg.mesh.data, cfg.mesh.fsdp = 2, 4
    slice = chips.topology("v5e-8")
    exp = experiment.make(cfg, compiler.devices(slice))
    model_cfg = exp.tuning.model_config(cfg.tune, model_cfg)
    exp = dataclasses.replace(exp, model_cfg=model_cfg)
    table = 2 * VOCAB * model_cfg.width  # bytes, in bfloat16
    for step in programs.steps(cfg, exp):
        if step.kind in ("prefill", "decode") and tuned == "lora":
            continue  # the factors are matrices like others
        compiled = compiler.compile_step(step, slice.chip)
        assert compiled.fits
        sent = [c for c in compiled.collectives if c.kind in ("all-gather", "all-reduce")]
        assert sent
        assert max(c.bytes for c in sent) < table, (step.name, sent)
