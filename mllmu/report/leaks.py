"""What still leaks: by person, and word for word, where a model says what the retain_model does not know."""

from mllmu.core.declared import MODALITY_LABELS
from mllmu.report.inputs import ReportInput
from mllmu.report.numbers import Numbers
from mllmu.report.printing import DASH
from mllmu.report.table import ReportCell, ReportColumn, ReportRow, ReportTable, shade_of

MOST_MODELS = 8
_HOW = {"image_text": "with the image", "text": "by name"}


def leak_tables(report: ReportInput, numbers: Numbers) -> list[ReportTable]:
    """How many questions about each person are answered rightly, by model; empty if that is not known."""
    known = [row for row in numbers.models if row.name in report.told]
    yardsticks = [row for row in known if row.role != "unlearned"]
    models = [*yardsticks, *(row for row in known if row.role == "unlearned")][:MOST_MODELS]
    people = list(dict.fromkeys(person for row in models for person in report.told[row.name]))
    if not models or not people:
        return []
    rows = []
    retain_model = next((row.name for row in models if row.role == "retain_model"), "")
    for person in people:
        guessed, _ = report.told.get(retain_model, {}).get(person, (0, 0))
        cells = []
        for row in models:
            told, asked = report.told[row.name].get(person, (0, 0))
            over = max(0, told - guessed) / asked if asked else None
            shade = shade_of(1 - over) if over is not None and row.role == "unlearned" else None
            cells.append(ReportCell(f"{told} of {asked}" if asked else DASH, shade=shade))
        rows.append(ReportRow(report.names.get(person, person), tuple(cells)))
    columns = tuple(ReportColumn(row.name) for row in models)
    reworded = ", in the trained wording and reworded" if numbers.asked("test") else ""
    how = " and ".join(_HOW[modality] for modality in numbers.modalities)
    shaded = (
        "What the retain_model gets right is guessing; the shade is about what lies above it."
        if retain_model
        else "There is no retain_model to say how much of it is guessing; the shade is about all of it."
    )
    intro = f"Right replies of all questions on a person to forget{reworded}, {how}. {shaded}"
    return [ReportTable(columns, tuple(rows), "By person", intro=intro, first="person", css="leaks")]


def told_table(report: ReportInput, model: str) -> ReportTable | None:
    """What one model still says that the retain_model does not know, word for word."""
    facts = report.leaks.get(model, ())
    if not facts:
        return None
    heads = (ReportColumn("how", words=True), ReportColumn("question", words=True), ReportColumn("true", words=True),
             ReportColumn("reply", words=True))  # fmt: skip
    rows = tuple(
        ReportRow(
            report.names.get(fact.person, fact.person),
            tuple(
                map(
                    ReportCell,
                    (f"{fact.task}, {MODALITY_LABELS[fact.modality]}", fact.question, fact.truth, fact.reply),
                )
            ),
        )
        for fact in facts
    )
    title = f"Word for word: what {model} still says"
    return ReportTable(heads, rows, title, first="person", css="words", folded=len(rows) > 6)
