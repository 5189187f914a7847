"""A run folder in a notebook: its numbers and replies as data frames, its models, its report, another run beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mllmu.core.errors import ModelError, RunStoreError, did_you_mean, needs_extra
from mllmu.core.evaluated import asked_models
from mllmu.core.names import TARGET
from mllmu.core.records import MetricResult, ModelRef, Response, Sample
from mllmu.core.runfolder import RunFolder, read_json, read_lines, read_record

if TYPE_CHECKING:
    from pandas import DataFrame

CELL = ["ratio", "model", "split", "task", "modality", "metric"]
"""What a row of the results is about."""
HEIGHT = 640
"""Of an inline report, in pixels."""


class OpenedModel(NamedTuple):
    """A model as Transformers has it, with its processor; ``system_prompt`` goes before every question if not empty."""

    model: Any
    processor: Any
    system_prompt: str


class InlineReport:
    """A report that a notebook shows in a frame; ``path`` is its page."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"InlineReport({str(self.path)!r})"

    def _repr_html_(self) -> str:
        page = escape(self.path.read_text(encoding="utf-8"), quote=True)
        return f'<iframe srcdoc="{page}" sandbox="allow-scripts" width="100%" height="{HEIGHT}"></iframe>'


class RunResult(os.PathLike[str]):
    """A finished run; wherever a path is taken, it is that of its folder.

    Args:
        folder: the run folder.

    Raises:
        RunStoreError: there is no run in the folder.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        if not (self.folder / RunFolder.RECORD).is_file():
            raise RunStoreError(f"{folder}: no run folder. Expected one that mllmu run has made.")

    def __fspath__(self) -> str:
        return str(self.folder)

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def __repr__(self) -> str:
        status = read_json(self.folder / RunFolder.RECORD).get("status", "unknown")
        return f"RunResult({str(self.folder)!r}): {status}, models: {', '.join(self.models) or 'none'}"

    @property
    def models(self) -> list[str]:
        """Names of the models that are there: ``target``, or ratio and model, ``forget_10/npo``."""
        return list(RunFolder(self.folder).models_made())

    @cached_property
    def results(self) -> DataFrame:
        """Every mean: a row per ratio, model, metric, set, task and modality, with the fields of a MetricResult."""
        with needs_extra("RunResult.results", "notebook"):
            from pandas import DataFrame
        columns = ["ratio", *MetricResult.model_fields]
        return DataFrame(list(self._results()), columns=columns)

    def _results(self) -> Iterator[dict[str, Any]]:
        for key in RunFolder(self.folder).evaluated_keys():
            path = self.folder / RunFolder.evaluation(key) / RunFolder.METRICS_FILE
            for row in read_json(path).get("results", ()):
                yield {"ratio": key, **MetricResult.model_validate(row).model_dump()}

    @cached_property
    def responses(self) -> DataFrame:
        """Every reply with its question: ratio, model, set, task, modality, person, prompt, target, reply."""
        with needs_extra("RunResult.responses", "notebook"):
            from pandas import DataFrame
        return DataFrame(list(self._responses()))

    def _responses(self) -> Iterator[dict[str, Any]]:
        for key in RunFolder(self.folder).evaluated_keys():
            folder = self.folder / RunFolder.evaluation(key)
            samples = {sample.id: sample for sample in read_lines(folder / RunFolder.SAMPLES_FILE, Sample)}
            for model in asked_models(self.folder, folder):
                for response in read_lines(folder / model / RunFolder.RESPONSES / RunFolder.RESPONSES_FILE, Response):
                    sample = samples[response.sample_id]
                    yield {
                        "ratio": key,
                        "model": model,
                        **sample.model_dump(include={"id", "split", "part", "task", "modality", "attribute", "prompt"}),
                        "person": sample.profile_id,
                        "target": sample.target,
                        "reply": response.text,
                        "finished": response.finished,
                    }

    def model(self, name: str, ratio: str | None = None, *, device: str | None = None) -> OpenedModel:
        """Load a model with its adapters, as the run does.

        Args:
            name: as in the results, e.g. ``npo``, or with its ratio as in :attr:`models`, e.g. ``forget_5/npo``.
            ratio: forget ratio in percent, if the name has none; by default the smallest.
            device: instead of the recipe's.

        Raises:
            ModelError: the run has no such model, or the name has another ratio than ``ratio``.
        """
        from mllmu.config.load import load as load_recipe
        from mllmu.models.loading import load

        keys = RunFolder(self.folder).evaluated_keys()
        wanted = name if name == TARGET or "/" in name else f"forget_{ratio or next(iter(keys), '')}/{name}"
        if ratio and "/" in name and not name.startswith(f"forget_{ratio}/"):
            raise ModelError(f"{self.folder}: model '{name}' and ratio '{ratio}' are two forget ratios. Name one.")
        made = RunFolder(self.folder).models_made()
        if wanted not in made:
            hint = did_you_mean(wanted, made)
            raise ModelError(f"{self.folder}: no model '{wanted}'.{hint} Models: {', '.join(made) or 'none'}.")
        section = load_recipe(self.folder / RunFolder.RECIPE).model
        ref: ModelRef = read_record(made[wanted] / RunFolder.MODEL_FILE, ModelRef)
        ref = ref.model_copy(update={"base": section.path, "revision": section.revision})
        loaded = load(section.model_copy(update={"device": device} if device else {}), ref, self.folder)
        return OpenedModel(loaded.model, loaded.encoder.processor, ref.system_prompt)

    def report(self, ratio: str | None = None) -> InlineReport:
        """The report, shown inline by a notebook; of several ratios the first page, or that of one.

        Raises:
            RunStoreError: no report was drawn.
        """
        folder = self.folder / RunFolder.REPORT
        path = folder / f"forget_{ratio}" / "index.html" if ratio else folder / "index.html"
        if not path.is_file():
            raise RunStoreError(f"{path}: no report. Run the report stage first, or leave the ratio out.")
        return InlineReport(path)

    def _repr_html_(self) -> str:
        return self.report()._repr_html_() if (self.folder / RunFolder.REPORT).is_dir() else escape(repr(self))

    def compare(self, other: RunResult | Path | str) -> DataFrame:
        """The values of two runs beside each other, for what both have: ``value``, ``other`` and ``difference``.

        ``difference`` is the other's value minus this one's, in the unit of the metric. Runs of other people or other
        questions can be laid beside each other too; whether that compares anything is for the reader to know.
        """
        theirs = other if isinstance(other, RunResult) else RunResult(other)
        mine = self.results[[*CELL, "value"]]
        both = mine.merge(theirs.results[[*CELL, "value"]].rename(columns={"value": "other"}), on=CELL)
        return both.assign(difference=both["other"].astype(float) - both["value"].astype(float))
