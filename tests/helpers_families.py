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
        tokenizer_object=built, pad_token="<pad>", bos_token=bos, eos_token=eos, extra_special_tokens=named
    )


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
    pictures = hf.Idefics2ImageProcessorPil(size={"shortest_edge": 20, "longest_edge": 32}, do_image_splitting=True)
    processor = hf.Idefics2Processor(pictures, tok, image_seq_len=4, chat_template=IDEFICS.removeprefix("START"))
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
    pictures = hf.Qwen2VLImageProcessorPil(patch_size=8, min_pixels=16 * 16, max_pixels=48 * 48)
    config = hf.Qwen2_5_VLConfig(
        vision_config={
            "depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "patch_size": 8,
            "window_size": 32, "out_hidden_size": 32, "fullatt_block_indexes": [1],
        },
        text_config=text_settings(tok, rope_parameters=MROPE),
        **qwen_ids(tok),
    )  # fmt: skip
    processor = hf.Qwen2_5_VLProcessor(pictures, tok, chat_template=QWEN_CHAT)
    save(folder, hf.Qwen2_5_VLForConditionalGeneration(config), processor)


def save(folder: Path, model: Any, processor: Any) -> None:
    """Save model, processor and pictures of three shapes."""
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    shapes = ((64, 64), (64, 40), (30, 50))
    for number, (colour, shape) in enumerate(zip(COLOURS, shapes, strict=True)):
        Image.effect_mandelbrot(shape, (-2, -1.5, 1, 1.5 + number), 20).convert("RGB").save(folder / f"{colour}.png")


def llava(folder: Path) -> None:
    make_base(folder)


BUILD: dict[str, Callable[[Path], None]] = {
    "llava": llava,
    "idefics2": idefics2,
    "qwen2_5_vl": qwen2_5_vl,
}


def build(kind: str, folder: Path, *, seed: int = 0) -> Path:
    """Save a tiny random model of an architecture."""
    leave_videos_out()
    torch.manual_seed(seed)
    BUILD[kind](folder)
    return folder
