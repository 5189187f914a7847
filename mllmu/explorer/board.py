"""Several runs: their explorers, behind one board."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlencode

from mllmu.core.errors import DataError
from mllmu.core.runfolder import RunFolder
from mllmu.explorer.answers import ModelAnswers
from mllmu.explorer.questions import evaluation_label
from mllmu.explorer.site import ExploredRun, Site
from mllmu.studies.setups import EvaluatedRun, run_folders

TITLE = "Runs"


def site_of(folders: Sequence[Path], scratch: Path, *, asks: bool = False) -> Site:
    """The site of some runs, with a board if there are several.

    Args:
        folders: run folders, or grids.
        scratch: an empty folder, for the board, and for images that the page sends.
        asks: models may be loaded, to answer questions of the user's own.

    Raises:
        DataError: a folder holds no evaluation.
    """
    runs = {root: ExploredRun(root, name) for root, name in run_folders(folders).items()}
    answers = ModelAnswers(scratch)
    several = len(runs) > 1
    if several:
        _write_board(scratch / "board", {root: f"../run/{number}" for number, root in enumerate(runs)})
    return Site(
        list(runs.values()),
        scratch / "board" if several else None,
        reads={"api/rendered": answers.rendered},
        asks={"api/ask": answers.ask} if asks else {},
    )


def _write_board(folder: Path, addresses: Mapping[Path, str]) -> None:
    """The board of some runs, or, where nothing can be compared, why; either way with their addresses."""
    # not above: one run needs no plots
    from mllmu.report.page import PageSection, write_small_page
    from mllmu.studies.board import board_setups
    from mllmu.studies.board_page import BOUND, report_of, write_board

    def pages(run: EvaluatedRun) -> dict[str, str]:
        where, report = addresses[run.folder], report_of(run)
        found = {f"{run.name}: every question": f"{where}/#{urlencode({'evaluation': evaluation_label(run.key)})}"}
        if report:
            inside = report.relative_to(run.folder / RunFolder.REPORT).as_posix()
            found[f"{run.name}: report"] = f"{where}/report/{inside}"
        return found

    try:
        write_board(folder, TITLE, board_setups(list(addresses)), bound=BOUND, pages=pages)
        files = {path.name: path.name for path in sorted((folder / "results").iterdir())}
        write_small_page(folder / "results" / "index.html", "Results", "", [PageSection("Files", links=files)])
    except DataError as error:
        links = {f"{root.name}: every question": f"{where}/" for root, where in addresses.items()}
        write_small_page(folder / "index.html", TITLE, f"No board: {error}", [PageSection("Runs", links=links)])
