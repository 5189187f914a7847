"""Which base model stands at a path: the digests of its files, so that other weights at the same path are noticed."""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from mllmu.core.content import content_digest
from mllmu.core.errors import ModelError, RunStoreError
from mllmu.core.runfolder import UNIT_FILE, read_json, write_json
from mllmu.models.loading import explain_load_faults, source_of

CACHE = ".base.json"
"""In a run folder: the digests of the base, with size and times of every file, so that none is read twice."""
BASE = "base"
"""Among the inputs of a unit: the digests of the base that it was made on."""
READ = re.compile(
    r".*\.safetensors|.*\.safetensors\.index\.json|.*config\.json|tokenizer.*|chat_template.*|vocab.*|merges\.txt"
    r"|special_tokens_map\.json|added_tokens\.json|.*\.model|.*\.tiktoken|additional_chat_templates/.*\.jinja"
)
"""Files of a model that decide what it is and what it is asked: weights, settings, tokenizer, template, processor."""

_read: dict[Path, dict[str, Any]] = {}
"""What this process has read without a folder to keep it in."""


def base_files(
    path: str, revision: str | None = None, *, keep_in: Path | None = None, setting: str = "model.path"
) -> dict[str, str]:
    """The digests of a base model's files by name; of a repository of the hub, the commit that is used.

    Two spellings of a path give the same, and so does a copy of the folder. A file is read again when its size or one
    of its times has changed. If the folder is gone, what was kept of it is given: nothing can be made of it now, but
    what was made can still be scored.

    Args:
        keep_in: folder that keeps the digests.
        setting: that names the path, for errors.

    Raises:
        ModelError: there is no such folder or repository.
    """
    source = Path(source_of(path))
    kept = _kept(keep_in / CACHE) if keep_in else _read.get(source.resolve(), {})
    if not source.is_dir() and (keep_in is None or kept.get("path") != str(source.resolve())):
        return {"commit": _commit(path, revision, setting)}
    known: Mapping[str, Any] = kept.get("files", {})
    if not source.is_dir():
        return {name: str(entry["digest"]) for name, entry in known.items()}
    found = {name: _entry(file, known.get(name, {})) for name, file in _files(source).items()}
    now = {"path": str(source.resolve()), "files": found}
    _read[source.resolve()] = now
    if keep_in and now != kept:
        write_json(keep_in / CACHE, now)
    return {name: str(entry["digest"]) for name, entry in found.items()}


def _kept(file: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):  # it is only kept to save time
        kept = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(kept, dict) and isinstance(kept.get("files"), dict):
            return kept
    return {}


def _files(source: Path) -> dict[str, Path]:
    files = {file.relative_to(source).as_posix(): file for file in sorted(source.rglob("*")) if file.is_file()}
    return {name: file for name, file in files.items() if READ.fullmatch(name)}


def _entry(file: Path, known: Mapping[str, Any]) -> dict[str, Any]:
    stat = file.stat()
    stamp = {"size": stat.st_size, "changed": [stat.st_mtime_ns, stat.st_ctime_ns]}
    if known.items() >= stamp.items():
        return dict(known)
    return stamp | {"digest": content_digest(file)}


@cache
def _commit(path: str, revision: str | None, setting: str) -> str:
    with explain_load_faults(
        f"{setting}: '{path}' cannot be loaded", "Expected 'tiny', 'smol', a folder, or a hub id."
    ):
        config = cached_file(path, "config.json", revision=revision)
    if config is None:
        raise ModelError(f"{setting}: '{path}' has no config.json. Expected a model.")
    return Path(config).parent.name


def check_base(folder: Path, found: Mapping[str, str], path: str) -> None:
    """Raise RunStoreError if the unit of a fine-tuned model in a folder was made on other files of the base.

    Args:
        found: what :func:`base_files` gives now, for the base at ``path``.
    """
    made_on = read_json(folder / UNIT_FILE).get("inputs", {}).get(BASE)
    if made_on is None or made_on == found:
        return
    changed = [name for name in sorted({*made_on, *found}) if made_on.get(name) != found.get(name)]
    more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
    raise RunStoreError(
        f"{folder}: was made on another base model than the one at {path} now: {changed[0]}{more} "
        f"{'was' if len(changed) == 1 else 'were'} changed ({made_on.get(changed[0], 'not there')}, now "
        f"{found.get(changed[0], 'not there')}). Put the old files back, use --force to train again on the new ones, "
        "or --out for another run folder."
    )
