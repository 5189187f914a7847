"""A look ahead, before the first second of work: what a run needs and does not find, and how long it will take.

Faults are what would stop the run later: files, the model's folder, libraries of extras, keys of endpoints, weights
that cannot be trained. Memory, room on the disk and time are estimated from the recipe, see
:mod:`mllmu.preflight.plan`, and said in one line.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, distribution, requires
from pathlib import Path
from typing import TYPE_CHECKING

from mllmu.config.given import missing_paths, plugin_settings
from mllmu.core.errors import DataError, FaultsError, MllmuError
from mllmu.core.names import TARGET
from mllmu.core.runfolder import UNIT_FILE, RunFolder

if TYPE_CHECKING:
    from mllmu.config.recipe import Recipe
    from mllmu.preflight.plan.plan import RecipePlan

_REQUIREMENT = re.compile(r"([A-Za-z0-9_.-]+).*extra\s*==\s*['\"]([\w-]+)['\"]")
TAUGHT_FROM = ("model.path", "finetune.given")
"""Settings whose files a run does not need once its target is there."""
CHECKPOINT = 3
"""A checkpoint holds the trained weights and the two averages of the optimiser."""
IMAGES_GIB = 0.0002
"""Of one person, with a few views."""


def must_hold_a_run(folder: Path) -> None:
    """DataError unless there is a run in a folder; nothing is made there."""
    if not (folder / RunFolder.RECIPE).is_file():
        raise DataError(
            f"{folder}: no run in this folder, and this command only reads. Expected a folder that 'mllmu run' has "
            "made; give it in place of the recipe, or name it with --out."
        )


def look_ahead(
    recipe: Recipe,
    folder: Path,
    missing: Mapping[str, str] | None = None,
    *,
    say: Callable[[str], None],
    estimate: bool = True,
) -> None:
    """Find what would stop a run later, and say what it needs; a run whose target is there is only continued.

    Args:
        folder: the run folder, which need not be there.
        missing: paths of the recipe that lead nowhere, by setting; None: looked up from the working directory.
        say: gets one line about memory, disk and time.
        estimate: whether to estimate them.

    Raises:
        FaultsError: every fault, with its setting and what to do.
    """
    made = _made(folder)
    missing = missing_paths(recipe) if missing is None else missing
    unfit = [*_weights(recipe, folder, made), *_steered(recipe, folder)]
    if faults := [*_missing(missing, made), *_extras(recipe, made), *_keys(recipe, made), *unfit]:
        number = f"{len(faults)} fault{'s' * (len(faults) > 1)}"
        raise FaultsError(f"{recipe.name}: {number}, found before anything was done:", faults)
    if estimate and TARGET not in made:
        say(needs(recipe, folder))


def _made(folder: Path) -> set[str]:
    """What a run has already: ``data`` and ``target``."""
    units = {"data": RunFolder.DATA, TARGET: RunFolder.model_unit("", TARGET)}
    return {name for name, unit in units.items() if (folder / unit / UNIT_FILE).is_file()}


def _missing(missing: Mapping[str, str], made: set[str]) -> Iterator[str]:
    for key, fault in missing.items():
        if (key.startswith("data.") and "data" in made) or (key.startswith(TAUGHT_FROM) and TARGET in made):
            continue
        yield f"{key}: {fault}."


def _extras(recipe: Recipe, made: set[str]) -> Iterator[str]:
    """Extras of the package that the recipe needs and whose libraries are not installed."""
    wanted: dict[str, str] = {}
    if recipe.evaluate.backend == "vllm":
        wanted["vllm"] = "evaluate.backend: vllm"
    if recipe.model.quantize:
        wanted["qlora"] = f"model.quantize: {recipe.model.quantize}"
    for key, kind, spec in plugin_settings(recipe):
        extra = getattr(spec.build(kind, key), "needed_extra", "")
        if extra and not (key.startswith("data.") and "data" in made):
            wanted[extra] = f"{key}: {spec.name}"
    for extra, what in wanted.items():
        if absent := not_installed(extra):
            yield f"{what}: needs {', '.join(absent)}. Install: pip install 'mllmu[{extra}]'."


def not_installed(extra: str) -> list[str]:
    """Libraries of an extra that are not installed."""
    try:
        found = [_REQUIREMENT.match(line) for line in requires("mllmu") or ()]
    except PackageNotFoundError:  # the code without an installation says nothing about extras
        return []
    names = [match[1] for match in found if match and match[2] == extra]
    return [name for name in names if not _installed(name)]


def _installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def _keys(recipe: Recipe, made: set[str]) -> Iterator[str]:
    """Environment variables with keys that are not set."""
    for key, kind, spec in plugin_settings(recipe):
        variable = getattr(spec.build(kind, key), "key_variable", "")
        done = key.startswith("data.") and "data" in made
        if variable and not done and not os.environ.get(variable, "").strip():
            yield (
                f"{key}: the environment variable {variable} is not set. Export the key under that name, name another "
                "one with key_variable, or leave that empty for a server without keys."
            )


def _weights(recipe: Recipe, folder: Path, made: set[str]) -> Iterator[str]:
    """Sections that would train the weights themselves and cannot on this machine; what is trained already is not."""
    if recipe.finetune.lora and recipe.unlearn.lora:
        return
    from mllmu.preflight.plan.precision import dtype_here, refusal, sections_without_lora, stored_here, weight_jobs

    units = [f"{RunFolder.model_unit('*', name)}/{UNIT_FILE}" for name in weight_jobs(recipe)]
    unlearned = all(any(folder.glob(unit)) for unit in units)
    done = {"finetune": TARGET in made, "unlearn": unlearned}
    sections = [name for name in sections_without_lora(recipe) if not done[name]]
    if sections and (fault := refusal(recipe.model, sections, dtype_here(recipe.model), stored_here(recipe.model))):
        yield fault


def _steered(recipe: Recipe, folder: Path) -> Iterator[str]:
    """Methods whose change of the vision tower would be lost, as they steer logits; what is made already is not."""
    from mllmu.config.recipe import jobs

    for job in jobs(recipe):
        steers = job.method.at_inference is not None and job.method.at_inference.kind == "logit_steering"
        made = any(folder.glob(f"{RunFolder.model_unit('*', job.name)}/{UNIT_FILE}"))
        if steers and job.method.layers == "published" and not made:
            yield (
                f"unlearn.methods: {job.name} steers logits by a second pass of the language model alone, and with "
                "layers: published it would train the vision tower too, in vain. Leave layers out."
            )


def needs(recipe: Recipe, folder: Path) -> str:
    """Time, memory and room on the disk that a recipe needs on this machine, in one line."""
    from mllmu.preflight.plan.here import HERE
    from mllmu.preflight.plan.plan import make_plan
    from mllmu.preflight.plan.workload import not_counted, of_recipe

    try:
        planned = make_plan(recipe, HERE, rough=True)
    except MllmuError as error:
        return f"ahead: how long it takes cannot be told before the model is there ({str(error).partition('. ')[0]})"
    peak = max(stage.peak for stage in planned.stages)
    alike = min(recipe.workers, os.cpu_count() or 1)
    without = ", ".join(not_counted(recipe))
    parts = [f"about {roughly(3600 * planned.hours)} on this machine{f' without {without}' if without else ''}"]
    parts.append(f"{max(peak * alike, 0.1):.1f} of {planned.memory:.0f} GiB of memory")
    if peak * alike > planned.memory:
        parts[-1] += ", which is TOO MUCH (mllmu plan says what to change)"
    need, free = _disk(recipe, planned, of_recipe(recipe).requests), _free(folder)
    parts.append(f"{max(need, 0.1):.1f} of {free:.0f} GiB free on the disk")
    if need > free:
        parts[-1] += ", which is TOO LITTLE"
    return f"ahead: {'; '.join(parts)}"


def _disk(recipe: Recipe, planned: RecipePlan, requests: int) -> float:
    """GiB of all models that are kept, one per method and request, of one checkpoint, and of the images."""
    trained = [stage.trained for stage in planned.stages if stage.trained]
    if not trained:
        return 0.0
    ratios = len(recipe.data.splits.forget_ratios)
    people = getattr(recipe.data.source.build("sources", "data.source"), "num_people", None) or 500
    taught = 1 if recipe.finetune.given is None else 0  # the first line: the target, and a retain model per ratio
    kept = trained[0] * taught * (1 + ratios) + sum(trained[taught:]) * ratios * requests
    return kept + CHECKPOINT * max(trained) + IMAGES_GIB * people


def _free(folder: Path) -> float:
    """GiB that are free where a folder is, or will be."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free / 2**30


def roughly(seconds: float) -> str:
    """A time as one says it of something to come.

    >>> roughly(20), roughly(100), roughly(42 * 60), roughly(5000), roughly(200000)
    ('a minute', '2 minutes', '40 minutes', '1.5 hours', '2 days')
    """
    minutes = seconds / 60
    if minutes < 1.5:
        return "a minute"
    if minutes < 60:
        return f"{round(minutes) if minutes < 10 else 5 * round(minutes / 5)} minutes"
    if minutes < 36 * 60:
        hours = round(minutes / 30) / 2
        return f"{hours:g} hour{'s' * (hours != 1)}"
    return f"{round(minutes / 1440)} days"
