"""A small tokenizer for models that learn GSM8K from scratch: 2,048 pieces, a digit a token.

    python benchmarks/gsm8k_tokenizer.py --out=runs/gsm8k_tokenizer [--gsm8k=DIR] [--size=2048]

Byte-level BPE of the train split's questions, solutions and their equations, written as Hugging
Face's files. Reads train.jsonl of GSM8K, and valid.txt of the augmented set, which is left out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import side_by_side
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from reasoning_jax import extraction, tasks
from reasoning_jax.default import section

END = "<|endoftext|>"


def texts(folder: str) -> list[str]:
    found = []
    for name, key in (("gsm8k_aug", "gsm8k_path"), ("gsm8k", "path")):
        cfg = section(tasks, name)
        cfg[key] = folder
        task = tasks.get(name)
        settled = extraction.settle(cfg)
        for example in task.load(settled, "given"):
            found += [task.prompt(example, settled), task.target(example)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--gsm8k", default="", help="the folder of train.jsonl")
    least = side_by_side.at_least(1 + 256)  # the end token and all bytes
    parser.add_argument("--size", type=least, default=2048)
    args = parser.parse_args()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=args.size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(args.gsm8k), trainer)
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(args.out / "tokenizer.json"))
    special = {"bos_token": END, "eos_token": END}
    (args.out / "tokenizer_config.json").write_text(json.dumps(special))
    print(f"{args.out}: {tokenizer.get_vocab_size()} tokens")


if __name__ == "__main__":
    main()
