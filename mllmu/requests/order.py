"""What a request becomes: the people it is about, and the recipe of its run folder."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllmu.config import load as recipes
from mllmu.config.recipe import Recipe
from mllmu.core import plugins
from mllmu.core.csvrows import csv_rows
from mllmu.core.errors import DataError, RecipeError, did_you_mean
from mllmu.core.process import Progress
from mllmu.data import table
from mllmu.data.files import read_text
from mllmu.data.pseudonyms.keyfile import people_of
from mllmu.data.sources import Source

HOLDOUT = 8
"""Invented holdout people that the evaluation asks about, and as many for choosing among settings."""
SELECTION = 0.25
"""Share of the facts that settings are chosen by; the evidence asks about the others."""
ATTACKS = ("paraphrase", "hints", "prefix_injection", "role_play", "rounding", "relearn_retain")
"""Attacks whose effect on holdout people can be compared: none teaches the facts that it asks about."""
KEY = "requested"


@dataclass(frozen=True, kw_only=True)
class ForgetOrder:
    """What a user asks for.

    Attributes:
        model, base: see :func:`mllmu.requests.state.model_given`.
        people: file of the ids, or names, of the people to forget.
        data: the data the model was taught from: a recipe, or a table of people.
        holdout: a table of people the model was never taught, or None.
        method: ``auto``, or a method with its settings as YAML.
        overrides: changes of the recipe, as ``--set``.
    """

    model: str
    people: Path
    data: Path
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


def listed_people(path: Path) -> list[str]:
    """The first cell of every line of a file; a head ('id', 'staff_no' ...) is told by the source that has no such id.

    Raises:
        DataError: no such file, or nobody in it.
    """
    text = read_text(path, expected="Expected a CSV file with one id or name a line.", missing="--people names it.")
    try:
        rows = [row[0].strip() for row in csv_rows(text) if row and row[0].strip()]
    except csv.Error as error:
        raise DataError(f"{path}: damaged CSV ({error}). Expected one id or name a line.") from None
    if not rows:
        raise DataError(f"{path}: names nobody. Expected one id or name a line.")
    return rows


def subjects(order: ForgetOrder, recipe: Recipe, progress: Progress) -> tuple[list[str], int]:
    """The ids by which the data know the people to forget, and how many people the data have.

    Raises:
        DataError: somebody is not among the people of the data; the message gives no other name.
    """
    source: Source = recipe.data.source.build("sources", "data.source")
    ids = [profile.id for profile in source.generate(recipe.seed, progress)]
    known = {person.casefold(): person for person in ids} | _originals(recipe.data.source.settings, ids)
    rows = listed_people(order.people)
    if rows[0].casefold() not in known and len(rows) > 1:
        rows = rows[1:]
    unknown = [row for row in rows if row.casefold() not in known]
    if unknown:
        raise DataError(
            f"{order.people}: {len(unknown)} of {len(rows)} people are not in the data of {order.data}, the first is "
            f"'{unknown[0]}'.{did_you_mean(unknown[0].casefold(), known)} Expected ids or names as the data have them."
        )
    wanted = {known[row.casefold()] for row in rows}
    if len(wanted) == len(ids):
        raise DataError(f"{order.people}: names all {len(ids)} people of the data; nobody would be retained.")
    return [person for person in ids if person in wanted], len(ids)


def _originals(settings: Mapping[str, Any], ids: Sequence[str]) -> dict[str, str]:
    """Real ids and names, where the key file of the source knows who is behind its pseudonyms."""
    key = Path(str(settings.get("key", "people.key.json")))
    if settings.get("pseudonymise") is False or not key.is_file():
        return {}
    known = people_of(key)
    return {
        known[person][field].casefold(): person for person in ids if person in known for field in ("id", "name")
        if known[person].get(field)
    }  # fmt: skip


def make_recipe(
    order: ForgetOrder, request: str, people: Sequence[str], total: int, *, listed: Path, parts: tuple[str, Any, Any],
    methods: Sequence[Mapping[str, Any]],
) -> Recipe:  # fmt: skip
    """The recipe of a request: the data and the model as they are, no fine-tuning, evidence with controls and attacks.

    Args:
        listed: the file that names the people to forget by their ids.
        parts: base, revision and adapters of the model.
        methods: what unlearns.
    """
    raw = deepcopy(raw_recipe(order))
    base, revision, adapters = parts
    data, evaluate = raw.setdefault("data", {}), raw.setdefault("evaluate", {})
    splits = data.setdefault("splits", {})
    aside = {"holdout": HOLDOUT, "calibration": HOLDOUT}
    if order.holdout is not None:
        data["holdout_source"], aside = _holdout(order.holdout, data.get("source", {}))
    splits.update(
        file=str(listed), keys=[KEY], forget_ratios=[len(people) / total], selection=SELECTION,
        **{name: splits.get(name) or number if order.holdout is None else number for name, number in aside.items()},
    )  # fmt: skip
    raw["model"] = {**raw.get("model", {}), "path": base, "revision": revision}
    raw["finetune"] = {**raw.get("finetune", {}), "given": [str(path) for path in adapters]}
    raw["unlearn"] = {**raw.get("unlearn", {}), "methods": [dict(method) for method in methods]}
    limits = {
        "retain": 8,
        "celebrity": 8,
        **evaluate.get("max_profiles", {}),
        "forget": len(people),
        "test": len(people),
    }
    evaluate.update(
        summaries=[], judges=[], compare={}, attacks=list(ATTACKS), attack_budget="small", max_profiles=limits
    )
    raw.update(name=request, workers=1, gate=True)
    raw["report"] = {**raw.get("report", {}), "title": f"Request {request}: {len(people)} of {total} people to forget"}
    return recipes.parse(raw, where=f"request {request}")


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
