"""A model without a family of its own, cut images and all, is asked by its chat template alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as hf
from helpers_families import CHATML, VISION, build, save, text_settings, tokenizer
from helpers_models import LORA, load_ref, turns_of
from torch import nn
from transformers import AutoModelForImageTextToText

from mllmu.core.errors import ModelError
from mllmu.models.checkpoints import check_head
from mllmu.models.engine.forward import run_forward
from mllmu.models.families import Turn
from mllmu.models.families.auto import Auto
from mllmu.models.loading import add_trainable, load_base
from mllmu.models.processors import leave_videos_out
from mllmu.training.losses import answer_nll


def test_a_model_the_families_do_not_know_is_encoded_trained_and_asked(tmp_path: Path) -> None:
    base = build("aya_vision", tmp_path)
    loaded = load_ref(base)
    assert loaded.family.name == "auto"
    turns = [*turns_of(base), Turn(prompt="Who?", reply="Riga")]
    batch = loaded.encoder.batch(turns)
    with torch.no_grad():
        own = loaded.model(**batch.inputs).logits[:, :-1][batch.labels[:, 1:] != -100]
    torch.testing.assert_close(run_forward(loaded.model, batch).logits_NV, own, atol=1e-5, rtol=1e-4)
    alone = [run_forward(loaded.model, loaded.encoder.batch([turn])).row_logp_B.item() for turn in turns]
    assert run_forward(loaded.model, batch).row_logp_B.tolist() == pytest.approx(alone, abs=1e-3)
    assert loaded.family.prompt_ids(turns[1], loaded.encoder.processor)[0] == loaded.encoder.prompt(turns[1])
    assert loaded.encoder.prompt(replace(turns[0], system="No.")) != loaded.encoder.prompt(turns[0])

    model = add_trainable(loaded.model, loaded.family, LORA, seed=0)
    answer_nll(run_forward(model, batch)).backward()
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained
    assert all("language_model" in name for name in trained)


def test_a_model_without_a_head_apart_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    headless = nn.Linear(1, 1), {"missing_keys": []}
    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", lambda *_, **__: headless)
    with pytest.raises(ModelError, match=r"Linear has no part 'model'.*lm_head\(model"):
        load_base("anywhere", None, torch.device("cpu"))


def granite(scaling: float) -> Any:
    """Granite 4 Vision, which divides its logits."""
    from transformers.models.granite4_vision import configuration_granite4_vision as configs
    from transformers.models.granite4_vision import modeling_granite4_vision as models

    tok = tokenizer("<image>", bos="<s>")
    tower = {**VISION, "hidden_size": 64, "image_size": 16, "patch_size": 8, "vision_use_head": False}
    text = {"model_type": "granite4_vision_text", **text_settings(tok), "logits_scaling": scaling}
    config = configs.Granite4VisionConfig(
        text_config=text, vision_config={"model_type": "siglip_vision_model", **tower}, downsample_rate="1/2",
        image_token_index=tok.convert_tokens_to_ids("<image>"), deepstack_layer_map=[], spatial_target_layers=[],
    )  # fmt: skip
    return models.Granite4VisionForConditionalGeneration(config)


def hyperclovax(scaling: float) -> Any:
    """HyperCLOVA X Vision 2, which multiplies them by a setting of the same name."""
    from transformers.models.hyperclovax_vision_v2 import configuration_hyperclovax_vision_v2 as configs
    from transformers.models.hyperclovax_vision_v2 import modeling_hyperclovax_vision_v2 as models

    tower = {"model_type": "qwen2_5_vl_vision", "depth": 1, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2}
    text = {"model_type": "hyperclovax", **text_settings(tokenizer(bos="<s>")), "logits_scaling": scaling}
    config = configs.HyperCLOVAXVisionV2Config(
        text_config=text, vision_config={**tower, "patch_size": 8, "out_hidden_size": 32, "fullatt_block_indexes": [0]},
        image_token_id=3, video_token_id=4,
    )  # fmt: skip
    return models.HyperCLOVAXVisionV2ForConditionalGeneration(config)


def chameleon(num_masked: int) -> Any:
    """Chameleon, which never says the tokens of images."""
    codes = {f"IMGIMG{chr(ord('A') + number)}Z": 300 + number for number in range(num_masked)}
    tower = {"embed_dim": 8, "num_embeddings": 8, "base_channels": 32, "channel_multiplier": [1], "latent_channels": 8}
    config = hf.ChameleonConfig(
        **text_settings(tokenizer(bos="<s>")), vq_config={**tower, "resolution": 16, "num_res_blocks": 1},
        vocabulary_map={"<image>": 5, **codes},
    )  # fmt: skip
    return hf.ChameleonForConditionalGeneration(config)


@pytest.mark.parametrize(
    ("made", "plain", "changed"), [(granite, 1.0, 8.0), (hyperclovax, 1.0, 0.125), (chameleon, 0, 2)]
)
def test_logits_that_the_library_changes_behind_the_head_are_refused(
    made: Callable[[Any], Any], plain: float, changed: float, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    check_head("there", made(plain).eval())
    model = made(changed)
    with pytest.raises(ModelError, match=rf"model\.path: the logits of {type(model).__name__} \('there'\) are not"):
        check_head("there", model.eval())
    model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="scales, masks or cuts them"):
        load_base(str(tmp_path), None, torch.device("cpu"))


def mllama(folder: Path) -> Path:
    """Llama 3.2 Vision: tokens see images through layers of their own, by a mask of every token."""
    tok = tokenizer("<|im_start|>", "<|image|>", "<|python_tag|>", bos="<s>", eos="<|im_end|>")
    images = hf.MllamaImageProcessorPil(size={"height": 16, "width": 16}, max_image_tiles=2)
    processor = hf.MllamaProcessor(images, tok, chat_template="{{ bos_token }}" + CHATML.replace("IMAGE", "<|image|>"))
    tower = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_global_layers": 1}
    config = hf.MllamaConfig(
        vision_config={**tower, "attention_heads": 2, "image_size": 16, "patch_size": 8, "max_num_tiles": 2,
                       "intermediate_layers_indices": [0], "vision_output_dim": 32,
                       "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]]},
        text_config={**text_settings(tok, num_hidden_layers=3), "cross_attention_layers": [1],
                     "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
        image_token_index=tok.convert_tokens_to_ids("<|image|>"),
    )  # fmt: skip
    save(folder, hf.MllamaForConditionalGeneration(config), processor)
    return folder


def test_images_that_every_token_sees_in_its_own_way_are_refused_by_the_name_of_the_input(tmp_path: Path) -> None:
    leave_videos_out()
    loaded = load_ref(mllama(tmp_path))
    assert loaded.family.name == "auto"
    turn = Turn(prompt="Where was this person born?", reply="Riga", image=tmp_path / "red.png")
    with pytest.raises(
        ModelError, match=r"its processor makes cross_attention_mask \[1, (\d+), 1, 2\] for the \1 tokens"
    ):
        loaded.encoder.batch([turn])


def test_a_processor_that_writes_prompts_of_its_own_is_refused() -> None:
    inputs = {"input_ids": torch.ones(3, 7), "pixel_values": torch.ones(3, 3, 8, 8)}
    with pytest.raises(ModelError, match="makes 3 prompts of one question"):
        Auto().image_tensors(inputs)


@pytest.mark.parametrize("several", [False, True])
def test_all_tokens_of_an_image_are_said_to_be_of_it(several: bool) -> None:
    processor = SimpleNamespace(model_input_names=["input_ids", "mm_token_type_ids"], image_token_id=9)
    if several:  # patches, line breaks and ends, as of Molmo 2; the token in the prompt is none of them
        processor.image_token_ids = [4, 5, 7]
    ids_BT = torch.tensor([[1, 5, 4, 4, 7, 9, 30], [0, 0, 0, 1, 9, 9, 30]])
    found = Auto().token_inputs(ids_BT, ids_BT, processor)["mm_token_type_ids"]
    assert found.tolist() == (
        [[0, 1, 1, 1, 1, 0, 0], [0] * 7] if several else [[0, 0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 1, 1, 0]]
    )
