"""Can the model be told from one that never saw the forgotten people?"""

from __future__ import annotations

from typing import ClassVar

from mllmu.core.records import Summary
from mllmu.evaluation.stats import js_distance, ks_distance, ks_p_value
from mllmu.evaluation.summaries import ScoredRun, Summariser


class ForgetQuality(Summariser):
    """Distribution of truth ratios against the retain_model's, on forget and test: KS and JS distance, p-value.

    ks = sup |F - G|;  js: histograms of R, base 2;  p_value: of the two-sample KS test, as TOFU's forget quality
    Both distances are in [0, 1], 0 = not to be told apart. The p-value falls with the number of questions, so it only
    compares models that were asked the same ones, and questions about one person are not independent as it assumes.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2401.06121"
    needs: ClassVar[tuple[str, ...]] = ("truth_ratio",)

    def no_interval(self, detail: str) -> str:
        return "no interval: " + ("a p-value is no estimate" if detail == "p_value" else "luck only adds to a distance")

    def summarise(self, everything: ScoredRun) -> list[Summary]:
        rows = []
        for model in everything.models:
            for split, modality in everything.places():
                if split not in ("forget", "test"):
                    continue
                ours, theirs = (
                    list(
                        everything.judged(m, "truth_ratio", split=split, modality=modality, task="generation").values()
                    )
                    for m in (model, everything.retain_model)
                )
                if not ours or not theirs:
                    continue
                # a ratio has no upper end, and one huge value would leave a histogram with two bins
                squeezed = [[value / (1 + value) for value in values] for values in (ours, theirs)]
                numbers = {
                    "ks": ks_distance(ours, theirs),
                    "js": js_distance(*squeezed),
                    "p_value": ks_p_value(ours, theirs),
                }
                rows += [
                    self.row(model, value, detail=detail, split=split, modality=modality, num=len(ours))
                    for detail, value in numbers.items()
                ]
        return rows


PLUGIN = ForgetQuality
