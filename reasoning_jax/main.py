"""Trains: python -m reasoning_jax.main --config=configs/X.py --workdir=DIR [--config.optim.learning_rate=3e-4 ...]"""

from __future__ import annotations
import sys
from pathlib import Path
from absl import app, flags
from ml_collections import config_flags
_C = config_flags.DEFINE_config_file("config", lock_config=True)
_W = flags.DEFINE_string("workdir", None, "")
def main(_):
    from reasoning_jax import loop
    loop.train(_C.value, Path(_W.value))
if __name__ == "__main__":
    app.run(main)
