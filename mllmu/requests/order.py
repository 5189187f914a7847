"""What a user asks for, and what it becomes: the recipe of the run folder of a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import Any

from mllmu.config import load as recipes
from mllmu.config.given import GivenRecipe, located
from mllmu.config.grid import GRID
from mllmu.config.packaged import recipe_file
from mllmu.config.recipe import Recipe, jobs
from mllmu.core import plugins
from mllmu.core.errors import DataError, FaultsError, RecipeError
from mllmu.data import table
from mllmu.pipeline.taken import check_without_retain_model
from mllmu.requests.whom import RequestedFacts

HOLDOUT = 8
"""Invented holdout people that the evaluation asks about, and as many for choosing among settings."""
HOLDOUT_OF_FACTS = 24
"""The same for a request that names single facts, as each of them can then be asked few others about."""
SELECTION, FEWEST_APART = 0.25, 8
"""Share of the facts that settings are chosen by; the evidence asks about the others. Of fewer, none."""
ATTACKS = ("paraphrase", "hints", "prefix_injection", "role_play", "rounding", "relearn_retain")
"""Attacks whose effect on holdout people can be compared: none teaches the facts that it asks about."""
KEY = "requested"
REPLACED = {
    "data.splits": ("file", "keys", "forget_ratios", "skew", "selection"),
    "model": ("path", "revision"),
    "finetune": ("given",),
    "unlearn": ("methods", "forget", "requests"),
    "evaluate": ("summaries", "judges", "compare", "attacks"),
}
"""What of the recipe of the data a request has its own of, by section."""


@dataclass(frozen=True, kw_only=True)
class ForgetOrder:
    """What a user asks for.

    Attributes:
        model, base: see :func:`mllmu.requests.state.model_given`.
        people: file of the ids, or names, of the people to forget as a whole; ``facts``: file of people and attributes,
            of which nothing else is to be forgotten. At least one of them.
        data: the data the model was taught from: a recipe, or a table of people.
        holdout: a table of people the model was never taught, or None.
        method: ``auto``, or a method with its settings as YAML.
        overrides: changes of the recipe, as ``--set``.
    """

    model: str
    data: Path
    people: Path | None = None
    facts: Path | None = None
    base: str = ""
    holdout: Path | None = None
    method: str = "auto"
    overrides: Sequence[str] = ()


def raw_recipe(order: ForgetOrder) -> dict[str, Any]:
    """The settings that the model was taught with, as far as a request keeps them: checked, and all defaults filled in.

    A path in a recipe is relative to the folder of the recipe, then to the working directory; what ``--set`` gives, and
    a table of people, is relative to the working directory first.

    Raises:
        RecipeError: the file is no recipe, or a setting is unknown or impossible. FaultsError: a path leads nowhere.
    """
    if order.data.suffix.lower() in table.SUFFIXES:
        file = Path(order.data.name)  # beside which nothing is looked for but what lies in the working directory
        raw: dict[str, Any] = {"data": {"source": {"name": "people", "path": str(order.data)}}}
    else:
        file = recipe_file(order.data)
        raw = recipes.read(order.data)
        raw.pop(GRID, None)
    for override in order.overrides:
        recipes.apply_override(raw, override)
    for section, names in REPLACED.items():
        _leave_out(raw, section.split("."), names)
    recipe = recipes.parse({**raw, "name": KEY}, where=f"--data {order.data}")
    found = located(GivenRecipe("", recipe, None, {}), file, order.overrides)
    if found.missing:
        faults = [f"{key}: {fault}." for key, fault in found.missing.items()]
        raise FaultsError(f"--data {order.data}: files or folders are not there. Nothing was begun.", faults)
    return found.recipe.model_dump(mode="json")


def _leave_out(raw: dict[str, Any], section: Sequence[str], names: Sequence[str]) -> None:
    """Take settings out of a section, if it is there and is one."""
    inside = raw.get(section[0])
    if isinstance(inside, dict):
        raw[section[0]] = inside = dict(inside)  # a YAML alias may put the same section elsewhere, too
        if len(section) > 1:
            _leave_out(inside, section[1:], names)
        else:
            for name in names:
                inside.pop(name, None)


def methods_named(order: ForgetOrder) -> list[dict[str, Any]]:
    """The method of ``--method`` with its settings, as an entry of ``unlearn.methods``; none for ``auto``."""
    if order.method == "auto":
        return []
    value = recipes.read_yaml(order.method, where="--method")
    return [value if isinstance(value, dict) else {"name": value}]


def check_methods(recipe: Recipe) -> None:
    """RecipeError unless the recipe of a request makes one model, or leaves the method to ``auto``."""
    named = [job.name for job in jobs(recipe)]
    if len(named) > 1:
        raise RecipeError(f"--method: makes {len(named)} models ({', '.join(named)}). Expected one modality.")
    check_without_retain_model(recipe)


def make_recipe(
    order: ForgetOrder, request: str, wanted: RequestedFacts, *, listed: Path, parts: tuple[str, Any, Any],
    methods: Sequence[Mapping[str, Any]],
) -> Recipe:  # fmt: skip
    """The recipe of a request: the data and the model as they are, no fine-tuning, evidence with controls and attacks.

    Args:
        wanted: whom and what to forget; ``listed``: the file that names these people by their ids.
        parts: base, revision and adapters of the model.
        methods: what unlearns.

    Raises:
        DataError: too few holdout people for the facts, or none.
    """
    raw = raw_recipe(order)
    base, revision, adapters = parts
    data, evaluate = raw["data"], raw["evaluate"]
    number, total = len(wanted.people), wanted.total
    few = wanted.facts and not wanted.whole and wanted.num_facts < FEWEST_APART
    _set_aside(order, data, wanted)
    data["splits"].update(
        file=str(listed), keys=[KEY], forget_ratios=[number / total], selection=0.0 if few else SELECTION
    )
    raw["model"] |= {"path": base, "revision": revision}
    raw["finetune"]["given"] = [str(path) for path in adapters]
    raw["unlearn"] |= {"forget": wanted.request, "methods": [dict(method) for method in methods]}
    limits = {"retain": 8, "celebrity": 8, **evaluate["max_profiles"], "forget": number, "test": number}
    limits |= {"holdout": data["splits"]["holdout"]} if wanted.facts else {}
    evaluate.update(
        summaries=[], judges=[], compare={}, attacks=list(ATTACKS), attack_budget="small", max_profiles=limits
    )
    raw.update(name=request, workers=1, gate=True)
    what = f"{wanted.num_facts} facts about {len(wanted.facts)} of {total} people" if wanted.facts else ""
    people = f"{len(wanted.whole)} of {total} people" if wanted.whole else ""
    title = f"Request {request}: {' and '.join(filter(None, (people, what)))} to forget"
    raw["report"]["title"] = title
    return recipes.parse(raw, where=f"request {request}")


def _set_aside(order: ForgetOrder, data: dict[str, Any], wanted: RequestedFacts) -> None:
    """The people whom the model was never taught: to ask about, and as many for choosing among settings.

    Single facts cannot be told from luck by few of them: of f facts and h others, one of C(f + h, f) ways to share them
    out is the one at hand, and 1 / C(f + h, f) must be below 0.05.
    """
    splits = data["splits"]
    single = bool(wanted.facts) and not wanted.whole
    if order.holdout is not None:
        data["holdout_source"], aside = _holdout(order.holdout, data["source"])
    else:
        most = HOLDOUT_OF_FACTS if single and not data["holdout_source"] else 0
        aside = {"holdout": max(splits["holdout"] or HOLDOUT, most),
                 "calibration": splits["calibration"] or HOLDOUT}  # fmt: skip
    splits.update(aside)
    others = aside["holdout"] * len({name for own in wanted.facts.values() for name in own})
    if single and comb(wanted.num_facts + others, others) <= 20:
        raise DataError(
            f"{order.facts}: {wanted.num_facts} facts, and {aside['holdout']} people whom the model was never taught: "
            "too few to tell what it knows from luck. Give a longer --holdout table, or leave it out."
        )


def _holdout(path: Path, source: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, int]]:
    """The source of the holdout people: a table as the one of the data, half of it for choosing among settings."""
    if source["name"] != "people":
        raise RecipeError(
            f"--holdout {path}: a table of people belongs to data of the source 'people', got '{source['name']}'. "
            "Set data.holdout_source in the recipe of --data instead."
        )
    settings = {**source, "path": str(path)}
    number = len(plugins.build("sources", "people", settings, where="--holdout").profiles(0))
    if number < 2:
        raise DataError(f"{path}: {number} people. Expected two or more whom the model was never taught.")
    return settings, {"holdout": number - number // 2, "calibration": number // 2}
