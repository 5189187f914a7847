"""The recipe of an experiment of the paper: as published, or in small on an embedded model.

In small, people, teaching, adapters and the settings of the methods are those of another packaged recipe. Those of
``all_methods`` were searched on questions that were kept apart for it, about its own people; here the seed is another,
so the people and questions that a finding rests on had no part in any choice. A method takes as many steps as it took
there: epochs are multiplied by the ratio of the training questions that it read there to those it reads here.
"""

import math
from copy import deepcopy
from typing import Any, Literal, get_args

from mllmu.config.grid import name_of_value
from mllmu.config.packaged import recipe_file, recipes

Experiment = Literal["baseline", "modalities", "ratios"]
EXPERIMENTS: tuple[Experiment, ...] = get_args(Experiment)
SMALL = {"tiny": "all_methods", "smol": "smol"}
"""By embedded model, the packaged recipe whose people, teaching and settings of methods an experiment takes."""
SEARCHED = ("all_methods",)
"""Those whose settings were searched; the others were set by hand."""
SEED = 1
SHARES: dict[Experiment, tuple[float, ...]] = {
    "baseline": (0.375,), "modalities": (0.375,), "ratios": (0.125, 0.25, 0.375),
}  # fmt: skip
"""Of the people, forgotten in small: the paper's 5, 10, 15 % of 500 would be nobody, or one person."""
PEOPLE = (8, 12, 16, 24, 32, 48, 64, 96)
"""Numbers of people that a time budget chooses from."""
ASKED = {"retain": 8, "celebrity": 8, "test": 0, "holdout": 0}
"""Most people that are asked about, per set, in small."""


def settings(experiment: Experiment, model: str = "tiny", people: int | None = None) -> dict[str, Any]:
    """The recipe of an experiment as plain values.

    Args:
        experiment: the packaged recipe ``paper_<experiment>`` says what is compared.
        model: ``tiny`` or ``smol``: in small; a folder or a hub name: as published.
        people: invented people, in small; None: as many as in the recipe that the settings are from.
    """
    from mllmu.config.load import read  # slow to import, and the command line imports this module

    published = read(recipes()[f"paper_{experiment}"])
    if model not in SMALL:
        published["model"]["path"] = model
        return published | {"name": f"{published['name']}-{name_of_value(model)}"}
    small = read(recipes()[SMALL[model]])
    default = int(small["data"]["source"]["num_people"])
    people = people or default
    data = deepcopy(small["data"])
    data["source"]["num_people"] = people
    data["splits"] = {"forget_ratios": list(SHARES[experiment]), "holdout": 0}
    shorter = math.ceil(small["finetune"]["epochs"] * default / people)
    kept = {key: small["evaluate"][key] for key in ("batch_size", "tasks") if key in small["evaluate"]}
    return {
        "name": f"{published['name']}-{model}",
        "seed": SEED,
        "workers": small.get("workers", 1),
        "data": data,
        "model": small["model"] | {"path": model},
        "finetune": small["finetune"] | {"epochs": max(small["finetune"]["epochs"], shorter)},
        "unlearn": {"lora": small["unlearn"]["lora"], "methods": _methods(published, small, people, experiment)},
        "evaluate": {**kept, "max_profiles": ASKED},
        "report": {"title": f"{published['report']['title']}, in small"},
    }


def origin(model: str) -> str:
    """Where the settings of the methods are from, in words."""
    if model not in SMALL:
        return "Settings of the methods: as published."
    name = recipe_file(recipes()[SMALL[model]]).name
    if SMALL[model] in SEARCHED:
        return f"Settings of the methods: from {name}, searched on questions about other people before this run."
    return f"Settings of the methods: from {name}, set by hand and not searched."


def _methods(published: dict[str, Any], small: dict[str, Any], people: int, experiment: Experiment) -> list[Any]:
    """The methods of the published recipe with the settings of the small one, scaled to as many steps."""
    known = {each["name"]: each for each in small["unlearn"]["methods"] if isinstance(each, dict)}
    there = small["data"]["splits"]["forget_ratios"][0] * small["data"]["source"]["num_people"]
    here = sorted(SHARES[experiment])[len(SHARES[experiment]) // 2] * people
    found: list[Any] = []
    for entry in published["unlearn"]["methods"]:
        name = entry if isinstance(entry, str) else entry["name"]
        if name not in known:
            found.append(name)
            continue
        own = {key: value for key, value in known[name].items() if key != "modality"}
        views = 2 if known[name].get("modality") == "both" else 1
        own["epochs"] = round(own["epochs"] * views * there / here, 3)
        asked = {"modality": entry["modality"]} if "modality" in entry else {}
        found.append(own | asked)
    return found
