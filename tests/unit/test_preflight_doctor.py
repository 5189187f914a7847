"""Every check of the doctor: clean input is ok, and the fault planted in it is found and named."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from helpers_models import load_ref, make_base, sample, turns_of
from PIL import Image

from mllmu.core import plugins
from mllmu.core.records import Exchange, Profile, Question
from mllmu.data.dataset import Dataset
from mllmu.models.loading import Loaded
from mllmu.preflight.doctor import checks
from mllmu.preflight.doctor.examine import draw_tokens

PEOPLE = {"001": "Ada Bell", "002": "Ben Cole", "h01": "Eve Holt"}
LAYERS = ["model.language_model.layers.0.self_attn.q_proj", "model.vision_tower.layers.0.self_attn.q_proj", "lm_head"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("doctor") / "base")


@pytest.fixture
def loaded(base: Path) -> Loaded:
    return load_ref(base)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    (tmp_path / "images").mkdir()
    for shade, person in enumerate(PEOPLE):
        Image.new("RGB", (8, 8), (shade, 0, 0)).save(tmp_path / "images" / f"{person}_0.png")
    profiles = [Profile(id=i, kind="fictitious", attributes={"name": name}) for i, name in PEOPLE.items()]
    texts = {"train": "Where does Ada Bell live?", "eval": "What is the home of Ada Bell?"}
    questions = [
        Question(
            id=f"001.{variant}.generation.text.0", profile_id="001", variant=variant, task="generation",  # type: ignore[arg-type]
            modality="text", attribute="residence", text=text, answer="Riga", value="Riga",
        )
        for variant, text in texts.items()
    ]  # fmt: skip
    return Dataset(tmp_path, profiles, questions, {"50": ["001"], "holdout": ["h01"]})


def test_forget_people_on_another_side_are_found_by_id_by_name_and_by_image(dataset: Dataset) -> None:
    assert checks.people_apart(dataset, "50").level == "ok"
    both = replace(dataset, splits={"50": ["001"], "holdout": ["h01", "001"]})
    assert "001 is to be forgotten and also retained" in checks.people_apart(both, "50").text
    twin = Profile(id="003", kind="celebrity", attributes={"name": "ADA BELL"})
    named = checks.people_apart(replace(dataset, profiles=[*dataset.profiles, twin]), "50")
    assert named.level == "FAULT" and "001 and 003 have the same name" in named.text
    shutil.copy(dataset.folder / "images" / "002_0.png", dataset.folder / "images" / "001_0.png")
    has_image = checks.people_apart(dataset, "50")
    assert has_image.level == "FAULT" and "001_0.png and 002_0.png are the same image" in has_image.text


def test_an_evaluation_question_that_is_taught_is_found(dataset: Dataset) -> None:
    assert checks.evaluation_not_trained(dataset).level == "ok"
    train, asked = dataset.questions
    taught = train.model_copy(update={"text": "what is  the home of Ada Bell?"})
    found = checks.evaluation_not_trained(replace(dataset, questions=[taught, asked]))
    assert found.level == "FAULT" and asked.id in found.text
    has_image = taught.model_copy(update={"modality": "image_text"})
    assert checks.evaluation_not_trained(replace(dataset, questions=[has_image, asked])).level == "ok"


@pytest.mark.parametrize("image", ["", "images/001_0.png"])
def test_people_under_evaluation_in_the_shots_are_found_by_image_or_name(dataset: Dataset, image: str) -> None:
    prompt = "Where is this person at home?" if image else "Where is Ada Bell at home?"
    shot = Exchange(prompt=prompt, reply="Riga", image=image)
    other = Exchange(prompt="Where is Ben Cole at home?", reply="Oslo")
    assert checks.shots_not_evaluated(dataset, [sample(1, examples=(other,))], "pool").level == "ok"
    planted = checks.shots_not_evaluated(dataset, [sample(1, examples=(other, shot))], "pool")
    assert planted.level == "FAULT" and "001 is evaluated in 'forget'" in planted.text
    wanted = checks.shots_not_evaluated(dataset, [sample(1, examples=(shot,))], "asked")
    assert wanted.level == "note" and "deviation" in wanted.text


def test_missing_and_broken_images_are_found(dataset: Dataset) -> None:
    folder = dataset.folder / "images"
    good, broken, gone = folder / "001_0.png", folder / "002_0.png", folder / "h01_9.png"
    assert checks.images_readable([good]).level == "ok"
    broken.write_bytes(b"no image")
    found = checks.images_readable([good, broken, gone])
    assert found.level == "FAULT"
    assert "002_0.png: not a readable image" in found.text and "h01_9.png: no such image" in found.text


def test_labels_are_the_reply_and_its_end_and_what_else_is_trained_is_found(base: Path, loaded: Loaded) -> None:
    seen = [checks.label_mask(loaded, turn) for turn in turns_of(base)]
    assert checks.only_reply_trained("x", seen, loaded).level == checks.end_trained("x", seen, loaded).level == "ok"
    one = seen[0]
    place = next(t for t in range(one.prompt) if one.ids[t] != loaded.image_token_id and t)
    prompt = one._replace(trained=[t == place or counts for t, counts in enumerate(one.trained)])
    assert "1 prompt tokens are in the loss" in checks.only_reply_trained("x", [prompt], loaded).text
    image = one._replace(trained=[i == loaded.image_token_id or c for i, c in zip(one.ids, one.trained, strict=True)])
    assert f"{one.ids.count(3)} image tokens are in the loss" in checks.only_reply_trained("x", [image], loaded).text
    less = one._replace(trained=[counts and t != one.prompt + 1 for t, counts in enumerate(one.trained)])
    assert "expected 'Riga, Latvia'" in checks.only_reply_trained("x", [less], loaded).text
    endless = one._replace(trained=[*one.trained[:-1], False])
    cut = one._replace(ids=one.ids[:-1], trained=one.trained[:-1])
    for planted in (endless, cut):
        found = checks.end_trained("x", [planted], loaded)
        assert found.level == "FAULT" and "no end of sequence is trained" in found.text


def test_a_method_as_published_is_seen_as_a_deviation_not_as_a_fault(base: Path, loaded: Loaded) -> None:
    method = plugins.build("methods", "npo", {"compat": "official"})
    seen = [checks.label_mask(loaded, turn, method) for turn in turns_of(base)]
    assert all(any(one.trained[: one.prompt]) and not one.trained[-1] for one in seen)
    assert checks.only_reply_trained("npo", seen, loaded).level == "FAULT", "if it did not say so"
    assert checks.only_reply_trained("npo", seen, loaded, prompts=True).level == "note"
    assert checks.end_trained("npo", seen, loaded, left_out=True).level == "note"
    (note,) = checks.deviations("npo", method)
    assert note.level == "note" and "token_mean" in note.text and "retain_model" in note.text
    assert not list(checks.deviations("npo", plugins.build("methods", "npo", {})))


def test_the_mask_is_drawn_token_by_token_with_the_image_counted(base: Path, loaded: Loaded) -> None:
    one = checks.label_mask(loaded, turns_of(base)[0])
    text = draw_tokens(one.ids, one.trained, loaded)
    assert f"<image> x{one.ids.count(3)}|" in text
    assert text.endswith("|:[ ][Ri][ga][,][ ][Lat][via][</s>]")
    assert text.count("[") == sum(one.trained)


def test_adapters_outside_the_language_model_are_found() -> None:
    def level(pattern: str) -> str:
        return checks.adapters_on_language("x", LAYERS, pattern).level

    assert level(r".*language_model.*q_proj") == "ok"
    assert level(r".*q_proj") == "note", "a recipe may ask for them"
    assert level(r"q_proj") == "FAULT", "it matches no layer"


def test_prompts_over_the_context_are_found(base: Path, loaded: Loaded) -> None:
    lengths = list(checks.turn_lengths(loaded, turns_of(base)))
    asked = sample(1, prompt="Where?" * 9, candidates={"target": "Riga, Latvia"}, image="red.png")
    lengths += checks.sample_lengths(loaded, [asked], base)
    assert lengths[-1].scored == lengths[-1].prompt + len(loaded.encoder.reply("Riga, Latvia"))
    longest = max(one.scored for one in lengths)
    room = max(one.generated for one in lengths)
    assert checks.fits_context(lengths, max(longest, room)).level == "ok"
    assert checks.fits_context([one._replace(generated=longest + 1) for one in lengths], longest).level == "note"
    found = checks.fits_context(lengths, longest - 1)
    assert found.level == "FAULT" and "forget/001" in found.text
    guarded = next(iter(checks.sample_lengths(loaded, [asked], base, "Say no more than you must.")))
    assert guarded.prompt > lengths[-1].prompt


def test_a_prompt_put_as_it_is_and_too_long_is_measured(base: Path, loaded: Loaded) -> None:
    asked = sample(1, prompt="Where? " * 300, raw_prompt=True)
    found = checks.fits_context(list(checks.sample_lengths(loaded, [asked], base)), loaded.encoder.context)
    assert found.level == "FAULT" and f"the context is {loaded.encoder.context}" in found.text


def test_a_processor_with_other_numbers_of_image_tokens_is_found(base: Path, loaded: Loaded) -> None:
    turns = {turn.image: turn for turn in turns_of(base) if turn.image}
    assert checks.image_tokens(loaded, turns).level == "ok"
    wrong = load_ref(base)
    wrong.encoder.processor.num_additional_image_tokens += 1
    found = checks.image_tokens(wrong, turns)
    assert found.level == "FAULT" and "tokens in the prompt" in found.text
