"""The run folder: atomic files, finished units, fingerprints.

Every unit of work (the data, one model, one evaluation) is a folder. It is built under a hidden name beside its
final place and renamed when complete, so a folder that exists under its own name is whole. ``unit.json`` in it keeps
what the unit depends on; asking again with the same inputs skips the work, with other inputs it is an error that
names the first setting that changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from mllmu.core.errors import DataError, RunStoreError
from mllmu.core.names import RETAIN_MODEL, TARGET

if TYPE_CHECKING:
    from mllmu.core.records import Record

R = TypeVar("R", bound="Record")

UNIT_FILE = "unit.json"
ELAPSED_FILE = "elapsed.json"
WITH_OUT = "choose another folder with --out"


@dataclass(frozen=True)
class RunFolder:
    """Where everything of a run is. Units are named by their folder below ``root``; no other module spells a path.

    ::

        recipe.yaml, run.json                          what was asked for, and how it ended
        checks.json                                    what was noted before anything was trained
        data/                                          people, questions, splits, images
        benchmarks/<benchmark>/                        questions and images of a general benchmark
        models/target, models/forget_<k>/<model>/      adapters, and model.json: base, adapters, system prompt
        eval/forget_<k>/samples.jsonl                  what every model is asked
        eval/forget_<k>/<model>/responses, scores ...  what a model answered, and how it was scored
        eval/forget_<k>/metrics.json, gate.json        all numbers of one forget ratio
        protocols/<label>/forget_<k>/...               the same under a further protocol
        report/                                        the page
        attacks/forget_<k>/<budget>/<attack>/<model>/  what an attack got from a model; eval/.../attacks.json: numbers
        trust/, layers/, tune/                         what studies made

    ``k`` is the forget ratio in percent, see :func:`mllmu.config.recipe.percent`.
    """

    root: Path

    RECIPE: ClassVar[str] = "recipe.yaml"
    RECORD: ClassVar[str] = "run.json"
    CHECKS_FILE: ClassVar[str] = "checks.json"
    DATA: ClassVar[str] = "data"
    BENCHMARKS: ClassVar[str] = "benchmarks"
    MODEL_FILE: ClassVar[str] = "model.json"
    SAMPLES_FILE: ClassVar[str] = "samples.jsonl"
    RESPONSES: ClassVar[str] = "responses"
    RESPONSES_FILE: ClassVar[str] = "responses.jsonl"
    BASE_LOGP: ClassVar[str] = "base_logp"
    BASE_LOGP_FILE: ClassVar[str] = "base_logp.jsonl"
    SCORES: ClassVar[str] = "scores"
    SCORES_FILE: ClassVar[str] = "scores.jsonl"
    METRICS_FILE: ClassVar[str] = "metrics.json"
    GATE_FILE: ClassVar[str] = "gate.json"
    ATTACKS: ClassVar[str] = "attacks"
    ATTACKS_FILE: ClassVar[str] = "attacks.json"
    JUDGE_FILES: ClassVar[str] = "judge_*.json"
    REPORT: ClassVar[str] = "report"
    TRUST: ClassVar[str] = "trust"
    TRUST_FILE: ClassVar[str] = "trust/trust.json"
    LAYERS: ClassVar[str] = "layers"
    LAYERS_FILE: ClassVar[str] = "layers/layers.json"
    TUNE: ClassVar[str] = "tune"
    TRIALS_FILE: ClassVar[str] = "tune/trials.jsonl"
    TUNED_RECIPE: ClassVar[str] = "tune/tuned.yaml"

    @staticmethod
    def model_unit(key: str, model: str) -> str:
        """Unit of a model: the target belongs to all forget ratios, every other model to one."""
        return f"models/{TARGET}" if model == TARGET else f"models/forget_{key}/{model}"

    @staticmethod
    def evaluation(key: str, label: str = "") -> str:
        """Folder of the evaluation of a forget ratio, under the recipe's own protocol or a further one by its label."""
        return f"protocols/{label}/forget_{key}" if label else f"eval/forget_{key}"

    @classmethod
    def stage_of(cls, unit: str) -> str:
        """The stage that makes a unit: data, finetune, unlearn, evaluate or score."""
        top, last = unit.split("/")[0], unit.rpartition("/")[2]
        if top in (cls.DATA, cls.BENCHMARKS):
            return "data"
        if top == "models":
            return "finetune" if last in (TARGET, RETAIN_MODEL) else "unlearn"
        return "evaluate" if last == cls.RESPONSES or top == cls.ATTACKS else "score"

    @staticmethod
    def judgement(judge: str) -> str:
        """Unit of the verdicts of a judge below a model, and the name without suffix of the file of their means."""
        return f"judge_{judge}"

    def path(self, name: str, *parts: str) -> Path:
        """A unit, or a file in it."""
        return self.root.joinpath(name, *parts)

    def evaluated_keys(self) -> list[str]:
        """The forget ratios in percent that have been evaluated, in the order of their names."""
        return sorted(path.name.removeprefix("forget_") for path in self.root.glob("eval/forget_*"))

    def models_made(self) -> dict[str, Path]:
        """Folders of the models that are there, by ``target`` or ``forget_10/npo``."""
        models = self.root / "models"
        found = sorted(models.rglob(self.MODEL_FILE))
        return {path.parent.relative_to(models).as_posix(): path.parent for path in found}


def write_atomic(path: Path, content: str | bytes, *, mode: int = 0o666, elsewhere: str = WITH_OUT) -> None:
    """Write a file completely or not at all: temporary name, flush, rename.

    Args:
        mode: permissions of the file, less those that the umask takes away.
        elsewhere: how to write to another place, for the error.

    Raises:
        RunStoreError: the disk is full or the place cannot be written; names the path and the reason.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")  # several processes may write the same file
    with explain_os_errors(path, elsewhere=elsewhere):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb", opener=partial(os.open, mode=mode)) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON value as a file for people and programs, see :func:`write_atomic`."""
    write_atomic(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


@contextmanager
def explain_os_errors(path: Path, *, elsewhere: str = WITH_OUT) -> Iterator[None]:
    """Turn a full or unwritable disk into one clear message; ``elsewhere`` says how to write to another place."""
    try:
        yield
    except (FileExistsError, NotADirectoryError) as error:
        raise RunStoreError(
            f"{path}: cannot be written: it is, or lies in, a file. Expected a folder; {elsewhere}."
        ) from error
    except OSError as error:
        raise RunStoreError(
            f"{path}: cannot be written ({error.strerror or error}). "
            f"Free space or {elsewhere}; finished stages are kept and will not be redone."
        ) from error


def digest(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form, first 16 hex digits."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def content_digest(path: Path) -> str:
    """SHA-256 of a file's content, or of the names and contents of all files in a folder; first 16 hex digits."""
    if path.is_dir():
        files = {f.relative_to(path).as_posix(): f for f in sorted(path.rglob("*")) if f.is_file()}
        return digest({name: content_digest(file) for name, file in files.items()})
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A unit of work: its final folder, the folder to build in, and what it depends on."""

    name: str
    folder: Path
    building: Path
    inputs: dict[str, Any]

    @property
    def done(self) -> bool:
        return (self.folder / UNIT_FILE).is_file()

    @property
    def fingerprint(self) -> str:
        return digest(self.inputs)

    def commit(self, facts: Mapping[str, Any] | None = None) -> None:
        """Declare the unit complete: write ``unit.json`` and rename the folder into place."""
        record = {"name": self.name, "fingerprint": self.fingerprint, "inputs": self.inputs, "facts": dict(facts or {})}
        write_json(self.building / UNIT_FILE, record)
        with explain_os_errors(self.folder):
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            if self.folder.exists():
                shutil.rmtree(self.folder)
            self.building.replace(self.folder)

    @contextmanager
    def making(self) -> Iterator[dict[str, Any]]:
        """Make the unit inside the block: it is committed at the end with the facts that the block adds.

        ``seconds`` is added by itself and includes what interrupted attempts had spent.
        """
        facts: dict[str, Any] = {}
        path = self.building / ELAPSED_FILE
        before = float(json.loads(path.read_text())) if path.is_file() else 0.0
        start = time.monotonic()
        try:
            yield facts
        finally:
            facts["seconds"] = round(before + time.monotonic() - start, 3)
            if self.building.is_dir():
                write_json(path, facts["seconds"])
        self.commit(facts)

    def facts(self) -> dict[str, Any]:
        """What was measured while the unit was made (seconds, peak memory ...)."""
        return facts_of(self.folder)


def fingerprint_of(folder: Path) -> str:
    """Fingerprint of the finished unit in a folder; empty if there is none."""
    return str(read_json(folder / UNIT_FILE).get("fingerprint", ""))


def facts_of(folder: Path) -> dict[str, Any]:
    """What was measured while the finished unit in a folder was made; empty if there is none."""
    return dict(read_json(folder / UNIT_FILE).get("facts", {}))


class RunStore:
    """Access to one run folder.

    ``force`` may be switched between stages: finished units that are looked up for the first time while it is on are
    redone. A unit that was looked up before is only an input of the stage, and is never touched again.
    """

    def __init__(self, root: Path, *, force: bool = False) -> None:
        self.root = root
        self.force = force
        self._seen: set[str] = set()

    def unit(self, name: str, inputs: Mapping[str, Any]) -> Unit:
        """Look up a unit by name and what it depends on.

        A finished unit with other inputs raises RunStoreError, or is redone with ``force``. An unfinished one keeps
        its building folder (checkpoints, replies) if the inputs are the same, and starts afresh otherwise.
        """
        plain = json.loads(json.dumps(dict(inputs), default=str))
        folder = self.root / name
        unit = Unit(name=name, folder=folder, building=folder.with_name(f".{folder.name}.building"), inputs=plain)
        if folder.exists() and name not in self._seen:
            self._check_finished(unit)
        self._seen.add(name)
        if not unit.done:
            self._prepare(unit)
        return unit

    def _check_finished(self, unit: Unit) -> None:
        record = read_json(unit.folder / UNIT_FILE)
        old = record.get("inputs", {})
        if self.force:
            with explain_os_errors(unit.folder):
                shutil.rmtree(unit.folder)
        elif not record:
            raise RunStoreError(
                f"{unit.folder}: has no {UNIT_FILE}, so nothing says what is in it. "
                "Move it away, use --force to replace it, or --out for another run folder."
            )
        elif old != unit.inputs:
            raise RunStoreError(
                f"{unit.folder}: was made with other settings: {difference(old, unit.inputs)}. "
                "Use --force to redo it, --out for another run folder, or restore the setting."
            )

    def _prepare(self, unit: Unit) -> None:
        marker = unit.building / "inputs.json"
        with explain_os_errors(unit.building):
            if unit.building.exists() and (not marker.is_file() or read_json(marker) != unit.inputs):
                shutil.rmtree(unit.building)
            unit.building.mkdir(parents=True, exist_ok=True)
        if not marker.is_file():
            write_json(marker, unit.inputs)


def difference(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> str:
    """Describe the first difference between two nested settings.

    >>> difference({"a": {"b": 1}}, {"a": {"b": 2}})
    'a.b was 1, is now 2'
    """
    for key in [*old, *(k for k in new if k not in old)]:
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            if a != b:
                return difference(a, b, f"{prefix}{key}.")
        elif a != b:
            return f"{prefix}{key} was {a!r}, is now {b!r}"
    return "nothing"


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of the run folder, {} if there is no file; RunStoreError if it is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunStoreError(f"{path}: damaged ({error}). Delete the folder {path.parent} to make it anew.") from None
    return value if isinstance(value, dict) else {}


def dump_lines(records: Iterable[Record]) -> str:
    """Serialise records as JSON lines (UTF-8, one object a line, default fields left out)."""
    return "".join(record.model_dump_json(exclude_defaults=True) + "\n" for record in records)


def parse_lines(text: str, kind: type[R], *, where: str) -> Iterator[R]:
    """Parse JSON lines into records; a bad line raises DataError naming file and line."""
    from pydantic import ValidationError  # not above: the command line does without

    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield kind.model_validate_json(line)
        except ValidationError as error:
            fault: Any = error.errors()[0]
            place = ".".join(map(str, fault["loc"])) or "line"
            raise DataError(
                f"{where}:{number}: {place}: {fault['msg']}. Expected one {kind.__name__} record."
            ) from None


def read_lines(path: Path, kind: type[R]) -> list[R]:
    """Read a JSON lines file of records."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file. Run the stage that writes it first.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}).") from None
    return list(parse_lines(text, kind, where=str(path)))


class Journal(Generic[R]):
    """Records appended to a file as they are made, so that a killed process loses at most the last append.

    Args:
        path: the file; made by the first :meth:`resume`.
        kind: class of the records.
    """

    def __init__(self, path: Path, kind: type[R]) -> None:
        self.path = path
        self._kind = kind

    def read(self) -> list[R]:
        """All records that were written completely; a last line cut short by a crash is left out.

        Raises:
            DataError: another line is damaged; names file and line.
        """
        if not self.path.is_file():
            return []
        text = self.path.read_bytes().decode("utf-8", errors="ignore")
        return list(parse_lines(text[: text.rfind("\n") + 1], self._kind, where=str(self.path)))

    def resume(self) -> list[R]:
        """As :meth:`read`; also removes a line cut short from the file, so that appending starts on a new line."""
        records = self.read()
        write_atomic(self.path, dump_lines(records))
        return records

    def append(self, records: Iterable[R]) -> None:
        """Add records and force them to disk before returning.

        Raises:
            RunStoreError: the disk is full or cannot be written.
        """
        with explain_os_errors(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(dump_lines(records))
            file.flush()
            os.fsync(file.fileno())
