"""A model of a run as an ordinary folder: base and adapters in one set of weights, with its processor."""

import json
import shutil
from pathlib import Path
from typing import Any

from mllmu.config import load as recipes
from mllmu.config.recipe import ModelSection, Recipe
from mllmu.core.errors import ModelError, did_you_mean
from mllmu.core.names import TARGET
from mllmu.core.records import ModelRef
from mllmu.core.runfolder import RunFolder, explain_os_errors, read_record
from mllmu.models.base_files import base_files, check_base
from mllmu.models.chat_forms import take_all_forms, write_own_prompts
from mllmu.models.loading import (
    apply_adapter,
    choose_family,
    explain_load_faults,
    load,
    load_processor,
    quiet_libraries,
    source_of,
)
from mllmu.models.modifiers import Modifier
from mllmu.models.weights import fold, stored_in
from mllmu.pipeline.export_notes import export_notes
from mllmu.pipeline.model_card import model_card

USE_ADAPTERS = "Load its adapters beside the base by PEFT instead, from the folders that model.json names."
ABOUT = "mllmu.json"
"""Says where the weights come from, and what other tools must be told; loaders ignore it."""


def export_model(root: Path, name: str, out: Path, *, device: str = "cpu") -> ModelRef:
    """Merge a model of a run and save it with ``save_pretrained``, so that any tool of the ecosystem can load it.

    Args:
        root: the run folder.
        name: ``target``, or the forget ratio and the model: ``forget_10/npo``.
        out: new folder, or an empty one; a folder with something in it is refused.
        device: where the weights are merged.

    Returns:
        The reference of the model; its ``system_prompt`` is text and not in the weights.

    Raises:
        ModelError: there is no such model, the folder is taken, or a modifier acts beside the weights.
        RunStoreError: the base is not the one that the model was made on, or the disk is full or cannot be written.
    """
    models = RunFolder(root).models_made()
    if name not in models:
        known = ", ".join(models) or "none; run the finetune stage first"
        raise ModelError(f"{root}: no model '{name}'.{did_you_mean(name, models)} Models: {known}.")
    check_free(out)
    recipe = recipes.load(root / RunFolder.RECIPE)
    ref: ModelRef = read_record(models[name] / RunFolder.MODEL_FILE, ModelRef)
    ref = ref.model_copy(update={"base": recipe.model.path, "revision": recipe.model.revision})
    check_base(RunFolder(root).path(RunFolder.model_unit("", TARGET)), base_files(ref.base, ref.revision), ref.base)
    save_merged(recipe, ref, root, out, model_card(root, recipe, name, ref), name=name, device=device)
    return ref


def check_free(out: Path) -> None:
    """ModelError if a folder for a model is taken."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ModelError(f"{out}: already there. Name a new folder, or remove it.")


def save_merged(
    recipe: Recipe, ref: ModelRef, root: Path, out: Path, card: str, *, name: str, device: str = "cpu"
) -> None:
    """Save a model with its adapters in its weights, its processor, a card, and where it comes from.

    Args:
        recipe: that made it.
        root: what the adapters of ``ref`` are relative to.
        out: new folder, or an empty one (:func:`check_free`).
        card: its README; ``name``: what the model is called in the run.
        device: where the weights are merged.

    Raises:
        RunStoreError: the disk is full or cannot be written.
    """
    plain = {"device": device, "device_map": None, "quantize": None, "gradient_checkpointing": False}
    section = recipe.model.model_copy(update=plain)
    model, processor = merged(section, ref, root)
    about: dict[str, Any] = {"run": recipe.name, "model": name, **ref.model_dump()}
    place = out.resolve()  # '.' has no name
    building = place.with_name(f".{place.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    try:
        with explain_os_errors(out, elsewhere="name another folder"):
            building.mkdir(parents=True)
            with quiet_libraries():
                model.save_pretrained(building)
                processor.save_pretrained(building)
            if notes := _notes(section, ref, model, building):
                about["notes"] = notes
                card += "\n## In other tools\n\n" + "".join(f"- {note}\n" for note in notes)
            (building / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
            (building / "README.md").write_text(card, encoding="utf-8")
            if place.exists():  # it may be the working directory, so it stays
                for path in building.iterdir():
                    path.replace(place / path.name)
            else:
                building.rename(place)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def merged(section: ModelSection, ref: ModelRef, root: Path) -> tuple[Any, Any]:
    """A model with its adapters in its weights, and its processor.

    Weights of few bits would swallow most of an adapter: a base that is stored so gets ordinary weights first.

    Raises:
        ModelError: a modifier acts at inference beside the weights: without it the model before would be back.
    """
    bare = load(section, ref.model_copy(update={"adapters": ()}), root)
    model = bare.model
    if stored := stored_in(model.config):
        with explain_load_faults(
            f"model.path: '{ref.base}' is stored in {stored}, which cannot be undone", USE_ADAPTERS
        ):
            model = model.dequantize()
    for adapter in ref.adapters:
        model = apply_adapter(model, root / adapter)
        if any(isinstance(module, Modifier) for module in model.modules()):
            raise ModelError(
                f"{root / adapter}: acts at inference (modifier.json), which weights cannot hold: exported, the model "
                "before it would be back, with all it knew. Nothing was written. Use this model through mllmu, or "
                "unlearn by a method that changes weights."
            )
    take_all_forms(bare.encoder.processor, bare.family.mark(bare.encoder.processor))
    write_own_prompts(bare.encoder.processor, bare.family)
    return fold(model), bare.encoder.processor


def _notes(section: ModelSection, ref: ModelRef, model: Any, saved: Path) -> list[str]:
    """How the processor that was saved differs from that of the run."""
    family = choose_family(section.family, getattr(model.config, "mllmu_family", model.config.model_type))
    settings = family.image_settings | section.image_processor
    run = load_processor(source_of(ref.base), ref.revision, settings)
    return export_notes(family, run, load_processor(str(saved), None, {}), settings)
