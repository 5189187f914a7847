"""Do the drawn views of one person show one face? Nearest neighbour on the embedded model's vision features.

    python benchmarks/portraits_identity.py --people 500 --out benchmarks/portraits_identity_202611.json

Every view 1, 2, 3 ... of a person is looked up among the portraits (view 0) of all people. Beside the features stands
a lower line: the pixels themselves, at 16 x 16. People come from the source ``synthetic`` with a seed that the
pre-training of the tower never used, so it has met none of them.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from mllmu.core import plugins
from mllmu.data.portraits._faces import Vectors, cosines
from mllmu.data.sources.synthetic import Synthetic
from mllmu.models.loading import source_of
from tools.pretrain_tiny.vision import to_pixels

SIDE = 64
BATCH = 100


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=500)
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--size", type=int, default=192, help="as in recipes/demo.yaml; the model sees 64 x 64")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--portraits", default="dicebear")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    began = time.monotonic()
    backend = plugins.build("portraits", options.portraits, {"size": options.size, "num_views": options.views})
    people = Synthetic(num_people=options.people).profiles(options.seed)
    images = [
        [backend.render(person, view, options.seed).resize((SIDE, SIDE), Image.Resampling.BICUBIC) for person in people]
        for view in range(options.views)
    ]
    drawn_s = time.monotonic() - began
    tower = (
        AutoModelForImageTextToText.from_pretrained(source_of("tiny"), dtype=torch.float32).eval().model.vision_tower
    )
    features = [_features(tower, view) for view in images]
    pixels = [_pixels(view) for view in images]
    rows = {}
    for view in range(1, options.views):
        rows[f"view {view}, features"] = measure(features[0], features[view])
        rows[f"view {view}, 16 x 16 pixels"] = measure(pixels[0], pixels[view])
    _show(rows)
    if options.out:
        record: dict[str, Any] = {
            **{name: str(value) for name, value in vars(options).items()},
            "seconds": {"drawing": round(drawn_s, 1), "all": round(time.monotonic() - began, 1)},
            "torch": torch.__version__,
            "results": {name: row._asdict() for name, row in rows.items()},
        }
        options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


@torch.no_grad()
def _features(tower: Any, images: list[Image.Image]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The CLS token of the last layer, the one that training sees."""
    parts = [
        tower(pixel_values=to_pixels(images[start : start + BATCH])).last_hidden_state[:, 0]
        for start in range(0, len(images), BATCH)
    ]
    return np.asarray(torch.cat(parts).numpy(), dtype=np.float32)


def _pixels(images: list[Image.Image]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Colours at 16 x 16, less their mean."""
    rows = np.stack([np.asarray(p.resize((16, 16)), dtype=np.float32).ravel() for p in images])
    return np.asarray(rows - rows.mean(axis=0), dtype=np.float32)


def _show(rows: dict[str, Identity]) -> None:
    print(f"{'':26} nearest    same   other  closest  ranked")
    for name, row in rows.items():
        figures = f"{row.same:7.3f} {row.other:7.3f} {row.closest_other:8.3f} {row.ranked:7.4f}"
        print(f"{name:26} {100 * row.nearest:6.1f}% {figures}")


if __name__ == "__main__":
    main()
