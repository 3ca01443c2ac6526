"""What the report draws of TRICE."""

from __future__ import annotations

from reasoning_jax.charts import Chart, Curve

CHARTS = (
    Chart(
        title="Chains",
        note="accepted: of a round's proposals; valid: of its chains; expired: of all",
        curves=(
            Curve("collect", "collect/accepted", "accepted"),
            Curve("collect", "collect/valid", "valid"),
            Curve("collect", "collect/expired", "expired"),
        ),
        fraction=True,
    ),
    Chart(
        title="Age of the chains",
        note="visits since the last acceptance",
        curves=(
            Curve("collect", "collect/age_mean", "mean"),
            Curve("collect", "collect/age_max", "max"),
        ),
    ),
    Chart(
        title="Distinct rationales accepted",
        note="so far",
        curves=(Curve("collect", "collect/distinct", "distinct"),),
    ),
    Chart(
        title="Gradient variance",
        note="of the estimators on one batch",
        curves=(
            Curve("collect", "collect/variance_basic", "basic"),
            Curve("collect", "collect/variance_paper", "paper"),
            Curve("collect", "collect/variance_ours", "ours"),
        ),
        log=True,
    ),
    Chart(
        title="Coefficient of the control variate",
        curves=(Curve("collect", "collect/beta", "mean β"),),
    ),
)
