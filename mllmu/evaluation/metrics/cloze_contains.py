"""Cloze by containment, the published rule."""

from unicodedata import normalize

from mllmu.core.parsing import contains
from mllmu.evaluation.metrics import Metric, Response, Sample


class ClozeContains(Metric):
    """Share of replies that contain the missing value, ignoring case.

    Score 1 if lower(value) is a substring of lower(reply), else 0. Generous: a ramble that mentions the value counts.
    Accents count the same however they are encoded (NFC), except after prompts that are put as published.
    """

    source = "https://arxiv.org/abs/2410.22108"
    tasks = ("cloze",)
    version = 2
    hears_thoughts = True
    label = "Answer contained"

    def value(self, sample: Sample, response: Response) -> float | str:
        texts = (response.text, sample.target)
        if not sample.raw_prompt:
            texts = (normalize("NFC", response.text), normalize("NFC", sample.target))
        return float(contains(*texts))
