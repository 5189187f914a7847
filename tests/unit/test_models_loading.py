"""What can be wrong with a model on disk, and what the user is told."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from helpers_families import build
from helpers_models import LORA, load_ref, make_base, turns_of
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import LlavaConfig, PaliGemmaConfig

from mllmu.config.recipe import Lora, ModelSection
from mllmu.core.errors import ModelError
from mllmu.core.records import ModelRef
from mllmu.models.families import Turn
from mllmu.models.loading import (
    add_trainable,
    attention,
    choose_device,
    choose_dtype,
    choose_family,
    choose_packing,
    load,
    save_trained,
)

LLAVA = LlavaConfig()


@pytest.fixture
def copy(tiny_base: Path, tmp_path: Path) -> Path:
    """A base folder that may be damaged."""
    return Path(shutil.copytree(tiny_base, tmp_path / "copy"))


def change(path: Path, **settings: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def test_a_loaded_model_is_ready_to_run_and_says_what_it_is(tiny_base: Path) -> None:
    ready = load_ref(tiny_base)
    assert not ready.model.training
    assert ready.device == torch.device("cpu")
    assert ready.model.dtype == torch.float32
    assert ready.encoder.context == 512
    tokenizer = ready.encoder.processor.tokenizer
    assert ready.image_token_id == tokenizer.convert_tokens_to_ids("<image>")
    assert ready.ends == {tokenizer.eos_token_id}


def test_an_encoder_can_be_shared(tiny_base: Path) -> None:
    first = load_ref(tiny_base)
    assert load_ref(tiny_base, encoder=first.encoder).encoder is first.encoder


def test_loading_shows_neither_bars_nor_advice_and_leaves_the_library_as_it_was(
    tiny_base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers.utils import logging

    assert logging.is_progress_bar_enabled()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ready = load_ref(tiny_base)
        save_trained(add_trainable(ready.model, ready.family, LORA, seed=0), tmp_path)
        load_ref(tiny_base, ".", ".", root=tmp_path)
    assert capfd.readouterr() == ("", "")
    assert logging.is_progress_bar_enabled()


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"model\.path: '.*/nowhere' cannot be loaded: .*Expected 'tiny', 'smol', a folder"
    ):
        load_ref(tmp_path / "nowhere")


@pytest.mark.parametrize("files", ["processor_config.json", "tokenizer*", "config.json", "model.safetensors"])
def test_an_incomplete_folder_is_named(copy: Path, files: str) -> None:
    for file in copy.glob(files):
        file.unlink()
    with pytest.raises(ModelError, match=f"'{copy}' cannot be loaded: .*Expected 'tiny', 'smol', a folder") as caught:
        load_ref(copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json", "processor_config.json"])
def test_a_file_cut_short_is_an_error_of_the_model(copy: Path, file: str) -> None:
    data = (copy / file).read_bytes()
    (copy / file).write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match=f"'{copy}' cannot be loaded"):
        load_ref(copy)


def test_weights_that_lack_a_layer_are_refused_instead_of_filled_with_noise(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    lost = next(name for name in weights if "q_proj" in name)
    save_file({k: v for k, v in weights.items() if k != lost}, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 of the weights of Llava.*q_proj"):
        load_ref(copy)


def test_pickled_weights_are_never_read(copy: Path) -> None:
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_ref(copy)


def test_code_beside_a_model_is_never_run(copy: Path) -> None:
    (copy / "evil.py").write_text(f"open({str(copy / 'ran')!r}, 'w').close()\nclass C: pass\n")
    change(copy / "config.json", model_type="evil", auto_map={"AutoConfig": "evil.C", "AutoProcessor": "evil.C"})
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_ref(copy)
    assert not (copy / "ran").exists()


def test_a_model_type_without_family_names_the_known_ones() -> None:
    with pytest.raises(
        ModelError, match=r"no family for model type 'gpt_tv', which is no .* Known: .*llava.* Name one"
    ):
        choose_family("auto", "gpt_tv")


def test_an_unknown_model_type_is_explained(copy: Path) -> None:
    change(copy / "config.json", model_type="gpt_tv")
    with pytest.raises(ModelError, match="gpt_tv"):
        load_ref(copy)


def test_too_little_memory_is_no_fault_of_the_files(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_little(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.")

    monkeypatch.setattr("mllmu.models.loading.AutoConfig.from_pretrained", too_little)
    with pytest.raises(RuntimeError, match=r"^DefaultCPUAllocator: can't allocate memory"):
        load_ref(tiny_base)


def test_the_reason_is_not_buried_in_another_error(copy: Path) -> None:
    change(copy / "config.json", model_type="bert", architectures=["BertModel"])
    with pytest.raises(ModelError) as caught:
        load_ref(copy)
    assert str(caught.value).startswith("model.family: no family for model type 'bert'")


@pytest.mark.parametrize("made", ["lora", "full"])
def test_an_adapter_that_is_not_there_sends_back_to_the_earlier_stage(
    tiny_base: Path, tmp_path: Path, made: str
) -> None:
    (tmp_path / made).mkdir()
    with pytest.raises(ModelError, match=f"{made}: no adapter there .*Run the earlier stages again"):
        load_ref(tiny_base, made, root=tmp_path)
    with pytest.raises(ModelError, match="nowhere: no adapter there"):
        load_ref(tiny_base, "nowhere", root=tmp_path)


@pytest.mark.parametrize(
    ("shape", "lora"),
    [({"layers": 1}, LORA), ({"layers": 3}, LORA), ({"width": 64}, LORA), ({"layers": 3}, None), ({"width": 64}, None)],
)
def test_an_adapter_of_another_model_is_refused(
    tiny_base: Path, tmp_path: Path, shape: dict[str, int], lora: Lora | None
) -> None:
    other = load_ref(make_base(tmp_path / "other", **shape))
    (tmp_path / "adapter").mkdir()
    save_trained(add_trainable(other.model, other.family, lora, seed=0), tmp_path / "adapter")
    with pytest.raises(ModelError, match=r"adapter/.*safetensors: does not fit the base model"):
        load_ref(tiny_base, "adapter", root=tmp_path)


@pytest.mark.parametrize("lora", [LORA, None], ids=["lora", "full"])
def test_a_damaged_adapter_is_named(tiny_base: Path, tmp_path: Path, lora: Lora | None) -> None:
    ready = load_ref(tiny_base)
    save_trained(add_trainable(ready.model, ready.family, lora, seed=0), tmp_path)
    (weights,) = tmp_path.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match=rf"{weights.name}: does not fit the base model or is damaged"):
        load_ref(tiny_base, ".", root=tmp_path)


@pytest.mark.parametrize("name", ["gpu", "cuda:0", "meta"])
def test_a_device_that_cannot_be_used_is_an_error(name: str) -> None:
    if name == "cuda:0" and torch.cuda.is_available():
        pytest.skip("there is such a device")
    with pytest.raises(ModelError, match=rf"model\.device: '{name}'"):
        choose_device(name)


def test_automatic_precision_depends_on_the_device() -> None:
    assert choose_dtype("auto", torch.device("cpu")) == torch.float32
    assert choose_dtype("auto", torch.device("cuda")) == torch.bfloat16
    assert choose_dtype("float32", torch.device("cuda")) == torch.float32
    assert choose_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16


def test_the_embedded_model_is_loaded_by_its_name() -> None:
    ready = load(ModelSection(device="cpu"), ModelRef(base="tiny"), Path())
    assert ready.family == choose_family("auto", "llava")


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_the_attention_kernel_can_be_chosen(tiny_base: Path, kernel: str) -> None:
    assert load_ref(tiny_base, attn_implementation=kernel).model.config._attn_implementation == kernel


def test_a_model_that_bounds_its_scores_gets_the_kernel_that_does() -> None:
    """PaliGemma 2 can be loaded with no other."""
    bounded, other = (PaliGemmaConfig(text_config={"model_type": kind}) for kind in ("gemma2", "gemma"))
    for device in ("cpu", "cuda"):
        assert attention(bounded, torch.device(device)) == "eager"
        assert attention(other, torch.device(device)) == "sdpa"


def test_a_kernel_that_is_not_installed_is_an_error_and_packing_with_it_too(tiny_base: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot be loaded: .*[Ff]lash"):
        load_ref(tiny_base, attn_implementation="flash_attention_2")
    section = ModelSection(attn_implementation="flash_attention_2")
    family = choose_family("auto", "llava")
    assert not choose_packing(section, family, LLAVA)
    with pytest.raises(ModelError, match=r"model\.packing: flash_attention_2 takes no mask"):
        choose_packing(section.model_copy(update={"packing": "on"}), family, LLAVA)


def test_packing_is_for_families_that_share_a_prefix() -> None:
    section = ModelSection(packing="on")
    assert choose_packing(section, choose_family("auto", "llava"), LLAVA)
    with pytest.raises(ModelError, match=r"model\.packing: the family 'paligemma' cannot be packed"):
        choose_packing(section, choose_family("auto", "paligemma"), LLAVA)


def test_a_model_cannot_be_spread_over_gpus_that_are_not_there(tiny_base: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.device_map: 'auto' spreads a model over GPUs, but the device is cpu"):
        load_ref(tiny_base, device_map="auto")


def test_settings_of_the_image_processor_are_used_and_checked(tiny_base: Path) -> None:
    smaller = load_ref(tiny_base, image_processor={"image_mean": [0.0, 0.0, 0.0]})
    assert list(smaller.encoder.processor.image_processor.image_mean) == [0.0, 0.0, 0.0]
    with pytest.raises(
        ModelError, match=r"model\.image_processor\.image_men: .*Did you mean 'image_mean'\? Settings: .*size"
    ):
        load_ref(tiny_base, image_processor={"image_men": 1})


@pytest.mark.parametrize(
    ("kind", "settings", "fewer"),
    [
        ("idefics2", {"do_image_splitting": True}, False),
        ("smolvlm", {"do_image_splitting": False}, True),
        ("qwen2_5_vl", {"max_pixels": 32 * 32}, True),
        ("internvl", {"crop_to_patches": False}, True),
    ],
)
def test_they_change_how_many_tokens_a_image_takes(
    tmp_path: Path, kind: str, settings: dict[str, object], fewer: bool
) -> None:
    base = build(kind, tmp_path)
    turns = turns_of(base)[-2:]
    usual, changed = load_ref(base).encoder, load_ref(base, image_processor=settings)
    assert (len(changed.encoder.prompt(turns[0])) < len(usual.prompt(turns[0]))) is fewer
    assert len(changed.encoder.prompt(turns[0])) != len(usual.prompt(turns[0]))
    changed.model(**changed.encoder.batch(turns).inputs)


def test_a_model_of_a_type_without_family_is_asked_by_its_chat_template() -> None:
    assert choose_family("auto", "aya_vision").name == "auto"


def test_a_processor_that_needs_torchvision_says_so(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise ImportError("FooImageProcessor requires the Torchvision library but it was not found")

    monkeypatch.setattr("mllmu.models.loading.load_processor", refuse)
    with pytest.raises(ModelError, match="needs torchvision: install the version that belongs to your torch"):
        load_ref(tiny_base)


def test_a_image_the_processor_cannot_prepare_is_named(tmp_path: Path) -> None:
    loaded = load_ref(build("qwen2_5_vl", tmp_path))
    Image.new("RGB", (2000, 2)).save(tmp_path / "line.png")
    with pytest.raises(ModelError, match=r"line\.png: Qwen2_5_VLProcessor cannot prepare .*'Who\?': .*aspect ratio"):
        loaded.encoder.prompt(Turn(prompt="Who?", image=tmp_path / "line.png"))


def test_a_processor_without_the_size_of_its_patches_is_explained(copy: Path) -> None:
    change(copy / "processor_config.json", patch_size=None)
    with pytest.raises(ModelError, match=r"red\.png: LlavaProcessor cannot prepare .*patch_size"):
        load_ref(copy).encoder.prompt(turns_of(copy)[0])


def test_a_processor_with_a_part_for_videos_loads_in_a_fresh_process(tmp_path: Path) -> None:
    base = build("qwen2_5_vl", tmp_path)
    code = (
        "import sys; from mllmu.models.loading import load_processor as load; print(type(load(sys.argv[1], None, {})))"
    )
    result = subprocess.run([sys.executable, "-c", code, base], capture_output=True, text=True, check=False)
    assert "Qwen2_5_VLProcessor" in result.stdout, result.stderr
