"""What methods do otherwise than their papers, by their settings."""

from __future__ import annotations

from mllmu.preflight.doctor.verdict import Verdict, listed
from mllmu.unlearning.base import Method

DEVIATIONS: dict[tuple[str, str], str] = {
    ("reduction", "token_mean"): "log p is the mean of all tokens of a batch, not the sum of each reply",
    ("reduction", "batchmean"): "the divergence is summed over positions",
    ("reference", "retain_model"): "the reference has never seen the forget set",
    ("schedule", "two_phase"): "forget and retain are not trained in the same step",
}
"""Settings of published code, and how they differ from the papers."""


def deviations(name: str, method: Method) -> Verdict | None:
    """A note for each method that is set otherwise than its paper says; None for those as in their paper.

    ``loss_on``, ``train_end`` and ``layers`` are seen in the labels and adapters themselves, which have checks.
    """
    if not method.trains:
        return None
    found = []
    for (field, value), text in DEVIATIONS.items():
        default = type(method).model_fields[field].default if field in type(method).model_fields else value
        if default != value and getattr(method, field) == value:
            found.append(f"{field}: {value} ({text})")
    return Verdict(f"loss of {name}", "note", f"deviation from the paper: {listed(found)}") if found else None
