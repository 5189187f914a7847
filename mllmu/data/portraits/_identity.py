"""Whether the images of one person show one face: cosine similarities of face embeddings. Plain numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


class Identity(NamedTuple):
    """How well embeddings tell people apart.

    Attributes:
        nearest: share of views whose nearest portrait of all is the same person's; chance is 1 / people.
        same: mean cosine of a view and the own portrait.
        other: mean cosine of a view and another person's portrait.
        closest_other: mean cosine of a view and the most similar other person's portrait.
        ranked: share of (own, other) pairs in which the own portrait is the nearer one (area under the ROC curve of
            one view at a time); chance is 0.5.
    """

    nearest: float
    same: float
    other: float
    closest_other: float
    ranked: float


def cosines(a_ND: Vectors, b_MD: Vectors) -> Vectors:
    """Cosine of every row of one with every row of the other, [N, M]."""
    return _unit(a_ND) @ _unit(b_MD).T


def _unit(rows_ND: Vectors) -> Vectors:
    length = np.linalg.norm(rows_ND, axis=1, keepdims=True)
    return np.asarray(rows_ND / np.maximum(length, 1e-12), dtype=np.float32)


def measure(portraits_ND: Vectors, views_ND: Vectors) -> Identity:
    """Compare one view of N people (in the order of the portraits) with all N portraits.

    For cosines [[0.8, 0.6], [0.8, 0.6]]: view 0 finds its person, view 1 does not: nearest 0.5, same 0.7, other 0.7.
    """
    table = cosines(views_ND, portraits_ND)
    own = np.diag(table)
    others = table[~np.eye(len(table), dtype=bool)].reshape(len(table), -1)
    return Identity(
        nearest=float((own > others.max(axis=1)).mean()),
        same=float(own.mean()),
        other=float(others.mean()),
        closest_other=float(others.max(axis=1).mean()),
        ranked=float((own[:, None] > others).mean()),
    )


def unlike(portrait_D: Vectors, views: Sequence[Vectors], threshold: float) -> list[int]:
    """Positions of the views that are less similar to the portrait than the threshold: another face."""
    if not views:
        return []
    found = cosines(np.stack(views), portrait_D[None])[:, 0]
    return [place for place, value in enumerate(found) if value < threshold]


def look_alike(portrait_D: Vectors, others_ND: Vectors, threshold: float) -> int | None:
    """Position of the most similar earlier portrait if it is at least as similar as the threshold; None if none is."""
    if not len(others_ND):
        return None
    found = cosines(portrait_D[None], others_ND)[0]
    best = int(found.argmax())
    return best if found[best] >= threshold else None
