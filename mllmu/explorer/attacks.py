"""What models replied under attack, by the question that each attack was about."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from mllmu.core.attacked import PLAIN, REPLIES_FILE, AttackReply, AttackResults
from mllmu.core.runfolder import RunFolder, fingerprint_of, intact, read_json, read_lines, unit_record


class KeptReply(NamedTuple):
    """A reply, and where it was made."""

    attack: str
    model: str
    budget: str
    reply: AttackReply


class AttackedQuestions:
    """The replies of one forget ratio's attacks, read at once.

    Args:
        root: the run folder.
        evaluation: the folder of the evaluation in it; only those under the recipe's own protocol have attacks.
        models: in the order in which they are shown.

    Raises:
        RunStoreError: a file is not as it was written.
    """

    def __init__(self, root: Path, evaluation: Path, models: Sequence[str]) -> None:
        told = read_json(evaluation / RunFolder.ATTACKS_FILE)
        rows = AttackResults.model_validate(told).rows if told else ()
        self._labels = {row.attack: row.label for row in rows}
        self._kept: dict[str, list[KeptReply]] = {}
        attacks = list(self._labels)
        for attack, model, budget, path in sorted(
            (attacks.index(path.parts[-3]), models.index(path.parts[-2]), path.parts[-4], path)
            for path in (root / RunFolder.ATTACKS / evaluation.name).glob(f"*/*/*/{REPLIES_FILE}")
            if path.parts[-3] in attacks and path.parts[-3] != PLAIN and path.parts[-2] in models
            if _is_of_today(root, evaluation.name.removeprefix("forget_"), path.parent)
        ):
            intact(path.parent, path.name)
            for reply in read_lines(path, AttackReply):
                kept = KeptReply(attacks[attack], models[model], budget, reply)
                self._kept.setdefault(reply.sample_id, []).append(kept)

    def about(self, sample_id: str) -> list[dict[str, Any]]:
        """By attack, model and budget: the tries at one question, those that tell the truth first; plain values."""
        found = []
        for (attack, model, budget), kept in groupby(self._kept.get(sample_id, ()), key=lambda each: each[:3]):
            tries = sorted((each.reply for each in kept), key=lambda reply: -reply.value)
            row = {"attack": self._labels[attack], "model": model, "budget": budget}
            told = sum(reply.value > 0 for reply in tries)
            found.append({**row, "told": told, "tries": [reply.model_dump(exclude={"sample_id"}) for reply in tries]})
        return found


def _is_of_today(root: Path, key: str, unit: Path) -> bool:
    """Whether an attack was on the model that a run has now, as far as both are known."""
    attacked = unit_record(unit).get("inputs", {}).get("model", "")
    return not attacked or fingerprint_of(root / RunFolder.model_unit(key, unit.name)) in ("", attacked)
