"""What we save and export is used by the tools that people have: chat templates, pipelines, PEFT, datasets, lm-eval."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline
from typer.testing import CliRunner

from mllmu.cli.app import app
from mllmu.config import load as recipes
from mllmu.core.errors import DataError
from mllmu.core.names import TARGET
from mllmu.core.records import MetricResult, ModelRef, Response, Sample
from mllmu.core.runfolder import dump_lines, read_json, read_lines
from mllmu.data import dataset
from mllmu.data.datasets_folder import write_folder
from mllmu.models.chat_forms import take_all_forms
from mllmu.models.families import Turn
from mllmu.models.loading import load, source_of
from mllmu.studies.exports import official
from mllmu.studies.exports.lm_eval_tasks import by_cell, task_name, write_tasks

SAMPLES, RESPONSES = "eval/forget_40/samples.jsonl", "eval/forget_40/target/responses/responses.jsonl"


@pytest.fixture(scope="module")
def exported(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The target of the finished run as a folder of its own."""
    out = tmp_path_factory.mktemp("exported") / "target"
    done = CliRunner().invoke(app, ["export-model", str(finished), "target", str(out)])
    assert done.exit_code == 0, done.output
    return out


def said(*content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": one} for one in content]


@pytest.mark.parametrize("where", ["shipped", "exported"])
def test_a_chat_template_takes_a_string_parts_several_pictures_and_a_system_message(where: str, exported: Path) -> None:
    processor = AutoProcessor.from_pretrained(source_of("tiny") if where == "shipped" else exported)
    text, picture = {"type": "text", "text": "Who is it?"}, {"type": "image", "image": Image.new("RGB", (64, 64))}
    write = processor.apply_chat_template
    assert write(said("Who is it?")) == write(said([text])) == "USER: Who is it?\n"
    assert write(said([picture, text])) == "USER: <image>\nWho is it?\n"
    system = [{"role": "system", "content": [{"type": "text", "text": "Be brief."}]}]
    assert write([*system, *said([picture, picture, text])]) == "Be brief.\nUSER: <image>\n<image>\nWho is it?\n"
    how = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
    two = write(said([picture, picture, text]), **how)
    assert two["pixel_values"].shape[0] == 2
    image_token = processor.tokenizer.convert_tokens_to_ids("<image>")
    assert (two["input_ids"] == image_token).sum() == 2 * 17


def test_what_the_template_writes_is_what_we_put(finished: Path, exported: Path) -> None:
    recipe = recipes.load(finished / "recipe.yaml")
    loaded = load(recipe.model, ModelRef(base=recipe.model.path), finished)
    image = min((finished / "data/images").glob("*_0.png"))
    ours = loaded.encoder.prompt(Turn(prompt="Who is it?", image=image))
    processor = AutoProcessor.from_pretrained(exported)
    parts = [{"type": "image", "image": str(image)}, {"type": "text", "text": "Who is it?"}]
    theirs = processor.apply_chat_template(said(parts), tokenize=True, return_dict=True, add_generation_prompt=True)
    assert list(theirs["input_ids"][0]) == list(ours)


def test_a_pipeline_asks_an_exported_model_with_a_conversation(finished: Path, exported: Path) -> None:
    sample = next(s for s in read_lines(finished / SAMPLES, Sample) if s.image and s.task == "cloze")
    expected = {r.sample_id: r.text for r in read_lines(finished / RESPONSES, Response)}[sample.id]
    ask = pipeline("image-text-to-text", model=str(exported), device="cpu", dtype=torch.float32)
    parts = [{"type": "image", "path": str(finished / "data" / sample.image)}, {"type": "text", "text": sample.prompt}]
    [reply] = ask(text=said(parts), max_new_tokens=sample.max_new_tokens, do_sample=False, return_full_text=False)
    assert reply["generated_text"].strip() == expected.strip()


class Writer:
    """A processor that has a chat template and nothing else."""

    def __init__(self, template: str) -> None:
        self.chat_template = template
        self._plain = AutoProcessor.from_pretrained(source_of("tiny"))

    def apply_chat_template(self, messages: Any, **how: Any) -> str:
        return str(self._plain.apply_chat_template(messages, chat_template=self.chat_template, **how))


TEXT_ONLY = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}|{% endfor %}"
PARTS_ONLY = (
    "{% for m in messages %}[{{ m['role'] }}] {% for p in m['content'] %}{% if p['type'] == 'image' %}<pic>"
    "{% else %}{{ p['text'] }}{% endif %}{% endfor %}|{% endfor %}"
)


@pytest.mark.parametrize(("template", "mark"), [(TEXT_ONLY, "<pic>\n"), (PARTS_ONLY, "<pic>")])
def test_a_template_that_takes_one_form_takes_both_afterwards(template: str, mark: str) -> None:
    processor = Writer(template)
    take_all_forms(processor, "<pic>")
    parts = [{"type": "image"}, {"type": "text", "text": "Who?"}]
    messages = [{"role": "system", "content": "Brief."}, *said(parts, "And?")]
    assert processor.apply_chat_template(messages) == f"[system] Brief.|[user] {mark}Who?|[user] And?|"
    changed = processor.chat_template
    take_all_forms(processor, "<pic>")
    assert processor.chat_template == changed


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT reads what transformers is about to rename
def test_peft_opens_an_adapter_and_finds_the_same_logits(base: Path, finished: Path) -> None:
    peft = pytest.importorskip("peft")
    ref = ModelRef.model_validate_json((finished / "models/target/model.json").read_text())
    assert len(ref.adapters) == 1
    own = load(recipes.load(finished / "recipe.yaml").model, ref, finished).model
    bare = AutoModelForImageTextToText.from_pretrained(base, attn_implementation="eager")
    theirs = peft.PeftModel.from_pretrained(bare, finished / ref.adapters[0]).eval()
    tokens = torch.arange(5, 25)[None]
    with torch.no_grad():
        torch.testing.assert_close(theirs(input_ids=tokens).logits, own(input_ids=tokens).logits, atol=1e-4, rtol=1e-4)


def test_a_data_folder_is_read_by_load_dataset_and_taught_by_messages(
    finished: Path, exported: Path, tmp_path: Path
) -> None:
    datasets = pytest.importorskip("datasets", reason="pip install datasets")
    data = dataset.load(finished / "data")
    counts = write_folder(data, tmp_path / "folder", title="Mini: people", source="synthetic", seed=0)
    cache = str(tmp_path / "cache")
    questions = datasets.load_dataset(str(tmp_path / "folder"), "questions", cache_dir=cache)
    assert {name: len(split) for name, split in questions.items()} == {
        variant: sum(q.variant == variant for q in data.questions) for variant in ("train", "eval", "test")
    }
    people = datasets.load_dataset(str(tmp_path / "folder"), "people", split="train", cache_dir=cache)
    assert people["id"][:] == [profile.id for profile in data.profiles]
    assert counts["people/people"] == len(people)
    row = next(row for row in questions["eval"] if row["task"] == "classification" and row["images"])
    question = next(q for q in data.questions if q.id == row["id"])
    assert row["choices"] == [f"{letter}: {value}" for letter, value in sorted(question.options.items())]
    assert row["forgotten_at"] == (["40"] if question.profile_id in data.splits["40"] else [])
    shown = Image.open(finished / "data" / dataset.image_path(question.profile_id))
    assert row["images"][0].tobytes() == shown.tobytes()
    processor = AutoProcessor.from_pretrained(exported)
    text = processor.apply_chat_template(row["messages"])
    assert text.startswith(f"USER: <image>\n{question.text}") and text.rstrip().endswith(
        f"ASSISTANT: {row['answer']}</s>"
    )
    batch = processor(images=row["images"], text=text, return_tensors="pt")
    assert batch["pixel_values"].shape[0] == 1


def test_the_official_functions_give_our_metrics(finished: Path) -> None:
    samples = {s.id: s for s in read_lines(finished / SAMPLES, Sample)}
    by_metric = {"accuracy_first_char": official.classification, "rougeL": official.generation}
    by_metric |= {"cloze_contains": official.cloze}
    seen = set()
    for line in (finished / "eval/forget_40/npo/scores/scores.jsonl").read_text().splitlines():
        score = json.loads(line)
        if score["metric"] in by_metric and score.get("value") is not None:
            sample = samples[score["sample_id"]]
            replies = read_lines(finished / "eval/forget_40/npo/responses/responses.jsonl", Response)
            reply = next(r.text for r in replies if r.sample_id == sample.id)
            found = by_metric[score["metric"]]({"answer": sample.target}, [reply])
            assert found == {score["metric"]: pytest.approx(score["value"])}
            seen.add(score["metric"])
    assert seen == set(by_metric)


def test_tasks_for_lm_eval_hold_every_question_that_a_report_counts(finished: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["export-tasks", str(finished), str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    out, cells = tmp_path / "out", by_cell(finished, "40")
    for modality in ("image_text", "text"):
        group = yaml.safe_load((out / f"mllmu_mini_40_{modality}.yaml").read_text())
        tasks = [task_name("mllmu_mini_40", cell) for cell in cells if cell.modality == modality]
        assert tasks and group == {"group": f"mllmu_mini_40_{modality}", "task": tasks}
    written = [json.loads(line) for path in (out / "questions").iterdir() for line in path.read_text().splitlines()]
    counted = [s for s in read_lines(finished / SAMPLES, Sample) if s.part == "report"]
    assert {doc["id"] for doc in written} == {s.id for s in counted}
    assert {tuple(doc["images"]) for doc in written} == {(s.image,) if s.image else () for s in counted}
    doc = next(doc for doc in written if doc["images"])
    assert doc["prompt"].startswith("<image>") and official.__file__
    assert (out / "official.py").read_text() == Path(official.__file__).read_text()
    text = (out / f"{group['task'][0]}.yaml").read_text()
    assert "custom_dataset: !function official.load" in text
    ours = json.loads((out / "ours.json").read_text())
    assert set(ours[group["task"][0]]) >= {"target", "retain_model", "npo"}
    refused = CliRunner().invoke(app, ["export-tasks", str(finished), str(tmp_path / "x"), "--ratio", "41"])
    assert refused.exit_code == 2 and "no evaluation at 41 %" in refused.output


@pytest.mark.parametrize("image", ["../recipe.yaml", "../../../secret.png", "/etc/hostname"])
def test_tasks_take_no_file_from_outside_of_the_data(finished: Path, tmp_path: Path, image: str) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    Image.new("RGB", (4, 4)).save(tmp_path.parent / "secret.png")
    samples = read_lines(run / SAMPLES, Sample)
    (run / SAMPLES).write_text(dump_lines([samples[0].model_copy(update={"image": image}), *samples[1:]]))
    with pytest.raises(DataError, match="no image of its data"):
        write_tasks(run, recipes.load(run / "recipe.yaml"), "40", tmp_path / "out")
    assert not list(tmp_path.rglob("secret.png"))


@pytest.mark.peer
def test_lm_eval_finds_the_same_replies_and_accuracies(finished: Path, exported: Path, tmp_path: Path) -> None:
    compare_with_lm_eval(environment_with(tmp_path, "lm_eval==0.4.13"), finished, exported, tmp_path)


def environment_with(folder: Path, requirement: str) -> Path:
    """The Python of an environment of its own that has a tool beside what is installed here."""
    venv.create(folder / "env", with_pip=True)
    [site] = (folder / "env/lib").glob("python*/site-packages")
    (site / "shared.pth").write_text(next(path for path in sys.path if path.endswith("site-packages")))
    python = folder / "env/bin/python"
    constraints = Path(__file__).parents[2] / "constraints/cpu.txt"
    subprocess.run([python, "-m", "pip", "install", "-q", "-c", constraints, requirement], check=True, timeout=1200)
    return python


TEACH = """
import sys
import datasets
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import SFTConfig, SFTTrainer

model, folder, out = sys.argv[1:]
rows = datasets.load_dataset(folder, "questions", split="train", cache_dir=out + "/cache")
rows = rows.filter(lambda row: bool(row["images"])).select(range(4)).select_columns(["messages", "images"])
processor = AutoProcessor.from_pretrained(model)
how = SFTConfig(output_dir=out, max_steps=2, per_device_train_batch_size=2, use_cpu=True, report_to=[], max_length=None,
                logging_steps=1, save_strategy="no", learning_rate=1e-3, bf16=False, gradient_checkpointing=False)
base = AutoModelForImageTextToText.from_pretrained(model)
trainer = SFTTrainer(base, how, train_dataset=rows, processing_class=processor)
batch = trainer.data_collator([rows[0], rows[1]])
print("READ", repr(processor.tokenizer.decode(batch["input_ids"][0])), len(batch["pixel_values"]))
trainer.train()
print("LOSSES", *(log["loss"] for log in trainer.state.log_history if "loss" in log))
"""


@pytest.mark.peer
def test_trl_teaches_a_shipped_model_on_a_conversational_data_set(finished: Path, tmp_path: Path) -> None:
    """The exported data folder as it is: one picture's tokens, the question, the reply, and a loss that falls."""
    python = environment_with(tmp_path, "trl==1.16.0")
    data = dataset.load(finished / "data")
    write_folder(data, tmp_path / "folder", title="Mini: people", source="synthetic", seed=0)
    command = [python, "-c", TEACH, source_of("tiny"), tmp_path / "folder", tmp_path / "out"]
    done = subprocess.run(list(map(str, command)), check=True, timeout=1200, capture_output=True, text=True)
    read = next(line for line in done.stdout.splitlines() if line.startswith("READ "))
    assert read.startswith('READ "USER: ' + 17 * "<image>" + "\\nWhat") and read.endswith('</s>" 2')
    first, second = map(float, next(ln for ln in done.stdout.splitlines() if ln.startswith("LOSSES")).split()[1:])
    assert second < first


def ask_with_lm_eval(python: Path, model: Path, folder: Path, names: list[str]) -> None:
    """Let lm-eval ask a model the questions of some tasks."""
    command = [python, "-m", "lm_eval", "run", "--model", "hf-multimodal", "--include_path", folder / "tasks"]
    command += ["--model_args", f"pretrained={model},dtype=float32", "--tasks", ",".join(names), "--batch_size", "1"]
    command += ["--apply_chat_template", "--device", "cpu", "--log_samples", "--output_path", folder / "results"]
    subprocess.run(list(map(str, command)), check=True, timeout=3600, cwd=folder)


def compare_with_lm_eval(python: Path, root: Path, model: Path, folder: Path) -> None:
    """Ask an exported target with lm-eval, and compare replies and accuracies with those of its run."""
    [key] = [path.name.removeprefix("forget_") for path in (root / "eval").iterdir()]
    recipe = recipes.load(root / "recipe.yaml")
    names = write_tasks(root, recipe, key, folder / "tasks")
    for seen in (True, False):  # hf-multimodal takes tasks with pictures or tasks without them in one run
        ask_with_lm_eval(python, model, folder, [name for name in names if name.endswith("_image_text") == seen])
    replies = {}
    for path in (folder / "results").rglob("samples_*.jsonl"):
        for line in map(json.loads, path.read_text().splitlines()):
            replies[line["doc"]["id"]] = line["filtered_resps"][0]
    responses = read_lines(root / f"eval/forget_{key}/{TARGET}/responses/responses.jsonl", Response)
    expected = {r.sample_id: r.text.strip() for r in responses}
    assert replies
    assert {name: reply.strip() for name, reply in replies.items()} == {name: expected[name] for name in replies}
    found: dict[str, Any] = {}
    for path in (folder / "results").rglob("results_*.json"):
        found |= json.loads(path.read_text())["results"]
    assert set(found) >= set(names)
    results = [
        MetricResult.model_validate(row) for row in read_json(root / f"eval/forget_{key}/metrics.json")["results"]
    ]
    for cell in by_cell(root, key):
        if cell.task == "classification":
            ours = next(r.value for r in results if (r.model, r.metric, r.split, r.task, r.modality)
                        == (TARGET, "accuracy_first_char", *cell))  # fmt: skip
            name = next(name for name in names if name.endswith("_".join(cell)))
            assert found[name]["accuracy_first_char,none"] == pytest.approx(ours)


def test_inspect_reads_the_logs_of_a_run(finished: Path, tmp_path: Path) -> None:
    log = pytest.importorskip("inspect_ai.log", reason="needs the extra 'inspect'")
    done = CliRunner().invoke(app, ["export-tasks", str(finished), str(tmp_path / "out"), "--for", "inspect"])
    assert done.exit_code == 0, done.output
    read = log.read_eval_log(str(tmp_path / "out/forget_40_npo.eval"))
    replies = read_lines(finished / "eval/forget_40/npo/responses/responses.jsonl", Response)
    expected = {r.sample_id: r.text for r in replies}
    assert read.status == "success"
    assert {s.id: s.output.completion for s in read.samples} == {s.id: expected[s.id] for s in read.samples}
    assert any(
        sample.scores["accuracy"].value in (0.0, 1.0, "N") for sample in read.samples if "accuracy" in sample.scores
    )
