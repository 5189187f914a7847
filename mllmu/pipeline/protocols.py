"""The same models asked under further protocols (``evaluate.compare``): one table of what each deviation does.

A protocol that puts the same prompts as the recipe's own is not asked again, only read in its own way. Replies are
kept in ``protocols/<label>/``; the table is ``report/protocols.md``, and ``report/protocols.csv`` in full.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mllmu.config.protocol import Protocol
from mllmu.core import plugins
from mllmu.core.declared import MODALITY_LABELS
from mllmu.core.describe import markdown_table
from mllmu.core.records import MODALITIES, TASKS, MetricResult
from mllmu.core.runfolder import RunFolder, write_atomic
from mllmu.evaluation import scoring
from mllmu.pipeline.evaluate import Evaluation
from mllmu.report.printing import DASH, csv_of, show
from mllmu.report.table import ReportTable
from mllmu.report.tables import plain_table

TABLE, ALL_NUMBERS = "protocols.md", "protocols.csv"
OWN = "this run"
"""Label of the recipe's own protocol."""


class ProtocolComparison:
    """The evaluations of one forget ratio under the recipe's own protocol and the others.

    Args:
        own: the evaluation under the recipe's own protocol.
    """

    def __init__(self, own: Evaluation) -> None:
        settings = own.run.recipe.evaluate
        self.protocols: dict[str, Protocol] = {OWN: settings.protocol, **settings.compare}
        self.evaluations: dict[str, Evaluation] = {OWN: own}
        for label, protocol in settings.compare.items():
            changed, name = settings.model_copy(update={"protocol": protocol}), RunFolder.evaluation(own.key, label)
            self.evaluations[label] = Evaluation(own.run, own.key, name=name, settings=changed, keep=own.keep)

    def ask(self, models: Sequence[str]) -> None:
        """Ask all models under every protocol; equal prompts are put once."""
        own, *others = self.evaluations
        asked = [self.evaluations[own]]
        for label in others:
            evaluation = self.evaluations[label]
            samples = evaluation.render()
            same = next((one for one in asked if one.samples == samples), None)
            if same is None:
                evaluation.prepare(samples)
                asked.append(evaluation)
            else:
                self.evaluations[label] = same
        for evaluation in asked:
            evaluation.ask_all(models)

    def results(self, models: Sequence[str]) -> dict[str, list[MetricResult]]:
        """The headline score of every task, set, modality and model, by protocol."""
        results: dict[str, list[MetricResult]] = {}
        for label, evaluation in self.evaluations.items():
            tasks = dict.fromkeys(sample.task for sample in evaluation.samples)
            headlines = (plugins.find("tasks", task).headline(self.protocols[label].parser) for task in tasks)
            metrics = [plugins.build("metrics", name, {}) for name in headlines]
            results[label] = []
            for model in models:
                scores = scoring.score_all(evaluation.samples, evaluation.responses(model), metrics)
                results[label] += scoring.aggregate(model, evaluation.samples, scores, metrics)
        return results


def write_comparison(folder: Path, results: Mapping[str, Sequence[MetricResult]]) -> None:
    """Write the tables as Markdown and all their numbers as CSV."""
    write_atomic(folder / TABLE, "\n".join(map(markdown, comparison_tables(results))))
    rows = ({"protocol": label, **row.model_dump()} for label, of_protocol in results.items() for row in of_protocol)
    write_atomic(folder / ALL_NUMBERS, csv_of(("protocol", *MetricResult.model_fields), rows))


def comparison_tables(results: Mapping[str, Sequence[MetricResult]]) -> Iterator[ReportTable]:
    """One table per task: protocols down, sets of every model across, the modalities side by side.

    ``(n?)`` after a value: n replies could not be read; they are not in the mean.
    """
    asked = " / ".join(MODALITY_LABELS[modality] for modality in MODALITIES)
    for name in scoring.ordered((row.task for rows in results.values() for row in rows), TASKS):
        cells: dict[str, dict[str, list[str]]] = {label: {} for label in results}
        for label, rows in results.items():
            for row in (row for row in rows if row.task == name):
                unread = f" ({row.num_unparsed}?)" if row.num_unparsed else ""
                cells[label].setdefault(f"{row.model}: {row.split}", []).append(show(row.value) + unread)
        heads = list(dict.fromkeys(head for texts in cells.values() for head in texts))
        lines = ((label, *(" / ".join(texts.get(head, [DASH])) for head in heads)) for label, texts in cells.items())
        task = plugins.find("tasks", name)
        metric = plugins.find("metrics", task.headline()).label
        yield plain_table(("protocol", *heads), *lines, title=f"{task.label} ({metric}, %; {asked})")


def markdown(table: ReportTable) -> str:
    """A table of texts in Markdown, below its title."""
    heads = (table.first, *(column.head for column in table.columns))
    rows = ((row.name, *(cell.text for cell in row.cells)) for row in table.rows)
    return f"### {table.title}\n\n{markdown_table(heads, rows)}"
