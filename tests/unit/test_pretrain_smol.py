"""The training of smol's vision part, on a random model of the same architecture."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers_families import smol_language
from helpers_models import Watcher
from helpers_smol import write_gguf
from safetensors.torch import load_file

from mllmu.core.errors import ModelError
from mllmu.core.process import SilentProgress, rng
from mllmu.core.records import Response, Sample
from mllmu.data.questions import render_subject, wordings
from mllmu.data.sources.celebrities import Celebrities
from mllmu.models.families import Turn
from mllmu.models.smol import assemble, fetch
from tools.pretrain_smol import general
from tools.pretrain_smol.lessons import VISIBLE, Lessons, choice, value_of
from tools.pretrain_smol.pretrain import OutOfTimeError, Plan, pretrain

PLAN = Plan(num_faces=6, exam_faces=4, exam_size=3, steps=(3, 2), batch_size=4, rank=2)


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Random language weights in the user's cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    torch.manual_seed(0)
    file = fetch.language_file()
    file.parent.mkdir(parents=True)
    monkeypatch.setattr(fetch, "SHA256", hashlib.sha256(write_gguf(file, *smol_language()).read_bytes()).hexdigest())
    return file


@pytest.fixture(scope="module")
def lessons(tmp_path_factory: pytest.TempPathFactory) -> Lessons:
    return Lessons(tmp_path_factory.mktemp("faces"), range(20), num_texts=20)


def test_lessons_say_what_is_seen_or_given(lessons: Lessons) -> None:
    draw = rng(3)
    for face in range(8):
        seen = lessons.seen(face)
        for feature in VISIBLE:
            if value := value_of(seen, feature):
                assert lessons.visible(feature, seen, "cloze", draw).reply == value
                assert value in lessons.visible(feature, seen, "question", draw).reply
                asked = lessons.visible(feature, seen, "choice", draw)
                assert f"\n{asked.reply}: {value}\n" in asked.prompt
    for kind in ("cloze", "generation", "choice"):
        for _ in range(8):
            turn = lessons.fact(draw, kind)
            answer = turn.reply.removeprefix("This person") if kind != "choice" else turn.reply
            assert answer and "[Blank]" not in turn.reply and turn.image is None
            if kind == "cloze":
                assert turn.reply in turn.prompt.partition("[Blank]")[0]


def test_a_lesson_depends_on_its_draw_alone(lessons: Lessons, tmp_path: Path) -> None:
    first, again = (each.mixed(rng(5), 16) for each in (lessons, Lessons(tmp_path, range(20), num_texts=20)))
    assert [(t.prompt, t.reply, t.image and t.image.name) for t in first] == [
        (t.prompt, t.reply, t.image and t.image.name) for t in again
    ]
    assert len(first) == 16 and sum(turn.image is not None for turn in first) == 8
    assert {t.image.read_bytes() for t in first if t.image} == {t.image.read_bytes() for t in again if t.image}


def test_the_right_letter_is_anywhere() -> None:
    letters = {choice("Which?", "a", ["b", "c", "d", "e"], rng(seed))["reply"] for seed in range(40)}
    assert letters == set("ABCD")


def test_training_needs_the_language_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ModelError, match="mllmu get smol"):
        pretrain(PLAN, tmp_path / "out", SilentProgress())


def test_both_stages_train_and_a_stopped_run_goes_on(weights: Path, tmp_path: Path) -> None:
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    record = pretrain(PLAN, whole, Watcher(), device="cpu")
    with pytest.raises(OutOfTimeError, match="captions: stopped before step 1"):
        pretrain(PLAN, parted, SilentProgress(), device="cpu", minutes=1e-6)
    pretrain(PLAN, parted, SilentProgress(), device="cpu")

    before = load_file(whole / "base" / "model.safetensors")
    after = load_file(whole / "model" / "model.safetensors")
    changed = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
    assert any("multi_modal_projector" in name for name in changed)
    assert any("q_proj" in name for name in changed)
    assert not any("vision_tower" in name or "embed_tokens" in name for name in changed)
    assert all(torch.equal(load_file(parted / "model" / "model.safetensors")[name], after[name]) for name in after)

    with pytest.raises(ModelError, match="parted: holds a training with other settings"):
        pretrain(Plan(steps=(3, 9)), parted, SilentProgress(), device="cpu")
    assert record["captions"]["steps"] == 3 and record["instructions"]["steps"] == 2
    assert json.loads((whole / "parts" / "pretraining.json").read_text()) == json.loads(json.dumps(record))
    assert record["exam"]["before"].keys() == record["exam"]["after"].keys()
    assert {"visible/choice", "text/choice", "visible/cloze"} <= record["exam"]["after"].keys()
    assert (whole / "parts" / assemble.PARTS).is_file()


def test_general_questions_are_about_nobody_of_the_celebrity_set_and_never_in_evaluation_wordings() -> None:
    prompts = general.questions(0)
    assert len(set(prompts)) == len(prompts) and prompts == general.questions(0) != general.questions(1)
    celebrities = [profile.name for profile in Celebrities().profiles(0)]
    assert len(celebrities) > 100 and not [name for name in celebrities for prompt in prompts if name in prompt]
    kept = {
        render_subject(template, name)
        for entry in wordings("celebrity").values()
        for variant in (entry.questions.eval, entry.questions.test)
        for template in variant
        for name in general.PEOPLE
    }
    assert not kept & {prompt.partition("\n")[0] for prompt in prompts}


def test_own_replies_are_those_that_end_and_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    loads: list[int] = []

    def respond(_: object, batches: list[list[Sample]], **__: object) -> list[list[Response]]:
        asked.extend(sample.prompt for batch in batches for sample in batch)
        return [
            [Response(sample_id=s.id, text=f"On {s.prompt}.", num_tokens=3, finished=s.prompt != "b") for s in batch]
            for batch in batches
        ]

    monkeypatch.setattr(general, "respond", respond)
    prompts = ["a", "b", *(str(number) for number in range(100))]
    for _ in range(2):
        turns = general.own_replies(lambda: loads.append(1), prompts, tmp_path / "general.json")  # type: ignore[arg-type, func-returns-value]
        assert [(t.prompt, t.reply) for t in turns] == [(p, f"On {p}.") for p in prompts if p != "b"]
    assert asked == prompts and loads == [1], "the second time they are read"
    practised, examined = general.parted(turns)
    assert len(examined) == 13 and not {t.prompt for t in practised} & {t.prompt for t in examined}


def test_a_share_of_stage_two_asks_general_questions(lessons: Lessons) -> None:
    own = [Turn(prompt=f"What is {n}?", reply=f"A number, {n}.") for n in range(40)]
    some = Lessons(lessons.folder, lessons.faces, num_texts=20, general=own, share=0.25).mixed(rng(5), 16)
    assert len(some) == 16 and sum(turn in own for turn in some) == 4
    assert sum(turn.image is not None for turn in some) == 4
    unasked = Lessons(lessons.folder, lessons.faces, num_texts=20, share=0.25).mixed(rng(5), 16)
    assert [t.prompt for t in unasked] == [t.prompt for t in lessons.mixed(rng(5), 16)], "none, no other draw"


def test_general_questions_are_practised_and_examined(weights: Path, tmp_path: Path) -> None:
    plan = replace(PLAN, general=0.5, general_size=16)
    tmp_path.joinpath("general.json").write_text(json.dumps(dict.fromkeys(general.questions(0)[:16], "Yes.")))
    record = pretrain(plan, tmp_path, SilentProgress(), device="cpu")
    assert record["exam"]["before"].keys() == record["exam"]["after"].keys() >= {"general"}
    assert record["plan"]["general"] == 0.5
