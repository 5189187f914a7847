"""The doctor on a whole recipe, by its command: what it shows, what it finds, and that it trains nothing."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import mini_run
import pytest
from typer.testing import CliRunner

from mllmu.cli.app import app


@pytest.fixture(scope="module")
def made(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with data alone."""
    return mini_run.run(base, tmp_path_factory.mktemp("doctor") / "run", only="data")


def ask(base: Path, root: Path, *overrides: str) -> tuple[int, str]:
    recipe = mini_run.write_recipe(root.parent / f"{root.name}.yaml", base, *overrides)
    done = CliRunner().invoke(app, ["doctor", str(recipe), "--out", str(root), "--samples", "1"])
    return done.exit_code, done.stdout


def test_a_sound_recipe_is_shown_in_full_without_a_fault_and_nothing_is_trained(base: Path, made: Path) -> None:
    code, text = ask(base, made)
    assert code == 0 and "0 faults" in text and "FAULT" not in text
    assert "<image> x" in text and "[</s>]" in text
    assert re.search(r"model\.vision_tower: [\d,]+ parameters, frozen", text)
    assert re.search(r"model\.language_model: [\d,]+ parameters, 14 layers are trained or adapted", text), "2 of 7 each"
    for check in (
        "forget people apart from all others",
        "labels of finetune",
        "end of reply in npo",
        "context",
        "image tokens",
    ):
        assert f"ok    {check}" in text
    assert "ok    reply limits" in text
    assert not (made / "models").exists()


def test_faults_in_recipe_and_data_end_with_code_2_and_published_settings_are_notes(base: Path, made: Path) -> None:
    root = made.with_name("faulty")
    shutil.copytree(made, root)
    images = sorted((mini_run.without_digests(root / "data") / "images").glob("00?_0.png"))
    images[0].unlink()
    code, text = ask(
        base,
        root,
        "unlearn.methods.1.compat=official",
        r"finetune.lora.targets=.*\.q_proj",
        "evaluate.protocol=official",
    )
    assert code == 2
    assert "note  adapters of finetune: deviation" in text and "model.vision_tower" in text
    assert f"FAULT images: {images[0].name}: no such image" in text
    assert "note  loss of npo: deviation" in text and "note  adapters of npo: deviation" in text
    assert "1 fault" in text


def test_right_replies_over_a_published_limit_are_named(base: Path, made: Path) -> None:
    _, text = ask(base, made, "evaluate.protocol={name: official, max_new_tokens: 4}")
    assert re.search(r"note  reply limits: deviation, prompts: published: \d+ right replies .* \(\d+ of 4\)", text)


@pytest.mark.parametrize(("setting", "value"), [("num_additional_image_tokens", 0), ("patch_size", 32)])
def test_a_model_saved_with_a_processor_that_counts_its_images_otherwise_is_a_fault(
    base: Path, made: Path, tmp_path: Path, setting: str, value: int
) -> None:
    wrong, root = tmp_path / "base", tmp_path / "run"
    shutil.copytree(base, wrong)
    shutil.copytree(made, root)
    config = wrong / "processor_config.json"
    settings = json.loads(config.read_text())
    assert settings[setting] != value
    config.write_text(json.dumps(settings | {setting: value}))
    code, text = ask(wrong, root)
    assert code == 2
    fault = next(line for line in text.splitlines() if "image tokens:" in line)
    assert re.search(rf"FAULT image tokens: processor_config\.json: image tokens come from .*{setting} {value}", fault)
    assert re.search(r"\.png: \d+ tokens in the prompt, \d+ features from the model", fault)
    done = CliRunner().invoke(app, ["finetune", str(tmp_path / "run.yaml"), "--out", str(root)])
    assert done.exit_code == 2 and fault.split(maxsplit=1)[1] in done.stderr, "the same words"
    assert not (root / "models").exists()
