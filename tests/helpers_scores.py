"""Scored runs made by hand: by model and set, the score of every question."""

from __future__ import annotations

from pathlib import Path

from mllmu.core.records import Sample, Score
from mllmu.core.runfolder import dump_lines

SETS = {"forget": ("f1", "f2", "f3"), "retain": ("r1", "r2"), "celebrity": ("c1", "c2")}
METRIC = {"classification": "accuracy", "cloze": "cloze_contains"}


def make_run(root: Path, known: dict[str, dict[str, float]]) -> Path:
    """A scored run: by model and set, the score of every question there."""
    samples = [
        Sample(
            id=f"{split}/{person}/{task}",
            question_id=f"{person}/{task}",
            profile_id=person,
            split=split,  # type: ignore[arg-type]
            task=task,  # type: ignore[arg-type]
            modality="text",
            attribute="pet",
            prompt="?",
            target="A",
            value="cat",
            max_new_tokens=1,
        )
        for split, people in SETS.items()
        for person in people
        for task in METRIC
    ]
    folder = root / "eval/forget_10"
    for model, by_set in known.items():
        scores = [Score(sample_id=s.id, metric=METRIC[s.task], value=by_set[s.split]) for s in samples]
        scores += [Score(sample_id=s.id, metric="refused", value=1.0) for s in samples]
        (folder / model / "scores").mkdir(parents=True)
        (folder / model / "scores/scores.jsonl").write_text(dump_lines(scores))
    (folder / "samples.jsonl").write_text(dump_lines(samples))
    return root


def sets(forget: float, retain: float, celebrity: float) -> dict[str, float]:
    return {"forget": forget, "retain": retain, "celebrity": celebrity}
