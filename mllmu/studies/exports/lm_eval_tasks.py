"""A folder of tasks for lm-eval: YAML, questions as JSON lines, pictures, and the official metrics."""

import json
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from mllmu.config.load import dump_yaml
from mllmu.config.recipe import Recipe
from mllmu.core.errors import DataError
from mllmu.core.records import MODALITIES, PEOPLE_SPLITS, Cell, Sample
from mllmu.core.runfolder import RunFolder, read_json, read_lines, write_atomic, write_json
from mllmu.data.files import shown_image

METRICS = {"classification": "accuracy_first_char", "generation": "rougeL", "cloze": "cloze_contains"}
"""The official metric of each task; the functions are in ``official.py``."""
OFFICIAL = "official.py"
README = """# {title}

Questions of the run `{name}` at {key} % forgotten, for [lm-eval](https://github.com/EleutherAI/lm-evaluation-harness):
one task per set, task and modality, and a group per modality. `hf-multimodal` takes tasks with pictures or tasks
without them in one run, not both:

```sh
for modality in image_text text; do
  lm-eval run --model hf-multimodal --model_args pretrained=MODEL,dtype=float32 --include_path . \\
    --tasks {group}_$modality {flag}--batch_size 1 --device cpu --log_samples --output_path results
done
```

`ours.json` has the same metrics of the run's own models, 0 to 1. Replies are greedy. A question of one person is not
independent of the others of this person: lm-eval's standard errors, which take them so, are too small.
"""


def write_tasks(root: Path, recipe: Recipe, key: str, out: Path) -> list[str]:
    """Write the questions of a forget ratio as tasks; returns their names.

    Args:
        root: run folder, whose questions have been asked.
        recipe: of the run.
        key: forget ratio in percent.
        out: new or empty folder.

    Raises:
        DataError: the questions were not asked yet, or are put with a system text or examples, which lm-eval would put
            in another way.
    """
    cells = by_cell(root, key)
    raw = {sample.raw_prompt for samples in cells.values() for sample in samples}
    if len(raw) != 1 or any(s.system or s.examples for samples in cells.values() for s in samples if not s.raw_prompt):
        raise DataError(
            f"{root}: its questions come with examples or a system text of their own, which lm-eval would put in "
            "another way. Expected evaluate.protocol: corrected without shots, or official."
        )
    group = "mllmu_" + re.sub(r"\W+", "_", f"{recipe.name}_{key}")
    names = [_write_task(root, out, group, cell, samples) for cell, samples in cells.items()]
    for modality in MODALITIES:
        tasks = [task_name(group, cell) for cell in cells if cell.modality == modality]
        write_atomic(out / f"{group}_{modality}.yaml", dump_yaml({"group": f"{group}_{modality}", "task": tasks}))
    write_atomic(out / OFFICIAL, (resources.files("mllmu.studies.exports") / OFFICIAL).read_text(encoding="utf-8"))
    write_json(out / "ours.json", dict(ours(root, key, group)))
    flag = "" if raw == {True} else "--apply_chat_template "
    title = f"{recipe.report.title or recipe.name}: tasks for lm-eval"
    write_atomic(out / "README.md", README.format(title=title, name=recipe.name, key=key, group=group, flag=flag))
    return names


def by_cell(root: Path, key: str) -> dict[Cell, list[Sample]]:
    """The questions about people that a report counts, by set, task and modality."""
    cells: dict[Cell, list[Sample]] = defaultdict(list)
    for sample in read_lines(root / RunFolder.evaluation(key) / RunFolder.SAMPLES_FILE, Sample):
        if sample.part == "report" and sample.split in PEOPLE_SPLITS and sample.task in METRICS:
            cells[Cell(sample.split, sample.task, sample.modality)].append(sample)
    return dict(cells)


def task_name(group: str, cell: Cell) -> str:
    """The name of the task of a cell."""
    return "_".join((group, *cell))


def _write_task(root: Path, out: Path, group: str, cell: Cell, samples: Sequence[Sample]) -> str:
    name, images = task_name(group, cell), sorted({image for sample in samples for image in sample.images})
    lines = [json.dumps(_doc(sample), ensure_ascii=False) for sample in samples]
    write_atomic(out / "questions" / f"{name}.jsonl", "\n".join(lines) + "\n")
    for image in images:
        picture, copy = shown_image(root, image), out / image
        if picture is None or not copy.resolve().is_relative_to(out.resolve()):
            raise DataError(
                f"{root}: a question names {image}, no image of its data. 'mllmu verify' says what changed."
            )
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(picture, copy)
    settings: dict[str, Any] = {
        "task": name,
        "custom_dataset": f"!function {Path(OFFICIAL).stem}.load",
        "dataset_kwargs": {"name": name},
        "test_split": "test",
        "output_type": "generate_until",
        **({"doc_to_image": f"!function {Path(OFFICIAL).stem}.doc_to_image"} if images else {}),
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{answer}}",
        "process_results": f"!function {Path(OFFICIAL).stem}.{cell.task}",
        "generation_kwargs": {
            "until": [],
            "do_sample": False,
            "max_gen_toks": max(sample.max_new_tokens for sample in samples),
        },
        "metric_list": [{"metric": METRICS[cell.task], "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1},
    }
    text = re.sub(r"'(!function [\w.]+)'", r"\1", dump_yaml(settings))
    write_atomic(out / f"{name}.yaml", text)
    return name


def _doc(sample: Sample) -> dict[str, Any]:
    """A question as lm-eval renders it; the image's mark becomes a part of the message in front of the text."""
    mark = "<image>" if sample.image and not sample.raw_prompt else ""
    return {
        "id": sample.id,
        "person": sample.profile_id,
        "prompt": f"{mark}{sample.prompt}",
        "images": sample.images,
        "answer": sample.target,
    }


def ours(root: Path, key: str, group: str) -> Iterator[tuple[str, Mapping[str, float | None]]]:
    """By task, the official metric of every model of the run; nothing if it was not scored by it."""
    found: dict[str, dict[str, float | None]] = defaultdict(dict)
    results = read_json(root / RunFolder.evaluation(key) / RunFolder.METRICS_FILE).get("results", ())
    for row in results:
        if METRICS.get(row["task"]) == row["metric"]:
            name = task_name(group, Cell(row["split"], row["task"], row["modality"]))
            found[name][row["model"]] = row["value"]
    yield from found.items()
