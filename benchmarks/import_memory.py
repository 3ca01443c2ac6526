"""How much memory and time it takes to read a large published model.

    python benchmarks/import_memory.py [--gigabytes=4] [--folder=/tmp/import_memory]

Writes random bfloat16 weights of a Llama as a Hugging Face folder of several files, reads it in a
fresh process onto one device, and prints the peak of that process's memory (ru_maxrss), the bytes
stored, the speed of reading, and the speed at which plain reads give the same bytes. The page cache
is dropped before each, where this process may. Aim: a peak below 1.5 times what is stored + 1 GiB.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

GIB = 2**30
HIDDEN, MLP, HEADS, KV_HEADS, VOCAB = 2048, 8192, 32, 8, 32_000
LAYERS_A_FILE = 8


def config(layers: int) -> dict:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": MLP,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "tie_word_embeddings": True,
    }


def layer_shapes() -> dict[str, tuple[int, ...]]:
    kv = HIDDEN // HEADS * KV_HEADS
    return {
        "input_layernorm": (HIDDEN,),
        "post_attention_layernorm": (HIDDEN,),
        "self_attn.q_proj": (HIDDEN, HIDDEN),
        "self_attn.k_proj": (kv, HIDDEN),
        "self_attn.v_proj": (kv, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HIDDEN),
        "mlp.gate_proj": (MLP, HIDDEN),
        "mlp.up_proj": (MLP, HIDDEN),
        "mlp.down_proj": (HIDDEN, MLP),
    }


def write(folder: Path, gigabytes: float) -> int:
    """Writes the folder and returns the bytes of its tensors."""
    import ml_dtypes
    import numpy as np
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)

    def random(shape: tuple[int, ...]) -> np.ndarray:
        bits = rng.integers(0x3C00, 0x3F00, int(np.prod(shape)), np.uint16)
        return bits.view(ml_dtypes.bfloat16).reshape(shape)

    layer_bytes = sum(2 * int(np.prod(shape)) for shape in layer_shapes().values())
    layers = max(1, round((gigabytes * 1e9 - 2 * VOCAB * HIDDEN) / layer_bytes))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config(layers)))
    where: dict[str, str] = {}
    total = 0

    def save(named: dict, file: str) -> int:
        save_file(named, folder / file)
        where.update(dict.fromkeys(named, file))
        return sum(value.nbytes for value in named.values())

    outer = {"model.embed_tokens.weight": (VOCAB, HIDDEN), "model.norm.weight": (HIDDEN,)}
    total += save({name: random(shape) for name, shape in outer.items()}, "part-0.safetensors")
    for start in range(0, layers, LAYERS_A_FILE):
        named = {}
        for n in range(start, min(start + LAYERS_A_FILE, layers)):
            for name, shape in layer_shapes().items():
                named[f"model.layers.{n}.{name}.weight"] = random(shape)
        total += save(named, f"part-{start + 1}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    os.sync()
    return total


def drop_cache(folder: Path) -> bool:
    """Whether the kernel forgot the files, or was told to."""
    for path in folder.glob("*.safetensors"):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        return False
    return True


def plain_reads(folder: Path) -> float:
    """Seconds that reading all files takes."""
    start = time.perf_counter()
    buffer = bytearray(1 << 24)
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return time.perf_counter() - start


def load(folder: Path) -> None:
    """In a process of its own: prints its peak memory before and after, and the seconds."""
    import jax

    from reasoning_jax import pretrained

    jax.devices()
    source = pretrained.open(folder)
    cfg = source.model_config(dtype="bfloat16")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    start = time.perf_counter()
    params = jax.block_until_ready(source.load(cfg))
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    count = sum(x.nbytes for x in jax.tree.leaves(params))
    print(json.dumps({"before": before, "peak": peak, "seconds": seconds, "bytes": count}))


def run(folder: Path, *flags: str) -> str:
    """The last line that this script prints in a process of its own."""
    command = [sys.executable, __file__, f"--folder={folder}", *flags]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.splitlines()[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/import_memory"))
    parser.add_argument("--load", action="store_true", help="only reads the folder")
    parser.add_argument("--write", action="store_true", help="only writes the folder")
    parser.add_argument("--keep", action="store_true", help="does not delete the folder")
    options = parser.parse_args()
    if options.load:
        load(options.folder)
        return
    if options.write:
        print(write(options.folder, options.gigabytes))
        return
    try:
        # Each in a process of its own: Linux counts the memory of the one that starts another.
        total = int(run(options.folder, "--write", f"--gigabytes={options.gigabytes}"))
        dropped = drop_cache(options.folder)
        disk_seconds = plain_reads(options.folder)
        drop_cache(options.folder)
        found = json.loads(run(options.folder, "--load"))
    finally:
        if not options.keep:
            shutil.rmtree(options.folder, ignore_errors=True)
    assert found["bytes"] == total
    print(f"stored          {total / GIB:8.2f} GiB")
    print(f"peak memory     {found['peak'] / GIB:8.2f} GiB")
    print(f"  of which before any tensor was read {found['before'] / GIB:.2f} GiB")
    print(f"aim             {1.5 * total / GIB + 1:8.2f} GiB")
    print(f"read            {total / found['seconds'] / 1e6:8.0f} MB/s")
    print(f"plain reads     {total / disk_seconds / 1e6:8.0f} MB/s")
    print(f"cache dropped   {'by the kernel' if dropped else 'by advice alone'}")


if __name__ == "__main__":
    main()
