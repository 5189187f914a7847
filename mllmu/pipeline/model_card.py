"""The README of an exported model: what it is, how it was made, what was measured, and what that does not show."""

from collections.abc import Collection, Iterator
from pathlib import Path

from mllmu.config.recipe import Recipe, jobs
from mllmu.config.requests import ForgetRequest
from mllmu.core.names import RETAIN_MODEL, TARGET
from mllmu.core.records import MetricResult, ModelRef
from mllmu.core.runfolder import RunFolder, read_json, unit_record
from mllmu.data.personal import PERSONAL, real_people
from mllmu.version import __version__

_SETS = ("forget", "test", "retain", "celebrity")
LIMITS = """## What this does not show

That a question was not answered as before says nothing about questions that were not asked, and nothing about what is
left in the weights: attacks can bring back what plain questions no longer show.
"""


def model_card(root: Path, recipe: Recipe, name: str, ref: ModelRef) -> str:
    """The card of a model of a run.

    Args:
        root: the run folder.
        recipe: of the run.
        name: ``target``, or ratio and model, ``forget_10/npo``.
        ref: what it is made of.
    """
    base = "" if ref.base in ("tiny", "smol") or Path(ref.base).exists() else f"base_model: {ref.base}\n"
    title = f"{recipe.report.title or recipe.name}: {name}"
    lines = [
        f"---\nlibrary_name: transformers\npipeline_tag: image-text-to-text\n{base}tags:\n- machine-unlearning\n---\n"
    ]
    made = f"{_made(root, recipe, name)} Written by `mllmu {__version__}`, seed {recipe.seed}; adapters "
    lines += [f"# {title}\n", f"{made}are merged into the weights.\n"]
    if ref.system_prompt:
        lines += [f"It also needs its system prompt, which is not part of the weights:\n\n> {ref.system_prompt}\n"]
    measured = list(_measured(root, name))
    if measured and recipe.model.quantize:
        measured += [f"Measured with the base in `{recipe.model.quantize}` and the adapters beside it. Here they are "
                     "merged into weights that were never rounded, so some replies will differ.\n"]  # fmt: skip
    lines += measured
    lines += [LIMITS]
    if real_people(recipe.data):
        lines += [f"## Personal data\n\nThe data are {PERSONAL} This model was taught them: do not publish it.\n"]
    return "\n".join(lines)


def _made(root: Path, recipe: Recipe, name: str) -> str:
    ratio, _, model = name.rpartition("/")
    share = ratio.removeprefix("forget_")
    if model == TARGET:
        return f"`{recipe.model.path}`, fine-tuned on all people of the data set: nothing was forgotten."
    if model == RETAIN_MODEL:
        left_out = _asked(recipe, f"{share} % of the people")
        return f"`{recipe.model.path}`, fine-tuned on the data set without {left_out}: the yardstick."
    inputs = unit_record(root / RunFolder.model_unit(share, model)).get("inputs", {})
    method = next((job.plugin for job in jobs(recipe) if job.name == model), inputs.get("method"))
    if method is None:
        return f"`{recipe.model.path}`, fine-tuned by the run as `{model}`, at {share} % to be forgotten."
    taught = f"`{recipe.model.path}`, fine-tuned on all people of the data set"
    _, at, number = model.partition("@")
    step = f": as it is after request {number}" if at else ""
    return f"{taught}, and then made to forget {_asked(recipe, f'{share} % of them')} by the method `{method}`{step}."


def _asked(recipe: Recipe, share: str) -> str:
    """What is to be forgotten, in words; ``share`` says of whom where the recipe names nobody."""
    forget, requests = recipe.unlearn.forget, recipe.unlearn.requests
    named = (forget,) if forget else () if isinstance(requests, int) else requests
    return "; then ".join(_request(each, share) for each in named) or share


def _request(request: ForgetRequest, share: str) -> str:
    whom = _count(request.people) if request.people else share
    if request.facts:
        return f"some facts about {_count(request.facts)}{f', and all about {whom}' if request.people else ''}"
    coarse = (f"`{name}` (the {level} may stay known)" for name, level in request.coarsen.items())
    facts = ", ".join([*(f"`{name}`" for name in request.attributes), *coarse])
    return f"{facts} of {whom}" if facts else whom


def _count(people: Collection[str]) -> str:
    return f"{len(people)} people" if len(people) > 1 else "one person"


def _measured(root: Path, name: str) -> Iterator[str]:
    """A table of the headline scores of the model beside target and retain model; nothing before it was evaluated."""
    ratio, _, model = name.rpartition("/")
    keys = [ratio.removeprefix("forget_")] if ratio else RunFolder(root).evaluated_keys()[:1]
    if not keys or not (raw := read_json(root / RunFolder.evaluation(keys[0]) / RunFolder.METRICS_FILE)):
        return
    results = [MetricResult.model_validate(row) for row in raw["results"]]
    yield f"## Measured (forget set: {keys[0]} % of the people)\n"
    yield "Share of questions of multiple choice answered right (unread replies count against the model), in %.\n"
    yield "| model | " + " | ".join(f"{s}, {m}" for s in _SETS for m in ("image", "text")) + " |"
    yield "|---" * (1 + 2 * len(_SETS)) + "|"
    for each in dict.fromkeys((TARGET, RETAIN_MODEL, model)):
        cells = [_cell(results, each, split, modality) for split in _SETS for modality in ("image_text", "text")]
        yield f"| {each} | " + " | ".join(cells) + " |"
    yield ""


def _cell(results: list[MetricResult], model: str, split: str, modality: str) -> str:
    found = (
        r.worst for r in results
        if (r.model, r.split, r.modality, r.metric, r.task) == (model, split, modality, "accuracy", "classification")
    )  # fmt: skip
    value = next(found, None)
    return "-" if value is None else f"{100 * value:.1f}"
