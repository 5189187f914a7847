"""MMMU, validation: college-level questions about images, multiple choice and open."""

import ast
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field

from mllmu.core.errors import DataError
from mllmu.core.records import Sample
from mllmu.data.published.store import Store
from mllmu.evaluation.benchmarks import Asked, Benchmark, Skipped

COLUMNS = ("id", "question", "options", "answer", "question_type")
IMAGES = tuple(f"image_{n}" for n in range(1, 8))
LETTERS = "ABCDEFGHIJ"
_CHOOSE = "Answer with the option's letter from the given choices directly."
_OPEN = "Answer the question using a single word or phrase."


class Mmmu(Benchmark):
    """MMMU: 30 subjects, about 900 questions; asks whether reasoning about images survived.

    The prompt is the one the official evaluation uses for LLaVA: the question, options as '(A) ...', and one line that
    says how to answer. Scored by ``mmmu_accuracy`` (the official reading of replies) and by our strict ``accuracy``.
    Multiple choice stands under the task classification, open questions under cloze. Questions with several images
    cannot be asked of models that take one; they are left out, counted and listed.

    Source: https://github.com/MMMU-Benchmark/MMMU (arXiv:2311.16502), data https://huggingface.co/datasets/MMMU/MMMU.
    """

    source = "https://github.com/MMMU-Benchmark/MMMU"
    label = "MMMU"
    headline = "mmmu_accuracy"
    metrics = ("mmmu_accuracy", "accuracy", "cloze_contains")

    path: Path = Path("MMMU/MMMU")
    subjects: tuple[str, ...] = Field(default=(), description="only these configs, e.g. [Accounting]; empty: all")

    def read(self) -> Iterator[Asked | Skipped]:
        store = Store(self.path, self.revision)
        known = store.configs
        unknown = [subject for subject in self.subjects if subject not in known]
        if unknown or not known:
            raise DataError(
                f"{self.path.as_posix()}: no subject {unknown[0] if unknown else 'at all'}; it has "
                f"{', '.join(known) or 'no parquet folders'}. Expected a copy of MMMU/MMMU, a folder per subject."
            )
        for subject in self.subjects or known:
            table = store.table(subject, "validation")
            table.need((*COLUMNS, IMAGES[0]), "Expected the schema of MMMU/MMMU.")
            places = tuple(name for name in IMAGES if name in table.columns)
            for number, row in enumerate(table.rows(COLUMNS)):
                filled = [name for name in places if table.cell(number, name) is not None]
                made = self._sample(subject, row, filled)
                if isinstance(made, str):
                    yield Skipped(subject, number, str(row["id"]), made)
                else:
                    yield Asked(made, partial(table.image, number, filled[0]))

    def _sample(self, subject: str, row: dict[str, Any], images: list[str]) -> Sample | str:
        """The sample of a row, or why it cannot be asked."""
        if len(images) != 1:
            return f"it has {len(images)} images, and a model is shown one"
        values, truths = _listed(row["options"]), _listed(row["answer"]) or [str(row["answer"])]
        choice = row["question_type"] == "multiple-choice"
        options = dict(zip(LETTERS, values, strict=False)) if choice else {}
        if choice and (len(options) < 2 or row["answer"] not in options):
            return f"the answer {str(row['answer'])[:80]!r} is none of its {len(values)} options"
        if any("<image" in value for value in options.values()):
            return "an option is an image"
        return self.sample(
            str(row["id"]),
            task="classification" if choice else "cloze",
            attribute=subject,
            prompt=prompt(str(row["question"]), options),
            target=str(row["answer"]) if choice else truths[0],
            value=options[row["answer"]] if choice else truths[0],
            options=options,
            candidates={x: x for x in options} if choice else {f"right_{n}": text for n, text in enumerate(truths)},
        )


def prompt(question: str, options: dict[str, str]) -> str:
    """The user turn.

    >>> print(prompt("Which is it?", {"A": "red", "B": "blue"}))
    Which is it?
    <BLANKLINE>
    (A) red
    (B) blue
    <BLANKLINE>
    Answer with the option's letter from the given choices directly.
    """
    if not options:
        return f"{question}\n\n{_OPEN}"
    lines = "\n".join(f"({letter}) {text}" for letter, text in options.items())
    return f"{question}\n\n{lines}\n\n{_CHOOSE}"


def _listed(cell: Any) -> list[str]:
    """A cell that holds a list, or the text of a Python list; empty if it is neither."""
    if isinstance(cell, str) and cell.startswith("["):
        try:
            cell = ast.literal_eval(cell)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return []
    return [str(item) for item in cell] if isinstance(cell, list) else []
