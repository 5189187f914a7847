"""The run folder: atomic files, finished units, fingerprints.

Every unit of work (the data, one model, one evaluation) is a folder. It is built under a hidden name beside its
final place and renamed when complete, so a folder that exists under its own name is whole. ``unit.json`` in it keeps
what the unit depends on and the SHA-256 of its files; asking again with the same inputs skips the work, with other
inputs it is an error that names the first setting that changed, and so is a file that is not as it was written.
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
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from mllmu.core import damage
from mllmu.core.damage import UNIT_FILE as UNIT_FILE
from mllmu.core.errors import DataError
from mllmu.core.names import TARGET, ratio_order

if TYPE_CHECKING:
    from mllmu.core.records import Record

R = TypeVar("R", bound="Record")

ELAPSED_FILE, INPUTS_FILE, REDO_FILE, SHARES_FILE = "elapsed.json", "inputs.json", "redo.json", "shares.json"
SEAL = "record_digest"
"""The last entry of a record: the digest of the others."""
WITH_OUT = "choose another folder with --out"
_digests: dict[tuple[int, ...], str] = {}


@dataclass(frozen=True)
class RunFolder:
    """Where everything of a run is; docs/reference/run-folder.md lists what is in it. No other module spells a path.

    Units are named by their folder below ``root``. The ``key`` of a forget ratio is ``recipe.percent`` of it.
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

    def path(self, name: str, *parts: str) -> Path:
        """A unit, or a file in it."""
        return self.root.joinpath(name, *parts)

    def evaluated_keys(self) -> list[str]:
        """The forget ratios in percent that have been evaluated, the smallest first."""
        return sorted((p.name.removeprefix("forget_") for p in self.root.glob("eval/forget_*")), key=ratio_order)

    def models_made(self) -> dict[str, Path]:
        """Folders of the models that are there, by ``target`` or ``forget_10/npo``."""
        models = self.root / "models"
        found = (path for path in sorted(models.rglob(self.MODEL_FILE)) if not path.parent.name.startswith("."))
        return {path.parent.relative_to(models).as_posix(): path.parent for path in found}


def write_atomic(path: Path, content: str | bytes, *, mode: int = 0o666, elsewhere: str = WITH_OUT) -> None:
    """Write a file completely or not at all: temporary name, flush, rename.

    Args:
        mode: permissions of the file, less those that the umask takes away.
        elsewhere: how to write to another place, for the error of a disk that is full or cannot be written.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")  # several processes may write the same file
    with explain_os_errors(path, elsewhere=elsewhere):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "xb", opener=partial(os.open, mode=mode)) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON value as a file for people and programs, see :func:`write_atomic`."""
    write_atomic(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


@contextmanager
def explain_os_errors(path: Path, *, elsewhere: str = WITH_OUT) -> Iterator[None]:
    """Turn a full or unwritable disk into one clear message; ``elsewhere`` says how to write to another place."""
    try:
        yield
    except OSError as error:
        raise damage.unwritable(path, error, elsewhere) from error


def digest(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form, first 16 hex digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False, default=str).encode()).hexdigest()[:16]


def file_digests(folder: Path, names: Iterable[str] = ()) -> dict[str, str]:
    """SHA-256 of files of a unit, by their path in it; by default of all but ``unit.json``, which holds them."""
    found = {}
    for path in [folder / name for name in names] or sorted(folder.rglob("*")):
        if path.is_file() and path.name != UNIT_FILE and not path.name.startswith("."):
            stat = path.stat()
            key = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
            if key not in _digests:  # read once by a process, also if the unit is moved
                with path.open("rb") as file:
                    _digests[key] = hashlib.file_digest(file, "sha256").hexdigest()
            found[path.relative_to(folder).as_posix()] = _digests[key]
    return found


def intact(folder: Path, *names: str) -> bool:
    """Whether a finished unit has digests; RunStoreError if one of its files, or of those named, is not as written."""
    expected = unit_record(folder).get("files", {})
    expected = {name: own for name, own in expected.items() if name in names} if names else expected
    if expected and expected != (found := file_digests(folder, names)):
        raise damage.changed(folder, expected, found)
    return bool(expected)


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A unit of work: its final folder, the folder to build in, and what it depends on."""

    name: str
    folder: Path
    building: Path
    inputs: dict[str, Any]
    store: str = ""

    @property
    def done(self) -> bool:
        return (self.folder / UNIT_FILE).is_file() and not self.in_exchange

    @property
    def in_exchange(self) -> bool:
        """This store, or the process that started this one, makes a finished unit anew."""
        wanted = read_json(self.building / REDO_FILE)
        mine = wanted.get("store") == self.store or wanted.get("pid") == os.getppid()
        return mine and wanted.get("unit") == digest(self.inputs)

    @property
    def fingerprint(self) -> str:  # of what was made; as long as it is not there, of what it depends on
        return fingerprint_of(self.folder) or digest(self.inputs)

    def commit(self, facts: Mapping[str, Any] | None = None) -> None:
        """Declare the unit complete: write ``unit.json`` and move the folder to its place."""
        (self.building / REDO_FILE).unlink(missing_ok=True)
        record = {"name": self.name, "fingerprint": digest(self.inputs), "inputs": self.inputs}
        record |= {"facts": dict(facts or {}), "files": file_digests(self.building)}
        if self.folder.exists():  # then something may depend on it
            record = import_module("mllmu.core.remade").told_apart(self.folder, record)
        write_json(self.building / UNIT_FILE, seal(record))
        with explain_os_errors(self.folder):
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            if self.folder.exists():
                damage.exchange(self.folder, self.building)
            else:
                self.building.replace(self.folder)

    @contextmanager
    def making(self) -> Iterator[dict[str, Any]]:
        """Make the unit inside the block: it is committed at the end with the facts that the block adds.

        ``seconds`` is added by itself and includes what interrupted attempts had spent.
        """
        facts: dict[str, Any] = {}
        path = self.building / ELAPSED_FILE
        start = time.monotonic() - float(read_json(path).get("seconds", 0.0))
        try:
            yield facts
        finally:
            facts["seconds"] = round(time.monotonic() - start, 3)
            if self.building.is_dir():
                write_json(path, {"seconds": facts["seconds"]})
        self.commit(facts)


def unit_record(folder: Path) -> dict[str, Any]:
    """What ``unit.json`` says of the finished unit in a folder; empty if there is none."""
    record = read_json(folder / UNIT_FILE)
    whole = all(isinstance(record.get(part), dict) for part in ("inputs", "facts"))
    if not whole and (folder / UNIT_FILE).is_file():
        raise damage.damaged(folder / UNIT_FILE, "it does not say what the unit depends on")
    return record


def fingerprint_of(folder: Path) -> str:
    """Fingerprint of the finished unit in a folder; empty if there is none."""
    return str(unit_record(folder).get("fingerprint", ""))


def facts_of(folder: Path) -> dict[str, Any]:
    """What was measured while the finished unit in a folder was made; empty if there is none."""
    return dict(unit_record(folder).get("facts", {}))


class RunStore:
    """Access to one run folder.

    ``force`` may be switched between stages: finished units that are first looked up while it is on are redone.
    """

    def __init__(self, root: Path, *, force: bool = False) -> None:
        self.root = root
        self.force = force
        self._seen: set[str] = set()
        self._id = secrets.token_hex(8)

    def unit(self, name: str, inputs: Mapping[str, Any]) -> Unit:
        """Look up a unit by name and what it depends on.

        A finished unit with other inputs raises RunStoreError; with ``force``, or if they were just made again, it is
        redone and stays until then. An unfinished one keeps its building folder (checkpoints) if the inputs are equal.
        """
        plain = json.loads(json.dumps(dict(inputs), default=str))
        folder = self.root / name
        building = folder.with_name(f".{folder.name}.building")
        unit = Unit(name=name, folder=folder, building=building, inputs=plain, store=self._id)
        if folder.with_name(damage.OLD.format(folder.name)).exists():
            damage.put_back(folder)
        if not (self.force or folder.exists()) and (self.root / SHARES_FILE).is_file():
            import_module("mllmu.core.sharing").take(self.root, unit)
        if folder.exists() and name not in self._seen and not unit.in_exchange:
            self.check_finished(unit)
        self._seen.add(name)
        if not unit.done:
            self._prepare(unit)
        return unit

    def check_finished(self, unit: Unit) -> None:
        """Prepare to redo a finished unit if that is wanted; RunStoreError if it has other inputs."""
        if not (unit.folder / UNIT_FILE).is_file():
            raise damage.unknown(unit.folder)
        if not self.force:
            if unit_record(unit.folder)["inputs"] == unit.inputs:
                return
            import_module("mllmu.core.remade").check_only_remade(unit)
        self._prepare(unit)
        redo = {"unit": digest(unit.inputs), "store": self._id, "pid": os.getpid()}
        write_json(unit.building / REDO_FILE, seal(redo))

    def _prepare(self, unit: Unit) -> None:
        marker = unit.building / INPUTS_FILE
        with explain_os_errors(unit.building):
            if unit.building.exists() and (not marker.is_file() or read_json(marker) != unit.inputs):
                shutil.rmtree(unit.building)
            unit.building.mkdir(parents=True, exist_ok=True)
        if not marker.is_file():
            write_json(marker, seal(unit.inputs))


def seal(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record with its own digest, by which :func:`read_json` notices that it was changed."""
    plain = json.loads(json.dumps(dict(record)))
    return {**plain, SEAL: digest(plain)}


def read_json(path: Path, *, sealed: bool = False) -> dict[str, Any]:
    """The record in a JSON file of the run folder, {} if there is no file.

    RunStoreError if it is damaged: no JSON object, other than its digest says, or, with ``sealed``, without one.
    """
    try:
        record = json.loads(path.read_bytes().decode())
        own = record.pop(SEAL, None)
        if own != (digest(record) if own or sealed or (path.name == UNIT_FILE and "files" in record) else None):
            raise ValueError("its digest is another one" if own else "it does not end in its digest")
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise damage.damaged(path, error) from None
    return dict(record)


def read_record(path: Path, kind: Any) -> Any:
    """The value of a type in a JSON file of the run folder; errors as in :func:`read_lines`."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_json(_checked(path))
    except ValidationError as error:
        raise damage.misfit(path, error, str(kind)) from None


def _checked(path: Path) -> bytes:
    """The content of a file, after the unit that it belongs to has been checked."""
    intact(path.parent, path.name)
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file. Run the stage that writes it first.") from None


def dump_lines(records: Iterable[Record]) -> str:
    """Serialise records as JSON lines (UTF-8, one object a line, default fields left out)."""
    return "".join(record.model_dump_json(exclude_defaults=True) + "\n" for record in records)


def read_lines(path: Path, kind: type[R]) -> list[R]:
    """The records in a JSON lines file; DataError if there is none, RunStoreError if it, or its unit, is damaged."""
    from pydantic import ValidationError  # not above: the command line does without

    records = []
    for number, line in enumerate(_checked(path).split(b"\n"), start=1):
        try:
            records += [kind.model_validate_json(line)] if line.strip() else []
        except ValidationError as error:
            raise damage.misfit(path, error, f"{kind.__name__} record", f"line {number}: ") from None
    return records


class Journal(Generic[R]):
    """Batches of records, a line each: digest, space, JSON list. A damaged batch is lost as a whole, and no other."""

    def __init__(self, path: Path, kind: type[R]) -> None:
        self.path = path
        self._kind = kind

    def batches(self) -> list[list[R]]:
        """All batches that are as they were written."""
        from pydantic import TypeAdapter

        lines = self.path.read_bytes().split(b"\n") if self.path.is_file() else []
        parts = (line.partition(b" ") for line in lines)
        return [
            TypeAdapter(list[self._kind]).validate_json(text)  # type: ignore[name-defined]
            for own, _, text in parts
            if own and own.decode(errors="replace") == digest(text.decode(errors="replace"))
        ]

    def read(self) -> list[R]:
        """The records of all batches that are as they were written."""
        return [record for batch in self.batches() for record in batch]

    def resume(self) -> list[R]:
        """As :meth:`read`; also removes what is damaged from the file, so that appending starts on a new line."""
        self.write(self.batches())
        return self.read()

    def write(self, batches: Iterable[Iterable[R]]) -> None:
        """Replace the file by some batches."""
        write_atomic(self.path, "".join(map(_journal_line, batches)))

    def append(self, records: Iterable[R]) -> None:
        """Add a batch and force it to disk before returning."""
        with explain_os_errors(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(_journal_line(records))
            file.flush()
            os.fsync(file.fileno())


def _journal_line(records: Iterable[Record]) -> str:
    text = f"[{','.join(record.model_dump_json(exclude_defaults=True) for record in records)}]"
    return f"{digest(text)} {text}\n"
