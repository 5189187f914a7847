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
from mllmu.requests.ledger import LEDGER, Ledger, RequestEntry
from mllmu.requests.signing import Signer
from mllmu.requests.standing import ORDER, rests_on, standing
from mllmu.requests.state import CURRENT, DeployedModel, current, deploy, model_hash, target_of, within

MERGED = "model"
"""In the folder of a purged request: the deployed adapter, which no longer consists of the earlier one and a change."""
KEPT = ("run.json", "recipe.yaml", "manifest.json", ORDER)
REPLAY = ".replay."
"""Begins the name of the folder that a replay works in; one that was killed leaves it there."""


def _purged(own: list[RequestEntry]) -> RequestEntry | None:
    return next((entry for entry in own if entry.status == "purged"), None)


def _model_of(root: Path) -> Path:
    """The file that names the model before a request, the first that a purge removes: without it no way leads back."""
    return root / RunFolder.model_unit("", TARGET) / RunFolder.MODEL_FILE


def _told(entry: RequestEntry) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in ("subjects", "scope", "recipe", "evidence")}


def _holding(folder: Path, entries: list[RequestEntry], request: str) -> list[str]:
    """The other requests whose folders hold an earlier model, or data of everyone: those that were not purged."""
    names = dict.fromkeys(entry.request for entry in entries if entry.request != request)
    return [name for name in names if any(path.is_dir() for path in _left_of(folder / name))]


def _no_purge_begun(folder: Path, entries: list[RequestEntry], deployed: DeployedModel | None) -> None:
    """RunStoreError if a purge has deployed its one adapter, and the ledger does not say so yet."""
    name = deployed.request if deployed and deployed.ref.adapters == (f"{deployed.request}/{MERGED}",) else ""
    if name and not _purged([entry for entry in entries if entry.request == name]):
        raise RunStoreError(f"{folder}: a purge of {name} was begun. Finish it: mllmu requests {folder} purge {name}")


def rollback(folder: Path, request: str, *, key: Path | None = None) -> RequestEntry:
    """Bring the model before a request back, byte for byte, and enter it into the ledger.

    The entry comes last, so a command that is stopped can be repeated. Where the model of another request is deployed
    that did not begin from this one, that stays, and the entry says so.

    Raises:
        RunStoreError: the request was not applied, was purged, is rolled back already, or a later one rests on it; or
            the earlier model is not the one that was unlearned.
    """
    with held(folder):
        ledger = Ledger(folder, Signer(key, apart_from=folder) if key else None)
        own, root = ledger.of(request), folder / request
        last = own[-1]
        if _purged(own):
            raise RunStoreError(f"{folder}: request {request} was purged: the earlier model is gone for good.")
        if last.status not in ("applied", "verified"):
            raise RunStoreError(f"{folder}: request {request} is {last.status}; there is nothing to roll back.")
        entries, deployed = ledger.entries(), current(folder)
        if later := rests_on(entries, request):
            raise RunStoreError(f"{folder}: request {later} rests on {request}. Roll {later} back first.")
        _no_purge_begun(folder, entries, deployed)
        if not _model_of(root).is_file():
            raise RunStoreError(
                f"{folder}: a purge of {request} was begun. Finish it: mllmu requests {folder} purge {request}"
            )
        before = within(target_of(root), request)
        intact(root / RunFolder.model_unit("", TARGET))
        found = model_hash(before, folder)
        if found != last.before:
            raise RunStoreError(
                f"{root}: the earlier model has the hash {found}, the ledger says {last.before}. Restore base and "
                "adapters from a copy. Nothing was changed."
            )
        ledger.ready()
        others = [one for one in standing(entries) if one.name != request]
        if deployed and others and deployed.hash != found and deployed.hash in others[-1].hashes:
            reason = f"the model of {deployed.request} is deployed, which did not begin from this one, and stays"
            told = {**_told(last), "reason": reason, "before": deployed.hash, "after": deployed.hash}
            return ledger.append(request, "rolled back", **told)
        deploy(folder, request, before, found)
        return ledger.append(request, "rolled back", before=last.after, after=found, **_told(last))


def purge(folder: Path, request: str, *, key: Path | None = None) -> RequestEntry:
    """Remove the earlier adapters, the facts, the pictures and the replies of a request for good.

    If the deployed model has adapters of the request, it becomes one adapter, from which the earlier one cannot be
    told; but an earlier model without adapters is the base, which the deployed one needs: it stays. The recipe, the
    order, the manifest, the numbers and the certificate stay. The entry and the certificate name what still leads back:
    such a base, and other requests whose folders hold an earlier model or the data. Nothing is said to be removed that
    is still there: the new adapter is deployed, the rest removed, the entry written, then the certificate. A command
    that is stopped is continued when it is repeated.

    Raises:
        RunStoreError: the request was applied and is not finished, or a later one holds copies of its model; or the
            deployed model or the certificate is not as it was written.
    """
    with held(folder):
        ledger = Ledger(folder, Signer(key, apart_from=folder) if key else None)
        own = ledger.of(request)
        entry, certified = _purged(own), _certified(folder, request, ledger)
        if entry and not list(_left(folder, request)) and _says_purged(folder, certified, entry):
            raise RunStoreError(f"{folder}: request {request} was purged already.")
        ledger.ready()
        entries = ledger.entries()
        after = "" if entry else _as_one_adapter(folder, entries, own[-1])
        alone = not entry and _from_base_alone(folder / request, own)
        _remove(folder, request)
        if entry is None:
            others, last = ", ".join(_holding(folder, entries, request)), own[-1]
            note = certificate.purge_note(base_alone=alone, others=others)
            entry = ledger.append(request, "purged", reason=note, before=last.after, after=after, **_told(last))
        if certified:
            certificate.write_content(folder, request, certificate.purged(certified, entry), ledger.signer)
        return entry


def _from_base_alone(root: Path, own: list[RequestEntry]) -> bool:
    """Whether a request was applied to a base without adapters."""
    return any(entry.status == "applied" for entry in own) and not recipes.load(root / RunFolder.RECIPE).finetune.given


def _certified(folder: Path, request: str, ledger: Ledger) -> dict[str, Any]:
    """The certificate of a request, which is to be signed again; empty if there is none.

    Raises:
        DataError: it is none. RunStoreError: it is not the one that was signed.
    """
    path = certificate.path_of(folder, request)
    content = certificate.read(path) if path.is_file() else {}
    if content and ledger.signer and not certificate.signed_by(content, ledger.signer.public):
        raise RunStoreError(
            f"{path}: its signature is not one of the key of the ledger on what it says. Restore it from a copy."
        )
    return content


def _says_purged(folder: Path, content: dict[str, Any], entry: RequestEntry) -> bool:
    """Whether a certificate, if there is one, and its page say that its request was purged."""
    if not content:
        return True
    page = certificate.path_of(folder, entry.request).with_suffix(".html")
    told = content == certificate.purged(content, entry)
    return told and page.is_file() and page.read_text(encoding="utf-8") == certificate.html(content)


def _as_one_adapter(folder: Path, entries: list[RequestEntry], last: RequestEntry) -> str:
    """Deploy one adapter in place of those in the folder of a request, if the deployed model has any there.

    Args:
        last: the last entry of the request.

    Returns:
        The hash of the deployed model; if it has none there, that of the last entry.
    """
    request = last.request
    if last.status == "applied":
        raise RunStoreError(
            f"{folder}: request {request} is applied. Finish it first, with the same command, or give it up: mllmu "
            f"rollback {folder} {request}"
        )
    if (later := rests_on(entries, request)) in _holding(folder, entries, request):
        raise RunStoreError(f"{folder}: request {later} holds a copy of the model before it. Purge {later} first.")
    deployed, merged = current(folder), (f"{request}/{MERGED}",)
    if deployed is None or not any(name.startswith(f"{request}/") for name in deployed.ref.adapters):
        return last.after
    stands = any(deployed.hash in one.hashes for one in standing(entries))
    if last.status == "rolled back" and deployed.ref.adapters != merged and not stands:
        raise RunStoreError(
            f"{folder}: the deployed model is the one before {request}, and its adapters lie there. Deploy another "
            "model first: carry out the next request, or keep this one."
        )
    if deployed.hash == last.before:
        raise RunStoreError(
            f"{folder}: a rollback of {request} was begun. Finish it: mllmu rollback {folder} {request}"
        )
    if model_hash(deployed.ref, folder) != deployed.hash:
        raise RunStoreError(
            f"{folder}: the deployed model is not the one that {CURRENT} names. Restore it from a copy. Nothing was "
            "removed."
        )
    if deployed.ref.adapters == merged:
        return deployed.hash
    ref = deployed.ref.model_copy(update={"adapters": merged})
    combine([folder / name for name in deployed.ref.adapters], folder / merged[0])
    after = model_hash(ref, folder)
    deploy(folder, request, ref, after)
    return after


def _left(folder: Path, request: str) -> Iterator[Path]:
    """What a purge has yet to remove: all but what says what was done, the deployed adapter, and files of the program.

    Hidden folders are work that was stopped, which holds the same facts.
    """
    yield from _left_of(folder / request)
    yield from folder.glob(f"{REPLAY}*")


def _left_of(root: Path) -> Iterator[Path]:
    for path in sorted(root.iterdir()) if root.is_dir() else ():
        if path.name not in (*KEPT, MERGED) and (path.is_dir() or not path.name.startswith(".")):
            yield path


def _remove(folder: Path, request: str) -> None:
    """Remove what is left of a request, the way back first."""
    _model_of(folder / request).unlink(missing_ok=True)
    for path in _left(folder, request):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


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
        elif not _model_of(folder / request).is_file():
            yield f"{request}: a purge was begun, so it cannot be made again"
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
    with tempfile.TemporaryDirectory(dir=folder, prefix=REPLAY) as name:
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
