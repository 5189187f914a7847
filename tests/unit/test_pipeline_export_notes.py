"""An exported processor writes the prompts of the run; where it cannot, or prepares images otherwise, that is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers_families import build
from transformers import AutoProcessor

from mllmu.config.load import parse
from mllmu.core.records import ModelRef
from mllmu.models.chat_forms import CASES, take_all_forms, write_own_prompts, written_otherwise
from mllmu.models.families import Turn
from mllmu.models.families.internvl import InternVL
from mllmu.models.families.llava import Llava
from mllmu.models.families.paligemma import PaliGemma
from mllmu.models.loading import load_processor
from mllmu.pipeline.export_model import save_merged
from mllmu.pipeline.export_notes import export_notes

OF_THE_HUB = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' ' }}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def said(*content: Any, role: str = "user") -> dict[str, Any]:
    parts = [{"type": "image"} if one is None else {"type": "text", "text": one} for one in content]
    return {"role": role, "content": parts}


def asked(processor: Any, *messages: dict[str, Any], ask: bool = True) -> str:
    return str(processor.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=ask))


def test_a_llava_with_the_template_of_the_hub_gets_one_that_writes_what_the_run_put(
    tiny_base: Path, tmp_path: Path
) -> None:
    processor = load_processor(str(tiny_base), None, {})
    processor.chat_template = OF_THE_HUB
    take_all_forms(processor, "<image>")
    assert asked(processor, said(None, "Who?")) == "USER: <image>\nWho? ASSISTANT:"
    assert list(dict(written_otherwise(Llava(), processor, processor))) == list(CASES)
    write_own_prompts(processor, Llava())
    processor.save_pretrained(tmp_path)
    saved = AutoProcessor.from_pretrained(tmp_path)
    assert export_notes(Llava(), processor, saved, {}) == []
    assert asked(saved, said(None, "Who?")) == "USER: <image>\nWho?\nASSISTANT:"
    assert asked(saved, {"role": "user", "content": "Who?"}, ask=False) == "USER: Who?\n"
    dialogue = [
        said("Be brief.", role="system"),
        said(None, None, "Both?"),
        said("Yes", role="assistant"),
        said("Who?"),
    ]
    assert asked(saved, *dialogue) == (
        "Be brief.\nUSER: <image>\n<image>\nBoth?\nASSISTANT: Yes</s>USER: Who?\nASSISTANT:"
    )


def test_a_template_that_writes_what_the_family_puts_stays(tiny_base: Path) -> None:
    processor = load_processor(str(tiny_base), None, {})
    before = processor.chat_template
    write_own_prompts(processor, Llava())
    assert processor.chat_template == before


def test_what_no_template_can_write_is_said_with_what_the_run_put(tmp_path: Path) -> None:
    processor = load_processor(str(build("paligemma", tmp_path)), None, {})
    write_own_prompts(processor, PaliGemma())
    assert asked(processor, said(None, "Who?")) == PaliGemma().render(Turn(prompt="Who?", image=Path()), processor)
    (note,) = export_notes(PaliGemma(), processor, processor, {})
    assert "another prompt than the run put, for: a system message." in note
    assert note.endswith(r"that is '<image>Be brief.\nWho is this?'.")


@pytest.mark.parametrize("settings", [{}, {"crop_to_patches": False}, {"size": {"height": 24, "width": 24}}])
def test_a_setting_of_images_that_the_files_do_not_keep_is_in_the_card(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    base = build("internvl", tmp_path / "base")
    recipe = parse({"name": "x", "model": {"path": str(base), "device": "cpu", "image_processor": settings}})
    save_merged(recipe, ModelRef(base=str(base)), tmp_path, tmp_path / "out", "# x\n", name="target")
    about = json.loads((tmp_path / "out" / "mllmu.json").read_text())
    card = (tmp_path / "out" / "README.md").read_text()
    run, saved = (load_processor(str(place), None, s) for place, s in ((base, settings), (tmp_path / "out", {})))
    turn = Turn(prompt="?", image=base / "blue.png")  # twice as high as wide
    lost = InternVL().prompt_ids(turn, run)[0] != InternVL().prompt_ids(turn, saved)[0]
    assert lost == ("crop_to_patches" in settings), "what the library keeps"
    assert ("notes" in about) == lost == ("## In other tools" in card)
    if lost:
        (note,) = about["notes"]
        assert note in card
        assert (
            "with crop_to_patches=False, which the files of a InternVLProcessor do not keep: with an image of" in note
        )
