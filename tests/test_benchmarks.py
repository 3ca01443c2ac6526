"""The benchmarks run, count FLOPs as they say, and compare what takes turns."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from compiling import XLA_FLAGS
from conftest import random_params

from reasoning_jax.model import decoder
from reasoning_jax.policy import Policy
from reasoning_jax.training.rows import completion_row

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def folder(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def test_throughput_quick():
    script = str(ROOT / "benchmarks" / "throughput.py")
    command = [sys.executable, script, "--preset=tiny", "--quick", "--rows=4", "--samples=8"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"XLA_FLAGS": XLA_FLAGS}
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


@pytest.mark.parametrize("name", ["sampling", "update"])
def test_libraries_take_turns_where_they_are(folder, tmp_path, monkeypatch, capsys, name):
    import peers

    benchmark = importlib.import_module(name)
    monkeypatch.delenv("TRL_PY", raising=False)
    (tmp_path / "tunix.py").touch()
    line = '{"script": "x", "tokens_per_s": 50, "useful_tokens_per_s": 50, "pairs_per_s": 50}'
    for script in ("peers_train.py", "peers_sample.py"):
        (tmp_path / script).write_text(f"print('noise')\nprint('{line}')\n")
    for key, value in {
        "PEERS_DIR": str(tmp_path),
        "TUNIX_PY": sys.executable,
        "PYTHONPATH": str(tmp_path),
    }.items():
        monkeypatch.setenv(key, value)
    own = [sys.executable, "-c", f"print('{line}'.replace('0', '5'))"]
    monkeypatch.setattr(peers, "ours", lambda *case: own)
    monkeypatch.setattr(sys, "argv", [f"{name}.py"])
    peers.main(
        benchmark.__doc__,
        benchmark.CASES,
        benchmark.commands,
        benchmark.own_figures,
        dict.fromkeys(benchmark.CASES, "tokens_per_s"),
    )
    out = capsys.readouterr()
    for case in benchmark.CASES:
        assert f"{case}: ours / tunix = 1.10" in out.out
    assert "left out (PEERS_DIR and TRL_PY do not lead to it)" in out.err


@pytest.mark.parametrize("case", ["sampling.queue", "update.dpo", "update.grpo"])
def test_a_case_of_ours_is_measured(folder, monkeypatch, case):
    """A tiny model in place of the one that is measured; what is counted is what is drawn."""
    import peers

    monkeypatch.setattr(peers, "SIZE", "tiny")
    name, case = case.split(".")
    benchmark = importlib.import_module(name)
    if name == "sampling":
        monkeypatch.setattr(benchmark, "prompts", lambda case: [np.arange(1, 9)] * 5)
    mesh = jax.sharding.get_mesh()
    try:
        figures = benchmark.own_figures(case, 1)
    finally:
        jax.set_mesh(mesh)
        jax.config.update("jax_enable_compilation_cache", True)
    assert figures["step_s"] > 0
    if name == "sampling":
        assert figures["rows"] == 5 and 1 <= figures["mean_len"] <= 128
        assert figures["compiled_again"] == 0
    else:
        assert figures["tokens_per_s"] > 0 and figures["pairs_per_s"] > 0


def test_variance_of_the_toys_and_of_a_model(folder, tmp_path, capsys):
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


# ---- the frontier of reward and KL ---------------------------------------------------------------


def test_best_of_n_against_enumeration(folder):
    """A toy of four outcomes, two of them tied; every choice and every tuple is listed."""
    import study_kl

    outcomes = np.array([0, 1, 1, 3])
    chances = np.array([0.4, 0.1, 0.2, 0.3])
    samples = np.repeat(outcomes, [4, 1, 2, 3])  # ten samples: the distribution itself
    other = np.array([5, 0, 2, 2, 2, 7, 1, 1, 0, 9])
    for n in (1, 2, 3):
        chosen = np.zeros(4)
        for drawn in itertools.product(range(4), repeat=n):
            best = [i for i in drawn if outcomes[i] == max(outcomes[list(drawn)])]
            for i in best:
                chosen[i] += np.prod(chances[list(drawn)]) / len(best)
        kl = np.sum(chosen * np.log(chosen / chances))
        assert study_kl.best_of_n_kl(samples[None], n) == pytest.approx(kl)
        assert kl <= study_kl.kl_bound(n) and (kl == 0) == (n == 1)
        both = np.stack([samples, other])
        of_choices = [max(c) for row in both for c in itertools.combinations(row.tolist(), n)]
        assert study_kl.best_of_n(both, n) == pytest.approx(np.mean(of_choices))
    untied = np.arange(5000)[None]
    assert study_kl.best_of_n_kl(untied, 8) == pytest.approx(study_kl.kl_bound(8), abs=2e-3)
    with pytest.raises(ValueError, match="best of 11 needs"):
        study_kl.best_of_n(both, 11)


def test_the_optimum_is_the_highest_reward_less_kl(folder):
    """DPO's eq. 4 has the maximum beta log E exp(r / beta), and every other policy less."""
    import study_kl

    rewards = np.array([[0.0, 1, 1, 3], [2, 0, 0, 1]])
    beta = 0.7
    reward, kl = study_kl.optimum(rewards, beta)
    most = beta * np.log(np.exp(rewards / beta).mean(1)).mean()
    assert reward - beta * kl == pytest.approx(most)
    for p in np.random.default_rng(0).dirichlet(np.ones(4), size=(50, 2)):
        value = (p * rewards).sum(1) - beta * (p * np.log(p * 4)).sum(1)
        assert value.mean() < most


def test_kl_of_samples_against_enumeration(folder, tiny):
    """Two models of 20 tokens, one of which is never drawn: all 19 * 19 continuations of two."""
    import study_kl

    cfg, params = tiny
    sizes = {"mesh": None, "batch_size": 256, "max_length": 16}
    policy, reference = (
        study_kl.without_end(Policy(params=p, model_cfg=cfg, **sizes), end_id=2)
        for p in (params, random_params(cfg, seed=1))
    )
    prompt = np.array([1, 5, 7], np.int32)
    every = [*itertools.product([t for t in range(20) if t != 2], repeat=2)]
    rows = [completion_row(prompt, sequence) for sequence in every]
    own, other = (
        np.array([p.sum() for p in model.completion_logprobs(rows)])
        for model in (policy, reference)
    )
    assert np.exp(own).sum() == pytest.approx(1, abs=1e-4)  # nothing is left for the end token
    kl = np.sum(np.exp(own) * (own - other))
    log_ratios = dict(zip(every, own - other, strict=True))
    drawn = study_kl.continuations(
        policy, reference, [prompt], samples=2048, length=2, key=jax.random.key(0)
    )
    seen = np.array([c.log_ratio for c in drawn])
    exact = [log_ratios[tuple(c.tokens)] for c in drawn]
    np.testing.assert_allclose(seen, exact, atol=1e-4)
    assert kl > 0.1 and abs(seen.mean() - kl) < 4 * seen.std() / 2048**0.5


@pytest.mark.slow
def test_frontier_smoke(folder, data_dir, tmp_path, monkeypatch, capsys):
    """A short run, tables and a plot; a second call has nothing left to do."""
    import frontier

    flags = ["--seeds=1", "--smoke", f"--out={tmp_path}", f"--plot={tmp_path / 'plot.png'}"]
    one_device = {"XLA_FLAGS": XLA_FLAGS}
    done = subprocess.run(
        [sys.executable, frontier.__file__, *flags],
        capture_output=True,
        text=True,
        env=os.environ | one_device | {"REASONING_DATA": str(data_dir)},
    )
    assert done.returncode == 0, done.stderr
    assert "1 runs, 3 updates and 192 measured samples are left" in done.stdout
    assert (tmp_path / "plot.png").stat().st_size > 10_000
    found = json.loads((tmp_path / "frontier.json").read_text())
    assert [p["updates"] for p in found["points"]] == [1, 3]
    assert [b["n"] for b in found["best_of_n"]] == [1, 2, 4, 8, 16]
    assert all(np.isfinite(p["kl"]) and p["reward"] >= 0 for p in found["points"])
    held_out = json.loads((tmp_path / "beginnings.json").read_text())[-frontier.SMOKE.held_out :]
    for line in (tmp_path / "pairs_0.jsonl").read_text().splitlines():
        pair = json.loads(line)
        assert frontier.reward(pair["chosen"]) > frontier.reward(pair["rejected"])
        assert pair["prompt"] not in held_out

    monkeypatch.setattr(frontier, "make_lab", None)  # is not called
    frontier.main(flags[:3])
    assert "0 runs, 0 updates and 0 measured samples are left" in capsys.readouterr().out
    assert json.loads((tmp_path / "frontier.json").read_text()) == found
    with pytest.raises(SystemExit, match="of another size"):
        frontier.main([f"--out={tmp_path}"])


def first_cells(study, *flags):
    """The first cell of each row that a study prints, of models that learn nothing."""
    done = subprocess.run(
        [sys.executable, study.__file__, "--seeds=1", "--smoke", *flags],
        capture_output=True,
        text=True,
        env=os.environ | {"XLA_FLAGS": XLA_FLAGS},
    )
    assert done.returncode == 0, done.stderr
    return {line.split("|")[1].strip() for line in done.stdout.splitlines() if line[:1] == "|"}


@pytest.mark.slow
def test_coconut_study_smoke(folder, tmp_path):
    """The arms with those that they begin from, then the tables."""
    import coconut_study

    rows = first_cells(coconut_study, "--questions=10", "--arms=coconut", f"--out={tmp_path}")
    assert {path.name for path in tmp_path.iterdir()} == {"walk_0", "cot_0", "coconut_0"}
    assert {
        "coconut",
        coconut_study.BEFORE,
        "their own",
        "left out",
        "zeros",
        "another's",
        "thought 3, each",
    } <= rows


@pytest.mark.slow
def test_quiet_star_study_smoke(folder, tmp_path):
    import quiet_star_study

    rows = first_cells(quiet_star_study, "--documents=80", f"--out={tmp_path}")
    assert {path.name for path in tmp_path.iterdir()} == {"walk_0", "plain_0", "thoughts_0"}
    assert {"base", "thoughts", "thoughts of another document"} <= rows
    assert {"right working", "right working, before training"} <= rows
    assert {"0", "8"} <= rows


@pytest.mark.slow
def test_filler_study_smoke(folder, tmp_path):
    import filler_study

    rows = first_cells(filler_study, "--arms=mixed,finetuned", f"--out={tmp_path}")
    assert {path.name for path in tmp_path.iterdir()} == {"mixed_0", "immediate_0", "finetuned_0"}
    assert {"mixed", "mixed, asked with 0 fillers", "finetuned"} <= rows


@pytest.mark.slow
def test_quiet_star_gsm8k_smoke(folder, data_dir, tmp_path):
    import quiet_star_gsm8k

    rows = first_cells(quiet_star_gsm8k, "--questions=6", f"--out={tmp_path}")
    assert {path.name for path in tmp_path.iterdir()} == {"plain_0", "thoughts_0"}
    assert {"language model", "thoughts", "thoughts of another solution"} <= rows


@pytest.mark.parametrize("count", [4, 7, 11])
def test_deciles_are_those_of_the_language_model(folder, count):
    """The hardest part of the tokens, by the losses of one model, for all of them."""
    import quiet_star_gsm8k

    rng = np.random.default_rng(0)
    losses = {"language model": rng.random(10 * count), "other": rng.random(10 * count)}
    found = quiet_star_gsm8k.by_decile(losses)
    hardest = np.argsort(losses["language model"])[-count:]
    for name, values in losses.items():
        assert found[name][9] == pytest.approx(values[hardest].mean())
        assert found[name][10] == pytest.approx(values.mean())
    assert (np.diff(found["language model"][:10]) > 0).all()


@pytest.mark.parametrize("flag", ["--seeds=0", "--at_once=0", "--at_once=two", "--questions=1"])
def test_a_number_that_a_study_cannot_use(folder, flag, tmp_path, monkeypatch, capsys):
    import coconut_study

    monkeypatch.setattr(sys, "argv", ["", f"--out={tmp_path}", flag])
    with pytest.raises(SystemExit) as stopped:
        coconut_study.main()
    assert stopped.value.code == 2 and not list(tmp_path.iterdir())
    name, _, value = flag.partition("=")
    assert f"argument {name}: '{value}' is not an integer from" in capsys.readouterr().err


def test_arms_come_after_what_they_begin_from(folder):
    import coconut_study
    import side_by_side

    found = side_by_side.with_beginnings(["learned", "direct", "coconut"], coconut_study.ARMS)
    assert found == ["walk", "cot", "learned", "direct", "coconut"]


def test_runs_side_by_side_wait_for_what_they_begin_from(folder, tmp_path, monkeypatch):
    import side_by_side

    started = []

    def start(job, shown):
        started.append((job.directory.name, shown))
        code = "import sys; sys.exit(3)" if job.directory.name == "bad" else ""
        return subprocess.Popen([sys.executable, "-c", code])

    monkeypatch.setattr(side_by_side, "_start", start)
    first, second, bad = tmp_path / "first", tmp_path / "second", tmp_path / "bad"
    jobs = [
        side_by_side.Job(directory=second, flags=[], after=[first]),
        side_by_side.Job(directory=first, flags=[]),
    ]
    side_by_side.run_all(jobs, at_once=4)
    assert started == [("first", False), ("second", False)]
    jobs = [
        side_by_side.Job(directory=bad, flags=[]),
        side_by_side.Job(directory=second, flags=[], after=[bad]),
    ]
    with pytest.raises(SystemExit, match="bad: this run failed"):
        side_by_side.run_all(jobs, at_once=1)
    assert started[2:] == [("bad", True)]


def test_seconds_belong_to_the_phase_that_ends(folder, tmp_path, monkeypatch, capsys):
    import rounds

    logged = [(0, "collect", 5), (0, "update", 8), (1, "collect", 9), (1, "update", 11)]
    logged += [(1, "update", 14), (1, "eval", 15), (2, "collect", 19), (2, "update", 20)]
    lines = [dict(zip(("round", "phase", "time"), line, strict=True)) for line in logged]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setattr(sys, "argv", ["rounds.py", str(tmp_path)])
    rounds.main()
    _, header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["seconds,", "round", "collect", "eval", "update", "all"]
    assert [row.split() for row in rows] == [
        ["0", "0.0", "0.0", "3.0", "3.0"],
        ["1", "1.0", "1.0", "5.0", "7.0"],
        ["2", "4.0", "0.0", "1.0", "5.0"],
        ["median", "4.0", "0.0", "1.0", "5.0"],
    ]
    monkeypatch.setattr(sys, "argv", ["rounds.py", str(tmp_path / "none")])
    with pytest.raises(SystemExit, match="no metrics.jsonl"):
        rounds.main()
