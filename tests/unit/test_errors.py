"""The error tree and the sentences its helpers build."""

from __future__ import annotations

import pytest

from mllmu.core.errors import DependencyError, MllmuError, did_you_mean, needs_extra


def test_a_missing_library_is_one_sentence_with_the_command_that_installs_it() -> None:
    expected = r"^x: No module named 'nowhere_at_all'. Install .*'mllmu\[tune\]'\.$"
    with pytest.raises(DependencyError, match=expected), needs_extra("x", "tune"):
        import nowhere_at_all  # noqa: F401
    assert issubclass(DependencyError, MllmuError)


def test_other_faults_inside_an_optional_import_are_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError), needs_extra("x", "tune"):
        1 / 0  # noqa: B018


def test_the_nearest_word_is_named_or_none() -> None:
    assert did_you_mean("grad_dif", ["ga", "grad_diff"]) == " Did you mean 'grad_diff'?"
    assert did_you_mean("zzz", ["ga"]) == ""
