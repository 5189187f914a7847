"""Which models an evaluation is about: those of its numbers, not all whose folders are still there.

A folder of a model stays when the recipe names it no longer; what is in it may be of an earlier target.
"""

from __future__ import annotations

from pathlib import Path

from mllmu.core.runfolder import RunFolder, read_json


def models_of_results(folder: Path) -> list[str]:
    """The models that the numbers of an evaluation name, in their order; none as long as there are no numbers."""
    results = read_json(folder / RunFolder.METRICS_FILE, sealed=True).get("results", ())
    return list(dict.fromkeys(result["model"] for result in results))


def asked_models(root: Path, folder: Path) -> list[str]:
    """The models with responses in a folder of an evaluation, by name: those of its numbers, and those without scores.

    Args:
        root: the run folder.
        folder: of an evaluation in it; one under a further protocol has the numbers of that under the recipe's own.
    """
    paths = folder.glob(f"*/{RunFolder.RESPONSES}/{RunFolder.RESPONSES_FILE}")
    there = sorted(path.parent.parent.name for path in paths)
    own = root / RunFolder.evaluation(folder.name.removeprefix("forget_"))
    named = models_of_results(own)
    return [model for model in there if not named or model in named or not (own / model / RunFolder.SCORES).is_dir()]


def scored_models(folder: Path) -> list[str]:
    """The models with scores in a folder of an evaluation, by name: those of its numbers, or all if it has none."""
    paths = folder.glob(f"*/{RunFolder.SCORES}/{RunFolder.SCORES_FILE}")
    there, named = sorted(path.parent.parent.name for path in paths), models_of_results(folder)
    return [model for model in there if not named or model in named]
