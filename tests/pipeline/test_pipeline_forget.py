"""A request to delete people, from the list of ids to the certificate, and the way back; on an adapter of others."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import mini_run
import pytest
import torch
from mini_request import METHOD, Place
from typer.testing import CliRunner

from mllmu.cli.app import app
from mllmu.config.load import parse
from mllmu.core.errors import DataError, GateError, MllmuError, RunStoreError
from mllmu.core.process import SilentProgress
from mllmu.core.records import Sample
from mllmu.core.runfolder import read_json, read_lines
from mllmu.evaluation import gate
from mllmu.models.loading import ADAPTER_FILE, CONFIG_NAME, load
from mllmu.requests import auto, back, certificate, order
from mllmu.requests.evidence import Evidence
from mllmu.requests.forget import forget
from mllmu.requests.ledger import Ledger, RequestEntry
from mllmu.requests.ledger_check import check_ledger
from mllmu.requests.signing import Signer, read_public
from mllmu.requests.state import current, model_hash

pytest.importorskip("cryptography", reason="needs the extra 'sign'")
pytestmark = pytest.mark.usefixtures("quickly")
STRICT = gate.check


def test_a_request_on_a_plain_adapter_ends_in_evidence_and_a_signed_certificate(done: Place) -> None:
    entries = Ledger(done.out).entries()
    assert [entry.status for entry in entries] == ["received", "applied", "verified"]
    last = entries[-1]
    assert last.subjects == ("002", "004") and "salary" in last.scope and last.before != last.after
    public = read_public(done.public)
    assert check_ledger(done.out, public=public, head=last.hash).faults == []
    deployed = current(done.out)
    assert deployed and deployed.hash == last.after == model_hash(deployed.ref, done.out)
    assert deployed.ref.adapters == ("r001/models/target", "r001/models/forget_40/npo")
    for name in (ADAPTER_FILE, CONFIG_NAME):
        assert (done.out / "r001/models/target" / name).read_bytes() == (done.adapter / name).read_bytes()
    content = certificate.read(done.out / "certificates/r001.json")
    assert certificate.signed_by(content, public) and content["evidence"] == last.evidence
    evidence = Evidence.model_validate(content["measured"])
    assert {row.split for row in evidence.rows} == {"forget", "test", "holdout", "retain", "celebrity"}
    assert (evidence.num_forget, evidence.num_holdout, evidence.units) == (2, 1, "facts")
    assert [one.label for one in evidence.attacks] == ["asked with the beginning of the reply dictated"]
    assert (done.out / "r001/report/index.html").is_file()
    assert not any(path.read_bytes() == done.key.read_bytes() for path in done.out.rglob("*") if path.is_file())


def test_there_is_no_retain_model_and_the_holdout_people_are_the_yardstick(done: Place) -> None:
    root = done.out / "r001"
    assert not (root / "models/forget_40/retain_model").exists()
    metrics = read_json(root / "eval/forget_40/metrics.json", sealed=True)
    assert {row["model"] for row in metrics["results"]} >= {"target", "npo"} and metrics["ks_to_retain_model"] == []
    assert "holdout people" in read_json(root / "eval/forget_40/gate.json")["against"]
    rows = read_json(root / "eval/forget_40/attacks.json", sealed=True)["rows"]
    assert {row["against"] for row in rows} == {"holdout"} and all(row["excess"] is not None for row in rows)


def test_the_sentences_and_the_page_claim_what_was_measured(done: Place) -> None:
    said = " ".join(done.outcome.sentences)
    assert "Not shown: that the facts are gone" in said and "weaker evidence" in said and "before" in said
    page = (done.out / "certificates/r001.html").read_text()
    assert "What is not claimed" in page and "002, 004" in page and "<script" not in page
    assert Ledger(done.out).entries()[-1].hash in page


def test_the_certificate_is_verified_with_everything_behind_it(done: Place) -> None:
    said = done.verified()
    assert said[0] == "the signature is right" and "the ledger is in order" in said[1]
    assert said[-1] == "every number of the certificate was computed again from the stored replies"


@pytest.fixture(scope="module")
def some(base: Path, finished: Path, quickly: None, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A finished request for single facts about two people; do not write into it."""
    place = Place(tmp_path_factory.mktemp("facts"), base, finished)
    place.facts = place.people.with_name("facts.csv")
    place.facts.write_text("id;Salary;birth date\n002;x;\n004;;yes\n")
    small = ("evaluate.controls=true", "evaluate.tasks=[cloze]")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "HOLDOUT_OF_FACTS", 6)
        place.outcome = place.forget(people=None, facts=place.facts, overrides=small)
    return place


def test_a_request_for_single_facts_says_which_and_leaves_the_others(some: Place) -> None:
    last = Ledger(some.out).entries()[-1]
    assert (last.status, last.subjects) == ("verified", ("002", "004"))
    assert last.scope == ("002: salary", "004: birth_date")
    evidence = Evidence.model_validate(certificate.read(some.out / "certificates/r001.json")["measured"])
    assert evidence.partial and not evidence.reused and {row.split for row in evidence.rows} > {"through", "kept"}
    samples = read_lines(some.out / "r001/eval/forget_40/samples.jsonl", Sample)
    asked = {(s.split, s.profile_id, s.attribute) for s in samples if s.split in ("forget", "test")}
    assert asked == {(s, *fact) for s in ("forget", "test") for fact in (("002", "salary"), ("004", "birth_date"))}
    assert {s.attribute for s in samples if s.split == "holdout"} == {"salary", "birth_date"}
    assert len({s.profile_id for s in samples if s.split == "holdout"}) > 1
    assert ("002", "birth_date") in {(s.profile_id, s.attribute) for s in samples if s.split == "kept"}
    page = (some.out / "certificates/r001.html").read_text()
    assert "These facts only" in page and "002: salary; 004: birth date" in page and "about these facts" in page
    assert some.verified()[-1] == "every number of the certificate was computed again from the stored replies"
    (said,) = back.replay(some.out, SilentProgress())
    assert "byte for byte the same" in said


def test_what_is_changed_on_a_certificate_or_behind_it_is_found(copy: Place) -> None:
    path = copy.out / "certificates/r001.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "scope": ["salary"]}))
    with pytest.raises(RunStoreError, match="its signature is not one of the given public key"):
        copy.verified()
    signer = Signer(copy.key, apart_from=copy.out)
    better = json.loads(json.dumps(content))
    better["measured"]["excess"]["value"] = -0.5
    certificate.write_content(copy.out, "r001", better, signer)
    with pytest.raises(RunStoreError, match=r"measured: excess\.value: -0\.5 is stored"):
        copy.verified()
    certificate.write_content(copy.out, "r001", {**content, "evidence": "0" * 64}, signer)
    with pytest.raises(RunStoreError, match="the ledger says otherwise"):
        copy.verified()
    certificate.write_content(copy.out, "r001", content, signer)
    page = path.with_suffix(".html")
    page.write_text(page.read_text().replace("before", "after", 1))
    with pytest.raises(RunStoreError, match="does not show"):
        copy.verified()


def test_a_stopped_request_was_continued_without_making_anything_again(done: Place) -> None:
    made = mini_run.unit_times(done.out / "r001")
    assert len(done.stopped) > 10 and {name: made[name] for name in done.stopped} == done.stopped
    assert [entry.request for entry in Ledger(done.out).entries()] == ["r001"] * 3


def test_a_certificate_that_a_killed_process_did_not_write_is_written_by_the_same_command(copy: Place) -> None:
    path, made = copy.out / "certificates/r001.json", mini_run.unit_times(copy.out / "r001")
    before = path.read_bytes()
    path.unlink()
    copy.forget()
    assert [entry.status for entry in Ledger(copy.out).entries()][2:] == ["verified"] and path.read_bytes() == before
    assert mini_run.unit_times(copy.out / "r001") == made and not (copy.out / "r002").exists()
    assert copy.verified()[0] == "the signature is right"


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = {paths!r}
from mllmu.core.process import SilentProgress
from mllmu.evaluation import gate
from mllmu.requests import certificate, forget, ledger, order
from mllmu.requests.order import ForgetOrder

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

gate.check, order.ATTACKS, forget.check_first = (lambda *_: None), ("prefix_injection",), None
setattr({{"head": ledger, "sentences": certificate, "deploy": forget}}[sys.argv[1]],
        {{"head": "write_json", "sentences": "sentences", "deploy": "deploy"}}[sys.argv[1]], die)
given = ForgetOrder(model={model!r}, people=Path({people!r}), data=Path({data!r}), method={method!r})
forget.forget(given, Path({out!r}), key=Path({key!r}), progress=SilentProgress())
"""


@pytest.mark.slow
def test_killed_at_any_moment_a_request_loses_no_entry(base: Path, finished: Path, tmp_path: Path) -> None:
    place = Place(tmp_path, base, finished)
    script = KILLED.format(
        paths=[str(Path(mini_run.__file__).parent), str(Path(mini_run.__file__).parents[2])], model=str(place.adapter),
        people=str(place.people), data=str(place.data), method=METHOD, out=str(place.out), key=str(place.key),
    )  # fmt: skip
    seen: list[RequestEntry] = []
    for moment, status in (("head", "received"), ("deploy", "applied"), ("sentences", "applied")):
        done = subprocess.run([sys.executable, "-c", script, moment], check=False)
        assert done.returncode == -signal.SIGKILL
        entries = Ledger(place.out).entries()
        assert entries[: len(seen)] == seen and entries[-1].status == status
        assert check_ledger(place.out, public=read_public(place.public)).faults == []
        seen = entries
    place.forget()
    assert [entry.status for entry in Ledger(place.out).entries()] == ["received", "applied", "verified"]
    assert place.verified()[-1].startswith("every number")


def test_a_finished_request_and_one_of_another_order_are_not_carried_out_again(copy: Place) -> None:
    with pytest.raises(RunStoreError, match=r"request r001 is verified"):
        forget(copy.order(), copy.out, key=copy.key, name="r001", progress=SilentProgress())
    ledger = Ledger(copy.out, Signer(copy.key, apart_from=copy.out))
    ledger.append("r002", "received")
    (copy.out / "r002").mkdir()
    with pytest.raises(RunStoreError, match="begun with other people"):
        forget(copy.order(), copy.out, key=copy.key, name="r002", progress=SilentProgress())


def test_rollback_brings_the_same_bytes_back_and_is_an_entry(copy: Place) -> None:
    entry = back.rollback(copy.out, "r001", key=copy.key)
    applied = Ledger(copy.out).of("r001")[1]
    assert (entry.status, entry.before, entry.after) == ("rolled back", applied.after, applied.before)
    deployed = current(copy.out)
    assert deployed and deployed.ref.adapters == ("r001/models/target",) and deployed.hash == applied.before
    assert (copy.out / "r001/models/target" / ADAPTER_FILE).read_bytes() == (copy.adapter / ADAPTER_FILE).read_bytes()
    assert "rolled back since" in copy.verified()[1]
    with pytest.raises(RunStoreError, match="nothing to roll back"):
        back.rollback(copy.out, "r001", key=copy.key)


def test_rollback_of_a_changed_model_is_refused(copy: Place) -> None:
    path = copy.out / "r001/models/target" / ADAPTER_FILE
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(RunStoreError):
        back.rollback(copy.out, "r001", key=copy.key)
    assert Ledger(copy.out).entries()[-1].status == "verified"


def test_purge_leaves_a_model_that_answers_alike_and_no_way_back(copy: Place, base: Path) -> None:
    recipe, before = parse(mini_run.settings(base)), current(copy.out)
    assert before
    stacked = load(recipe.model, before.ref, copy.out).model.state_dict()
    entry = back.purge(copy.out, "r001", key=copy.key)
    after = current(copy.out)
    assert after and after.ref.adapters == ("r001/model",) and after.hash == entry.after != before.hash
    one = load(recipe.model, after.ref, copy.out).model.state_dict()
    assert one.keys() == stacked.keys() and len(list((copy.out / "r001/model").iterdir())) == 2
    assert all(torch.allclose(one[name], stacked[name], atol=1e-5) for name in one)
    names = {
        path.relative_to(copy.out / "r001").as_posix() for path in (copy.out / "r001").rglob("*") if path.is_file()
    }
    assert {"model/adapter_model.safetensors", "run.json", "recipe.yaml"} <= names
    assert not any(name.startswith(("data/", "eval/", "models/", "attacks/", "report/")) for name in names)
    for act in (back.rollback, back.purge):
        with pytest.raises(RunStoreError, match="purged"):
            act(copy.out, "r001", key=copy.key)
    assert list(back.replay(copy.out, SilentProgress())) == ["r001: was purged, so it cannot be made again"]
    assert "cannot be rolled back" in (copy.out / "certificates/r001.html").read_text()
    assert copy.verified()[-1] == "r001 was purged: its numbers cannot be computed again"


def test_replay_makes_the_same_bytes_again(copy: Place) -> None:
    (said,) = back.replay(copy.out, SilentProgress())
    assert said.startswith("r001: made again, byte for byte the same (adapter_config.json")
    assert not list(copy.out.glob(".replay*"))


def test_auto_says_when_of_too_few_facts_none_could_be_set_aside(copy: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = auto.trial_samples
    monkeypatch.setattr(
        auto, "trial_samples", lambda run, key: [sample for sample in drawn(run, key) if sample.split != "forget"]
    )
    copy.people.with_name("more.csv").write_text("001\n")
    with pytest.raises(DataError, match=r"of so few facts none could be set aside.*Name a method"):
        copy.forget(model=str(copy.out), people=copy.people.with_name("more.csv"), method="auto")


def test_a_second_request_on_the_folder_goes_on_from_the_first_with_auto(copy: Place) -> None:
    copy.people.with_name("more.csv").write_text("001\n")
    outcome = copy.forget(model=str(copy.out), people=copy.people.with_name("more.csv"), method="auto")
    first, second = (Ledger(copy.out).of(name) for name in ("r001", "r002"))
    assert outcome.entry.status == "verified" and second[-1].before == first[-1].after
    trials = (copy.out / "r002/tune/trials.jsonl").read_text().splitlines()
    assert len(trials) == 2
    asked = (copy.out / "r002/tune/eval/forget_20/samples.jsonl").read_text()
    reported = (copy.out / "r002/eval/forget_20/samples.jsonl").read_text()
    people = [{json.loads(s)["profile_id"] for s in text.splitlines() if json.loads(s)["split"] == "holdout"}
              for text in (asked, reported)]  # fmt: skip
    assert all(people) and not people[0] & people[1]
    with pytest.raises(RunStoreError, match="r002 rests on r001"):
        back.rollback(copy.out, "r001", key=copy.key)
    back.rollback(copy.out, "r002", key=copy.key)
    deployed = current(copy.out)
    assert deployed and deployed.hash == first[-1].after


def test_who_is_not_known_to_the_data_or_the_model_is_said(
    base: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path, base, finished)
    place.people.write_text("002\n077\n")
    with pytest.raises(DataError, match=r"1 of 2 people are not in the data .* '077'"):
        place.forget()
    assert not (place.out / "requests.jsonl").exists()
    place.people.write_text("002\n")
    monkeypatch.setattr("mllmu.requests.forget.check_first", None)
    monkeypatch.setattr(gate, "check", STRICT)
    with pytest.raises(GateError, match="holdout people, whom it was never taught"):
        place.forget()
    entries = Ledger(place.out).entries()
    assert [e.status for e in entries] == ["received", "refused"] and "does not know" in entries[-1].reason


def test_the_commands_say_what_is_missing(done: Place, tmp_path: Path) -> None:
    run = CliRunner().invoke
    shown = run(app, ["requests", str(done.out), "show", "r001"]).stdout
    assert "verified" in shown
    ok = run(app, ["verify", str(done.out / "certificates/r001.json"), "--public-key", str(done.public)])
    assert ok.exit_code == 0 and ok.stdout.endswith("r001.json\n")
    assert run(app, ["rollback", str(done.out), "r007"]).exit_code == 2
    assert run(app, ["requests", str(done.out), "purge", "r001"], input="n\n").exit_code == 1
    assert "has no ledger" in run(app, ["replay", str(tmp_path)]).stderr
    with pytest.raises(MllmuError):
        forget(done.order(model=str(tmp_path)), tmp_path / "o", progress=SilentProgress())
