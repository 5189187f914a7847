"""Questions of the user's own: a model replies as it did when it was evaluated, and nothing in the run changes."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from mllmu.cli.app import app
from mllmu.core.errors import DataError, ModelError
from mllmu.core.process import SilentProgress
from mllmu.core.records import Response, Sample
from mllmu.core.runfolder import read_lines
from mllmu.explorer.answers import ModelAnswers
from mllmu.explorer.asking import RunAsker
from mllmu.explorer.site import ExploredRun
from mllmu.models import devices

EVALUATION = "eval/forget_40"


class Notes(SilentProgress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def files(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


def evaluated(root: Path, modality: str) -> Sample:
    samples = read_lines(root / EVALUATION / "samples.jsonl", Sample)
    return next(s for s in samples if (s.split, s.task, s.modality) == ("forget", "generation", modality))


@pytest.mark.parametrize("modality", ["image_text", "text"])
def test_a_question_of_the_evaluation_gets_the_same_reply_and_likelihood(finished: Path, modality: str) -> None:
    sample, before = evaluated(finished, modality), files(finished)
    asker = RunAsker(finished)
    image = sample.profile_id if modality == "image_text" else ""
    asked = asker.question(sample.prompt, image=image, truth=sample.target, max_new_tokens=sample.max_new_tokens)
    for model, response in asker.ask(asked, ["target", "npo", "prompting"]):
        stored = read_lines(finished / EVALUATION / model / "responses/responses.jsonl", Response)
        own = next(each for each in stored if each.sample_id == sample.id)
        assert response.text == own.text, model
        assert response.candidates["target"].logp == pytest.approx(own.candidates["target"].logp, abs=1e-4)
    assert files(finished) == before


def test_the_prompt_as_a_model_reads_it(finished: Path) -> None:
    asker, sample = RunAsker(finished), evaluated(finished, "image_text")
    text = asker.rendered(sample, "target")
    assert "<image> x" in text and sample.prompt.splitlines()[0] in text and text.endswith("ASSISTANT:")
    assert len(asker.rendered(sample, "prompting")) > len(text), "its system prompt"


def test_models_are_kept_only_while_there_is_memory(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def loaded(free: int) -> list[str]:
        monkeypatch.setattr(devices, "free_bytes", lambda _: free)
        notes = Notes()
        asker = RunAsker(finished, progress=notes)
        question = asker.question("Who is this?", max_new_tokens=1)
        list(asker.ask(question, ["target", "ga", "target"]))
        return [note for note in notes.notes if note.startswith("loading")]

    assert loaded(1 << 40) == ["loading target", "loading ga"]
    assert loaded(0) == ["loading target", "loading ga", "loading target"]


def test_the_command_prints_replies_and_truth(finished: Path) -> None:
    sample = evaluated(finished, "image_text")
    words = ["ask", str(finished), "What does she earn?", "--image", sample.profile_id, "--models", "target,ga"]
    done = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert f"({sample.profile_id})" in done.output and "truth: salary: " in done.output
    assert "│ ga " in done.output and "tokens)" in done.output and "npo" not in done.output


def test_the_page_gets_the_same_and_may_send_an_image(finished: Path, tmp_path: Path) -> None:
    answers, run, sample = ModelAnswers(tmp_path), ExploredRun(finished), evaluated(finished, "image_text")
    sent = {"model": "target", "text": "What does she earn?", "evaluation": "40 %"}
    by_name = answers.ask(run, {**sent, "person": sample.profile_id})
    assert by_name["truth"]["attribute"] == "salary" and by_name["value"]["num_tokens"] > 0 and by_name["sentence"]
    image = base64.b64encode((finished / "data" / sample.image).read_bytes()).decode()
    by_image = answers.ask(run, {**sent, "image": image})
    assert by_image["reply"] == by_name["reply"] and by_image["truth"] is None
    assert sample.prompt.splitlines()[0] in answers.rendered(run, {"id": [sample.id]})["text"]
    for wrong in ({"person": str(finished / "data" / sample.image)}, {"image": "%"}, {"image": "YWJj"}, {"text": " "}):
        with pytest.raises(DataError):
            answers.ask(run, {**sent, **wrong})
    for content in ([], {"text": 1}, {"other": "x"}):
        with pytest.raises(DataError, match="expected texts named"):
            answers.ask(run, content)


def test_a_name_in_the_question_says_who_is_asked_about_beside_an_image_of_ones_own(
    finished: Path, tmp_path: Path
) -> None:
    asker, photo = RunAsker(finished), tmp_path / "photo.png"
    Image.new("RGB", (8, 8), "teal").save(photo)
    people = [person for person in asker.profiles.values() if "salary" in person.attributes]
    ana, bo = people[:2]
    for truth in ("", "salary"):
        asked = asker.question(f"What does {ana.name} earn?", image=photo, truth=truth)
        assert asked.person == ana and asked.image == photo and asked.truth is not None
        assert (asked.truth.attribute, asked.truth.value) == ("salary", ana.attributes["salary"])
    shown = asker.question(f"Does she earn more than {ana.name}?", image=bo.id, truth="salary")
    assert shown.person == bo and shown.truth is not None and shown.truth.value == bo.attributes["salary"]
    given = asker.question("What does she earn?", image=photo, truth="$1")
    assert given.person is None and given.truth is not None and given.truth[:2] == ("", "$1")


def test_an_attribute_without_a_person_who_has_it_is_no_truth(finished: Path, tmp_path: Path) -> None:
    asker = RunAsker(finished)
    both = " and ".join(person.name for person in [*asker.profiles.values()][:2])
    for text in ("What does she earn?", f"What do {both} earn?"):
        with pytest.raises(DataError, match=r"truth 'salary': of whom\? Put the whole name of one person"):
            asker.question(text, truth="salary")
    bare = next(iter(asker.profiles.values()))
    asker.profiles[bare.id] = bare.model_copy(update={"attributes": {"name": bare.name, "city": "Riga"}})
    with pytest.raises(DataError, match=rf"truth 'salary': not known of {bare.name} .*are known: name, city"):
        asker.question(f"What does {bare.name} earn?", truth="salary")


def test_what_does_not_exist_is_named(finished: Path, tmp_path: Path) -> None:
    asker = RunAsker(finished)
    with pytest.raises(ModelError, match=r"no model 'np'\. Did you mean 'npo'"):
        asker.checked(["np"])
    with pytest.raises(DataError, match="neither a file nor"):
        asker.question("Who?", image="nobody")
    with pytest.raises(DataError, match=r"no models of forget ratio 5 %\. There are: 40 %"):
        RunAsker(finished, "5")
    with pytest.raises(DataError, match="no run in this folder"):
        RunAsker(tmp_path)
