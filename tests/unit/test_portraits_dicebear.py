"""Drawn portraits: the same person always looks the same, and two people never do."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image

from mllmu.core.errors import DataError
from mllmu.core.plugins import find
from mllmu.core.process import rng
from mllmu.core.records import Profile
from mllmu.data.portraits import transform
from mllmu.data.portraits.dicebear import OLD_HAIR, RELIGIOUS, DiceBear, features, sprites


def person(number: int, gender: str = "female", born: str = "May 14, 1988", **more: str) -> Profile:
    attributes = {"name": f"Person {number}", "gender": gender, "birth_date": born, **more}
    return Profile(id=f"person_{number:03d}", kind="fictitious", attributes=attributes)


def crowd(num: int, gender: str, born: str = "May 14, 1988") -> list[dict[str, str]]:
    return [features(person(number, gender, born), 0) for number in range(num)]


def num_differences(one: dict[str, str], other: dict[str, str]) -> int:
    return sum(one[key] != other[key] for key in one)


def test_backend_is_found_by_its_file_name() -> None:
    assert find("portraits", "dicebear") is DiceBear


def test_portrait_is_opaque_rgb_of_the_wanted_size_in_every_view() -> None:
    backend = DiceBear(size=64)
    for view in range(backend.num_views):
        image = backend.render(person(1), view, 0)
        assert (image.mode, image.size) == ("RGB", (64, 64))


def test_same_person_view_and_seed_give_the_same_pixels() -> None:
    for view in (0, 2):
        first, again = (DiceBear(size=64).render(person(1), view, 5) for _ in range(2))
        assert first.tobytes() == again.tobytes()


def test_views_do_not_depend_on_how_many_there_are() -> None:
    few, many = DiceBear(size=64, num_views=2), DiceBear(size=64, num_views=9)
    assert few.render(person(1), 1, 0).tobytes() == many.render(person(1), 1, 0).tobytes()


def test_another_seed_draws_another_person() -> None:
    assert num_differences(features(person(1), 0), features(person(1), 1)) >= 3


def test_identity_depends_on_the_id_and_not_on_the_name() -> None:
    renamed = person(1).model_copy(update={"attributes": {**person(1).attributes, "name": "Somebody Else"}})
    assert features(renamed, 0) == features(person(1), 0)


def test_all_views_of_a_person_differ_clearly_from_each_other() -> None:
    backend = DiceBear(size=64, num_views=9)
    views = [np.asarray(backend.render(person(3), view, 0), dtype=np.int16) for view in range(9)]
    for one, other in itertools.combinations(views, 2):
        assert np.abs(one - other).mean() > 8


def test_two_people_differ_in_three_visible_features_almost_always() -> None:
    people = crowd(60, "female") + [features(person(number, "male"), 0) for number in range(60, 120)]
    pairs = list(itertools.combinations(people, 2))
    assert sum(num_differences(*pair) >= 3 for pair in pairs) / len(pairs) > 0.995


def test_different_features_are_visible_in_the_image() -> None:
    backend = DiceBear(size=64)
    images = [np.asarray(backend.render(person(number), 0, 0), dtype=np.int16) for number in range(10)]
    for one, other in itertools.combinations(images, 2):
        assert np.abs(one - other).mean() > 5


def test_women_and_children_have_no_beard_and_many_men_do() -> None:
    assert {one["facial_hair"] for one in crowd(80, "female")} == {"none"}
    assert {one["facial_hair"] for one in crowd(80, "male", "2015")} == {"none"}
    assert sum(one["facial_hair"] != "none" for one in crowd(80, "male")) > 20


def test_grey_hair_comes_with_age() -> None:
    young, old = (
        sum(one["hair_colour"] in OLD_HAIR for one in crowd(80, "male", born)) for born in ("1998", "March 3, 1940")
    )
    assert young == 0
    assert old > 30


def test_people_who_lived_wear_no_invented_religious_dress_or_dyed_hair() -> None:
    for number in range(120):
        gender = "male" if number % 2 else "female"
        attributes = {"name": "X", "gender": gender, "birth_year": "1867", "death_year": "1900"}
        traits = features(Profile(id=f"c{number}", kind="celebrity", attributes=attributes), 0)
        assert traits["headwear"] not in RELIGIOUS
        assert traits["hair_colour"] not in {"pink", "blue", "violet", "green"}


def test_person_without_gender_or_age_still_has_a_portrait() -> None:
    stranger = Profile(id="x", kind="fictitious", attributes={"name": "X"})
    assert DiceBear(size=64).render(stranger, 1, 0).size == (64, 64)


def test_unknown_view_is_refused_with_the_range() -> None:
    with pytest.raises(DataError, match=r"no view 4; expected 0 to 3"):
        DiceBear().render(person(1), 4, 0)


def test_sprites_are_transparent_distinct_and_start_with_the_canonical_face() -> None:
    images = sprites(person(1), 0, num=6, size=48)
    assert {(image.mode, image.size) for image in images} == {("RGBA", (48, 48))}
    assert images[0].getpixel((0, 0))[3] == 0  # type: ignore[index]
    assert len({image.tobytes() for image in images}) == 6
    canonical = np.asarray(DiceBear(size=48).render(person(1), 0, 0))
    solid = np.asarray(images[0])[..., 3] == 255
    assert (np.asarray(images[0])[..., :3][solid] == canonical[solid]).all()


def test_transform_of_strength_zero_only_adds_the_background() -> None:
    sprite = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    sprite.paste((200, 10, 20, 255), (10, 10, 30, 30))
    image = transform(sprite, rng(0), 0.0, background="#010203")
    assert image.getpixel((0, 0)) == (1, 2, 3)
    assert image.getpixel((20, 20)) == (200, 10, 20)


def test_transformed_figure_reaches_the_lower_edge_and_the_background_fills_the_rest() -> None:
    sprite = Image.new("RGBA", (60, 60), (0, 0, 0, 0))
    sprite.paste((255, 0, 0, 255), (10, 30, 50, 60))
    for number in range(30):
        pixels = np.asarray(transform(sprite, rng(number), 1.0, background="#0000ff"), dtype=np.int16)
        assert pixels[-1, 25:35, 0].min() > 100, "a gap opened below the shoulders"
        assert pixels[0, :, 2].min() > 100, "a corner stayed empty"


def test_transformed_photograph_has_no_background_in_its_corners() -> None:
    photo = Image.new("RGB", (60, 60), (200, 200, 200))
    for number in range(10):
        pixels = np.asarray(transform(photo, rng(number), 1.0, background="#000000"))
        assert pixels.min() > 100
