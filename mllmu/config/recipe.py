"""The recipe: everything a run depends on, as sections of settings with defaults and bounds.

:mod:`mllmu.config.load` makes one from a YAML file.
"""

import re
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationInfo, field_validator, model_validator

from mllmu.config.finetune import Finetune as Finetune
from mllmu.config.finetune import Lora as Lora
from mllmu.config.protocol import Protocol
from mllmu.config.report import Report
from mllmu.config.requests import LaterRequest, Requests, Seeds
from mllmu.core import plugins
from mllmu.core.names import BASELINES, FOLDER_NAME, RETAIN_MODEL, TARGET
from mllmu.core.records import MODALITIES, PEOPLE_SPLITS, QUESTION_FORMAT, TASKS, Modality, Split, TaskName


class PluginSpec(BaseModel):
    """A plug-in by name with its settings beside it: ``{name: npo, beta: 0.4}``; a bare string is the name."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name: str

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.model_extra or {})

    def build(self, kind: str, where: str) -> Any:
        """Construct the plug-in; a bad setting raises RecipeError."""
        return plugins.build(kind, self.name, self.settings, where=where)


class MethodSpec(PluginSpec):
    """An unlearning method with its settings; a list of modalities stands for one method each."""

    _built: tuple[Any, ...] = ()

    @property
    def by_modality(self) -> list[dict[str, Any]]:
        """The settings, once for each modality that is listed."""
        modality = self.settings.get("modality")
        if not isinstance(modality, list) or not modality:  # an empty list is left for the method to refuse
            return [self.settings]
        return [self.settings | {"modality": one} for one in modality]

    def methods(self, where: str) -> tuple[Any, ...]:
        """The methods themselves, built at the first call and kept; a bad setting raises RecipeError."""
        if not self._built:
            self._built = tuple(plugins.build("methods", self.name, each, where=where) for each in self.by_modality)
        return self._built


class Splits(plugins.Settings):
    """Which people are forgotten, held out, or kept for tuning; drawn by a seeded hash, or read from a file of ids."""

    forget_ratios: tuple[float, ...] = (0.1,)
    """shares of the people to forget; all methods run per share; e.g. [0.05, 0.1, 0.15]"""
    file: Path | None = None
    """JSON file {key: [ids]} of people to forget, instead of a draw; e.g. forget.json"""
    keys: tuple[str, ...] = Field((), description="keys of that file, one per forget ratio; e.g. [forget05]")
    skew: dict[str, Annotated[float, Field(gt=0, le=1e6)]] = Field(
        {},
        description="how many times likelier the people of a group are drawn; e.g. {female: 4, born in the 1980s: 2}",
    )
    holdout: int = Field(8, ge=0, le=10**6, description="extra people that no model is trained on, as a control group")
    calibration: int = Field(0, ge=0, le=10**6)
    """more such people, for methods that compare with people no model knows; no evaluation asks about them"""
    selection: float = Field(0.0, ge=0, lt=1)
    """share of the facts (person and attribute) whose questions are kept apart for 'mllmu tune'"""

    @field_validator("forget_ratios")
    @classmethod
    def _ratios(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or any(not 0 < ratio < 1 for ratio in value):
            raise ValueError("forget ratios are shares between 0 and 1, e.g. [0.05, 0.1]")
        if len(set(map(percent, value))) < len(value):
            raise ValueError("two forget ratios are the same; name each once")
        return value

    @model_validator(mode="after")
    def _one_key_a_ratio(self) -> Self:
        if self.file is not None and self.skew:
            raise ValueError("skew is about a draw; leave it out where a file names the people to forget")
        if self.file is None and self.keys:
            raise ValueError("keys belong to a file of ids; name it with 'file', or leave 'keys' out")
        if self.file is not None and len(self.keys) != len(self.forget_ratios):
            raise ValueError(
                f"got {len(self.keys)} keys for {len(self.forget_ratios)} forget_ratios; name one key of the file each"
            )
        if len(set(self.keys)) < len(self.keys):
            raise ValueError("a key is named twice; every forget ratio has its own")
        return self


def percent(ratio: float) -> str:
    """A share in percent, as it is printed and named on disk.

    >>> percent(0.05), percent(0.125)
    ('5', '12.5')
    """
    return f"{100 * ratio:g}"


class DataSection(plugins.Settings):
    """The people, their portraits and questions."""

    source: PluginSpec = PluginSpec(name="synthetic")
    """where the people come from ('mllmu ls sources'); e.g. {name: synthetic, num_people: 100}"""
    celebrities: PluginSpec | None = PluginSpec(name="celebrities")
    """well-known people that are evaluated, never trained on"""
    holdout_source: PluginSpec | None = None
    """a source of people no model was taught; null: invented ones, with the attributes of the others"""
    portraits: PluginSpec = PluginSpec(name="dicebear")
    """how portraits are made ('mllmu ls portraits'); e.g. {name: dicebear, size: 336}"""
    questions: PluginSpec = PluginSpec(name="template")
    """how questions are written ('mllmu ls questions')"""
    splits: Splits = Splits()
    review: Path | None = None
    """saved by the page of 'mllmu data review'; what it marks is left out; e.g. review.json"""
    train_formats: tuple[TaskName, ...] = (QUESTION_FORMAT,)
    """formats of training questions: 'question', as published, and tasks; e.g. [question, cloze]"""
    train_wordings: int = Field(6, ge=1, le=14, description="wordings in which each fact is asked in training")

    @field_validator("source", "celebrities", "portraits", "questions", mode="before")
    @classmethod
    def _default_plugin(cls, value: Any, info: ValidationInfo) -> Any:
        """Settings without a name belong to the default plug-in."""
        if isinstance(value, dict) and "name" not in value:
            return {"name": cls.model_fields[str(info.field_name)].default.name, **value}
        return value


class ModelSection(plugins.Settings):
    """The base model: 'tiny' or 'smol' (embedded), a folder, or a hub id."""

    path: str = "tiny"
    """'tiny', 'smol' ('mllmu get smol'), a folder of save_pretrained, or a hub id; e.g. llava-hf/llava-1.5-7b-hf"""
    revision: str | None = Field(None, description="branch, tag or commit of the hub repository; e.g. main")
    family: str = "auto"
    """how inputs are encoded ('mllmu ls families'); 'auto': by the model's config; e.g. llava"""
    image_processor: dict[str, Any] = Field(
        {}, description="settings of the model's image processor; e.g. {max_pixels: 200704}"
    )
    device: str = "auto"
    """device of the model; 'auto': a GPU if there is one, but the CPU for less than 10 million weights; e.g. cuda:1"""
    packing: Literal["auto", "on", "off"] = "auto"
    """train on all questions about an image in one sequence: faster, with the same losses"""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """precision of the weights; 'auto': float32 on CPU, bfloat16 on GPU; float16: 'mllmu evaluate --model' alone"""
    quantize: Literal["int8", "nf4"] | None = None
    """hold the language model in 8 or 4 bits and train adapters on it (QLoRA; extra 'qlora')"""
    attn_implementation: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """attention kernel; 'auto': sdpa, but eager on CPU for short contexts"""
    device_map: Literal["auto", "balanced", "sequential"] | None = None
    """spread one model over all GPUs, to evaluate a model that does not fit one"""
    gradient_checkpointing: bool | Literal["auto"] = "auto"
    """recompute activations in the backward pass: less memory, a third more time; 'auto': where a step does not fit"""


class Unlearn(plugins.Settings):
    """Which methods unlearn, and what they share; a method's own settings stand beside its name."""

    methods: tuple[MethodSpec, ...] = Field(
        (),
        description="methods ('mllmu ls methods') with their settings; a list of modalities is one model each; "
        "e.g. [ga, {name: npo, beta: 0.4, modality: [image_text, text]}]",
    )
    forget: LaterRequest | None = Field(None, description="some facts, or people by name, instead of the drawn ones")
    requests: Requests = Field((), description="several requests one after the other; or their number; e.g. 4")
    lora: Lora | None = Lora()
    """adapters of the methods; null changes the weights of the target layers"""
    micro_batch_size: Annotated[int, Field(ge=1, le=100_000)] | Literal["auto"] = "auto"
    """most forget questions per forward pass, and retain ones; 'auto': as many as memory allows"""
    reference_mib: float = Field(1024, ge=0, le=1e7)
    """memory for kept outputs of the frozen reference, in MiB; 0: recompute them"""


class Evaluate(plugins.Settings):
    """Which questions the models answer, and how the replies are scored."""

    protocol: Protocol = Field(Protocol(), description="how prompts are built and replies are parsed; e.g. official")
    compare: dict[Annotated[str, Field(pattern=FOLDER_NAME)], Protocol] = Field(
        {}, description="further protocols to evaluate all models under, by label; e.g. {published: official}"
    )
    tasks: tuple[TaskName, ...] = Field(TASKS, min_length=1)
    """tasks that are evaluated; see 'mllmu ls tasks'"""
    modalities: tuple[Modality, ...] = Field(MODALITIES, min_length=1)
    """evaluated modalities; [image_text] for models that need an image"""
    metrics: tuple[str, ...] = ()
    """metrics to compute ('mllmu ls metrics'); empty: those of the tasks; e.g. [rougeL]"""
    extra_metrics: tuple[str, ...] = Field((), description="metrics beside those of the tasks; e.g. [probability]")
    summaries: tuple[str, ...] = ()
    """model summaries ('mllmu ls summaries'), or [all]; e.g. [forget_quality, membership]"""
    judges: tuple[PluginSpec, ...] = ()
    """judges of free-form answers ('mllmu ls judges'); 'mllmu judge' runs others later; e.g. [rule]"""
    batch_size: Annotated[int, Field(ge=1, le=100_000)] | Literal["auto"] = 64
    """questions per batch; 'auto': as many as memory allows, 512 in bfloat16, where replies depend on it"""
    backend: Literal["transformers", "vllm"] = "transformers"
    """engine of the evaluation; vllm runs base models and LoRA on a GPU (extra 'vllm')"""
    vllm: dict[str, Any] = Field({}, description="arguments of vllm.LLM; e.g. {gpu_memory_utilization: 0.8}")
    benchmarks: tuple[PluginSpec, ...] = ()
    """general benchmarks ('mllmu ls benchmarks'); e.g. [{name: mmmu, num_questions: 100}]"""
    controls: bool = Field(False, description="also ask without picture, with another's picture or name, options only")
    attacks: tuple[PluginSpec, ...] = Field((), description="attacks ('mllmu ls attacks'), or [all]; e.g. [paraphrase]")
    attack_budget: Literal["small", "full"] = Field("small", description="questions, tries and steps of each attack")
    celebrity: Literal["all", "known_to_base"] = "all"
    """which questions about celebrities are asked: all, or those that the base model answers right"""
    max_profiles: dict[Split, NonNegativeInt] = Field(
        {}, description="most people evaluated per set, 0 for none; e.g. {retain: 50, celebrity: 50}"
    )

    @field_validator("batch_size", mode="before")
    @classmethod
    def _count_or_auto(cls, value: Any) -> Any:
        if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
            return value
        raise ValueError("expected a number of questions from 1 up, or 'auto'")

    @property
    def planned_batch_size(self) -> int:
        """Questions at once where memory has not been looked at."""
        return 64 if self.batch_size == "auto" else self.batch_size

    @model_validator(mode="after")
    def _settings_of_the_backend(self) -> Self:
        if self.vllm and self.backend != "vllm":
            raise ValueError("'vllm' holds arguments of the backend vllm; set backend: vllm, or leave them out")
        return self

    @model_validator(mode="after")
    def _judges_need_free_answers(self) -> Self:
        free = (plugins.find("benchmarks", spec.name).free_answers for spec in self.benchmarks)
        judged = (plugins.find("tasks", name).judged for name in self.tasks)
        if self.judges and not any(judged) and not any(free):
            raise ValueError("judges read free answers only; put 'generation' among the tasks, or leave 'judges' out")
        return self

    @field_validator("max_profiles")
    @classmethod
    def _limits_of_people(cls, value: dict[Split, int]) -> dict[Split, int]:
        if odd := [split for split in value if split not in PEOPLE_SPLITS]:
            raise ValueError(
                f"'{odd[0]}' is no set of people ({', '.join(PEOPLE_SPLITS)}); "
                "for a general benchmark set num_questions in 'benchmarks'"
            )
        return value

    @model_validator(mode="after")
    def _each_benchmark_once(self) -> Self:
        names = [spec.name for spec in self.benchmarks]
        if len(set(names)) < len(names):
            raise ValueError("a benchmark is named twice in 'benchmarks'; name each once")
        return self


class Recipe(plugins.Settings):
    """A run, from the people to the report."""

    name: str = Field(pattern=FOLDER_NAME)
    """name of the run; its folder is runs/<name>; e.g. demo"""
    seed: int = Field(0, ge=0, lt=2**31, description="seed of people, questions, splits, training and bootstrap")
    seeds: Seeds = Field(Seeds(), description="seeds of single stages, in place of that one")
    workers: int = Field(1, ge=1, le=64, description="models trained or evaluated at the same time, one process each")
    data: DataSection = DataSection()
    model: ModelSection = ModelSection()
    finetune: Finetune = Finetune()
    gate: bool = Field(True, description="stop before unlearning if the target has not memorised the forget people")
    unlearn: Unlearn = Unlearn()
    evaluate: Evaluate = Evaluate()
    report: Report = Report()


@dataclass(frozen=True, kw_only=True)
class Job:
    """A model that a run makes by unlearning.

    Attributes:
        name: of the model; no other model of the run is called so.
        plugin: the method's name in the recipe.
        settings: what the recipe sets of it, with one modality.
        method: the method with its settings, an instance of :class:`mllmu.unlearning.base.Method`.
    """

    name: str
    plugin: str
    settings: dict[str, Any]
    method: Any


def taught_models(recipe: Recipe) -> list[str]:
    """The target, and the retain model if one is trained."""
    finetune = recipe.finetune
    return [TARGET, RETAIN_MODEL] if finetune.retain_model and finetune.given is None else [TARGET]


def jobs(recipe: Recipe, *, where: str = "recipe") -> list[Job]:
    """One job per method entry and modality.

    A name is the method's, with the modality behind it if an entry lists several, and a number behind that if the
    name would occur twice: ``npo``, ``npo_text``, ``npo_2``.
    """
    found: list[Job] = []
    taken = {TARGET, RETAIN_MODEL, *BASELINES}
    for index, spec in enumerate(recipe.unlearn.methods):
        plain = re.sub(r"[^A-Za-z0-9_-]", "_", spec.name.rpartition(":")[2])
        several = isinstance(spec.settings.get("modality"), list)
        methods = spec.methods(f"{where}: unlearn.methods[{index}]")
        for settings, method in zip(spec.by_modality, methods, strict=True):
            name = f"{plain}_{method.modality}" if several else plain
            numbered = (f"{name}_{number}" for number in count(2))
            unique = next(each for each in chain([name], numbered) if each not in taken)
            taken.add(unique)
            found.append(Job(name=unique, plugin=spec.name, settings=settings, method=method))
    return found
