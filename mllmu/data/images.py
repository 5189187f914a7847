"""Which images a data set needs, and drawing them: a source's own, or portraits of the recipe's backend."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from PIL.Image import Image

from mllmu.core.errors import DataError
from mllmu.core.progress import Progress
from mllmu.core.records import Profile
from mllmu.core.runfolder import write_atomic
from mllmu.core.seeding import derive
from mllmu.data.portraits import Portraits
from mllmu.data.sources import Source


class Shot(NamedTuple):
    """An image to be made: its file, and how."""

    name: str
    render: Callable[[], Image]
    published: bool


def wanted(
    portraits: Portraits,
    source: Source | None,
    people: Sequence[Profile],
    *,
    seed: int,
    num_views: int,
    redrawn: Collection[str] = (),
) -> list[Shot]:
    """The images of some people: all the source has of a person, or ``num_views`` drawn portraits if it has none."""
    seeds = {person: derive(seed, "review", person) for person in redrawn}
    return [shot for p in people for shot in _of(portraits, source, p, seeds.get(p.id, seed), num_views)]


def _of(portraits: Portraits, source: Source | None, person: Profile, seed: int, num_views: int) -> list[Shot]:
    own = source.num_views(person) if source else 0
    names = [f"{person.id}_{view}.png" for view in range(own or num_views)]
    if source and own:
        return [Shot(n, partial(source.image, person, v), source.published) for v, n in enumerate(names)]
    return [Shot(n, partial(portraits.render, person, v, seed), published=False) for v, n in enumerate(names)]


def draw(shots: Sequence[Shot], folder: Path, progress: Progress) -> list[tuple[str, str]]:
    """Draw all images; two with the same pixels are an error, or returned by name if they were published so."""
    folder.mkdir(parents=True, exist_ok=True)
    hashes: dict[str, str] = {}
    equal: list[tuple[str, str]] = []
    progress.start("portraits", len(shots))
    for name, render, published in shots:
        path = folder / name
        # left by an interrupted run of the same settings (the run store sees to that), and whole, so not paid twice
        png = path.read_bytes() if path.is_file() else _png(render())
        other = hashes.setdefault(hashlib.sha256(png).hexdigest(), name)
        if other != name and not published:
            raise DataError(
                f"{name}: the same pixels as {other}. An image must stand for one person and one view; "
                "replace one of the two."
            )
        equal += [(other, name)] if other != name else []
        write_atomic(path, png)
        progress.advance()
    progress.finish()
    return equal


def _png(image: Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
