"""Units that were made again from the same inputs, with ``--force``: their fingerprint tells the two apart.

What was made from the earlier one, and has the same settings, is then out of date: it is made again where it is needed.
Nothing here runs as long as nothing is made again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllmu.core.damage import other_settings
from mllmu.core.errors import RunStoreError
from mllmu.core.runfolder import ELAPSED_FILE, INPUTS_FILE, digest, file_digests, unit_record

if TYPE_CHECKING:
    from mllmu.core.runfolder import Unit

MARK = " made again "
"""Stands in a fingerprint between that of the inputs and the first digits of the digest of what was made of them."""
DIGITS = 8
_MARKS = re.compile(rf"{MARK}[0-9a-f]{{{DIGITS}}}")


def told_apart(folder: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a unit that takes the place of the one in a folder.

    Its fingerprint stays that of its inputs where the files are those that were made of these inputs first, as they are
    if nothing but the clock has changed; else it gets a mark. ``first`` in the record holds what was made first.
    """
    try:
        old = unit_record(folder)
    except RunStoreError:  # its record is damaged: then its files say whether it was another one
        old = {}
    old = {**record, **old, "files": old.get("files") or file_digests(folder)}
    own = _unmarked(old["fingerprint"] if only_remade(old["inputs"], record["inputs"]) else record["fingerprint"])
    first = {_unmarked(old["fingerprint"]): _content(old), **old.get("first", {})}
    content = _content(record)
    mark = "" if first.setdefault(own, content) == content else MARK + content[:DIGITS]
    return {**record, "fingerprint": own + mark, "first": first}


def only_remade(old: Any, new: Any) -> bool:
    """Whether two sets of inputs are the same but for units that were made again."""
    return bool(_unmarked(json.dumps(old, sort_keys=True)) == _unmarked(json.dumps(new, sort_keys=True)))


def check_only_remade(unit: Unit, advice: str = "") -> None:
    """Raise RunStoreError unless other inputs of a finished unit are those of before, made again.

    Args:
        advice: what to do then, where the unit may not be made again; it makes that an error too.
    """
    made = unit_record(unit.folder).get("inputs", {})
    if not only_remade(made, unit.inputs):
        raise other_settings(unit.folder, made, unit.inputs)
    if advice and made != unit.inputs:
        raise RunStoreError(f"{unit.folder}: was made from what has been made again since. {advice}")


def _unmarked(text: str) -> str:
    return _MARKS.sub("", text)


def _content(record: Mapping[str, Any]) -> str:
    """Digest of the files of a unit, without those about its making, and of its inputs with their marks."""
    files = {name: own for name, own in record["files"].items() if name not in (ELAPSED_FILE, INPUTS_FILE)}
    return digest([files, record["inputs"]])
