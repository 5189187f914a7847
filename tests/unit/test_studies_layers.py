"""The arithmetic on layers by hand, and the page it ends in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mllmu.evaluation.inside import ErasureRow, LayerRow, cka, erased, mean_erased, ridge_accuracy
from mllmu.studies.layers.study import LayersResult, write_page


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_cka_ignores_rotation_and_scale_and_is_near_zero_for_unrelated_states() -> None:
    x = noise(0, 60, 8)
    rotation, _ = torch.linalg.qr(noise(1, 8, 8))
    assert cka(x, 3 * x @ rotation + 5) == pytest.approx(1.0)
    unrelated = cka(x, noise(2, 60, 8))
    assert unrelated is not None
    assert abs(unrelated) < 0.1, "the plain estimator would give about 0.2 here"
    assert cka(x[:3], x[:3]) is None
    assert cka(torch.ones(6, 2), x[:6]) is None


def test_the_unbiased_hsic_is_the_sum_over_distinct_rows() -> None:
    # the U-statistic over all ordered quadruples of distinct rows, written out; cka divides three of them
    from itertools import permutations

    def by_hand(a: torch.Tensor, b: torch.Tensor) -> float:
        k, l = a @ a.T, b @ b.T  # noqa: E741
        quads = list(permutations(range(len(a)), 4))
        return float(sum(k[i, j] * (l[i, j] + l[p, q] - 2 * l[i, p]) for i, j, p, q in quads) / len(quads))

    x, y = noise(3, 6, 2).double(), noise(4, 6, 3).double()
    expected = by_hand(x, y) / (by_hand(x, x) * by_hand(y, y)) ** 0.5
    assert cka(x, y) == pytest.approx(expected)


def test_erased_is_the_share_of_the_yardstick_and_silent_where_that_is_nothing() -> None:
    assert erased(0.5, 2.0) == 0.25
    assert (erased(3.0, 2.0), erased(-1.0, 2.0), erased(1.0, 0.01)) == (1.0, 0.0, None)
    # layers weigh 1, 3 and nothing: (1 * 1 + 3 * 0.5) / 4
    assert mean_erased([1.0, 1.5, 9.0], [1.0, 3.0, 0.0]) == pytest.approx(0.625)
    assert mean_erased([1.0], [0.0]) is None


def test_a_probe_finds_a_linear_class_and_nothing_in_noise() -> None:
    classes = torch.arange(40) % 2
    x = noise(5, 40, 6).double()
    seen = x.clone()
    seen[:, 2] += 6 * classes
    assert ridge_accuracy(seen[:30], classes[:30], seen[30:], classes[30:]) == 1.0
    assert ridge_accuracy(x[:30], classes[:30], x[30:], classes[30:]) < 0.9


def test_the_page_escapes_names_and_shows_a_dash_for_what_is_unknown(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    layers = [
        LayerRow(model=model, modality="text", layer=layer, readable=0.1 * layer, logp=-1.0, similarity=0.5)
        for model in ("retain_model", "target", evil)
        for layer in range(3)
    ]
    models = [ErasureRow(model=evil, modality="text", erased=None, num_questions=2, num_tokens=4)]
    page = write_page(LayersResult(title=evil, num_people=2, layers=tuple(layers), models=tuple(models)), tmp_path)
    text = page.read_text(encoding="utf-8")
    assert "<script>alert" not in text and "&lt;script&gt;alert" in text
    assert "–" in text
    assert "Erased from the layer" not in text, "nothing was measured"
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["layers_readable.png", "layers_similarity.png"]
