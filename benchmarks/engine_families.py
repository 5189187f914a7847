"""The benchmark's own questions to a small random model of every family: read behind common prefixes, and one by one.

    python -m benchmarks.engine_families                 # two minutes of one core
    python -m benchmarks.engine_families --names gemma3 paligemma

A person is asked 18 questions, of which 9 show an image, each with its candidates, 8 new tokens; models that take no
prompt without an image are asked those 9. ``engine`` reads what prompts have in common once, ``plain`` reads every
prompt again for its reply and for every candidate; both are given the same batches. Seconds are those of the
processor, side by side in one run, images and tower included; nothing is downloaded. The models have the sizes of
their images in tokens, but are narrow (192) and shallow (4 layers).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from helpers_families import QWEN_CHAT, gemma3_tokenizer, qwen_ids, qwen_tokenizer, save, save_gemma3, tokenizer

from benchmarks import engine_evaluation as evaluation
from mllmu.config.recipe import Evaluate, ModelSection
from mllmu.core.records import ModelRef, Response, Sample
from mllmu.evaluation import samples as sampling
from mllmu.models.engine.respond import plan_batches, respond
from mllmu.models.families import Turn
from mllmu.models.loading import Loaded, load
from mllmu.models.processors import leave_videos_out

WIDTH, LAYERS, VOCABULARY = 192, 4, 8000
HEAD = 24
NEW_TOKENS, BATCH, PEOPLE = 8, 16, 2
MROPE = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 4, 4]}


def text(tok: Any, **more: Any) -> dict[str, Any]:
    """A language model of about 3 million weights, most of them in its vocabulary."""
    return {
        "vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": 512, "num_hidden_layers": LAYERS,
        "num_attention_heads": WIDTH // HEAD, "num_key_value_heads": WIDTH // HEAD // 2, "head_dim": HEAD,
        "max_position_embeddings": 4096, "initializer_range": 0.1, "pad_token_id": tok.pad_token_id,
        "bos_token_id": tok.bos_token_id, "eos_token_id": tok.eos_token_id, **more,
    }  # fmt: skip


def qwen(generation: str, vision: dict[str, Any], patch: int, **rope: Any) -> Callable[[Path], None]:
    """A model of a Qwen-VL generation whose tower is named ``vision``; an image has 100 to 144 tokens."""

    def make(folder: Path) -> None:
        tok = qwen_tokenizer()
        images = hf.Qwen2VLImageProcessorPil(patch_size=patch, min_pixels=56 * 56, max_pixels=336 * 336)
        settings = {"depth": 2, "num_heads": 4, "patch_size": patch} | vision
        config = getattr(hf, f"{generation}Config")(
            vision_config=settings, text_config=text(tok, rope_parameters=MROPE | rope), **qwen_ids(tok)
        )
        processor = getattr(hf, f"{generation}Processor")(images, tok, chat_template=QWEN_CHAT)
        save(folder, getattr(hf, f"{generation}ForConditionalGeneration")(config), processor)

    return make


def siglip(size: int) -> dict[str, Any]:
    return {
        "model_type": "siglip_vision_model", "hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 2,
        "num_attention_heads": 4, "image_size": size, "patch_size": 14, "vision_use_head": False,
    }  # fmt: skip


def gemma3(folder: Path) -> None:
    tok = gemma3_tokenizer()
    layers = ["sliding_attention"] * (LAYERS - 1) + ["full_attention"]
    language = text(tok, query_pre_attn_scalar=HEAD, sliding_window=1024, layer_types=layers)
    save_gemma3(folder, tok, 448, 256, vision_config=siglip(448), text_config=language)


def paligemma(folder: Path) -> None:
    tok = tokenizer(bos="<bos>", eos="<eos>", image_token="<image>")
    images = hf.SiglipImageProcessorPil(size={"height": 224, "width": 224}, image_seq_length=256)
    config = hf.PaliGemmaConfig(
        vision_config=siglip(224) | {"projection_dim": WIDTH},
        text_config={"model_type": "gemma2", **text(tok), "query_pre_attn_scalar": HEAD},
        image_token_index=tok.convert_tokens_to_ids("<image>"), projection_dim=WIDTH, hidden_size=WIDTH,
    )  # fmt: skip
    save(folder, hf.PaliGemmaForConditionalGeneration(config), hf.PaliGemmaProcessor(images, tok))


TOWER = {"hidden_size": 96, "intermediate_size": 256, "out_hidden_size": WIDTH}
BUILD: dict[str, Callable[[Path], None]] = {
    "qwen2_vl": qwen("Qwen2VL", {"embed_dim": 96, "hidden_size": WIDTH, "mlp_ratio": 2}, 14),
    "qwen2_5_vl": qwen("Qwen2_5_VL", TOWER | {"window_size": 112, "fullatt_block_indexes": [1]}, 14),
    "qwen3_vl": qwen(
        "Qwen3VL", TOWER | {"num_position_embeddings": 576, "deepstack_visual_indexes": [0]}, 16, mrope_interleaved=True
    ),
    "gemma3": gemma3,
    "paligemma": paligemma,
}


def asked(folder: Path, *, has_image: bool) -> list[Sample]:
    """The questions about some people with all their candidates, or those that show an image."""
    data = evaluation.dataset(folder, PEOPLE, 336)
    rendered = sampling.render(data, evaluation.KEY, Evaluate(), selection=0.0, seed=0)
    forget = [one.model_copy(update={"max_new_tokens": NEW_TOKENS}) for one in rendered if one.split == "forget"]
    return [one for one in forget if one.image or not has_image]


def ask(folder: Path, base: Path, samples: list[Sample], *, share: bool) -> tuple[float, dict[str, Response]]:
    """Processor seconds a question of a model that has seen no image yet, and its replies."""
    loaded: Loaded = load(ModelSection(path=str(base), device="cpu"), ModelRef(base=str(base)), base)
    found: dict[str, Response] = {}

    def work() -> None:
        for batch in respond(loaded, plan_batches(samples, BATCH), image_folder=folder, share=share):
            found.update({reply.sample_id: reply for reply in batch})

    return evaluation.seconds(work, len(samples))["s_a_question"], found


def measure(name: str, folder: Path) -> dict[str, Any]:
    """Both ways, the engine before and after the other."""
    torch.manual_seed(0)
    base = folder / name
    base.mkdir()
    BUILD[name](base)
    samples = asked(folder, has_image=name == "paligemma")
    (first, replies), (plain, expected), (second, _) = (
        ask(folder, base, samples, share=share) for share in (True, False, True)
    )
    loaded = load(ModelSection(path=str(base), device="cpu"), ModelRef(base=str(base)), base)
    shown = next(folder / one.image for one in samples if one.image)
    tokens = loaded.encoder.prompt(Turn(prompt="?", image=shown)).count(loaded.image_token_id)
    gaps = [
        abs(scored.logp - expected[key].candidates[which].logp)
        for key, reply in replies.items()
        for which, scored in reply.candidates.items()
    ]
    return {
        "questions": len(samples),
        "image_tokens": tokens,
        "engine_s": [round(first, 4), round(second, 4)],
        "plain_s": round(plain, 4),
        "times": [round(plain / spent, 1) for spent in (first, second)],
        "same_replies": all(reply.text == expected[key].text for key, reply in replies.items()),
        "largest_logp_gap": round(max(gaps), 6),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--names", nargs="+", choices=BUILD, default=list(BUILD))
    options = parser.parse_args()
    torch.set_num_threads(1)
    leave_videos_out()
    with tempfile.TemporaryDirectory() as folder:
        for name in options.names:
            sys.stdout.write(f"{name} {json.dumps(measure(name, Path(folder)))}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
