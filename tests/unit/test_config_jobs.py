"""Every method entry becomes models with names of their own that are safe as folders."""

from __future__ import annotations

from typing import Any

import pytest

from mllmu.config.load import parse
from mllmu.config.recipe import Job, jobs
from mllmu.core.names import BASELINES, RETAIN_MODEL, TARGET
from mllmu.unlearning.base import Method


class chance(Method):  # noqa: N801 - named like a row of the report
    """A method whose class has an unlucky name. Cost: none."""


class target(Method):  # noqa: N801 - named like another model
    """A method whose class has an unlucky name. Cost: none."""


def jobs_of(*methods: Any) -> list[Job]:
    return jobs(parse({"name": "mini", "unlearn": {"methods": list(methods)}}))


def names(*methods: Any) -> list[str]:
    return [job.name for job in jobs_of(*methods)]


def test_a_model_is_called_like_its_method() -> None:
    assert names("ga", {"name": "npo", "beta": 0.1}, "prompting") == ["ga", "npo", "prompting"]


def test_two_entries_of_one_method_get_names_of_their_own() -> None:
    found = jobs_of("npo", {"name": "npo", "beta": 0.1}, {"name": "npo", "beta": 0.2})
    assert [job.name for job in found] == ["npo", "npo_2", "npo_3"]
    assert [job.method.beta for job in found] == [0.4, 0.1, 0.2]


def test_several_modalities_are_several_models_with_the_modality_in_the_name() -> None:
    found = jobs_of({"name": "ga", "modality": ["image_text", "text"]}, "ga", {"name": "ga", "modality": "text"})
    assert [job.name for job in found] == ["ga_image_text", "ga_text", "ga", "ga_2"]
    assert [job.method.modality for job in found] == ["image_text", "text", "image_text", "text"]


def test_a_method_by_its_path_is_called_like_its_class_and_never_like_another_row() -> None:
    here = "test_config_jobs"
    assert names(f"{here}:chance", f"{here}:target", "retrain") == ["chance_2", "target_2", "retrain"]
    assert {TARGET, RETAIN_MODEL, *BASELINES} == {"target", "retain_model", "chance", "best_constant", "majority"}


def test_no_method_is_no_job() -> None:
    assert names() == []


@pytest.mark.parametrize("entry", ["ga", {"name": "npo", "modality": ["text"]}, "test_config_jobs:chance"])
def test_names_are_safe_as_folders(entry: Any) -> None:
    assert all(character.isalnum() or character in "_-" for character in names(entry)[0])
