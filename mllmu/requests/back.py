"""The way back: the earlier model again, what makes that impossible for good, and the same model made once more."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from mllmu.config import load as recipes
from mllmu.core.content import sha256
from mllmu.core.errors import RunStoreError
from mllmu.core.lock import held
from mllmu.core.names import TARGET
from mllmu.core.process import Progress
from mllmu.core.runfolder import RunFolder, intact, read_json
from mllmu.pipeline.data import make_data
from mllmu.pipeline.finetune import finetune_model
from mllmu.pipeline.record import settle_threads
from mllmu.pipeline.run import Run
from mllmu.pipeline.taken import adapter_files
from mllmu.pipeline.unlearn import unlearn_model
from mllmu.requests import certificate
from mllmu.requests.combined import combine
from mllmu.requests.forget import ORDER
from mllmu.requests.ledger import LEDGER, Ledger, RequestEntry
from mllmu.requests.signing import Signer
from mllmu.requests.state import current, deploy, model_hash, target_of, within

MERGED = "model"
"""In the folder of a purged request: the deployed adapter, which no longer consists of the earlier one and a change."""
KEPT = ("run.json", "recipe.yaml", "manifest.json", ORDER)


def _last(ledger: Ledger, request: str) -> tuple[RequestEntry, list[RequestEntry]]:
    own = ledger.of(request)
    return own[-1], own


def _purged(own: list[RequestEntry]) -> bool:
    return any(entry.status == "purged" for entry in own)


def _rests_on(ledger: Ledger, request: str) -> str:
    """The latest later request that was applied and not rolled back; empty if there is none."""
    entries = ledger.entries()
    first = next(entry.number for entry in entries if entry.request == request)
    standing = dict[str, bool]()
    for entry in entries:
        if entry.number > first and entry.request != request:
            standing[entry.request] = entry.status in ("applied", "verified", "purged") or (
                entry.status != "rolled back" and standing.get(entry.request, False)
            )
    return next((name for name in reversed(standing) if standing[name]), "")


def rollback(folder: Path, request: str, *, key: Path | None = None) -> RequestEntry:
    """Bring the model before a request back, byte for byte, and enter it into the ledger.

    Raises:
        RunStoreError: the request was not applied, was purged, is rolled back already, or a later one rests on it; or
            the earlier model is not the one that was unlearned.
    """
    with held(folder):
        ledger = Ledger(folder, Signer(key, apart_from=folder) if key else None)
        last, own = _last(ledger, request)
        if _purged(own):
            raise RunStoreError(f"{folder}: request {request} was purged: the earlier model is gone for good.")
        if last.status not in ("applied", "verified"):
            raise RunStoreError(f"{folder}: request {request} is {last.status}; there is nothing to roll back.")
        if later := _rests_on(ledger, request):
            raise RunStoreError(f"{folder}: request {later} rests on {request}. Roll {later} back first.")
        root = folder / request
        before = within(target_of(root), request)
        intact(root / RunFolder.model_unit("", TARGET))
        found = model_hash(before, folder)
        if found != last.before:
            raise RunStoreError(
                f"{root}: the earlier model has the hash {found}, the ledger says {last.before}. Restore base and "
                "adapters from a copy. Nothing was changed."
            )
        told = {name: getattr(last, name) for name in ("subjects", "scope", "recipe", "evidence")}
        entry = ledger.append(request, "rolled back", before=last.after, after=found, **told)
        deploy(folder, request, before, found)
        return entry


def purge(folder: Path, request: str, *, key: Path | None = None) -> RequestEntry:
    """Remove the earlier adapters, the facts, the pictures and the replies of a request for good.

    The deployed model becomes one adapter, from which the earlier one cannot be told. The recipe, the order, the
    manifest, the numbers and the certificate stay.

    Raises:
        RunStoreError: the request is not verified, or a later one holds copies of its model.
    """
    with held(folder):
        ledger = Ledger(folder, Signer(key, apart_from=folder) if key else None)
        last, own = _last(ledger, request)
        if _purged(own):
            raise RunStoreError(f"{folder}: request {request} was purged already.")
        if last.status not in ("verified", "rolled back", "refused"):
            raise RunStoreError(
                f"{folder}: request {request} is {last.status}. Finish it first, with the same command."
            )
        if later := _rests_on(ledger, request):
            raise RunStoreError(f"{folder}: request {later} holds a copy of the model before it. Purge {later} first.")
        deployed, root, after = current(folder), folder / request, last.after
        if deployed is not None and any(name.startswith(f"{request}/") for name in deployed.ref.adapters):
            if last.status == "rolled back":
                raise RunStoreError(
                    f"{folder}: the deployed model is the one before {request}, and its adapters lie there. Deploy "
                    "another model first: carry out the next request, or keep this one."
                )
            ref = deployed.ref.model_copy(update={"adapters": (f"{request}/{MERGED}",)})
            combine([folder / name for name in deployed.ref.adapters], root / MERGED)
            after = model_hash(ref, folder)
            deploy(folder, request, ref, after)
        note = "earlier adapters, facts, pictures and replies were removed; no way back"
        told = {name: getattr(last, name) for name in ("subjects", "scope", "recipe", "evidence")}
        entry = ledger.append(request, "purged", reason=note, before=last.after, after=after, **told)
        _remove(root)
        _tell(folder, request, entry, ledger)
        return entry


def _remove(root: Path) -> None:
    """Everything of a request but what says what was done, and the deployed adapter."""
    for path in sorted(root.iterdir()):
        if path.name in KEPT or path.name == MERGED or path.name.startswith("."):
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _tell(folder: Path, request: str, entry: RequestEntry, ledger: Ledger) -> None:
    """The certificate says that there is no way back, and what cannot be checked any more."""
    path = certificate.path_of(folder, request)
    if not path.is_file():
        return
    head = ledger.head()
    content: dict[str, Any] = certificate.read(path) | {
        "purged": f"Purged on {entry.date}: the earlier adapters, the facts, pictures and replies of this request were "
        "removed from the folder of requests. It cannot be rolled back or made again, and its replies cannot be scored "
        f"again. The model is one adapter since then, with the hash {entry.after}.",
        "ledger": {"entries": head.count, "head": head.hash} if head else {},
    }
    certificate.write_content(folder, request, content, ledger.signer)


def replay(folder: Path, progress: Progress) -> Iterator[str]:
    """Make the model of every request once more, and compare; says what was found, one sentence per request.

    Raises:
        RunStoreError: a model before a request, or a recipe, is not the one of the ledger.
    """
    if not (folder / LEDGER).is_file():
        raise RunStoreError(f"{folder}: has no ledger ({LEDGER}). Expected a folder of 'mllmu forget --out'.")
    entries = Ledger(folder).entries()
    for request in dict.fromkeys(entry.request for entry in entries):
        own = [entry for entry in entries if entry.request == request]
        applied = next((entry for entry in own if entry.status == "applied"), None)
        if applied is None:
            yield f"{request}: was not applied ({own[-1].status})"
        elif _purged(own):
            yield f"{request}: was purged, so it cannot be made again"
        else:
            yield f"{request}: {_again(folder, request, applied, progress)}"


def _again(folder: Path, request: str, applied: RequestEntry, progress: Progress) -> str:
    root = folder / request
    order = read_json(root / ORDER)
    if model_hash(within(target_of(root), request), folder) != applied.before:
        raise RunStoreError(f"{root}: the model before the request is not the one of the ledger.")
    recipe = recipes.load(root / RunFolder.RECIPE)
    if sha256(root / RunFolder.RECIPE) != applied.recipe:
        raise RunStoreError(f"{root / RunFolder.RECIPE}: is not the recipe of the ledger.")
    with tempfile.TemporaryDirectory(dir=folder, prefix=".replay.") as name:
        again = Path(name)
        for part in (RunFolder.RECORD, RunFolder.RECIPE):
            shutil.copyfile(root / part, again / part)
        for part in (RunFolder.DATA, RunFolder.model_unit("", TARGET)):
            shutil.copytree(root / part, again / part)
        run = Run(recipe, again, progress)
        settle_threads(run)
        make_data(run)
        finetune_model(run, order["key"], TARGET, run.data.people)
        unlearn_model(run, order["key"], order["model"])
        unit = RunFolder.model_unit(order["key"], order["model"])
        return compare(root / unit, again / unit)


def compare(stored: Path, again: Path) -> str:
    """Whether two adapters have the same bytes, or how far apart they are."""
    names = adapter_files(stored)
    if names == adapter_files(again) and all(sha256(stored / n) == sha256(again / n) for n in names):
        return f"made again, byte for byte the same ({', '.join(names)})"
    squares, total, largest = 0.0, 0.0, 0.0
    for name in (name for name in names if name.endswith(".safetensors")):
        one, other = load_file(stored / name), load_file(again / name)
        for tensor, value in one.items():
            difference = (value.double() - other[tensor].double()) if tensor in other else value.double()
            squares += float((difference**2).sum())
            total += float((value.double() ** 2).sum())
            largest = max(largest, float(difference.abs().max()))
    distance = math.sqrt(squares / total) if total else 0.0
    return (
        f"made again with other bytes: {distance:.2e} of its size away, no weight by more than {largest:.2e}. Expected "
        "on another machine, or with other versions or numbers of threads"
    )
