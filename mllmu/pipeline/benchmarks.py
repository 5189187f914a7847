"""The general benchmarks of a run as units: their questions and images, stored once and put to every model."""

import io
from collections.abc import Sequence

from mllmu.config.recipe import PluginSpec
from mllmu.core.content import content_digest
from mllmu.core.errors import DataError
from mllmu.core.names import is_hub_name
from mllmu.core.records import Sample
from mllmu.core.runfolder import RunFolder, Unit, dump_lines, intact, read_lines, unit_record, write_atomic, write_json
from mllmu.evaluation.benchmarks import Benchmark, Skipped
from mllmu.pipeline.data import same_elsewhere
from mllmu.pipeline.run import Run

ACCOUNT = "account.json"


def samples(run: Run) -> list[Sample]:
    """The questions of all general benchmarks of the recipe, in its order."""
    return [sample for spec in run.recipe.evaluate.benchmarks for sample in _of(run, spec)]


def built(spec: PluginSpec) -> Benchmark:
    """The benchmark of an entry of ``evaluate.benchmarks``."""
    benchmark: Benchmark = spec.build("benchmarks", "evaluate.benchmarks")
    return benchmark


def _of(run: Run, spec: PluginSpec) -> Sequence[Sample]:
    benchmark = built(spec)
    files = "" if is_hub_name(benchmark.path) or not benchmark.path.exists() else content_digest(benchmark.path)
    settings = benchmark.model_dump(mode="json")
    name, inputs = f"{RunFolder.BENCHMARKS}/{benchmark.name}", {"settings": settings, "files": files}
    made = unit_record(run.root / name).get("inputs", {})
    if made.get("files") and not run.store.force:  # the file may lie elsewhere now
        before = {"settings": made["settings"], "files": {made["settings"]["path"]: made["files"]}}
        now = {"settings": settings, "files": {settings["path"]: files} if files else {}}
        inputs = made if same_elsewhere(before, now) else inputs
    unit = run.store.unit(name, inputs)
    if not unit.done:
        with unit.making() as facts:
            facts |= _store(benchmark, unit, run)
    intact(unit.folder)  # images too
    return read_lines(unit.folder / RunFolder.SAMPLES_FILE, Sample)


def _store(benchmark: Benchmark, unit: Unit, run: Run) -> dict[str, int]:
    """Write the images as PNG, the samples that name them, and an account of what was left out."""
    kept: list[Sample] = []
    left_out: list[Skipped] = []
    name = benchmark.name
    for found in benchmark.read():
        if isinstance(found, Skipped):
            left_out.append(found)
            continue
        file = f"{len(kept):05d}.png"
        buffer = io.BytesIO()
        found.load().save(buffer, format="PNG")
        write_atomic(unit.building / file, buffer.getvalue())
        # images are looked up from the data folder, which stands beside this one
        kept.append(found.sample.model_copy(update={"image": f"../{unit.name}/{file}"}))
        if len(kept) == benchmark.num_questions:
            break
    if not kept:
        why = f" The first row left out: {left_out[0].reason}." if left_out else ""
        raise DataError(f"{benchmark.path.as_posix()}: no question of {name} can be asked.{why}")
    write_atomic(unit.building / RunFolder.SAMPLES_FILE, dump_lines(kept))
    account = {"asked": len(kept), "left_out": [skipped._asdict() for skipped in left_out]}
    write_json(unit.building / ACCOUNT, account)
    run.progress.note(f"{name}: {len(kept)} questions asked, {len(left_out)} left out ({unit.name}/{ACCOUNT})")
    return {"num_questions": len(kept), "num_left_out": len(left_out)}
