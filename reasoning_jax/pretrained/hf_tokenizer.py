"""The tokenizer of a GGUF file as the files of a Hugging Face folder."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, processors

from reasoning_jax import gguf_metadata
from reasoning_jax.errors import UserError
from reasoning_jax.json_object import Json
from reasoning_jax.vocabularies import gguf_tokens
from reasoning_jax.vocabularies.fast import Fast

PREFIX = "tokenizer.ggml."
NAMED = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}


def write(path: Path, target: Path) -> bool:
    """Writes tokenizer.json and tokenizer_config.json, where the tokenizer is byte-level BPE.

    path: the GGUF file. Whether it could: weights are exported with any tokenizer.
    """
    try:
        loaded = gguf_tokens.read(path)
    except UserError:
        return False
    if not isinstance(loaded.vocabulary, Fast):
        return False
    metadata = gguf_metadata.read(path)
    tokens = metadata[f"{PREFIX}tokens"]
    assert isinstance(tokens, list)
    config: dict[str, Json] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
    }
    for name, key in NAMED.items():
        id = metadata.get(PREFIX + key)
        if isinstance(id, int):
            config[name] = tokens[id]
    if "tokenizer.chat_template" in metadata:
        config["chat_template"] = metadata["tokenizer.chat_template"]
    content = loaded.vocabulary.to_json()
    if loaded.bos_id is not None:
        content = _with_start(content, tokens[loaded.bos_id], loaded.bos_id)
    (target / "tokenizer.json").write_text(content)
    (target / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    ids: dict[str, Json] = {"eos_token_id": list(loaded.eos_ids), "pad_token_id": loaded.pad_id}
    if loaded.bos_id is not None:
        ids["bos_token_id"] = loaded.bos_id
    (target / "generation_config.json").write_text(json.dumps(ids, indent=2) + "\n")
    return True


def _with_start(content: str, token: str, id: int) -> str:
    """The tokenizer with the start token before each text, as its own files would have it."""
    tokenizer = Tokenizer.from_str(content)
    own = tokenizer.post_processor
    start = processors.TemplateProcessing(
        single=f"{token}:0 $A:0",
        pair=f"{token}:0 $A:0 {token}:1 $B:1",
        special_tokens=[(token, id)],
    )
    tokenizer.post_processor = processors.Sequence([own, start]) if own else start
    return tokenizer.to_str(pretty=True)
