"""Damaged files of a finished run: each is noticed by the command that reads it, or changes no number."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import mini_run
import mutators
import pytest
from rounds import Fuzz

from mllmu.config.load import parse
from mllmu.core.process import SilentProgress
from mllmu.core.records import Response
from mllmu.core.runfolder import UNIT_FILE, Journal, RunFolder, read_json
from mllmu.pipeline.pipeline import Pipeline
from mllmu.pipeline.report import curve
from mllmu.pipeline.run import Run

DERIVED = ("report", "metrics.json", "gate.json", "samples.jsonl", "recipe.yaml", "run.json", "run.lock")
"""What ``mllmu report`` writes anew: damage of it is mended rather than noticed."""
UNUSED = ("inputs.json", "elapsed.json")
"""Of the time before a unit was finished; nothing reads them any more."""


@pytest.fixture(scope="module")
def finished(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; every test leaves it as it was."""
    return mini_run.run(base, tmp_path_factory.mktemp("fuzz_run") / "run", "unlearn.methods=[npo, prompting]")


def files(root: Path) -> list[Path]:
    """Every file of the run that a later command reads and that nothing writes anew."""
    found = (path for path in sorted(root.rglob("*")) if path.is_file())
    return [path for path in found if not {*path.relative_to(root).parts} & {*DERIVED} and path.name[0] != "."]


_moment = iter(range(10**9, 2 * 10**9))


def write(path: Path, content: bytes) -> None:
    """Write with a time of its own, as the clock of a file system is too coarse for rounds of milliseconds."""
    path.write_bytes(content)
    os.utime(path, (moment := next(_moment), moment))


def damaged(rng: Random, path: Path, whole: bytes) -> bytes:
    """Bytes damaged as a disk does; of a record, every other time, as a careless hand does."""
    if path.suffix == ".json" and rng.random() < 0.5:
        return json.dumps(mutators.tree(rng, json.loads(whole)), ensure_ascii=False).encode(errors="surrogatepass")
    if path.suffix == ".jsonl" and rng.random() < 0.5:
        lines = whole.splitlines(keepends=True)
        place = rng.randrange(len(lines))
        record = json.dumps(mutators.tree(rng, json.loads(lines[place])), ensure_ascii=False)
        lines[place] = record.encode(errors="surrogatepass") + b"\n"
        return b"".join(lines)
    return mutators.raw(rng, whole)


def test_damaged_files_of_units(fuzz: Fuzz, base: Path, finished: Path) -> None:
    recipe, paths = parse(mini_run.settings(base, "unlearn.methods=[npo, prompting]")), files(finished)
    for rng in fuzz.rounds():
        path = rng.choice(paths)
        whole = path.read_bytes()
        content = damaged(rng, path, whole)
        if content == whole:
            continue
        write(path, content)
        name = path.relative_to(finished).as_posix()
        try:
            with fuzz.attempt((name, content)):
                pipeline = Pipeline(recipe, finished, progress=SilentProgress())
                for stage in ("data", "finetune", "unlearn", "evaluate", "score"):
                    getattr(pipeline, stage)()
                for model in pipeline.state.models:
                    pipeline.evaluations[pipeline.state.keys[0]].responses(model)
                if path.parent.name in pipeline.state.models:
                    use_model(pipeline.state, path.parent.name)
                if path.name not in UNUSED and (path.name != UNIT_FILE or parsed(content) != parsed(whole)):
                    fuzz.silent("a damaged file was taken", name)
        finally:
            write(path, whole)
            for leftover in finished.rglob("*.building"):
                shutil.rmtree(leftover)


def use_model(run: Run, model: str) -> None:
    """What the stages and the report read of a model that is made."""
    run.load(run.ref(run.keys[0], model))
    curve(run, run.keys[0], model)


def parsed(content: bytes) -> Any:
    """The value of a record: blanks that are lost between its parts are no damage."""
    return json.loads(content)


def test_damaged_records_that_are_in_no_unit(fuzz: Fuzz, base: Path, finished: Path) -> None:
    paths = [finished / RunFolder.RECORD, *finished.glob("eval/*/metrics.json"), *finished.glob("eval/*/gate.json")]
    for rng in fuzz.rounds():
        path = rng.choice(paths)
        whole = path.read_bytes()
        content = damaged(rng, path, whole)
        write(path, content)
        try:
            with fuzz.attempt((path.name, content)):
                if read_json(path, sealed=True) != read_sealed(whole):
                    fuzz.silent("another record was read", (path.name, content))
        finally:
            write(path, whole)


def read_sealed(whole: bytes) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(whole)
    del record["record_digest"]
    return record


def test_damaged_journals(fuzz: Fuzz, finished: Path, tmp_path: Path) -> None:
    """Of a journal only whole batches as they were written are read; the others are asked again."""
    lines = next(finished.glob("eval/*/npo/responses/responses.jsonl")).read_text(encoding="utf-8").splitlines()
    responses = [Response.model_validate_json(line) for line in lines]
    batches = [responses[place : place + 4] for place in range(0, len(responses), 4)]
    journal = Journal(tmp_path / "responses.partial.jsonl", Response)
    for rng in fuzz.rounds():
        journal.write(batches)
        content = mutators.raw(rng, journal.path.read_bytes())
        journal.path.write_bytes(content)
        with fuzz.attempt(content):
            if any(batch not in batches for batch in journal.batches()):
                fuzz.silent("a batch that was never written", content)


def test_bits_of_checkpoints(fuzz: Fuzz, tmp_path: Path) -> None:
    for rng, state in checkpoints(fuzz, tmp_path):
        path = tmp_path / "checkpoint.safetensors"
        whole = path.read_bytes()
        content = mutators.raw(rng, whole)
        path.write_bytes(content)
        notes: list[str] = []
        state.training.progress.note = notes.append  # type: ignore[method-assign]
        from mllmu.training.checkpoint import load_checkpoint

        with fuzz.attempt(content[:200]):
            if load_checkpoint(state) and content != whole and not notes:
                fuzz.silent("a damaged checkpoint was taken", content[:200])
        path.write_bytes(whole)


def checkpoints(fuzz: Fuzz, folder: Path) -> Iterator[tuple[Random, Any]]:
    """The rounds, each with a state whose checkpoint lies in the folder."""
    import torch

    from mllmu.training.checkpoint import save_checkpoint
    from mllmu.training.loop import Training, TrainingState

    weights = {"a": torch.nn.Parameter(torch.randn(8, 3)), "b": torch.nn.Parameter(torch.randn(5))}
    optimizer = torch.optim.AdamW(weights.values(), lr=0.1)
    training = Training(folder=folder, label="x", seed=0, progress=SilentProgress())
    state = TrainingState(training, weights, optimizer, {"weight": 0.5}, [{"step": 0, "loss": 1.5}])
    for weight in weights.values():
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    save_checkpoint(state, 7)
    for rng in fuzz.rounds():
        yield rng, state
