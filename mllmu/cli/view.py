"""``mllmu view``: the explorer, a page on this machine for every question of a run and what all models replied."""

from __future__ import annotations

import os
import sys
import tempfile
import webbrowser
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from mllmu.cli.screen import say


def view(
    runs: Annotated[
        list[Path],
        Argument(metavar="RUN...", help="Run folders, or grids. Several open on their board, each with its own page."),
    ],
    *,
    port: Annotated[int, Option(min=0, max=65535, help="Port on this machine; 0 takes any that is free.")] = 0,
    ask: Annotated[bool, Option("--ask", help="Let the page put your own questions to the models of the run.")] = False,
    browser: Annotated[bool, Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
) -> None:
    """Look at every question of a run: portrait, prompt, truth, and the replies of all models beside each other.

    The page is served on this machine alone, at an address with a random token, until Ctrl-C. Nothing is written into
    the run folder, and no model is loaded without --ask.
    """
    from mllmu.explorer.board import site_of
    from mllmu.explorer.server import ExplorerServer

    with tempfile.TemporaryDirectory(prefix="mllmu_view_") as scratch:
        site = site_of(runs, Path(scratch), asks=ask)
        with ExplorerServer(site, port) as server:
            say(f"explorer: {server.address} (Ctrl-C ends it)")
            if browser and _has_screen():
                webbrowser.open(server.address)
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                say("ended")
            finally:
                site.close()


def _has_screen() -> bool:
    """Whether a browser would have a window; one in the terminal would stand in the way of the server."""
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
