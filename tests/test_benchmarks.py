"""The benchmarks run, count FLOPs as they say, and compare what takes turns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from reasoning_jax.model import decoder

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def folder(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def test_throughput_quick():
    script = str(ROOT / "benchmarks" / "throughput.py")
    command = [sys.executable, script, "--preset=tiny", "--quick", "--rows=4", "--samples=8"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"XLA_FLAGS": ""}
    )
    assert done.returncode == 0, done.stderr
    *shown, line = done.stdout.splitlines()
    out = json.loads(line)
    for case in ("update", "greedy", "temperature", "prefill", "matmul"):
        assert 0 < out[f"{case}_ms_min"] <= out[f"{case}_ms"] <= out[f"{case}_ms_max"]
        assert out[f"{case}_compile_s"] >= 0
    for case in ("update", "greedy", "temperature"):
        assert out[f"{case}_tokens_per_s"] > 0 and 0 < out[f"{case}_useful_fraction"] <= 1
    assert (out["preset"], out["rows"], out["samples"], out["dtype"]) == ("tiny", 4, 8, "float32")
    assert out["peak_memory_mib"] > 50 and out["cores"] >= 1 and out["jax"] and out["device"]
    assert out["greedy_tokens_per_s"] == pytest.approx(
        8 * out["max_new_tokens"] / out["greedy_ms"] * 1e3, rel=1e-3
    )
    assert out["update_fraction_of_peak"] == pytest.approx(
        out["update_model_gflops"] / out["matmul_peak_gflops"], rel=1e-3
    )
    assert any(row.startswith("update") for row in shown) and "GFLOP/s" in shown[0]


def test_flops_of_an_update_by_hand(folder):
    """Segments of 3 and 1 tokens, a padding slot: 6 N a token, and 6 L n_q d_h S^2 a segment."""
    import cases

    sizes = {
        "num_layers": 2,
        "width": 4,
        "num_heads": 2,
        "num_kv_heads": 1,
        "head_dim": 2,
        "mlp_dim": 5,
    }
    layers = {"up": np.zeros((2, 4, 5)), "mlp_norm": np.zeros((2, 4))}
    params = {"embedding": np.zeros((7, 4)), "layers": layers, "final_norm": np.zeros(4)}
    segments = np.array([[1, 1, 1, 2, 0]])
    attention = 6 * 2 * 2 * 2 * (3**2 + 1**2)
    tied = decoder.ModelConfig(vocab_size=7, **sizes)
    assert cases.flops(tied, params, segments) == 6 * (28 + 40) * 4 + attention
    untied = decoder.ModelConfig(vocab_size=7, tied=False, **sizes)
    assert (
        cases.flops(untied, params | {"unembedding": np.zeros((4, 7))}, segments)
        == 6 * (28 + 40) * 4 + attention
    )


def test_kinds_of_operations(folder):
    import profiling

    hlo = """
%fused (a: f32[2,3]) -> f32[3,2] {
  %a = f32[2,3]{1,0} parameter(0)
  ROOT %t = f32[3,2]{1,0} transpose(%a), dimensions={1,0}
}

%fused.1 (b: f32[2,3]) -> f32[2,3] {
  %b = f32[2,3]{1,0} parameter(0)
  ROOT %n = f32[2,3]{1,0} negate(%b)
}

ENTRY %main (x: f32[2,3]) -> (f32[2,2], f32[3,2]) {
  %x = f32[2,3]{1,0} parameter(0)
  %fusion = f32[3,2]{1,0} fusion(%x), kind=kLoop, calls=%fused
  %fusion.1 = f32[2,3]{1,0} fusion(%x), kind=kLoop, calls=%fused.1
  %dot = f32[2,2]{1,0} dot(%fusion.1, %fusion), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %tuple = (f32[2,2]{1,0}, f32[3,2]{1,0}) tuple(%dot, %fusion)
}
"""
    kinds = profiling.kinds(hlo)
    assert (kinds["fusion"], kinds["fusion.1"], kinds["dot"]) == (
        "copy/transposition",
        "elementwise",
        "dot",
    )
    assert kinds["tuple"] == ""  # its time is that of what it holds


def test_peers_take_turns_where_they_are(folder, tmp_path, monkeypatch, capsys):
    import peers

    monkeypatch.delenv("TRL_PY", raising=False)
    (tmp_path / "tunix.py").touch()
    line = '{"script": "x", "tokens_per_s": 50, "useful_tokens_per_s": 20}'
    for script in ("peers_train.py", "peers_sample.py"):
        (tmp_path / script).write_text(f"print('noise')\nprint('{line}')\n")
    for key, value in {
        "PEERS_DIR": str(tmp_path),
        "TUNIX_PY": sys.executable,
        "PYTHONPATH": str(tmp_path),
    }.items():
        monkeypatch.setenv(key, value)
    commands = peers.peers(2)
    assert [sorted(c) for c in commands.values()] == [["ours", "tunix"]] * 3
    for case in commands.values():
        case["ours"] = [sys.executable, "-c", f"print('{line}'.replace('0', '5'))"]
    monkeypatch.setattr(peers, "peers", lambda steps: commands)
    monkeypatch.setattr(sys, "argv", ["peers.py"])
    peers.main()
    out = capsys.readouterr()
    assert "sft: ours / tunix = 1.10" in out.out and "sample: ours / tunix = 1.25" in out.out
    assert "transformers: left out" in out.err


def test_variance_of_the_toys_and_of_a_model(folder, quick_compile, tmp_path, capsys):
    """Exact numbers of the toys; of a model's samples, variances that can be had by hand."""
    import variance
    from variance_estimates import Question, least_squares, moments, variances

    variance.main([f"--out={tmp_path}", "--points=2"])
    out = capsys.readouterr().out
    assert "0.9168 / 0.9168   0.1057 / 0.1057   0.0524 / 0.0524" in out
    assert (tmp_path / "variance.png").stat().st_size > 10_000

    # Two questions; two right samples and a wrong one each.
    score_vectors = np.array([[[1.0, 0], [3, 0], [-4, 1]], [[0, 2], [0, 4], [0, -6]]])
    right = np.array([True, True, False])
    first, second = [moments(s, right) for s in score_vectors]
    assert (first.second, first.V, first.F) == (5, 2, 9)
    assert (second.second, second.V, second.F) == (10, 2, pytest.approx(56 / 3))
    questions = [Question(0.5, 2 / 3, {"full": m}) for m in (first, second)]
    rho = least_squares(questions, "full")
    assert rho == pytest.approx(0.5 * 2 / 3 * 4 / (0.25 * (9 + 56 / 3)))
    none, paper, ours = variances(questions, "full", 0.5, rho)
    assert none == pytest.approx(7.5)  # of the mean scores (2, 0) and (0, 3), which are orthogonal
    b, F = rho / 2, (9 + 56 / 3) / 2
    assert ours == pytest.approx(7.5 - 2 * b * 2 / 3 * 2 + b**2 * F)
    assert paper == pytest.approx(7.5 - 2 * 0.5 * 2 / 3 * 2 + (0.25 + 0.25 / 63) * F)
