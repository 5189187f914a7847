"""A general benchmark in one file; run it from the repository with

PYTHONPATH=examples mllmu run recipes/smoke.yaml --set 'evaluate.benchmarks=["my_benchmark:ColourQuiz"]'
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from PIL import Image

from mllmu import Asked, Benchmark, Skipped

OPTIONS = {"A": "red", "B": "green", "C": "blue", "D": "white"}


class ColourQuiz(Benchmark):
    """Which colour has the image? Four questions that have nothing to do with the people."""

    source = "ours"
    label = "Colour quiz"
    metrics = ("accuracy_logp",)
    headline = "accuracy_logp"

    path: Path = Path()  # the images are drawn here; a published benchmark reads its files from this folder

    def read(self) -> Iterator[Asked | Skipped]:
        listed = " ".join(f"({letter}) {colour}" for letter, colour in OPTIONS.items())
        for letter, colour in OPTIONS.items():
            sample = self.sample(
                colour,
                task="classification",
                attribute="colour",
                prompt=f"Which colour has the image? {listed}\nAnswer with the letter.",
                options=OPTIONS,
                target=letter,
                value=colour,
                candidates={each: each for each in OPTIONS},
            )
            yield Asked(sample, partial(Image.new, "RGB", (96, 96), colour))
