"""Which settings of a recipe make another run, looked at one by one: none is left out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from mllmu.config.load import apply_override, parse
from mllmu.config.recipe import Recipe
from mllmu.config.variants import conflict
from mllmu.core.plugins import Settings

PLAIN = (
    "name=demo", "model.path=tiny", "finetune.modality=both", "unlearn.methods=[{name: npo, beta: 0.4}, ga]",
    "evaluate.attacks=[relearn_forget, {name: relearn_forget, steps: 2}]", "evaluate.judges=[rule]",
    "evaluate.compare={short: {max_new_tokens: 5}}",
)  # fmt: skip
WORK: dict[str, str] = {
    "seed": "1",
    "seeds.teach": "0",
    "seeds.unlearn": "0",
    "seeds.evaluate": "0",
    "data.source": "{name: synthetic, num_people: 9}",
    "data.celebrities": "null",
    "data.holdout_source": "{name: synthetic, num_people: 9}",
    "data.portraits": "{name: dicebear, size: 64}",
    "data.questions": "{name: llm, model: m}",
    "data.splits.forget_ratios": "[0.2]",
    "data.splits.file": "forget.json;data.splits.keys=[a]",
    "data.splits.keys": "[a];data.splits.file=forget.json",
    "data.splits.skew": "{female: 2}",
    "data.splits.holdout": "7",
    "data.splits.calibration": "1",
    "data.splits.selection": "0.1",
    "data.review": "review.json",
    "data.train_formats": "[cloze]",
    "data.train_wordings": "5",
    "model.path": "smol",
    "model.revision": "main",
    "model.family": "llava",
    "model.image_processor": "{size: 32}",
    "model.packing": "off",
    "model.dtype": "bfloat16",
    "model.quantize": "nf4",
    "model.attn_implementation": "eager",
    "finetune.epochs": "4",
    "finetune.learning_rate": "0.1",
    "finetune.batch_size": "3",
    "finetune.questions_together": "2",
    "finetune.warmup": "0.1",
    "finetune.weight_decay": "0.1",
    "finetune.modality": "text",
    "finetune.lora": "null",
    "finetune.retain_model": "false",
    "finetune.given": "[adapters]",
    "unlearn.forget": "{attributes: [salary]}",
    "unlearn.requests": "2",
    "evaluate.protocol.name": "official",
    "evaluate.protocol.prompts": "published",
    "evaluate.protocol.shots": "{cloze: 1}",
    "evaluate.protocol.parser": "first_char",
    "evaluate.protocol.max_new_tokens": "9",
    "evaluate.protocol.test_image": "one",
    "evaluate.tasks": "[generation]",
    "evaluate.modalities": "[text]",
    "evaluate.metrics": "[rougeL]",
    "evaluate.extra_metrics": "[member_loss]",
    "evaluate.summaries": "[membership]",
    "evaluate.backend": "vllm",
    "evaluate.benchmarks": "[mmmu]",
    "evaluate.controls": "true",
    "evaluate.celebrity": "known_to_base",
    "evaluate.max_profiles": "{retain: 2}",
}
"""Units depend on these: another value, with what it needs behind a semicolon."""
ADDED: dict[str, tuple[str, str]] = {
    "unlearn.methods": ("[{name: npo, beta: 0.5}]", "[{name: npo, beta: 0.4}, kl_min]"),
    "unlearn.lora": ("{rank: 2}", "{rank: 2};unlearn.methods=[prompting]"),
    "evaluate.judges": ("[{name: endpoint, label: rule, model: m}]", "[{name: endpoint, model: m}]"),
    "evaluate.attacks": ("[{name: relearn_forget, steps: 3}]", "[relearn_forget, remove_prompt]"),
    "evaluate.attack_budget": ("small;evaluate.attacks=[{name: relearn_forget, steps: 3}]", "full"),
    "evaluate.compare": ("{short: {max_new_tokens: 6}}", "{long: {max_new_tokens: 60}, short: {max_new_tokens: 5}}"),
}
"""A run can hold more of these: a change of what is there, and something new beside it."""
SAME: dict[str, str] = {
    "name": "other",  # where the folder is
    "workers": "2",  # who works
    "gate": "false",  # whether to stop
    "report.title": "Other",  # drawn anew at any time
    "report.reference_rows": "true",
    "report.num_examples": "0",
    "model.device": "cpu",  # where and how fast
    "model.device_map": "auto",
    "model.gradient_checkpointing": "true",
    "finetune.micro_batch_size": "2",
    "finetune.checkpoint_every_s": "5",
    "unlearn.micro_batch_size": "2",
    "unlearn.reference_mib": "0",
    "evaluate.batch_size": "8",
    "evaluate.vllm": "{max_num_seqs: 2};evaluate.backend=vllm",
}
"""No unit depends on these."""


def recipe(*overrides: str) -> Recipe:
    raw: dict[str, Any] = {}
    for override in (*PLAIN, *overrides):
        apply_override(raw, override)
    return parse(raw)


def changed(setting: str, text: str) -> Recipe:
    return recipe(*f"{setting}={text}".split(";"))


def settings(section: type[Settings] = Recipe, prefix: str = "") -> Iterator[str]:
    """Every setting of a recipe that is no section of others."""
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Settings):
            yield from settings(kind, f"{prefix}{name}.")
        else:
            yield prefix + name


def test_every_setting_is_known_to_change_work_or_not() -> None:
    known = [*WORK, *ADDED, *SAME]
    assert sorted(known) == sorted(set(settings())), "a new setting: say above whether units depend on it"


@pytest.mark.parametrize("setting", WORK)
def test_a_setting_on_which_work_depends_makes_another_run(setting: str) -> None:
    assert conflict(recipe(), changed(setting, WORK[setting])) != ""


@pytest.mark.parametrize("setting", ADDED)
def test_what_is_there_under_a_name_stays_as_it_is_and_others_are_added(setting: str) -> None:
    other, more = ADDED[setting]
    assert conflict(recipe(), changed(setting, other)) != ""
    assert conflict(recipe(), changed(setting, more)) == ""


@pytest.mark.parametrize("setting", SAME)
def test_a_setting_on_which_no_work_depends_stays_in_the_folder(setting: str) -> None:
    before = recipe("evaluate.backend=vllm") if setting == "evaluate.vllm" else recipe()
    assert conflict(before, changed(setting, SAME[setting])) == ""


def test_metrics_that_are_computed_anyway_and_summaries_of_them_stay_in_the_folder() -> None:
    assert conflict(recipe(), recipe("evaluate.extra_metrics=[rougeL]")) == ""
    assert conflict(recipe(), recipe("evaluate.summaries=[forget_quality, diversity]")) == ""
