"""Which kinds of facts stay known?"""

from collections.abc import Iterable, Sequence

from mllmu.evaluation.summaries import RowKey, ScoredRun, Summariser, Summary, TableSpec, mean


class ByAttribute(Summariser):
    """Share of right replies for every attribute: does the salary leak more than the place of birth?

    All tasks together; on the forgotten people the retain_model's row says how much of it is guessing.
    """

    source = "https://arxiv.org/abs/2410.22108"
    needs = ("right",)
    range = (0.0, 1.0)

    def summarise(self, run: ScoredRun) -> list[Summary]:
        return [
            self.row(model, mean([*right.values()]), detail=name, split=split, modality=modality, num=len(right))
            for (model, _, name, split, modality), right in self.behind(run).items()
        ]

    def behind(self, run: ScoredRun) -> dict[RowKey, dict[str, float]]:
        """Right or not by sample id, by row."""
        rows: dict[RowKey, dict[str, float]] = {}
        for model in run.models:
            for split, modality in run.cells():
                by: dict[str, dict[str, float]] = {}
                for sample_id, value in run.judged(model, "right", split=split, modality=modality).items():
                    by.setdefault(run.samples[sample_id].attribute, {})[sample_id] = value
                rows |= {(model, self.name, name, split, modality): by[name] for name in sorted(by)}
        return rows

    def tables(self, rows: Sequence[Summary]) -> Iterable[TableSpec]:
        kinds = sorted({row.detail for row in rows if row.summary == self.name and row.split == "forget"})
        yield TableSpec(
            title="Which facts stay known",
            intro="Right replies about the forgotten people by kind of fact, in %, all tasks together. The "
            "retain_model's row is what guessing gives; a kind of fact that stays above it leaks.",
            columns=tuple(
                self.column(kind.removeprefix("fact_").replace("_", " "), detail=kind, split="forget", show="percent")
                for kind in kinds
            ),
            order=40,
            by_modality=True,
        )
