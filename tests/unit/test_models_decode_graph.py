"""Writing replies from buffers of fixed size: what a step asks of the host, and on a GPU its graph."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_models import load_ref
from torch.utils._python_dispatch import TorchDispatchMode

from mllmu.config.recipe import ModelSection
from mllmu.core.records import ModelRef, Sample
from mllmu.models import devices
from mllmu.models.engine import decode_graph, forward
from mllmu.models.engine.tree import TreeLevel
from mllmu.models.families import num_layers
from mllmu.models.gate import Gate
from mllmu.models.loading import Loaded, load
from mllmu.models.modifiers import ModifierSettings, Steering

SHARED = [[5, 6, 7, 8, 9, 10], [9, 8, 7]]
OWN = [[11 + 3 * i + j for j in range(1 + i % 4)] for i in range(24)]
LIMITS = [2 + 5 * i % 17 for i in range(24)]
NEAR = 0.05
"""By how many nats the tokens at which two replies part may differ in bfloat16."""


def read(loaded: Loaded, own: list[list[int]] = OWN) -> tuple[TreeLevel, torch.Tensor]:
    """Questions behind two beginnings, and the logits of their first tokens."""
    above = forward.read(loaded.model, None, [0, 0], SHARED, ends=False)
    level = forward.read(loaded.model, above, [i // 3 % 2 for i in range(len(own))], own)
    return level, forward.next_logits(loaded.model, level)


class Operations(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen[operation.overloadpacket.__name__] += 1
        return operation(*args, **(kwargs or {}))


@torch.inference_mode()
def test_a_step_asks_nothing_of_the_host(loaded: Loaded) -> None:
    level, _ = read(loaded)
    rows = decode_graph.RowBuffers(loaded.model, level, rows=32, slots=32, length=20, ends=loaded.ends)
    rows.share(level)
    rows.fill(level, {3: 0, 7: 5}, [12, 13], LIMITS, 32)
    with Operations() as operations:
        rows.advance(loaded.model, 32)
    assert not {"_local_scalar_dense", "nonzero", "unique2", "_unique2"} & operations.seen.keys()
    assert operations.seen["index_put_"] == 2 * 2, "keys and values of two layers"


@torch.inference_mode()
@pytest.mark.parametrize("rows", [16, 256])
def test_replies_end_where_they_end_in_steps_made_anew(loaded: Loaded, rows: int) -> None:
    level, first_NV = read(loaded)
    ends = frozenset(range(0, first_NV.shape[1], 9))
    replies = decode_graph.decode(loaded.model, level, first_NV, LIMITS, ends, rows=rows)
    assert replies == forward.decode(loaded.model, level, first_NV, LIMITS, ends)
    ended = [reply[-1] in ends for reply in replies]
    assert any(ended) and not all(ended)


@torch.inference_mode()
def test_buffers_serve_the_next_batch_and_are_given_back_when_memory_is_short(loaded: Loaded) -> None:
    """Another batch is smaller, in another order, with other levels above; what was held must not be seen again."""
    with decode_graph.kept():
        for own in (OWN, OWN[:9:-1], OWN[4:6]):
            level, first_NV = read(loaded, own)
            limits = LIMITS[: len(own)]
            replies = decode_graph.decode(loaded.model, level, first_NV, limits, loaded.ends)
            assert replies == forward.decode(loaded.model, level, first_NV, limits, loaded.ends)
        batch = [Sample.model_construct(id="a"), Sample.model_construct(id="b")]
        assert devices.half_of(batch, MemoryError()) == 1
        level, first_NV = read(loaded)
        replies = decode_graph.decode(loaded.model, level, first_NV, LIMITS, loaded.ends)
    assert replies == forward.decode(loaded.model, level, first_NV, LIMITS, loaded.ends)
    assert not devices.SPARE


@torch.inference_mode()
def test_quick_norms_and_attention_give_the_same_replies_and_are_taken_off_again(loaded: Loaded) -> None:
    level, first_NV = read(loaded)
    expected = forward.decode(loaded.model, level, first_NV, LIMITS, loaded.ends)
    with decode_graph.quickly(loaded.model):
        changed = sum("forward" in module.__dict__ for module in loaded.model.modules())
        own_level, own_NV = read(loaded)
        replies = decode_graph.decode(loaded.model, own_level, own_NV, LIMITS, loaded.ends)
    layers = num_layers(loaded.model)
    assert changed == 3 * layers + 1, "two norms and the attention of every layer, and the last norm"
    torch.testing.assert_close(own_NV, first_NV, atol=1e-4, rtol=1e-4)
    assert replies == expected
    assert not any("forward" in module.__dict__ for module in loaded.model.modules())


@torch.inference_mode()
def test_modifiers_and_narrow_windows_have_no_step_of_fixed_shape(tiny_base: Path) -> None:
    loaded = load_ref(tiny_base)
    level, first_NV = read(loaded)
    assert decode_graph.fixed(loaded.model, level, [10])
    config = loaded.model.config.get_text_config()
    for window, fits in ((int(level.ends.max()) + 10, True), (int(level.ends.max()) + 9, False)):
        config.sliding_window = window
        assert decode_graph.fixed(loaded.model, level, [3, 10]) is fits
    config.sliding_window = None
    Steering(ModifierSettings(kind="steering"), Gate(torch.zeros(1, 32), torch.ones(1)), torch.ones(32)).attach(
        loaded.model
    )
    level, first_NV = read(loaded)
    assert not decode_graph.fixed(loaded.model, level, [10])
    replies = decode_graph.decode(loaded.model, level, first_NV, LIMITS, loaded.ends)
    assert replies == forward.decode(loaded.model, level, first_NV, LIMITS, loaded.ends)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@torch.inference_mode()
def test_captured_steps_write_what_steps_made_anew_write(tiny_base: Path, dtype: str) -> None:
    """In bfloat16 two likely tokens may change places: where replies part, both tokens are equally likely."""
    section = ModelSection(path=str(tiny_base), device="cuda", dtype=dtype)  # type: ignore[arg-type]
    loaded = load(section, ModelRef(base=str(tiny_base)), tiny_base)
    level, first_NV = read(loaded)
    expected = forward.decode(loaded.model, level, first_NV, LIMITS, loaded.ends)
    with decode_graph.quickly(loaded.model):
        found = [decode_graph.decode(loaded.model, level, first_NV, LIMITS, loaded.ends) for _ in range(2)]
    assert found[0] == found[1], "the same steps in the same buffers"
    if dtype == "float32":
        assert found[0] == expected
    parted = 0
    for node, (one, other) in enumerate(zip(found[0], expected, strict=True)):
        at = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
        if at is not None:
            parted += 1
            both = [reply[: at + 1] for reply in (one, other)]
            logps = forward.reply_logps(loaded.model, level, first_NV, [node, node], both)
            assert logps[0] == pytest.approx(logps[1], abs=NEAR)
    assert parted <= len(expected) // 4
