"""Cosines between face embeddings: who is nearest, who is another face, who looks alike."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.portraits_identity import measure
from mllmu.data.portraits._faces import cosines, look_alike


def vectors(*rows: list[float]) -> np.ndarray:
    return np.asarray(rows, dtype=np.float32)


def test_a_cosine_does_not_depend_on_length_and_nothing_is_like_the_zero_vector() -> None:
    assert cosines(vectors([2, 0], [0, 0]), vectors([5, 0], [1, 1])) == pytest.approx(vectors([1, 0.5**0.5], [0, 0]))


def test_the_worked_example_one_of_two_views_finds_its_person() -> None:
    # portraits on the axes, so a view's cosines are its own coordinates
    found = measure(vectors([1, 0], [0, 1]), vectors([0.8, 0.6], [0.8, 0.6]))
    assert found.nearest == 0.5 and found.ranked == 0.5
    assert (found.same, found.other, found.closest_other) == pytest.approx((0.7, 0.7, 0.7))


def test_the_most_similar_earlier_face_is_found_if_it_is_similar_enough() -> None:
    earlier = list(vectors([0, 1], [1, 0.2], [1, 0.1]))
    assert look_alike(vectors([1, 0])[0], earlier, 0.9) == 2
    assert look_alike(vectors([1, 0])[0], earlier[:1], 0.9) is None
    assert look_alike(vectors([1, 0])[0], earlier[:0], 0.9) is None
