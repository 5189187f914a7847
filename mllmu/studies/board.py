"""Many runs beside each other: setups with their pooled rows, and results as files that others can submit and check.

A submitted result is two files: the raw scores of its runs person by person (CSV), and a JSON file beside it with the
recipe's settings, the seeds, the version of mllmu and the SHA-256 of the scores. Every number of a board is computed
from the scores again, never read from a file.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mllmu.core.content import sha256
from mllmu.core.errors import DataError
from mllmu.core.runfolder import write_json
from mllmu.studies.person_scores import PersonScore, load, not_in_mean, of_tasks, person_scores, save
from mllmu.studies.pool import PairedRow, PooledRow, pool
from mllmu.studies.setups import EvaluatedRun, Setup, evaluated_runs, one_setup, setups, unjudged
from mllmu.version import __version__

FORMAT = 1
"""Of the JSON file of a result."""


class BoardSetup(NamedTuple):
    """One setup of a board.

    Attributes:
        label: what sets it apart; empty if it is the only one.
        runs: its run folders; none for a file of raw scores.
        scores: person by person, of all its runs.
        rows, pairs: what :func:`mllmu.studies.pool.pool` says of them.
        settings: every setting by its dotted key, as text; empty if unknown.
        seeds: of its runs.
        unjudged: methods whose losses are the target's: it takes no system prompt, at least in one of the runs.
    """

    label: str
    runs: tuple[EvaluatedRun, ...]
    scores: list[PersonScore]
    rows: list[PooledRow]
    pairs: list[PairedRow]
    settings: dict[str, str]
    seeds: list[int]
    unjudged: tuple[str, ...] = ()

    @property
    def ratio(self) -> str:
        """The forget ratio of its runs in percent; empty for a file of raw scores, which does not say."""
        return self.runs[0].key if self.runs else ""

    @property
    def note(self) -> str:
        """What its ranks do not say; empty if nothing."""
        names = ", ".join(self.unjudged)
        return f"{names}: the target takes no system prompt, so the loss is the target's, not the method's." * bool(
            names
        )


def pooled_setup(
    paths: Sequence[Path], *, ratio: str | None = None, against: str | None = None, tasks: Sequence[str] = ()
) -> BoardSetup:
    """All runs as one setup; of several forget ratios the smallest.

    Args:
        paths: run folders, grids, or files of raw scores.
        ratio: the forget ratio in percent.
        against: the method that all others are compared with; None: the nearest.
        tasks: the scores of these alone; none: of all.

    Raises:
        DataError: the runs are not of one recipe (names what differs), or a task has no scores.
    """
    files = [path for path in paths if path.is_file()]
    found = evaluated_runs([path for path in paths if not path.is_file()], ratio)
    if found and ratio is None:
        found = [run for run in found if run.key == found[0].key]
    scores = [score for path in files for score in _raw(path)[0]]
    runs = one_setup(found).runs if found else ()
    return _pooled(Setup("", runs), scores, against, tasks)


def board_setups(paths: Sequence[Path], *, ratio: str | None = None, against: str | None = None) -> list[BoardSetup]:
    """Every setup in run folders, grids, files of raw scores and submitted results.

    Raises:
        DataError: a path holds no results, or a submitted result is not what its JSON file says.
    """
    folders = [path for path in paths if not path.is_file()]
    found = [_pooled(setup, [], against) for setup in setups(evaluated_runs(folders, ratio) if folders else [])]
    for path in (path for path in paths if path.is_file()):
        scores, facts = _raw(path)
        setup = _pooled(Setup(facts.get("label") or path.stem, ()), scores, against)
        named = facts.get("unjudged")
        apart = tuple(m for m in _models(setup.rows) if m in named) if isinstance(named, list) else ()
        settings, seeds = facts.get("settings", {}), facts.get("seeds", [])
        found.append(setup._replace(settings=settings, seeds=seeds, unjudged=apart))
    if not found:
        raise DataError("nothing has been evaluated yet.")
    if len(found) > 1:
        names = [setup.label or setup.runs[0].folder.name for setup in found]
        found = [setup._replace(label=name) for setup, name in zip(found, names, strict=True)]
    return found


def save_result(folder: Path, name: str, setup: BoardSetup) -> Path:
    """Write a setup as ``<name>.csv`` and ``<name>.json``; returns the path of the latter."""
    path = folder / f"{name}.csv"
    save(path, setup.scores)
    facts = {
        "format": FORMAT,
        "mllmu": __version__,
        "label": setup.label,
        "scores": path.name,
        "sha256": sha256(path),
        "seeds": setup.seeds,
        "settings": setup.settings,
        **({"unjudged": list(setup.unjudged)} if setup.unjudged else {}),
    }
    write_json(path.with_suffix(".json"), facts)
    return path.with_suffix(".json")


def _pooled(setup: Setup, scores: Iterable[PersonScore], against: str | None, tasks: Sequence[str] = ()) -> BoardSetup:
    raw = [score for run in setup.runs for score in person_scores(run.folder, run.key, run.name)] + list(scores)
    if not tasks and (apart := {task for run in setup.runs for task in not_in_mean(run.folder, run.key)}):
        raw = [score for score in raw if score.task not in apart]  # of all runs, or they would not compare
    raw = of_tasks(raw, tasks) if tasks else raw
    rows, pairs = pool(raw, against=against)
    settings = setup.runs[0].settings if setup.runs else {}
    seeds = [run.seed for run in setup.runs if run.seed is not None]
    prompted = tuple(dict.fromkeys(name for run in setup.runs for name in unjudged(run, _models(rows))))
    return BoardSetup(setup.label, setup.runs, raw, rows, pairs, settings, seeds, prompted)


def _models(rows: Iterable[PooledRow]) -> list[str]:
    return list(dict.fromkeys(row.model for row in rows))


def _raw(path: Path) -> tuple[list[PersonScore], dict[str, Any]]:
    """The scores of a CSV file, or of a submitted result with what its JSON file says."""
    if path.suffix != ".json":
        return load(path), {}
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        scores, expected = path.with_name(Path(facts["scores"]).name), str(facts["sha256"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DataError(
            f"{path}: no result of 'mllmu board' ({error!r}). Expected the JSON file beside a CSV."
        ) from None
    if facts.get("format") != FORMAT:
        raise DataError(f"{path}: format {facts.get('format')!r}; this version of mllmu reads {FORMAT}.")
    if not scores.is_file():
        raise DataError(f"{scores}: missing; {path.name} says that the raw scores are there. Submit both files.")
    if sha256(scores) != expected:
        raise DataError(f"{scores}: not the file that {path.name} was made with (SHA-256). Write both files again.")
    return load(scores), facts
