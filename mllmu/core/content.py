"""The content of files that are in no unit, in a few digits, so that a change is noticed."""

import hashlib
from pathlib import Path

from mllmu.core import damage
from mllmu.core.runfolder import digest, unit_record


def content_digest(path: Path) -> str:
    """SHA-256 of a file's content, or of the names and contents of all files in a folder; first 16 hex digits."""
    if path.is_dir():
        files = {f.relative_to(path).as_posix(): f for f in sorted(path.rglob("*")) if f.is_file()}
        return digest({name: content_digest(file) for name, file in files.items()})
    return sha256(path)[:16]


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_samples(path: Path, unit: Path) -> None:
    """Compare a file of samples with what the models were asked by the record of their responses.

    Raises:
        RunStoreError: it is another file now.
    """
    asked = unit_record(unit).get("inputs", {}).get("samples")
    if asked and asked != digest(path.read_text(encoding="utf-8", errors="replace")):
        raise damage.damaged(path, "it is not what the models were asked, by its digest")
