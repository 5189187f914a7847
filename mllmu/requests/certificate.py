"""The certificate of a request: one page for an auditor, as HTML to print and as JSON to check.

The wording claims what was measured and nothing else: what the model answers to these questions, under these attacks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from mllmu.config.recipe import Job
from mllmu.core.attacked import PLAIN
from mllmu.core.errors import DataError
from mllmu.core.runfolder import RunFolder, read_json, write_atomic
from mllmu.pipeline.run import Run
from mllmu.requests.evidence import IN_WORDS, Evidence, MeasuredShare
from mllmu.requests.ledger import LedgerHead, RequestEntry, canonical
from mllmu.requests.signing import Signer, is_signed
from mllmu.version import __version__

FOLDER = "certificates"
FEW_QUESTIONS = 30
"""Of fewer questions the page says first how few they are."""
FORMAT = "mllmu-certificate-1"
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


def write(
    folder: Path, request: str, evidence: Evidence, entry: RequestEntry, head: LedgerHead, *, signer: Signer | None,
    run: Run, method: Job,
) -> Path:  # fmt: skip
    """Write the certificate of a request as JSON and HTML; returns the page."""
    record = read_json(run.root / RunFolder.RECORD)
    content: dict[str, Any] = {
        "format": FORMAT,
        "request": request,
        "date": entry.date,
        "subjects": list(entry.subjects),
        "scope": list(entry.scope),
        "model": {"base": Path(run.recipe.model.path).name, "before": entry.before, "after": entry.after},
        "method": {"name": method.plugin, **{k: v for k, v in method.settings.items() if k != "name"}},
        "recipe": entry.recipe,
        "evidence": entry.evidence,
        "measured": json.loads(evidence.model_dump_json()),
        "statements": sentences(evidence),
        "not_claimed": list(NOT_CLAIMED),
        "ledger": {"entries": head.count, "head": head.hash},
        "versions": {"mllmu": __version__, **record.get("versions", {})},
        "hardware": record.get("hardware", {}),
        "purged": "",
        "key": signer.public if signer else "",
    }
    return write_content(folder, request, content, signer)


def path_of(folder: Path, request: str) -> Path:
    """Where the certificate of a request is, as JSON; the page is beside it."""
    return folder / FOLDER / f"{request}.json"


def write_content(folder: Path, request: str, content: dict[str, Any], signer: Signer | None) -> Path:
    """Sign a certificate and write it as JSON and HTML; returns the page."""
    content = {name: value for name, value in content.items() if name != "signature"}
    signature = signer.sign("mllmu certificate", canonical(content)) if signer else ""
    content["signature"] = signature
    path = path_of(folder, request)
    write_atomic(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    page = path.with_suffix(".html")
    write_atomic(page, html(content))
    return page


def read(path: Path) -> dict[str, Any]:
    """A certificate as it was written.

    Raises:
        DataError: no certificate.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no certificate ({error}). Expected certificates/<request>.json.") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{path}: no certificate. Expected certificates/<request>.json, of this program.")
    return content


def signed_by(content: dict[str, Any], public: str) -> bool:
    """Whether a certificate was signed with the key that belongs to a public one."""
    plain = {name: value for name, value in content.items() if name != "signature"}
    return content.get("key") == public and is_signed(
        "mllmu certificate", canonical(plain), content["signature"], public
    )


def html(content: dict[str, Any]) -> str:
    """The page of a certificate."""
    environment = Environment(
        loader=PackageLoader("mllmu.requests", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
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
    template = environment.get_template("certificate.html.j2")
    excess = show(evidence.excess, signed=True)
    return template.render(
        c=content, evidence=evidence, rows=[*rows[:1], *by_modality, *rows[1:]], attacks=attacks, excess=excess
    )


def _worst_label(evidence: Evidence, access: str) -> str:
    worst: Sequence[str] = [one.label for name, one in evidence.worst.items() if name == access]
    return worst[0] if worst else ""
