"""Variants of a run: what ``--set`` makes another run goes into a folder beside the first, and shares the rest.

``mllmu run demo --set finetune.epochs=3`` after ``mllmu run demo`` is a run of its own, ``runs/demo+epochs-3``. Units
that do not depend on what was changed (data, models, responses) are taken from its siblings, see
:mod:`mllmu.core.sharing`.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mllmu.config.grid import name_of_value
from mllmu.config.load import data_plugins, load, read_yaml
from mllmu.config.recipe import Recipe, jobs
from mllmu.core import plugins
from mllmu.core.damage import difference
from mllmu.core.errors import MllmuError
from mllmu.core.runfolder import RunFolder

RUNS = Path("runs")
LONGEST = 60
"""Letters of a folder's name, at most."""
HOW_COMPUTED: dict[str, tuple[str, ...]] = {
    "model": ("device", "device_map", "gradient_checkpointing"),
    "finetune": ("checkpoint_every_s", "micro_batch_size"),
}
"""Settings by section that change where and how something is computed, but not what."""
SAME_SAMPLES = ("protocol", "tasks", "modalities", "backend", "benchmarks", "max_profiles")
"""Settings of the evaluation on which responses depend."""


def default_folder(recipe: Recipe, name: str, overrides: Sequence[str]) -> Path:
    """Where a recipe runs unless ``--out`` says where: ``runs/<name>``, or beside it what ``overrides`` make another.

    Args:
        name: of one recipe of a grid.
    """
    plain = RUNS / recipe.name / name
    if not overrides or not _differs(plain, recipe):
        return plain
    words = "+".join([recipe.name, *map(_word, sorted(overrides))])
    short = hashlib.sha256("\n".join(sorted(overrides)).encode()).hexdigest()[:6]
    candidates = [words] if len(words) <= LONGEST else []
    candidates.append(f"{words[:LONGEST]}+{short}")
    folders = [RUNS / candidate / name for candidate in candidates]
    return next((folder for folder in folders if not _differs(folder, recipe)), folders[-1])


def _word(override: str) -> str:
    """A change as part of a folder's name.

    >>> _word("finetune.lora.rank=8"), _word("unlearn.methods=[ga, npo]")
    ('rank-8', 'methods-ga-npo')
    """
    key, _, text = override.partition("=")
    return f"{key.strip().rpartition('.')[2]}-{name_of_value(str(read_yaml(text, where='--set')))}"


def _differs(folder: Path, recipe: Recipe) -> bool:
    """Whether a folder holds a run whose finished work cannot be of this recipe."""
    path = folder / RunFolder.RECIPE
    if not path.is_file():
        return False
    try:
        return conflict(load(path), recipe) != ""
    except MllmuError:  # of another version; whatever it holds says so itself
        return False


def conflict(old: Recipe, new: Recipe) -> str:
    """The first setting in which the work of two recipes differs, in words; empty if one folder can hold both.

    Methods, metrics, judges, attacks and the report can be added to a run, so they may differ; a method that both name
    may not.
    """
    one, other = _work(old), _work(new)
    both = [name for name in one["methods"] if name in other["methods"]]
    for each in (one, other):
        each["methods"] = {name: each["methods"][name] for name in both}
    return "" if one == other else difference(one, other)


def _work(recipe: Recipe) -> dict[str, Any]:
    """The settings on which data, models and responses depend."""
    plain = recipe.model_dump(mode="json")
    for part, kind, spec in data_plugins(recipe.data):
        operational = plugins.find(kind, spec.name).operational
        plain["data"][part] = {name: value for name, value in plain["data"][part].items() if name not in operational}
    lora = plain["unlearn"]["lora"]
    return {
        "seed": recipe.seed,
        "data": plain["data"],
        **{
            section: {name: value for name, value in plain[section].items() if name not in left_out}
            for section, left_out in HOW_COMPUTED.items()
        },
        "methods": {
            job.name: {
                "method": job.plugin,
                **job.method.model_dump(mode="json"),
                "lora": lora if job.method.trains else None,
            }
            for job in jobs(recipe)
        },
        "evaluate": {name: plain["evaluate"][name] for name in SAME_SAMPLES},
    }
