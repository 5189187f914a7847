"""The published data set from its tables: used as it is, nothing dropped silently, and every usual trap explained."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import httpx2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled
from PIL import Image
from published_copy import NUM_CELEBRITIES, NUM_PEOPLE, change, rename, shards, write_copy

from mllmu.config.recipe import DataSection
from mllmu.core.errors import DataError
from mllmu.core.process import SilentProgress
from mllmu.core.records import Question
from mllmu.data import build
from mllmu.data.dataset import Dataset, load
from mllmu.data.published.biography import attributes_of
from mllmu.data.published.content import right_letter
from mllmu.data.published.sets import write_sets
from mllmu.data.sources.mllmu_bench import MllmuBench


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_copy(tmp_path_factory.mktemp("published"))


@pytest.fixture
def bench(original: Dataset, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    shutil.copytree(original.folder.parent / "bench", tmp_path / "bench")
    return tmp_path / "bench"


def whole(original: Dataset) -> Path:
    return original.folder.parent / "bench"


def made(path: Path, folder: Path, **settings: Any) -> Dataset:
    section = DataSection.model_validate(
        {
            "source": {"name": "mllmu_bench", "path": path, **settings},
            "celebrities": {"name": "mllmu_bench", "path": path, "part": "celebrities"},
            "splits": {"forget_ratios": [0.05, 0.1, 0.15], "holdout": 0},
        }
    )
    build.make(section, 0, folder, SilentProgress())
    return load(folder)


def plain(questions: list[Question], variant: str) -> list[tuple[Any, ...]]:
    return [(q.id, q.text, q.answer, q.options) for q in questions if q.variant == variant]


def skipped(source: MllmuBench) -> list[tuple[str, str, str, str]]:
    return [(s["config"], s["id"], s["what"], s["reason"]) for s in source.account()["skipped"]]


def test_a_published_copy_gives_back_people_questions_images_and_forget_sets(original: Dataset, tmp_path: Path) -> None:
    dataset = made(whole(original), tmp_path)
    assert dataset.splits == original.splits
    assert dataset.people == original.people
    assert dataset.celebrities == original.celebrities
    assert dataset.names == original.names
    for variant in ("eval", "test"):
        assert sorted(plain(dataset.questions, variant)) == sorted(plain(original.questions, variant))
    train = [q for q in original.questions if q.variant == "train" and q.modality == "image_text"]
    again = [q for q in dataset.questions if q.variant == "train" and q.modality == "image_text"]
    assert [(q.profile_id, q.text, q.answer) for q in again] == [(q.profile_id, q.text, q.answer) for q in train]
    for person in original.people + original.celebrities:
        assert dataset.views(person) == original.views(person) == (1 if person.startswith("c") else 4)
        for view in range(original.views(person)):
            name = f"images/{person}_{view}.png"
            with Image.open(tmp_path / name) as ours, Image.open(original.folder / name) as theirs:
                assert ours.tobytes() == theirs.tobytes()


def test_every_row_and_question_is_accounted_for(original: Dataset, tmp_path: Path) -> None:
    made(whole(original), tmp_path)
    told = json.loads((tmp_path / "source.json").read_text())
    configs = told["people"]["configs"]
    assert configs["Full_Set"] == {
        "rows": NUM_PEOPLE, "rows_skipped": 0, "questions": NUM_PEOPLE * 18, "questions_skipped": 0
    }  # fmt: skip
    assert {name: value["rows"] for name, value in configs.items()} == {
        "Full_Set": 20, "ft_Data": 20, "Test_Set": 20, "forget_5": 1, "forget_10": 2, "forget_15": 3,
        "retain_95": 19, "retain_90": 18, "retain_85": 17,
    }  # fmt: skip
    assert told["celebrities"]["configs"]["Retain_Set"]["rows"] == NUM_CELEBRITIES
    assert told["people"]["skipped"] == []
    assert told["people"]["summary"].startswith("120 of 120 rows and 1040 of 1040 questions of 9 configs used")


class FakeHub:
    """A repository of the hub that lies on this disk; files are fetched only if a pattern asks for them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, files: Path, cache: Path) -> None:
        self.files, self.cache = files, cache
        self.fault: Exception | None = None
        monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", self.list)
        monkeypatch.setattr("huggingface_hub.snapshot_download", self.fetch)

    def list(self, name: str, *, repo_type: str, revision: str | None) -> list[str]:
        assert (name, repo_type, revision) == ("MLLMMU/MLLMU-Bench", "dataset", "v1")
        if self.fault:
            raise self.fault
        return [str(path.relative_to(self.files)) for path in self.files.rglob("*")] + ["README.md"]

    def fetch(self, name: str, *, repo_type: str, revision: str | None, allow_patterns: list[str]) -> str:
        assert (name, repo_type, revision) == ("MLLMMU/MLLMU-Bench", "dataset", "v1")
        for pattern in () if self.fault else allow_patterns:
            for path in self.files.glob(pattern):
                target = self.cache / path.relative_to(self.files)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
        return str(self.cache)


def test_the_same_rows_come_from_the_hub_and_stay_there_without_it(
    original: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fake = FakeHub(monkeypatch, whole(original), tmp_path / "cache")
    repository, local = Path("MLLMMU/MLLMU-Bench"), MllmuBench(path=whole(original))
    people = local.profiles(0)
    for fake.fault in (None, OfflineModeIsEnabled(), httpx2.ConnectError("no network")):
        hub = MllmuBench(path=repository, revision="v1")
        assert hub.profiles(0) == people
        assert hub.questions(people, 0) == local.questions(people, 0)
        assert hub.forget_ids() == local.forget_ids()
        assert hub.num_views(people[3]) == 4
        for view in (0, 2):
            assert hub.image(people[3], view).tobytes() == local.image(people[3], view).tobytes()
    assert not (fake.cache / "Retain_Set").exists(), "only the configs that are read are fetched"


def test_without_network_and_copy_the_hub_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def unreachable(*_: Any, **__: Any) -> None:
        raise httpx2.ConnectError("no network")

    def nothing_kept(*_: Any, **__: Any) -> None:
        raise LocalEntryNotFoundError("no snapshot")

    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", unreachable)
    monkeypatch.setattr("huggingface_hub.snapshot_download", nothing_kept)
    with pytest.raises(DataError, match=r"no/such: neither a folder here .* gives: no snapshot\. Check the name and"):
        MllmuBench(path=Path("no/such")).profiles(0)


def test_a_name_the_hub_does_not_have_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def absent(*_: Any, **__: Any) -> None:
        raise FileNotFoundError("Dataset 'no/such' doesn't exist on the Hub")

    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", absent)
    with pytest.raises(DataError, match="no/such: neither a folder here nor a data set that the hub gives: Dataset"):
        MllmuBench(path=Path("no/such")).profiles(0)


def test_what_cannot_be_used_is_listed_with_its_reason(bench: Path) -> None:
    def damage(rows: list[dict[str, Any]]) -> None:
        rows[1]["ID"] = "../etc"
        rows[2]["ID"] = rows[0]["ID"]
        rows[3]["Classification_Task"]["Image_Textual_Questions"][0]["Correct_Answer"] = "Z"
        rows[4]["Mask_Task"][0]["Question"] = "There is no gap here."
        rows[5]["Generation_Task"][1]["Ground_Truth"] = " "
        rows[6]["Generation_Task"][0]["Type"] = "Video"

    change(shards(bench, "Full_Set")[0], damage)
    source = MllmuBench(path=bench)
    people = source.profiles(0)
    assert len(people) == NUM_PEOPLE - 2
    found = skipped(source)
    assert [f for f in found if f[0] == "Full_Set"] == [
        ("Full_Set", "../etc", "row", "the ID '../etc' is not made of 1 to 64 letters, digits, '_' and '-'"),
        ("Full_Set", "001", "row", "the ID was already given in row 0"),
        (
            "Full_Set",
            "004",
            "classification.image_text.0",
            "the right answer 'Z' is none of the options ['A', 'B', 'C', 'D']",
        ),
        ("Full_Set", "005", "cloze.image_text.0", "there is no blank __ in it"),
        ("Full_Set", "006", "generation.image_text.1", "there is no right answer"),
        ("Full_Set", "007", "Generation_Task[0]", "the Type 'Video' is neither of ['Image_Textual', 'Pure_Text']"),
    ]
    assert {f[1] for f in found if f[0] == "Test_Set"} == {"002", "003"}
    asked = source.questions(people, 0)
    assert asked is not None
    ids = {q.id for q in asked}
    assert "004.eval.classification.image_text.0" not in ids
    assert "004.eval.classification.image_text.1" in ids, "the others keep their numbers"
    assert source.account()["configs"]["Full_Set"]["questions_skipped"] == 4


def test_keys_of_biographies_vary_and_mean_the_same() -> None:
    noisy = {
        "Name:": " Ada Bell ", "Born": "Riga, Latvia", "date of birth:": "May 1, 1980", "Employment": "baker",
        "Medical Condition:": "None", "Annual Salary": "$1", "Parent": {"Father:": "pilot", "mother": "judge"},
        "Fun Facts": ["x"], "Height": "", "Star Sign": "Leo",
    }  # fmt: skip
    assert attributes_of(json.dumps(noisy)) == {
        "name": "Ada Bell", "birthplace": "Riga, Latvia", "birth_date": "May 1, 1980", "profession": "baker",
        "medical_condition": "None", "salary": "$1", "father_job": "pilot", "mother_job": "judge",
    }  # fmt: skip
    assert attributes_of("{not json") == {}
    assert attributes_of(None) == {}


def test_right_answers_are_published_in_several_ways() -> None:
    options = {"A": "nurse", "B": "A baker", "C": "judge"}
    given = {"B": "B", " b ": "B", "B.": "B", "B: A baker": "B", "(c)": "C", "A baker": "B", "judge": "C"}
    assert {said: right_letter(said, options) for said in given} == given
    assert right_letter("An artist", options) is None
    assert right_letter("D", options) is None


@pytest.mark.parametrize(
    ("said", "options", "right"),
    [
        ("A cook.", {"A": "A miller", "B": "A cook"}, "B"),
        ("a cook", {"A": "miller", "B": "Cook."}, "B"),
        ("I have no idea", {"H": "yes", "I": "no"}, None),
        ("A cook", {"A": "miller", "B": "pilot"}, None),
        ("B pilot", {"A": "miller", "B": "pilot"}, "B"),
        ("(b) flies", {"A": "miller", "B": "pilot"}, "B"),
        ("A", {"A": "B", "B": "A"}, "A"),
        ("OSLO, Norway", {"A": "Bergen, Norway", "B": "Oslo, Norway"}, "B"),
    ],
)
def test_an_article_is_no_letter_of_an_option(said: str, options: dict[str, str], right: str | None) -> None:
    assert right_letter(said, options) == right


def test_baseline_training_splits_stand_in_for_ft_data(bench: Path, original: Dataset, tmp_path: Path) -> None:
    text = {
        p.id: [(qa.question, qa.answer) for qa in p.training_qa] for p in MllmuBench(path=whole(original)).profiles(0)
    }
    for config, ratio in (("forget_05", "forget_5"), ("retain_05", "retain_95")):
        (tmp_path / "splits" / config).mkdir(parents=True)
        target = tmp_path / "splits" / config / "train-00000-of-00001.parquet"
        shutil.copy(shards(bench, "ft_Data")[0], target)
        ids = set(original.splits["5"]) if "forget" in config else set(original.people) - set(original.splits["5"])
        change(target, lambda rows, ids=ids: [r for r in rows if json.loads(r["metadata"])[0]["ID"] in ids])
        assert ratio
    shutil.rmtree(bench / "ft_Data")
    source = MllmuBench(path=bench, train_path=tmp_path / "splits")
    assert {p.id: [(qa.question, qa.answer) for qa in p.training_qa] for p in source.profiles(0)} == text


def test_evaluation_tables_are_no_training_text(bench: Path, tmp_path: Path) -> None:
    for path in shards(bench, "Full_Set"):
        shutil.copy(path, shards(bench, "ft_Data")[0])
    with pytest.raises(DataError, match=r"ft_Data: no column 'metadata'; it has image, ID.*Expected training text"):
        MllmuBench(path=bench).profiles(0)
    with pytest.raises(DataError, match=r"got evaluation data .*no 'metadata'.*expected training text"):
        MllmuBench(path=shards(bench, "Full_Set")[0]).profiles(0)
    with pytest.raises(DataError, match="one table of training text has no questions"):
        MllmuBench(path=shards(whole_again(bench, tmp_path), "ft_Data")[0]).profiles(0)


def whole_again(bench: Path, tmp_path: Path) -> Path:
    shutil.copytree(bench, tmp_path / "again")
    rename(shards(tmp_path / "again", "ft_Data")[0], {"biography": "metadata"})
    return tmp_path / "again"


def test_the_celebrity_folder_is_not_the_retained_people(bench: Path) -> None:
    with pytest.raises(DataError, match=r"'Retain_Set' is itself one config.*holds the celebrities; the retained"):
        MllmuBench(path=bench / "Retain_Set").profiles(0)
    celebrities = MllmuBench(path=bench / "Retain_Set", part="celebrities").profiles(0)
    assert {p.kind for p in celebrities} == {"celebrity"}
    shutil.copy(shards(bench, "Retain_Set")[0], shards(bench, "retain_95")[0])
    with pytest.raises(DataError, match=r"retain_95: none of its 5 people is in Full_Set.*celebrities of Retain_Set"):
        MllmuBench(path=bench).profiles(0)


def test_a_celebrity_with_a_number_for_an_id_is_nobody_else(bench: Path) -> None:
    change(shards(bench, "Retain_Set")[0], lambda rows: rows[0].update(ID="001"))
    assert MllmuBench(path=bench, part="celebrities").profiles(0)[0].id == "c001"


def test_people_who_share_a_name_stay_as_they_were_published(bench: Path, tmp_path: Path) -> None:
    def same_name(rows: list[dict[str, Any]]) -> None:
        first = json.loads(rows[0]["biography"])["Name"]
        rows[1]["biography"] = json.dumps(json.loads(rows[1]["biography"]) | {"Name": first})

    change(shards(bench, "Retain_Set")[0], same_name)
    names = made(bench, tmp_path / "data").names
    assert names["c001"] == names["c002"]


def test_a_missing_shard_config_or_column_is_named(bench: Path) -> None:
    shards(bench, "Test_Set")[1].unlink()
    with pytest.raises(DataError, match="Test_Set: shard 00001 of 2 is missing; it has train-00000-of-00002"):
        MllmuBench(path=bench).profiles(0)
    rename(shards(bench, "Full_Set")[0], {"Mask_Task": ""})
    with pytest.raises(DataError, match="Full_Set: no column 'Mask_Task'"):
        MllmuBench(path=bench).profiles(0)
    shutil.rmtree(bench / "Test_Set")
    with pytest.raises(DataError, match="no config Test_Set; it has Full_Set, Retain_Set"):
        MllmuBench(path=bench).profiles(0)


def test_a_git_lfs_pointer_is_explained(bench: Path) -> None:
    shards(bench, "Full_Set")[0].write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(DataError, match=r"a git-lfs pointer, not the data. Run 'git lfs pull'"):
        MllmuBench(path=bench).profiles(0)


def png(size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("1", size).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x89PNG\r\n\x1a\nbroken", r"row 0, image: the image cannot be decoded"),
        (png((8_000, 8_000)), r"row 0, image: image too large: .* got 8000 x 8000"),
        (png((14_000, 14_000)), r"row 0, image: image too large: .* got far more"),
        (None, r"row 0, image: the table holds the path '001_0.png' and no image, and there is no such"),
    ],
)
def test_a_image_that_cannot_be_used_is_an_error(bench: Path, tmp_path: Path, data: bytes | None, said: str) -> None:
    change(shards(bench, "Full_Set")[0], lambda rows: rows[0]["image"].update(bytes=data))
    with pytest.raises(DataError, match=said):
        made(bench, tmp_path / "data")


def test_fewer_people_have_forget_sets_of_their_own(original: Dataset, tmp_path: Path) -> None:
    dataset = made(whole(original), tmp_path, num_people=8)
    assert dataset.people == original.people[:8]
    assert all(set(ids) <= set(dataset.people) for ids in dataset.splits.values())


def as_numbers(path: Path, kind: pa.DataType) -> None:
    """The ids of a table as numbers, as a spreadsheet makes them of 017."""
    table = pq.read_table(path)
    position = table.column_names.index("ID")
    numbers = pa.array([int(person) for person in table["ID"].to_pylist()]).cast(kind)
    pq.write_table(table.set_column(position, "ID", numbers), path)


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ("forget_5", pa.int64()),
        ("forget_10", pa.float64()),
        ("retain_85", pa.string()),
        ("Full_Set", pa.int64()),
        ("Test_Set", pa.string()),
    ],
)
def test_ids_without_their_leading_zeros_are_the_same_people(
    bench: Path, original: Dataset, config: str, kind: pa.DataType
) -> None:
    for shard in shards(bench, config):
        as_numbers(shard, kind)
    source, whole_source = MllmuBench(path=bench), MllmuBench(path=whole(original))
    assert source.forget_ids() == whole_source.forget_ids()
    assert source.forget_ids() == {ratio: original.splits[ratio] for ratio in ("5", "10", "15")}
    assert source.questions(source.profiles(0), 0) == whole_source.questions(whole_source.profiles(0), 0)
    notes = source.account()["notes"]
    assert any(note.startswith(f"{config}: ") and "leading zeros" in note for note in notes), notes


def test_training_text_may_name_people_by_numbers(bench: Path, original: Dataset) -> None:
    def numbered(rows: list[dict[str, Any]]) -> None:
        for one in rows:
            pairs = json.loads(one["metadata"])
            one["metadata"] = json.dumps([{**pair, "ID": int(pair["ID"])} for pair in pairs])

    for shard in shards(bench, "ft_Data"):
        change(shard, numbered)
    people = MllmuBench(path=bench).profiles(0)
    assert [p.attributes for p in people] == [p.attributes for p in MllmuBench(path=whole(original)).profiles(0)]


def only(path: Path, ids: list[str]) -> None:
    """Leave one row per id."""
    table = pq.read_table(path)
    first = table.to_pylist()[0]
    pq.write_table(pa.Table.from_pylist([{**first, "ID": person} for person in ids], schema=table.schema), path)


def test_a_forget_set_of_people_who_are_not_there_is_not_drawn_instead(bench: Path, tmp_path: Path) -> None:
    only(shards(bench, "forget_5")[0], ["9017"])
    with pytest.raises(DataError, match=r"forget_5: the forget set names 1 people who are nowhere .* first '9017'"):
        MllmuBench(path=bench).forget_ids()
    only(shards(bench, "forget_5")[0], [])
    with pytest.raises(DataError, match="its forget set of 5 % holds nobody who can be used"):
        made(bench, tmp_path)


def test_a_forget_set_without_ids_is_named(bench: Path) -> None:
    rename(shards(bench, "forget_10")[0], {"ID": "person"})
    with pytest.raises(DataError, match="forget_10: no column 'ID'; it has image, person"):
        MllmuBench(path=bench).forget_ids()


def test_a_person_who_cannot_be_used_is_left_out_of_the_forget_set_with_the_reason(bench: Path) -> None:
    forgotten = MllmuBench(path=bench).forget_ids()["15"]
    unnamed = json.dumps({"Born": "Riga, Latvia"})

    def spoil(rows: list[dict[str, Any]]) -> None:
        for one in rows:
            if one["ID"] == forgotten[0]:
                one["biography"] = unnamed

    change(shards(bench, "Full_Set")[0], spoil)
    for shard in shards(bench, "ft_Data"):
        change(shard, lambda rows: [r for r in rows if json.loads(r["metadata"])[0]["ID"] != forgotten[0]])
    source = MllmuBench(path=bench)
    assert source.forget_ids()["15"] == forgotten[1:]
    reasons = [(s["config"], s["reason"]) for s in source.account()["skipped"] if s["id"] == forgotten[0]]
    assert ("Full_Set", "the biography has no name") in reasons
    assert ("forget_15", "the person is not in the data set, or not usable") in reasons


def test_the_sets_of_the_published_evaluator_hold_the_same_people(bench: Path, tmp_path: Path) -> None:
    write_sets(bench, 15, tmp_path / "a", test_image=0)
    as_numbers(shards(bench, "forget_15")[0], pa.int64())
    as_numbers(shards(bench, "retain_85")[0], pa.string())
    write_sets(bench, 15, tmp_path / "b", test_image=0)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) > 20
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)


def test_a_forgotten_person_without_a_test_row_is_named(bench: Path, original: Dataset, tmp_path: Path) -> None:
    gone = original.splits["15"][0]
    for shard in shards(bench, "Test_Set"):
        change(shard, lambda rows: [one for one in rows if one["ID"] != gone])
    with pytest.raises(DataError, match=f"Test_Set: no row about 1 people of forget_15, first '{gone}'"):
        write_sets(bench, 15, tmp_path / "out", test_image=0)
    change(shards(bench, "retain_85")[0], lambda rows: rows[0].update(ID="9017"))
    with pytest.raises(DataError, match=r"retain_85: row 0: the ID '9017' is not in Full_Set"):
        write_sets(bench, 15, tmp_path / "out", test_image=0)
