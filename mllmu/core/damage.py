"""What is wrong with a run folder, in one sentence: damaged, made with other settings, or not of this program.

Nothing here runs as long as a run folder is in order.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mllmu.core.errors import RunStoreError

UNIT_FILE = "unit.json"
"""The record of a finished unit; :mod:`mllmu.core.runfolder` writes and reads it."""
OLD = ".{}.old"
"""Where a finished unit is for the moment in which another one takes its place."""


def damaged(path: Path, why: object) -> RunStoreError:
    """The one error of a file that does not hold what was written there: what, where, and how to make it again."""
    unit = next((p for p in path.parents if (p / UNIT_FILE).is_file() or p.name.endswith(".building")), path)
    text = "it is no JSON object" if isinstance(why, (AttributeError, TypeError)) else str(why) or "it is too deep"
    reason = " ".join(text.split()).rstrip(".")
    return RunStoreError(
        f"{path}: damaged ({reason}). Move {unit} away and repeat the command that made it, e.g. 'mllmu run' with the "
        "recipe: only what is missing is made again."
    )


def misfit(path: Path, error: Any, expected: str, where: str = "") -> RunStoreError:
    """The first fault of a record: its place, what is wrong, and what was expected."""
    fault = error.errors()[0]
    place = ".".join(map(str, fault["loc"])) or "value"
    return damaged(path, f"{where}{place}: {fault['msg']}; expected one {expected}")


def unwritable(path: Path, error: OSError, elsewhere: str) -> RunStoreError:
    """A full or unwritable disk; ``elsewhere`` says how to write to another place."""
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        return RunStoreError(f"{path}: cannot be written: it is, or lies in, a file. Expected a folder; {elsewhere}.")
    return RunStoreError(
        f"{path}: cannot be written ({error.strerror or error}). "
        f"Free space or {elsewhere}; finished stages are kept and will not be redone."
    )


def changed(folder: Path, expected: Mapping[str, str], found: Mapping[str, str]) -> RunStoreError:
    """The first file of a finished unit that is gone, has other content, or was not there when it was finished."""
    name = next(name for name in sorted({*expected, *found}) if expected.get(name) != found.get(name))
    why = "its content has changed since it was written"
    if name not in found:
        why = "it is gone"
    elif name not in expected:
        why = "it was not there when the folder was finished"
    return damaged(folder / name, why)


def unknown(folder: Path) -> RunStoreError:
    """A folder in the place of a unit that does not say what it is; it may be somebody's own, so it is left alone."""
    return RunStoreError(
        f"{folder}: has no {UNIT_FILE}, so nothing says what is in it. "
        "Move it away, or use --out for another run folder."
    )


def other_settings(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> RunStoreError:
    """A finished unit that depends on other inputs; names the first difference."""
    return RunStoreError(
        f"{folder}: was made with other settings: {difference(old, new)}. "
        "Use --force to redo it, --out for another run folder, or restore the setting."
    )


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


def exchange(folder: Path, new: Path) -> None:
    """Put a new unit in the place of a finished one, which goes only then."""
    old = folder.with_name(OLD.format(folder.name))
    folder.replace(old)
    new.replace(folder)
    shutil.rmtree(old, ignore_errors=True)


def put_back(folder: Path) -> None:
    """Settle an exchange that was cut off: the old unit returns, unless the new one is in its place."""
    old = folder.with_name(OLD.format(folder.name))
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
    else:
        old.replace(folder)
