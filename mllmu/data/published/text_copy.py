"""The published training text and forget sets as two files, from the hub or from a local copy.

``ft_data.jsonl``     one person per line, {"ID": "001", "metadata": [{"Question": ..., "Answer": ...}, ...]}
``forget_ids.json``   {"forget_5": ["093", ...], "forget_10": [...], "forget_15": [...]}
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mllmu.core.errors import DataError
from mllmu.core.lock import claim
from mllmu.core.runfolder import write_atomic, write_json
from mllmu.data.files import read_text
from mllmu.data.published.ids import PersonIds, as_id
from mllmu.data.published.schema import TRAINING
from mllmu.data.published.store import SCHEMA_ADVICE, Store, Table

HUB = Path("MLLMMU/MLLMU-Bench")
TEXT, IDS = "ft_data.jsonl", "forget_ids.json"
TEXTS = (TEXT, "train_qa.jsonl")
"""Names under which a local copy may hold the text."""
FETCH_AGAIN = "Fetch the file again."
_FORGET = re.compile(r"forget_0*(\d+)")
Pairs = dict[str, list[dict[str, str]]]


class Fetched(NamedTuple):
    """What was written: people, training pairs, and people to forget by set."""

    people: int
    pairs: int
    forget: dict[str, int]


def fetch(source: Path, folder: Path) -> Fetched:
    """Write the two files into a folder.

    Args:
        source: a folder with the two files, a folder of the published parquet configs, or the name on the hub.
        folder: new, empty, or made by an earlier call.

    Raises:
        DataError: the source cannot be read or reached, or a forget set names people who have no text.
    """
    text = next((source / name for name in TEXTS if (source / name).is_file()), None)
    people, forget = _of_files(text, source / IDS) if text else _of_configs(_store(source))
    known = PersonIds(people)
    found = {name: [_find(known, person, name) for person in ids] for name, ids in forget.items()}
    claim(folder, "--to")
    lines = (json.dumps({"ID": person, "metadata": pairs}, ensure_ascii=False) for person, pairs in people.items())
    write_atomic(folder / TEXT, "".join(f"{line}\n" for line in lines))
    write_json(folder / IDS, found)
    return Fetched(len(people), sum(map(len, people.values())), {name: len(ids) for name, ids in found.items()})


def _store(source: Path) -> Store:
    try:
        store = Store(source)
        store.need((TRAINING,), f"Expected the config {TRAINING}, or a folder with {TEXT} and {IDS}.")
    except DataError as error:
        raise DataError(
            f"{error} The hub is asked for {HUB}; without a network fetch that on another machine, and give its "
            "folder with --from."
        ) from None
    return store


def _of_configs(store: Store) -> tuple[Pairs, dict[str, list[Any]]]:
    people: Pairs = {}
    training = store.table(TRAINING)
    training.need(("metadata",))
    for number, row in enumerate(training.rows(("metadata",))):
        for pair in _pairs(row["metadata"], training.where(number)):
            if not as_id(pair.get("ID")):
                raise DataError(f"{training.where(number)}: metadata: a pair has no ID. {SCHEMA_ADVICE}")
            people.setdefault(as_id(pair["ID"]), []).append({name: pair[name] for name in ("Question", "Answer")})
    ratios = {int(match[1]): name for name in store.configs if (match := _FORGET.fullmatch(name))}
    sets = {f"forget_{ratio}": ratios[ratio] for ratio in sorted(ratios)}
    return people, {key: _ids(store.table(name)) for key, name in sets.items()}


def _ids(table: Table) -> list[Any]:
    table.need(("ID",))
    return [row["ID"] for row in table.rows(("ID",))]


def _of_files(text: Path, ids: Path) -> tuple[Pairs, dict[str, list[Any]]]:
    people: Pairs = {}
    for number, line in enumerate(read_text(text, expected=FETCH_AGAIN).split("\n"), start=1):
        if line.strip():
            person = _json(line, f"{text}:{number}")
            if not isinstance(person, dict) or not as_id(person.get("ID")):
                raise DataError(f"{text}:{number}: no person. Expected {{'ID', 'metadata'}} on every line.")
            people.setdefault(as_id(person["ID"]), []).extend(_pairs(person.get("metadata"), f"{text}:{number}"))
    beside = f"Expected the forget sets beside {text.name}: {{'forget_5': [ids]}}."
    sets = _json(read_text(ids, expected=FETCH_AGAIN, missing=beside), str(ids))
    if not isinstance(sets, dict) or not all(isinstance(of_set, list) for of_set in sets.values()):
        raise DataError(f"{ids}: no forget sets. Expected {{'forget_5': [ids], ...}}.")
    return people, sets


def _pairs(cell: Any, where: str) -> Iterator[dict[str, Any]]:
    pairs, expected = _json(cell, where) if isinstance(cell, str) else cell, "pairs of Question and Answer"
    if not isinstance(pairs, list | None):
        raise DataError(f"{where}: metadata: expected a list of {expected}, got {str(pairs)[:80]}. {FETCH_AGAIN}")
    for pair in pairs or ():
        if not isinstance(pair, dict) or not all(isinstance(pair.get(name), str) for name in ("Question", "Answer")):
            raise DataError(f"{where}: metadata: expected {expected}, got {str(pair)[:80]}. {FETCH_AGAIN}")
        yield pair


def _json(text: str, where: str) -> Any:
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()  # JSON can spell half a surrogate pair, which no file can hold
        return value
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON ({error}). {FETCH_AGAIN}") from None


def _find(known: PersonIds, person: Any, name: str) -> str:
    found = known.find(person)
    if found is None:
        raise DataError(f"{name}: no person '{person}' has training text. Text and sets are not of one data set.")
    return found
