"""The fused way of a GPU, with its kernel written out by hand: the replies and likelihoods of the plain path."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers_families import build
from helpers_models import answers, load_ref, sample
from torch import Tensor

from mllmu.models.engine import decode_graph, forward, ragged, tree
from mllmu.models.families import Turn

PROMPTS = [
    "Which colour has her hat?",
    "Where?",
    "Who was this person born in 1987?",
    "born",
    "Which colour and where?",
]
CALLS: list[int] = []


def by_hand(
    q_XHD: Tensor, k_TKD: Tensor, v_TKD: Tensor, pieces: ragged.Pieces, scale: float, *, causal: bool = False
) -> tuple[Tensor, Tensor]:
    """Piece by piece and head by head."""
    CALLS.append(int(pieces.first_q[-1]))
    assert pieces.first_q.dtype == pieces.first_k.dtype == torch.int32
    assert int(pieces.first_q[-1]) == len(q_XHD) and int(pieces.first_q.diff().max()) <= pieces.most_q
    out, weight = torch.zeros_like(q_XHD), torch.zeros(q_XHD.shape[:2])
    fold = q_XHD.shape[1] // k_TKD.shape[1]
    for piece in range(len(pieces.first_q) - 1):
        q = slice(int(pieces.first_q[piece]), int(pieces.first_q[piece + 1]))
        first, end = int(pieces.first_k[piece]), int(pieces.first_k[piece + 1])
        end = end if pieces.seen is None else first + int(pieces.seen[piece])
        assert end - first <= pieces.most_k
        for head in range(q_XHD.shape[1]) if q.stop > q.start else ():
            scores = scale * q_XHD[q, head] @ k_TKD[first:end, head // fold].T
            if causal:
                scores = scores + torch.full_like(scores, -torch.inf).triu(1)
            weight[q, head] = scores.logsumexp(-1)
            out[q, head] = scores.softmax(-1) @ v_TKD[first:end, head // fold]
    return out, weight


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU goes the way of a GPU."""
    monkeypatch.setattr(tree, "RAGGED", ("cpu",))
    monkeypatch.setattr(ragged, "usable", lambda *_: True)
    monkeypatch.setattr(ragged, "varlen", by_hand)
    monkeypatch.setattr(forward, "decode", decode_graph.decode)
    monkeypatch.setattr(decode_graph, "FEWEST_ROWS", 2)


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "idefics2"])
def test_the_fused_way_gives_the_replies_and_likelihoods_of_the_plain_path(
    name: str, fused: None, tmp_path: Path
) -> None:
    base = build(name, tmp_path)
    loaded = load_ref(base)
    turns, samples = [], []
    for number in range(9):
        image = ["red", "green", ""][number // 3]
        prompt = PROMPTS[number % len(PROMPTS)]
        shown = [Turn(prompt="Who?", reply="Ada Bell", image=base / "blue.png")] * (number % 2)
        turns.append(Turn(prompt=prompt, image=base / f"{image}.png" if image else None, before=tuple(shown)))
        candidates = {"a": "her hat was red", "b": PROMPTS[number % 3], "c": "Riga"}
        samples.append(sample(number, prompt=prompt, max_new_tokens=1 + 5 * number % 7, candidates=candidates))
    CALLS.clear()
    (shared, logps), (alone, expected) = (answers(loaded, samples, turns, share=share) for share in (True, False))
    assert CALLS, "the kernel was used"
    assert shared == alone
    assert logps == pytest.approx(expected, abs=1e-4)
