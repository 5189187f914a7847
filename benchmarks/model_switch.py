"""``python -m benchmarks.model_switch``: what is left of an adapter in a bfloat16 model, and what the next model costs.

On the CPU, on the embedded tiny model with two adapters of rank 16 of the size that the published settings give: Adam
moves a weight by about the learning rate per step, in 2,000 steps of fine-tuning and 96 of unlearning at 2e-5, falling
to zero. Compared are four ways to keep them, by what the second adapter does to the logits of 24 text prompts:

    error = |change - true change| / |true change|,    true: float32 weights and arithmetic

once in float32 arithmetic on the stored weights (``error_weights``) and once in bfloat16 (``error_outputs``).
``slope_outputs`` is the share of the true change that is there on average.
"""

from __future__ import annotations

import copy
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mllmu.config.recipe import Lora, ModelSection
from mllmu.core.records import ModelRef
from mllmu.models.encoding import Loaded
from mllmu.models.families import Turn, core
from mllmu.models.loading import add_trainable, load, quiet_libraries, release_base, save_trained
from mllmu.models.weights import attach, fold

STEPS = {"first": 2000, "second": 96}
RATE = 2e-5
WEIGHTS = 0.018
"""Standard deviation of the weights of a 7B model; the changes are as large beside those of the tiny one."""
WAYS = ("merged one by one in bfloat16", "merged in float32, rounded once", "beside, by PEFT", "beside, in the product")


class Operations(TorchDispatchMode):
    """Counts the operations that are dispatched, views left out."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def make_adapters(root: Path) -> None:
    """Two adapters: A as it starts, entries of B as far from zero as Adam's steps can have led them."""
    for seed, (name, steps) in enumerate(STEPS.items()):
        loaded = load(ModelSection(device="cpu"), ModelRef(base="tiny"), root)
        model = add_trainable(loaded.model, loaded.family, Lora(rank=16, alpha=16), seed=seed)
        torch.manual_seed(seed)
        for key, parameter in model.named_parameters():
            if "lora_B" in key:
                weight = loaded.model.get_submodule(key.split(".lora_B")[0].removeprefix("base_model.model.")).weight
                farthest = RATE * steps / 2 * float(weight.detach().std()) / WEIGHTS
                torch.nn.init.uniform_(parameter, -farthest, farthest)
        (root / name).mkdir()
        save_trained(model, root / name)


def by_peft(root: Path, names: tuple[str, ...], *, merge: bool) -> Any:
    """The bfloat16 model with adapters merged one by one, or all beside, as PEFT does it."""
    model = copy.deepcopy(load(ModelSection(device="cpu", dtype="bfloat16"), ModelRef(base="tiny"), root).model)
    for name in names:
        with quiet_libraries():
            model = attach(model, root / name)
            model = model.merge_and_unload() if merge else model
    return model.eval()


def stored(way: str, root: Path, names: tuple[str, ...]) -> Any:
    """The bfloat16 model of some adapters, kept in one of the ways."""
    if way == WAYS[0]:
        return by_peft(root, names, merge=True)
    if way == WAYS[2]:
        return by_peft(root, names, merge=False)
    model = load(ModelSection(device="cpu", dtype="bfloat16"), ModelRef(base="tiny", adapters=names), root).model
    return fold(model) if way == WAYS[1] else model


@torch.no_grad()
def logits(model: Any, batch: Any) -> torch.Tensor:
    """Float32 logits of all prompt tokens."""
    out: torch.Tensor = core(model)(**batch.inputs).logits.float()
    return out[batch.inputs["attention_mask"].bool()]


def median_seconds(work: Callable[[], Any], times: int = 7) -> float:
    """Median time of a few calls."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return sorted(taken)[times // 2]


def compare(root: Path) -> list[dict[str, Any]]:
    """One row per way: errors of the change of the logits, entries that do not change, operations of one token."""
    exact = {
        names: load(ModelSection(device="cpu", dtype="float32"), ModelRef(base="tiny", adapters=names), root)
        for names in (("first",), ("first", "second"))
    }
    one, two = exact
    encoder = exact[one].encoder
    words = ("Where was this person born?", "Which colour is the hat?", "What is the name of the pet?", "Who is this?")
    turns = [Turn(prompt=f"{word} {n}", reply="Riga") for n in range(6) for word in words]
    batch = encoder.batch(turns)
    # the true change starts from the bfloat16 numbers of the base
    base = load(ModelSection(device="cpu", dtype="bfloat16"), ModelRef(base="tiny"), root).model.state_dict()
    truths = {}
    for names, loaded in exact.items():
        plain = load(ModelSection(device="cpu", dtype="float32"), ModelRef(base="tiny"), root, encoder).model
        before = plain.state_dict()
        model = load(ModelSection(device="cpu", dtype="bfloat16"), ModelRef(base="tiny"), root, encoder).model.float()
        model.load_state_dict(
            {k: base[k].float() + (v - before[k]) for k, v in loaded.model.state_dict().items()}, assign=True
        )
        truths[names] = logits(model, batch)
    true = truths[two] - truths[one]
    rows = []
    for way in WAYS:
        models = {names: stored(way, root, names) for names in (one, two)}
        outputs = {names: logits(model, batch) for names, model in models.items()}
        change = outputs[two] - outputs[one]
        in_float = {names: logits(copy.deepcopy(model).float(), batch) for names, model in models.items()}
        with Operations() as operations:
            logits(models[two], encoder.batch(turns[:1]))
        same = "merged" in way and _unchanged(models[one], models[two])
        rows.append(
            {
                "way": way,
                "error_weights": round(float((in_float[two] - in_float[one] - true).norm() / true.norm()), 4),
                "error_outputs": round(float((change - true).norm() / true.norm()), 4),
                "slope_outputs": round(float((change * true).sum() / true.square().sum()), 4),
                "unchanged": round(float(same), 4),
                "operations": operations.count,
            }
        )
    return rows


def _unchanged(one: Any, two: Any) -> float:
    """Share of the entries of adapted weights that are the same in both models."""
    pairs = zip(one.state_dict().items(), two.state_dict().values(), strict=True)
    same = [(a == b).float().flatten() for (name, a), b in pairs if "_proj.weight" in name and "language" in name]
    return float(torch.cat(same).mean())


def switching(root: Path) -> dict[str, Any]:
    """Seconds to get the next model: with a base that is read again, and with one that is kept."""
    section, ref = ModelSection(device="cpu", dtype="bfloat16"), ModelRef(base="tiny", adapters=tuple(STEPS))
    encoder = load(section, ref, root).encoder

    def again() -> Loaded:
        release_base()
        return load(section, ref, root, encoder)

    return {
        "read again_s": round(median_seconds(again), 4),
        "kept_s": round(median_seconds(lambda: load(section, ref, root, encoder)), 4),
    }


def main() -> None:
    """Print one JSON line per row."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        make_adapters(Path(folder))
        for row in (*compare(Path(folder)), switching(Path(folder))):
            print(json.dumps(row))


if __name__ == "__main__":
    main()
