"""Who is forgotten: nested, seeded, by person, or exactly as a file says."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mllmu.config.recipe import Splits
from mllmu.core.errors import DataError
from mllmu.core.records import Profile
from mllmu.data.splits import forget_ids as draw

IDS = [f"{number:03d}" for number in range(1, 41)]


def people(ids: Sequence[str], **attributes: Sequence[str]) -> list[Profile]:
    own = [{name: values[n % len(values)] for name, values in attributes.items()} for n in range(len(ids))]
    return [Profile(id=i, kind="fictitious", attributes={"name": i, **more}) for i, more in zip(ids, own, strict=True)]


def forget_ids(ids: Sequence[str], splits: Splits, seed: int, **more: Any) -> dict[str, list[str]]:
    return draw(people(ids), splits, seed, **more)


def from_file(path: Path, content: object, *keys: str, ratios: tuple[float, ...] = (0.1,)) -> dict[str, list[str]]:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return forget_ids(IDS, Splits(file=path, keys=keys, forget_ratios=ratios), seed=0)


def test_a_ratio_forgets_its_share_in_the_order_of_the_people() -> None:
    chosen = forget_ids(IDS, Splits(forget_ratios=(0.05, 0.1, 0.5)), seed=0)
    assert {key: len(ids) for key, ids in chosen.items()} == {"5": 2, "10": 4, "50": 20}
    for ids in chosen.values():
        assert ids == sorted(set(ids)) and set(ids) <= set(IDS)


def test_who_is_forgotten_at_a_low_ratio_is_forgotten_at_a_high_one() -> None:
    chosen = forget_ids(IDS, Splits(forget_ratios=(0.5, 0.05, 0.1)), seed=3)
    assert set(chosen["5"]) < set(chosen["10"]) < set(chosen["50"])


def test_the_draw_depends_on_the_seed_and_on_nothing_else() -> None:
    splits = Splits(forget_ratios=(0.25,))
    first = forget_ids(IDS, splits, seed=0)
    assert forget_ids(IDS, splits, seed=0) == first
    assert forget_ids(IDS, splits, seed=1) != first
    assert set(forget_ids(IDS[::-1], splits, seed=0)["25"]) == set(first["25"])


def test_nobody_is_drawn_much_more_often_than_the_others() -> None:
    times = dict.fromkeys(IDS, 0)
    for seed in range(200):
        for person in forget_ids(IDS, Splits(forget_ratios=(0.25,)), seed)["25"]:
            times[person] += 1
    # 200 draws with chance 1/4: mean 50, standard deviation 6.1
    assert all(25 <= count <= 75 for count in times.values())


def test_somebody_is_forgotten_however_low_the_ratio() -> None:
    assert len(forget_ids(IDS[:4], Splits(forget_ratios=(0.01,)), seed=0)["1"]) == 1


def test_one_of_two_people_can_be_forgotten() -> None:
    assert len(forget_ids(["a", "b"], Splits(forget_ratios=(0.1,)), seed=0)["10"]) == 1


@pytest.mark.parametrize(("num", "ratio"), [(1, 0.1), (0, 0.1), (4, 0.9), (2, 0.8)])
def test_a_ratio_that_leaves_nobody_to_retain_is_refused(num: int, ratio: float) -> None:
    with pytest.raises(DataError, match=f"{ratio:g} of {num} people leaves nobody to retain. Lower the ratio"):
        forget_ids(IDS[:num], Splits(forget_ratios=(ratio,)), seed=0)


def test_ids_of_a_file_are_taken_as_they_are(tmp_path: Path) -> None:
    content = {"five": ["002", "001"], "ten": ["040", "039", "038", "037"], "not asked for": "anything"}
    chosen = from_file(tmp_path / "ids.json", content, "ten", "five", ratios=(0.1, 0.05))
    assert chosen == {"10": ["037", "038", "039", "040"], "5": ["001", "002"]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"forget_10": ["001", "041", "042"]}, "'forget_10' names 2 people that the source does not have, first '041'"),
        ({"forget_10": IDS}, "'forget_10' names all 40 people; nobody would be retained"),
        ({"forget_10": []}, "no list of ids under 'forget_10'"),
        ({"forget_10": "001"}, "no list of ids under 'forget_10'"),
        ({"forget10": ["001"]}, "no list of ids under 'forget_10'. Did you mean 'forget10'. Keys: forget10"),
        ({"forget_10": [1, 2, 3, 4]}, "names 4 people that the source does not have, first '1'"),
        ({"forget_10": IDS[:20]}, "'forget_10' names 20 of 40 people, 50 %, but .* is 0.1"),
        ({"forget_10": IDS[:1]}, "'forget_10' names 1 of 40 people, 2.5 %, but"),
        ([], "expected an object of lists of ids, got list"),
        ("{", r"not JSON \(.*Expected a JSON object of lists of ids"),
    ],
)
def test_a_file_that_does_not_fit_is_an_error_that_names_it(content: object, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"ids\.json: .*{said}"):
        from_file(tmp_path / "ids.json", content, "forget_10")


def test_listed_people_whom_a_review_left_out_are_dropped_and_others_who_are_nowhere_stay_an_error(
    tmp_path: Path,
) -> None:
    """37 of 40 people are left: of the four listed ones two."""
    left, gone = [i for i in IDS if i not in ("002", "004", "040")], ("002", "004", "040")
    listed = ["004", "001", "003", "002"]
    path = tmp_path / "ids.json"
    path.write_text(json.dumps({"k": listed, "odd": [*listed[:3], "041"], "all": ["002", "004", "040"]}))
    by_file = forget_ids(left, Splits(file=path, keys=("k",), forget_ratios=(0.1,)), seed=0, left_out=gone)
    by_source = forget_ids(left, Splits(forget_ratios=(0.1,)), seed=0, prescribed={"10": listed}, left_out=gone)
    assert by_file == by_source == {"10": ["001", "003"]}
    with pytest.raises(DataError, match="names 1 people that the source does not have, first '041'"):
        forget_ids(left, Splits(file=path, keys=("odd",), forget_ratios=(0.1,)), seed=0, left_out=gone)
    with pytest.raises(DataError, match=r"after the review 0 of the 3 people under 'all' are left.*nobody to forget"):
        forget_ids(left, Splits(file=path, keys=("all",), forget_ratios=(0.1,)), seed=0, left_out=gone)
    with pytest.raises(DataError, match="first '002'"):
        forget_ids(left, Splits(file=path, keys=("k",), forget_ratios=(0.1,)), seed=0)


def test_a_file_may_miss_its_ratio_by_a_person(tmp_path: Path) -> None:
    assert len(from_file(tmp_path / "ids.json", {"k": IDS[:5]}, "k")["10"]) == 5


def test_a_missing_file_and_a_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json: no such file\. data\.splits\.file names"):
        forget_ids(IDS, Splits(file=tmp_path / "none.json", keys=("k",)), seed=0)
    with pytest.raises(DataError, match=r"cannot be read \(Is a directory\)\. Expected a JSON object of lists of ids"):
        forget_ids(IDS, Splits(file=tmp_path, keys=("k",)), seed=0)


def test_a_skewed_draw_takes_a_group_as_many_times_likelier_as_it_says() -> None:
    everyone = people(IDS, gender=["female", "male"], birthplace=["Riga, Latvia", "Oslo, Norway", "Ghent, Belgium"])
    first: Counter[str] = Counter()
    for seed in range(400):
        splits = Splits(forget_ratios=(0.025,), skew={"female": 3, "from Latvia": 2})
        (person,) = draw(everyone, splits, seed)["2.5"]
        first[person] += 1
    weight = {
        p.id: (3 if p.attributes["gender"] == "female" else 1) * (2 if "Latvia" in p.attributes["birthplace"] else 1)
        for p in everyone
    }
    expected = 400 * sum(weight[p.id] for p in everyone if p.attributes["gender"] == "female") / sum(weight.values())
    women = sum(first[p.id] for p in everyone if p.attributes["gender"] == "female")
    assert abs(women - expected) < 3 * (expected * (1 - expected / 400)) ** 0.5


def test_equal_weights_draw_who_is_drawn_without_any() -> None:
    everyone = people(IDS, gender=["female", "male"])
    plain, weighted = (
        draw(everyone, Splits(forget_ratios=(0.1, 0.5), skew=skew), 0) for skew in ({}, {"female": 1, "male": 1})
    )
    assert plain == weighted


def test_a_group_that_nobody_belongs_to_is_named_with_those_there_are() -> None:
    everyone = people(IDS, gender=["female", "male"])
    with pytest.raises(DataError, match=r"data\.splits\.skew: nobody is 'femal'\. Did you mean 'female'.*female, male"):
        draw(everyone, Splits(forget_ratios=(0.1,), skew={"femal": 2}), 0)
    with pytest.raises(DataError, match="neither gender nor date"):
        forget_ids(IDS, Splits(forget_ratios=(0.1,), skew={"female": 2}), 0)
    with pytest.raises(ValueError, match="leave it out where a file"):
        Splits(file=Path("ids.json"), keys=("a",), forget_ratios=(0.1,), skew={"female": 2})
