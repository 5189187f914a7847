"""Can the model be told from one that never saw the forgotten people?"""

from collections.abc import Iterable, Sequence

from mllmu.evaluation.stats import js_distance, ks_distance, ks_p_value
from mllmu.evaluation.summaries import FORGOTTEN, ScoredRun, Summariser, Summary, TableSpec


class ForgetQuality(Summariser):
    """Distribution of truth ratios against the retain_model's, on forget and test: KS and JS distance, p-value.

    ks = sup |F - G|;  js: histograms of R / (1 + R), 20 bins from 0 to 1, base 2
    p_value: of the two-sample KS test, as TOFU's forget quality

    Both distances are in [0, 1], 0 = not to be told apart. The p-value falls with the number of questions, so it only
    compares models that were asked the same ones, and questions about one person are not independent as it assumes.
    """

    source = "https://arxiv.org/abs/2401.06121"
    needs = ("truth_ratio",)

    def no_interval(self, detail: str) -> str:
        return "no interval: " + ("a p-value is no estimate" if detail == "p_value" else "luck only adds to a distance")

    def summarise(self, run: ScoredRun) -> list[Summary]:
        rows = []
        for model, split, modality, ours, theirs in run.truth_ratios(FORGOTTEN):
            # a ratio has no upper end; so squeezed, all models are counted in the same bins
            squeezed = [[value / (1 + value) for value in values] for values in (ours, theirs)]
            numbers = {
                "ks": ks_distance(ours, theirs),
                "js": js_distance(*squeezed),
                "p_value": ks_p_value(ours, theirs),
            }
            rows += self.rows(model, numbers, split=split, modality=modality, num=len(ours))
        return rows

    def tables(self, rows: Sequence[Summary]) -> Iterable[TableSpec]:
        p = (
            "probability of truth ratios at least as different from the retain_model's by chance; below 0.05 the two "
            "can be told apart. It falls with the number of questions"
        )
        ks = "distance of the truth ratios on {} from the retain_model's, 0 to 1 (Kolmogorov-Smirnov)"
        js = "the same on forget by histograms (Jensen-Shannon, base 2)"
        of_p = {"detail": "p_value", "show": "p_value", "good": "none"}
        return self.overview(
            11,
            self.column("forget quality p", split="forget", reads=p, **of_p),
            *(self.column(f"KS {split}", detail="ks", split=split, reads=ks.format(split)) for split in FORGOTTEN),
            self.column("JS forget", detail="js", split="forget", reads=js),
        )
