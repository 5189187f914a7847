"""What a user asks for, and what it becomes: the recipe of the run folder of a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import Any

from mllmu.config import load as recipes
from mllmu.config.recipe import Recipe
from mllmu.core import plugins
from mllmu.core.errors import DataError, RecipeError
from mllmu.data import table
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
    """The settings of the data that the model was taught from, as a recipe file has them."""
    suffix = order.data.suffix.lower()
    if suffix in table.SUFFIXES:
        raw: dict[str, Any] = {"data": {"source": {"name": "people", "path": str(order.data)}}}
    else:
        raw = recipes.read(order.data)
        raw.pop("grid", None)
    for override in order.overrides:
        recipes.apply_override(raw, override)
    return raw


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
    raw = deepcopy(raw_recipe(order))
    base, revision, adapters = parts
    data, evaluate = raw.setdefault("data", {}), raw.setdefault("evaluate", {})
    number, total = len(wanted.people), wanted.total
    few = wanted.facts and not wanted.whole and wanted.num_facts < FEWEST_APART
    _set_aside(order, data, wanted)
    data["splits"].update(
        file=str(listed), keys=[KEY], forget_ratios=[number / total], selection=0.0 if few else SELECTION
    )
    raw["model"] = {**raw.get("model", {}), "path": base, "revision": revision}
    raw["finetune"] = {**raw.get("finetune", {}), "given": [str(path) for path in adapters]}
    unlearn = {name: value for name, value in raw.get("unlearn", {}).items() if name not in ("forget", "requests")}
    forget = {"forget": wanted.request} if wanted.request else {}
    raw["unlearn"] = {**unlearn, **forget, "methods": [dict(method) for method in methods]}
    limits = {"retain": 8, "celebrity": 8, **evaluate.get("max_profiles", {}), "forget": number, "test": number}
    limits |= {"holdout": data["splits"]["holdout"]} if wanted.facts else {}
    evaluate.update(
        summaries=[], judges=[], compare={}, attacks=list(ATTACKS), attack_budget="small", max_profiles=limits
    )
    raw.update(name=request, workers=1, gate=True)
    what = f"{wanted.num_facts} facts about {len(wanted.facts)} of {total} people" if wanted.facts else ""
    people = f"{len(wanted.whole)} of {total} people" if wanted.whole else ""
    title = f"Request {request}: {' and '.join(filter(None, (people, what)))} to forget"
    raw["report"] = {**raw.get("report", {}), "title": title}
    return recipes.parse(raw, where=f"request {request}")


def _set_aside(order: ForgetOrder, data: dict[str, Any], wanted: RequestedFacts) -> None:
    """The people whom the model was never taught: to ask about, and as many for choosing among settings.

    Single facts cannot be told from luck by few of them: of f facts and h others, one of C(f + h, f) ways to share them
    out is the one at hand, and 1 / C(f + h, f) must be below 0.05.
    """
    splits = data.setdefault("splits", {})
    single = bool(wanted.facts) and not wanted.whole
    if order.holdout is not None:
        data["holdout_source"], aside = _holdout(order.holdout, data.get("source", {}))
    else:
        most = HOLDOUT_OF_FACTS if single and "holdout_source" not in data else 0
        aside = {"holdout": max(splits.get("holdout") or HOLDOUT, most),
                 "calibration": splits.get("calibration") or HOLDOUT}  # fmt: skip
    splits.update(aside)
    others = aside["holdout"] * len({name for own in wanted.facts.values() for name in own})
    if single and comb(wanted.num_facts + others, others) <= 20:
        raise DataError(
            f"{order.facts}: {wanted.num_facts} facts, and {aside['holdout']} people whom the model was never taught: "
            "too few to tell what it knows from luck. Give a longer --holdout table, or leave it out."
        )


def _holdout(path: Path, source: Mapping[str, Any] | str) -> tuple[dict[str, Any], dict[str, int]]:
    """The source of the holdout people: a table as the one of the data, half of it for choosing among settings."""
    settings = dict(source) if isinstance(source, Mapping) else {"name": source}
    if settings.get("name") != "people":
        raise RecipeError(
            f"--holdout {path}: a table of people belongs to data of the source 'people', got "
            f"'{settings.get('name', 'synthetic')}'. Set data.holdout_source in the recipe of --data instead."
        )
    settings["path"] = str(path)
    number = len(plugins.build("sources", "people", settings, where="--holdout").profiles(0))
    if number < 2:
        raise DataError(f"{path}: {number} people. Expected two or more whom the model was never taught.")
    return settings, {"holdout": number - number // 2, "calibration": number // 2}
