"""Small folders as Hugging Face's, whose ids can be computed by hand: a byte is its own token."""

from __future__ import annotations

import json
from pathlib import Path

from golden import make_models

TEMPLATES = Path(__file__).parent / "chat_templates"


def alphabet() -> list[str]:
    """GPT-2's character for each byte."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in shown]
    return [chr(b) if b in shown else chr(256 + others.index(b)) for b in range(256)]


def template(name: str) -> str:
    return (TEMPLATES / f"{name}.jinja").read_text().removesuffix("\n")


def write(path: Path, special: list[str], **config: object) -> Path:
    """A folder with a token for each byte, and these special tokens with the ids 256, 257 ..."""
    path.mkdir(exist_ok=True)
    vocabulary = {character: byte for byte, character in enumerate(alphabet())}
    (path / "vocab.json").write_text(json.dumps(vocabulary))
    (path / "merges.txt").write_text("#version: 0.2\n")
    added = {
        str(256 + i): {"content": text, "special": True, "normalized": False}
        for i, text in enumerate(special)
    }
    content = {"added_tokens_decoder": added, **config}
    (path / "tokenizer_config.json").write_text(json.dumps(content))
    return path


def ids(special: list[str], *parts: str) -> list[int]:
    """The ids of these parts, of which those that are special tokens are one id."""
    found: list[int] = []
    for part in parts:
        found += [256 + special.index(part)] if part in special else part.encode()
    return found


def chat_model(path: Path, name: str = "qwen2") -> Path:
    """A folder of a random chat model, a case of make_models.py: weights, tokenizer, template.

    It needs no network and no download, and answers nonsense.
    """
    family = "gemma" if name.startswith("gemma") else "chatml"
    special = {
        "chatml": ["<|im_start|>", "<|im_end|>"],
        "gemma": ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"],
    }[family]
    ends = {"chatml": "<|im_end|>", "gemma": "<eos>"}
    make_models.write(name, path, vocab_size=256 + len(special))
    start = {"bos_token": "<bos>"} if family == "gemma" else {}
    write(path, special, eos_token=ends[family], chat_template=template(family), **start)
    return path


def gsm8k_of_one_length(published: Path, path: Path) -> Path:
    """The first questions of GSM8K of about one length: with a token a byte, few shapes.

    8 of train after the 500 of validation, and 4 of test.
    """
    path.mkdir()
    for split, count in (("train", 508), ("test", 4)):
        lines = (published / f"{split}.jsonl").read_text().splitlines()
        chosen = [line for line in lines if 150 <= len(json.loads(line)["question"]) <= 200]
        (path / f"{split}.jsonl").write_text("\n".join(chosen[:count]) + "\n")
    return path
