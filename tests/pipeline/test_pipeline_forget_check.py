"""A certificate is compared with all that is behind it, whether it is signed or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mini_request import Place
from typer.testing import CliRunner

from mllmu.cli.app import app
from mllmu.core.errors import RunStoreError
from mllmu.core.manifest import manifest_hash, write_manifest
from mllmu.core.process import SilentProgress
from mllmu.core.runfolder import read_json, seal, write_json
from mllmu.requests import back, certificate, ledger
from mllmu.requests.check import verify_certificate
from mllmu.requests.ledger import Ledger

pytest.importorskip("cryptography", reason="needs the extra 'sign'")
pytestmark = pytest.mark.usefixtures("quickly")


def unsigned(place: Place) -> dict[str, Any]:
    """Write the ledger and the certificate of a finished request anew, without signatures; returns the certificate."""
    entries = Ledger(place.out).entries()
    for name in (ledger.LEDGER, ledger.HEAD):
        (place.out / name).unlink()
    mine = Ledger(place.out)
    for entry in entries:
        kept = entry.model_dump(include={"subjects", "scope", "before", "after", "recipe", "evidence"})
        last = mine.append(entry.request, entry.status, **kept)
    content = certificate.read(place.out / "certificates/r001.json")
    content |= {"date": last.date, "ledger": {"entries": last.number, "head": last.hash}, "key": ""}
    certificate.write_content(place.out, "r001", content, None)
    return certificate.read(place.out / "certificates/r001.json")


def verified(place: Place) -> list[str]:
    return list(verify_certificate(place.out / "certificates/r001.json", SilentProgress()))


EDITS: dict[str, tuple[dict[str, Any], str]] = {
    "statements": ({"statements": ["All is forgotten."]}, "statements: .* is stored, computed again"),
    "no doubts": ({"not_claimed": []}, "not_claimed: "),
    "date": ({"date": "1999-01-01"}, "date is 1999-01-01, entry 3 of the ledger says otherwise"),
    "scope": ({"scope": ["salary"]}, "scope is .*, entry 3 of the ledger says otherwise"),
    "subjects": ({"subjects": ["001"]}, "subjects is .* the ledger says otherwise"),
    "method": ({"method": {"name": "retrain"}}, "method: "),
    "machine": ({"hardware": {"machine": "a better one"}}, "hardware: "),
    "not purged": ({"purged": "Purged: nothing can be checked"}, "purged: "),
    "base": ({"base": "another"}, "base: 'another' is stored"),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=list(EDITS))
def test_what_an_unsigned_certificate_says_is_compared_with_what_is_behind_it(
    copy: Place, edit: tuple[dict[str, Any], str]
) -> None:
    content, (changes, said) = unsigned(copy), edit
    assert "is not signed" in verified(copy)[0]
    if "base" in changes:
        changes = {"model": content["model"] | changes}
    certificate.write_content(copy.out, "r001", content | changes, None)
    with pytest.raises(RunStoreError, match=said):
        verified(copy)


def test_the_page_of_an_unsigned_certificate_is_compared_and_its_words_also_without_a_ledger(copy: Place) -> None:
    content = unsigned(copy)
    page = copy.out / "certificates/r001.html"
    page.write_text(page.read_text().replace("before", "after", 1))
    with pytest.raises(RunStoreError, match=r"r001\.html: the page does not show"):
        verified(copy)
    alone = copy.out.with_name("alone")
    (alone / "certificates").mkdir(parents=True)
    path = alone / "certificates/r001.json"
    certificate.write_content(alone, "r001", content, None)
    assert "nothing else could be checked" in list(verify_certificate(path, SilentProgress()))[-1]
    certificate.write_content(alone, "r001", content | {"statements": content["statements"][1:]}, None)
    with pytest.raises(RunStoreError, match="statements: "):
        list(verify_certificate(path, SilentProgress()))
    versions = {**content["versions"], "mllmu": "0.0.1"}
    certificate.write_content(alone, "r001", content | {"statements": ["Other words."], "versions": versions}, None)
    with pytest.raises(RunStoreError, match=r"It was written by mllmu 0\.0\.1, this is .*: check it with that version"):
        list(verify_certificate(path, SilentProgress()))


def test_what_a_purged_certificate_says_is_compared_with_the_ledger(copy: Place) -> None:
    unsigned(copy)
    back.purge(copy.out, "r001")
    assert "numbers cannot be computed again" in verified(copy)[-1]
    content = certificate.read(copy.out / "certificates/r001.json")
    edits: list[dict[str, Any]] = [{"purged": "Purged."}, {"purged": ""}, {"statements": ["All is forgotten."]}]
    edits += [{"subjects": ["001"]}, {"model": content["model"] | {"after": "0" * 64}}, {"date": "today"}]
    for changes in edits:
        certificate.write_content(copy.out, "r001", content | changes, None)
        with pytest.raises(RunStoreError, match=next(iter(changes)) if "model" not in changes else "after is 0000"):
            verified(copy)


def test_a_certificate_of_before_a_number_was_counted_is_still_right(copy: Place) -> None:
    """The numbers of earlier versions lack fields that have defaults."""
    content = unsigned(copy)
    measured = {name: value for name, value in content["measured"].items() if name not in ("partial", "reused")}
    certificate.write_content(copy.out, "r001", content | {"measured": measured}, None)
    assert verified(copy)[-1].startswith("every number of the certificate was computed again")


def test_an_order_that_does_not_say_which_model_was_made_is_told(copy: Place) -> None:
    content = unsigned(copy)
    record = read_json(copy.out / "r001/order.json")
    write_json(copy.out / "r001/order.json", seal({n: v for n, v in record.items() if n != "model"}))
    write_manifest(copy.out / "r001")
    mine, evidence = Ledger(copy.out), manifest_hash(copy.out / "r001")
    kept = mine.entries()[-1].model_dump(include={"subjects", "scope", "before", "after", "recipe"})
    last = mine.append("r001", "verified", **kept, evidence=evidence)
    content |= {"evidence": evidence, "date": last.date, "ledger": {"entries": last.number, "head": last.hash}}
    certificate.write_content(copy.out, "r001", content, None)
    with pytest.raises(RunStoreError, match="does not say which model was made"):
        verified(copy)


def test_a_public_key_belongs_to_a_certificate_and_not_to_a_run(done: Place, finished: Path, tmp_path: Path) -> None:
    path = done.out / "certificates/r001.json"
    for folder in (done.out / "r001", done.out):
        told = CliRunner().invoke(app, ["verify", str(folder), "--public-key", str(done.public)])
        assert told.exit_code == 2 and "OK" not in told.output
        assert "--public-key belongs to a certificate" in told.stderr and str(path) in told.stderr
    told = CliRunner().invoke(app, ["verify", str(finished), "--public-key", str(tmp_path / "none.pem")])
    assert told.exit_code == 2 and "Leave --public-key out, or name a certificate" in told.stderr
    assert CliRunner().invoke(app, ["verify", str(path), "--public-key", str(done.public)]).exit_code == 0
