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
from mllmu.requests.evidence import evidence_of
from mllmu.requests.forget import ORDER
from mllmu.requests.ledger import LEDGER, Ledger
from mllmu.requests.ledger_check import check_ledger
from mllmu.studies.verify import first_difference, verify_run


def verify_certificate(path: Path, progress: Progress, *, public: str = "", ask: bool = False) -> Iterator[str]:
    """Check a certificate (JSON) and everything it speaks of; says what was checked, and what could not be.

    Args:
        public: public key (base64) that it must be signed with.
        ask: also put a random 5 % of the questions to the models again.

    Raises:
        RunStoreError: the first thing that is not as the certificate says.
    """
    content = certificate.read(path)
    yield _signature(path, content, public)
    folder = path.resolve().parents[1]
    if not (folder / LEDGER).is_file():
        yield f"{folder}: no ledger and no run folder here, so nothing else could be checked"
        return
    yield _ledger(folder, path, content, public)
    if content["purged"]:
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


def _signature(path: Path, content: dict[str, Any], public: str) -> str:
    key = public or content["key"]
    if not key:
        return "the certificate is not signed: whoever can write the file could have written it"
    if not certificate.signed_by(content, key):
        whose = "the given public key" if public else f"the key {key} that it names"
        raise RunStoreError(f"{path}: its signature is not one of {whose} on what it says.")
    page = path.with_suffix(".html")
    if page.is_file() and page.read_text(encoding="utf-8") != certificate.html(content):
        raise RunStoreError(f"{page}: the page does not show what {path.name} says.")
    return "the signature is right" if public else f"the signature is one of the key {key}; whose it is was not checked"


def _ledger(folder: Path, path: Path, content: dict[str, Any], public: str) -> str:
    found = check_ledger(folder, public=public, head=content["ledger"]["head"])
    if found.faults:
        raise RunStoreError(f"{folder / LEDGER}: {found.faults[0]}. 'mllmu requests {folder} verify' names all lines.")
    ledger = Ledger(folder)
    entry = next(e for e in ledger.entries() if e.hash == content["ledger"]["head"])
    told = {"request": content["request"], "evidence": content["evidence"], "recipe": content["recipe"]}
    told |= {} if content["purged"] else content["model"] | {"subjects": tuple(content["subjects"])}
    for name, value in told.items():
        if name != "base" and getattr(entry, name) != value:
            raise RunStoreError(f"{path}: {name} is {value}, entry {entry.number} of the ledger says otherwise.")
    last = ledger.of(content["request"])[-1]
    since = f"; the request is {last.status} since {last.date}" if last.number > entry.number else ""
    return f"the ledger is in order and holds the entry that the certificate repeats{since}"


def _numbers(root: Path, path: Path, content: dict[str, Any], progress: Progress) -> str:
    order = read_json(root / ORDER)
    run = Run(recipes.load(root / RunFolder.RECIPE), root, progress)
    again = json.loads(evidence_of(run, order["key"], order["model"]).model_dump_json())
    if again != content["measured"]:
        raise RunStoreError(f"{path}: measured: {first_difference(content['measured'], again)}.")
    return "every number of the certificate was computed again from the stored replies"
