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
from mllmu.data.published.export import INDEX, export, read_questions

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


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for n, profile in enumerate(make_profiles()):
        for stem in [profile.id] + [f"{profile.id}_{view}" for view in (1, 2, 3)] * (profile.kind == "fictitious"):
            Image.new("RGB", (2, 2), (n, n, n)).save(folder / f"{stem}.png")
    return folder


SPLITS = {5: ["p00"], 10: ["p03", "p01"], 15: ["p02", "p04", "p15"]}


@pytest.fixture
def exported(tmp_path: Path, images: Path) -> tuple[Path, dict[str, int], list[Question]]:
    profiles = make_profiles()
    questions = [question for profile in reversed(profiles) for question in make_questions(profile)]
    return tmp_path / "out", export(tmp_path / "out", profiles, questions, SPLITS, images), questions


def rows(folder: Path, config: str) -> list[dict]:
    return [row for path in sorted((folder / config).iterdir()) for row in pq.ParquetFile(path).read().to_pylist()]


def test_every_config_has_the_rows_of_its_people(exported: tuple[Path, dict[str, int], list[Question]]) -> None:
    folder, counts, _ = exported
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


def test_the_columns_have_the_published_types(exported: tuple[Path, dict[str, int], list[Question]]) -> None:
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


def test_cells_hold_the_person(exported: tuple[Path, dict[str, int], list[Question]]) -> None:
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


def test_the_round_trip_is_exact(exported: tuple[Path, dict[str, int], list[Question]]) -> None:
    folder, _, questions = exported
    assert len(questions) == 16 * 18 + 4 * 8
    assert read_questions(folder) == questions


def test_the_index_does_not_repeat_what_the_configs_hold(
    exported: tuple[Path, dict[str, int], list[Question]],
) -> None:
    text = (exported[0] / INDEX).read_text(encoding="utf-8")
    assert "What does this person do?" not in text
    assert text.count("What does Person") == 16  # the text-only training pairs have no published place


def test_without_the_index_the_published_part_is_rebuilt(
    exported: tuple[Path, dict[str, int], list[Question]],
) -> None:
    folder, _, questions = exported
    (folder / INDEX).unlink()
    rebuilt = {question.id: question for question in read_questions(folder)}
    assert len(rebuilt) == len(questions) - 16
    choice = rebuilt["p03.test.classification.text.0"]
    assert (choice.answer, choice.value, choice.attribute) == ("D", "nurse", "other")
    assert rebuilt["p03.eval.cloze.image_text.1"].value == "nurse"
    trained = rebuilt["p03.train.generation.image_text.0"]
    assert (trained.variant, trained.value) == ("train", "this person is a nurse")


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({5: [], 10: []}, r"got the ratios \[5, 10\], expected exactly \[5, 10, 15\]"),
        ({**SPLITS, 10: ["p16"]}, r"splits\[10\]: 'p16' is not a fictitious person"),
        ({**SPLITS, 5: ["p01", "p01"]}, r"splits\[5\]: an id appears twice"),
    ],
)
def test_a_split_that_does_not_fit_is_an_error(
    tmp_path: Path, images: Path, splits: dict[int, list[str]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        export(tmp_path / "out", make_profiles(), [], splits, images)


def test_a_question_about_somebody_else_is_an_error(tmp_path: Path, images: Path) -> None:
    profiles = make_profiles()
    stranger = make_questions(profiles[0].model_copy(update={"id": "zz"}))
    with pytest.raises(DataError, match="is about 'zz', not exported"):
        export(tmp_path / "out", profiles, stranger, SPLITS, images)


def test_a_missing_image_is_named_and_leaves_no_half_file(tmp_path: Path, images: Path) -> None:
    (images / "p02_1.png").unlink()
    with pytest.raises(DataError, match=r"no image 'p02_1.png'"):
        export(tmp_path / "out", make_profiles(), [], SPLITS, images)
    assert list((tmp_path / "out" / "Test_Set").iterdir()) == []


def test_a_config_changed_after_the_export_is_noticed(
    exported: tuple[Path, dict[str, int], list[Question]],
) -> None:
    folder = exported[0]
    path = folder / "Retain_Set" / "train-00000-of-00001.parquet"
    table = pq.ParquetFile(path).read()
    changed = table.to_pylist()
    changed[0]["Classification_Task"]["Pure_Text_Questions"][0]["Correct_Answer"] = "B"
    pq.write_table(pa.Table.from_pylist(changed, schema=table.schema), path)
    with pytest.raises(DataError, match="got the value 'baker', but the config says 'pilot'"):
        read_questions(folder)
    pq.write_table(table.slice(1), path)
    with pytest.raises(DataError, match=r"'p16\.\S+' is not in the configs"):
        read_questions(folder)
    pq.write_table(table, path)
    index = folder / INDEX
    index.write_text("".join(index.read_text(encoding="utf-8").splitlines(keepends=True)[1:]), encoding="utf-8")
    with pytest.raises(DataError, match=r"questions it does not know, first eval\.p19"):
        read_questions(folder)


def test_a_strange_or_missing_parquet_file_is_a_data_error(
    exported: tuple[Path, dict[str, int], list[Question]],
) -> None:
    folder = exported[0]
    path = folder / "ft_Data" / "train-00000-of-00001.parquet"
    pq.write_table(pa.table({"image": ["x"]}), path)
    with pytest.raises(DataError, match=r"row 0: metadata: Field required"):
        read_questions(folder)
    pq.write_table(pa.table({"metadata": ['[{"ID": "a/b", "Question": "q", "Answer": "a"}]']}), path)
    with pytest.raises(DataError, match=r"metadata: 0.ID: String should match pattern"):
        read_questions(folder)
    path.write_bytes(b"PK not parquet")
    with pytest.raises(DataError, match="not a readable parquet file"):
        read_questions(folder)
    path.unlink()
    with pytest.raises(DataError, match="ft_Data: no parquet file"):
        read_questions(folder)
