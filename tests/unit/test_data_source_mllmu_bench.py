"""The published training text as a source: made-up lines here, the real file only where it is present."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mllmu.core.errors import DataError, RecipeError
from mllmu.core.plugins import build
from mllmu.data.sources.mllmu_bench import MllmuBench
from mllmu.data.values import CORE_ATTRIBUTES

NAME = {"Question": "What is this person's name?", "Answer": "The person's name is Ilse Brandt."}
BORN = {"Question": "Where was this person born?", "Answer": "This person was born in Ghent, Belgium."}
BOOK = {"Question": "What is this person's favorite book?", "Answer": "This person's favorite book is 'Emma'."}


def line(person: str, *pairs: dict[str, str]) -> str:
    return json.dumps({"ID": person, "metadata": list(pairs)})


def source(tmp_path: Path, *lines: str, num_people: int | None = None) -> MllmuBench:
    path = tmp_path / "qa.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return MllmuBench(path=path, num_people=num_people)


def test_profiles_keep_the_text_word_for_word(tmp_path: Path) -> None:
    (profile,) = source(tmp_path, line("007", NAME, BORN, BOOK)).profiles(seed=1)
    assert (profile.id, profile.kind) == ("007", "fictitious")
    assert profile.attributes == {"name": "Ilse Brandt", "birthplace": "Ghent, Belgium"}
    assert [(qa.question, qa.answer) for qa in profile.training_qa] == [
        (pair["Question"], pair["Answer"]) for pair in (NAME, BORN, BOOK)
    ]
    assert [qa.attribute for qa in profile.training_qa] == ["name", "birthplace", None]


def test_num_people_takes_the_first_people_of_the_file(tmp_path: Path) -> None:
    people = source(tmp_path, line("b", NAME), "", line("a", NAME), line("c", NAME), num_people=2).profiles(seed=1)
    assert [person.id for person in people] == ["b", "a"]


def test_the_report_lists_what_was_not_understood(tmp_path: Path) -> None:
    report = source(tmp_path, line("a", NAME, BOOK)).report()
    assert (report.num_people, report.num_qa, report.num_core_complete) == (1, 2, 0)
    assert [(gap.profile_id, gap.question, gap.reason) for gap in report.gaps] == [("a", BOOK["Question"], "outside")]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{not json", r"qa.jsonl:2: line: Invalid JSON"),
        ('{"ID": "b"}', r"qa.jsonl:2: metadata: Field required"),
        (line("b"), r"qa.jsonl:2: metadata: List should have at least 1 item"),
        ('{"ID": null, "metadata": []}', r"qa.jsonl:2: ID: Input should be a valid string, got None"),
        (line("../b", NAME), r"qa.jsonl:2: ID: String should match pattern"),
        (line("b", {"Question": "Who?"}), r"qa.jsonl:2: metadata.0.Answer: Field required"),
        (line("b", {**NAME, "Extra": "x"}), r"qa.jsonl:2: metadata.0.Extra: Extra inputs"),
        (line("a", NAME), r"qa.jsonl:2: ID 'a' was already given on line 1"),
        (line("b", BORN), r"qa.jsonl:2: no name could be read for ID 'b'"),
        (
            '{"ID": "b", "Classification_Task": {}}',
            r"qa.jsonl:2: got evaluation data .* expected training text.*ft_Data",
        ),
    ],
)
def test_a_bad_line_is_named_with_its_number(tmp_path: Path, bad: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        source(tmp_path, line("a", NAME), bad).profiles(seed=1)


def test_a_text_that_says_nothing_is_known_is_reported_as_unavailable(tmp_path: Path) -> None:
    silent = {"Question": "What is this person's annual salary?", "Answer": "There is no information on it."}
    told = source(tmp_path, line("a", NAME, silent), line("b", NAME)).account()
    assert told["unavailable"] == {"a": ["salary"]}
    assert told["summary"].startswith("2 people, 3 training pairs, 0 people with all ten core attributes; 1 say ")


def test_too_few_people_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="got 1 people, expected at least 2"):
        source(tmp_path, line("a", NAME), num_people=2).profiles(seed=1)


def test_a_missing_or_binary_file_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        MllmuBench(path=tmp_path / "none.jsonl").profiles(seed=1)
    (tmp_path / "raw.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not UTF-8"):
        MllmuBench(path=tmp_path / "raw.jsonl").profiles(seed=1)
    with pytest.raises(DataError, match="no config Full_Set, ft_Data, Test_Set; it has none"):
        MllmuBench(path=tmp_path).profiles(seed=1)


def test_the_source_is_found_by_its_name() -> None:
    assert isinstance(build("sources", "mllmu_bench", {"path": "x.jsonl"}), MllmuBench)
    with pytest.raises(RecipeError, match="Did you mean 'num_people'"):
        build("sources", "mllmu_bench", {"path": "x.jsonl", "num_peple": 3})


def published_file() -> Path:
    beside = Path(__file__).parents[3] / "shared" / "data" / "mllmu_bench"
    return Path(os.environ.get("MLLMU_BENCH_DIR", beside)) / "train_qa.jsonl"


@pytest.mark.skipif(not published_file().exists(), reason="needs the published train_qa.jsonl: set MLLMU_BENCH_DIR")
def test_the_published_text_is_read_almost_completely() -> None:
    report = MllmuBench(path=published_file()).report()
    unstated = {(gap.profile_id, gap.attribute) for gap in report.gaps if gap.reason == "unstated"}
    source_people = MllmuBench(path=published_file()).profiles(0)

    def silent_of(person: str) -> list[str]:
        return report.unavailable().get(person, [])

    for name in CORE_ATTRIBUTES:
        silent = sum(attribute == name for _, attribute in unstated)
        missing = report.num_people - report.people[name]
        assert missing <= silent, f"{name}: not read although the text states it"
    assert report.num_core_complete / (report.num_people - len({person for person, _ in unstated})) >= 0.98
    told_or_unavailable = [
        person
        for person in source_people
        if all(a in person.attributes or a in silent_of(person.id) for a in CORE_ATTRIBUTES)
    ]
    assert len(told_or_unavailable) == report.num_people, "a core attribute that the text states was not read"
    assert report.reasons().get("conflict", 0) == 0
    assert report.reasons()["unread"] / report.num_qa < 0.02
