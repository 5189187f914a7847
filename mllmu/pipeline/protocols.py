"""The same models asked under further protocols (``evaluate.compare``): one table of what each deviation does.

A protocol that puts the same prompts as the recipe's own is not asked again, only read in its own way. Replies are
kept in ``protocols/<label>/``; the table is ``report/protocols.md``, and ``report/protocols.csv`` in full.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mllmu.config.protocol import Protocol
from mllmu.core import plugins
from mllmu.core.records import SPLITS, TASKS, MetricResult, TaskName
from mllmu.core.runfolder import write_atomic
from mllmu.evaluation import scoring
from mllmu.pipeline.answers import Answers
from mllmu.pipeline.context import Context
from mllmu.pipeline.models import Models

TABLE, ALL_NUMBERS = "protocols.md", "protocols.csv"
OWN = "this run"
"""Label of the recipe's own protocol."""
_TITLES: dict[TaskName, str] = {"classification": "Accuracy, %", "generation": "ROUGE-L, %", "cloze": "Cloze, %"}


def main_metric(task: TaskName, protocol: Protocol) -> str:
    """The score of a task that a protocol looks at first."""
    letter = "accuracy_first_char" if protocol.parser == "first_char" else "accuracy"
    return {"classification": letter, "generation": "rougeL", "cloze": "cloze_contains"}[task]


class Comparison:
    """The replies of one forget ratio under the recipe's own protocol and the others.

    Args:
        own: the replies under the recipe's own protocol.
    """

    def __init__(self, context: Context, models: Models, own: Answers) -> None:
        evaluate = context.recipe.evaluate
        self.protocols: dict[str, Protocol] = {OWN: evaluate.protocol, **evaluate.compare}
        self.answers: dict[str, Answers] = {OWN: own}
        for label, protocol in evaluate.compare.items():
            changed = evaluate.model_copy(update={"protocol": protocol})
            other = Answers(context, models, own.key, evaluate=changed, place=f"protocols/{label}")
            same = (known for known in self.answers.values() if known.samples == other.samples)
            self.answers[label] = next(same, other)

    def ask(self, names: Sequence[str]) -> None:
        """Ask all models under every protocol."""
        for answers in self.answers.values():
            for place, name in enumerate(names):
                answers.ask(name, twins=names[:place])

    def results(self, names: Sequence[str]) -> dict[str, list[MetricResult]]:
        """The main score of every task, set, modality and model, by protocol."""
        found: dict[str, list[MetricResult]] = {}
        for label, answers in self.answers.items():
            tasks = dict.fromkeys(sample.task for sample in answers.samples)
            metrics = [plugins.build("metrics", main_metric(task, self.protocols[label]), {}) for task in tasks]
            found[label] = []
            for name in names:
                scores = scoring.score_all(answers.samples, answers.replies(name), metrics)
                found[label] += scoring.aggregate(name, answers.samples, scores, metrics)
        return found


def write_comparison(folder: Path, results: Mapping[str, Sequence[MetricResult]]) -> None:
    """Write the table and all its numbers."""
    write_atomic(folder / TABLE, "\n".join(table(results)) + "\n")
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["protocol", *MetricResult.model_fields])
    for label, rows in results.items():
        writer.writerows([[label, *row.model_dump().values()] for row in rows])
    write_atomic(folder / ALL_NUMBERS, buffer.getvalue())


def table(results: Mapping[str, Sequence[MetricResult]]) -> Iterator[str]:
    """One Markdown table per task: protocols down, sets of every model across; with image / by name.

    Behind a value stands how many replies could not be read, as ``(n?)``; they are not in it.
    """
    everything = [row for rows in results.values() for row in rows]
    models = list(dict.fromkeys(row.model for row in everything))
    for task in TASKS:
        splits = [split for split in SPLITS if any((row.split, row.task) == (split, task) for row in everything)]
        columns = [(model, split) for model in models for split in splits]
        if not columns:
            continue
        yield f"### {task.capitalize()} ({_TITLES[task]}; with image / by name)\n"
        yield "| protocol | " + " | ".join(f"{model}: {split}" for model, split in columns) + " |"
        yield "|---" * (len(columns) + 1) + "|"
        for label, rows in results.items():
            cells = [
                [row for row in rows if (row.model, row.split, row.task) == (model, split, task)]
                for model, split in columns
            ]
            yield f"| {label} | " + " | ".join(" / ".join(map(_shown, cell)) or "–" for cell in cells) + " |"
        yield ""


def _shown(row: MetricResult) -> str:
    value = "–" if row.value is None else f"{100 * row.value:.1f}"
    return f"{value} ({row.num_unparsed}?)" if row.num_unparsed else value
