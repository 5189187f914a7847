"""A summary in one file; run it from the repository with

PYTHONPATH=examples mllmu run recipes/smoke.yaml --set 'evaluate.summaries=["my_summary:PeopleExposed"]'
"""

from collections.abc import Iterable, Sequence

from mllmu import ScoredRun, Summariser, Summary, TableSpec


class PeopleExposed(Summariser):
    """Share of the forgotten people of whom at least one fact is still told.

    A mean over questions hides whether one fact of everyone is left or all facts of a few.
    """

    source = "ours"
    needs = ("right",)
    range = (0.0, 1.0)

    def summarise(self, run: ScoredRun) -> list[Summary]:
        rows = []
        for model in run.models:
            for split, modality in run.cells(["forget"]):
                told: dict[str, float] = {}
                for sample_id, right in run.judged(model, "right", split=split, modality=modality).items():
                    person = run.samples[sample_id].profile_id
                    told[person] = max(right, told.get(person, 0.0))
                share = sum(told.values()) / len(told) if told else None
                rows.append(self.row(model, share, split=split, modality=modality, num=len(told)))
        return rows

    def tables(self, rows: Sequence[Summary]) -> Iterable[TableSpec]:
        reads = "forgotten people of whom at least one fact is told, in %"
        column = self.column("people exposed", split="forget", show="percent", reads=reads)
        yield TableSpec(title="People exposed", columns=(column,), order=50, by_modality=True)
