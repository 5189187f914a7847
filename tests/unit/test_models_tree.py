"""Attention level by level is attention over everything that a token sees, computed in one go by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mllmu.models.engine import tree
from mllmu.models.engine.tree import AttentionRule, NodeLayout, TreeLevel, TreePass, attend_keys, join
from mllmu.models.engine.visibility import highest

HEADS, KEYS, SIZE = 4, 2, 8
CPU = torch.device("cpu")
counts = st.integers(1, 5)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape)


class Written:
    """Every sequence in full, kept apart: keys, values and the queries' results by hand."""

    def __init__(self, rule: AttentionRule, *, beyond: bool = False) -> None:
        self.rule, self.beyond = rule, beyond
        self.chains: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {(): (random(0, KEYS, SIZE), random(0, KEYS, SIZE))}

    def add(
        self,
        before: tuple[int, ...],
        node: int,
        q_THD: Tensor,
        k_TKD: Tensor,
        v_TKD: Tensor,
        ahead_T: Tensor | None = None,
    ) -> Tensor:
        k_SKD, v_SKD = (torch.cat(pair) for pair in zip(self.chains[before], (k_TKD, v_TKD), strict=True))
        self.chains[(*before, node)] = (k_SKD, v_SKD)
        k_SHD, v_SHD = (x.repeat_interleave(HEADS // KEYS, dim=1) for x in (k_SKD, v_SKD))
        score_HTS = torch.einsum("thd,shd->hts", q_THD, k_SHD) * self.rule.scale
        if self.rule.softcap:
            score_HTS = self.rule.softcap * torch.tanh(score_HTS / self.rule.softcap)
        far_TS = torch.arange(len(k_SKD) - len(q_THD), len(k_SKD))[:, None] - torch.arange(len(k_SKD))
        later_TS, far_TS = far_TS < 0, far_TS >= (self.rule.window or len(k_SKD))
        if ahead_T is not None:
            ahead_S = torch.cat([torch.full((len(k_SKD) - len(k_TKD),), -1), ahead_T])
            apart_TS = (ahead_T[:, None] != ahead_S) | (ahead_T < 0)[:, None]
            later_TS, far_TS = later_TS & apart_TS, far_TS & apart_TS if self.beyond else far_TS
        score_HTS = score_HTS.masked_fill(later_TS | far_TS, -torch.inf)
        if self.rule.sinks is not None:
            sinks_HT1 = self.rule.sinks[:, None, None].expand(-1, len(q_THD), 1)
            score_HTS = torch.cat([score_HTS, sinks_HT1], dim=-1)
            v_SHD = torch.cat([v_SHD, torch.zeros_like(v_SHD[:1])])
        return torch.einsum("hts,shd->thd", score_HTS.softmax(-1), v_SHD)


def run(
    level: TreeLevel,
    written: Written,
    names: Sequence[tuple[int, ...]],
    sizes: list[int],
    ahead_M: Tensor | None = None,
) -> None:
    """Read random tokens of all nodes and compare; ``names`` are the sequences that end with each node's parent."""
    current = TreePass(level, range(len(sizes)), sizes, CPU, ahead_M=ahead_M, ahead_of_windows=written.beyond)
    q, k, v = random(sum(sizes), HEADS, SIZE), random(sum(sizes), KEYS, SIZE), random(sum(sizes), KEYS, SIZE)
    got = current.attend(0, q, k, v, written.rule).split(sizes)
    parts = [x.split(sizes) for x in ((q, k, v) if ahead_M is None else (q, k, v, ahead_M))]
    for node, name in enumerate(names):
        expected = written.add(name, node, *(part[node] for part in parts))
        torch.testing.assert_close(got[node], expected, atol=1e-5, rtol=1e-4)


@settings(max_examples=40, deadline=None)
@given(
    data=st.data(),
    roots=st.lists(counts, min_size=1, max_size=3),
    children=st.lists(st.tuples(st.integers(0, 2), counts), min_size=1, max_size=6),
    window=st.sampled_from([None, None, 3, 100]),
    few=st.sampled_from([0, 2, 100]),
    softcap=st.sampled_from([None, None, 0.7]),
    mutual=st.sampled_from(["", "within windows", "beyond windows"]),
    sinks=st.booleans(),
)
def test_every_token_gets_what_it_gets_in_a_sequence_of_its_own(
    data: st.DataObject,
    roots: list[int],
    children: list[tuple[int, int]],
    window: int | None,
    few: int,
    softcap: float | None,
    mutual: str,
    sinks: bool,
) -> None:
    torch.manual_seed(0)
    tree.FEW, before = few, tree.FEW
    try:
        rule = AttentionRule(SIZE**-0.5, window, softcap, torch.randn(HEADS) if sinks else None)
        written, top = Written(rule, beyond=mutual == "beyond windows"), TreeLevel(None, [0] * len(roots))
        ahead_M = torch.randint(-1, 2, (sum(roots),)) if mutual else None
        run(top, written, [()] * len(roots), roots, ahead_M)
        parents = [parent % len(roots) for parent, _ in children]
        middle = TreeLevel(top, parents)
        names = [(parent,) for parent in parents]
        sizes = [size for _, size in children]
        ahead_M = torch.randint(-1, 2, (sum(sizes),)) if mutual else None
        run(middle, written, names, sizes, ahead_M)
        going, level = list(range(len(parents))), None
        place: dict[int, int] = {}
        for _ in range(data.draw(st.integers(0, 5))):
            if level is None or data.draw(st.booleans()):
                level = (level or middle).growing([place.get(i, i) for i in going])
                place = {i: number for number, i in enumerate(going)}
            current = TreePass(level, [place[i] for i in going], [1] * len(going), CPU)
            q, k, v = (random(len(going), heads, SIZE) for heads in (HEADS, KEYS, KEYS))
            got = current.attend(0, q, k, v, rule)
            for row, i in enumerate(going):
                chain = (parents[i], i)
                expected = written.add(chain, -1, q[row][None], k[row][None], v[row][None])
                written.chains[chain] = written.chains.pop((*chain, -1))
                torch.testing.assert_close(got[row][None], expected, atol=1e-5, rtol=1e-4)
            going = sorted(data.draw(st.sets(st.sampled_from(going), min_size=1)))
    finally:
        tree.FEW = before


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("heads", [KEYS, HEADS])
def test_both_kernels_give_the_same_at_once_or_in_parts(
    causal: bool, heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    q, k, v = random(3, heads, 5, SIZE), random(3, KEYS, 5, SIZE), random(3, KEYS, 5, SIZE)
    mask = None if causal else torch.zeros(3, 1, 5, 5).masked_fill(torch.rand(3, 1, 5, 5) < 0.3, torch.finfo().min)
    found = []
    for few, scores in ((0, 1), (100, 2**20), (100, 3 * KEYS * 5 * 2)):
        monkeypatch.setattr(tree, "FEW", few)
        monkeypatch.setattr(tree, "MOST_SCORES", scores)
        found.append(attend_keys(q, k, v, AttentionRule(0.3), mask, causal=causal))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], atol=1e-5, rtol=1e-4)


def test_two_levels_count_by_the_weight_of_their_keys() -> None:
    """Weights e^0 = 1 and 3 e^0 = 3 of four equal keys: the mean of one and three."""
    q = torch.zeros(1, 1, 1, 2)
    one = attend_keys(q, torch.zeros(1, 1, 1, 2), torch.full((1, 1, 1, 2), 4.0), AttentionRule(1.0), None, causal=False)
    three = attend_keys(
        q, torch.zeros(1, 1, 3, 2), torch.full((1, 1, 3, 2), 8.0), AttentionRule(1.0), None, causal=False
    )
    assert one[1].item() == 0
    assert three[1].item() == pytest.approx(1.0986, abs=1e-4)
    assert join([one, three]).flatten().tolist() == pytest.approx([7, 7])


@given(owners=st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_tokens_come_back_from_where_they_were_put(owners: list[int]) -> None:
    fan, tokens = NodeLayout(torch.tensor(owners), 4, CPU), torch.arange(len(owners))
    spread = fan.spread(tokens)
    assert fan.gather(spread).tolist() == tokens.tolist()
    for row, group in enumerate(fan.pick(torch.arange(4)).tolist()):
        own = [i for i, owner in enumerate(owners) if owner == group]
        assert spread[row, : len(own)].tolist() == own


def test_nodes_without_tokens_are_left_out_where_they_are_half_or_more() -> None:
    few, many = NodeLayout(torch.tensor([5, 1, 5]), 6, CPU), NodeLayout(torch.tensor([0, 1, 1]), 3, CPU)
    assert few.pick(torch.arange(6)).tolist() == [1, 5]
    assert few.spread(torch.tensor([7, 8, 9])).tolist() == [[8, 7], [7, 9]]
    assert few.gather(few.spread(torch.tensor([7, 8, 9]))).tolist() == [7, 8, 9]
    assert many.pick(torch.arange(3)).tolist() == [0, 1, 2]


def test_the_highest_score_is_that_of_a_token_and_all_it_sees() -> None:
    top = TreeLevel(None, [0, 0])
    first = highest(TreePass(top, [0, 1], [2, 1], CPU), 7, torch.tensor([[1.0], [3.0], [2.0]]))
    below = TreeLevel(top, [1, 0, 0])
    second = highest(TreePass(below, [0, 1, 2], [1, 2, 1], CPU), 7, torch.tensor([[0.0], [5.0], [4.0], [1.0]]))
    assert first.flatten().tolist() == [1, 3, 2]
    assert second.flatten().tolist() == [2, 5, 5, 3]
    below.states[0] = random(2, 3, KEYS, 2, SIZE)
    grown = below.growing([2, 0])
    assert highest(TreePass(grown, [0, 1], [1, 1], CPU), 7, torch.tensor([[4.0], [1.0]])).flatten().tolist() == [4, 2]
    assert highest(TreePass(grown, [1], [1], CPU), 7, torch.tensor([[0.0]])).flatten().tolist() == [2]


def test_positions_stand_where_they_are_told_and_go_on_from_the_highest() -> None:
    """Two tokens, then an image of 2 x 2 on three axes; behind it come 4, 5, 6 on all of them."""
    told = [[0, 1, 2, 2, 2, 2], [0, 1, 2, 2, 3, 3], [0, 1, 2, 3, 2, 3]]
    top = TreeLevel(None, [0, 0])
    first = TreePass(top, [0, 1], [6, 2], CPU, positions=[told, None])
    assert first.position_AM.tolist() == [[*axis, 0, 1] for axis in told]
    assert first.index_M.tolist() == [0, 1, 2, 3, 4, 5, 0, 1]
    assert (top.following.tolist(), top.ends.tolist()) == ([4, 2], [6, 2])
    below = TreeLevel(top, [0, 1, 0])
    second = TreePass(below, [0, 1, 2], [2, 1, 1], CPU)
    assert second.position_AM.tolist() == [[4, 5, 2, 4]]
    assert second.index_M.tolist() == [6, 7, 2, 6]
    grown = below.growing([2, 0])
    assert TreePass(grown, [1], [1], CPU).position_AM.tolist() == [[6]]
    assert TreePass(grown, [0, 1], [1, 1], CPU).position_AM.tolist() == [[5, 7]]


def test_the_highest_score_counts_tokens_that_are_seen_forwards() -> None:
    level = TreeLevel(None, [0, 0])
    ahead_M = torch.tensor([-1, 0, 0, -1, 1, 1])
    current = TreePass(level, [0, 1], [4, 2], CPU, ahead_M=ahead_M)
    found = highest(current, 0, torch.tensor([[1.0], [0.0], [5.0], [2.0], [3.0], [4.0]]))
    assert found.flatten().tolist() == [1, 5, 5, 5, 4, 4]


def test_the_highest_score_of_a_layer_that_sees_two_tokens_back() -> None:
    top = TreeLevel(None, [0, 0])
    first = highest(TreePass(top, [0, 1], [3, 1], CPU), 7, torch.tensor([[5.0], [3.0], [1.0], [2.0]]), 2)
    assert first.flatten().tolist() == [5, 5, 3, 2]
    below = TreeLevel(top, [1, 0])
    second = highest(TreePass(below, [0, 1], [1, 2], CPU), 7, torch.tensor([[0.0], [0.0], [-1.0]]), 2)
    assert second.flatten().tolist() == [2, 1, 0]
    grown = below.growing([1])
    assert highest(TreePass(grown, [0], [1], CPU), 7, torch.tensor([[-3.0]]), 2).flatten().tolist() == [-1]
    assert highest(TreePass(grown, [0], [1], CPU), 7, torch.tensor([[-4.0]]), 100).flatten().tolist() == [5]
