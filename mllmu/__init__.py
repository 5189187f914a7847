"""Machine unlearning for multimodal LLMs: data, fine-tuning, unlearning, evaluation, report.

The public names are those of ``__all__``; everything else may change. A name is imported when it is first used, so
``import mllmu`` costs nothing, and reading recipes or records never imports torch.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mllmu.version import __version__

if TYPE_CHECKING:
    from mllmu.config.recipe import Recipe
    from mllmu.core.errors import MllmuError
    from mllmu.core.plugins import Plugin
    from mllmu.core.process import Progress
    from mllmu.core.records import MetricResult, ModelRef, Profile, Question, Response, Sample, Score
    from mllmu.data.portraits import Portraits
    from mllmu.data.tasks import Task
    from mllmu.evaluation.judges import Judge
    from mllmu.evaluation.metrics import Metric
    from mllmu.models.families import Family
    from mllmu.pipeline.pipeline import Pipeline
    from mllmu.unlearning.base import Method, RetainingMethod, Step

__all__ = [
    "Family",
    "Judge",
    "Method",
    "Metric",
    "MetricResult",
    "MllmuError",
    "ModelRef",
    "Pipeline",
    "Plugin",
    "Portraits",
    "Profile",
    "Progress",
    "Question",
    "Recipe",
    "Response",
    "RetainingMethod",
    "Sample",
    "Score",
    "Step",
    "Task",
    "__version__",
    "load_recipe",
    "run",
]

_HOMES = {
    "mllmu.data.portraits": ("Portraits",),
    "mllmu.core.errors": ("MllmuError",),
    "mllmu.evaluation.metrics": ("Metric",),
    "mllmu.data.tasks": ("Task",),
    "mllmu.evaluation.judges": ("Judge",),
    "mllmu.models.families": ("Family",),
    "mllmu.pipeline.pipeline": ("Pipeline",),
    "mllmu.core.plugins": ("Plugin",),
    "mllmu.core.process": ("Progress",),
    "mllmu.config.recipe": ("Recipe",),
    "mllmu.core.records": ("MetricResult", "ModelRef", "Profile", "Question", "Response", "Sample", "Score"),
    "mllmu.unlearning.base": ("Method", "RetainingMethod", "Step"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mllmu' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def load_recipe(path: Path | str, *overrides: str) -> Recipe:
    """Read and check a recipe file; overrides change settings as ``--set`` does, e.g. ``"finetune.epochs=3"``.

    Raises:
        RecipeError: the file is missing, is not YAML, or holds an unknown or impossible setting.
    """
    from mllmu.config.load import load

    return load(Path(path), overrides)


def run(
    recipe: Recipe | Path | str,
    out: Path | str | None = None,
    *,
    only: Literal["data", "finetune", "unlearn", "evaluate", "score", "report"] | None = None,
    force: bool = False,
    gate: bool = True,
    progress: Progress | None = None,
) -> Path:
    """Run a recipe as ``mllmu run`` does; what is finished in the run folder is kept and skipped.

    Args:
        recipe: a YAML file, or what :func:`load_recipe` made of one.
        out: the run folder; default ``runs/<name of the recipe>``.
        only: stop behind this stage.
        force: redo finished work (of the stage alone, if ``only`` names one), also if the settings changed.
        gate: stop before unlearning if the target has not memorised the people to forget.
        progress: told what is going on; nothing is shown by default.

    Returns:
        The run folder; after the last stage it holds ``report/index.html``.

    Raises:
        MllmuError: the recipe, the data, a model or the folder cannot be used; the message says what to do.
    """
    checked = load_recipe(recipe) if isinstance(recipe, (Path, str)) else recipe
    folder = Path(out) if out is not None else Path("runs") / checked.name
    # by name, and late: torch is imported only after the recipe has turned out to be right
    from mllmu.core.lock import held

    pipeline = __getattr__("Pipeline")(checked, folder, force=force, gate=gate, progress=progress)
    with held(folder):
        pipeline.run(only)
    return folder
