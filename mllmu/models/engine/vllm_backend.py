"""Replies by vLLM instead of transformers: ``evaluate.backend: vllm`` (extra ``vllm``, a GPU).

vLLM keeps its own cache, shares prefixes itself and schedules all prompts at once. It gets the very tokens that our own
engine would get, with one mark per image, and the images beside them; candidates are read behind their prompt, and
their log-probability is that of their last tokens. It runs base models with plain adapters. Several adapters of a
model become one, whose change is the sum of theirs. What it cannot do is an error before anything is loaded.

Only tested against a stand-in that records its arguments: never run on vLLM itself.
"""

import json
import re
import shutil
import weakref
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from peft.utils import CONFIG_NAME as ADAPTER_CONFIG
from peft.utils import SAFETENSORS_WEIGHTS_NAME as ADAPTER_FILE
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText

from mllmu.config.recipe import ModelSection
from mllmu.core import process
from mllmu.core.errors import ModelError, ProcessError, needs_extra
from mllmu.core.records import ModelRef, Response, Sample
from mllmu.core.runfolder import digest, intact
from mllmu.models import foreign
from mllmu.models.encoding import Encoder, as_turn
from mllmu.models.engine.raw_prompt import reply_text
from mllmu.models.engine.respond import candidates_of, limit_of, responses, scored_ids
from mllmu.models.families import Turn, open_image
from mllmu.models.loading import explain_load_faults, make_encoder, release_base, source_of
from mllmu.models.modifiers import MODIFIER_FILE
from mllmu.models.weights import WEIGHTS_FILE

MOST_RANK, MOST_IMAGES = 64, 8
"""Rank of an adapter, and images of a prompt, that the engine makes room for if its settings say nothing else."""
OURS = frozenset(
    {"model", "tokenizer", "revision", "dtype", "seed", "trust_remote_code", "enable_lora", "mm_processor_kwargs"}
)
"""Arguments of vLLM that are not settings."""
_OF_LAYER = re.compile(r"base_model\.model\.(.+)\.lora_[AB]\.weight")
HOW = "Use evaluate.backend: transformers for this run."


@dataclass(eq=False)
class VllmEngine:
    """vLLM with one base model loaded; serves every model of a run whose reference starts from it.

    Args:
        settings: further arguments of ``vllm.LLM``, e.g. {gpu_memory_utilization: 0.8, tensor_parallel_size: 2}.
    """

    section: ModelSection
    base: ModelRef
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if reserved := sorted(OURS & set(self.settings)):
            raise ModelError(f"evaluate.vllm: {reserved[0]} is set by mllmu itself. Leave it out.")
        if self.section.quantize:
            raise ModelError(f"evaluate.backend: vllm does not take model.quantize: {self.section.quantize}. {HOW}")
        with needs_extra("evaluate.backend: vllm", "vllm"):
            import vllm
            from vllm.lora.request import LoRARequest
        self._vllm, self._lora = vllm, LoRARequest
        source, revision = source_of(self.base.base), self.base.revision
        with explain_load_faults(f"evaluate.backend: vllm cannot load '{self.base.base}'", HOW):
            config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
            self.encoder = make_encoder(self.section, source, revision, config)
            check_spelling(self.encoder)
            self.llm = vllm.LLM(
                model=source,
                revision=revision,
                dtype="bfloat16" if self.section.dtype == "auto" else self.section.dtype,
                seed=0,
                trust_remote_code=False,
                enable_prefix_caching=True,
                enable_lora=True,
                mm_processor_kwargs={**self.encoder.family.image_settings, **self.section.image_processor},
                **{"max_lora_rank": self.most_rank, "limit_mm_per_prompt": {"image": MOST_IMAGES}, **self.settings},
            )
        with torch.device("meta"):
            outline = AutoModelForImageTextToText.from_config(config)
        self.layers = {name for name, module in outline.named_modules() if isinstance(module, nn.Linear)}
        self._numbers: dict[Path, int] = {}
        self.scratch = Path(mkdtemp(prefix="mllmu-vllm-"))
        weakref.finalize(self, shutil.rmtree, self.scratch, ignore_errors=True)

    @property
    def most_rank(self) -> int:
        return int(self.settings.get("max_lora_rank", MOST_RANK))

    def generate(
        self, prompts: Sequence[dict[str, Any]], settings: Sequence[dict[str, Any]], adapter: Path | None
    ) -> list[Any]:
        """Greedy outputs, with one setting per prompt; vLLM remembers an adapter's folder by a number."""
        parameters = [self._vllm.SamplingParams(temperature=0.0, **each) for each in settings]
        request = None
        if adapter is not None:
            number = self._numbers.setdefault(adapter, len(self._numbers) + 1)
            request = self._lora(f"adapter_{number}", number, str(adapter))
        return list(self.llm.generate(list(prompts), parameters, lora_request=request, use_tqdm=False))


@dataclass(frozen=True)
class VllmModel:
    """A model of a run in vLLM: the engine and the folder of its one adapter, None for the base itself."""

    engine: VllmEngine
    adapter: Path | None

    def respond(
        self, batches: Sequence[Sequence[Sample]], *, image_folder: Path, system_prompt: str = ""
    ) -> Iterator[list[Response]]:
        """Reply to each batch in turn, as :func:`mllmu.models.engine.respond.respond` does.

        Raises:
            ModelError: a sample needs the model's whole prediction or its gradient.
        """
        measured = [sample for batch in batches for sample in batch if sample.measured]
        if measured:
            raise ModelError(
                f"{measured[0].id}: {' and '.join(measured[0].measured)} of the target cannot be measured by vLLM, "
                f"which some metrics of this recipe need. Leave those out, or use evaluate.backend: transformers."
            )
        for batch in batches:
            yield self._answer(batch, image_folder, system_prompt)

    def _answer(self, batch: Sequence[Sample], image_folder: Path, system_prompt: str) -> list[Response]:
        encoder = self.engine.encoder
        prompts = [self._prompt(sample, image_folder, system_prompt) for sample in batch]
        ends = sorted({encoder.reply("?")[-1], int(encoder.processor.tokenizer.eos_token_id)})
        limits = [
            {"max_tokens": sample.max_new_tokens}
            if sample.raw_prompt
            else {"max_tokens": limit_of(encoder, sample), "stop_token_ids": ends}
            for sample in batch
        ]
        candidates = candidates_of(batch)
        behind = [
            prompts[i] | {"prompt_token_ids": [*prompts[i]["prompt_token_ids"], *scored_ids(encoder, batch[i], text)]}
            for i, text in candidates
        ]
        scoring = [{"max_tokens": 1, "prompt_logprobs": 0}] * len(behind)
        outputs = self.engine.generate([*prompts, *behind], [*limits, *scoring], self.adapter)
        logps = {
            (i, text): logp_of(output.prompt_logprobs, scored_ids(encoder, batch[i], text))
            for (i, text), output in zip(candidates, outputs[len(prompts) :], strict=True)
        }
        written = [list(output.outputs[0].token_ids) for output in outputs[: len(prompts)]]
        made = responses(encoder, batch, written, ends, logps)
        for i, sample in enumerate(batch):
            if sample.raw_prompt:
                whole = [*prompts[i]["prompt_token_ids"], *written[i]]
                made[i] = made[i].model_copy(update={"text": reply_text(encoder, whole)})
        return made

    def _prompt(self, sample: Sample, image_folder: Path, system_prompt: str) -> dict[str, Any]:
        """A prompt for vLLM: token ids with one mark per image, and the images."""
        encoder, turn = self.engine.encoder, as_turn(sample, image_folder, system_prompt)
        if sample.raw_prompt:
            ids = encoder.processor.tokenizer(turn.prompt)["input_ids"]
        else:
            ids = encoder.family.marked_ids(turn, encoder.processor)
        images = {"multi_modal_data": {"image": [open_image(path) for path in turn.images]}} if turn.images else {}
        return {"prompt_token_ids": list(ids), **images}


def logp_of(prompt_logprobs: Sequence[Any], reply: Sequence[int]) -> float:
    """Log-probability in nats of the last tokens of a prompt, summed.

    Args:
        prompt_logprobs: by index, {token: an object with ``logprob``}, the token at that index among them.
    """
    last = list(prompt_logprobs)[-len(reply) :]
    return sum(float(known[token].logprob) for known, token in zip(last, reply, strict=True))


def start_engine(section: ModelSection, ref: ModelRef, settings: dict[str, Any]) -> VllmEngine:
    """The engine of a run, which serves all models of the base of ``ref``.

    Raises:
        ProcessError: there are several processes; vLLM starts its own.
    """
    if process.count() > 1:
        raise ProcessError(
            "evaluate.backend: vllm starts its own processes. Run mllmu without torchrun, and name the GPUs by "
            "evaluate.vllm: {tensor_parallel_size: 2}."
        )
    release_base()  # vLLM has one of its own
    return VllmEngine(section, ModelRef(base=ref.base, revision=ref.revision), settings)


def open_model(engine: VllmEngine, ref: ModelRef, run_folder: Path) -> VllmModel:
    """A model of a run in an engine; several adapters are written as one into the engine's own folder.

    Raises:
        ModelError: a part of the model is no plain adapter, or too large for the engine.
    """
    folders = [run_folder / adapter for adapter in ref.adapters]
    for folder in folders:
        check_adapter(folder)
        check_layers(folder, engine.layers)
    if len(folders) < 2:
        return VllmModel(engine, folders[0] if folders else None)
    out = engine.scratch / digest([str(folder) for folder in folders])
    rank = combine(folders, out)
    if rank > engine.most_rank:
        raise ModelError(
            f"the adapters of {ref.adapters[-1]} have rank {rank} together, and the engine was made for "
            f"{engine.most_rank}. Raise evaluate.vllm.max_lora_rank (vLLM knows 8, 16, 32, 64, 128, 256, 320, 512)."
        )
    return VllmModel(engine, out)


def check_spelling(encoder: Encoder) -> None:
    """Raise ModelError if the processor writes text around an image: vLLM's own writes it, too, when it puts it in."""
    family, processor = encoder.family, encoder.processor
    once = family.spelled(family.render(Turn(prompt="?", image=Path()), processor), processor)
    if family.spelled(once, processor) != once:
        raise ModelError(
            f"evaluate.backend: vllm would write what the processor of the family '{family.name}' puts around an image "
            f"a second time, into prompts that hold it already. {HOW}"
        )


def check_adapter(folder: Path) -> None:
    """Raise ModelError if vLLM cannot apply what is in the folder, RunStoreError if a finished model is damaged."""
    known = intact(folder)
    if (folder / MODIFIER_FILE).is_file():
        reason = "acts while the model runs (a reversible modifier)"
    elif (folder / WEIGHTS_FILE).is_file():
        reason = "is made of whole weights, not of an adapter"
    elif not (folder / ADAPTER_FILE).is_file():
        raise ModelError(f"{folder}: no adapter there ({ADAPTER_FILE} missing). Run the earlier stages again.")
    else:
        if not known:
            foreign.check_adapter(folder)
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        odd = [name for name in ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save") if config.get(name)]
        if not odd:
            return
        reason = f"has {odd[0]}"
    raise ModelError(f"{folder}: {reason}, and vLLM applies plain adapters alone. {HOW}")


def check_layers(folder: Path, layers: Container[str]) -> None:
    """Raise ModelError if an adapter is for other layers than a base has: vLLM would apply none of it, or a part."""
    with safe_open(folder / ADAPTER_FILE, framework="pt") as file:
        names = sorted(file.keys())
    known = (_OF_LAYER.fullmatch(name) for name in names)
    others = [name for name, match in zip(names, known, strict=True) if match is None or match[1] not in layers]
    if others or not names:
        raise ModelError(
            f"{folder / ADAPTER_FILE}: {len(others)} of {len(names)} weights are for no layer of the base model"
            f"{', the first is ' + others[0] if others else ''}. Expected base_model.model.LAYER.lora_A.weight and "
            "lora_B.weight, as PEFT saves an adapter made on this very base: check model.path."
        )


def combine(folders: Sequence[Path], out: Path) -> int:
    """Write one adapter whose change is the sum of several; returns its rank.

    The factors side by side: A = [A_1; A_2], B = [s_1 B_1, s_2 B_2], so B A = s_1 B_1 A_1 + s_2 B_2 A_2, s = alpha / r.
    """
    out.mkdir(parents=True, exist_ok=True)
    configs = [json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8")) for folder in folders]
    weights = [load_file(folder / ADAPTER_FILE) for folder in folders]
    scales = [c["lora_alpha"] / (c["r"] ** 0.5 if c.get("use_rslora") else c["r"]) for c in configs]
    if any(set(one) != set(weights[0]) for one in weights):
        raise ModelError(f"{folders[-1]}: adapts other layers than {folders[0]}, and vLLM takes one adapter. {HOW}")
    joined: dict[str, Tensor] = {}
    for name in weights[0]:
        factors = [one[name] for one in weights]
        if ".lora_B." in name:
            factors = [scale * factor for scale, factor in zip(scales, factors, strict=True)]
        joined[name] = torch.cat(factors, dim=1 if ".lora_B." in name else 0).contiguous()
    rank = sum(int(c["r"]) for c in configs)
    save_file(joined, out / ADAPTER_FILE)
    config = configs[0] | {"r": rank, "lora_alpha": rank, "use_rslora": False}
    (out / ADAPTER_CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    return rank
