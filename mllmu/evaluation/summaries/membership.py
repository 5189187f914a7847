"""Do the answers about forgotten people still look like training data?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from mllmu.core.records import Modality, Split, Summary
from mllmu.evaluation.ranking import auc, hits_at, matched_auc
from mllmu.evaluation.summaries import ScoredRun, Summariser

ATTACKS = ("member_loss", "member_zlib", "member_min_k", "member_min_k_pp", "member_gradient")
REFERENCE = "member_reference"
SIDES: tuple[Split, Split] = ("forget", "holdout")


class Membership(Summariser):
    """Membership inference: how well a score tells the forgotten people's answers from those of the holdout people.

    auc: P(score of a forget answer > score of a holdout answer), 0.5 = nothing to be told; matched_auc: only answers of
    the same task and length are compared; tpr_at_1: share of forget answers above all but 1 % of the holdout answers.
    Attacks: loss, zlib, min-k, min-k++, gradient, and reference = log p minus the retain_model's log p (per token; of
    the retain_model itself it is undefined). All on answer tokens.

    The holdout people were invented like the others, and no model has seen them. The ideal is the retain_model's value.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2402.07841"
    needs: ClassVar[tuple[str, ...]] = ATTACKS

    def no_interval(self, detail: str) -> str:
        return "no interval: rests on the few highest answers" if detail.endswith(" tpr_at_1") else ""

    def summarise(self, everything: ScoredRun) -> list[Summary]:
        rows: list[Summary] = []
        for model in everything.models:
            for attack in (*ATTACKS, REFERENCE):
                for modality in dict.fromkeys(modality for _, modality in everything.places()):
                    rows += self._rows(everything, model, attack, modality)
        return rows

    def _rows(self, everything: ScoredRun, model: str, attack: str, modality: Modality) -> Iterator[Summary]:
        if attack == REFERENCE and model == everything.retain_model:
            return
        sides = [scores(everything, model, attack, split, modality) for split in SIDES]
        members, others = ([v for values in side.values() for v in values] for side in sides)
        numbers = {
            "auc": auc(members, others),
            "matched_auc": matched_auc(sides[0], sides[1]),
            "tpr_at_1": hits_at(members, others),
        }
        for kind, value in numbers.items():
            yield self.row(
                model, value, detail=f"{attack.removeprefix('member_')} {kind}", split="forget", modality=modality,
                num=len(members) + len(others), note="" if value is not None else "nothing to compare with",
            )  # fmt: skip


def scores(
    everything: ScoredRun, model: str, attack: str, split: Split, modality: Modality
) -> dict[tuple[str, int], list[float]]:
    """Scores of an attack by (task, number of answer tokens)."""
    known: dict[str, float] = {}
    if attack == REFERENCE:
        known = everything.judged(everything.retain_model, "member_loss", split=split, modality=modality)
    metric = "member_loss" if attack == REFERENCE else attack
    found: dict[tuple[str, int], list[float]] = {}
    for sample_id, value in everything.judged(model, metric, split=split, modality=modality).items():
        if attack == REFERENCE and sample_id not in known:
            continue
        score = value - known[sample_id] if attack == REFERENCE else value
        length = everything.replies[model][sample_id].candidates["target"].num_tokens
        found.setdefault((everything.samples[sample_id].task, length), []).append(score)
    return found


PLUGIN = Membership
