"""``manifest.json``: the SHA-256 of every file of a run folder, written when a command leaves it.

Files of finished units are taken from ``unit.json``, which holds their digests, so writing a manifest reads no weights;
checking one reads everything. A command that is killed leaves no manifest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from mllmu.core.content import sha256
from mllmu.core.errors import RunStoreError
from mllmu.core.runfolder import UNIT_FILE, RunFolder, read_json, seal, unit_record, write_json

MANIFEST = "manifest.json"
NOT_LISTED = (MANIFEST, "run.lock", "run.lock.json")


class ManifestCheck(NamedTuple):
    """The files of a run folder against its manifest.

    Attributes:
        num_files: files whose content was read and compared.
        differences: what is not as listed, by path and in words.
        added: files that are not listed, outside of units.
        hash: digest of the manifest; empty without one.
    """

    num_files: int
    differences: dict[str, str]
    added: list[str]
    hash: str


def write_manifest(root: Path) -> None:
    """List the files of a run folder; nothing where no run was."""
    if (root / RunFolder.RECORD).is_file():
        write_json(root / MANIFEST, seal({"files": dict(_known(root))}))


def manifest_hash(root: Path) -> str:
    """SHA-256 of all that the manifest lists (JSON with sorted keys); empty without a manifest."""
    files = read_json(root / MANIFEST, sealed=True).get("files", {})
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest() if files else ""


def check_manifest(root: Path) -> ManifestCheck:
    """Read every file of a run folder and compare it with the manifest and with the digests of its unit.

    Raises:
        RunStoreError: it is no run folder, or a record of digests is itself damaged.
    """
    if not (root / RunFolder.RECORD).is_file():
        raise RunStoreError(f"{root}: no run folder ({RunFolder.RECORD} missing). Expected one that mllmu has made.")
    listed: dict[str, str] = read_json(root / MANIFEST, sealed=True).get("files", {})
    units = {record.parent for record in root.rglob(UNIT_FILE) if not _hidden(root, record)}
    inside, present = dict(_inside(root, units)), dict(_paths(root))
    differences = dict.fromkeys({*listed, *inside} - present.keys(), "it is gone")
    added = []
    for name, path in present.items():
        wanted = {files[name] for files in (listed, inside) if name in files}
        if wanted and wanted != {sha256(path)}:
            differences[name] = "its content has changed since it was written"
        elif not wanted and path.name != UNIT_FILE and units & {*path.parents}:
            differences[name] = "it was not there when its folder was finished"
        elif not wanted and listed:
            added.append(name)
    return ManifestCheck(len(present), dict(sorted(differences.items())), added, manifest_hash(root))


def _known(root: Path) -> Iterator[tuple[str, str]]:
    inside = dict(_inside(root, (record.parent for record in root.rglob(UNIT_FILE) if not _hidden(root, record))))
    for name, path in _paths(root):
        yield name, inside.get(name) or sha256(path)


def _inside(root: Path, units: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """The files of finished units with the digests that these keep."""
    for unit in units:
        for name, own in unit_record(unit).get("files", {}).items():
            yield (unit / name).relative_to(root).as_posix(), own


def _paths(root: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_file() and name not in NOT_LISTED and not _hidden(root, path):
            yield name, path


def _hidden(root: Path, path: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)
