"""ROUGE as the ``rouge_score`` package computes it (with stemming), for any script, and fast enough for a sweep.

For English text the difference is only speed: stems are cached, and the longest common subsequence comes from
rapidfuzz. A test holds both equal to the package. The package drops every letter outside a-z ('Łódź' becomes 'd', a
Russian sentence nothing); here words are of letters, digits and accents of any script, composed alike (NFKC), and in
scripts without spaces every character is one. ``published`` gives the package's own words.

Source: Lin 2004, https://aclanthology.org/W04-1013; reference implementation https://pypi.org/project/rouge-score.
"""

import re
import unicodedata
from abc import abstractmethod
from collections import Counter
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

from rapidfuzz.distance import LCSseq

from mllmu.core.parsing import LETTERS, SPACELESS
from mllmu.core.records import Response, Sample
from mllmu.evaluation.metrics import Metric

_PUBLISHED = re.compile(r"[a-z0-9]+")
_WORD = re.compile(rf"[{SPACELESS}]|(?:(?![_{SPACELESS}])[{LETTERS}])+")


class OverlapMetric(Metric):
    """Base of the metrics that compare the words of a free reply with those of the true sentence.

    A truth with fewer words than are compared is not judged. The published evaluator knows the words of English alone
    and gives 0 there; prompts that are put as published are scored as it does, see ``published``.
    """

    tasks = ("generation",)
    version = 2
    unit = "overlap"
    least: ClassVar[int] = 1

    def value(self, sample: Sample, response: Response) -> float | str:
        if not sample.raw_prompt and (found := len(stems(sample.target))) < self.least:
            return f"the truth has {found} words, and {self.least} are compared"
        return self.overlap(sample.target, response.text, published=sample.raw_prompt)

    @abstractmethod
    def overlap(self, truth: str, reply: str, *, published: bool) -> float:
        """The overlap, 0 to 1."""


class Rouge(NamedTuple):
    """Overlap of a reply with the truth, each in [0, 1]."""

    precision: float
    recall: float
    f1: float


def rouge_n(target: str, reply: str, *, n: int, published: bool = False) -> Rouge:
    """Overlap in n-grams of stems, each counted as often as it occurs in both.

    >>> rouge_n("the cat sat", "the cat ran", n=2)
    Rouge(precision=0.5, recall=0.5, f1=0.5)
    """
    truth, said = (
        Counter(zip(*(words[i:] for i in range(n)), strict=False))
        for words in (stems(target, published), stems(reply, published))
    )
    return _rouge((truth & said).total(), said.total(), truth.total())


def rouge_l(target: str, reply: str, *, published: bool = False) -> Rouge:
    """Overlap as the longest common subsequence of stems.

    >>> round(rouge_l("the cat sat", "the dog sat").f1, 3)
    0.667
    """
    truth, said = stems(target, published), stems(reply, published)
    return _rouge(LCSseq.similarity(truth, said), len(said), len(truth))


@lru_cache(maxsize=4096)
def stems(text: str, published: bool = False) -> tuple[str, ...]:  # noqa: FBT001, FBT002 - a part of the cache's key
    """Words of a text in lower case; English ones longer than three characters are reduced to their Porter stem."""
    words = _PUBLISHED.findall(text.lower()) if published else _WORD.findall(composed(text).casefold())
    return tuple(_stem(word) if len(word) > 3 and word.isascii() else word for word in words)


def composed(text: str) -> str:
    """A text in which equal characters are written alike: 'São' in two ways, and letters of full width."""
    return text if text.isascii() else unicodedata.normalize("NFKC", text)


@lru_cache(maxsize=65536)
def _stem(word: str) -> str:
    return str(_stemmer().stem(word))


@lru_cache(maxsize=1)
def _stemmer() -> Any:
    from nltk.stem.porter import PorterStemmer  # nltk takes a second to import

    return PorterStemmer()


def _rouge(common: int, num_said: int, num_truth: int) -> Rouge:
    precision, recall = common / max(num_said, 1), common / max(num_truth, 1)
    return Rouge(precision, recall, 2 * precision * recall / (precision + recall) if common else 0.0)
