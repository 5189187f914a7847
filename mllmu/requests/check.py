"""Whether a certificate says what was measured: its signature, the ledger, the run behind it, and every number."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mllmu.config import load as recipes
from mllmu.core.errors import RunStoreError
from mllmu.core.manifest import manifest_hash
from mllmu.core.process import Progress
from mllmu.core.runfolder import RunFolder, read_json
from mllmu.pipeline.run import Run
from mllmu.requests import certificate
from mllmu.requests.evidence import Evidence, evidence_of
from mllmu.requests.ledger import LEDGER, Ledger
from mllmu.requests.ledger_check import check_ledger
from mllmu.requests.standing import ORDER
from mllmu.studies.verify import first_difference, verify_run
from mllmu.version import __version__


def verify_certificate(path: Path, progress: Progress, *, public: str = "", ask: bool = False) -> Iterator[str]:
    """Check a certificate (JSON) and everything it speaks of; says what was checked, and what could not be.

    Args:
        public: public key (base64) that it must be signed with.
        ask: also put a random 5 % of the questions to the models again.

    Raises:
        RunStoreError: the first thing that is not as the certificate says.
    """
    content = certificate.read(path)
    signature = _signature(path, content, public)
    _check_page(path, content)
    yield signature
    folder = path.resolve().parent.parent
    if not (folder / LEDGER).is_file():
        _check_words(path, content)
        yield f"{folder}: no ledger and no run folder here, so nothing else could be checked"
        return
    yield _ledger(folder, path, content, public)
    if any(entry.status == "purged" for entry in Ledger(folder).of(content["request"])):
        _check_words(path, content)
        yield f"{content['request']} was purged: its numbers cannot be computed again"
        return
    root = folder / content["request"]
    yield from verify_run(root, progress, ask=ask)
    if (own := manifest_hash(root)) != content["evidence"]:
        raise RunStoreError(
            f"{path}: speaks of the evidence {content['evidence']}, the run folder has {own}. A command has "
            "worked there since, or files were exchanged."
        )
    yield _numbers(root, path, content, progress)


def certificates_of(folder: Path) -> list[Path]:
    """The certificate of the request of a run folder, or those of a folder of requests, as far as there are any."""
    own = certificate.path_of(folder.absolute().parent, folder.absolute().name)
    return [own] if own.is_file() else sorted((folder / certificate.FOLDER).glob("*.json"))


def _signature(path: Path, content: dict[str, Any], public: str) -> str:
    key = public or content["key"]
    if not key:
        return "the certificate is not signed: whoever can write the file could have written it"
    if not certificate.signed_by(content, key):
        whose = "the given public key" if public else f"the key {key} that it names"
        raise RunStoreError(f"{path}: its signature is not one of {whose} on what it says.")
    return "the signature is right" if public else f"the signature is one of the key {key}; whose it is was not checked"


def _check_page(path: Path, content: dict[str, Any]) -> None:
    """RunStoreError if there is a page that shows something else than the certificate says."""
    page = path.with_suffix(".html")
    try:
        same = not page.is_file() or page.read_text(encoding="utf-8") == certificate.html(content)
    except UnicodeDecodeError:
        same = False
    if not same:
        raise RunStoreError(f"{page}: the page does not show what {path.name} says.{_written_by(content)}")


def _check_words(path: Path, content: dict[str, Any]) -> None:
    """RunStoreError if the sentences of a certificate are others than its numbers give."""
    _compare(path, content, certificate.words(Evidence.model_validate(content["measured"])))


def _compare(path: Path, content: dict[str, Any], again: dict[str, Any]) -> None:
    """RunStoreError at the first field that holds something else than was computed again."""
    for name, value in again.items():
        if content[name] != value:
            said = first_difference(content[name], value).removeprefix("value: ")
            raise RunStoreError(f"{path}: {name}: {said}.{_written_by(content)}")


def _written_by(content: dict[str, Any]) -> str:
    """What to do about a certificate that another version may have worded otherwise."""
    version = content["versions"]["mllmu"]
    other = f" It was written by mllmu {version}, this is {__version__}: check it with that version."
    return "" if version == __version__ else other


def _ledger(folder: Path, path: Path, content: dict[str, Any], public: str) -> str:
    found = check_ledger(folder, public=public, head=content["ledger"]["head"])
    if found.faults:
        raise RunStoreError(f"{folder / LEDGER}: {found.faults[0]}. 'mllmu requests {folder} verify' names all lines.")
    request, own = content["request"], Ledger(folder).entries()
    entry = next(each for each in own if each.hash == content["ledger"]["head"])
    verified = [e for e in own[: entry.number] if (e.request, e.status) == (request, "verified")]
    if not verified or entry.request != request or entry.status not in ("verified", "purged"):
        raise RunStoreError(f"{path}: is about request {request}, entry {entry.number} of the ledger is not.")
    told = {name: content[name] for name in ("date", "recipe", "evidence")}
    told |= {name: content["model"][name] for name in ("before", "after")}
    told |= {name: tuple(content[name]) for name in ("subjects", "scope")}
    for name, value in told.items():
        if getattr(verified[-1], name) != value:
            raise RunStoreError(f"{path}: {name} is {value}, entry {verified[-1].number} of the ledger says otherwise.")
    gone = certificate.purged(content, entry) if entry.status == "purged" else content | {"purged": ""}
    _compare(path, content, {"purged": gone["purged"], "ledger": content["ledger"] | {"entries": entry.number}})
    last = Ledger(folder).of(request)[-1]
    since = f"; the request is {last.status} since {last.date}" if last.number > entry.number else ""
    return f"the ledger is in order and holds the entry that the certificate repeats{since}"


def made_in(root: Path, progress: Progress) -> tuple[Run, str, str]:
    """The run of a request, and forget ratio and name of the model it made; RunStoreError if it does not say which."""
    order = read_json(root / ORDER, sealed=True)
    run = Run(recipes.load(root / RunFolder.RECIPE), root, progress)
    key, model = str(order.get("key")), str(order.get("model"))
    if key not in run.keys or model not in run.jobs:
        raise RunStoreError(f"{root / ORDER}: does not say which model was made. Restore it from a copy.")
    return run, key, model


def _numbers(root: Path, path: Path, content: dict[str, Any], progress: Progress) -> str:
    """Compute all that a certificate says of its run again; RunStoreError at the first difference."""
    run, key, model = made_in(root, progress)
    stored = json.loads(Evidence.model_validate(content["measured"]).model_dump_json())  # earlier ones lack defaults
    again = json.loads(json.dumps(certificate.of_run(run, evidence_of(run, key, model), run.jobs[model])))
    _compare(path, content | {"measured": stored, "base": content["model"]["base"]}, again)
    return "every number of the certificate was computed again from the stored replies"
