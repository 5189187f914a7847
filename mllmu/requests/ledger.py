"""The ledger of requests: one JSON object a line, each with the hash of the one before, appended and never changed.

    hash_n = SHA-256(canonical JSON of entry n without hash and signature)     previous_n = hash_(n-1), "" for the first

``requests.head.json`` beside it says how many entries there are and the hash of the last; every entry renews it. With a
key both are signed (Ed25519). A line is on disk before the head is written, so a process that is killed leaves at most
a head that is one entry behind, which the next entry mends.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from mllmu.core.errors import RunStoreError
from mllmu.core.records import Record
from mllmu.core.runfolder import read_json, write_atomic, write_json
from mllmu.requests.signing import Signer

LEDGER, HEAD = "requests.jsonl", "requests.head.json"
Status = Literal["received", "applied", "verified", "refused", "rolled back", "purged"]
UNSIGNED = {"hash", "signature"}
"""Fields of an entry that its hash does not cover."""


class RequestEntry(Record):
    """One event of one request.

    Attributes:
        number: of the entry, from 1.
        date: when it was written, UTC.
        request: id of the request, which also names its folder.
        status: what happened.
        reason: why it was refused; or what else there is to say.
        subjects: pseudonymous ids of the people.
        scope: attributes whose facts are to be forgotten.
        before, after: hash of the deployed model before and after; empty where it is not known yet.
        recipe: hash of the recipe; ``evidence``: hash of the manifest of the request's folder.
        previous: hash of the entry before; ``hash``: of this one.
        key: public key (base64) that ``signature`` (base64) belongs to; empty without a signature.
    """

    number: int = Field(ge=1)
    date: str
    request: str
    status: Status
    reason: str = ""
    subjects: tuple[str, ...] = ()
    scope: tuple[str, ...] = ()
    before: str = ""
    after: str = ""
    recipe: str = ""
    evidence: str = ""
    previous: str
    key: str = ""
    hash: str
    signature: str = ""

    @property
    def own_hash(self) -> str:
        """The hash of what the entry says."""
        return canonical_hash(self.model_dump(exclude=UNSIGNED))


class LedgerHead(Record):
    """How many entries there are, and the hash of the last; signed as the entries are."""

    count: int = Field(ge=1)
    hash: str
    key: str = ""
    signature: str = ""

    @property
    def text(self) -> str:
        """What is signed of it."""
        return f"{self.count}\n{self.hash}"


def canonical(value: Any) -> str:
    """JSON with sorted keys, without spaces, in UTF-8: the text that hashes are of."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def canonical_hash(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form, 64 hex digits."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


class Ledger:
    """The ledger in a folder; whoever appends must hold the folder (:func:`mllmu.core.lock.held`).

    Args:
        folder: the folder of all requests.
        signer: signs new entries; None leaves them unsigned.
    """

    def __init__(self, folder: Path, signer: Signer | None = None) -> None:
        self.folder, self.signer = folder, signer
        self.path, self.head_path = folder / LEDGER, folder / HEAD

    def entries(self) -> list[RequestEntry]:
        """All entries in order, each checked against its own hash and the one before; [] without a ledger.

        Raises:
            RunStoreError: a line is damaged, changed, or not where it was; :mod:`ledger_check` names all such lines.
        """
        found: list[RequestEntry] = []
        for number, line in enumerate(self.lines(), start=1):
            entry = parse_entry(line)
            previous = found[-1].hash if found else ""
            if isinstance(entry, str) or (entry.hash, entry.previous, entry.number) != (
                entry.own_hash,
                previous,
                number,
            ):
                raise RunStoreError(
                    f"{self.path}: line {number} is not as it was written. 'mllmu requests {self.folder} verify' says "
                    "more; restore the file from a copy. Nothing was added."
                )
            found.append(entry)
        return found

    def lines(self) -> list[str]:
        """The lines of the file."""
        text = self.path.read_bytes().decode("utf-8", errors="replace") if self.path.is_file() else ""
        return text.removesuffix("\n").split("\n") if text else []

    def head(self) -> LedgerHead | None:
        """The head; None without one. RunStoreError if it is damaged."""
        try:
            return LedgerHead.model_validate(read_json(self.head_path)) if self.head_path.is_file() else None
        except ValidationError:
            raise RunStoreError(f"{self.head_path}: is no head of a ledger. Restore it from a copy.") from None

    def of(self, request: str) -> list[RequestEntry]:
        """The entries of one request; RunStoreError if there is none."""
        every = self.entries()
        found = [entry for entry in every if entry.request == request]
        if not found:
            known = ", ".join(dict.fromkeys(entry.request for entry in every)) or "none"
            raise RunStoreError(f"{self.path}: knows no request '{request}'. Requests: {known}.")
        return found

    def ready(self) -> list[RequestEntry]:
        """All entries, where another one can be added; a head that a killed process left behind is renewed.

        Raises:
            RunStoreError: as :meth:`append`.
        """
        entries = self.entries()
        self._check_key(entries)
        self._check_head(entries)
        head = self.head()
        if entries and (head is None or head.hash != entries[-1].hash):
            self._renew(entries[-1])  # it is one entry behind, and must not fall two behind
        return entries

    def append(self, request: str, status: Status, **fields: Any) -> RequestEntry:
        """Add an entry about a request, and renew the head; the entry is on disk when this returns.

        Raises:
            RunStoreError: the ledger is damaged, cut off, or signed with another key than the signer's.
        """
        entries = self.ready()
        said: dict[str, Any] = {
            "number": len(entries) + 1,
            "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
            "request": request,
            "status": status,
            "previous": entries[-1].hash if entries else "",
            "key": self.signer.public if self.signer else "",
            **fields,
        }
        own = RequestEntry(**said, hash="").own_hash
        signature = self.signer.sign("mllmu ledger entry", own) if self.signer else ""
        entry = RequestEntry(**said, hash=own, signature=signature)
        before = self.path.read_bytes() if self.path.is_file() else b""
        write_atomic(self.path, before + (canonical(entry.model_dump()) + "\n").encode())
        self._renew(entry)
        return entry

    def _renew(self, last: RequestEntry) -> None:
        head = LedgerHead(count=last.number, hash=last.hash, key=last.key)
        signature = self.signer.sign("mllmu ledger head", head.text) if self.signer else ""
        write_json(self.head_path, head.model_copy(update={"signature": signature}).model_dump())

    def _check_key(self, entries: Sequence[RequestEntry]) -> None:
        used = entries[0].key if entries else None
        given = self.signer.public if self.signer else ""
        if used is not None and used != given:
            how = f"is signed with the key {used}" if used else "is not signed"
            advice = "Give that key with --key" if used else "Go on without --key, or begin a ledger in a new folder"
            raise RunStoreError(f"{self.path}: {how}, this entry would be with {given or 'none'}. {advice}.")

    def _check_head(self, entries: Sequence[RequestEntry]) -> None:
        """An entry may be there without its head, never a head without its entry."""
        head = self.head()
        known = [entry.hash for entry in entries[-2:]]
        if (head is None and len(entries) > 1) or (head is not None and head.hash not in known):
            raise RunStoreError(
                f"{self.path}: does not end as {self.head_path.name} says. 'mllmu requests {self.folder} verify' says "
                "more; restore both files from a copy. Nothing was added."
            )


def parse_entry(line: str) -> RequestEntry | str:
    """The entry in a line, or what is wrong with it."""
    try:
        return RequestEntry.model_validate_json(line)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        return f"{place}: {fault['msg']}" if place else str(fault["msg"])
