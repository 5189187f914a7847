"""Do answers about forgotten people still look like training data?"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import product

from mllmu.core.names import RETAIN_MODEL
from mllmu.evaluation.stats import auc, hits_at, matched_auc
from mllmu.evaluation.summaries import ColumnSpec, Modality, ScoredRun, Split, Summariser, Summary, TableSpec

REFERENCE = "member_reference"
ATTACKS = {
    "member_loss": "mean log-probability per answer token",
    "member_zlib": "log-probability per byte after zlib compression",
    "member_min_k": "mean log-probability of the 20 % least likely tokens",
    "member_min_k_pp": "the same, standardised over the vocabulary",
    "member_gradient": "minus the norm of the gradient of the answer's loss, which training makes smaller",
    REFERENCE: "log-probability minus the retain_model's; undefined for the retain_model itself",
}
"""The score behind each attack; all but the last are metrics."""
NO_OTHERS = "nothing to compare with"
SIDES: tuple[Split, Split] = ("forget", "holdout")


class Membership(Summariser):
    """Membership inference: how well scores separate answers about forgotten people from those about holdout people.

    auc: area under the ROC curve, 0.5 = chance; matched_auc: the same over pairs of answers of one task and length;
    tpr_at_1: true positive rate at 1 % false positives. Scores: loss, zlib, min-k, min-k++, gradient, and reference =
    log p minus the retain_model's log p (per token; undefined for the retain_model itself). All over answer tokens.

    Holdout people come from the same source as the forgotten ones, and no model was trained on them. A model that has
    unlearned perfectly has the retain_model's value.
    """

    source = "https://arxiv.org/abs/2402.07841"
    needs = tuple(attack for attack in ATTACKS if attack != REFERENCE)
    range = (0.0, 1.0)

    def no_interval(self, detail: str) -> str:
        return "no interval: rests on the few highest answers" if detail.endswith(" tpr_at_1") else ""

    def summarise(self, run: ScoredRun) -> list[Summary]:
        every = product(run.models, ATTACKS, run.modalities)
        return [row for model, attack, modality in every for row in self._rows(run, model, attack, modality)]

    def _rows(self, run: ScoredRun, model: str, attack: str, modality: Modality) -> Iterator[Summary]:
        if attack == REFERENCE and model == RETAIN_MODEL:
            return
        sides = [scores(run, model, attack, split, modality) for split in SIDES]
        members, others = ([v for values in side.values() for v in values] for side in sides)
        numbers = {
            "auc": auc(members, others),
            "matched_auc": matched_auc(sides[0], sides[1]),
            "tpr_at_1": hits_at(members, others),
        }
        for number, value in numbers.items():
            detail, note = f"{attack.removeprefix('member_')} {number}", "" if value is not None else NO_OTHERS
            num = len(members) + len(others)
            yield self.row(model, value, detail=detail, split="forget", modality=modality, num=num, note=note)

    def tables(self, rows: Sequence[Summary]) -> Iterable[TableSpec]:
        yield TableSpec(
            title="Membership inference",
            intro="How well a score separates answers about the forgotten people from answers about holdout people, "
            "on whom no model was trained: area under the ROC curve, 0.5 is chance. Below: 'matched', the same among "
            "answers of one task and length; 'found', the true positive rate at 1 % false positives.",
            columns=tuple(self._column(attack, reads) for attack, reads in ATTACKS.items()),
            order=50,
            by_modality=True,
        )

    def _column(self, attack: str, reads: str) -> ColumnSpec:
        name = attack.removeprefix("member_")
        more = (("matched", f"{name} matched_auc"), ("found", f"{name} tpr_at_1"))
        head = name.replace("_pp", "++").replace("_", "-")
        return self.column(head, detail=f"{name} auc", split="forget", reads=reads, more=more, metric=attack)


def scores(
    run: ScoredRun, model: str, attack: str, split: Split, modality: Modality
) -> dict[tuple[str, int], list[float]]:
    """Scores of an attack by (task, number of answer tokens)."""
    metric = "member_loss" if attack == REFERENCE else attack
    values = run.judged(model, metric, split=split, modality=modality)
    if attack == REFERENCE:
        reference = run.judged(RETAIN_MODEL, metric, split=split, modality=modality)
        values = {
            sample_id: value - reference[sample_id] for sample_id, value in values.items() if sample_id in reference
        }
    found: dict[tuple[str, int], list[float]] = {}
    for sample_id, value in values.items():
        response = run.response(model, sample_id)
        length = response.candidates["target"].num_tokens if response else 0
        found.setdefault((run.samples[sample_id].task, length), []).append(value)
    return found
