"""The key file: the secret from which fakes are drawn, and the original behind each fake.

The key file undoes the pseudonyms. Without it they cannot be undone, even with the table of another person and this
program: fakes are drawn by HMAC-SHA256 under a secret of 256 random bits. It is made at the first use, readable by its
owner only, and never lies in a run folder.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import secrets
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, ValidationError

from mllmu.core.errors import DataError, did_you_mean
from mllmu.core.runfolder import RunFolder, write_atomic

RUN_FILES = (RunFolder.RECIPE, RunFolder.RECORD)
OWNER_ONLY = 0o600
PATIENCE_S = 120.0
"""How long a process waits for another one that works with the same key file."""


class Key(BaseModel, extra="forbid"):
    """A key file in memory.

    Attributes:
        secret: 256 random bits in hexadecimal digits.
        replaced: kind -> original -> fake; what once got a fake keeps it.
        people: pseudonymous id -> the original id, name and other identifiers.
    """

    format: Literal["mllmu-people-key-1"]
    secret: str = Field(pattern="^[0-9a-f]{64}$", repr=False)
    replaced: dict[str, dict[str, str]] = Field({}, repr=False)
    people: dict[str, dict[str, str]] = Field({}, repr=False)

    @classmethod
    def load(cls, path: Path) -> Key:
        """Read a key file, or begin a new one if there is none.

        Raises:
            DataError: it lies in a run folder, or is no key file.
        """
        refuse_run_folder(path)
        if not path.exists():
            return cls(format="mllmu-people-key-1", secret=secrets.token_hex(32))
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise DataError(
                f"{path}: the key file cannot be read ({error}). Name the right file, or a new one."
            ) from None
        except ValidationError as error:
            place = ".".join(map(str, error.errors()[0]["loc"])) or "file"
            raise DataError(
                f"{path}: not a key file (wrong {place}). It is never overwritten; restore it from a copy, or name a "
                "new file in data.source.key (everybody then gets new pseudonyms)."
            ) from None

    @property
    def name(self) -> str:
        """A fingerprint by which a run says which key it was made with; tells nothing about the secret."""
        return hashlib.sha256(b"mllmu key name" + bytes.fromhex(self.secret)).hexdigest()[:16]

    def number(self, *keys: str) -> int:
        """256 bits that depend on the secret and the keys; the same in any order of calls."""
        message = "\x1f".join(keys).encode()
        return int.from_bytes(hmac.digest(bytes.fromhex(self.secret), message, "sha256"), "big")

    def save(self, path: Path) -> None:
        """Write the key file completely or not at all, readable by its owner only."""
        replaced = {kind: dict(sorted(pairs.items())) for kind, pairs in sorted(self.replaced.items())}
        ordered = self.model_copy(update={"replaced": replaced, "people": dict(sorted(self.people.items()))})
        text = ordered.model_dump_json(indent=1) + "\n"
        if not (path.is_file() and path.read_text(encoding="utf-8") == text):
            write_atomic(path, text, mode=OWNER_ONLY, elsewhere="name another file in data.source.key")


@contextmanager
def alone_with(path: Path) -> Iterator[None]:
    """Keep other processes from a key file between reading and writing it.

    Of two that begin a key at once, only the secret of the last would be kept, and nobody could undo the fakes of the
    other. The lock is an empty hidden file beside the key, and stays there.

    Raises:
        DataError: another process has not finished after two minutes; or it lies in a run folder.
    """
    from filelock import FileLock, Timeout  # not above: the command line does without

    refuse_run_folder(path)
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=PATIENCE_S)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise DataError(
            f"{path}: another process has worked with this key file for {PATIENCE_S:g} s. Wait for it or stop it, then "
            "repeat."
        ) from None
    except OSError as error:  # where nothing can be written, no process can change the key, and saving it says so
        if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            warnings.warn(f"{path}: this file system has no locks; let one command at a time use it", stacklevel=3)
    try:
        yield
    finally:
        lock.release()


def reveal(path: Path, asked: Sequence[str] = ()) -> dict[str, dict[str, str]]:
    """The originals behind pseudonymous ids, names and other fakes; all people if ``asked`` is empty.

    Returns:
        By id, everything that the key holds of a person; by any other fake (a city ...) its ``original``.

    Raises:
        DataError: there is no key file, or it does not hold what is asked.
    """
    key = _existing(path)
    ids = {name.casefold(): one for one, known in key.people.items() for name in (one, known.get("pseudonym", ""))}
    fakes = {fake.casefold(): original for pairs in key.replaced.values() for original, fake in pairs.items()}
    found: dict[str, dict[str, str]] = {}
    for text in asked or key.people:
        if person := ids.get(text.casefold()):
            found[person] = key.people[person]
        elif original := fakes.get(text.casefold()):
            found[text] = {"original": original}
        else:
            raise DataError(
                f"{path}: knows no '{text}' among {len(key.people)} people.{did_you_mean(text.casefold(), ids)} "
                "Is it the key of this run?"
            )
    return found


def people_of(path: Path) -> dict[str, dict[str, str]]:
    """Everybody whom a key file knows, by pseudonymous id; errors as in :func:`reveal`."""
    return _existing(path).people


def _existing(path: Path) -> Key:
    if not path.is_file():
        raise DataError(f"{path}: no such key file. Name the file that data.source.key named when the data were made.")
    return Key.load(path)


def refuse_run_folder(path: Path, setting: str = "data.source.key") -> None:
    """The key, and the page that shows originals, must not travel with the results."""
    for folder in path.resolve().parents:
        if all((folder / name).is_file() for name in RUN_FILES):
            raise DataError(
                f"{setting}: {path} lies in the run folder {folder}. Whoever gets the results would get to know who is "
                "in them; keep it elsewhere."
            )
