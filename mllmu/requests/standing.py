"""Which requests stand, which model the last of them left, which rest on which, and what they have taken so far.

Requests are told apart by the hashes of the models before and after them. The model after a request gets another hash
where a purge makes one adapter of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from mllmu.core.errors import RunStoreError
from mllmu.core.runfolder import read_json
from mllmu.requests.ledger import Ledger, RequestEntry

ORDER = "order.json"
"""In the folder of a request: what was asked, and what came of it."""


class StandingRequest(NamedTuple):
    """A request whose result counts: applied, and neither refused nor rolled back.

    Attributes:
        name, subjects: of its entries.
        before: hash of the model it began from.
        hashes: of the model it left, the latest last.
        finished: verified or purged.
    """

    name: str
    subjects: tuple[str, ...]
    before: str
    hashes: tuple[str, ...]
    finished: bool


class TakenFacts(NamedTuple):
    """What requests have taken: all about ``people``, and of others attributes by person."""

    people: tuple[str, ...] = ()
    facts: tuple[tuple[str, tuple[str, ...]], ...] = ()


NOTHING = TakenFacts()


def standing(entries: Sequence[RequestEntry]) -> list[StandingRequest]:
    """The requests that stand, in the order in which they were applied."""
    found = []
    for applied in (entry for entry in entries if entry.status == "applied"):
        statuses = {entry.status for entry in entries if entry.request == applied.request}
        if "rolled back" not in statuses and ("refused" not in statuses or "verified" in statuses):
            hashes, finished = hashes_after(entries, applied), bool(statuses & {"verified", "purged"})
            found.append(StandingRequest(applied.request, applied.subjects, applied.before, hashes, finished))
    return found


def hashes_after(entries: Sequence[RequestEntry], applied: RequestEntry) -> tuple[str, ...]:
    """The hashes of the model that a request left: as it was applied, and as purges of any request wrote it anew."""
    found = [applied.after]
    for entry in entries:
        if entry.status == "purged" and entry.before == found[-1] != entry.after:
            found.append(entry.after)
    return tuple(found)


def rests_on(entries: Sequence[RequestEntry], request: str) -> str:
    """The last standing request that began from the model which another one left; empty if there is none."""
    own = {found for entry in entries if (entry.request, entry.status) == (request, "applied")
           for found in hashes_after(entries, entry)}  # fmt: skip
    later = [one.name for one in standing(entries) if one.name != request and one.before in own]
    return later[-1] if later else ""


def check_start(folder: Path, request: str, before: Callable[[], str]) -> None:
    """Make sure that a request begins from the model that the last standing one left, so that nothing comes back.

    Args:
        folder: of requests; ``request``: the name of the new one, empty if it is to be in another folder.
        before: gives the hash of the model that the request begins from.

    Raises:
        RunStoreError: it is another model, or the last request is not finished.
    """
    others = [one for one in standing(Ledger(folder).entries()) if one.name != request]
    if not others:
        return
    last = others[-1]
    if not last.finished:
        raise RunStoreError(
            f"{folder}: request {last.name} is applied and not finished. Repeat its command first, or give it up: "
            f"mllmu rollback {folder} {last.name}"
        )
    if (found := before()) != last.hashes[-1]:
        raise RunStoreError(
            f"{folder}: the model to begin from has the hash {found}, but {last.name}, the last request that stands, "
            f"left the one with the hash {last.hashes[-1]}. What was deleted since would come back. Name the folder of "
            f"requests as the model: mllmu forget {folder} ...; if you did, current.json there is an older one: "
            f"restore it from a copy, or roll {last.name} back: mllmu rollback {folder} {last.name}"
        )


def taken_so_far(folders: Sequence[Path]) -> TakenFacts:
    """What the standing requests of some folders have taken.

    Raises:
        RunStoreError: the order of one is not there, or is not that of the ledger.
    """
    people, facts = dict[str, None](), dict[str, dict[str, None]]()
    for path, one in ((at / one.name / ORDER, one) for at in folders for one in standing(Ledger(at).entries())):
        order = read_json(path, sealed=True)
        if tuple(order.get("subjects", ())) != one.subjects:
            raise RunStoreError(f"{path}: does not name the people of the ledger. Restore it from a copy.")
        some = order.get("facts") or {}
        people |= dict.fromkeys(person for person in one.subjects if person not in some)
        for person, names in some.items():
            facts.setdefault(person, {}).update(dict.fromkeys(names))
    rest = tuple((person, tuple(names)) for person, names in facts.items() if person not in people)
    return TakenFacts(tuple(people), rest)
