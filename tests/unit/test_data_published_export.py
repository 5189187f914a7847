"""The published parquet layout: exact types, row counts, and the same questions back."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mllmu.core.errors import DataError
from mllmu.core.records import MODALITIES, Profile, Question
from mllmu.data.dataset import Dataset
from mllmu.data.published.export import export
from mllmu.data.published.store import Store
from mllmu.data.sources.mllmu_bench import MllmuBench

JOBS = ["baker", "pilot", "judge", "nurse"]


def make_profiles() -> list[Profile]:
    people = []
    for n in range(20):
        kind = "celebrity" if n >= 16 else "fictitious"
        attributes = {"name": f"Person Né{n}", "profession": JOBS[n % 4], "mother_job": "diver", "hobby": "judo"}
        people.append(Profile.model_validate({"id": f"p{n:02d}", "kind": kind, "attributes": attributes}))
    return people


def make_questions(profile: Profile) -> list[Question]:
    job, pid = profile.attributes["profession"], profile.id
    shared = {"profile_id": pid, "attribute": "profession", "value": job}
    made = []
    for variant in ("eval", "test", "train") if profile.kind == "fictitious" else ("eval",):
        for modality in MODALITIES:
            who = "this person" if modality == "image_text" else profile.name
            base = {**shared, "variant": variant, "modality": modality}
            sentence = f"{who} is a {job}."
            generation = {
                "task": "generation",
                "text": f"What does {who} do?",
                "answer": sentence,
                "rewording": f"They work as a {job}.",
                "alternatives": (f"{who} is a clown.",),
            }
            tasks = [generation]
            if variant != "train":
                options = dict(zip("ABCD", JOBS, strict=True))
                letter = "ABCD"[JOBS.index(job)]
                text = f"What is {who}?"
                tasks += [{"task": "cloze", "text": f"{who} is a __.", "answer": job}] * 2
                tasks += [{"task": "classification", "text": text, "options": options, "answer": letter}]
            for n, task in enumerate(tasks):
                made.append(Question.model_validate({**base, **task, "id": f"{pid}.{variant}.{modality}.{n}"}))
    return made


SPLITS = {"5": ["p00"], "10": ["p03", "p01"], "15": ["p02", "p04", "p15"]}


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    (tmp_path / "images").mkdir()
    profiles = make_profiles()
    for n, profile in enumerate(profiles):
        for view in range(4 if profile.kind == "fictitious" else 1):
            Image.new("RGB", (2, 2), (n, n, n)).save(tmp_path / "images" / f"{profile.id}_{view}.png")
    questions = [question for profile in reversed(profiles) for question in make_questions(profile)]
    return Dataset(tmp_path, profiles, questions, SPLITS)


@pytest.fixture
def exported(dataset: Dataset) -> tuple[Path, dict[str, int]]:
    return dataset.folder / "out", export(dataset, dataset.folder / "out")


def rows(folder: Path, config: str) -> list[dict]:
    return [row for path in sorted((folder / config).iterdir()) for row in pq.ParquetFile(path).read().to_pylist()]


def test_every_config_has_the_rows_of_its_people(exported: tuple[Path, dict[str, int]]) -> None:
    folder, counts = exported
    assert counts == {
        "Full_Set": 16, "ft_Data": 16, "Test_Set": 16, "Retain_Set": 4,
        "forget_5": 1, "retain_95": 15, "forget_10": 2, "retain_90": 14, "forget_15": 3, "retain_85": 13,
    }  # fmt: skip
    assert {config: len(rows(folder, config)) for config in counts} == counts
    assert [row["ID"] for row in rows(folder, "forget_10")] == ["p01", "p03"]
    assert [row["ID"] for row in rows(folder, "Retain_Set")] == ["p16", "p17", "p18", "p19"]
    assert sorted(path.name for path in (folder / "Test_Set").iterdir()) == [
        "train-00000-of-00002.parquet",
        "train-00001-of-00002.parquet",
    ]


def test_the_columns_have_the_published_types(exported: tuple[Path, dict[str, int]]) -> None:
    folder = exported[0]

    def schema(config: str) -> pa.Schema:
        return pq.read_schema(next((folder / config).iterdir()))

    tasks = ["Classification_Task", "Generation_Task", "Mask_Task"]
    about = ["biography", "question", "answer"]
    assert schema("Full_Set").names == ["image", "ID", "Directory", *about, *tasks]
    assert schema("forget_5").names == ["image", "ID", *about, *tasks]
    assert schema("Test_Set").names == ["ID", "images", *tasks]
    assert schema("ft_Data").names == ["image", "metadata"]
    choices = (
        "list<element: struct<Question: string, Options: struct<A: string, B: string, C: string, D: string>, "
        "Correct_Answer: string>>"
    )
    full = schema("Full_Set")
    assert str(full.field("image").type) == "struct<bytes: binary, path: string>"
    assert str(full.field("Classification_Task").type) == (
        f"struct<Image_Textual_Questions: {choices}, Pure_Text_Questions: {choices}>"
    )
    assert str(full.field("Mask_Task").type) == (
        "list<element: struct<Type: string, Question: string, Ground_Truth: string>>"
    )
    features = json.loads(full.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    assert features["Mask_Task"][0]["Type"] == {"dtype": "string", "_type": "Value"}


def test_cells_hold_the_person(exported: tuple[Path, dict[str, int]]) -> None:
    folder = exported[0]
    row = rows(folder, "Full_Set")[5]
    assert json.loads(row["biography"]) == {
        "Name": "Person Né5", "Employment": "pilot", "Parents": {"Mother": "diver"}, "Fun Facts": ["Hobby: judo"],
    }  # fmt: skip
    assert Image.open(io.BytesIO(row["image"]["bytes"])).getpixel((0, 0)) == (5, 5, 5)
    assert [view["path"] for view in rows(folder, "Test_Set")[5]["images"]] == ["p05_1.png", "p05_2.png", "p05_3.png"]
    assert json.loads(rows(folder, "ft_Data")[5]["metadata"]) == [
        {"ID": "p05", "Question": "What does this person do?", "Answer": "this person is a pilot."}
    ]


def test_the_source_reads_back_what_was_exported(exported: tuple[Path, dict[str, int]], dataset: Dataset) -> None:
    folder = exported[0]
    for part, kind in (("people", "fictitious"), ("celebrities", "celebrity")):
        source = MllmuBench(path=folder, part=part)
        people = source.profiles(0)
        assert [p.id for p in people] == [p.id for p in dataset.profiles if p.kind == kind]
        asked = [q for q in dataset.questions if q.variant != "train" and q.profile_id in {p.id for p in people}]
        read = source.questions(people, 0) or []
        assert sorted(map(said, read)) == sorted(map(said, asked))
        assert source.account()["skipped"] == []
    assert MllmuBench(path=folder).forget_ids() == {key: sorted(ids) for key, ids in SPLITS.items()}


def said(question: Question) -> tuple[str, ...]:
    same = (question.profile_id, question.variant, question.task, question.modality, question.text, question.answer)
    return (*same, str(question.options), question.value if question.task != "generation" else "")


def test_forget_ratios_that_are_not_the_published_ones_are_an_error(dataset: Dataset) -> None:
    other = Dataset(dataset.folder, dataset.profiles, dataset.questions, {"5": [], "10": [], "holdout": []})
    with pytest.raises(DataError, match=r"needs the forget ratios 5, 10 and 15 percent, got 5, 10\."):
        export(other, dataset.folder / "out")


@pytest.mark.parametrize(("name", "config"), [("p02_1.png", "Test_Set"), ("p02_0.png", "Full_Set")])
def test_a_missing_image_is_named_and_leaves_no_half_file(dataset: Dataset, name: str, config: str) -> None:
    (dataset.folder / "images" / name).unlink()
    with pytest.raises(DataError, match=rf"no image '{name}'"):
        export(dataset, dataset.folder / "out")
    assert list((dataset.folder / "out" / config).iterdir()) == []


def test_a_strange_or_missing_parquet_file_is_a_data_error(exported: tuple[Path, dict[str, int]]) -> None:
    folder = exported[0]
    path = folder / "ft_Data" / "train-00000-of-00001.parquet"
    pairs = pq.ParquetFile(path).read().column("metadata").to_pylist()
    pq.write_table(pa.table({"metadata": [pairs[0].replace("p00", "a/b"), *pairs[1:]]}), path)
    skipped = MllmuBench(path=folder).account()["skipped"]
    assert "row 0: metadata: 0.ID: String should match pattern" in skipped[0]["reason"]
    assert (skipped[1]["id"], skipped[1]["reason"]) == ("p00", "there is no training text with this ID")
    pq.write_table(pa.table({"image": ["x"]}), path)
    with pytest.raises(DataError, match=r"no column 'metadata'; it has image\. Expected training text"):
        MllmuBench(path=folder).profiles(0)
    path.write_bytes(b"PK not parquet")
    with pytest.raises(DataError, match="not a readable parquet file"):
        MllmuBench(path=folder).profiles(0)
    path.unlink()
    with pytest.raises(DataError, match="no config ft_Data"):
        MllmuBench(path=folder).profiles(0)


def test_a_turned_bit_of_an_exported_table_is_noticed(exported: tuple[Path, dict[str, int]]) -> None:
    path = exported[0] / "Full_Set" / "train-00000-of-00001.parquet"
    whole = path.read_bytes()
    columns = pq.ParquetFile(path).schema_arrow.names
    end = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")  # the description behind it has no checksum
    for place in range(4, end, end // 40):
        flipped = bytearray(whole)
        flipped[place] ^= 16
        path.write_bytes(flipped)
        try:
            rows = [*Store(exported[0]).table("Full_Set").rows(columns)]
        except DataError:
            continue
        path.write_bytes(whole)
        assert rows == [*Store(exported[0]).table("Full_Set").rows(columns)], f"byte {place} changed a value"
