"""llama2.c files: the real stories260K, version 2, and files that are damaged."""

from __future__ import annotations

import json
import re
import struct

import jax
import numpy as np
import pytest
from test_pretrained import logits

from reasoning_jax import pretrained
from reasoning_jax.errors import UserError

HEADER = (16, 24, 2, 4, 2, 40, 32)  # width, mlp, layers, heads, key-value heads, vocabulary, length


@pytest.fixture(scope="module")
def stories(data_dir):
    return data_dir / "stories260k"


def notes(folder) -> list[list]:
    """The lists of numbers that are written down in SOURCE.md: ids, and logits after BOS."""
    text = (folder / "SOURCE.md").read_text()
    return [json.loads(found) for found in re.findall(r"\[-?\d+[.\d]*(?:, -?[\d.]+){7,}\]", text)]


def test_the_real_model_says_what_its_notes_say(stories):
    """Logits and 200 greedy tokens, which were computed there by numpy in float64."""
    source = pretrained.open(stories / "stories260K.bin")
    cfg = source.model_config()
    ids, first_logits = notes(stories)
    assert len(ids) == 201 and len(first_logits) == 8
    found = np.asarray(logits(source.load(cfg), [ids], cfg)[0], np.float64)
    np.testing.assert_allclose(found[0, :8], first_logits, rtol=1e-6)
    assert found[:-1].argmax(-1).tolist() == ids[1:]
    log_probs = found - np.log(np.exp(found).sum(-1, keepdims=True))
    nll = -log_probs[np.arange(200), ids[1:]].mean()
    assert nll == pytest.approx(0.47341766, abs=1e-6)


def floats(rng, *shape) -> np.ndarray:
    return rng.normal(size=shape).astype("<f4")


def tensors(header=HEADER) -> dict[str, np.ndarray]:
    """All tensors by their names in llama2.c, in the order of version 0."""
    width, mlp, layers, heads, kv_heads, vocab, _ = header
    rng = np.random.default_rng(0)
    kv = width // heads * kv_heads
    return {
        "embedding": floats(rng, abs(vocab), width),
        "attention_norm": floats(rng, layers, width),
        "wq": floats(rng, layers, width, width),
        "wk": floats(rng, layers, kv, width),
        "wv": floats(rng, layers, kv, width),
        "wo": floats(rng, layers, width, width),
        "mlp_norm": floats(rng, layers, width),
        "w1": floats(rng, layers, mlp, width),
        "w2": floats(rng, layers, width, mlp),
        "w3": floats(rng, layers, mlp, width),
        "final_norm": floats(rng, width),
    }


def version_0(header=HEADER) -> bytes:
    content = struct.pack("<7i", *header)
    content += b"".join(value.tobytes() for value in tensors(header).values())
    content += np.zeros(header[6] * header[0] // header[3], "<f4").tobytes()
    if header[5] < 0:
        content += floats(np.random.default_rng(1), -header[5], header[0]).tobytes()
    return content


def quantised(value: np.ndarray, group: int) -> tuple[np.ndarray, np.ndarray]:
    """int8 and the scales of llama2.c's export."""
    groups = value.reshape(-1, group)
    scale = np.abs(groups).max(1) / 127
    return np.round(groups / scale[:, None]).astype(np.int8), scale.astype("<f4")


def version_2(group=8) -> tuple[bytes, dict[str, np.ndarray]]:
    """A file, and the tensors as they are after the loss of precision."""
    content = struct.pack("<Ii7iBi", 0x616B3432, 2, *HEADER, 1, group).ljust(256, b"\0")
    values = tensors()
    for name in ("attention_norm", "mlp_norm", "final_norm"):
        content += values[name].tobytes()
    for name in ("embedding", "wq", "wk", "wv", "wo", "w1", "w2", "w3"):
        stack = values[name][None] if name == "embedding" else values[name]
        kept = []
        for layer in stack:
            numbers, scales = quantised(layer, group)
            content += numbers.tobytes() + scales.tobytes()
            kept.append((numbers * scales[:, None]).reshape(layer.shape))
        values[name] = kept[0] if name == "embedding" else np.stack(kept)
    return content, values


def turned(rows: np.ndarray, heads: int) -> np.ndarray:
    """[L, heads * H, in] stored as pairs (2i, 2i+1) to [L, in, heads, H] as two halves."""
    layers, out, width = rows.shape
    pairs = rows.reshape(layers, heads, out // heads // 2, 2, width)
    return np.moveaxis(np.moveaxis(pairs, 3, 2).reshape(layers, heads, -1, width), 3, 1)


def check(params, values):
    layers = jax.device_get(params["layers"])
    found = {
        "embedding": params["embedding"],
        "final_norm": params["final_norm"],
        "attention_norm": layers["attention_norm"],
        "mlp_norm": layers["mlp_norm"],
        "w1": layers["gate"].swapaxes(1, 2),
        "w2": layers["down"].swapaxes(1, 2),
        "w3": layers["up"].swapaxes(1, 2),
        "wo": layers["attention_out"].reshape(2, 16, 16).swapaxes(1, 2),
        "wv": layers["value"].reshape(2, 16, 8).swapaxes(1, 2),
    }
    for name, value in found.items():
        np.testing.assert_array_equal(value, values[name], name)
    query = turned(values["wq"], 4).reshape(2, 16, 2, 2, 4)
    np.testing.assert_array_equal(layers["query"], query)
    np.testing.assert_array_equal(layers["key"], turned(values["wk"], 2))


def test_version_0(tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(version_0())
    source = pretrained.open(path)
    cfg = source.model_config()
    assert (cfg.width, cfg.mlp_dim, cfg.num_layers, cfg.num_heads, cfg.num_kv_heads) == HEADER[:5]
    assert (cfg.vocab_size, cfg.head_dim, cfg.tied, cfg.norm_eps) == (40, 4, True, 1e-5)
    check(source.load(cfg), tensors())
    own_output = (*HEADER[:5], -40, 32)
    path.write_bytes(version_0(own_output))
    source = pretrained.open(path)
    cfg = source.model_config()
    assert not cfg.tied
    params = source.load(cfg)
    check(params, tensors())
    wanted = floats(np.random.default_rng(1), 40, 16)
    np.testing.assert_array_equal(params["unembedding"].T, wanted)


def test_version_2(tmp_path):
    content, values = version_2()
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    source = pretrained.open(path)
    check(source.load(source.model_config()), values)


@pytest.mark.parametrize(
    "content, problem",
    [
        (version_0()[:-1], "bytes, but by its header a llama2.c file has"),
        (version_0() + b"\0", "bytes, but by its header a llama2.c file has"),
        (version_0()[:28], "bytes, but by its header a llama2.c file has"),
        (version_0()[:20], "no known model"),
        (struct.pack("<7i", 16, 24, 2, 3, 2, 40, 32), "no known model"),
        (struct.pack("<7i", 16, 24, 2**30, 4, 2, 40, 32), "no known model"),
        (version_2()[0][:-4], "bytes, but by its header a llama2.c file has"),
        (struct.pack("<Ii", 0x616B3432, 1) + bytes(300), "version 1"),
        (struct.pack("<Ii7iBi", 0x616B3432, 2, *HEADER, 1, 7) + bytes(300), "damaged"),
        (struct.pack("<Ii7iBi", 0x616B3432, 2, *HEADER, 1, 0) + bytes(300), "damaged"),
    ],
)
def test_what_is_refused(content, problem, tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    with pytest.raises(UserError, match=problem) as error:
        pretrained.open(path)
    assert str(path) in str(error.value) and str(error.value).endswith(".")
