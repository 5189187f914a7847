"""The arithmetic of depth: similarity of representations, erased depth, and probes with a control.

Shapes: N tokens or questions, D and E hidden sizes, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

MIN_DROP = 0.05
"""Layers where even the retain_model's state takes away less than this, in nats, say nothing about erasure."""


def cka(x_ND: Tensor, y_ND: Tensor) -> float | None:
    """Linear CKA with the unbiased estimator of HSIC; 1 for states that differ by a rotation and a scale only.

    cka = hsic(x, y) / sqrt(hsic(x, x) * hsic(y, y)); hsic(x, y) from the Gram matrices without their diagonals
    (Song et al. 2012). Needs at least four rows, else None; None too if the rows of one side are all alike.

    Source: Kornblith et al. 2019, arXiv:1905.00414; the unbiased estimator as in Nguyen et al. 2021, arXiv:2010.15327.
    """
    if len(x_ND) < 4:
        return None
    k_NN, l_NN = _gram(x_ND), _gram(y_ND)
    scale = _hsic(k_NN, k_NN) * _hsic(l_NN, l_NN)
    return None if scale <= 0 else float(_hsic(k_NN, l_NN) / scale**0.5)


def _gram(x_ND: Tensor) -> Tensor:
    centred_ND = x_ND.double() - x_ND.double().mean(0)
    gram_NN = centred_ND @ centred_ND.T
    return gram_NN.fill_diagonal_(0)


def _hsic(k_NN: Tensor, l_NN: Tensor) -> float:
    n = len(k_NN)
    trace = (k_NN * l_NN).sum()
    outer = k_NN.sum() * l_NN.sum() / ((n - 1) * (n - 2))
    cross = 2 * (k_NN.sum(0) * l_NN.sum(0)).sum() / (n - 2)
    return float((trace + outer - cross) / (n * (n - 3)))


def erased(drop_model: float, drop_retain_model: float) -> float | None:
    """Share of a layer's knowledge that is gone: clip(drop of the model / drop of the retain_model, 0, 1).

    A drop is what the target's log p of the reply loses when its state behind the layer is replaced by another
    model's. None where the retain_model's state takes nothing away either.

    >>> erased(0.5, 2.0), erased(3.0, 2.0), erased(-0.1, 2.0), erased(1.0, 0.01)
    (0.25, 1.0, 0.0, None)
    """
    return None if drop_retain_model < MIN_DROP else min(1.0, max(0.0, drop_model / drop_retain_model))


def erased_depth(drops_model: Sequence[float], drops_retain_model: Sequence[float]) -> float | None:
    """Mean of :func:`erased` over the layers, weighted by the retain_model's drop; 1 is erased as if never learned.

    >>> erased_depth([1.0, 1.0], [1.0, 3.0])
    0.5
    """
    pairs = [(erased(m, r), r) for m, r in zip(drops_model, drops_retain_model, strict=True)]
    known = [(share, weight) for share, weight in pairs if share is not None]
    return sum(share * weight for share, weight in known) / sum(weight for _, weight in known) if known else None


def probe(train_ND: Tensor, train_N: Tensor, test_ND: Tensor, test_N: Tensor, *, ridge: float = 1.0) -> float:
    """Accuracy on ``test`` of a linear classifier of ``train``: ridge regression on one-hot classes, in closed form.

    Features are standardised by the training rows. Nothing is random and nothing is tuned.
    """
    classes = int(train_N.max()) + 1
    mean_D, std_D = train_ND.mean(0), train_ND.std(0).clamp(min=1e-6)
    x_ND = _with_constant((train_ND - mean_D) / std_D)
    y_NC = torch.eye(classes, dtype=x_ND.dtype)[train_N]
    penalty_EE = ridge * len(x_ND) * torch.eye(x_ND.shape[1], dtype=x_ND.dtype) / x_ND.shape[1]
    weights_EC = torch.linalg.solve(x_ND.T @ x_ND + penalty_EE, x_ND.T @ y_NC)
    chosen_N = (_with_constant((test_ND - mean_D) / std_D) @ weights_EC).argmax(1)
    return float((chosen_N == test_N).double().mean())


def _with_constant(x_ND: Tensor) -> Tensor:
    return torch.cat([x_ND, torch.ones(len(x_ND), 1, dtype=x_ND.dtype)], dim=1)
