"""Names of slices, the formulas by hand, collectives in a program's text, the searches; and, where libtpu is, real compiles."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from conftest import ROOT

from reasoning_jax import hlo, plan, presets, tpu

GIB = 2**30


# ---- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, slice, chips",
    [("v5e-64", "v5e:8x8", 64), ("v5litepod-16", "v5e:4x4", 16), ("v5p-128", "v5p:4x4x4", 64), ("v5p-32", "v5p:2x2x4", 16),
     ("v6e-256", "v6e:16x16", 256), ("v4-8", "v4:2x2x1", 4), ("v5e:2x4", "v5e:2x4", 8), ("v5:2x2x1", "v5p:2x2x1", 4),
     ("v5e-1", "v5e:1x1", 1)],
)  # fmt: skip
def test_a_name_is_a_slice(name, slice, chips):
    found = tpu.topology(name)
    assert (str(found), found.chips) == (slice, chips)


@pytest.mark.parametrize("name", ["v5e-24", "v5p-5", "v5p-2", "v9-8", "v5e", "8x8", "", "v5e:2x2x2", "v5p:2x2", "v5e:0x4"])
def test_a_wrong_name_is_told_the_valid_ones(name):
    with pytest.raises(ValueError, match=r"there is no such slice; the names are .*v5[ep]-16 \("):
        tpu.topology(name)


# ---- formulas, against the reference's numbers -----------------------------------------------------------------------


def shape(name: str):
    return presets.model_config(SimpleNamespace(preset=name, items=dict(dtype="bfloat16").items), vocab_size=259)


# Qwen2.5-0.5B: 24 layers, 14 heads and 2 key-value heads of 64, tied.
QWEN = SimpleNamespace(num_layers=24, width=896, num_heads=14, num_kv_heads=2, head_dim=64, mlp_dim=4864, vocab_size=151_936,
                       tied=True, dtype="bfloat16", remat="none", window=0)  # fmt: skip


def test_parameters_and_cache_bytes():
    assert tpu.num_params(shape("llama-3.1-8b")) == pytest.approx(8.03e9, rel=1e-3)
    assert tpu.num_params(shape("llama-3.2-1b")) == pytest.approx(1.236e9, rel=1e-3)
    assert tpu.num_params(shape("qwen3-8b")) == pytest.approx(8.19e9, rel=1e-3)
    assert tpu.multiplied_params(shape("llama-3.1-8b")) == tpu.num_params(shape("llama-3.1-8b")) - 128_256 * 4096
    assert tpu.multiplied_params(QWEN) == tpu.num_params(QWEN) == pytest.approx(0.494e9, rel=1e-3)
    assert (tpu.kv_bytes(shape("qwen3-8b")), tpu.kv_bytes(QWEN)) == (147_456, 12_288)


@pytest.mark.parametrize(
    "kind, batch, ceiling",
    [("v5e", 1, 821), ("v5e", 32, 20.3e3), ("v5e", 128, 47.7e3), ("v5e", 512, 72.1e3), ("v6e", 1, 1642), ("v5p", 512, 243e3)],
)
def test_decode_ceilings_of_a_chip(kind, batch, ceiling):
    """Computed elsewhere, at a mean context of 768."""
    seconds = tpu.decode_bytes(QWEN, batch, 768) / tpu.CHIPS[kind].bandwidth
    assert batch / seconds == pytest.approx(ceiling, rel=5e-3)


def test_flops():
    per_token = tpu.train_flops(QWEN, 1, 0)
    assert tpu.CHIPS["v5e"].flops / per_token == pytest.approx(66e3, rel=0.01)  # tokens/s at 100 %, 6 N only
    assert tpu.train_flops(QWEN, 10, 2048) == 10 * (per_token + 6 * 24 * 14 * 64 * 2048)
    banded = SimpleNamespace(**vars(QWEN) | {"window": 512})  # the first 512 tokens see 256 on average, the others 512
    assert tpu.train_flops(banded, 4, 2048) == 4 * (per_token + 12 * 24 * 14 * 64 * (512 * 256 + 1536 * 512) / 2048)
    assert tpu.decode_flops(banded, 4, 768) == tpu.decode_flops(QWEN, 4, 512)
    assert tpu.forward_flops(QWEN, 10, 2048) == tpu.train_flops(QWEN, 10, 2048) / 3
    head = 2 * 896 * 151_936
    assert tpu.forward_flops(QWEN, 10, 2048, heads=1) == pytest.approx(tpu.forward_flops(QWEN, 10, 2048) - 9 * head)
    assert tpu.decode_flops(QWEN, 4, 768) == 4 * (2 * tpu.multiplied_params(QWEN) + 4 * 24 * 14 * 64 * 768)
    assert tpu.decode_bytes(QWEN, 4, 768, replicas=2) == 4 * tpu.multiplied_params(QWEN) + 4 * 768 * 12_288


def test_seconds_on_the_network():
    def seconds(name, *collective):
        return tpu.network_seconds(tpu.topology(name), [hlo.Collective(*collective, False, "")])

    assert seconds("v5e:4x8", "all-gather", 9 * 10**9, 2, 8, 1) == pytest.approx(2 * 7 / 8 * 9e9 / 9e10)  # one axis
    assert seconds("v5e:4x8", "all-gather", 9 * 10**9, 2, 32, 1) == pytest.approx(2 * 31 / 32 * 9e9 / 18e10)  # both
    assert seconds("v5e:4x8", "all-reduce", 9 * 10**9, 1, 4, 1) == pytest.approx(2 * 3 / 4 * 9e9 / 9e10)
    assert seconds("v5p:2x2x4", "reduce-scatter", 10**9, 1, 16, 1) == pytest.approx(15 / 16 * 1e9 / 5.4e11)  # all three
    assert seconds("v5e:4x8", "collective-permute", 10**9, 1, 2, 1) == pytest.approx(1e9 / 9e10)
    assert seconds("v5e:2x2", "all-reduce between slices", 10**9, 1, 2, 2) == pytest.approx(2 * 0.5 * 1e9 / 6.25e9)


# ---- collectives -----------------------------------------------------------------------------------------------------

PROGRAM = """HloModule jit_update, entry_computation_layout={()->f32[]}

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

%start (p: bf16[64,8]) -> (bf16[64,8], bf16[64,16]) {
  %all-gather.1 = bf16[64,16]{1,0:T(8,128)(2,1)} all-gather(%p), channel_id=7, replica_groups=[4,2]<=[4,2]T(1,0), dimensions={1}
  ROOT %custom-call.1 = (bf16[64,8]{1,0}, bf16[64,16]{1,0}) custom-call(%all-gather.1)
}

%done (p: bf16[64,8]) -> bf16[64,16] {
  %all-gather.2 = bf16[64,16]{1,0:T(8,128)(2,1)} all-gather(%p), channel_id=7, replica_groups=[4,2]<=[4,2]T(1,0), dimensions={1}
  ROOT %custom-call.2 = bf16[64,16]{1,0} custom-call(%all-gather.2), custom_call_target="AsyncCollectiveDone"
}

%all-reduce-scatter.1 (input: f32[16,32]) -> f32[16,8] {
  %all-reduce.3 = f32[16,32]{1,0} all-reduce(%input), channel_id=9, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  ROOT %dynamic-slice.1 = f32[16,8]{1,0} dynamic-slice(%all-reduce.3, %zero, %at), dynamic_slice_sizes={16,8}
}

%layers.cond (c: (s32[], /*index=1*/bf16[64,8])) -> pred[] {
  %constant.4 = s32[]{:T(128)} constant(5), metadata={op_name="lt"}
  %counter = s32[]{:T(128)} get-tuple-element(%c), index=0
  ROOT %lt.1 = pred[]{:T(512)} compare(%counter, %constant.4), direction=LT, metadata={op_name="lt"}
}

%layers.body (c: (s32[], /*index=1*/bf16[64,8])) -> (s32[], bf16[64,8]) {
  %fusion.1 = (bf16[64,8]{1,0}, bf16[64,16]{1,0}) fusion(%x), kind=kCustom, calls=%start
  %fusion.2 = bf16[64,16]{1,0} fusion(%x), kind=kCustom, calls=%done
  %fusion.3 = f32[16,8]{1,0} fusion(%g), kind=kCustom, calls=%all-reduce-scatter.1
  %while.4 = (s32[]{:T(128)}, bf16[64,16]{1,0}) while(%tuple.6), condition=%ring.cond, body=%ring.body
  ROOT %tuple.1 = (s32[]{:T(128)}, /*index=1*/bf16[64,8]{1,0}) tuple(%n, %y)
}

%ring.cond (c: (s32[], bf16[64,16])) -> pred[] {
  %constant.6 = s32[]{:T(128)} constant(16)
  %counter.3 = s32[]{:T(128)} get-tuple-element(%c), index=0
  ROOT %lt.3 = pred[]{:T(512)} compare(%counter.3, %constant.6), direction=LT
}

%ring.body (c: (s32[], bf16[64,16])) -> (s32[], bf16[64,16]) {
  %counter.4 = s32[]{:T(128)} get-tuple-element(%c), index=0
  %constant.7 = s32[]{:T(128)} constant(2)
  %next.4 = s32[]{:T(128)} add(%counter.4, %constant.7)
  %fusion.4 = bf16[64,16]{1,0} fusion(%x), kind=kCustom, calls=%done
  %cp.1 = bf16[2]{0} collective-permute(%y), channel_id=14, source_target_pairs={{0,1},{1,0}}
  ROOT %tuple.7 = (s32[]{:T(128)}, bf16[64,16]{1,0}) tuple(%next.4, %fusion.4)
}

%step.body (c: (s32[], /*index=1*/bf16[64,8])) -> (s32[], bf16[64,8]) {
  %ag.3 = bf16[64,16]{1,0} all-gather(%p), channel_id=15, replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}
  ROOT %tuple.8 = (s32[]{:T(128)}, /*index=1*/bf16[64,8]{1,0}) tuple(%n, %y)
}

%decode.cond (c: (s32[], pred[4])) -> pred[] {
  %constant.5 = s32[]{:T(128)} constant(48)
  %all-reduce.4 = u32[]{:T(128)} all-reduce(%done.1), channel_id=11, replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0'}
  %lt.2 = pred[]{:T(512)} compare(%counter.2, %constant.5), direction=LT
  ROOT %and.1 = pred[]{:T(512)} and(%lt.2, %not.1)
}

%decode.body (c: (s32[], pred[4])) -> (s32[], pred[4]) {
  %while.2 = (s32[]{:T(128)}, bf16[64,8]{1,0}) while(%tuple.3), condition=%layers.cond, body=%step.body
  ROOT %tuple.4 = (s32[]{:T(128)}, pred[4]{0}) tuple(%n, %m)
}

ENTRY %main (p: f32[8]) -> f32[] {
  %while.1 = (s32[]{:T(128)}, bf16[64,8]{1,0}) while(%tuple.2), condition=%layers.cond, body=%layers.body
  %rs = f32[4]{0} reduce-scatter(%p), channel_id=12, replica_groups={{0,4},{1,5},{2,6},{3,7}}, dimensions={0}, to_apply=%add
  %cp = (f32[8]{0}, f32[8]{0}, u32[], u32[]) collective-permute-start(%p), channel_id=13, source_target_pairs={{0,1},{1,0}}
  %cpd = f32[8]{0} collective-permute-done(%cp)
  %send = (f32[3,8]{1,0}, u32[], token[]) send(%p, %t), frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}
  %while.3 = (s32[]{:T(128)}, pred[4]{0}) while(%tuple.5), condition=%decode.cond, body=%decode.body
  ROOT %out = f32[]{:T(128)} constant(0)
}
"""


def test_collectives_of_a_program():
    """Asynchronous parts count once, loops as often as they run, and a reduction that keeps a part is a reduce-scatter."""
    found = hlo.collectives(PROGRAM, slice_of=[0, 0, 0, 0, 1, 1, 1, 1])
    once, step = ([c for c in found if c.repeated == repeated] for repeated in (False, True))
    assert hlo.by_kind(once) == {
        "all-gather": {"count": 5, "bytes": 5 * 64 * 16 * 2},
        "all-reduce between slices": {"count": 1, "bytes": 96},
        "collective-permute": {"count": 1 + 5 * 8, "bytes": 32 + 5 * 8 * 4},  # the inner loop counts to 16 by 2
        "reduce-scatter": {"count": 5 + 1, "bytes": 5 * 16 * 32 * 4 + 32},
    }
    assert hlo.by_kind(step) == {
        "all-gather": {"count": 5, "bytes": 5 * 64 * 16 * 2},
        "all-reduce": {"count": 1, "bytes": 4},
    }
    groups = {(c.kind, c.repeated): (c.group, c.slices) for c in found}
    assert groups["all-gather", False] == (2, 1)  # iota [4, 2] transposed: 0 and 2, 4 and 6, 1 and 3, 5 and 7
    assert groups["all-gather", True] == (2, 2)  # a mesh of the devices 0, 4, 1, 5, ...: 0 and 4, 1 and 5, ...
    assert groups["all-reduce", True] == (4, 2)  # axis_0 of a mesh: 0, 2, 4, 6
    assert {(c.group, c.slices) for c in once if c.kind == "reduce-scatter"} == {(4, 1), (2, 2)}
    assert groups["all-reduce between slices", False] == (2, 2)


# ---- searches --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [2, 64, 10**6])
@pytest.mark.parametrize("base, row, most", [(4, 0.1, 64), (4, 3, 2), (0.5, 0.001, 8192), (15.7, 0.01, 4)])
def test_the_largest_batch_in_few_compiles(base, row, most, start):
    tried = []

    def compiled(n):
        tried.append(n)
        needed = base + row * n
        return SimpleNamespace(fits=needed <= 15.75, needed=needed, temporaries=row * n * 1.5)

    assert plan.largest(2, start, compiled, 15.75, lambda n, c: None) == most
    assert len(tried) <= 6 and tried[0] == min(start, 2**17) and len(set(tried)) == len(tried)


def test_a_compiler_that_crashes_ends_its_own_process_only():
    from reasoning_jax import aot

    assert aot.apart(os.getenv, "HOME") == os.environ["HOME"]
    assert aot.apart(os._exit, 139) is None


def test_no_batch_fits():
    gone = SimpleNamespace(fits=False, needed=0, temporaries=0)
    assert plan.largest(8, 8, lambda n: gone, 1.0, lambda n, c: None) is None


def test_meshes_divide_batches_and_slices():
    cfg = SimpleNamespace(batch_size=16, micro_batches=2, sampling=SimpleNamespace(batch_size=64))
    found = plan.meshes(cfg, 16, 2)
    assert {"data": 2, "fsdp": 4, "tensor": 2} in found and {"data": 8, "fsdp": 1, "tensor": 2} in found
    for m in found:
        assert m["data"] * m["fsdp"] * m["tensor"] == 16 and m["data"] % 2 == 0 and m["data"] * m["fsdp"] <= 8


@pytest.mark.parametrize("rows, better", [(16, "tensor"), (512, "fsdp")])
def test_the_network_of_a_mesh(rows, better):
    """Few tokens: less is sent where activations move and weights stay; many tokens: the other way round."""
    m, slice = shape("llama-3.1-8b"), tpu.topology("v5e:8x8")
    meshes = {"fsdp": {"data": 1, "fsdp": 64, "tensor": 1}, "tensor": {"data": 1, "fsdp": 8, "tensor": 8}}
    seconds = {name: tpu.predicted_network(m, slice, mesh, 1, 1, rows * 2048) for name, mesh in meshes.items()}
    assert min(seconds, key=seconds.get) == better
    gathered = tpu.num_params(m) * (2 * 2 + 4) * 63 / 64  # bfloat16 twice, float32 gradients once
    assert seconds["fsdp"] == pytest.approx(gathered / (2 * 9e10))


# ---- the command -----------------------------------------------------------------------------------------------------


def command(*arguments: str, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "reasoning_jax.plan", *arguments], cwd=ROOT, capture_output=True, text=True,
                          env=os.environ | env)  # fmt: skip


STAR = "--config=configs/star_addition.py:smoke"


@pytest.mark.parametrize(
    "arguments, sentence",
    [((), "--config is missing"), ((STAR,), "--topology is missing; the names are v4-8"),
     ((STAR, "--topology=v5e-24"), "there is no such slice; the names are v5e-1 (v5e:1x1), v5e-4"),
     ((STAR, "--topology=v5e-8", "--fit=speed"), "--fit"), ((STAR, "--topology=v5e-8", "--slices=0"), "--slices")],
)  # fmt: skip
def test_a_mistake_is_one_sentence(arguments, sentence):
    found = command(*arguments)
    assert found.returncode == 1 and found.stdout == ""
    assert sentence in found.stderr and len(found.stderr.splitlines()) == 1


def test_without_libtpu_it_says_what_to_install(tmp_path):
    (tmp_path / "libtpu.py").write_text("raise ImportError\n")
    found = command(STAR, "--topology=v5e-8", PYTHONPATH=str(tmp_path))
    assert found.returncode == 1 and 'pip install "jax[tpu]"' in found.stderr and len(found.stderr.splitlines()) == 1


# ---- with the compiler -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compiler():
    pytest.importorskip("libtpu", reason='libtpu is not installed (pip install "jax[tpu]"): nothing is compiled for TPU')
    plan.environment()
    import jax

    yield
    jax.set_mesh(None)


@pytest.mark.parametrize(
    "arguments, sentence",
    [(("--config.mesh.fsdp=3",), "config.mesh: {'data': -1, 'fsdp': 3, 'tensor': 1} does not fit 8 device(s)."),
     (("--config.batch_size=12",), "config.batch_size: 12 rows do not split"),
     (("--topology=v5e:3x3",), "not divisible")],
)  # fmt: skip
def test_a_shape_that_does_not_divide(compiler, arguments, sentence):
    found = command(STAR, "--topology=v5e-8", *arguments)
    assert found.returncode == 1 and sentence in found.stderr and len(found.stderr.splitlines()) == 1


def test_what_it_says(compiler):
    found = command(STAR, "--topology=v5e-8", "--config.base.num_updates=0", "--config.mesh.data=1", "--config.mesh.fsdp=8")
    assert found.returncode == 0, found.stderr
    head, update, sample, formulas = found.stdout.split("\n\n")
    assert head.startswith("8 chips: v5e:2x4, 15.75 GiB each; mesh data 1, fsdp 8, tensor 1; 0.0 million parameters; jax")
    assert update.startswith("update (star): 16 x 128 tokens, compiled in ") and "all-gather" in update and "MFU" in update
    assert sample.startswith("sample: 64 x 128 tokens") and "a decode step" in sample and "MBU" in sample
    assert sample.endswith("each step gathers every layer: config.mesh.sampling_tensor samples from copies instead")
    assert formulas.startswith("Ceilings")


def test_what_does_not_fit_ends_with_3_and_advice(compiler):
    found = command("--config=configs/sft_addition.py", "--topology=v5e-4", "--json", "--config.batch_size=65536",
                    "--config.sampling.batch_size=4", "--config.sequence_length=2048")  # fmt: skip
    assert found.returncode == 3, found.stderr
    assert "update (sft) does not fit (" in found.stderr and "config.micro_batches above 1" in found.stderr
    told = json.loads(found.stdout)
    assert not told["fits"] and told["steps"][0]["needed"] > 15.75 * GIB and told["steps"][-1]["fits"]


# Bounds: temporaries in bytes, and collectives a layer, forward and backward together, a tenth above the larger of what was
# recorded with jax 0.10.2 and libtpu 0.0.42.1, and with jax 0.12.0.1 and libtpu 0.0.50.1 (the updates on v5p).
# ``PYTHONPATH=. python tests/test_plan.py`` prints them anew.
LAYERS, VOCAB = 3, 8192
SLICES = {"v5e:2x4": (1, (1, 8, 1)), "v6e:2x4": (1, (2, 4, 1)), "v5p:2x2x1": (1, (1, 2, 2)), "v5e:2x2": (2, (2, 4, 1))}
BOUNDS = {
    ("v5e:2x4", "update (star)"): (5963776, 15),
    ("v5e:2x4", "sample"): (2823680, 14),
    ("v5e:2x4", "update (dpo)"): (6092800, 15),
    ("v6e:2x4", "update (star)"): (5795808, 18),
    ("v6e:2x4", "sample"): (2521504, 14),
    ("v6e:2x4", "update (dpo)"): (6254048, 18),
    ("v5p:2x2x1", "update (star)"): (24829664, 23),
    ("v5p:2x2x1", "sample"): (10348672, 18),
    ("v5p:2x2x1", "update (dpo)"): (25058304, 23),
    ("v5e:2x2", "update (star)"): (7157248, 17),
    ("v5e:2x2", "sample"): (2888192, 14),
    ("v5e:2x2", "update (dpo)"): (7157248, 17),
}


def results(topology: str, name: str) -> dict:
    """{step: (Step, Compiled)} of a small model."""
    from reasoning_jax import aot, experiment

    cfg = importlib.import_module(f"configs.{name}").get_config("smoke")
    cfg.model.num_layers, cfg.model.dtype, cfg.model.remat, cfg.model.vocab_size = LAYERS, "bfloat16", "full", VOCAB
    cfg.sequence_length, cfg.batch_size, cfg.sampling.batch_size, cfg.base.num_updates = 256, 16, 16, 0
    slices, (cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.tensor) = SLICES[topology]
    found = tpu.topology(topology)
    exp = experiment.make(cfg, aot.devices(found, slices))
    wanted = ("update", "sample") if name == "star_addition" else ("update",)
    steps = [s for s in aot.steps(cfg, exp) if s.kind in wanted]
    return {s.name: (s, aot.compile_step(s, found.chip)) for s in steps}


def measured(c) -> tuple[int, int]:
    layers = [x for x in c.collectives if x.loop and x.count == LAYERS]
    return c.temporaries, len(layers)


@pytest.mark.parametrize("name", ["star_addition", "dpo_jsonl"])
@pytest.mark.parametrize("topology", SLICES)
def test_the_steps_compile_for_tpu(compiler, topology, name):
    for step, (s, c) in results(topology, name).items():
        assert c.fits and c.arguments > 0
        temporaries, layers = measured(c)
        most = BOUNDS[topology, step]
        assert temporaries <= 1.1 * most[0] and layers <= most[1], (step, temporaries, layers)
        # The vocabulary's matrix is never gathered, nor its gradient all-reduced, whole: 2 bytes a number at least.
        table = 2 * VOCAB * presets.SIZES["tiny"]["width"]
        assert max(x.bytes for x in c.collectives if x.kind in ("all-gather", "all-reduce")) < table, c.collectives
        if s.kind == "update":
            assert c.donated > 0.95 * c.output  # the old state's memory is the new one's
        if SLICES[topology][0] > 1 and s.kind == "update":
            assert any(x.kind == "all-reduce between slices" for x in c.collectives)


if __name__ == "__main__":
    plan.environment()
    for topology in SLICES:
        for name in ("star_addition", "dpo_jsonl"):
            for step, (_, c) in results(topology, name).items():
                print(f'    ("{topology}", "{step}"): {measured(c)},', flush=True)
                print("    # largest:", sorted(((x.bytes, x.kind) for x in c.collectives), reverse=True)[:3])
