"""Byte-level BPE from a vocabulary and its merges, as GPT-2's and its successors'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from reasoning_jax.errors import UserError
from reasoning_jax.vocabularies import fast

# How a text is split into words before merges.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LATER = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = _LATER % r"\p{N}"
LLAMA3 = _LATER % r"\p{N}{1,3}"
SPLITS: dict[str, tuple[str, ...]] = {
    "gpt-2": (GPT2,),
    "qwen2": (QWEN2,),
    "llama-bpe": (LLAMA3,),
    "smollm": (r"\p{N}", GPT2),
    # llama.cpp's own, for files that do not say.
    "default": (r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"),
}
# Other names of the same in GGUF files.
SPLITS |= dict.fromkeys(("gpt2", "mpt", "olmo", "jais", "phi-2"), SPLITS["gpt-2"])
SPLITS |= dict.fromkeys(("stablelm2", "deepseek-r1-qwen"), SPLITS["qwen2"])
SPLITS |= dict.fromkeys(("llama3", "llama-v3", "dbrx", "smaug-bpe"), SPLITS["llama-bpe"])
SPLITS |= dict.fromkeys(("refact", "command-r", "starcoder", "codeshell"), SPLITS["smollm"])
COMPOSED = ("qwen2", "deepseek-r1-qwen")  # NFC first
WHOLE_WORDS = ("llama-bpe", "llama3", "llama-v3")  # a word of the vocabulary needs no merges


def make(
    ids: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    split: str,
    where: str,
    *,
    add_prefix_space: bool = False,
) -> Tokenizer:
    """The tokenizer, without special tokens; split: a key of SPLITS. UserError naming ``where``."""
    if split not in SPLITS:
        raise UserError(f"{where}: the way to split words {split!r} is not one of this version.")

    def build() -> Tokenizer:
        whole_words = split in WHOLE_WORDS
        made = Tokenizer(models.BPE(dict(ids), list(merges), ignore_merges=whole_words))
        if split in COMPOSED:
            made.normalizer = normalizers.NFC()
        if add_prefix_space:  # which takes part in the splitting, by GPT-2's pattern
            made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        else:
            steps = [pre_tokenizers.Split(Regex(p), "isolated") for p in SPLITS[split]]
            steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
            made.pre_tokenizer = pre_tokenizers.Sequence(steps)
        made.decoder = decoders.ByteLevel()
        return made

    return fast.call(build, f"{where}: the vocabulary and its merges do not fit together")


def read_merges(text: str, where: str) -> list[tuple[str, str]]:
    """The merges of a merges.txt; UserError naming the line that is none."""
    merges = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        merges.append(merge(line, f"{where}, line {number}"))
    return merges


def merge(line: str, where: str) -> tuple[str, str]:
    left, space, right = line.rstrip("\r").partition(" ")
    if not space or not left or not right or " " in right:
        raise UserError(f"{where}: {line[:40]!r} is no merge of two tokens.")
    return left, right
