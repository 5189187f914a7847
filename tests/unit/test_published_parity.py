"""`mllmu evaluate --model ... --protocol official` against a plain second writing of the published evaluator.

The second writing knows nothing of the package: pandas rows, one prompt at a time, sums in plain variables.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers_models import Watcher
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from PIL import Image
from rouge_score import rouge_scorer
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from mllmu.cli.evaluate import parse_batch_size, parse_shots, parse_test_image
from mllmu.config import load as recipes
from mllmu.config.recipe import ModelSection
from mllmu.core.errors import DataError, MllmuError, ModelError, RecipeError, RunStoreError
from mllmu.core.process import SilentProgress
from mllmu.core.records import ModelRef, Question, Response
from mllmu.core.runfolder import Journal, RunFolder, read_lines
from mllmu.data import dataset
from mllmu.data.dataset import Dataset
from mllmu.data.published.export import export
from mllmu.data.published.sets import write_sets
from mllmu.data.questions import QuestionOrder
from mllmu.data.questions.template import build
from mllmu.data.sources.celebrities import Celebrities
from mllmu.data.sources.synthetic import Synthetic
from mllmu.models.loading import source_of
from mllmu.pipeline.evaluate import PARTIAL, Evaluation
from mllmu.pipeline.published import MODEL, PublishedRun, SavedModel, evaluate_published, json_line, model_at

RESPONSES, METRICS = RunFolder.RESPONSES_FILE, RunFolder.METRICS_FILE

KEPT = {"classification": 2, "cloze": 2, "generation": 1}
"""Questions of a person, task and modality that the test keeps, so that it takes seconds."""
FORGOTTEN = ["002", "007", "011"]
SHOTS = {"classification": ["011", "001"], "cloze": ["007", "002", "003", "c001"]}
BY_SET = {
    "classification": {"forget": ["007"], "test": ["002"], "retain": ["003"]},
    "cloze": {"forget": ["011", "002"], "test": ["007"], "retain": ["004"]},
}
VIEWS = {
    "classification": {"002": 0, "007": 1, "011": 0},
    "cloze": {"002": 1, "007": 0, "011": 0},
    "generation": {"002": 0, "007": 0, "011": 1},
}
"""Examples by task and set, and images by task and person, as the published evaluator draws them."""
RETAINED = ("001", "003", "004")
VIEW = 1


def thinned(questions: list[Question]) -> list[Question]:
    """Few questions, one of them with traps for a reader that is not literal."""
    kept: dict[tuple[str, ...], int] = {}
    result = []
    for q in questions:
        key = (q.profile_id, q.variant, q.task, q.modality)
        kept[key] = kept.get(key, 0) + 1
        if kept[key] <= KEPT[q.task]:
            result.append(q)
    trap = next(i for i, q in enumerate(result) if q.task == "generation" and q.profile_id == "004")
    result[trap] = result[trap].model_copy(update={"text": "What does ASSISTANT: __ mean to this person?"})
    return result


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("published")
    everybody, stars = Synthetic(num_people=12).profiles(0), Celebrities(num_people=6).profiles(0)
    people, famous = [p for p in everybody if p.id in {*FORGOTTEN, *RETAINED}], stars[:2]
    ids = {p.id for p in [*people, *famous]}
    built = build(everybody, QuestionOrder(seed=0, train_wordings=1)) + build(
        stars, QuestionOrder(seed=0, variants=("eval",))
    )
    questions = thinned([q for q in built if q.profile_id in ids])
    # the test set asks one question more than Full_Set knows, so places in the lists matter
    extra = next(q for q in questions if q.profile_id == "011" and q.variant == "test" and q.task == "cloze")
    questions.append(extra.model_copy(update={"id": "011.test.cloze.more", "text": f"Again: {extra.text}"}))
    (root / "images").mkdir()
    for n, person in enumerate([*people, *famous]):
        for suffix in ("", "_1", "_2"):
            mandelbrot = Image.effect_mandelbrot((80, 64 + n), (-2, -1.5, 1, 1 + n / 4 + len(suffix)), 30)
            mandelbrot.convert("RGB").save(root / "images" / f"{person.id}{suffix or '_0'}.png")
    splits = {"5": list(FORGOTTEN), "10": list(FORGOTTEN), "15": list(FORGOTTEN)}
    export(Dataset(root, [*people, *famous], questions, splits), root / "parquet")
    return root / "parquet"


def saved(parquet: Path, **changes: Any) -> SavedModel:
    settings = {
        "model": ModelSection(path="tiny", device="cpu"),
        "ref": ModelRef(base="tiny"),
        "root": Path(),
        "data": parquet,
        "ratio": 5,
        "shots": SHOTS,
        "test_image": VIEW,
    }
    return SavedModel(**(settings | changes))


@pytest.fixture(scope="module")
def ours(parquet: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ours")
    evaluate_published(saved(parquet), out, SilentProgress())
    return out


class Evaluator:
    """The published evaluator once more, straight on, with its random draws handed in."""

    def __init__(self, root: Path, model: Path, *, by_set: bool = False) -> None:
        self.root = root
        self.by_set = by_set
        self.model = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32).eval()
        self.processor = AutoProcessor.from_pretrained(model)
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.full = self.frame("Full_Set")
        self.replies: list[tuple[str, str, str, str, str]] = []

    def frame(self, config: str) -> pd.DataFrame:
        return pd.concat([pd.read_parquet(path) for path in sorted((self.root / config).iterdir())], ignore_index=True)

    def say(self, prompt: str, images: list[Image.Image] | None) -> str:
        if images is None:
            inputs = self.tokenizer(prompt, return_tensors="pt")
        else:
            inputs = self.processor(images=images, text=prompt, return_tensors="pt")
        with torch.no_grad():
            ids = self.model.generate(**inputs, max_new_tokens=50, do_sample=False)
        whole = self.tokenizer.decode(ids[0][2:], skip_special_tokens=True)
        assert "ASSISTANT:" in whole
        return whole.split("ASSISTANT:")[1].strip()

    def image(self, row: Any, task: str) -> Image.Image:
        view = VIEWS[task][row["ID"]] if self.by_set and "images" in row else VIEW
        cell = row["images"][view] if "images" in row else row["image"]
        return Image.open(BytesIO(cell["bytes"])).convert("RGB")

    def keep(self, name: str, task: str, row: Any, question: str, reply: str) -> None:
        self.replies.append((name, task, row["ID"], question, reply))

    def letters(self, name: str, rows: pd.DataFrame, shot_ids: list[str]) -> dict[str, float]:
        shot_rows = [row for _, row in self.full.iterrows() if row["ID"] in shot_ids]
        numbers = {}
        for group, title, mark in (
            ("Image_Textual_Questions", "Image-Textual Question Accuracy", " <image>"),
            ("Pure_Text_Questions", "Pure Text Question Accuracy", ""),
        ):
            examples, images = "", []
            for shot in shot_rows:
                for q in shot["Classification_Task"][group]:
                    o = q["Options"]
                    examples += f"USER:{mark}\nQuestion: {q['Question']}\nA: {o['A']}\nB: {o['B']}\nC: {o['C']}\n"
                    examples += f"D: {o['D']}\nCorrect Answer: {q['Correct_Answer']}\n"
                    images.append(self.image(shot, "classification"))
            right = total = 0
            for _, row in rows.iterrows():
                for place, q in enumerate(row["Classification_Task"][group]):
                    known = [s for s in shot_rows if s["ID"] == row["ID"]]
                    if known and place < len(known[0]["Classification_Task"][group]):
                        continue
                    text = "\n".join([q["Question"], *(f"{k}: {v}" for k, v in q["Options"].items())])
                    prompt = f"{examples}USER:{mark}\n{text}\nJust give ONE letter representing the answer directly."
                    reply = self.say(
                        prompt + "\nASSISTANT:", [*images, self.image(row, "classification")] if mark else None
                    )
                    self.keep(name, "classification", row, q["Question"], reply)
                    right += (
                        bool(reply) and reply[0].upper() in q["Options"] and reply[0].upper() == q["Correct_Answer"]
                    )
                    total += 1
            numbers[title] = 100 * right / total if total else 0
        return numbers

    def blanks(self, name: str, rows: pd.DataFrame, shot_ids: list[str]) -> dict[str, float]:
        def put(q: Any) -> str:
            wish = "\nPlease **ONLY** provide the correct answer that should replace the [Blank]."
            return q["Question"].replace("__", "[Blank]") + wish

        shot_rows = [row for _, row in self.full.iterrows() if row["ID"] in shot_ids]
        numbers = {}
        for kind, title in (("Image_Textual", "image_textual_accuracy"), ("Pure_Text", "pure_text_accuracy")):
            has_image = kind == "Image_Textual"
            examples, images = "", []
            for shot in shot_rows:
                for q in shot["Mask_Task"]:
                    if q["Type"] == kind:
                        examples += (
                            f"USER:{'<image>' if has_image else ''}\n{put(q)}\nCorrect Answer: {q['Ground_Truth']}\n"
                        )
                        images.append(self.image(shot, "cloze"))
            right = total = 0
            for _, row in rows.iterrows():
                used = [s["Mask_Task"] for s in shot_rows if s["ID"] == row["ID"]]
                for place, q in enumerate(row["Mask_Task"]):
                    if q["Type"] != kind:
                        continue
                    if used and place < len(used[0]) and used[0][place]["Type"] == kind:
                        continue
                    prompt = f"{examples}USER:{' <image>' if has_image else ''}\n{put(q)}\nASSISTANT:"
                    reply = self.say(prompt, [*images, self.image(row, "cloze")] if has_image else None)
                    self.keep(name, "cloze", row, q["Question"], reply)
                    right += q["Ground_Truth"].lower() in reply.lower()
                    total += 1
            numbers[title] = 100 * right / total if total else 0
        return numbers

    def sentences(self, name: str, rows: pd.DataFrame) -> dict[str, float]:
        scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
        numbers = {}
        for kind in ("Image_Textual", "Pure_Text"):
            sums, total = {"ROUGE-1": 0.0, "ROUGE-2": 0.0, "ROUGE-L": 0.0, "BLEU": 0.0}, 0
            for _, row in rows.iterrows():
                for q in row["Generation_Task"]:
                    if q["Type"] != kind:
                        continue
                    wish = "Answer the question based on your trained knowledge in one sentence"
                    if kind == "Image_Textual":
                        prompt = f"USER: <image>\n{q['Question']}\n{wish} accurately in ENGLISH.\nASSISTANT: "
                        reply = self.say(prompt, [self.image(row, "generation")])
                    else:
                        reply = self.say(f"USER: {q['Question']}\n{wish} in ENGLISH.\nASSISTANT:", None)
                    self.keep(name, "generation", row, q["Question"], reply)
                    marks = scorer.score(q["Ground_Truth"], reply)
                    for key, mark in (("ROUGE-1", "rouge1"), ("ROUGE-2", "rouge2"), ("ROUGE-L", "rougeL")):
                        sums[key] += marks[mark].fmeasure
                    truth = [q["Ground_Truth"].split()]
                    smooth = SmoothingFunction().method1
                    sums["BLEU"] += sentence_bleu(truth, reply.split(), smoothing_function=smooth)
                    total += 1
            numbers |= {f"Average {key} ({kind})": value / total for key, value in sums.items() if total}
        return numbers

    def everything(self) -> dict[str, Any]:
        forget = self.frame("forget_5")
        test = self.frame("Test_Set")
        sets = {
            "Forget Set Results": ("forget", forget),
            "Test Set Results": ("test", test[test["ID"].isin(forget["ID"])]),
            "Retain Set (shared dataset) Results": ("retain", self.frame("retain_95")),
            "Retain Set (real person) Results": ("celebrity", self.frame("Retain_Set")),
        }
        found = {}
        for title, (name, rows) in sets.items():
            here = set(rows["ID"])
            listed = {task: ids.get(name, []) for task, ids in BY_SET.items()} if self.by_set else SHOTS
            shots = {task: [i for i in ids if i in here] for task, ids in listed.items()}
            found[title] = {
                "fill_in_the_blank": self.blanks(name, rows, shots["cloze"]),
                "classification": self.letters(name, rows, [] if name == "celebrity" else shots["classification"]),
                "generation": self.sentences(name, rows),
            }
        return found


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / RESPONSES).read_text(encoding="utf-8").splitlines()]


@pytest.mark.filterwarnings("ignore:The hypothesis contains:UserWarning")
@pytest.mark.parametrize("by_set", [False, True])
def test_replies_and_scores_are_those_of_the_published_evaluator(
    parquet: Path, ours: Path, tmp_path: Path, *, by_set: bool
) -> None:
    theirs = Evaluator(parquet, Path(source_of("tiny")), by_set=by_set)
    expected, out = theirs.everything(), ours
    if by_set:
        out = tmp_path
        evaluate_published(saved(parquet, shots=BY_SET, test_image=VIEWS), out, SilentProgress())
    got = json.loads((out / METRICS).read_text(encoding="utf-8"))
    said = [(r["set"], r["task"], r["person_id"], r["question"], r["reply"]) for r in lines(out)]
    assert sorted(said) == sorted(theirs.replies)
    assert len({reply for *_, reply in said}) > 20, "the replies must vary, or equality proves little"
    assert got["published_layout"].keys() == expected.keys()
    for title, tasks in expected.items():
        for task, numbers in tasks.items():
            assert got["published_layout"][title][task] == pytest.approx(numbers, rel=0, abs=1e-9), (title, task)


@pytest.mark.parametrize("batch_size", [7, "auto"])
def test_prompts_read_together_get_the_replies_of_prompts_read_alone(
    parquet: Path, ours: Path, tmp_path: Path, batch_size: Any
) -> None:
    evaluate_published(saved(parquet, batch_size=batch_size), tmp_path, SilentProgress())
    assert (tmp_path / "responses.jsonl").read_bytes() == (ours / "responses.jsonl").read_bytes()
    assert (
        json.loads((tmp_path / "metrics.json").read_text())["results"]
        == json.loads((ours / "metrics.json").read_text())["results"]
    )


@pytest.mark.parametrize("text", ["0", "-1", "many", "1e3", "100001"])
def test_a_batch_size_that_is_none_is_named(text: str) -> None:
    with pytest.raises(MllmuError, match=rf"--batch-size {text}: expected a number from 1 to 100000, or auto"):
        parse_batch_size(text)


def test_example_people_are_skipped_in_their_set_and_their_task_alone(ours: Path) -> None:
    asked = {(r["set"], r["task"], r["person_id"]) for r in lines(ours)}
    for name in ("forget", "test"):
        assert (name, "classification", "011") not in asked and (name, "cloze", "011") in asked
        assert (name, "cloze", "007") not in asked and (name, "generation", "007") in asked
    assert ("retain", "classification", "001") not in asked and ("retain", "cloze", "003") not in asked
    assert ("celebrity", "cloze", "c001") in asked, "an example person is looked up in Full_Set, which has no celebrity"


def test_the_question_beyond_those_of_the_example_person_is_asked(parquet: Path, tmp_path: Path) -> None:
    model = saved(parquet, shots={"cloze": ["011"]})
    write_sets(parquet, 5, tmp_path / RunFolder.DATA, test_image=0)
    asked = Evaluation(PublishedRun(model.recipe, tmp_path, SilentProgress()), "5").render()
    questions = {q.id: q.text for q in dataset.load(tmp_path / RunFolder.DATA).questions}
    samples = [s for s in asked if s.split == "test" and s.task == "cloze" and s.profile_id == "011"]
    texts = [questions[sample.question_id] for sample in samples]
    # places 0-1 and 2-3 of Full_Set are with image and by name; the test set has 0-2 and 3-4
    assert len(texts) == 2 and texts[0].startswith("Again: ")


def test_a_stopped_evaluation_goes_on_and_gives_the_same_bytes(parquet: Path, ours: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(ours, out)
    unit = out / RunFolder.evaluation("5") / MODEL
    (responses,) = (path.parent for path in unit.rglob(RESPONSES))
    building = responses.with_name(f".{responses.name}.building")
    building.mkdir()
    inputs = json.loads((responses / "unit.json").read_text(encoding="utf-8"))["inputs"]
    (building / "inputs.json").write_text(json.dumps(inputs), encoding="utf-8")
    journal = Journal(building / PARTIAL, Response)
    journal.write([response] for response in read_lines(responses / RESPONSES, Response)[:-2])
    with journal.path.open("a", encoding="utf-8") as file:
        file.write('0123456789abcdef [{"sample_id": "cut sho')
    for folder in (responses, *unit.glob("scores")):
        shutil.rmtree(folder)
    for name in (RESPONSES, METRICS):
        (out / name).unlink()
    evaluate_published(saved(parquet), out, SilentProgress())
    for name in (RESPONSES, METRICS):
        assert (out / name).read_bytes() == (ours / name).read_bytes()
    assert not building.exists()


def test_a_folder_with_replies_to_other_questions_is_refused(parquet: Path, ours: Path) -> None:
    with pytest.raises(RunStoreError, match=r"test_image was 1, is now 0.*--force"):
        evaluate_published(saved(parquet, test_image=0), ours, SilentProgress())


def test_a_row_without_the_questions_of_a_task_is_refused(parquet: Path, tmp_path: Path) -> None:
    root = shutil.copytree(parquet, tmp_path / "parquet")
    (shard,) = (root / "forget_5").iterdir()
    table = pq.read_table(shard)
    column = table.schema.get_field_index("Mask_Task")
    gone = pa.array([None, *table["Mask_Task"].to_pylist()[1:]], type=table.schema.field(column).type)
    pq.write_table(table.set_column(column, table.schema.field(column), gone), shard)
    with pytest.raises(DataError, match="forget_5: row 0: a task has no list of questions"):
        evaluate_published(saved(root), tmp_path / "out", SilentProgress())


def test_a_prompt_over_the_context_names_the_sample_and_writes_no_numbers(parquet: Path, tmp_path: Path) -> None:
    base = tmp_path / "short"
    base.mkdir()
    for file in Path(source_of("tiny")).iterdir():
        (base / file.name).symlink_to(file)
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    config["text_config"]["max_position_embeddings"] = 100
    (base / "config.json").unlink()
    (base / "config.json").write_text(json.dumps(config), encoding="utf-8")
    fault = r"sample \w+/\S+: the prompt has \d\d\d tokens \(\d images\), the model's context is 100"
    with pytest.raises(ModelError, match=fault):
        evaluate_published(saved(parquet, ref=ModelRef(base=str(base))), tmp_path / "out", SilentProgress())
    assert not list((tmp_path / "out").rglob(RESPONSES)) and not list((tmp_path / "out").rglob(METRICS))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shots": {"cloze": ["01"]}}, r"nobody with the ID '01' .* Did you mean '011'"),
        ({"test_image": 7}, r"has 2 images, asked for index 7"),
        ({"ratio": 7}, r"no config forget_7 and retain_93; forget ratios there: 5, 10, 15\. Expected the folder"),
        ({"data": Path("nowhere")}, r"^nowhere: no such folder\. Expected the folder of the published configs"),
        (
            {"shots": {"cloze": {"forget": ["003"], "retain": ["001"]}}},
            r"shots\.cloze\.forget: '003' is not among the 3 people of this set, but in retain\.",
        ),
        ({"test_image": {"002": 0, "007": 1}}, r"test_image: no image is named for person 011 in classification"),
        ({"test_image": {"002": 0, "007": 1, "011": 5}}, r"test_image: 5 asked for, but person 011 has 2"),
        ({"processor": "/no/such/folder"}, r"^--processor: '/no/such/folder' cannot be loaded: "),
    ],
)
def test_what_is_not_in_the_files_is_said(parquet: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MllmuError, match=message):
        evaluate_published(saved(parquet, **changes), tmp_path, SilentProgress())


def test_a_set_without_any_of_the_listed_people_is_said_to_have_no_examples(parquet: Path, tmp_path: Path) -> None:
    watcher = Watcher()
    settings = {"shots": {"cloze": ["001"], "classification": {"test": ["002"]}}, "test_image": {"002": 0}}
    with pytest.raises(MllmuError, match="no image is named for person 007"):
        evaluate_published(saved(parquet, **settings), tmp_path, watcher)
    said = [note.partition(",")[0] for note in watcher.notes]
    assert said == [
        f"--shots {task}: no listed person is in the set '{name}'"
        for task, name in [
            ("cloze", "forget"),
            ("cloze", "test"),
            ("classification", "forget"),
            ("classification", "retain"),
        ]
    ]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_model_is_read_in_the_precision_of_the_published_script(tmp_path: Path, dtype: str) -> None:
    model = saved(tmp_path, model=ModelSection(path="tiny", device="cpu", dtype=dtype))
    loaded = PublishedRun(model.recipe, tmp_path, SilentProgress()).load(model.ref)
    assert loaded.model.dtype == getattr(torch, dtype)


def test_float16_is_for_saved_models_alone(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("{name: x, model: {dtype: float16}}")
    with pytest.raises(RecipeError, match=r"float16 loses small gradients\. Use bfloat16 or float32 for a run"):
        recipes.load(tmp_path / "r.yaml")


def test_a_processor_from_another_folder_gives_the_same_prompts(tmp_path: Path) -> None:
    base, own = tmp_path / "base", tmp_path / "processor"
    shutil.copytree(source_of("tiny"), base)
    own.mkdir()
    for file in base.iterdir():
        if file.name not in ("config.json", "generation_config.json") and file.suffix != ".safetensors":
            file.rename(own / file.name)
    model = saved(tmp_path, ref=ModelRef(base=str(base)), processor=str(own))
    run = PublishedRun(model.recipe, tmp_path, SilentProgress())
    with pytest.raises(ModelError, match=r"base: no processor can be loaded from there: .*by --processor"):
        run.load(model.ref)
    run.processor = model.processor
    tokenizer = AutoTokenizer.from_pretrained(source_of("tiny"))
    assert run.load(model.ref).encoder.processor.tokenizer("a b")["input_ids"] == tokenizer("a b")["input_ids"]


def test_examples_and_images_are_read_from_the_command_line(tmp_path: Path) -> None:
    listed = ["cloze=003, 017", "cloze=021", "test.classification=003", "retain.classification=005,006"]
    assert parse_shots(listed) == {
        "cloze": ["003", "017", "021"],
        "classification": {"test": ["003"], "retain": ["005", "006"]},
    }
    (tmp_path / "views.json").write_text(json.dumps(VIEWS))
    assert parse_test_image(str(tmp_path / "views.json")) == VIEWS
    assert parse_test_image("2") == 2
    for text in ("[1]", "{}", '{"003": -1}', '{"003": true}', '{"cloze": {"003": "1"}}', "{", '{"003": null}'):
        (tmp_path / "views.json").write_text(text)
        with pytest.raises(MllmuError, match=r"^--test-image .*Expected an index from 0 up, or a JSON file"):
            parse_test_image(str(tmp_path / "views.json"))
    with pytest.raises(MllmuError, match=r"--test-image -1: No such file"):
        parse_test_image("-1")
    for wrong, hint in [("tests.cloze=1", "test.cloze"), ("celebrity.cloze=1", ""), ("cloze=", ""), ("x", "")]:
        with pytest.raises(MllmuError, match=rf"--shots {wrong}: expected \[SET\.\]TASK=ID.*{hint}"):
            parse_shots([wrong])
    with pytest.raises(MllmuError, match="given for all sets and for one"):
        parse_shots(["cloze=003", "test.cloze=003"])


def test_a_model_of_a_run_is_found_by_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "models" / "forget_5" / "ga"
    folder.mkdir(parents=True)
    ref = ModelRef(base="tiny", adapters=("models/target", "models/forget_5/ga"))
    (folder / "model.json").write_text(ref.model_dump_json())
    section, found, root = model_at(str(folder), ModelSection(device="cpu"))
    assert (section.path, section.device, found, root) == ("tiny", "cpu", ref, tmp_path.resolve() / "run")
    assert model_at("some/base", ModelSection())[1] == ModelRef(base="some/base")


def mllmu(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "160", "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-m", "mllmu", *arguments], env=environment, capture_output=True, text=True)


def test_the_documented_command_writes_replies_and_numbers(parquet: Path, ours: Path, tmp_path: Path) -> None:
    shutil.copytree(ours, tmp_path, dirs_exist_ok=True)
    for name in (RESPONSES, METRICS):
        (tmp_path / name).unlink()
    done = mllmu(
        *("evaluate", "--model", "tiny", "--data", str(parquet), "--protocol", "official", "--forget-ratio", "5"),
        *("--shots", "classification=011,001", "--shots", "cloze=007,002", "--shots", "cloze=003,c001"),
        *("--test-image", str(VIEW), "--out", str(tmp_path)),
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / RESPONSES).read_bytes() == (ours / RESPONSES).read_bytes()
    assert "accuracy_first_char" in done.stdout and done.stdout.splitlines()[-1] == f"evaluate done: {tmp_path}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate"], "expected a RECIPE, or --model DIR"),
        (["evaluate", "r.yaml", "--model", "m", "--forget-ratio", "5"], "got --model, --forget-ratio too, which"),
        (["evaluate", "--model", "m", "--data", "d"], "--forget-ratio, --out missing"),
        (["evaluate", "--model", "m", "--data", "d", "--forget-ratio", "5", "--out", "o", "--protocol", "corrected"],
         "'official' alone"),
        (["evaluate", "--model", "m", "--data", "d", "--forget-ratio", "5", "--out", "o", "--shots", "clozes=1"],
         "Did you mean 'cloze'"),
        (["evaluate", "--model", "m", "--data", "d", "--forget-ratio", "5", "--out", "o", "--set", "seed=1"],
         "only settings of the model"),
    ],
)  # fmt: skip
def test_mixed_or_missing_arguments_are_one_line(arguments: list[str], message: str) -> None:
    done = mllmu(*arguments)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert message in done.stderr


def test_a_reply_with_odd_line_ends_stays_one_line() -> None:
    value = {"reply": "a\x85b\u2028c\u2029d\ne Né"}
    assert len(json_line(value).splitlines()) == 1 and "Né" in json_line(value)
    assert json.loads(json_line(value)) == value


def test_a_model_that_could_not_be_loaded_leaves_the_folder_to_another_one(parquet: Path, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    broken = {"model": ModelSection(path=str(tmp_path / "broken")), "ref": ModelRef(base=str(tmp_path / "broken"))}
    out = tmp_path / "out"
    with pytest.raises(ModelError):
        evaluate_published(saved(parquet, **broken), out, SilentProgress())
    with pytest.raises(ModelError, match="another"):
        evaluate_published(saved(parquet, **another(tmp_path)), out, SilentProgress())


def another(folder: Path) -> dict[str, Any]:
    return {"model": ModelSection(path=str(folder / "another")), "ref": ModelRef(base=str(folder / "another"))}


def test_responses_keep_their_model_and_do_not_need_the_tables_any_more(
    parquet: Path, ours: Path, tmp_path: Path
) -> None:
    out, moved = tmp_path / "out", tmp_path / "moved"
    shutil.copytree(ours, out)
    shutil.copytree(source_of("tiny"), tmp_path / "another")
    with (tmp_path / "another" / "generation_config.json").open("a", encoding="utf-8") as file:
        file.write("\n")
    shutil.move(parquet, moved)
    try:
        evaluate_published(saved(parquet), out, SilentProgress())
        with pytest.raises(RunStoreError, match="was made with other settings"):
            evaluate_published(saved(parquet, **another(tmp_path)), out, SilentProgress())
    finally:
        shutil.move(moved, parquet)
    for name in (RESPONSES, METRICS):
        assert (out / name).read_bytes() == (ours / name).read_bytes()
