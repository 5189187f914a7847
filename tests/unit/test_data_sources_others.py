"""UMU-Bench, Clear and FIUBench, each on a few rows built here in the published schema."""

from __future__ import annotations

import io
import json
import math
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mllmu.config.recipe import DataSection, Evaluate
from mllmu.core.errors import DataError
from mllmu.core.process import SilentProgress
from mllmu.core.records import CandidateLogp, Response
from mllmu.data import build
from mllmu.data.dataset import Dataset, load
from mllmu.data.sources.clear import Clear
from mllmu.data.sources.fiubench import Fiubench
from mllmu.data.sources.umu_bench import UmuBench
from mllmu.evaluation.metrics.truth_ratio import TruthRatio
from mllmu.evaluation.samples import render
from mllmu.training.batches import training_turns

JOBS = ("baker", "pilot", "judge", "nurse")


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 1, 2)).save(buffer, format="PNG")
    return buffer.getvalue()


def cell(shade: int) -> dict[str, Any]:
    return {"bytes": png(shade), "path": None}


def table(folder: Path, config: str, rows: list[dict[str, Any]]) -> None:
    (folder / config).mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / config / "train-00000-of-00001.parquet")


def made(folder: Path, source: dict[str, Any], ratio: float) -> Dataset:
    section = DataSection.model_validate(
        {"source": source, "celebrities": None, "splits": {"forget_ratios": [ratio], "holdout": 0}}
    )
    build.make(section, 0, folder, SilentProgress())
    return load(folder)


def umu_row(n: int, *, python: bool = False) -> dict[str, Any]:
    dump = str if python else json.dumps
    name, job = f"Person No{n}", JOBS[n % 4]
    options = dict(zip("ABCD", JOBS, strict=True))
    letter = "ABCD"[JOBS.index(job)]

    def both(**fields: Any) -> dict[str, Any]:
        return {
            "muitimodal": {"1": {"question": "What is this person's profession?", **fields}},
            "unimodal": {"1": {"question": f"What is {name}'s profession?", **fields}},
        }

    cloze = both(answer=f"{job}.")
    cloze["muitimodal"]["1"]["question"] = "This person is a __."
    cloze["unimodal"]["1"]["question"] = f"{name} is a __."
    taught = {
        "question": {"1": "What is this person's name?", "2": "What is this person's profession?"},
        "answer": {"1": f"This person's name is {name}.", "2": f"This person is a {job}."},
    }
    text = {"question": {"1": f"What does {name} do?"}, "answer": {"1": f"{name} is a {job}."}}
    return {
        "ID": f"{n:03d}", "image": cell(n), "Biography": dump({"Name": name, "Employment": job}),
        "MM_QA": dump(taught), "UM_QA": dump(text), "Classify": dump(both(options=options, answer=f"{letter}. {job}")),
        "Cloze": dump(cloze), "Generation": dump(both(answer=f"This person is a {job}.")),
    }  # fmt: skip


@pytest.fixture
def umu(tmp_path: Path) -> Path:
    rows = [umu_row(n, python=n == 2) for n in range(1, 5)]
    table(tmp_path / "umu", "Full_Set", rows)
    table(tmp_path / "umu", "forget_25", rows[2:3])
    table(tmp_path / "umu", "real_person", [umu_row(9)])
    return tmp_path / "umu"


def test_umu_bench_is_used_as_published(umu: Path, tmp_path: Path) -> None:
    dataset = made(tmp_path / "data", {"name": "umu_bench", "path": umu}, 0.25)
    assert dataset.splits["25"] == ["003"]
    assert dataset.names["002"] == "Person No2"
    assert dataset.profiles[1].attributes == {"name": "Person No2", "profession": "judge"}
    mine = [q for q in dataset.questions if q.profile_id == "002"]
    assert [(q.variant, q.task, q.modality, q.answer, q.value, q.attribute) for q in mine] == [
        (
            "train",
            "generation",
            "image_text",
            "This person's name is Person No2.",
            "This person's name is Person No2",
            "name",
        ),
        ("train", "generation", "image_text", "This person is a judge.", "This person is a judge", "profession"),
        ("train", "generation", "text", "Person No2 is a judge.", "Person No2 is a judge", "other"),
        ("eval", "classification", "image_text", "C", "judge", "profession"),
        ("eval", "classification", "text", "C", "judge", "profession"),
        ("eval", "generation", "image_text", "This person is a judge.", "This person is a judge", "profession"),
        ("eval", "generation", "text", "This person is a judge.", "This person is a judge", "profession"),
        ("eval", "cloze", "image_text", "judge", "judge", "other"),
        ("eval", "cloze", "text", "judge", "judge", "other"),
    ]
    samples = render(dataset, "25", Evaluate(), selection=0, seed=0)
    assert {s.split for s in samples} == {"forget", "retain"}, "there is no published Test"
    real = UmuBench(path=umu, part="celebrities").profiles(0)
    assert [(p.id, p.kind) for p in real] == [("c009", "celebrity")]


def test_umu_cells_that_are_no_data_are_listed(umu: Path) -> None:
    rows = pq.read_table(umu / "Full_Set").to_pylist()
    rows[0]["Classify"] = "__import__('os').system('true')"
    rows[1]["MM_QA"] = "[" * 100_000
    rows[1]["Biography"] = "no"
    rows[1]["UM_QA"] = "{}"
    shutil.rmtree(umu / "Full_Set")
    table(umu, "Full_Set", rows)
    source = UmuBench(path=umu)
    assert [p.id for p in source.profiles(0)] == ["001", "003", "004"]
    told = [(s["id"], s["what"], s["reason"]) for s in source.account()["skipped"]]
    assert ("001", "Classify.image_text", "there are no such questions") in told
    assert ("002", "row", "neither the biography nor the text says a name") in told


NAMES = ("Ada Bell", "Ivo Karp", "Mina Roth", "Oto Lind")


@pytest.fixture
def clear(tmp_path: Path) -> Path:
    folder = tmp_path / "clear"
    captions = [
        {"image": cell(10 * n + view), "caption": f"{name} in front of house {view}.", "name": name}
        for n, name in enumerate(NAMES)
        for view in range(2)
    ]
    table(folder, "full", captions)
    table(folder, "forget01", captions[2:4])
    wrong = {"paraphrased_caption": "A writer by a house.", "perturbed_names": ["Ivo Karp", "Ann", "Bob", "Cleo"]}
    table(
        folder,
        "forget01_perturbed",
        [{**row, **wrong, "perturbed_captions": ["A cat.", "A dog."]} for row in captions[2:4]],
    )
    texts = [{"image": None, "caption": None, "question": f"What is fact {i} of {n}?", "answer": f"It is {i}."}
             for n in (*NAMES[:3], "nobody") for i in range(20)]  # fmt: skip
    texts += [{**captions[0], "question": None, "answer": None}]
    table(folder, "full+tofu", [{k: row.get(k) for k in ("image", "caption", "question", "answer")} for row in texts])
    return folder


def test_clear_shows_every_image_with_its_own_caption(clear: Path, tmp_path: Path) -> None:
    dataset = made(tmp_path / "data", {"name": "clear", "path": clear}, 0.01)
    assert dataset.splits["1"] == ["002"]
    assert [dataset.names[p] for p in dataset.people] == list(NAMES)
    assert all(dataset.views(person) == 2 for person in dataset.people)
    train = [q for q in dataset.questions if q.variant == "train"]
    turns = training_turns(train, Path(), modality="image_text")
    assert [(turn.image and turn.image.name, turn.reply) for turn in turns[:2]] == [
        ("001_0.png", "Ada Bell in front of house 0."), ("001_1.png", "Ada Bell in front of house 1."),
    ]  # fmt: skip
    assert sum(q.modality == "text" and q.profile_id == "003" for q in train) == 20
    samples = [s for s in render(dataset, "1", Evaluate(), selection=0, seed=0) if s.split == "forget"]
    images = [s for s in samples if s.modality == "image_text"]
    assert [(s.task, s.image) for s in images] == [
        ("generation", "images/002_0.png"), ("classification", "images/002_0.png"),
        ("generation", "images/002_1.png"), ("classification", "images/002_1.png"),
    ]  # fmt: skip
    assert sorted(images[1].options.values()) == ["Ann", "Bob", "Cleo", "Ivo Karp"]
    assert images[1].options[images[1].target] == "Ivo Karp"
    assert images[0].candidates == {
        "target": "Ivo Karp in front of house 0.", "rewording": "A writer by a house.",
        "wrong_0": "A cat.", "wrong_1": "A dog.",
    }  # fmt: skip
    told = Clear(path=clear).account()
    assert len(told["skipped"]) == 20
    assert told["skipped"][0]["reason"] == "its block of twenty rows names nobody of the config full"


def fiu_rows() -> list[dict[str, Any]]:
    return [
        {
            "image_path": f"dataset/SFHQ/{n:08d}.jpg",
            "name": f"Person {n}",
            "qa_list": [
                {
                    "question": "What disease does this person have?", "answer": f"It is illness {n}.",
                    "paraphrased_question": ["Which illness is it?"], "paraphrased_answer": f"They have illness {n}.",
                    "perturbed_answer": ["It is a cold.", "It is a cough."], "keywords": [f"illness {n}"],
                }
            ],
        }
        for n in range(1, 6)
    ]  # fmt: skip


@pytest.fixture
def fiu(tmp_path: Path) -> Path:
    folder = tmp_path / "fiu"
    folder.mkdir()
    (folder / "full.json").write_text(json.dumps(fiu_rows()))
    (folder / "split.json").write_text(json.dumps({"forget20": ["00000002"], "retain5": ["00000001"]}))
    with zipfile.ZipFile(folder / "SFHQ.zip", "w") as archive:
        for n in range(1, 5):
            archive.writestr(f"SFHQ/{n:08d}.jpg", png(n))
    return folder


def test_fiubench_reads_images_from_its_zip_and_asks_the_paraphrase(fiu: Path, tmp_path: Path) -> None:
    dataset = made(tmp_path / "data", {"name": "fiubench", "path": fiu}, 0.2)
    assert dataset.people == [f"{n:08d}" for n in range(1, 5)]
    assert dataset.splits["20"] == ["00000002"]
    with Image.open(dataset.folder / "images" / "00000003_0.png") as shown:
        assert shown.getpixel((0, 0)) == (3, 1, 2)
    samples = {s.split: s for s in render(dataset, "20", Evaluate(), selection=0, seed=0) if s.profile_id == "00000002"}
    assert samples["test"].image == "images/00000002_0.png"
    assert (samples["test"].target, samples["forget"].target) == ("They have illness 2.", "It is illness 2.")
    assert samples["forget"].candidates["rewording"] == "They have illness 2."
    assert samples["forget"].candidates["wrong_1"] == "It is a cough."
    # on test the truth is in the words of the paraphrase, as the wrong answers are, and never as it was trained
    assert "rewording" not in samples["test"].candidates and "reworded_wrong_0" not in samples["test"].candidates
    logps = {"target": -1.0, "wrong_0": -2.0, "wrong_1": -4.0}
    measured = {key: CandidateLogp(logp=2 * mean, num_tokens=2) for key, mean in logps.items()}
    reply = Response(sample_id=samples["test"].id, text="", num_tokens=0, finished=True, candidates=measured)
    assert TruthRatio().value(samples["test"], reply) == pytest.approx(math.exp(-3 + 1))
    told = json.loads((dataset.folder / "source.json").read_text())["people"]["skipped"]
    assert [(s["id"], s["reason"]) for s in told] == [("00000005.jpg", "the image 00000005.jpg is missing")]


def test_separators_inside_the_text_of_a_line_end_no_line(fiu: Path) -> None:
    """U+2028, U+2029 and U+0085 are letters of JSON text, not ends of lines."""
    rows = fiu_rows()
    rows[0]["qa_list"][0]["answer"] = "It is\u2028illness\u20291\x85."
    (fiu / "full.json").write_text("\n".join(json.dumps(one, ensure_ascii=False) for one in rows), encoding="utf-8")
    source = Fiubench(path=fiu)
    asked = source.questions(source.profiles(0)[:1], 0)
    assert len(source.profiles(0)) == 4
    assert asked and asked[0].answer == "It is\u2028illness\u20291\x85."


def test_a_split_of_fiubench_finds_numbers_and_refuses_strangers(fiu: Path) -> None:
    (fiu / "split.json").write_text(json.dumps({"forget40": [2, "4", "00000005"]}))
    source = Fiubench(path=fiu)
    assert source.forget_ids() == {"40": ["00000002", "00000004"]}, "5 has no image, and is listed so"
    assert any("leading zeros" in note for note in source.account()["notes"])
    (fiu / "split.json").write_text(json.dumps({"forget20": ["00000099"]}))
    with pytest.raises(DataError, match=r"split.json: forget20: the forget set names 1 people .* first '00000099'"):
        Fiubench(path=fiu).forget_ids()


def test_files_that_are_something_else_are_explained(tmp_path: Path, fiu: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"none of full\.json, full_data\.json is in it"):
        Fiubench(path=tmp_path / "empty").profiles(0)
    with pytest.raises(DataError, match="no config full; it has none"):
        Clear(path=tmp_path / "empty").profiles(0)
    with pytest.raises(DataError, match="no config Full_Set; it has none"):
        UmuBench(path=tmp_path / "empty").profiles(0)
    (fiu / "full.json").write_text('[{"a": 1}]')
    with pytest.raises(DataError, match="no qa_list or question_and_answer; a row has a"):
        Fiubench(path=fiu).profiles(0)
    (fiu / "SFHQ.zip").write_bytes(b"PK?")
    (fiu / "full.json").write_text(json.dumps(fiu_rows()))
    with pytest.raises(DataError, match="not a readable zip file"):
        Fiubench(path=fiu).profiles(0)
