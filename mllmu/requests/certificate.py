"""The certificate of a request: one page for an auditor, as HTML to print and as JSON to check.

The wording claims what was measured and nothing else: what the model answers to these questions, under these attacks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from pydantic import BaseModel, Field, ValidationError, field_validator

from mllmu.config.recipe import Job
from mllmu.core.attacked import PLAIN
from mllmu.core.errors import DataError, one_line
from mllmu.core.names import FOLDER_NAME
from mllmu.core.records import Record
from mllmu.core.runfolder import RunFolder, read_json, write_atomic
from mllmu.pipeline.run import Run
from mllmu.requests.evidence import IN_WORDS, Evidence, MeasuredShare
from mllmu.requests.ledger import LedgerHead, RequestEntry, canonical
from mllmu.requests.signing import Signer, is_signed
from mllmu.version import __version__

FOLDER = "certificates"
FEW_QUESTIONS = 30
"""Of fewer questions the page says first how few they are."""
FORMAT: Literal["mllmu-certificate-1"] = "mllmu-certificate-1"
REMOVED, NO_WAY = "facts, pictures and replies were removed", "; no way back"
HELD_BY = (
    ". Other folders still hold an earlier model, or the data: {}. Until these requests are purged a way leads back."
)
"""What the ledger says of a purge, and whether other requests still hold what was removed."""
LABELS = {
    "forget": "Questions about the people to forget",
    "test": "The same, in other words and with other pictures",
    "through": "The same, after another fact about the same person has been told",
    "holdout": "Questions about people the model was never taught (yardstick)",
    "kept": "Questions about other facts of the same people, which stay",
    "retain": "Questions about other people the model was taught",
    "celebrity": "Questions about well-known people",
}
LABELS_OF_FACTS = LABELS | {
    "forget": "Questions about the facts to forget",
    "holdout": "Questions about the same facts of people the model was never taught (yardstick)",
}
"""What the sets are called where single facts are to be forgotten."""
NOT_CLAIMED = (
    "That the facts are gone from inside the model: what its weights (millions or billions of numbers) hold cannot be "
    "read off them, only answers can be tested.",
    "Anything about questions, languages, pictures and attempts that were not tried.",
    "That nobody can work the facts out from what the model still knows, or from other sources.",
    "Anything about copies of the earlier model, of its training data, or of their backups, wherever they are. Whoever "
    "has the earlier model, or takes the addition away from the new one, has the facts back.",
    "That the result equals a model trained without what is forgotten. None was trained: the yardstick is what the "
    "model says about other people it was never taught. They may be easier or harder to guess: weaker evidence.",
)
BASE_REMAINS = "the earlier model was the base alone, which is not removed"
"""In the entry of a purge: the model before the request had no adapters."""


class CertifiedModel(Record):
    """The name of the base, and the hashes of the model before and after."""

    base: str
    before: str
    after: str


class CertifiedEntry(Record):
    """The entry of the ledger that a certificate repeats: its number, and its hash."""

    entries: int = Field(ge=1)
    head: str = Field(pattern="^[0-9a-f]{64}$")


class NamedMethod(BaseModel, extra="allow"):
    """A method with its settings."""

    name: str


class MadeWith(BaseModel, extra="allow"):
    """Versions of libraries."""

    mllmu: str
    torch: str
    transformers: str


class MadeOn(BaseModel, extra="allow"):
    """A machine."""

    machine: str


class Certificate(Record):
    """What the file of a certificate holds."""

    format: Literal["mllmu-certificate-1"]
    request: str = Field(pattern=FOLDER_NAME)
    date: str
    subjects: tuple[str, ...]
    scope: tuple[str, ...] = Field(min_length=1)
    model: CertifiedModel
    method: NamedMethod
    recipe: str
    evidence: str
    measured: Evidence
    statements: tuple[str, ...]
    not_claimed: tuple[str, ...]
    ledger: CertifiedEntry
    versions: MadeWith
    hardware: MadeOn
    purged: str
    key: str
    signature: str

    @field_validator("measured")
    @classmethod
    def _has_what_is_compared(cls, value: Evidence) -> Evidence:
        rows = {row.split for row in value.rows if not row.modality}
        if not {"forget", "holdout"} <= rows <= LABELS.keys():
            raise ValueError(f"expected rows of forget and holdout, and of no sets but {', '.join(LABELS)}")
        return value


def show(measured: MeasuredShare, *, signed: bool = False) -> str:
    """A share in percent, or with ``signed`` a difference of two in percentage points, with its interval.

    >>> show(MeasuredShare(value=0.125, low=0.05, high=0.3, num=40)), show(MeasuredShare(value=None))
    ('12.5 % (5.0 to 30.0)', 'not measured')
    >>> show(MeasuredShare(value=0.4, low=-0.05, high=0.8), signed=True)
    '+40.0 points (-5.0 to +80.0)'
    """
    if measured.value is None:
        return "not measured"
    plus, unit = ("+", "points") if signed else ("", "%")
    text = f"{100 * measured.value:{plus}.1f} {unit}"
    if measured.low is None or measured.high is None:
        return text
    return f"{text} ({100 * measured.low:{plus}.1f} to {100 * measured.high:{plus}.1f})"


def sentences(evidence: Evidence) -> list[str]:
    """What was shown and what was not, in plain sentences; the first is the result."""
    row = {one.split: one for one in evidence.rows if not one.modality}
    forget, yardstick, excess = row["forget"], row["holdout"], evidence.excess
    what = f"these facts of {evidence.num_forget} people" if evidence.partial else f"{evidence.num_forget} people"
    found = [
        f"{_verdict(evidence)} Right answers: {show(forget.before)} before, {show(forget.after)} after, of "
        f"{forget.after.num} questions about {what}; {show(yardstick.before)} about {evidence.num_holdout} people it "
        f"was never taught. Difference to these, in percentage points: {show(excess, signed=True)}.",
    ]
    if forget.after.num < FEW_QUESTIONS:
        found.append(
            f"Only {forget.after.num} questions could be asked: the ranges in brackets, not the numbers before them, "
            "say what is known."
        )
    if evidence.reused:
        found.append(
            "So few facts were to be forgotten that the settings were chosen by these same questions. The result may "
            "look better than it would on questions that nothing was chosen by."
        )
    if worst := evidence.worst.get("white box"):
        most = f"the one that found most ({worst.label}) got {show(worst.forget)} right answers about them"
        if worst.label == IN_WORDS[PLAIN]:
            most = f"none found more than plain questions, which got {show(worst.forget)} right answers about them"
        found.append(
            f"Of {sum(not one.reason for one in evidence.attacks)} attempts to get the facts back, {most}: "
            f"{show(worst.excess, signed=True)} against people it was never taught."
        )
    for split, who in (
        ("kept", "About other facts of the same people"),
        ("retain", "About other people it was taught"),
    ):
        if split in row:
            found.append(f"{who}: {show(row[split].before)} before, {show(row[split].after)} after.")
    without = "these facts" if evidence.partial else "these people"
    found.append(
        "Not shown: that the facts are gone from inside the model; anything about other questions or attempts. There "
        f"is no model trained without {without} to compare with, but only other people: weaker evidence."
    )
    return found


def _verdict(evidence: Evidence) -> str:
    forget = next(row for row in evidence.rows if row.split == "forget" and not row.modality)
    excess, before, after = evidence.excess, forget.before, forget.after
    these, others = "these people", "people it was never taught"
    if evidence.partial:
        these, others = "these facts", "the same facts of people it was never taught"
    if excess.value is None or before.value is None or after.value is None:
        return "Nothing could be measured."
    if after.value >= before.value:
        return f"The model answers no fewer questions about {these} than before: nothing was shown to be forgotten."
    if excess.low is None:
        return f"The model answers fewer questions about {these} than before; too few were asked to say more."
    if excess.low > 0:
        return f"The model still answers more about {these} than about {others}."
    return f"Asked these questions, the model no longer answers measurably more about {these} than about {others}."


def of_run(run: Run, evidence: Evidence, method: Job) -> dict[str, Any]:
    """What a certificate says of the run behind it, by its field; ``base`` is one of ``model``."""
    record = read_json(run.root / RunFolder.RECORD)
    versions = {"mllmu": record.get("mllmu", __version__), **record.get("versions", {})}
    return {
        "measured": json.loads(evidence.model_dump_json()),
        **words(evidence),
        "base": Path(run.recipe.model.path).name,
        "method": {"name": method.plugin, **{k: v for k, v in method.settings.items() if k != "name"}},
        "versions": versions,
        "hardware": record.get("hardware", {}),
    }


def words(evidence: Evidence) -> dict[str, list[str]]:
    """What a certificate says of its numbers, and what it does not claim."""
    return {"statements": sentences(evidence), "not_claimed": list(NOT_CLAIMED)}


def write(
    folder: Path, request: str, evidence: Evidence, entry: RequestEntry, head: LedgerHead, *, signer: Signer | None,
    run: Run, method: Job,
) -> Path:  # fmt: skip
    """Write the certificate of a request as JSON and HTML; returns the page."""
    own = of_run(run, evidence, method)
    content: dict[str, Any] = {
        "format": FORMAT,
        "request": request,
        "date": entry.date,
        "subjects": list(entry.subjects),
        "scope": list(entry.scope),
        "model": {"base": own.pop("base"), "before": entry.before, "after": entry.after},
        "recipe": entry.recipe,
        "evidence": entry.evidence,
        **own,
        "ledger": {"entries": head.count, "head": head.hash},
        "purged": "",
        "key": signer.public if signer else "",
    }
    return write_content(folder, request, content, signer)


def purged(content: dict[str, Any], entry: RequestEntry) -> dict[str, Any]:
    """A certificate that says by an entry of the ledger what is gone, what remains, and what cannot be checked."""
    alone, merged = BASE_REMAINS in entry.reason, entry.after != entry.before
    said = (
        f"Purged on {entry.date}: {'' if alone else 'the earlier adapters, '}the facts, pictures and replies of this "
        "request were removed from the folder of requests. It cannot be rolled back or made again, and its replies "
        "cannot be scored again."
    )
    if merged:
        said += f" The model is one adapter since then, with the hash {entry.after}."
    if alone:
        said += (
            " The model before this request was the base alone, without adapters. The base was not removed: whoever "
            "has it, or takes the adapter away from the model, has the facts back."
        )
    _, others, named = entry.reason.partition(HELD_BY[: HELD_BY.index("{")])
    return content | {
        "purged": said + others.removeprefix(".") + named,
        "ledger": {"entries": entry.number, "head": entry.hash},
    }


def purge_note(*, base_alone: bool, others: str) -> str:
    """What the ledger says of a purge.

    Args:
        base_alone: the model before the request had no adapters.
        others: the requests whose folders still hold an earlier model or the data; empty if none does.
    """
    left = f"; {BASE_REMAINS}" if base_alone else "" if others else NO_WAY
    return f"{'' if base_alone else 'earlier adapters, '}{REMOVED}{left}{HELD_BY.format(others) if others else ''}"


def path_of(folder: Path, request: str) -> Path:
    """Where the certificate of a request is, as JSON; the page is beside it."""
    return folder / FOLDER / f"{request}.json"


def write_content(folder: Path, request: str, content: dict[str, Any], signer: Signer | None) -> Path:
    """Sign a certificate and write it as HTML and JSON; returns the page. A page is there wherever a JSON file is."""
    content = {name: value for name, value in content.items() if name != "signature"}
    signature = signer.sign("mllmu certificate", canonical(content)) if signer else ""
    content["signature"] = signature
    path = path_of(folder, request)
    page = path.with_suffix(".html")
    write_atomic(page, html(content))
    write_atomic(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return page


def read(path: Path) -> dict[str, Any]:
    """A certificate as it was written; every field is there, and of its type.

    Raises:
        DataError: no certificate.
    """
    expected = "Expected certificates/<request>.json, as 'mllmu forget' writes it."
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        canonical(content).encode()
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: no certificate ({one_line(error)}). {expected}") from None
    try:
        Certificate.model_validate(content)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"])) or "file"
        raise DataError(f"{path}: no certificate ({place}: {fault['msg']}). {expected}") from None
    return dict(content)


def signed_by(content: dict[str, Any], public: str) -> bool:
    """Whether a certificate was signed with the key that belongs to a public one."""
    plain = {name: value for name, value in content.items() if name != "signature"}
    return content.get("key") == public and is_signed(
        "mllmu certificate", canonical(plain), content["signature"], public
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("mllmu.requests", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("certificate.html.j2")


def html(content: dict[str, Any]) -> str:
    """The page of a certificate."""
    evidence = Evidence.model_validate(content["measured"])
    labels = LABELS_OF_FACTS if evidence.partial else LABELS
    rows = [(labels[row.split], row, show(row.before), show(row.after)) for row in evidence.rows if not row.modality]
    by_modality = [
        (f"{labels[row.split]}: {'with picture' if row.modality == 'image_text' else 'by name'}", row, show(row.before),
         show(row.after))
        for row in evidence.rows if row.modality and row.split == "forget"
    ]  # fmt: skip
    attacks = [
        (one.label, "asking only" if one.access == "black box" else "the model's files", one.reason,
         show(one.forget), show(one.excess, signed=True), one.label == _worst_label(evidence, one.access))
        for one in evidence.attacks
    ]  # fmt: skip
    excess = show(evidence.excess, signed=True)
    return _template().render(
        c=content, evidence=evidence, rows=[*rows[:1], *by_modality, *rows[1:]], attacks=attacks, excess=excess
    )


def _worst_label(evidence: Evidence, access: str) -> str:
    worst: Sequence[str] = [one.label for name, one in evidence.worst.items() if name == access]
    return worst[0] if worst else ""
