"""``python -m tools.reading_path``: the files a reader meets on the way from a recipe to one number.

Makes a small run of the embedded tiny model, then makes the model of one method and one metric again and notes which
files of the package have functions that run: the recipe is read, the method unlearns, the model responds, the
responses are scored. The data, the target and the retain model are there already, as they are for every further method.
Prints each file with all of its lines, in the order in which they are first entered.
"""

from __future__ import annotations

import inspect
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).parents[1]
METHOD, METRIC, TASK = "npo", "accuracy_logp", "classification"
SETTINGS = (
    "data.source.num_people=6",
    "data.celebrities=null",
    "data.splits.holdout=0",
    "data.portraits.num_views=1",
    "finetune.epochs=0.1",
    "finetune.checkpoint_every_s=1e6",  # a slow machine writes none either
    f"unlearn.methods=[{METHOD}]",
    "unlearn.lora.dropout=0",
    f"evaluate.tasks=[{TASK}]",
    f"evaluate.metrics=[{METRIC}]",
)


class Entered:
    """Context manager that notes the files of the package whose functions run, in order."""

    def __init__(self) -> None:
        self.files: dict[str, None] = {}

    def __enter__(self) -> Entered:
        sys.setprofile(self._note)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)

    def _note(self, frame: FrameType, event: str, argument: Any) -> None:
        del argument
        code = frame.f_code
        # the body of a module or class is no function: its code has no fast local variables
        if event == "call" and code.co_flags & inspect.CO_OPTIMIZED:
            self.files.setdefault(code.co_filename)

    def paths(self) -> list[Path]:
        """Files of the package, relative to the repository."""
        found = (Path(name) for name in self.files)
        return [path.relative_to(ROOT) for path in found if path.is_relative_to(ROOT / "mllmu")]


def reading_path(folder: Path) -> list[Path]:
    """The files on the way, from a run that is made in a folder."""
    from mllmu.config.load import load
    from mllmu.pipeline.pipeline import Pipeline

    recipe = ROOT / "recipes" / "smoke.yaml"
    # in a process of its own, so that nothing is cached here
    overrides = [word for setting in SETTINGS for word in ("--set", setting)]
    command = [sys.executable, "-m", "mllmu", "run", str(recipe), "--out", str(folder), *overrides]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)  # noqa: S603 - our own command
    key = next((folder / "eval").iterdir()).name.removeprefix("forget_")
    for made in (folder / "models" / f"forget_{key}" / METHOD, folder / "eval" / f"forget_{key}" / METHOD):
        shutil.rmtree(made)
    load(recipe, SETTINGS)  # imports the plug-ins; what their modules do when imported is not on the way
    with Entered() as entered:
        pipeline = Pipeline(load(recipe, SETTINGS), folder)
        for task in ("make", "ask", "score"):
            pipeline.do(task, key, METHOD)
    return entered.paths()


def main() -> None:
    """Print the path with the lines of each file, and the totals."""
    with tempfile.TemporaryDirectory() as folder:
        paths = reading_path(Path(folder) / "run")
    lines = {path: len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in paths}
    for path, count in lines.items():
        sys.stdout.write(f"{count:5d}  {path}\n")
    sys.stdout.write(f"{sum(lines.values()):5d}  in {len(lines)} files\n")


if __name__ == "__main__":
    main()
