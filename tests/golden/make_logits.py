"""Computes published_models.json by transformers: run it where that is installed.

    python tests/golden/make_logits.py

For every case of make_models.py: logits of two prompts of different lengths at a few positions, and
greedy continuations of 64 tokens.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from golden import make_models  # noqa: E402

TARGET = Path(__file__).parent / "published_models.json"
POSITIONS = (0, 3, 6, -1)
NEW_TOKENS = 64


def prompts() -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, make_models.V, n).tolist() for n in (19, 7)]


@torch.no_grad()
def case(name: str) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        make_models.write(name, Path(folder))
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder, attn_implementation="eager", output_loading_info=True, dtype=torch.float32
        )
    problems = {key: sorted(value) for key, value in info.items() if value}
    assert not problems, (name, problems)
    model.eval()
    found: dict = {"logits": [], "greedy": [], "gap": 1e9}
    for prompt in prompts():
        logits = model(torch.tensor([prompt]), use_cache=False).logits[0]
        rows = logits[list(POSITIONS)].double().numpy()
        found["logits"].append([[round(float(x), 5) for x in row] for row in rows])
        tokens = list(prompt)
        for _ in range(NEW_TOKENS):
            last = model(torch.tensor([tokens]), use_cache=False).logits[0, -1]
            best = torch.topk(last, 2).values
            found["gap"] = min(found["gap"], round(float(best[0] - best[1]), 5))
            tokens.append(int(last.argmax()))
        found["greedy"].append(tokens[len(prompt) :])
    return found


def main() -> None:
    cases = {name: case(name) for name in make_models.CONFIGS}
    for name, found in cases.items():
        print(name, "smallest gap", found["gap"], "tokens", len(set(found["greedy"][0])))
    about = {
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "prompts": prompts(),
        "positions": POSITIONS,
        "cases": cases,
    }
    TARGET.write_text(json.dumps(about) + "\n")


if __name__ == "__main__":
    main()
