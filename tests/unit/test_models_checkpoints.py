"""Checkpoints of others: an adapter beside a model or alone, tied weights, weights stored in few bits."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers_models import LORA, load_ref, make_base, nll, turns_of
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from mllmu.config.recipe import ModelSection
from mllmu.core.errors import DependencyError, ModelError
from mllmu.core.records import ModelRef
from mllmu.models.engine.forward import run_forward
from mllmu.models.loading import add_trainable, choose_family, save_trained
from mllmu.models.weights import load_settings, round_weights, stored_in
from mllmu.pipeline.export_model import merged
from mllmu.pipeline.published import model_at
from mllmu.training.losses import answer_nll


@pytest.fixture
def copy(tiny_base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_base, tmp_path / "copy"))


def change(path: Path, **settings: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def adapter(base: Path, folder: Path) -> Path:
    """An adapter that changes a model, with the settings that PEFT writes."""
    loaded = load_ref(base)
    model = add_trainable(loaded.model, loaded.family, LORA, seed=0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1
    folder.mkdir(parents=True, exist_ok=True)
    save_trained(model, folder)
    change(folder / "adapter_config.json", base_model_name_or_path=str(base))
    return folder


def test_an_adapter_beside_a_whole_model_is_refused(copy: Path, tmp_path: Path) -> None:
    for file in adapter(copy, tmp_path / "adapter").iterdir():
        shutil.copy(file, copy)
    with pytest.raises(ModelError, match=r"copy' holds a whole model and an adapter beside it \(adapter_config.json\)"):
        load_ref(copy)


def test_an_adapter_alone_is_no_model_of_a_recipe(copy: Path, tmp_path: Path) -> None:
    folder = adapter(copy, tmp_path / "adapter")
    with pytest.raises(ModelError, match=rf"the folder of an adapter, not of a model: name its base \({copy}\)"):
        load_ref(folder)


def test_an_adapter_alone_is_evaluated_on_the_base_it_names(copy: Path, tmp_path: Path) -> None:
    folder = adapter(copy, tmp_path / "adapter")
    section, ref, root = model_at(str(folder), ModelSection(device="cpu"))
    assert (section.path, ref) == (str(copy), ModelRef(base=str(copy), adapters=(str(folder),)))
    plain, adapted = load_ref(copy), load_ref(copy, *ref.adapters, root=root)
    by_run = load_ref(copy, "adapter", root=tmp_path)
    assert nll(adapted, turns_of(copy)) == nll(by_run, turns_of(copy)) != nll(plain, turns_of(copy))
    for nothing in (None, ""):
        change(folder / "adapter_config.json", base_model_name_or_path=nothing)
        with pytest.raises(ModelError, match="an adapter that names no base"):
            model_at(str(folder), ModelSection())
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"adapter_config\.json: not readable"):
        model_at(str(folder), ModelSection())


@pytest.mark.parametrize("outside", ["../adapter", "/adapter", "inside/../../adapter"])
def test_a_record_of_others_takes_no_adapter_from_outside_of_its_folder(
    outside: str, copy: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    adapter(copy, folder / "inside")
    adapter(copy, tmp_path / "adapter")
    name = outside if outside.startswith("..") else f"{tmp_path}{outside}" if outside[0] == "/" else outside
    record = folder / "model.json"
    record.write_text(ModelRef(base=str(copy), adapters=("inside", name)).model_dump_json())
    with pytest.raises(ModelError, match=r"model\.json: adapters: '.*adapter' lies outside of .*run"):
        model_at(str(folder), ModelSection())
    record.write_text(ModelRef(base=str(copy), adapters=("inside",)).model_dump_json())
    assert model_at(str(folder), ModelSection())[1].adapters == ("inside",)


@pytest.mark.parametrize(("outer", "inner"), [(None, True), (False, True), (True, None), (True, False)])
def test_an_output_layer_tied_in_either_part_of_the_settings_is_the_embedding(
    copy: Path, outer: bool | None, inner: bool | None
) -> None:
    expected = nll(load_ref(copy), turns_of(copy))
    config = json.loads((copy / "config.json").read_text())
    for part, tied in ((config, outer), (config["text_config"], inner)):
        del part["tie_word_embeddings"]
        part |= {} if tied is None else {"tie_word_embeddings": tied}
    (copy / "config.json").write_text(json.dumps(config))
    loaded = load_ref(copy)
    assert loaded.model.lm_head.weight.data_ptr() == loaded.model.get_input_embeddings().weight.data_ptr()
    assert nll(loaded, turns_of(copy)) == expected


def test_an_output_layer_that_is_neither_there_nor_tied_names_the_setting(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = False
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"lm_head\.weight.*config\.json must say so \(tie_word_embeddings: true\)"):
        load_ref(copy)


class Stored:
    """Settings of a checkpoint whose weights have few bits."""

    def __init__(self, method: str) -> None:
        self.quantization_config = {"quant_method": method}


def test_weights_stored_in_few_bits_are_loaded_as_they_are(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", object())
    family, cpu = choose_family("auto", "llava"), torch.device("cpu")
    assert stored_in(AutoConfig.from_pretrained(tiny_base)) == ""
    assert stored_in(Stored("bitsandbytes")) == "bitsandbytes"
    assert stored_in(SimpleNamespace(quantization_config=SimpleNamespace(quant_method="gptq"))) == "gptq"
    settings = load_settings(None, Stored("bitsandbytes"), family, torch.float32, cpu)
    assert settings == {"device_map": {"": "cpu"}}
    with pytest.raises(ModelError, match=r"^model\.quantize: nf4, but model\.path is stored in bitsandbytes already"):
        load_settings("nf4", Stored("bitsandbytes"), family, torch.float32, cpu)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(DependencyError, match=r"^model\.path: stored in few bits: .*mllmu\[qlora\]"):
        load_settings(None, Stored("bitsandbytes"), family, torch.float32, cpu)
    assert load_settings(None, Stored("gptq"), family, torch.float32, cpu) == settings


def test_weights_of_few_bits_are_not_rounded_again(tiny_base: Path) -> None:
    loaded = load_ref(tiny_base)
    with_adapter = add_trainable(loaded.model, loaded.family, LORA, seed=0)
    with pytest.raises(ModelError, match="4 or 8 bits cannot be rounded again"):
        round_weights(with_adapter, loaded.family, bits=4)


@pytest.mark.parametrize("bits", [4, 8])
def test_an_adapter_on_weights_stored_in_few_bits_is_kept_whole_and_exported(tmp_path: Path, bits: int) -> None:
    pytest.importorskip("bitsandbytes")
    from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

    base = make_base(tmp_path / "base", width=192)
    kept = {"llm_int8_skip_modules": ["lm_head", "vision_tower", "multi_modal_projector"]}
    how: dict[str, Any] = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"} if bits == 4 else {"load_in_8bit": True}
    small = AutoModelForImageTextToText.from_pretrained(
        base, quantization_config=BitsAndBytesConfig(**how, **kept), device_map={"": "cpu"}
    )
    stored = Path(shutil.copytree(base, tmp_path / "stored"))
    (stored / "model.safetensors").unlink()
    small.save_pretrained(stored)
    loaded, turns = load_ref(stored, root=tmp_path), turns_of(base)
    before = nll(loaded, turns)
    model = add_trainable(loaded.model, loaded.family, LORA, seed=0)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-4)
    for _ in range(6):
        answer_nll(run_forward(model, loaded.encoder.batch(turns))).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    taught = nll(loaded, turns)
    (tmp_path / "a").mkdir()
    save_trained(model.eval(), tmp_path / "a")
    assert nll(load_ref(stored, "a", root=tmp_path), turns) == pytest.approx(taught, abs=1e-4)
    ref = ModelRef(base=str(stored), adapters=("a",))
    whole, processor = merged(ModelSection(path=str(stored), device="cpu"), ref, tmp_path)
    whole.save_pretrained(tmp_path / "out")
    processor.save_pretrained(tmp_path / "out")
    exported = nll(load_ref(tmp_path / "out"), turns)
    assert abs(exported - taught) < 0.01 * abs(before - taught)
    assert "lm_head.weight" not in load_file(tmp_path / "out" / "model.safetensors")


def test_weights_of_an_adapter_in_other_names_are_said_by_either_way(copy: Path, tmp_path: Path) -> None:
    file = adapter(copy, tmp_path / "adapter") / "adapter_model.safetensors"
    held = load_file(file)
    save_file({name.removeprefix("base_model.model."): held[name] for name in held}, file)
    with pytest.raises(ModelError, match=r"layers are in one but not in the other, the first is base_model\.model\."):
        load_ref(copy, "adapter", root=tmp_path)
