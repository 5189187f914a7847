"""Several requests on one model: what an earlier one took stays away, and a later one begins from what it left."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from mini_request import Place, copy_of, interrupted

from mllmu.config import load as recipes
from mllmu.core.errors import DataError, RunStoreError
from mllmu.core.process import SilentProgress
from mllmu.core.records import Sample
from mllmu.core.runfolder import read_lines
from mllmu.pipeline import unlearn
from mllmu.pipeline.run import Run
from mllmu.pipeline.unlearn import sides_of
from mllmu.requests import auto, back, certificate, check
from mllmu.requests.ledger import Ledger
from mllmu.requests.signing import Signer
from mllmu.requests.state import current
from mllmu.unlearning.base import Method
from mllmu.unlearning.trainer import Sides

pytest.importorskip("cryptography", reason="needs the extra 'sign'")
pytestmark = pytest.mark.usefixtures("quickly")
SMALL = {"overrides": ("evaluate.tasks=[cloze]",), "method": "{name: grad_diff, batch_size: 8, modality: text}"}


@pytest.fixture(scope="module")
def seen() -> list[Sides]:
    """The sides of the methods that trained in the request of ``twice``."""
    return []


@pytest.fixture(scope="module")
def twice(done: Place, quickly: None, seen: list[Sides], tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The finished request for 002 and 004, and one for 001 behind it; do not write into it."""
    place = copy_of(done, tmp_path_factory.mktemp("twice") / "out")

    def kept(run: Run, key: str, method: Method) -> Sides:
        seen.append(sides_of(run, key, method))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unlearn, "sides_of", kept)
        place.outcome = place.forget(**SMALL, model=str(place.out), people=listed(place, "001"))
    return place


@pytest.fixture
def both(twice: Place, tmp_path: Path) -> Place:
    """The two finished requests in a folder that a test may change."""
    return copy_of(twice, tmp_path / "out")


def listed(place: Place, *ids: str) -> Path:
    path = place.people.with_name(f"{'_'.join(ids)}.csv")
    path.write_text("\n".join(ids) + "\n")
    return path


def deployed(place: Place) -> tuple[str, tuple[str, ...]]:
    found = current(place.out)
    assert found
    return found.hash, found.ref.adapters


def test_a_later_request_neither_teaches_nor_asks_about_those_of_an_earlier_one(
    twice: Place, seen: list[Sides]
) -> None:
    (sides,) = seen
    assert {turn.person for turn in sides.forget} == {"001"} and {turn.person for turn in sides.retain} == {
        "003",
        "005",
    }
    root = twice.out / "r002"
    samples = read_lines(root / "eval/forget_20/samples.jsonl", Sample)
    assert {s.profile_id for s in samples if s.split == "retain"} <= {"003", "005"}
    recipe = recipes.load(root / "recipe.yaml")
    run = Run(recipe, root, SilentProgress())
    tried = auto.trial_samples(run, "20")
    assert {s.profile_id for s in tried if s.split == "retain"} <= {"003", "005"}
    assert twice.outcome.entry.before == Ledger(twice.out).of("r001")[-1].after
    assert list(back.replay(twice.out, SilentProgress()))[1].startswith("r002: made again, byte for byte the same")


def test_facts_of_an_earlier_request_are_kept_out_of_a_later_one(both: Place) -> None:
    facts = both.people.with_name("pet.csv")
    facts.write_text("id,attribute\n003,hobby\n")
    made = both.forget(**SMALL, model=str(both.out), people=None, facts=facts)
    assert made.entry.status == "verified"
    with pytest.raises(DataError, match="names all 2 people of the data that earlier requests have left"):
        both.forget(**SMALL, model=str(both.out), people=listed(both, "003", "005"))
    both.forget(**SMALL, model=str(both.out), people=listed(both, "005"))
    run = Run(recipes.load(both.out / "r004/recipe.yaml"), both.out / "r004", SilentProgress())
    about = {q.attribute for q in run.data.questions if q.profile_id == "003"}
    assert about and "hobby" not in about and run.data.people == ["003", "005"]


def test_what_was_rolled_back_is_taught_and_asked_again(both: Place) -> None:
    for name in ("r002", "r001"):
        back.rollback(both.out, name, key=both.key)
    both.forget(**SMALL, people=listed(both, "003"))
    run = Run(recipes.load(both.out / "r003/recipe.yaml"), both.out / "r003", SilentProgress())
    assert run.recipe.unlearn.forget is None and run.data.retained("20") == ["001", "002", "004", "005"]


def test_a_request_that_begins_from_an_earlier_model_is_refused_and_nothing_is_deployed(both: Place) -> None:
    before, entries = deployed(both), Ledger(both.out).entries()
    with pytest.raises(RunStoreError, match=r"but r002, .*would come back\. Name the folder .*mllmu forget .*out"):
        both.forget(**SMALL, people=listed(both, "003"))
    with pytest.raises(RunStoreError, match="but r002"):
        both.forget(**SMALL, model=str(both.out / "r001/models/forget_40/npo"), people=listed(both, "003"))
    assert (deployed(both), Ledger(both.out).entries()) == (before, entries)


def test_an_older_file_of_what_is_deployed_is_no_model_to_begin_from(both: Place, done: Place) -> None:
    shutil.copyfile(done.out / "current.json", both.out / "current.json")
    with pytest.raises(RunStoreError, match=r"current\.json there is an older one: restore it from a copy"):
        both.forget(**SMALL, model=str(both.out), people=listed(both, "003"))
    back.rollback(both.out, "r002", key=both.key)
    made = both.forget(**SMALL, model=str(both.out), people=listed(both, "003"))
    assert made.entry.before == Ledger(both.out).of("r001")[-1].after


def test_a_lost_certificate_is_written_again_and_deploys_nothing(both: Place) -> None:
    before, entries = deployed(both), Ledger(both.out).entries()
    path = both.out / "certificates/r001.json"
    told = path.read_bytes()
    path.unlink()
    both.forget()
    assert path.read_bytes() == told
    assert (deployed(both), Ledger(both.out).entries()) == (before, entries)


def test_a_request_that_was_applied_and_stopped_is_finished_or_given_up_before_the_next(both: Place) -> None:
    how = {**SMALL, "model": str(both.out), "people": listed(both, "003")}
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("mllmu.requests.forget.verify_run", lambda *_: interrupted(None))  # type: ignore[arg-type]
        both.forget(**how)
    before = deployed(both)
    with pytest.raises(RunStoreError, match="r003 is applied and not finished"):
        both.forget(**{**how, "people": listed(both, "005")})
    back.rollback(both.out, "r003", key=both.key)
    assert deployed(both)[0] == before[0]
    assert both.forget(**{**how, "people": listed(both, "005")}).entry.status == "verified"
    assert certificate.path_of(both.out, "r004").is_file()


def test_a_purge_names_the_folders_that_still_hold_an_earlier_model(both: Place) -> None:
    with pytest.raises(RunStoreError, match=r"r002 holds a copy of the model before it\. Purge r002 first"):
        back.purge(both.out, "r001", key=both.key)
    later = back.purge(both.out, "r002", key=both.key)
    said = "Other folders still hold an earlier model, or the data: r001. Until these requests are purged"
    assert said in later.reason and said in certificate.read(both.out / "certificates/r002.json")["purged"]
    assert deployed(both) == (later.after, ("r002/model",)) and later.after != later.before
    first = back.purge(both.out, "r001", key=both.key)
    assert first.reason.endswith("no way back") and first.before == first.after
    told = certificate.read(both.out / "certificates/r001.json")["purged"]
    assert "one adapter" not in told and "Other folders" not in told, "another model is deployed"
    for name in ("r001", "r002"):
        assert list(check.verify_certificate(both.out / f"certificates/{name}.json", SilentProgress()))
        assert not [path for path in (both.out / name).rglob("*") if path.suffix in (".png", ".jsonl")]
    assert both.forget(**SMALL, model=str(both.out), people=listed(both, "003")).entry.before == later.after


def test_what_was_rolled_back_can_be_purged_while_an_earlier_request_stands(both: Place) -> None:
    back.rollback(both.out, "r002", key=both.key)
    assert deployed(both)[1] == ("r002/models/target/adapter_0", "r002/models/target/adapter_1")
    assert "data: r002. Until" in back.purge(both.out, "r001", key=both.key).reason
    entry = back.purge(both.out, "r002", key=both.key)
    assert entry.reason.endswith("no way back") and deployed(both) == (entry.after, ("r002/model",))
    assert not (both.out / "r002/models").exists() and not (both.out / "r002/data").exists()
    assert both.forget(**SMALL, model=str(both.out), people=listed(both, "003")).entry.before == entry.after


def test_a_request_that_was_stopped_before_it_was_applied_can_be_purged(both: Place) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("mllmu.pipeline.pipeline.unlearn_model", lambda *_: interrupted(None))  # type: ignore[arg-type]
        both.forget(**SMALL, model=str(both.out), people=listed(both, "005"))
    assert (both.out / "r003/models/target").is_dir()
    before = deployed(both)
    assert "r001, r003" in back.purge(both.out, "r002", key=both.key).reason
    assert back.purge(both.out, "r003", key=both.key).status == "purged" and not (both.out / "r003/models").exists()
    assert before != deployed(both) and deployed(both)[1] == ("r002/model",)


def test_giving_up_a_request_leaves_the_model_of_another_one_deployed(done: Place, tmp_path: Path) -> None:
    """As earlier versions let two requests begin from one model, of which the first was applied and stopped."""
    place = copy_of(done, tmp_path / "out")
    ledger = Ledger(place.out, Signer(place.key, apart_from=place.out))
    begun = ledger.of("r001")[-1].before
    ledger.append("r002", "applied", before=begun, after="b" * 64)
    shutil.copytree(place.out / "r001/models", place.out / "r002/models")
    before = deployed(place)
    assert "which did not begin from this one" in back.rollback(place.out, "r002", key=place.key).reason
    assert deployed(place) == before
    assert back.rollback(place.out, "r001", key=place.key).after == begun == deployed(place)[0]
