"""What the report draws of policy gradients."""

from __future__ import annotations

from reasoning_jax.charts import Chart, Curve

CHARTS = (
    Chart(
        title="Groups and clipping",
        note="groups whose samples all earn the same; tokens of an update",
        curves=(
            Curve("collect", "collect/zero_spread", "zero spread"),
            Curve("update", "update/clip_fraction", "clipped"),
        ),
        fraction=True,
    ),
    Chart(
        title="Largest ratio",
        note="of the policy to the one that drew the samples",
        curves=(Curve("update", "update/ratio_max", "largest ratio"),),
        log=True,
    ),
    Chart(
        title="KL divergence from the base model",
        note="a token, mean over samples",
        curves=(Curve("update", "update/kl", "KL"),),
    ),
)
