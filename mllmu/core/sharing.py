"""Units that runs beside each other share: the same inputs give the same unit, so it is linked, not made again.

``shares.json`` in a run folder names the runs whose units may be taken. The files of a unit are never written to, so a
hard link is as good as a copy and takes no room; where the disk has no links they are copied.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mllmu.core.errors import RunStoreError
from mllmu.core.runfolder import SHARES_FILE, RunFolder, intact, read_json, seal, unit_record, write_json

if TYPE_CHECKING:
    from mllmu.core.runfolder import Unit


def runs_in(folder: Path) -> list[Path]:
    """A run folder, or the runs of a grid in it; nothing where there is none."""
    if (folder / RunFolder.RECIPE).is_file():
        return [folder]
    return sorted(file.parent for file in folder.glob(f"*/{RunFolder.RECIPE}"))


def siblings(folder: Path) -> list[Path]:
    """The runs beside a variant of a run, such as ``runs/demo`` of ``runs/demo+epochs-3``; none of any other folder.

    For one run of a grid, ``runs/demo+epochs-3/tiny``, those of the same name.
    """
    for part, rest in ((folder, Path()), (folder.parent, Path(folder.name))):
        name, plus, _ = part.name.partition("+")
        if plus and name and (part.with_name(name) / rest).is_dir():
            found = [part.with_name(name), *sorted(part.parent.glob(f"{name}+*"))]
            return [other / rest for other in found if other != part and (other / rest / RunFolder.RECIPE).is_file()]
    return []


def share(folder: Path) -> list[Path]:
    """Let a variant of a run take what its siblings have; returns them."""
    others = siblings(folder)
    if others:
        names = [os.path.relpath(other, folder) for other in others]
        write_json(folder / SHARES_FILE, seal({"with": names}))
    return others


def take(root: Path, unit: Unit) -> None:
    """Put a unit that a sibling has made from the same inputs into its place in a run folder."""
    for other in _others(root):
        if _same(other / unit.name, unit):
            linked = unit.folder.with_name(f".{unit.folder.name}.shared")
            shutil.rmtree(linked, ignore_errors=True)
            shutil.copytree(other / unit.name, linked, copy_function=_link)
            linked.replace(unit.folder)
            _take_samples(other, root, unit)
            return


def _others(root: Path) -> Iterator[Path]:
    for name in read_json(root / SHARES_FILE).get("with", ()):
        yield root / name


def _same(folder: Path, unit: Unit) -> bool:
    try:
        return unit_record(folder).get("inputs") == unit.inputs and intact(folder)
    except RunStoreError:  # damaged: it is made again here, and said where it lies
        return False


def _take_samples(other: Path, root: Path, unit: Unit) -> None:
    """Responses come with the samples that they answer."""
    samples = Path(unit.name).parent.parent / RunFolder.SAMPLES_FILE
    if unit.folder.name == RunFolder.RESPONSES and (other / samples).is_file() and not (root / samples).exists():
        shutil.copyfile(other / samples, root / samples)


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
