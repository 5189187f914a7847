"""Training curves and final metrics for TensorBoard, Weights & Biases, MLflow or Trackio, by accelerate's trackers.

A tracker is told what the display is told, so it changes no number and no file of a run.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

from mllmu.config.recipe import Recipe
from mllmu.core.errors import DependencyError, ProcessError, did_you_mean, one_line
from mllmu.core.process import Progress, count
from mllmu.core.runfolder import RunFolder, read_json

Tracker = Literal["tensorboard", "wandb", "mlflow", "trackio"]
FOLDER = "tracking"
"""Of the run folder: the files of trackers that write files."""
_OWN_STEPS = ("wandb", "trackio")
"""Trackers with one step for all series, which may not go back; the step of a series is a value beside it."""
_RATIO = re.compile(r"\((?P<key>[0-9.]+) %\)")


@contextmanager
def tracked(shown: Progress, names: Sequence[str], recipe: Recipe, root: Path) -> Iterator[Progress]:
    """Tell trackers what happens inside the block, and the metrics at its end.

    Args:
        shown: the display, which is told as before.
        names: of trackers; without any the display itself is given.
        recipe: its settings are those of the run of the tracker, its name that of the project.
        root: the run folder.

    Raises:
        DependencyError: a tracker is unknown, or its library is not installed.
        ProcessError: there are several processes.
    """
    if not names:
        yield shown
        return
    with ExitStack() as stack:
        trackers = [stack.enter_context(_started(name, recipe, root)) for name in dict.fromkeys(names)]
        for tracker in trackers:
            tracker.store_init_configuration(flat(recipe.model_dump(mode="json")))
        yield TrackedProgress(shown, Curves(trackers))
        for tracker in trackers:
            tracker.log(final_metrics(root), **({} if tracker.name in _OWN_STEPS else {"step": 0}))


@contextmanager
def _started(name: str, recipe: Recipe, root: Path) -> Iterator[Any]:
    known = get_args(Tracker)
    if name not in known:
        hint = did_you_mean(name, known)
        raise DependencyError(f"log_with: no tracker '{name}'.{hint} Trackers: {', '.join(known)}.")
    if find_spec(name) is None:
        raise DependencyError(f"log_with: {name} is not installed. Install it: pip install {name}.")
    if count() > 1:
        raise ProcessError(
            "log_with: works in a run of one process. Leave it out, or start the run without a launcher."
        )
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState(cpu=True)  # the trackers ask it whether they are in the leading process
    kind = LOGGER_TYPE_TO_CLASS[name]
    tracker = kind(recipe.name, root / FOLDER) if kind.requires_logging_directory else kind(recipe.name)
    try:
        tracker.start()
    except Exception as error:
        raise DependencyError(f"log_with: {name} does not start ({one_line(error)}).") from error
    try:
        yield tracker
    finally:
        tracker.finish()


class Curves:
    """The series of a run: one per training, named by forget ratio and model."""

    def __init__(self, trackers: Sequence[Any]) -> None:
        self.trackers = trackers
        self.place = ""
        """Forget ratio of the stage, e.g. ``forget_5/``."""

    def stage(self, detail: str) -> None:
        """A stage begins, of one forget ratio or of all."""
        found = _RATIO.search(detail)
        self.place = f"forget_{found['key']}/" if found else ""

    def series(self, label: str) -> str:
        """The name of a training's series: a ratio in its own label goes before that of the stage."""
        found = _RATIO.search(label)
        return f"forget_{found['key']}/{label[: found.start()].strip()}" if found else f"{self.place}{label}"

    def log(self, series: str, step: int, facts: Mapping[str, float]) -> None:
        """Latest figures of a series after so many questions."""
        values = {f"{series}/{name}": value for name, value in facts.items()}
        for tracker in self.trackers:
            if tracker.name in _OWN_STEPS:
                tracker.log({**values, f"{series}/step": step})
            else:
                tracker.log(values, step=step)


class TrackedProgress(Progress):
    """Passes everything on to a display, and figures to trackers as well."""

    def __init__(self, shown: Progress, curves: Curves) -> None:
        self._shown, self._curves = shown, curves
        self._series, self._step = "", 0

    def stage(self, name: str, detail: str) -> None:
        self._curves.stage(detail)
        self._shown.stage(name, detail)

    def start(self, label: str, total: int) -> None:
        self._series, self._step = self._curves.series(label), 0
        self._shown.start(label, total)

    def advance(self, n: int = 1, **facts: float) -> None:
        self._step += n
        if facts:
            self._curves.log(self._series, self._step, facts)
        self._shown.advance(n, **facts)

    def finish(self) -> None:
        self._shown.finish()

    def note(self, text: str) -> None:
        self._shown.note(text)

    def lane(self) -> Progress:
        return TrackedProgress(self._shown.lane(), self._curves)

    def close(self) -> None:
        self._shown.close()


def final_metrics(root: Path) -> dict[str, float]:
    """Every mean of a scored run, by ratio, model, set, task, modality and metric; 0 to 1 as in ``metrics.json``."""
    names = ("model", "split", "task", "modality", "metric")
    return {
        "/".join((f"forget_{key}", *(row[name] for name in names))): row["value"]
        for key in RunFolder(root).evaluated_keys()
        for row in read_json(root / RunFolder.evaluation(key) / RunFolder.METRICS_FILE).get("results", ())
        if row["value"] is not None
    }


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Settings as trackers take them: dotted names, with words, numbers and truth values.

    >>> flat({"a": {"b": 1, "c": [2, "x"]}, "d": None})
    {'a.b': 1, 'a.c.0': 2, 'a.c.1': 'x', 'd': 'None'}
    """
    if isinstance(value, (dict, list)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for key, each in items for k, v in flat(each, f"{name}.{key}" if name else str(key)).items()}
    return {name: value if isinstance(value, (bool, int, float, str)) else str(value)}
