"""What the explorer answers to each address: pages, images and JSON. It knows nothing of sockets, and writes nothing.

A run has its own addresses under ``run/<number>/``; where there are several runs, the first page is their board.
"""

from __future__ import annotations

import json
import math
import mimetypes
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from http import HTTPStatus
from importlib import resources
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote

from mllmu.core.declared import MODALITY_LABELS, Declared
from mllmu.core.errors import DataError, MllmuError, did_you_mean
from mllmu.core.runfolder import RunFolder, read_json
from mllmu.data.files import shown_image
from mllmu.data.tasks import OUTCOMES
from mllmu.explorer.details import question_detail
from mllmu.explorer.questions import (
    FIELDS,
    Condition,
    Contrast,
    QuestionFilter,
    QuestionTable,
    evaluations_of,
    profiles_of,
)
from mllmu.explorer.replies import NONE

MOST_ROWS = 500
"""Questions in one answer."""
STATIC = ("explorer.js", "asking.js", "explorer.css", "icon.svg")
SHOWN = (".html", ".png", ".csv", ".md", ".json")
"""Files of a report or board that are served."""
Query = Mapping[str, Sequence[str]]
RunAnswer = Callable[["ExploredRun", Any], Any]


class SiteAnswer(NamedTuple):
    """What goes back to the browser; ``own`` says that the page carries a policy of its own."""

    body: bytes
    kind: str = "application/json; charset=utf-8"
    status: HTTPStatus = HTTPStatus.OK
    location: str = ""
    own: bool = False


def json_answer(value: Any, status: HTTPStatus = HTTPStatus.OK) -> SiteAnswer:
    """Plain values as JSON."""
    return SiteAnswer(json.dumps(value, ensure_ascii=False, allow_nan=False).encode(), status=status)


class ExploredRun:
    """One run folder.

    Args:
        root: the run folder.
        name: what it is called on its page.

    Raises:
        DataError: nothing has been evaluated there.
    """

    def __init__(self, root: Path, name: str = "") -> None:
        self.root = root
        self.name = name or root.resolve().name
        self.evaluations = evaluations_of(root)
        if not self.evaluations:
            raise DataError(
                f"{root}: holds no evaluation. Expected a run folder with eval/forget_<ratio>, which 'mllmu run' or "
                "'mllmu evaluate' makes."
            )
        self._tables: dict[str, QuestionTable] = {}
        self._lock = Lock()

    @cached_property
    def _profiles(self) -> Any:
        return profiles_of(self.root)

    def table(self, label: str = "") -> QuestionTable:
        """The questions of an evaluation; of the first one without a label."""
        label = label or next(iter(self.evaluations))
        if label not in self.evaluations:
            known = ", ".join(self.evaluations)
            raise DataError(f"no evaluation '{label}'.{did_you_mean(label, self.evaluations)} There are: {known}.")
        with self._lock:
            if label not in self._tables:
                self._tables[label] = QuestionTable(self.root, self.evaluations[label], self._profiles)
            return self._tables[label]

    def close(self) -> None:
        """Read nothing further."""
        for table in self._tables.values():
            table.close()

    def describe(self, query: Query) -> dict[str, Any]:
        """What the page needs to know before any question: models, values of the filters, and what all is called."""
        label = _one(query, "evaluation") or next(iter(self.evaluations))
        table = self.table(label)
        numbers = read_json(table.folder / RunFolder.METRICS_FILE, sealed=True)
        declared = Declared.model_validate(numbers.get("declared", {}))
        people = {s.profile_id: table.named(s) for s in table.samples}
        labels = {
            "split": {name: info.label for name, info in declared.splits.items()},
            "task": {name: info.label for name, info in declared.tasks.items()},
            "modality": MODALITY_LABELS,
            "profile_id": {person: f"{name} ({person})" for person, name in people.items()},
        }
        return {
            "name": self.name,
            "evaluation": label,
            "evaluations": list(self.evaluations),
            "models": table.models,
            "outcomes": OUTCOMES,
            "fields": {field: table.values[field] for field in FIELDS},
            "labels": labels,
            "metrics": {name: {"label": info.label, "about": info.about} for name, info in declared.metrics.items()},
            "questions": len(table.samples),
            "people": list(table.profiles),
        }

    def questions(self, query: Query) -> dict[str, Any]:
        """Some of the questions that a filter takes, and how many there are of each kind."""
        table = self.table(_one(query, "evaluation"))
        found = table.select(filter_of(query))
        offset, limit = _number(query, "offset", 0), min(max(1, _number(query, "limit", 100)), MOST_ROWS)
        read = table.read
        at = found.position(table.index.get(_one(query, "at"), -1))
        if at >= 0:
            offset = at // limit * limit
        return {
            "total": len(found.rows),
            "offset": offset,
            "at": at,
            "counts": found.counts,
            "outcomes": found.outcomes,
            "contrast": found.contrast,
            "read": len(read),
            "rows": [self._row(table, int(index), read) for index in found.rows[offset : offset + limit]],
        }

    @staticmethod
    def _row(table: QuestionTable, index: int, read: Sequence[str]) -> dict[str, Any]:
        sample = table.samples[index]
        return {
            **sample.model_dump(include={"id", "split", "task", "modality", "attribute", "profile_id", "image"}),
            "name": table.named(sample),
            "question": headline(sample.prompt),
            "truth": sample.value or sample.target,
            "outcomes": [
                int(table.replies(model).outcomes[index]) if model in read else NONE for model in table.models
            ],
        }

    def question(self, query: Query) -> dict[str, Any]:
        """One question in full."""
        table = self.table(_one(query, "evaluation"))
        name = _one(query, "id")
        if name not in table.index:
            raise DataError(f"no question '{name}' in this evaluation.")
        return question_detail(table, table.index[name], _one(query, "reference") or table.models[0])

    def image(self, query: Query) -> SiteAnswer:
        """An image that a question shows; no other file, and none outside of the run folder, whatever the run says."""
        name = _one(query, "path")
        if name not in self.table(_one(query, "evaluation")).images:
            return not_found()
        path = shown_image(self.root, name)
        return file_answer(path) if path else not_found()


def headline(prompt: str) -> str:
    """The question of a prompt: its last turn, without options and instructions.

    >>> headline("Where does she live?\\nA: Riga"), headline("<image>\\nUSER: Who?\\nA\\nUSER: What is it?\\nA: 1")
    ('Where does she live?', 'What is it?')
    """
    asked = prompt.rpartition("USER:")[2].replace("<image>", "")
    return next((line.strip() for line in asked.splitlines() if line.strip()), prompt.strip())


def filter_of(query: Query) -> QuestionFilter:
    """The filter that an address describes: ``split=forget&is=npo:right&not=any:refused&words=...&forgotten=a:b``."""
    fields = {field: value for field in FIELDS if (value := _one(query, field))}
    pairs = [(text, negated) for key, negated in (("is", False), ("not", True)) for text in query.get(key, ())]
    conditions = tuple(Condition(*_pair(text), negated) for text, negated in pairs)
    contrast = Contrast(*_pair(text)) if (text := _one(query, "forgotten")) else None
    return QuestionFilter(fields, conditions, _one(query, "words"), contrast)


def _pair(text: str) -> tuple[str, str]:
    first, colon, second = text.partition(":")
    if not colon:
        raise DataError(f"'{text}': expected two names with a colon between them.")
    return first, second


def _one(query: Query, name: str) -> str:
    return query[name][-1] if query.get(name) else ""


def _number(query: Query, name: str, default: int) -> int:
    text = _one(query, name)
    if text and not text.isdecimal():
        raise DataError(f"{name} '{text}': expected a whole number from 0.")
    return int(text[:9]) if text else default


class Site:
    """All pages.

    Args:
        runs: the runs, each with its own addresses.
        board: a folder with the page of all of them, if there are several.
        reads, asks: further answers that need a model's processor, or a model, by address; the former to a query, the
            latter to what a page has sent.
    """

    def __init__(
        self,
        runs: Sequence[ExploredRun],
        board: Path | None = None,
        reads: Mapping[str, RunAnswer] | None = None,
        asks: Mapping[str, RunAnswer] | None = None,
    ) -> None:
        self.runs, self.board, self.reads, self.asks = runs, board, reads or {}, asks or {}

    def get(self, path: str, query: str = "") -> SiteAnswer:
        """The answer to an address below the root, e.g. ``run/0/api/questions``."""
        parts = PurePosixPath(path).parts
        if not parts:
            return moved("board/" if self.board else "run/0/")
        if parts[0] == "static" and len(parts) == 2 and parts[1] in STATIC:
            return static(parts[1])
        if parts == ("static", "style.css"):
            return SiteAnswer((resources.files("mllmu.report") / "templates" / "style.css").read_bytes(), "text/css")
        if parts[0] == "board" and self.board:
            return shown(self.board, path, parts[1:])
        run = self._run(parts)
        return not_found() if run is None else self._of_run(run, path, parts[2:], query)

    def close(self) -> None:
        """Stop reading; whoever asks for what has not been read gets an error."""
        for run in self.runs:
            run.close()

    def post(self, path: str, content: Any) -> SiteAnswer:
        """The answer to what a page has sent to an address."""
        parts = PurePosixPath(path).parts
        run, answer = self._run(parts), self.asks.get("/".join(parts[2:]))
        return not_found() if run is None or answer is None else json_answer(plain(answer(run, content)))

    def _run(self, parts: Sequence[str]) -> ExploredRun | None:
        known = parts[:1] == ("run",) and len(parts) > 1 and parts[1].isdecimal() and int(parts[1][:6]) < len(self.runs)
        return self.runs[int(parts[1])] if known else None

    def _of_run(self, run: ExploredRun, path: str, parts: Sequence[str], query: str) -> SiteAnswer:
        if not parts:
            return static("index.html") if path.endswith("/") else moved(f"{path}/")
        if parts[0] == "report":
            return shown(run.root / RunFolder.REPORT, path, parts[1:])
        answers: dict[str, Callable[[Query], Any]] = {
            "api/run": lambda asked: {**run.describe(asked), "board": bool(self.board), "asks": bool(self.asks)},
            "api/questions": run.questions,
            "api/question": run.question,
            "image": run.image,
            **{name: partial(read, run) for name, read in self.reads.items()},
        }
        answer = answers.get("/".join(parts))
        if answer is None:
            return not_found()
        try:
            found = answer(parse_qs(query, max_num_fields=100))
        except (MllmuError, ValueError) as error:
            return json_answer({"error": str(error)}, HTTPStatus.BAD_REQUEST)
        return found if isinstance(found, SiteAnswer) else json_answer(plain(found))


def plain(value: Any) -> Any:
    """The same values without numbers that JSON does not know, which become None."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, (list, tuple)) else value


def static(name: str) -> SiteAnswer:
    """A file of the page itself."""
    content = (resources.files("mllmu.explorer") / "static" / name).read_bytes()
    return SiteAnswer(content, _kind(name))


def shown(folder: Path, address: str, parts: Sequence[str]) -> SiteAnswer:
    """A file of a report or board, by the parts of its path in a folder; of a folder its page."""
    path = folder.joinpath(*parts)
    if ".." in parts or not path.resolve().is_relative_to(folder.resolve()):
        return not_found()
    if path.is_dir():
        if not address.endswith("/"):
            return moved(f"{address}/")
        path /= "index.html"
    return file_answer(path)._replace(own=path.suffix == ".html") if path.suffix in SHOWN else not_found()


def file_answer(path: Path) -> SiteAnswer:
    """The content of a file; not found if there is none."""
    return SiteAnswer(path.read_bytes(), _kind(path.name)) if path.is_file() else not_found()


def _kind(name: str) -> str:
    kind = mimetypes.guess_type(name)[0] or "text/plain"
    return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind


def not_found() -> SiteAnswer:
    """There is nothing at an address."""
    return json_answer({"error": "there is nothing at this address"}, HTTPStatus.NOT_FOUND)


def moved(where: str) -> SiteAnswer:
    """The page is at another address of this site."""
    return SiteAnswer(b"", status=HTTPStatus.FOUND, location=quote(where))
