"""What a certificate says of the attempts to get the facts back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mllmu.cli.app import app
from mllmu.core.errors import DataError, MllmuError
from mllmu.core.process import SilentProgress
from mllmu.requests import certificate
from mllmu.requests.certificate import sentences
from mllmu.requests.check import verify_certificate
from mllmu.requests.evidence import AttackTried, Evidence, MeasuredRow, MeasuredShare
from mllmu.requests.ledger import Ledger


def share(value: float, low: float, high: float) -> MeasuredShare:
    return MeasuredShare(value=value, low=low, high=high, num=40)


@pytest.mark.parametrize(
    ("worst", "said"),
    [
        (
            "asked plainly",
            "Of 2 attempts to get the facts back, none found more than plain questions, which got 40.0 %",
        ),
        (
            "asked with hints",
            "Of 2 attempts to get the facts back, the one that found most (asked with hints) got 40.0 %",
        ),
    ],
)
def test_plain_questions_are_no_attempt_to_get_facts_back(worst: str, said: str) -> None:
    """Two attempts of which one found 40 %; where asking plainly found as much, no attempt is named."""
    assert sum(said in sentence for sentence in sentences(evidence(worst))) == 1


def evidence(worst: str = "asked plainly") -> Evidence:
    before, after = share(0.8, 0.6, 0.9), share(0.4, 0.2, 0.6)
    tried = [
        AttackTried(label=label, access="white box", forget=share(found, 0.1, 0.6), excess=share(found - 0.1, 0.0, 0.5))
        for label, found in (("asked with hints", 0.4), ("asked in other words", 0.3))
    ]
    return Evidence(
        rows=tuple(MeasuredRow(split=split, before=before, after=after) for split in ("forget", "holdout")),
        excess=share(0.3, 0.1, 0.5),
        attacks=tuple(tried),
        worst={"white box": AttackTried(label=worst, access="white box", forget=after, excess=share(0.3, 0.1, 0.5))},
        units="people",
        num_forget=4,
        num_holdout=8,
    )


def write(folder: Path) -> Path:
    """A ledger with one verified request, and its certificate; its run folder is gone."""
    (folder / "certificates").mkdir(parents=True)
    ledger = Ledger(folder)
    told: dict[str, Any] = {"subjects": ("p1",), "scope": ("salary",), "recipe": "r", "evidence": "e", "before": "b"}
    entry = ledger.append("r001", "verified", **told, after="a")
    content = {
        "format": certificate.FORMAT, "request": "r001", "date": entry.date, "subjects": ["p1"], "scope": ["salary"],
        "model": {"base": "tiny", "before": "b", "after": "a"}, "method": {"name": "npo", "epochs": 2}, "recipe": "r",
        "evidence": "e", "measured": json.loads(evidence().model_dump_json()), **certificate.words(evidence()),
        "ledger": {"entries": 1, "head": entry.hash}, "versions": {"mllmu": "1", "torch": "2", "transformers": "5"},
        "hardware": {"machine": "a machine"}, "purged": "", "key": "",
    }  # fmt: skip
    certificate.write_content(folder, "r001", content, None)
    ledger.append("r001", "purged", **told, after="m")
    return folder / "certificates/r001.json"


def verified(path: Path) -> list[str]:
    return list(verify_certificate(path, SilentProgress()))


def test_a_certificate_of_before_a_purge_is_right_as_far_as_the_ledger_goes(tmp_path: Path) -> None:
    said = verified(write(tmp_path))
    assert (
        "the request is purged since" in said[1] and said[2] == "r001 was purged: its numbers cannot be computed again"
    )


def places(value: Any, *path: Any) -> Iterator[tuple[Any, ...]]:
    """Where there is anything in a JSON value."""
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inside:
        yield from places(one, *path, key)


DELETED = object()


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """The value with another one in a place, or without what is there."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    if new is DELETED and len(path) == 1:
        del copy[path[0]]
    else:
        copy[path[0]] = changed(copy[path[0]], path[1:], new)
    return copy


JUNK = (DELETED, None, 3, -0.5, True, "", "x", "\0", [], [[]], {}, {"x": {}}, float("nan"), 10**400)


def test_whatever_stands_in_the_place_of_a_field_is_an_error_or_right_and_never_a_bug(tmp_path: Path) -> None:
    path = write(tmp_path)
    content = json.loads(path.read_text())
    every = list(places(content))
    assert len(every) > 80
    for place in every:
        for junk in JUNK:
            if not place and junk is DELETED:
                continue
            path.write_text(json.dumps(changed(content, place, junk)))
            try:
                verified(path)
            except MllmuError as error:
                assert str(path.parent) in str(error)
    for field in content:
        path.write_text(json.dumps(changed(content, (field,), DELETED)))
        with pytest.raises(DataError, match=f"no certificate \\({field}: Field required\\)"):
            verified(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"format": "mllmu-certificate-1"}', "no certificate (request: Field required)"),
        ('{"format": "mllmu-certificate-2"}', "no certificate (format: "),
        ("[]", "no certificate (file: "),
        ("[" * 10_000, "no certificate ("),
        ('{"a": "\\ud800"}', "no certificate ("),
        ("", "no certificate ("),
    ],
)
def test_what_is_no_certificate_is_one_line_and_exit_code_2(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "certificates/r001.json"
    path.parent.mkdir()
    path.write_text(text)
    told = CliRunner().invoke(app, ["verify", str(path)])
    assert told.exit_code == 2 and said in told.stderr and told.stderr.count("\n") == 1


def test_a_head_that_is_none_and_a_request_that_leads_elsewhere_are_no_certificate(tmp_path: Path) -> None:
    path = write(tmp_path)
    content = json.loads(path.read_text())
    for place, new in ((("ledger", "head"), ""), (("ledger", "head"), "0"), (("request",), "../r001")):
        path.write_text(json.dumps(changed(content, place, new)))
        with pytest.raises(DataError, match=r"no certificate \(.*should match pattern"):
            verified(path)
    for rows in ([], [row for row in content["measured"]["rows"] if row["split"] == "forget"]):
        path.write_text(json.dumps(changed(content, ("measured", "rows"), rows)))
        with pytest.raises(DataError, match="expected rows of forget and holdout"):
            verified(path)
