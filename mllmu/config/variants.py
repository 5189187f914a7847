"""Variants of a run: what ``--set`` makes another run goes into a folder beside the first, and shares the rest.

``mllmu run demo --set finetune.epochs=3`` after ``mllmu run demo`` is a run of its own, ``runs/demo+epochs-3``. Units
that do not depend on what was changed (data, models, responses) are taken from its siblings, see
:mod:`mllmu.core.sharing`.
"""

import hashlib
from collections.abc import Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any

from mllmu.config.grid import name_of_value
from mllmu.config.load import data_plugins, load, read_yaml
from mllmu.config.recipe import DataSection, Evaluate, PluginSpec, Recipe, jobs
from mllmu.core import plugins
from mllmu.core.attacked import PLAIN
from mllmu.core.damage import difference
from mllmu.core.errors import MllmuError
from mllmu.core.runfolder import RunFolder

RUNS = Path("runs")
LONGEST = 60
"""Letters of a folder's name, at most."""
HOW_COMPUTED: dict[str, tuple[str, ...]] = {
    "model": ("device", "device_map", "gradient_checkpointing"),
    "finetune": ("checkpoint_every_s", "micro_batch_size"),
    "unlearn": ("micro_batch_size", "reference_mib"),
    "evaluate": ("batch_size", "vllm"),
}
"""Settings by section that change where and how something is computed, but not what."""
PARTS: dict[str, tuple[str, ...]] = {
    "unlearn": ("methods", "lora"),
    "evaluate": ("metrics", "extra_metrics", "summaries", "judges", "attacks", "attack_budget", "compare"),
}
"""Settings by section of what a run can hold more of; they count as :func:`_parts` and :func:`_metrics` say."""
NO_WORK = {
    "name": "says where the folder is",
    "workers": "how many processes work",
    "gate": "whether to stop before unlearning",
    "report": "pages are drawn anew at any time",
}
"""Settings on which no unit depends, and why. Work depends on all that are neither here nor above."""


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

    Methods, judges, attacks, further protocols and the report can be added to a run, so they may differ; one that both
    name may not.
    """
    one, other, parts, others = _work(old), _work(new), _parts(old), _parts(new)
    both = sorted(parts.keys() & others.keys())
    one, other = (work | {name: own[name] for name in both} for work, own in ((one, parts), (other, others)))
    return "" if one == other else difference(one, other)


def _work(recipe: Recipe) -> dict[str, Any]:
    """The settings on which data, models, responses and scores depend; without what :func:`_parts` holds."""
    plain = recipe.model_dump(mode="json", exclude=set(NO_WORK)) | {"data": data_settings(recipe.data)}
    for section, left_out in (*HOW_COMPUTED.items(), *PARTS.items()):
        plain[section] = {name: value for name, value in plain[section].items() if name not in left_out}
    return plain | {"metrics": _metrics(recipe.evaluate)}


def data_settings(section: DataSection) -> dict[str, Any]:
    """The settings on which data depend: all but those that only say how patiently, or for how much, they are made."""
    plain: dict[str, Any] = section.model_dump(mode="json")
    for part, kind, spec in data_plugins(section):
        operational = plugins.find(kind, spec.name).operational
        plain[part] = {name: value for name, value in plain[part].items() if name not in operational}
    return plain


def _metrics(evaluate: Evaluate) -> list[str]:
    """What responses are scored by, and have measured for it; metrics of benchmarks follow from these."""
    named = evaluate.metrics or [name for task in evaluate.tasks for name in plugins.find("tasks", task).metrics]
    summaries = (plugins.find("summaries", name) for name in plugins.expanded("summaries", evaluate.summaries))
    return sorted({*named, *evaluate.extra_metrics, *(name for summary in summaries for name in summary.needs)})


def _parts(recipe: Recipe) -> dict[str, Any]:
    """The settings of each part of which a run can hold more, by its name, as its units know it."""
    lora, evaluate = recipe.model_dump(mode="json")["unlearn"]["lora"], recipe.evaluate
    found: dict[str, Any] = {}
    for job in jobs(recipe):
        how = {"method": job.plugin, **job.method.model_dump(mode="json")}
        found[f"methods/{job.name}"] = how | {"lora": lora if job.method.trains else None}
    for spec in evaluate.judges:
        judge = spec.build("judges", "evaluate.judges")
        settings = judge.model_dump(mode="json", exclude=set(judge.operational))
        found[f"judges/{judge.name}"] = {"judge": spec.name, **settings}
    for name, spec in named_attacks(evaluate.attacks).items():
        attack = spec.build("attacks", "evaluate.attacks")
        found[f"attacks/{evaluate.attack_budget}/{name}"] = {"attack": attack.name, **attack.model_dump(mode="json")}
    return found | {f"compare/{label}": own.model_dump(mode="json") for label, own in evaluate.compare.items()}


def named_attacks(specs: Sequence[PluginSpec]) -> dict[str, PluginSpec]:
    """Attacks by the names of their units; ``all`` stands for every one there is, and a second one gets a number.

    >>> list(named_attacks([PluginSpec(name="paraphrase"), PluginSpec(name="paraphrase", tries=2)]))
    ['paraphrase', 'paraphrase_2']
    """
    found: dict[str, PluginSpec] = {}
    for given in specs:
        every = (PluginSpec(name=name) for name in plugins.names("attacks"))
        for spec in every if given.name == "all" else [given]:
            plain = spec.name.rpartition(":")[2]
            numbered = (f"{plain}_{number}" for number in count(2))
            found[next(name for name in chain([plain], numbered) if name not in (PLAIN, *found))] = spec
    return found
