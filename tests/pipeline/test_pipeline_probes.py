"""The gate probes the target: whether it reads letters, and whether it takes a system prompt."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import mini_run
import pytest

from mllmu.core.process import SilentProgress
from mllmu.core.records import Response, Sample
from mllmu.core.runfolder import read_json, read_lines, seal, write_json
from mllmu.evaluation.probes import HARMLESS
from mllmu.pipeline import probes
from mllmu.pipeline.pipeline import Pipeline
from mllmu.studies.person_scores import not_in_mean
from mllmu.studies.verify import verify_run

SMALL = (
    "evaluate.tasks=[classification, option_text, cloze]", "unlearn.methods=[prompting]", "data.celebrities=null",
    "data.splits.holdout=0", "finetune.epochs=1",
)  # fmt: skip
GATE, METRICS = "eval/forget_40/gate.json", "eval/forget_40/metrics.json"


class Notes(SilentProgress):
    """Keeps what is noted."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(scope="module")
def told() -> Notes:
    return Notes()


@pytest.fixture(scope="module")
def probed(base: Path, tmp_path_factory: pytest.TempPathFactory, told: Notes) -> Iterator[Path]:
    """A finished run of a random model, which is taken to know all cloze questions about the people to retain."""

    def known(samples: list[Sample], _responses: object, *, seed: int) -> list[Sample]:
        del seed
        own = [s for s in samples if (s.split, s.task) == ("retain", "cloze")]
        changes = {"system": HARMLESS, "candidates": {}, "measured": ()}
        return [s.model_copy(update={**changes, "id": f"{s.id}@instructions"}) for s in own]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probes, "instruction_samples", known)
        yield mini_run.run(base, tmp_path_factory.mktemp("probed") / "run", *SMALL, progress=told)


def test_the_gate_records_and_notes_what_the_target_cannot_do(probed: Path, told: Notes) -> None:
    found = read_json(probed / GATE, sealed=True)["probes"]
    assert (found["reads_letters"], found["takes_instructions"]) == (False, False)
    assert found["letters"]["num"] == 5 and found["letters"]["chance"] == 0.25
    asked = read_lines(probed / "probes/forget_40/instructions/target/responses/responses.jsonl", Response)
    assert len(asked) == found["instructions"]["num"] and found["instructions"]["right"] == 0
    assert [line for line in told.said if line.startswith("This model does not read letters")]
    assert [line for line in told.said if line.startswith("The target cannot take a system prompt")]


def test_the_report_says_it_beside_the_numbers_and_leaves_letters_out_of_the_means(probed: Path) -> None:
    declared = read_json(probed / METRICS, sealed=True)["declared"]["tasks"]
    assert [name for name, task in declared.items() if task.get("in_mean") is False] == ["classification"]
    assert not_in_mean(probed, "40") == ["classification"]
    page = (probed / "report/index.html").read_text(encoding="utf-8")
    assert "Means over the tasks without Classification" in page
    assert "the means over the tasks leave its scores by letter out" in page
    assert (
        "the target takes no system prompt" in page and "So the loss is the model&#39;s, not the method&#39;s." in page
    )


def test_the_probes_are_units_that_verify_accepts_and_a_second_run_keeps(base: Path, probed: Path) -> None:
    assert list(verify_run(probed, SilentProgress()))
    before = mini_run.unit_times(probed)
    assert {name for name in before if name.startswith("probes/")} == {
        f"probes/forget_40/{probe}/target/responses" for probe in ("letters", "instructions")
    }
    mini_run.run(base, probed, *SMALL)
    assert mini_run.unit_times(probed) == before


def test_a_run_that_was_made_before_there_were_probes_is_still_reported(
    base: Path, probed: Path, tmp_path: Path
) -> None:
    root = tmp_path / "run"
    shutil.copytree(probed, root)
    shutil.rmtree(root / "probes")
    older = {name: value for name, value in read_json(root / GATE).items() if name != "probes"}
    write_json(root / GATE, seal(older))
    pipeline = Pipeline(mini_run.parse(mini_run.settings(base, *SMALL)), root)
    pipeline.reads = True
    pipeline.run("report")
    assert "probes" not in read_json(root / GATE, sealed=True) and not (root / "probes").exists()
    assert not_in_mean(root, "40") == []
    page = (root / "report/index.html").read_text(encoding="utf-8")
    assert "Means over the tasks, from 0 to 100" in page and "does not read letters" not in page
