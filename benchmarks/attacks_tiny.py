"""The methods of the demo under attack: the scores of a finished run as one file, and the tables that follow from it.

mllmu run recipes/attacks.yaml --out RUN
python -m benchmarks.attacks_tiny RUN      # writes benchmarks/attacks_tiny_202611_scores.csv and prints the tables
python -m benchmarks.attacks_tiny          # the tables, from that file alone
"""

from __future__ import annotations

import argparse
import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mllmu.config.load import load
from mllmu.config.recipe import PluginSpec
from mllmu.core.attacked import PLAIN, AttackPoint, AttackRow, WorstCase
from mllmu.core.names import RETAIN_MODEL, TARGET
from mllmu.core.process import SilentProgress
from mllmu.core.runfolder import RunFolder, write_atomic
from mllmu.evaluation.recovery import Attacked, Tries, attack_row, worst_case
from mllmu.evaluation.stats import units_of
from mllmu.pipeline.attacks import AttackStudy, about, asks, attack_jobs
from mllmu.pipeline.run import Run

SCORES = Path(__file__).with_name("attacks_tiny_202611_scores.csv")
HEAD = ("attack", "step", "reads", "question", "unit")
AFTER, BEFORE, REFUSED = "after", "before", "not supported"
SEED = 0
"""That of the recipe; it draws people for the interval of the largest excess."""


class Table(NamedTuple):
    """The file of scores: what every attack got from every model, and the unit of every question."""

    models: list[str]
    units: dict[str, str]
    attacked: dict[tuple[str, str], Attacked]


# --- from a run to the file


def export(root: Path) -> str:
    """The scores of a finished run as CSV: one row per attack, step and question, one column per model."""
    run = Run(load(root / RunFolder.RECIPE), root, SilentProgress())
    study = AttackStudy(run, run.keys[0])
    units, _ = units_of(study.samples)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*HEAD, *run.models])
    for attack in study.jobs:
        found = [study.attacked(attack, model) for model in run.models]
        for step, reads, question, cells in _rows(found):
            writer.writerow([attack, step, reads, question, units.get(question, ""), *cells])
    return text.getvalue()


def _rows(found: Sequence[Attacked]) -> Iterator[tuple[int, str, str, list[str]]]:
    if any(one.reason for one in found):
        yield 0, REFUSED, "", [one.reason for one in found]
    steps = sorted({point.step for one in found for point in one.points})
    for step in steps:
        points = [next((point for point in one.points if point.step == step), None) for one in found]
        for reads in (AFTER, BEFORE):
            values = [{} if p is None else p.values if reads == AFTER else p.before for p in points]
            for question in sorted({name for of_model in values for name in of_model}):
                yield step, reads, question, [f"{v[question]:.4g}" if question in v else "" for v in values]


# --- from the file to the tables


def read(text: str) -> Table:
    """The file of scores."""
    head, *rows = list(csv.reader(io.StringIO(text)))
    models, units = head[len(HEAD) :], dict[str, str]()
    reasons = dict[tuple[str, str], str]()
    values = defaultdict[tuple[str, str, int, str], dict[str, float]](dict)
    for attack, step, reads, question, unit, *cells in rows:
        units |= {question: unit} if question else {}
        for model, cell in zip(models, cells, strict=True):
            if reads == REFUSED:
                reasons[attack, model] = cell
            elif cell:
                values[attack, model, int(step), reads][question] = float(cell)
    found = dict[tuple[str, str], Attacked]()
    for attack in dict.fromkeys(row[0] for row in rows):
        for model in models:
            steps = sorted({key[2] for key in values if key[:2] == (attack, model)})
            points = [
                AttackPoint(
                    step=step,
                    values=values[attack, model, step, AFTER],
                    before=values.get((attack, model, step, BEFORE), {}),
                )
                for step in steps
            ]
            plain = values[PLAIN, model, 0, AFTER]
            found[attack, model] = Attacked(plain, points, reasons.get((attack, model), ""))
    return Table(models, units, found)


def results(table: Table) -> tuple[list[AttackRow], list[WorstCase]]:
    """Rows and worst cases as ``mllmu attack`` computes them."""
    jobs = {job.name: job for job in attack_jobs([PluginSpec(name="all")]) if (job.name, TARGET) in table.attacked}
    rows, worst = [], []
    for model in table.models:
        for name, job in jobs.items():
            own, target, retain = (table.attacked[name, each] for each in (model, TARGET, RETAIN_MODEL))
            rows.append(attack_row(model, {**about(job), "unit": "facts"}, own, target, retain, table.units))
        for access in ("black box", "white box"):
            tries = [
                Tries(name, table.attacked[name, model].after, table.attacked[name, RETAIN_MODEL].after, asks(job))
                for name, job in jobs.items()
                if about(job)["access"] in ("black box", access) and not table.attacked[name, model].reason
                if job.attack is None or job.attack.counts
            ]
            worst.append(worst_case(model, access, tries, table.units, seed=SEED))
    return rows, worst


def tables(text: str) -> str:
    """The tables of the page, in Markdown."""
    table = read(text)
    rows, worst = results(table)
    by_place = {(row.attack, row.model): row for row in rows}
    attacks, methods = list(dict.fromkeys(row.attack for row in rows)), table.models
    curves = [name for name in attacks if by_place[name, TARGET].curve]
    made = [m for m in methods if m not in (TARGET, RETAIN_MODEL)]

    def cells(attack: str, models: Iterable[str], show: str) -> list[str]:
        return [SHOWN[show](by_place[attack, model]) for model in models]

    parts = [
        "**Worst case within the budget**",
        grid(("model", *WORST), [_worst_cells(model, rows, worst) for model in methods]),
        "**Score under every attack, and recovery, in %**",
        grid(("attack", *methods), [[attack, *cells(attack, methods, "after")] for attack in attacks]),
        "**Excess over the retain model, points of 100, with 95 % intervals**",
        grid(("attack", *made), [[attack, *cells(attack, made, "excess")] for attack in attacks]),
        "**Relearning: score in % after so many steps**",
        grid(("attack", *methods), [[attack, *cells(attack, methods, "curve")] for attack in curves]),
    ]
    return "\n\n".join([*parts, *_notes(by_place)]) + "\n"


WORST = (
    "before", "black box: worst attack", "excess", "any black-box attack hits", "excess ",
    "white box: worst attack", "excess  ",
)  # fmt: skip


def _worst_cells(model: str, rows: Sequence[AttackRow], worst: Sequence[WorstCase]) -> list[str]:
    plain = next(row for row in rows if (row.model, row.attack) == (model, PLAIN))
    black, white = (next(w for w in worst if (w.model, w.access) == (model, a)) for a in ("black box", "white box"))
    return [
        model,
        points(plain.after),
        black.attack, interval(black.excess, black.excess_low, black.excess_high),
        points(black.any_hit), interval(black.any_excess, black.any_low, black.any_high),
        white.attack, interval(white.excess, white.excess_low, white.excess_high),
    ]  # fmt: skip


def _after(row: AttackRow) -> str:
    if row.reason:
        return "n. s."
    return points(row.after) + (f" ({points(row.recovery)})" if row.recovery is not None else "")


def _excess(row: AttackRow) -> str:
    return "n. s." if row.reason else interval(row.excess, row.excess_low, row.excess_high)


def _curve(row: AttackRow) -> str:
    return ", ".join(points(point.value) for point in row.curve) if row.curve else "n. s."


SHOWN = {"after": _after, "excess": _excess, "curve": _curve}


def points(value: float | None) -> str:
    """A share in points of 100.

    >>> points(0.256), points(-0.001), points(None)
    ('26', '0', '')
    """
    return "" if value is None else str(round(100 * value))


def interval(value: float | None, low: float | None, high: float | None) -> str:
    """A share with its interval, in points of 100."""
    return points(value) if low is None or high is None else f"{points(value)} ({points(low)} to {points(high)})"


def grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; the first column is text, the others are numbers."""
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "\n".join(f"| {' | '.join(cell.strip() for cell in line)} |" for line in lines)


def _notes(rows: Mapping[tuple[str, str], AttackRow]) -> Iterator[str]:
    reasons = defaultdict[tuple[str, str], list[str]](list)
    for (attack, model), row in rows.items():
        if row.reason:
            reasons[attack, row.reason].append(model)
    lines = [f"- `{attack}` on {', '.join(models)}: {reason}." for (attack, reason), models in reasons.items()]
    if lines:
        yield "\n".join(["n. s.: not supported", "", *lines])


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, help="a finished run of recipes/attacks.yaml")
    run = parser.parse_args(arguments).run
    if run:
        write_atomic(SCORES, export(run))
    elif not SCORES.is_file():
        parser.error(f"{SCORES} is not there yet; name a finished run to make it of")
    print(tables(SCORES.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
