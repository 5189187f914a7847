"""Whether a ledger is as it was written: edits, drops, changed order, a cut tail, foreign keys; each with its line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mllmu.core.errors import RunStoreError
from mllmu.requests.ledger import HEAD, Ledger, LedgerHead, RequestEntry, parse_entry
from mllmu.requests.signing import is_signed


class LedgerCheck(NamedTuple):
    """What was found.

    Attributes:
        num_entries: lines; ``head``: hash of the last.
        faults: what is not as it was written, with the line; none: all checks passed.
        limits: what these checks cannot exclude.
    """

    num_entries: int
    head: str
    faults: list[str]
    limits: list[str]


def check_ledger(folder: Path, *, public: str = "", head: str = "") -> LedgerCheck:
    """Check every entry of the ledger in a folder, and its head.

    Args:
        public: the public key (base64) that all entries must be signed with; empty: any one key.
        head: hash of an entry that must be there, e.g. from a certificate that was kept elsewhere.

    Raises:
        RunStoreError: there is no ledger.
    """
    ledger = Ledger(folder)
    if not ledger.path.is_file():
        raise RunStoreError(f"{folder}: has no ledger ({ledger.path.name}). Expected a folder of 'mllmu forget --out'.")
    parsed = [parse_entry(line) for line in ledger.lines()]
    entries = [entry for entry in parsed if isinstance(entry, RequestEntry)]
    key = public or next((entry.key for entry in entries), "")
    faults = [*_chain(parsed), *_signatures(parsed, key, given=bool(public))]
    faults += _head(ledger, parsed, key)
    if head and head not in {entry.hash for entry in entries}:
        faults.append(
            f"line {len(parsed) + 1}: the entry {head} is missing: the end was cut off, or this is another ledger"
        )
    ordered = sorted(faults, key=lambda fault: int(fault.split(":")[0].removeprefix("line ")))
    return LedgerCheck(len(parsed), entries[-1].hash if entries else "", ordered, _limits(key, public, head))


def _chain(parsed: Sequence[RequestEntry | str]) -> Iterator[str]:
    """Lines whose content or place has changed. What a line claims is believed behind it: one fault is told once."""
    places = {entry.hash for entry in parsed if isinstance(entry, RequestEntry)}
    previous, number = "", 0
    for line, entry in enumerate(parsed, start=1):
        if isinstance(entry, str):
            yield f"line {line}: is no entry ({entry})"
            previous, number = "?", number + 1
            continue
        if entry.own_hash != entry.hash:
            yield f"line {line}: was edited: its content does not have the hash that it was written with"
        if previous != "?" and (entry.previous, entry.number) != (previous, number + 1):
            if entry.previous and entry.previous not in places:
                yield f"line {line}: an entry before it was dropped or replaced (this is entry {entry.number})"
            else:
                yield f"line {line}: is not in its place (this is entry {entry.number})"
        previous, number = entry.hash, entry.number


def _signatures(parsed: Sequence[RequestEntry | str], key: str, *, given: bool) -> Iterator[str]:
    whose = "the given public key" if given else "the key of the first entry"
    for line, entry in enumerate(parsed, start=1):
        if isinstance(entry, str):
            continue
        if entry.key != key:
            yield f"line {line}: {'names another key than ' + whose if entry.key else 'is not signed'}"
        elif entry.key and not is_signed("mllmu ledger entry", entry.own_hash, entry.signature, key):
            yield f"line {line}: its signature is not one of {whose} on what it says"


def _head(ledger: Ledger, parsed: Sequence[RequestEntry | str], key: str) -> Iterator[str]:
    last = len(parsed)
    try:
        head = ledger.head()
    except RunStoreError as error:
        yield f"line {last}: {error}"
        return
    if head is None:
        if last > 1:
            yield f"line {last}: {HEAD}, which says where the ledger ends, is gone"
    elif head.count > last:
        yield f"line {last + 1}: the ledger is cut off: {HEAD} speaks of {head.count} entries"
    elif head.count < last - 1 or head.hash != getattr(parsed[head.count - 1], "hash", head.hash):
        yield f"line {head.count}: is not the last entry of which {HEAD} speaks"
    else:
        yield from _head_signature(head, key)


def _head_signature(head: LedgerHead, key: str) -> Iterator[str]:
    if head.key != key or (key and not is_signed("mllmu ledger head", head.text, head.signature, key)):
        yield f"line {head.count}: {HEAD} is not signed with the key of the entries"


def _limits(key: str, public: str, head: str) -> list[str]:
    """What remains possible although nothing was found."""
    found = []
    if not key:
        found.append("The entries are not signed: whoever can write this folder could have written them all anew.")
    elif not public:
        found.append(f"Whose key {key} is was not checked: whoever has no matter which key could have written it all.")
    if not head:
        found.append("Entries at the end may be missing together with their head: give --head from a certificate.")
    return found
