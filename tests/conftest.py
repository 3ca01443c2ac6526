"""What every test shares: eight fake CPU devices, a compilation cache, the folder of real data."""

from __future__ import annotations

import os
import pathlib
import time

import compiling
import pytest
import shapes

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Before anything imports jax: it reads these once.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
compiling.set_environment()

shapes.install()  # before anything imports the package


@pytest.fixture(scope="session")
def data_dir() -> pathlib.Path:
    """The folder of real data: $REASONING_DATA, else ../shared/data; skips where there is none."""
    path = pathlib.Path(os.environ.get("REASONING_DATA") or ROOT.parent / "shared" / "data")
    if not path.is_dir():
        pytest.skip(f"there is no real data at {path} (set REASONING_DATA)")
    return path


@pytest.fixture(scope="module", autouse=True)
def nothing_left():
    """Each file of tests ends without a mesh and without its programs.

    ``experiment.make`` sets a mesh for the process; thousands of programs take gigabytes.
    """
    yield
    import jax

    if not jax.sharding.get_abstract_mesh().empty:
        jax.set_mesh(None)
    jax.clear_caches()


@pytest.fixture(scope="module")
def one_device():
    """Runs on the first of the eight devices: for tests that are not about several."""
    import jax

    from reasoning_jax import experiment

    make = experiment.make
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            experiment, "make", lambda cfg, devices=None: make(cfg, devices or jax.devices()[:1])
        )
        yield


@pytest.fixture(scope="module")
def optimised():
    """Compiles as users do: for tests about what a compiler makes of a program."""
    import jax

    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def tpu_compiler(optimised):
    """Skips where TPU's compiler is absent; the mesh of what was compiled is unset afterwards."""
    reason = 'libtpu is not installed (pip install "jax[tpu]"): nothing is compiled for TPU'
    pytest.importorskip("libtpu", reason=reason)
    from reasoning_jax import plan

    plan.environment()
    import jax

    yield
    jax.set_mesh(None)


@pytest.fixture
def case(tmp_path):
    """Writes a folder of a published family: case(name, **changes of config.json) -> its path."""
    from golden import make_models

    def write(name: str, **changes) -> pathlib.Path:
        make_models.write(name, tmp_path / name)
        make_models.edit(tmp_path / name, **changes)
        return tmp_path / name

    return write


@pytest.fixture(scope="session")
def tiny():
    """(ModelConfig, float32 parameters) of a model with grouped heads, two layers, a tied output.

    Made by numpy, as compiling ``decoder.init`` takes seconds; the scales of norms are random, so
    that they matter.
    """
    from reasoning_jax.model import decoder

    cfg = decoder.ModelConfig(
        vocab_size=20,
        width=16,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        mlp_dim=32,
    )
    return cfg, random_params(cfg)


def random_params(cfg, seed: int = 0):
    """Parameters with the shapes of ``decoder.init``."""
    import jax
    import numpy as np

    from reasoning_jax.model import decoder

    rng = np.random.default_rng(seed)

    def leaf(path, x):
        if path[-1].key.endswith("norm"):
            return (rng.uniform(0.5, 1.5, x.shape) - cfg.norm_offset).astype(np.float32)
        return (rng.normal(size=x.shape) * cfg.width**-0.5).astype(np.float32)

    shapes = jax.eval_shape(lambda k: decoder.init(k, cfg), jax.random.key(0))
    return jax.tree.map(jax.numpy.asarray, jax.tree_util.tree_map_with_path(leaf, shapes))


def hidden_states(params, tokens, positions, segment_ids, cfg):
    """The decoder's hidden states [B, S, D] of a packed batch [B, S]."""
    import jax.numpy as jnp

    from reasoning_jax.model import decoder
    from reasoning_jax.model.attention import CausalMask

    tokens, positions, segment_ids = (jnp.asarray(x) for x in (tokens, positions, segment_ids))
    inputs = decoder.embed(params, tokens, cfg)
    return decoder.apply(params, inputs, positions, CausalMask(segment_ids), cfg=cfg)


def wait_for(condition, seconds: float = 60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def short(tmp_path):
    """A folder of short prompts for all systems."""
    import speaking

    speaking.write_short(tmp_path)
    return str(tmp_path)
