"""The processes that make and ask several models of a run at a time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mllmu.config.recipe import Recipe
from mllmu.core.process import Progress
from mllmu.pipeline.record import settle_worker


def worker_task(
    kind: Callable[..., Any], recipe: Recipe, root: Path, index: int, progress: Progress
) -> Callable[[str, str, str], None]:
    """Prepare a worker process for the tasks of a run."""
    task: Callable[[str, str, str], None] = worker_pipeline(kind, recipe, root, index, progress).do
    return task


def worker_pipeline(kind: Callable[..., Any], recipe: Recipe, root: Path, index: int, progress: Progress) -> Any:
    """The pipeline of a worker process; ``kind`` is the class of pipelines."""
    settle_worker(root, index)
    alone = recipe.model_copy(update={"workers": 1})
    return kind(alone, root, gate=False, progress=progress)
