"""The adapter to vLLM asks for what our own engine computes; vLLM itself is a stand-in that records and answers.

The stand-in does with transformers what vLLM's ``LLM`` is documented to do: it puts an image's tokens in the place of
its mark, applies one adapter, writes greedily and gives log-probabilities of prompt tokens.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from helpers_families import build
from helpers_models import LORA, load_ref, sample
from safetensors.torch import load_file, save_file

from mllmu.config.load import parse
from mllmu.config.recipe import ModelSection
from mllmu.core.errors import DependencyError, ModelError, RecipeError
from mllmu.core.process import SilentProgress
from mllmu.core.records import ModelRef
from mllmu.models.engine.respond import plan_batches, respond
from mllmu.models.engine.vllm_backend import VllmEngine, combine, logp_of, open_model
from mllmu.models.loading import Loaded, add_trainable, save_trained
from mllmu.models.modifiers import ModifierSettings, write_settings
from mllmu.pipeline.evaluate import collect

SAMPLES = [
    sample(
        n,
        image=("red.png", "", "blue.png")[n % 3],
        prompt=("Where?", "Which hat?")[n % 2],
        candidates={"target": "Riga, Latvia", "twin": "Riga, Latvia", "wrong_0": "Oslo"},
        max_new_tokens=3 + n % 3,
    )
    for n in range(6)
]


class StandIn:
    """``vllm.LLM``: keeps its arguments and calls, and answers by transformers."""

    made: ClassVar[list[StandIn]] = []

    def __init__(self, **arguments: Any) -> None:
        self.arguments, self.calls = arguments, []
        StandIn.made.append(self)
        self.models: dict[str | None, Loaded] = {}

    def generate(
        self, prompts: list[dict[str, Any]], parameters: list[Any], *, lora_request: Any, use_tqdm: bool
    ) -> list[Any]:
        assert not use_tqdm
        self.calls.append((prompts, parameters, lora_request))
        path = lora_request and lora_request.path
        if path not in self.models:
            base = Path(self.arguments["model"])
            self.models[path] = load_ref(base, *([path] if path else []), root=Path("/"))
        return [self._one(self.models[path], p, s) for p, s in zip(prompts, parameters, strict=True)]

    @torch.no_grad()
    def _one(self, loaded: Loaded, prompt: dict[str, Any], wanted: Any) -> Any:
        images = prompt.get("multi_modal_data", {}).get("image", [])
        assert prompt["prompt_token_ids"].count(loaded.image_token_id) == len(images)
        ids = [t for one in prompt["prompt_token_ids"] for t in [one] * (17 if one == loaded.image_token_id else 1)]
        inputs: dict[str, Any] = {"input_ids": torch.tensor([ids])}
        if images:
            processor = loaded.encoder.processor.image_processor
            inputs |= {"pixel_values": processor(images, return_tensors="pt")["pixel_values"]}
        logps = loaded.model(**inputs).logits[0].log_softmax(-1)
        ends = [2, *getattr(wanted, "stop_token_ids", [])]
        new = loaded.model.generate(
            **inputs, max_new_tokens=wanted.max_tokens, do_sample=False, eos_token_id=ends, pad_token_id=0
        )[0, len(ids) :].tolist()
        places = [None, *({t: SimpleNamespace(logprob=float(logps[i, t]))} for i, t in enumerate(ids[1:]))]
        return SimpleNamespace(outputs=[SimpleNamespace(token_ids=new)], prompt_logprobs=places)


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    StandIn.made.clear()
    module, lora, request = ModuleType("vllm"), ModuleType("vllm.lora"), ModuleType("vllm.lora.request")
    module.__dict__.update(LLM=StandIn, SamplingParams=lambda **settings: SimpleNamespace(**settings))
    request.__dict__["LoRARequest"] = lambda name, number, path: SimpleNamespace(name=name, number=number, path=path)
    for each in (module, lora, request):
        each.__spec__ = ModuleSpec(each.__name__, None)  # libraries look whether it is installed
        monkeypatch.setitem(sys.modules, each.__name__, each)
    return StandIn


def adapter(base: Path, folder: Path, seed: int) -> Path:
    loaded = load_ref(base)
    model = add_trainable(loaded.model, loaded.family, LORA, seed=0)
    torch.manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.2 * torch.randn_like(parameter)
    save_trained(model, folder)
    return folder


def engine(base: Path, **settings: Any) -> VllmEngine:
    return VllmEngine(ModelSection(path=str(base), device="cpu"), ModelRef(base=str(base)), settings)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_replies_and_likelihoods_are_those_of_our_own_engine(
    vllm: type[StandIn], tiny_base: Path, tmp_path: Path, count: int
) -> None:
    for number in range(count):
        adapter(tiny_base, tmp_path / f"a{number}", number)
    ref = ModelRef(base=str(tiny_base), adapters=tuple(f"a{number}" for number in range(count)))
    model = open_model(engine(tiny_base), ref, tmp_path)
    ours = load_ref(tiny_base, *ref.adapters, root=tmp_path)
    batches = plan_batches(SAMPLES, 4)
    expected = [r for batch in respond(ours, batches, image_folder=tiny_base, system_prompt="Be brief.") for r in batch]
    got = [r for batch in model.respond(batches, image_folder=tiny_base, system_prompt="Be brief.") for r in batch]
    for one, other in zip(got, expected, strict=True):
        assert (one.sample_id, one.text, one.num_tokens, one.finished) == (
            other.sample_id, other.text, other.num_tokens, other.finished
        )  # fmt: skip
        for key, scored in other.candidates.items():
            assert one.candidates[key].logp == pytest.approx(scored.logp, abs=1e-3)
            assert one.candidates[key].num_tokens == scored.num_tokens
    assert len(vllm.made) == 1
    request = vllm.made[0].calls[0][2]
    assert (request and request.number) == (1 if count else None)


def test_what_vllm_is_made_with(vllm: type[StandIn], tiny_base: Path) -> None:
    made = engine(tiny_base, gpu_memory_utilization=0.8, max_lora_rank=128)
    arguments = vllm.made[0].arguments
    assert arguments["model"] == str(tiny_base)
    assert arguments["trust_remote_code"] is False
    assert arguments["enable_lora"] is True
    assert (arguments["max_lora_rank"], made.most_rank) == (128, 128)
    assert arguments["gpu_memory_utilization"] == 0.8
    assert (arguments["dtype"], arguments["mm_processor_kwargs"]) == ("bfloat16", {})
    with pytest.raises(ModelError, match=r"does not take model\.quantize: nf4"):
        VllmEngine(ModelSection(quantize="nf4"), ModelRef(base="tiny"))
    with pytest.raises(ModelError, match=r"evaluate\.vllm: trust_remote_code is set by mllmu itself"):
        engine(tiny_base, trust_remote_code=True)


@pytest.mark.parametrize(("kind", "refused"), [("gemma3", True), ("paligemma", True), ("idefics2", False)])
def test_a_family_whose_text_around_images_vllm_would_write_twice_is_refused_before_it_is_started(
    vllm: type[StandIn], tmp_path: Path, kind: str, refused: bool
) -> None:
    base = build(
        kind, tmp_path
    )  # the blank that Idefics2 puts behind an image is there once, however often it is asked
    if not refused:
        engine(base)
    else:
        with pytest.raises(
            ModelError, match=rf"family '{kind}' puts around an image a second time.*Use evaluate\.backend"
        ):
            engine(base)
    assert len(vllm.made) == (not refused)


def test_a_literal_prompt_goes_as_it_is_written(vllm: type[StandIn], tiny_base: Path) -> None:
    shown = [{"prompt": "", "reply": "B", "image": "red.png"}]
    text = "USER: <image>\nWho?\nCorrect Answer: B\nUSER: <image>\nWho?\nASSISTANT:"
    asked = [sample(1, image="blue.png", prompt=text, examples=shown, raw_prompt=True)]
    ours = [r for batch in respond(load_ref(tiny_base), [asked], image_folder=tiny_base) for r in batch]
    got = next(
        open_model(engine(tiny_base), ModelRef(base=str(tiny_base)), tiny_base).respond([asked], image_folder=tiny_base)
    )
    assert [r.text for r in got] == [r.text for r in ours]
    (prompt,), (parameters,), _ = vllm.made[0].calls[0]
    assert len(prompt["multi_modal_data"]["image"]) == 2
    assert not hasattr(parameters, "stop_token_ids"), "the published evaluator knows the model's own end alone"


def test_replies_are_collected_like_any_other(vllm: type[StandIn], tiny_base: Path, tmp_path: Path) -> None:
    model = open_model(engine(tiny_base), ModelRef(base=str(tiny_base)), tiny_base)
    got = collect(
        SAMPLES, lambda: model, image_folder=tiny_base, system_prompt="", batch_size="auto", folder=tmp_path,
        progress=SilentProgress(), label="x",
    )  # fmt: skip
    assert [r.sample_id for r in got] == [s.id for s in SAMPLES]
    assert len(vllm.made[0].calls) == 1, "vLLM gets everything at once"


def test_two_adapters_are_one_whose_change_is_the_sum(tiny_base: Path, tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for number, folder in enumerate(folders):
        adapter(tiny_base, folder, number)
    assert combine(folders, tmp_path / "both") == 2 * LORA.rank
    held = [load_file(folder / "adapter_model.safetensors") for folder in (*folders, tmp_path / "both")]
    scales = [json.loads((f / "adapter_config.json").read_text()) for f in (*folders, tmp_path / "both")]
    for name in held[0]:
        if ".lora_A." in name:
            other = name.replace(".lora_A.", ".lora_B.")
            one, two, both = (c["lora_alpha"] / c["r"] * w[other] @ w[name] for c, w in zip(scales, held, strict=True))
            torch.testing.assert_close(both, one + two, atol=1e-5, rtol=1e-4)


def test_what_vllm_cannot_run_is_said_before_it_is_tried(vllm: type[StandIn], tiny_base: Path, tmp_path: Path) -> None:
    made = engine(tiny_base)

    def refused(name: str, match: str) -> None:
        with pytest.raises(ModelError, match=match):
            open_model(made, ModelRef(base=str(tiny_base), adapters=(name,)), tmp_path)

    (tmp_path / "steered").mkdir()
    write_settings(tmp_path / "steered", ModifierSettings(kind="steering"))
    refused("steered", "reversible modifier.*plain adapters alone. Use evaluate.backend: transformers")
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "weights.safetensors").touch()
    refused("whole", "whole weights")
    refused("missing", "no adapter there")
    asked = [sample(1, measured=("tokens",))]
    with pytest.raises(ModelError, match=r"forget/001: tokens of the target cannot be measured by vLLM"):
        next(open_model(made, ModelRef(base=str(tiny_base)), tmp_path).respond([asked], image_folder=tiny_base))
    assert not vllm.made[0].calls


@pytest.mark.parametrize(
    ("old", "new"),
    [("base_model.model.", ""), ("base_model.model.model.", "base_model.model."), (".lora_A.", ".lora_A.default.")],
)
def test_an_adapter_for_layers_that_the_base_lacks_names_the_first(
    vllm: type[StandIn], tiny_base: Path, tmp_path: Path, old: str, new: str
) -> None:
    for name in ("a", "b"):
        adapter(tiny_base, tmp_path / name, 0)
    file = tmp_path / "a" / "adapter_model.safetensors"
    held = load_file(file)
    save_file({name.replace(old, new): value for name, value in held.items()}, file)
    first = min(name.replace(old, new) for name in held if name != name.replace(old, new))
    for adapters in (("a",), ("b", "a")):
        with pytest.raises(ModelError, match=rf"weights are for no layer of the base model, the first is {first}\."):
            open_model(engine(tiny_base), ModelRef(base=str(tiny_base), adapters=adapters), tmp_path)
    assert not vllm.made[0].calls


def test_an_adapter_of_others_without_its_scale_is_refused(
    vllm: type[StandIn], tiny_base: Path, tmp_path: Path
) -> None:
    config = adapter(tiny_base, tmp_path / "a", 0) / "adapter_config.json"
    config.write_text(config.read_text().replace("lora_alpha", "lora_alfa"))
    with pytest.raises(ModelError, match=r"adapter_config\.json: lora_alpha: Field required"):
        open_model(engine(tiny_base), ModelRef(base=str(tiny_base), adapters=("a",)), tmp_path)
    assert not vllm.made[0].calls


def test_too_large_an_adapter_names_the_setting(vllm: type[StandIn], tiny_base: Path, tmp_path: Path) -> None:
    for number in range(2):
        adapter(tiny_base, tmp_path / f"a{number}", number)
    with pytest.raises(ModelError, match=r"rank 8 together.*made for 4\. Raise evaluate\.vllm\.max_lora_rank"):
        open_model(engine(tiny_base, max_lora_rank=4), ModelRef(base=str(tiny_base), adapters=("a0", "a1")), tmp_path)


def test_without_vllm_the_extra_is_named(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(DependencyError, match=r"evaluate\.backend: vllm.*mllmu\[vllm\]"):
        engine(tiny_base)


def test_arguments_of_vllm_need_its_backend() -> None:
    with pytest.raises(RecipeError, match="set backend: vllm"):
        parse({"name": "x", "evaluate": {"vllm": {"gpu_memory_utilization": 0.5}}})


def test_only_the_last_tokens_of_a_prompt_count() -> None:
    def place(token: int, logp: float) -> dict[int, Any]:
        return {token: SimpleNamespace(logprob=logp), 99: SimpleNamespace(logprob=-0.1)}

    given: Sequence[Any] = [None, place(5, -9.0), place(7, -1.0), place(8, -0.5)]
    assert logp_of(given, [7, 8]) == -1.5
