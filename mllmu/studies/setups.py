"""Which runs belong together: a setup is one recipe at one forget ratio, and its runs differ in the seed alone."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mllmu.config.load import read
from mllmu.core.errors import DataError
from mllmu.core.names import TARGET
from mllmu.core.records import ModelRef
from mllmu.core.runfolder import RunFolder, digest, read_json, read_record
from mllmu.data.dataset import SPLITS
from mllmu.evaluation.gate import read_probes

FREE = (
    "name", "seed", "seeds", "seeds.teach", "seeds.unlearn", "seeds.evaluate", "workers", "gate", "report",
    "model.device", "finetune.micro_batch_size", "finetune.checkpoint_every_s", "unlearn.micro_batch_size",
    "unlearn.reference_mib", "evaluate.batch_size", "data.splits.file",
)  # fmt: skip
"""Settings that runs of one setup may differ in: they name a run, draw its people, or say where and how fast it is
computed."""
LONGEST = 40
"""Letters of a value in a label."""
RATIO = "forget"
"""What the forget ratio is called among the settings of a setup."""


class EvaluatedRun(NamedTuple):
    """A finished evaluation of a run.

    Attributes:
        name: unique among the runs that are compared.
        folder: the run folder.
        key: the forget ratio in percent.
        seed: None if the run folder has no recipe; ``seeds``: of single stages, if the recipe sets them.
        settings: every setting that must agree, as text by its dotted key, and the ratio.
        prescribed: the forget ids, if a file names them: their digest, or without the run's data the name of the file.
    """

    name: str
    folder: Path
    key: str
    seed: int | None
    settings: dict[str, str]
    seeds: tuple[tuple[str, int], ...] = ()
    prescribed: str = ""

    @property
    def all_seeds(self) -> tuple[int, int, int, int]:
        """The seed of the data, and of teaching, unlearning and evaluation."""
        own, seed = dict(self.seeds), self.seed or 0
        return seed, own.get("teach", seed), own.get("unlearn", seed), own.get("evaluate", seed)


class Setup(NamedTuple):
    """Runs that can be pooled; ``label`` is what sets them apart from the others, empty if there are no others."""

    label: str
    runs: tuple[EvaluatedRun, ...]


def unjudged(run: EvaluatedRun, models: Sequence[str]) -> tuple[str, ...]:
    """Models that are the target behind a system prompt, where the gate has found that the target takes none."""
    path = run.folder / RunFolder.evaluation(run.key) / RunFolder.GATE_FILE
    if not path.is_file() or read_probes(read_json(path, sealed=True)).takes_instructions is not False:
        return ()
    units = {model: run.folder / RunFolder.model_unit(run.key, model) / RunFolder.MODEL_FILE for model in models}
    refs: dict[str, ModelRef] = {name: read_record(unit, ModelRef) for name, unit in units.items() if unit.is_file()}
    taught = refs[TARGET].adapters if TARGET in refs else None
    return tuple(name for name, ref in refs.items() if ref.system_prompt and ref.adapters == taught)


def evaluated_runs(folders: Sequence[Path], ratio: str | None = None) -> list[EvaluatedRun]:
    """The evaluations in run folders, and in the run folders of grids.

    Args:
        folders: run folders, or folders of run folders.
        ratio: the forget ratio in percent; None: all there are.

    Raises:
        DataError: a folder holds no evaluation, or none of that ratio.
    """
    names = run_folders(folders)
    return [run for folder, name in names.items() for run in _of_folder(folder, name, ratio)]


def run_folders(folders: Iterable[Path]) -> dict[Path, str]:
    """The evaluated run folders among folders, or inside of them, each once, with a name of its own.

    Raises:
        DataError: a folder holds no evaluation.
    """
    return _names(list(dict.fromkeys(run for folder in folders for run in _expanded(folder))))


def setups(runs: Iterable[EvaluatedRun]) -> list[Setup]:
    """Group runs by their settings, in the order given.

    Raises:
        DataError: two runs of a setup have one seed and forget the same people; they are one run counted twice.
    """
    groups: dict[str, list[EvaluatedRun]] = {}
    for run in runs:
        group = groups.setdefault(json.dumps(run.settings, sort_keys=True), [])
        same = (other for other in group if (other.all_seeds, other.prescribed) == (run.all_seeds, run.prescribed))
        twin = next(same, None) if run.seed is not None else None
        if twin:
            raise DataError(
                f"{twin.folder} and {run.folder}: the same recipe with the same seed {run.seed}, which says nothing "
                "twice. Give one of them."
            )
        group.append(run)
    several = [key for key in _keys(group[0] for group in groups.values()) if len(groups) > 1]
    labels = _unique([_label(group[0], several) for group in groups.values()])
    return [Setup(label, tuple(group)) for label, group in zip(labels, groups.values(), strict=True)]


def one_setup(runs: Sequence[EvaluatedRun]) -> Setup:
    """The runs as one setup.

    Raises:
        DataError: they are not of one recipe; names what differs.
    """
    found = setups(runs)
    if len(found) > 1:
        first, second = found[0].runs[0], found[1].runs[0]
        raise DataError(
            f"{first.folder} and {second.folder} cannot be pooled: {differences(first.settings, second.settings)}. "
            "Give runs that differ in the seed alone, or see all of them with: mllmu board."
        )
    return found[0]


def differences(one: Mapping[str, str], other: Mapping[str, str], most: int = 3) -> str:
    """What two settings differ in, the first few.

    >>> differences({"a": "1", "b": "2"}, {"a": "1", "b": "3"})
    'b is 2 and 3'
    """
    keys = [key for key in dict.fromkeys([*one, *other]) if one.get(key) != other.get(key)]
    texts = [f"{key} is {one.get(key, 'not set')} and {other.get(key, 'not set')}" for key in keys[:most]]
    return ", ".join(texts) + (f" and {len(keys) - most} more settings" if len(keys) > most else "")


def _expanded(folder: Path) -> Iterator[Path]:
    if RunFolder(folder).evaluated_keys():
        yield folder
        return
    inner = [path for path in sorted(folder.glob("*/")) if RunFolder(path).evaluated_keys()]
    if not inner:
        raise DataError(
            f"{folder}: holds no evaluation. Expected a finished run, a grid, or a file of raw scores. Runs that are "
            "complete have eval/forget_<ratio>."
        )
    yield from inner


def _names(folders: Sequence[Path]) -> dict[Path, str]:
    """The last part of each path, with a number where two are alike."""
    taken = [folder.resolve().name for folder in folders]
    return {
        folder: name if taken.count(name) == 1 else f"{name}_{index}"
        for index, (folder, name) in enumerate(zip(folders, taken, strict=True), start=1)
    }


def _of_folder(folder: Path, name: str, ratio: str | None) -> Iterator[EvaluatedRun]:
    path, keys = folder / RunFolder.RECIPE, RunFolder(folder).evaluated_keys()
    recipe = read(path) if path.is_file() else {}
    settings = dict(_flat(recipe))
    splits = settings.pop("data.splits.forget_ratios", None), settings.pop("data.splits.keys", None)
    del splits  # the ratio of the evaluation takes their place
    for key in keys if ratio is None else [ratio]:
        if key not in keys:
            raise DataError(f"{folder}: no evaluation at {key} %. There are: {', '.join(keys)} %.")
        own = {stage: seed for stage, seed in (recipe.get("seeds") or {}).items() if seed is not None}
        of_run = {**settings, RATIO: f"{key} %"}
        prescribed = _prescribed(folder, key, recipe)
        yield EvaluatedRun(name, folder, key, recipe.get("seed"), of_run, tuple(own.items()), prescribed)


def _prescribed(folder: Path, key: str, recipe: Mapping[str, Any]) -> str:
    """What sets the forget people of a run apart from those of other runs with its seed; empty if nothing does."""
    file = ((recipe.get("data") or {}).get("splits") or {}).get("file")
    path = folder / RunFolder.DATA / SPLITS
    if file is None or not path.is_file():
        return str(file or "")
    return digest(sorted(read_record(path, dict[str, list[str]]).get(key, [])))


def _flat(settings: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every setting below a mapping as text, without those that are free."""
    for key, value in settings.items():
        dotted = f"{prefix}{key}"
        if dotted in FREE:
            continue
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{dotted}.")
        else:
            yield dotted, json.dumps(value, ensure_ascii=False).strip('"')


def _keys(runs: Iterable[EvaluatedRun]) -> list[str]:
    """The settings in which the runs differ."""
    settings = [run.settings for run in runs]
    return [key for key in dict.fromkeys(k for one in settings for k in one) if len({s.get(key) for s in settings}) > 1]


def _label(run: EvaluatedRun, keys: Sequence[str]) -> str:
    """The settings of a run that vary, each with the shortest end of its name that is unique among them."""
    short = [key.rpartition(".")[2] for key in keys]
    names = [end if short.count(end) == 1 else key for key, end in zip(keys, short, strict=True)]
    values = [run.settings.get(key, "not set") for key in keys]
    cut = [value if len(value) <= LONGEST else f"{value[:LONGEST]}..." for value in values]
    return ", ".join(f"{name} {value}" for name, value in zip(names, cut, strict=True))


def _unique(labels: Sequence[str]) -> list[str]:
    """Labels that were cut to the same text get a number."""
    return [
        label if labels.count(label) == 1 else f"{label} ({labels[: index + 1].count(label)})"
        for index, label in enumerate(labels)
    ]
