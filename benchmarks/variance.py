"""The variance of TRICE's gradient without a control variate, with the paper's and with ours, as questions become certain.

    python benchmarks/variance.py [--out=DIR] [--workdir=RUN] [--checkpoint=base]

Prints the table of the paper notes beside the same by enumeration, and sweeps of p(correct) on two toys whose rationales can
all be listed (tests/exact.py): exact numbers. With a run of configs/star_addition.py, also estimates for a trained model, from
its own samples and full gradients, and again from the cheap scores that training measures with. Writes DIR/variance.png.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
from jax.flatten_util import ravel_pytree

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import exact  # noqa: E402

from reasoning_jax import chains, checkpoint, command_line, control_variate, data, experiment, logprobs, sampling  # noqa: E402

KINDS = {"none": "#777777", "the paper's": "#d1495b", "ours": "#00798c"}
MINIBATCH = 64


# ---- the toys, exactly ---------------------------------------------------------------------------------------------------


def table() -> str:
    """Table 2.5 l of the notes, each number beside ours."""
    lines = ["shift  mean p(correct)    none              the paper's       |mean gradient|     (notes / enumeration)"]
    for shift, *notes in exact.TABLE:
        questions = exact.of_softmax(shift)
        mean, none = exact.of_trice(questions, np.zeros(3))
        found = [np.mean([exact.pi(q) for q in questions]), none, exact.of_trice(questions)[1], np.linalg.norm(mean)]
        lines.append(f"{shift:5}  " + "  ".join(f"{a:.4f} / {b:.4f} " for a, b in zip(notes, found, strict=True)))
    return "\n".join(lines)


def point(questions: list[exact.Question]) -> list[float]:
    """Mean p(correct); the variance by KINDS; and that of the paper's, subsampled to as many terms as there are questions."""
    rates, M = np.array([exact.pi(q) for q in questions]), len(questions)
    betas = (np.zeros(M), None, exact.rho(questions) * rates)
    subsampled = exact.of_trice(questions, subsample=M)[1]
    return [rates.mean(), *(exact.of_trice(questions, beta)[1] for beta in betas), subsampled]


def transformer(levels: np.ndarray, seed: int = 1) -> list[list[float]]:
    params, points = exact.params(seed), []
    for level in levels:
        params = exact.reach(level, params)
        points.append(point(exact.of_model(params)))
    return points


def sweep(name: str, points: list[list[float]]) -> str:
    """``point``s as lines: the variances with a control variate as parts of that without one."""
    lines = [f"{name}\np(correct)   variance   the paper's   ours   the paper's, subsampled"]
    for rate, none, *others in points:
        lines.append(f"{rate:10.3f} {none:10.4g}" + "".join(f"{x / none:11.3f}" for x in others))
    return "\n".join(lines)


# ---- a trained model, from its samples -----------------------------------------------------------------------------------


@partial(jax.jit, static_argnames="cfg")
def gradients(params, batch: dict, cfg) -> jax.Array:
    """[n, P]: the full gradients of the log-likelihoods of n sequences, one a row."""

    def log_p(params, row: dict) -> jax.Array:
        whole = {k: v[None] for k, v in row.items()}
        return (logprobs.token_logprobs(params, whole, cfg) * whole["weights"]).sum()

    return jax.vmap(lambda row: ravel_pytree(jax.grad(log_p)(params, row))[0])(batch)


def full_scores(roll, group: list, chunk: int = 8) -> np.ndarray:
    """[n, P] of n samples of one question, many of which are the same."""
    texts = {s.tokens.tobytes(): s for s in group}
    rows = [[roll.row(s.example, s.tokens)] for s in texts.values()]
    batches = (data.fill(rows[i : i + chunk], chunk, roll.max_length) for i in range(0, len(rows), chunk))
    found = np.concatenate([np.asarray(gradients(roll.params, b, roll.model_cfg)) for b in batches])
    number = {text: i for i, text in enumerate(texts)}
    return found[[number[s.tokens.tobytes()] for s in group]]


def moments(scores: np.ndarray, right: np.ndarray) -> dict[str, np.ndarray]:
    """Unbiased estimates from n samples: E|s'|^2 and V of the posterior, F of the model; and the posterior's mean score."""
    sizes, mean = (scores**2).sum(1), scores[right].mean(0)
    k, second = right.sum(), sizes[right].mean()
    return {"second": second, "V": max(0.0, second - mean @ mean) * k / (k - 1), "F": sizes.mean(), "mean": mean}


EDGES = (0.1, 0.3, 0.5, 0.7, 0.9, 0.999)  # of p(correct), between groups of questions


def measure(folder: Path, which: str, num_questions: int, num_samples: int) -> tuple[list[dict], int]:
    """Of each group of questions, and of all: their number, p(correct), the variance of a minibatch's term by KINDS and rho,
    by full gradients and by the cheap scores of training.

    The first half of the samples is the chain's past: its own rate of acceptance, and its group. The other half is measured,
    independently of that; questions without two right samples there are left out, and counted.
    """
    cfg = command_line.rebuild(folder)
    exp = experiment.make(cfg, jax.devices()[:1])
    params, _ = checkpoint.load_params(folder / which, exp.abstract_state().params)
    source = exp.load(cfg.algorithm.split)
    examples = [source[int(i)] for i in np.linspace(0, len(source) - 1, num_questions)]
    roll = exp.rollout(params, "variance", 0, sampling.make_rule(1.0))
    drawn = np.array(roll(examples, num_samples=num_samples), object).reshape(num_questions, num_samples)
    correct = np.array([[s.correct for s in group] for group in drawn])
    half = num_samples // 2
    past, visits = correct[:, :half], chains.FORGET ** np.arange(half)
    recent = np.stack([past @ visits, np.full(num_questions, visits.sum())], 1)
    memory = chains.empty(num_questions, 1)._replace(recent=recent, sums=np.array([past.mean(), 1.0, 0.0, 0.0]))
    own = control_variate.own_rate(memory, np.arange(num_questions))

    chosen = np.flatnonzero(correct[:, half:].sum(1) > 1)
    if len(chosen) < 2:
        sys.exit(f"{folder / which}: this model answers too few questions for an estimate.")
    groups = {n: [] for n in range(len(EDGES) + 1)}
    for done, n in enumerate(chosen, 1):
        if sys.stderr.isatty():
            print(f"\r{done} of {len(chosen)} questions", end="" if done < len(chosen) else "\n", file=sys.stderr)
        group, right = drawn[n, half:].tolist(), correct[n, half:]
        by = {"full": full_scores(roll, group), "scores": roll.scores([s.example for s in group], [s.tokens for s in group])}
        about = {"own": own[n], "pi": right.mean()} | {k: moments(v, right) for k, v in by.items()}
        groups[int(np.searchsorted(EDGES, past[n].mean()))].append(about)
    everything = [q for group in groups.values() for q in group]
    rhos = {by: least_squares(everything, by) for by in ("full", "scores")}
    found = [group for group in groups.values() if len(group) > 2]
    lines = [
        {"count": len(group), "rate": np.mean([q["pi"] for q in group]), "rho": rhos}
        | {by: variances(group, by, past.mean(), rhos[by]) for by in rhos}
        for group in (*found, everything)
    ]
    return lines, num_questions - len(chosen)


def least_squares(questions: list[dict], by: str) -> float:
    product = sum(q["own"] * q["pi"] * q[by]["V"] for q in questions)
    return float(np.clip(product / sum(q["own"] ** 2 * q[by]["F"] for q in questions), 0, 1))


def variances(questions: list[dict], by: str, batch_rate: float, rho: float) -> list[float]:
    """By KINDS: the variance of one term of a minibatch, the draw of its question from these included.

    The paper's beta is the rate of the other 63 questions of a minibatch of all kinds of questions.
    """
    n = len(questions)
    means = np.stack([q[by]["mean"] for q in questions])
    square_of_mean = ((means.sum(0) ** 2).sum() - (means**2).sum()) / (n * (n - 1))
    noise = batch_rate * (1 - batch_rate) / (MINIBATCH - 1)

    def variance(q: dict, b: float, b_square: float) -> float:
        return q[by]["second"] - 2 * b * q["pi"] * q[by]["V"] + b_square * q[by]["F"]

    own = [(0.0, 0.0), (batch_rate, batch_rate**2 + noise)]
    terms = [[variance(q, *b) for b in (*own, (rho * q["own"], (rho * q["own"]) ** 2))] for q in questions]
    return [float(x) for x in np.mean(terms, 0) - square_of_mean]


def compare(lines: list[dict]) -> str:
    """The variances relative to that without a control variate, by full gradients and by the cheap scores."""
    out = ["questions  p(correct)   variance   the paper's: full  scores   ours: full  scores"]
    for line in lines:
        full, cheap = line["full"], line["scores"]
        ratios = [x[i] / x[0] for i in (1, 2) for x in (full, cheap)]
        numbers = f"{line['count']:9}  {line['rate']:10.3f} {full[0] / MINIBATCH:10.4g}"
        out.append(numbers + "".join(f"{r:11.3f}" for r in ratios))
    return "\n".join([*out, "rho: {full:.3f} by full gradients, {scores:.3f} by scores".format(**lines[0]["rho"])])


# ---- the plot ------------------------------------------------------------------------------------------------------------


def plot(panels: dict[str, np.ndarray], path: Path) -> None:
    """One panel a title: columns p(correct) and the variance by KINDS."""
    figure, axes = plt.subplots(1, len(panels), figsize=(4.6 * len(panels), 3.7), squeeze=False)
    for axis, (title, points) in zip(axes[0], panels.items(), strict=True):
        for i, (name, colour) in enumerate(KINDS.items()):
            axis.plot(points[:, 0], points[:, 1 + i], color=colour, marker="o", markersize=3, linewidth=3 - 0.7 * i)
            order = sorted(range(1, 4), key=lambda j, last=points[-1]: last[j]).index(1 + i) - 1  # close ends, labels apart
            place = {"xytext": (6, 7 * order), "textcoords": "offset points", "va": "center"}
            axis.annotate(name, (points[-1, 0], points[-1, 1 + i]), color=colour, **place)
        ticks = [t for t in (0.05, 0.2, 0.5, 0.8, 0.95, 0.99, 0.999) if points[0, 0] / 2 < t < 1 - (1 - points[-1, 0]) / 2]
        axis.set(xscale="logit", yscale="log", xlabel="mean p(correct)")
        axis.set_title(title, fontsize=10, loc="left")
        axis.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axis.minorticks_off()
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    axes[0][0].set_ylabel("variance of the minibatch's gradient")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("."))
    parser.add_argument("--workdir", type=Path, default=None, help="a run of configs/star_addition.py")
    parser.add_argument("--checkpoint", default="base", help="which of its models: base or best")
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--points", type=int, default=16, help="of each sweep")
    args = parser.parse_args(arguments)
    print(table())
    levels = 1 / (1 + np.exp(-np.linspace(-3, 7, args.points)))  # 0.05 to 0.999
    toys = {
        "softmax toy, 3 questions (exact)": [point(exact.of_softmax(s)) for s in np.linspace(-2, 8.5, args.points)],
        "tiny transformer, 3 questions (exact)": transformer(levels),
    }
    for name, points in toys.items():
        print(sweep(name, points))
    panels = {name: np.array(points)[:, :4] for name, points in toys.items()}
    if args.workdir:
        lines, left_out = measure(args.workdir, args.checkpoint, args.questions, args.samples)
        print(f"{args.workdir}, {args.checkpoint}: {left_out} of {args.questions} questions have too few right samples")
        print(compare(lines))
        points = [[min(line["rate"], 1 - 1 / args.samples), *line["full"]] for line in lines[:-1]]
        scale = [1, *[1 / MINIBATCH] * len(KINDS)]
        panels[f"addition, {args.checkpoint} model, minibatch of {MINIBATCH} (estimates)"] = np.array(points) * scale
    plot(panels, args.out / "variance.png")


if __name__ == "__main__":
    main()
