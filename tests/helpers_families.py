"""A tiny random model of every architecture, from its real config classes, saved as the hub's models are.

The chat templates are written here; they give the same text as those of the published models.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from helpers_models import COLOURS, TEXT, make_base
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from mllmu.models.processors import leave_videos_out
from mllmu.models.smol import assemble

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}{% if c.type == 'image' %}IMAGE"
    "{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
IDEFICS = (
    "START{% for m in messages %}{{ m.role | capitalize }}{% if m.content[0].type == 'image' %}:{% else %}: {% endif %}"
    "{% for c in m.content %}{% if c.type == 'image' %}<image>{% else %}{{ c.text }}{% endif %}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)


def tokenizer(*special: str, bos: str | None = None, eos: str = "</s>", **named: str) -> Any:
    """A byte-level tokenizer of our own text with a family's special tokens; ``named`` ones get attributes."""
    built = Tokenizer(models.BPE())
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    tokens = list(dict.fromkeys(["<pad>", *([bos] if bos else []), eos, *special, *named.values()]))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=tokens, initial_alphabet=alphabet, show_progress=False)
    built.train_from_iterator([TEXT], trainer)
    if bos:  # most tokenizers of the hub put it before every text
        built.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, built.token_to_id(bos))]
        )
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=built, pad_token="<pad>", bos_token=bos, eos_token=eos, extra_special_tokens=named,
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def text_settings(tok: Any, **more: Any) -> dict[str, Any]:
    """Settings of a small language model."""
    return {
        "vocab_size": len(tok),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 1024,
        "initializer_range": 0.2,
        "pad_token_id": tok.pad_token_id,
        "bos_token_id": tok.bos_token_id,
        "eos_token_id": tok.eos_token_id,
        **more,
    }


VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}


def idefics2(folder: Path) -> None:
    tok = tokenizer("<fake_token_around_image>", "<image>", "<end_of_utterance>", bos="<s>")
    images = hf.Idefics2ImageProcessorPil(size={"shortest_edge": 20, "longest_edge": 32}, do_image_splitting=True)
    processor = hf.Idefics2Processor(images, tok, image_seq_len=4, chat_template=IDEFICS.removeprefix("START"))
    config = hf.Idefics2Config(
        vision_config={**VISION, "image_size": 32, "patch_size": 8},
        perceiver_config={
            "hidden_size": 32, "resampler_n_latents": 4, "resampler_depth": 1, "resampler_n_heads": 2,
            "resampler_head_dim": 16, "num_key_value_heads": 1,
        },
        text_config={"model_type": "mistral", **text_settings(tok)},
        image_token_id=tok.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    save(folder, hf.Idefics2ForConditionalGeneration(config), processor)


def qwen_tokenizer() -> Any:
    parts = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    return tokenizer(*parts, eos="<|im_end|>")


def qwen_ids(tok: Any) -> dict[str, int]:
    names = {"image": "<|image_pad|>", "video": "<|video_pad|>"}
    ends = {"vision_start": "<|vision_start|>", "vision_end": "<|vision_end|>"}
    return {f"{name}_token_id": tok.convert_tokens_to_ids(token) for name, token in (names | ends).items()}


QWEN_CHAT = CHATML.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}


def qwen2_5_vl(folder: Path) -> None:
    tok = qwen_tokenizer()
    images = hf.Qwen2VLImageProcessorPil(patch_size=8, min_pixels=16 * 16, max_pixels=48 * 48)
    config = hf.Qwen2_5_VLConfig(
        vision_config={
            "depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "patch_size": 8,
            "window_size": 32, "out_hidden_size": 32, "fullatt_block_indexes": [1],
        },
        text_config=text_settings(tok, rope_parameters=MROPE),
        **qwen_ids(tok),
    )  # fmt: skip
    processor = hf.Qwen2_5_VLProcessor(images, tok, chat_template=QWEN_CHAT)
    save(folder, hf.Qwen2_5_VLForConditionalGeneration(config), processor)


def qwen2_vl(folder: Path) -> None:
    tok = qwen_tokenizer()
    images = hf.Qwen2VLImageProcessorPil(patch_size=8, min_pixels=16 * 16, max_pixels=48 * 48)
    config = hf.Qwen2VLConfig(
        vision_config={"depth": 1, "embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2, "num_heads": 2, "patch_size": 8},
        text_config=text_settings(tok, rope_parameters=MROPE),
        **qwen_ids(tok),
    )
    processor = hf.Qwen2VLProcessor(images, tok, chat_template=QWEN_CHAT)
    save(folder, hf.Qwen2VLForConditionalGeneration(config), processor)


def qwen3_vl(folder: Path) -> None:
    tok = qwen_tokenizer()
    images = hf.Qwen2VLImageProcessorPil(patch_size=8, min_pixels=16 * 16, max_pixels=48 * 48)
    config = hf.Qwen3VLConfig(
        vision_config={
            "depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "patch_size": 8,
            "out_hidden_size": 32, "num_position_embeddings": 36, "deepstack_visual_indexes": [0],
        },
        text_config=text_settings(tok, head_dim=16, rope_parameters=MROPE | {"mrope_interleaved": True}),
        **qwen_ids(tok),
    )  # fmt: skip
    processor = hf.Qwen3VLProcessor(images, tok, chat_template=QWEN_CHAT)
    save(folder, hf.Qwen3VLForConditionalGeneration(config), processor)


INSTRUCT = (
    "{% for m in messages %}{% if m.role == 'system' %}<<SYS>>\n{{ m.content[0].text }}\n<</SYS>>\n\n{% elif m.role == "
    "'user' %}[INST] {% for c in m.content %}{% if c.type == 'image' %}<image>\n{% else %}{{ c.text }}{% endif %}"
    "{% endfor %} [/INST]{% else %} {{ m.content[0].text }}</s>{% endif %}{% endfor %}"
)
TILES = [[16, 32], [32, 16], [32, 32]]


def llava_next(folder: Path) -> None:
    tok = tokenizer(bos="<s>", image_token="<image>")
    images = hf.LlavaNextImageProcessorPil(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, image_grid_pinpoints=TILES
    )
    processor = hf.LlavaNextProcessor(
        images, tok, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=INSTRUCT,
    )  # fmt: skip
    config = hf.LlavaNextConfig(
        vision_config={"model_type": "clip_vision_model", **VISION, "image_size": 16, "patch_size": 8},
        text_config={"model_type": "mistral", **text_settings(tok)},
        image_token_index=tok.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=TILES,
        vision_feature_layer=-1,
    )
    save(folder, hf.LlavaNextForConditionalGeneration(config), processor)


def llava_onevision(folder: Path) -> None:
    tok = tokenizer("<|im_start|>", eos="<|im_end|>", image_token="<image>", video_token="<video>")
    images = hf.LlavaOnevisionImageProcessorPil(size={"height": 16, "width": 16}, image_grid_pinpoints=TILES)
    processor = hf.LlavaOnevisionProcessor(
        images, tok, num_image_tokens=4, vision_feature_select_strategy="full", chat_template=ONEVISION
    )
    config = hf.LlavaOnevisionConfig(
        vision_config={"model_type": "siglip_vision_model", **VISION, "image_size": 16, "patch_size": 8,
                       "vision_use_head": False},
        text_config={"model_type": "qwen2", **text_settings(tok)},
        image_token_index=tok.convert_tokens_to_ids("<image>"),
        video_token_index=tok.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=TILES,
    )  # fmt: skip
    save(folder, hf.LlavaOnevisionForConditionalGeneration(config), processor)


ONEVISION = (
    "{% for m in messages %}<|im_start|>{{ m.role }} {% for c in m.content if c.type == 'image' %}<image>{% endfor %}"
    "{{ '\n' }}{% for c in m.content if c.type == 'text' %}{{ c.text }}{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiled(name: str, folder: Path) -> None:
    """Idefics3 and SmolVLM, which differ in their names only."""
    rows = [f"<row_{i}_col_{j}>" for i in range(1, 4) for j in range(1, 4)]
    tok = tokenizer(
        "<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *rows, bos="<|im_start|>",
        eos="<end_of_utterance>",
    )  # fmt: skip
    images = getattr(hf, f"{name}ImageProcessorPil")(size={"longest_edge": 32}, max_image_size={"longest_edge": 16})
    template = IDEFICS.replace("START", "<|im_start|>")
    processor = getattr(hf, f"{name}Processor")(images, tok, image_seq_len=1, chat_template=template)
    config = getattr(hf, f"{name}Config")(
        vision_config={**VISION, "image_size": 16, "patch_size": 8},
        text_config={"model_type": "llama", **text_settings(tok)},
        image_token_id=tok.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    save(folder, getattr(hf, f"{name}ForConditionalGeneration")(config), processor)


def idefics3(folder: Path) -> None:
    tiled("Idefics3", folder)


def smolvlm(folder: Path) -> None:
    tiled("SmolVLM", folder)


def internvl(folder: Path) -> None:
    tok = tokenizer(
        "<|im_start|>", eos="<|im_end|>", start_image_token="<img>", end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>", video_token="<video>",
    )  # fmt: skip
    images = hf.GotOcr2ImageProcessorPil(size={"height": 32, "width": 32}, max_patches=2)
    chat = CHATML.replace("IMAGE", "<IMG_CONTEXT>\n")
    processor = hf.InternVLProcessor(images, tok, image_seq_length=4, chat_template=chat)
    config = hf.InternVLConfig(
        vision_config={**VISION, "image_size": [32, 32], "patch_size": [8, 8]},
        text_config={"model_type": "qwen2", **text_settings(tok)},
        image_token_id=processor.image_token_id,
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    save(folder, hf.InternVLForConditionalGeneration(config), processor)


def siglip(size: int) -> dict[str, Any]:
    return {
        "model_type": "siglip_vision_model",
        **VISION,
        "image_size": size,
        "patch_size": 8,
        "vision_use_head": False,
    }


def paligemma(folder: Path) -> None:
    tok = tokenizer(bos="<bos>", eos="<eos>", image_token="<image>")
    images = hf.SiglipImageProcessorPil(size={"height": 16, "width": 16}, image_seq_length=4)
    processor = hf.PaliGemmaProcessor(images, tok)
    config = hf.PaliGemmaConfig(
        vision_config=siglip(16) | {"projection_dim": 32},
        text_config={"model_type": "gemma2", **text_settings(tok), "head_dim": 16, "query_pre_attn_scalar": 16},
        image_token_index=tok.convert_tokens_to_ids("<image>"),
        projection_dim=32,
        hidden_size=32,
    )
    save(folder, hf.PaliGemmaForConditionalGeneration(config), processor)


GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set first = messages[0].content[0].text + '\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}{% for m in rest %}"
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ first if loop.first }}"
    "{% for c in m.content %}{% if c.type == 'image' %}<start_of_image>{% else %}{{ c.text | trim }}{% endif %}"
    "{% endfor %}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def gemma3_tokenizer() -> Any:
    return tokenizer(
        "<start_of_turn>", "<end_of_turn>", bos="<bos>", eos="<eos>", boi_token="<start_of_image>",
        eoi_token="<end_of_image>", image_token="<image_soft_token>",
    )  # fmt: skip


def save_gemma3(folder: Path, tok: Any, side: int, num_tokens: int, **settings: Any) -> None:
    """A model whose images are squares of ``side`` pixels, each ``num_tokens`` tokens."""
    images = hf.Gemma3ImageProcessorPil(size={"height": side, "width": side})
    config = hf.Gemma3Config(
        mm_tokens_per_image=num_tokens, boi_token_index=tok.boi_token_id, eoi_token_index=tok.eoi_token_id,
        image_token_index=tok.image_token_id, **settings,
    )  # fmt: skip
    model = hf.Gemma3ForConditionalGeneration(config)
    model.model.multi_modal_projector.mm_input_projection_weight.data.normal_()  # starts at zero: images unseen
    save(folder, model, hf.Gemma3Processor(images, tok, image_seq_length=num_tokens, chat_template=GEMMA))


def gemma3(folder: Path) -> None:
    tok = gemma3_tokenizer()
    layers = ["sliding_attention", "full_attention"]
    text = text_settings(tok, head_dim=16, query_pre_attn_scalar=16, sliding_window=8, layer_types=layers)
    save_gemma3(folder, tok, 32, 4, vision_config=siglip(32), text_config=text)


def vipllava(folder: Path) -> None:
    """No family of its own: the model of the family ``auto``."""
    tok = tokenizer("<|im_start|>", eos="<|im_end|>", image_token="<image>")
    images = hf.CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    processor = hf.LlavaProcessor(
        images, tok, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=CHATML.replace("IMAGE", "<image>\n"),
    )  # fmt: skip
    config = hf.VipLlavaConfig(
        vision_config={"model_type": "clip_vision_model", **VISION, "num_hidden_layers": 2, "image_size": 16,
                       "patch_size": 8},
        text_config={"model_type": "llama", **text_settings(tok)},
        image_token_index=tok.convert_tokens_to_ids("<image>"),
        vision_feature_layer=[-1, -2],
    )  # fmt: skip
    save(folder, hf.VipLlavaForConditionalGeneration(config), processor)


def aya_vision(folder: Path) -> None:
    """No family of its own either, and its mark of an image is no token."""
    names = ("<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>", "TILE", "TILE_GLOBAL")
    tok = tokenizer("<|im_start|>", *names, eos="<|im_end|>")
    images = hf.GotOcr2ImageProcessorPil(size={"height": 32, "width": 32}, max_patches=2, crop_to_patches=True)
    processor = hf.AyaVisionProcessor(
        images, tok, patch_size=8, img_size=32, downsample_factor=2, chat_template=CHATML.replace("IMAGE", "<image>"),
    )  # fmt: skip
    config = hf.AyaVisionConfig(
        vision_config=siglip(32),
        text_config={"model_type": "cohere2", **text_settings(tok), "sliding_window": 64},
        image_token_index=tok.convert_tokens_to_ids("<|IMG_PATCH|>"),
        downsample_factor=2,
    )
    save(folder, hf.AyaVisionForConditionalGeneration(config), processor)


SMOL_CHAT = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou help."
    "<|im_end|>\n{% endif %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def smol_language() -> tuple[Any, Any]:
    """A random Llama, and a tokenizer with the names of SmolLM2's special tokens."""
    tok = tokenizer("<empty_output>", "<|endoftext|>", bos="<|im_start|>", eos="<|im_end|>")
    tok.chat_template, tok.unk_token, tok.pad_token = SMOL_CHAT, "<|endoftext|>", "<|im_end|>"
    return hf.LlamaForCausalLM(hf.LlamaConfig(**text_settings(tok), tie_word_embeddings=True)), tok


def llava_chat(folder: Path) -> None:
    language, tok = smol_language()
    tok = assemble.with_image_token(tok)
    model = assemble.build(language, tok)
    save(folder, model, assemble.build_processor(tok, model.config))


def save(folder: Path, model: Any, processor: Any) -> None:
    """Save model, processor and images of three shapes."""
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    shapes = ((64, 64), (64, 40), (32, 64))
    for number, (colour, shape) in enumerate(zip(COLOURS, shapes, strict=True)):
        Image.effect_mandelbrot(shape, (-2, -1.5, 1, 1.5 + number), 20).convert("RGB").save(folder / f"{colour}.png")


def llava(folder: Path) -> None:
    make_base(folder)


BUILD: dict[str, Callable[[Path], None]] = {
    "llava": llava,
    "idefics2": idefics2,
    "idefics3": idefics3,
    "smolvlm": smolvlm,
    "qwen2_vl": qwen2_vl,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "llava_chat": llava_chat,
    "llava_next": llava_next,
    "llava_onevision": llava_onevision,
    "internvl": internvl,
    "paligemma": paligemma,
    "gemma3": gemma3,
    "auto": vipllava,
    "aya_vision": aya_vision,
}


def build(kind: str, folder: Path, *, seed: int = 0) -> Path:
    """Save a tiny random model of an architecture."""
    leave_videos_out()
    torch.manual_seed(seed)
    BUILD[kind](folder)
    return folder
