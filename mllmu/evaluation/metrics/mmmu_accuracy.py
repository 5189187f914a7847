"""Accuracy on MMMU by the official reading of replies."""

import re
from collections.abc import Mapping

from mllmu.evaluation.metrics import Metric, Response, Sample

_ENDS = ",.!?;:'"
_LEADS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?:[eE][+-]?\d+)?(?!\w)")
_SENTENCE = re.compile(r"\.\s|\n")
_LONG = 5


class MmmuAccuracy(Metric):
    """Share of MMMU questions answered rightly, replies read as the official evaluation reads them.

    Multiple choice: letters in brackets count first, then letters that stand alone, then (in replies of more than five
    words) the words of an option; of several, the last one in the reply. Where nothing can be read the official code
    guesses at random; here the score is None and counted. Open questions: the last parts of the sentences that
    announce an answer, and the numbers in them, are compared with the right answers, numbers to two decimals.

    Score 1 or 0. 'I think (B), no, (C).' reads as C.
    """

    source = "https://github.com/MMMU-Benchmark/MMMU"
    tasks = ("classification", "cloze")
    splits = ("mmmu",)
    label = "MMMU accuracy"

    def value(self, sample: Sample, response: Response) -> float | str:
        if sample.options:
            letter = read_choice(response.text, sample.options)
            return float(letter == sample.target) if letter else "no option named"
        truths = [text for key, text in sample.candidates.items() if key.startswith("right_")] or [sample.target]
        return float(is_right(response.text, truths))


def read_choice(reply: str, options: Mapping[str, str]) -> str | None:
    """The chosen letter, or None.

    >>> read_choice("I think (B), no, (C).", {"A": "x", "B": "y", "C": "z"})
    'C'
    """
    text = f" {reply.strip().strip(_ENDS)} "
    last = {letter: text.rfind(f"({letter})") for letter in options}
    if max(last.values()) < 0:
        last = {letter: text.rfind(f" {letter} ") for letter in options}
    if max(last.values()) < 0 and len(text.split()) > _LONG:
        last = {letter: text.lower().rfind(value.lower()) if value else -1 for letter, value in options.items()}
    best = max(last, key=lambda letter: last[letter])
    return best if last[best] >= 0 else None


def is_right(reply: str, truths: list[str]) -> bool:
    """Whether an open reply contains one of the right answers, see :class:`MmmuAccuracy`."""
    wanted = [_plain(truth) for truth in truths]
    for said in _claims(reply):
        if isinstance(said, float):
            if said in wanted:
                return True
        elif any(isinstance(truth, str) and truth and truth in said for truth in wanted):
            return True
    return False


def _claims(reply: str) -> list[str | float]:
    """What a reply claims: the shortest tail of each sentence after an announcing word, and the numbers in it."""
    parts = [part for part in _SENTENCE.split(reply.strip().strip(".").lower()) if part.strip()]
    tails = []
    for place, part in enumerate(parts):
        leads = (*_LEADS, "=") if place == len(parts) - 1 else _LEADS
        found = [part.rpartition(lead)[2].strip() for lead in leads if lead in part]
        found = [tail for tail in found if tail and tail not in _ENDS]
        tails += [min(found, key=len)] if found else []
    claims: list[str | float] = []
    for tail in tails or [reply.strip().lower()]:
        claims += [_plain(tail), *(_plain(number) for number in _NUMBER.findall(tail))]
    return claims


def _plain(text: str) -> str | float:
    """A number to two decimals, or the text in lower case; one letter gets spaces, or it would be in every word."""
    try:
        return round(float(text.replace(",", "")), 2)
    except ValueError:
        plain = text.strip().lower()
        return f" {plain} " if len(plain) == 1 else plain
