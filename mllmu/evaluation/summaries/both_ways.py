"""Is a fact gone in both modalities, or only one way in?"""

from __future__ import annotations

from typing import ClassVar

from mllmu.core.records import SPLITS, Modality, Summary
from mllmu.evaluation.summaries import ScoredRun, Summariser, mean

IMAGE: Modality = "image_text"
NAME: Modality = "text"


class BothWays(Summariser):
    """Per fact, asked with the face (without the name) and by the name (without the face): known how?

    acc_f: share of facts told neither way; acc_r: told both ways; face_only, name_only: told one way alone. The four
    add up to 1. leak = share told with the face minus share told by the name: 0 = one way in is as good as the other.
    rl_f = mean of (a^2 + b^2) / (a + b), which one good way in keeps high; rl_r = mean of 2ab / (a + b), which needs
    both; a, b: ROUGE-L of the two replies of the generation task. Both 0 if a + b = 0.
    Facts count where both replies were judged.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2502.17823"
    needs: ClassVar[tuple[str, ...]] = ("right",)

    def summarise(self, everything: ScoredRun) -> list[Summary]:
        rows = []
        for model in everything.models:
            told, rouge = everything.facts(model, "right"), everything.facts(model, "rougeL", task="generation")
            for split in SPLITS:
                pairs = [(by[IMAGE] > 0.5, by[NAME] > 0.5) for fact, by in told.items() if fact[0] == split]
                overlaps = [(by[IMAGE], by[NAME]) for fact, by in rouge.items() if fact[0] == split]
                numbers = {**shares(pairs), **overlap(overlaps)}
                rows += [
                    self.row(model, value, detail=detail, split=split, num=len(overlaps if "rl_" in detail else pairs))
                    for detail, value in numbers.items()
                ]
        return rows


def shares(pairs: list[tuple[bool, bool]]) -> dict[str, float]:
    """Shares of the four cases (told with the face, told by the name) and their difference; nothing for no pairs."""
    if not pairs:
        return {}
    counted = {
        "acc_f": (False, False),
        "acc_r": (True, True),
        "face_only": (True, False),
        "name_only": (False, True),
    }
    found = {name: pairs.count(case) / len(pairs) for name, case in counted.items()}
    return found | {"leak": found["face_only"] - found["name_only"]}


def overlap(pairs: list[tuple[float, float]]) -> dict[str, float]:
    """rl_f and rl_r; nothing for no pairs.

    >>> overlap([(1.0, 0.0), (0.5, 0.5)])
    {'rl_f': 0.75, 'rl_r': 0.25}
    """
    if not pairs:
        return {}
    return {
        "rl_f": mean([(a * a + b * b) / (a + b) if a + b else 0.0 for a, b in pairs]),
        "rl_r": mean([2 * a * b / (a + b) if a + b else 0.0 for a, b in pairs]),
    }


PLUGIN = BothWays
