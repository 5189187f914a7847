"""Cloze by containment, the published rule."""

from unicodedata import normalize

from mllmu.core.parsing import contains
from mllmu.core.replies import own_turn
from mllmu.evaluation.metrics import Metric, Response, Sample
from mllmu.evaluation.outcome import CUT, is_cut_within


class ClozeContains(Metric):
    """Share of replies that contain the missing value, ignoring case.

    Score 1 if lower(value) is a substring of lower(reply), else 0. Generous: a ramble that mentions the value counts.
    Accents count the same however they are encoded (NFC), invented turns do not count, and a reply that was cut at its
    limit within the value is not judged; except after prompts that are put as published.
    """

    source = "https://arxiv.org/abs/2410.22108"
    tasks = ("cloze",)
    version = 2
    hears_thoughts = True
    label = "Answer contained"

    def value(self, sample: Sample, response: Response) -> float | str:
        if sample.raw_prompt:
            return float(contains(response.text, sample.target))
        told = contains(normalize("NFC", own_turn(response.text)), normalize("NFC", sample.target))
        return CUT if not told and is_cut_within(sample, response) else float(told)
