"""Models with a damaged tokenizer, chat template or processor: the doctor names it, and a run stops before training."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import helpers_families
import mini_run
import pytest
from PIL import Image
from transformers import AutoTokenizer
from typer.testing import CliRunner

import mllmu
from mllmu.cli.app import app
from mllmu.config.load import parse
from mllmu.core.errors import FaultsError, ModelError
from mllmu.core.process import SilentProgress
from mllmu.pipeline.pipeline import Pipeline
from mllmu.preflight.doctor.examine import Examination, describe, examine

SMALL = ("unlearn.methods=[ga]", "evaluate.tasks=[generation]", "data.celebrities=null")


@pytest.fixture(scope="module")
def made(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with data alone; copy it."""
    return mini_run.run(base, tmp_path_factory.mktemp("checks") / "run", *SMALL, only="data")


@pytest.fixture(scope="module")
def bases(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """A folder of a random model by its family; copy it."""
    folder = tmp_path_factory.mktemp("bases")

    def of(kind: str) -> Path:
        if kind == "llava":
            return base
        return folder / kind if (folder / kind).exists() else helpers_families.build(kind, folder / kind)

    yield of


def change(file: Path, *path: str, **settings: Any) -> None:
    """Set, or with ... remove, settings in a JSON file, below the keys of ``path``."""
    held = json.loads(file.read_text(encoding="utf-8"))
    part = held
    for key in path:
        part = part[key]
    for name, value in settings.items():
        part.pop(name, None)
        part |= {} if value is ... else {name: value}
    file.write_text(json.dumps(held), encoding="utf-8")


def processor(*path: str, **settings: Any) -> Callable[[Path], None]:
    return lambda folder: change(folder / "processor_config.json", *path, **settings)


def images(**settings: Any) -> Callable[[Path], None]:
    return processor("image_processor", **settings)


def tokenizer(**settings: Any) -> Callable[[Path], None]:
    return lambda folder: change(folder / "tokenizer_config.json", **settings)


def template(edit: Callable[[str], str]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        file = folder / "chat_template.jinja"
        file.write_text(edit(file.read_text(encoding="utf-8")), encoding="utf-8")

    return write


def ends_texts_with(token: str) -> Callable[[Path], None]:
    """A post-processor that puts a token behind every text."""

    def write(folder: Path) -> None:
        number = AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids(token)
        special = {token: {"id": token, "ids": [number], "tokens": [token]}}
        single = [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": token, "type_id": 0}}]
        whole = {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": special}
        change(folder / "tokenizer.json", post_processor=whole)

    return write


def new_token(text: str) -> Callable[[Path], None]:
    """A token that was added without a row of the embeddings."""

    def write(folder: Path) -> None:
        held = AutoTokenizer.from_pretrained(folder)
        held.add_tokens([text])
        held.save_pretrained(folder)

    return write


def looked_for_in_small_letters(folder: Path) -> None:
    held = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    for token in held["added_tokens"]:
        token["normalized"] = True
    change(folder / "tokenizer.json", normalizer={"type": "Lowercase"}, added_tokens=held["added_tokens"])


DAMAGED: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "an end behind every text": ("llava", ends_texts_with("</s>"), "first and last tokens: prompts end in '</s>'"),
    "an end behind the question": ("qwen2_5_vl", ends_texts_with("<|im_end|>"), "prompts end in '<|im_end|>'"),
    "two first tokens": ("gemma3", template("{{ bos_token }}".__add__), "prompts begin with two '<bos>'"),
    "a first token behind a line break": (
        "gemma3", template("\n{{ bos_token }}\n".__add__), "prompts begin with two '<bos>'"),
    "patches that are not merged": ("qwen2_5_vl", images(merge_size=1), "image tokens: .*merge_size"),
    "larger patches": ("llava_next", processor(patch_size=16), "image tokens: .*patch_size 16"),
    "a short context": (
        "llava", lambda folder: change(folder / "config.json", "text_config", max_position_embeddings=90),
        "context: .* the context is 90"),
    "a word of the questions without a row": (
        "llava", new_token("person"), "tokens: the token 'person' has the id 1000, the model has 1000 rows"),
    "padding without a row": ("llava", tokenizer(pad_token="[FILL]"), r"tokens: the token '\[FILL\]' .*\(padding\)"),
    "an end without a row": ("llava", tokenizer(eos_token="<|over|>"), r"tokens: the token '<\|over\|>' has the id"),
    "pixels up to 255": ("llava", images(do_rescale=False), "pixels: .*do_rescale False.*expected about -3 to 3"),
    "pixels times 255": ("qwen2_5_vl", images(rescale_factor=1.0), "pixels: .*rescale_factor 1.0"),
    "pixels of a whole image": ("idefics2", images(do_rescale=False), "pixels: .*expected about -3 to 3"),
    "dark pixels": ("llava", images(rescale_factor=1 / 255**2), "pixels: .*too close or too far apart"),
    "a mean in steps of 255": ("gemma3", images(image_mean=[127.5] * 3), "pixels: .*image_mean"),
    "a crop with one side": ("llava", images(crop_size={"shortest_edge": 64}), "prompts: .*crop_size"),
    "a mean of two colours": ("idefics2", images(image_mean=[0.5, 0.5]), "prompts: .*cannot prepare this image"),
    "decoding that is no JSON": (
        "llava", lambda folder: (folder / "generation_config.json").write_text("{"), "decoding: .*cannot be read"),
    "an end of decoding that is a word": (
        "llava", lambda folder: change(folder / "generation_config.json", eos_token_id=["</s>"]),
        r"decoding: .*eos_token_id: got '</s>'"),
    "a beginning of decoding that is no number": (
        "llava", lambda folder: change(folder / "generation_config.json", bos_token_id=float("inf")),
        r"decoding: .*bos_token_id: got inf"),
    "a template that stops half-way": (
        "qwen2_5_vl", template(lambda text: text[: len(text) // 2]), "prompts: .*chat template .*line 2, cannot be"),
    "a template without questions": (
        "idefics2", template(lambda _: "{% for m in messages %}{{ m.role }}{% endfor %}"), "prompts: .*loses the"),
}  # fmt: skip


def pipeline_at(model: Path, root: Path) -> Pipeline:
    pipeline = Pipeline(parse(mini_run.settings(model, *SMALL)), root, gate=False, progress=SilentProgress())
    pipeline.data()
    return pipeline


def faults(model: Path, root: Path) -> list[str]:
    """The faults that the doctor finds, after it has shown what it can."""
    examination = Examination(pipeline_at(model, root))
    assert list(describe(examination, 1))
    return [f"{check}: {text}" for check, level, text in examine(examination) if level == "FAULT"]


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_processor_is_a_fault_before_anything_is_trained(
    name: str, made: Path, bases: Callable[[str], Path], tmp_path: Path
) -> None:
    kind, damage, expected = DAMAGED[name]
    model = shutil.copytree(bases(kind), tmp_path / "model")
    damage(model)
    found = faults(model, made)
    assert len(found) == 1 and re.search(expected, found[0]), found


@pytest.mark.parametrize("kind", ["llava", "qwen2_5_vl", "idefics2", "gemma3", "llava_next", "internvl"])
def test_a_sound_model_has_no_fault(kind: str, made: Path, bases: Callable[[str], Path]) -> None:
    assert not faults(bases(kind), made)


def without_ends(folder: Path) -> None:
    change(folder / "tokenizer_config.json", eos_token=..., pad_token=...)
    change(folder / "generation_config.json", eos_token_id=...)
    change(folder / "config.json", eos_token_id=None)
    change(folder / "config.json", "text_config", eos_token_id=None)


def holding(name: str, edit: Callable[[str], str]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_text(edit((folder / name).read_text(encoding="utf-8")), encoding="utf-8")

    return write


UNLOADABLE: dict[str, tuple[Callable[[Path], None], str]] = {
    "no end anywhere": (without_ends, "names no token that ends a reply"),
    "a tokenizer cut off": (holding("tokenizer.json", lambda text: text[:999]), "cannot be loaded"),
    "a tokenizer of another type": (holding("tokenizer.json", lambda _: "[]"), "cannot be loaded"),
    "an end of another type": (holding("tokenizer_config.json", lambda _: '{"eos_token": 7}'), "cannot be loaded"),
    "a processor that is no JSON": (holding("processor_config.json", lambda _: "{"), "cannot be loaded"),
    "merges of another type": (
        holding("tokenizer.json", lambda text: text.replace('"merges":', '"merges": [7], "x":')),
        "cannot be loaded",
    ),
}


@pytest.mark.parametrize("name", UNLOADABLE)
def test_a_model_that_cannot_be_read_is_one_error(name: str, made: Path, base: Path, tmp_path: Path) -> None:
    damage, expected = UNLOADABLE[name]
    model = shutil.copytree(base, tmp_path / "model")
    damage(model)
    with pytest.raises(ModelError, match=expected):
        faults(model, made)


@pytest.mark.parametrize("lost", [("eos_token",), ("eos_token", "pad_token")])
def test_a_tokenizer_that_names_no_end_ends_replies_as_the_model_does(
    lost: tuple[str, ...], made: Path, base: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(base, tmp_path / "model")
    change(model / "tokenizer_config.json", **dict.fromkeys(lost, ...))
    assert not faults(model, made)
    loaded = Examination(pipeline_at(model, made)).loaded
    assert loaded.encoder.processor.tokenizer.decode(loaded.encoder.reply("Riga")).endswith("Riga</s>")


def test_text_of_people_is_no_special_token_though_the_tokenizer_changes_it_first(
    made: Path, base: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(base, tmp_path / "model")
    looked_for_in_small_letters(model)
    encoder = Examination(pipeline_at(model, made)).loaded.encoder
    for text in ("Where was <IMAGE> born?", "<Image><IMAGE>", "a </S> b", "<image>"):
        ids = encoder.family.prompt_ids(mllmu.models.families.Turn(prompt=text), encoder.processor)[0]
        ids += encoder.reply(text)[:-1]
        assert not {2, 3} & set(ids), encoder.processor.tokenizer.convert_ids_to_tokens(ids)


def test_a_run_stops_once_with_the_words_of_the_doctor_and_goes_on_when_mended(
    made: Path, base: Path, tmp_path: Path
) -> None:
    model, root = shutil.copytree(base, tmp_path / "model"), shutil.copytree(made, tmp_path / "run")
    images(do_rescale=False)(model)
    recipe = mini_run.write_recipe(tmp_path / "run.yaml", model, *SMALL)
    words = [f"FAULT {fault}" for fault in faults(model, root)]
    with pytest.raises(FaultsError, match=r"1 fault in recipe, data or model\. Nothing was trained") as stopped:
        mllmu.run(recipe, root)
    assert list(stopped.value.faults) == words
    assert not (root / "models").exists()
    done = CliRunner().invoke(app, ["run", str(recipe), "--out", str(root)])
    assert done.exit_code == 2 and words[0] in done.stderr
    images(do_rescale=True)(model)
    mllmu.run(recipe, root, only="finetune")
    assert json.loads((root / "checks.json").read_text())["checks"] > 8


@pytest.mark.parametrize("command", ["tune", "trust", "layers"])
def test_studies_stop_before_they_train(command: str, made: Path, base: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    model, root = shutil.copytree(base, tmp_path / "model"), tmp_path / "run"
    images(do_rescale=False)(model)
    recipe = mini_run.write_recipe(tmp_path / "run.yaml", model, *SMALL, "data.splits.selection=0.5")
    done = CliRunner().invoke(app, [command, str(recipe), "--out", str(root)])
    assert done.exit_code == 2 and "FAULT pixels" in done.stderr and "Nothing was trained" in done.stderr
    assert not (root / "models").exists()
    shutil.rmtree(model)
    done = CliRunner().invoke(app, [command, str(recipe), "--out", str(tmp_path / "other")])
    assert done.exit_code == 2 and "found before anything was done" in done.stderr
    assert not (tmp_path / "other").exists()


def test_the_same_is_not_checked_twice(made: Path, base: Path, tmp_path: Path) -> None:
    root = shutil.copytree(made, tmp_path / "run")
    recipe = mini_run.write_recipe(tmp_path / "run.yaml", base, *SMALL)
    command = ["finetune", str(recipe), "--out", str(root)]
    said = [CliRunner().invoke(app, command).stderr.count("check: ") for _ in range(2)]
    said.append(CliRunner().invoke(app, [*command, "--set", "unlearn.methods=[npo]"]).stderr.count("check: "))
    said.append(CliRunner().invoke(app, [*command, "--set", "report.title=other"]).stderr.count("check: "))
    assert said == [1, 0, 1, 1]


def test_a_picture_that_the_processor_refuses_is_named_with_its_person(
    made: Path, bases: Callable[[str], Path], tmp_path: Path
) -> None:
    root = shutil.copytree(made, tmp_path / "run")
    picture = sorted((mini_run.without_digests(root / "data") / "images").glob("002_*.png"))[0]
    Image.new("RGB", (500, 2)).save(picture)
    (found,) = faults(bases("qwen2_5_vl"), root)
    assert re.search(r"prompts: 002: .*002_0\.png: .*aspect ratio", found)


@pytest.mark.parametrize(
    ("setting", "value"), [("repetition_penalty", 1.3), ("forced_eos_token_id", 2), ("no_repeat_ngram_size", 2)]
)
def test_decoding_settings_of_a_model_are_noted_and_not_used(
    setting: str, value: float, made: Path, base: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(base, tmp_path / "model")
    change(model / "generation_config.json", **{setting: value})
    examination = Examination(pipeline_at(model, made))
    notes = [text for check, level, text in examine(examination) if (check, level) == ("decoding", "note")]
    assert notes == [f"generation_config.json sets {setting} {value}: not used, replies are greedy"]
    assert getattr(examination.loaded.model.generation_config, setting) in (None, 0, 1.0)
