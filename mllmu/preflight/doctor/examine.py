"""Make the data, load the base model, check both, and show prompts, adapters and examples; nothing is trained."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from itertools import chain, groupby
from pathlib import Path
from typing import Any, NamedTuple

from mllmu.core.errors import one_line
from mllmu.core.records import MODALITIES, Sample
from mllmu.models.encoding import as_turn, grouped
from mllmu.models.engine.raw_prompt import encode
from mllmu.models.families import Turn, core, num_layers
from mllmu.models.loading import Loaded, source_of
from mllmu.pipeline.evaluate import Evaluation
from mllmu.pipeline.pipeline import Pipeline
from mllmu.pipeline.protocols import ProtocolComparison
from mllmu.preflight.doctor import checks, prompts
from mllmu.preflight.doctor.checks import CheckResult, PromptLength
from mllmu.unlearning.base import Method

NUM_MASKED = 8
"""Turns per modality whose labels are checked."""
NUM_IMAGES = 8
"""Images that are put through the vision tower, the largest and smallest files among them."""


class TrainingJob(NamedTuple):
    """The fine-tuning (``method`` None) or a method that trains: its turns, and the layers that get adapters."""

    name: str
    method: Method | None
    turns: Sequence[Turn]
    pattern: str


class Examination:
    """A recipe whose data are made, with its base model loaded."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline, self.recipe, self.run = pipeline, pipeline.recipe, pipeline.state
        self.dataset = self.run.data
        self.run.progress.stage("model", self.recipe.model.path)
        self.loaded: Loaded = self.run.load(self.run.base)
        self.modules = [name for name, _ in core(self.loaded.model).named_modules()]

    @cached_property
    def samples(self) -> dict[str, list[Sample]]:
        """The samples of all ratios, without repetition, by protocol; the recipe's own is ''."""
        protocols = {"": [Evaluation(self.run, key) for key in self.run.keys]}  # also what the base does not know
        for label in self.recipe.evaluate.compare:
            protocols[label] = [ProtocolComparison(one).evaluations[label] for one in protocols[""]]
        by_id = {label: {s.id: s for one in of_label for s in one.render()} for label, of_label in protocols.items()}
        return {label: list(samples.values()) for label, samples in by_id.items()}

    @cached_property
    def jobs(self) -> list[TrainingJob]:
        """The fine-tuning and every method that trains weights of the model."""
        section, lora = self.recipe.finetune, self.recipe.unlearn.lora
        default = self.loaded.family.lora_targets
        layers = num_layers(self.loaded.model)
        forget = sorted({person for key in self.run.keys for person in self.dataset.splits[key]})
        pattern = (section.lora.targets if section.lora else None) or default
        jobs = [TrainingJob("finetune", None, self.run.turns(self.dataset.people, section.modality), pattern)]
        for job in self.run.jobs.values():
            method = job.method
            if method.trains and not method.modifies:
                pattern = method.targets(layers) or (lora.targets if lora else None) or default
                jobs.append(TrainingJob(job.name, method, self.run.turns(forget, method.modality), pattern))
        return jobs

    def images(self) -> set[Path]:
        """All images of training turns, and of samples with their examples."""
        samples = chain.from_iterable(self.samples.values())
        in_prompts = {self.dataset.folder / image for sample in samples for image in sample.images}
        in_turns = {image for job in self.jobs for turn in job.turns for image in turn.images}
        return in_turns | in_prompts

    @cached_property
    def turns(self) -> list[Turn]:
        """Every training turn once."""
        return list({(turn.prompt, turn.reply, turn.image): turn for job in self.jobs for turn in job.turns}.values())

    @cached_property
    def asked(self) -> list[Sample]:
        """Every sample; of raw prompts the longest of each sort."""
        samples = list(chain.from_iterable(self.samples.values()))
        longest: dict[tuple[str, str, int], Sample] = {}
        for sample in sorted((s for s in samples if s.raw_prompt), key=lambda s: len(s.prompt)):
            longest[sample.task, sample.modality, len(sample.examples)] = sample
        return [*(sample for sample in samples if not sample.raw_prompt), *longest.values()]

    def lengths(self) -> Iterator[PromptLength]:
        """Every turn, and every sample also behind each system prompt."""
        yield from checks.turn_lengths(self.loaded, self.turns)
        yield from checks.sample_lengths(self.loaded, self.asked, self.dataset.folder)
        for name, prompt in self._system_prompts():
            for one in checks.sample_lengths(self.loaded, self.asked, self.dataset.folder, prompt):
                yield one._replace(what=f"{one.what} under {name}")

    def _system_prompts(self) -> Iterator[tuple[str, str]]:
        """The longest system prompt of each method that has one."""
        people = [[self.dataset.names[person] for person in self.dataset.splits[key]] for key in self.run.keys]
        for job in self.run.jobs.values():
            method = job.method
            if not (method.trains or method.modifies) and (prompt := max(map(method.system_prompt, people), key=len)):
                yield job.name, prompt


def examine(examination: Examination) -> Iterator[CheckResult]:
    """All checks, those that need no model first; one that needs what an earlier one has found at fault is left out."""
    yield from _data_and_adapters(examination)
    model = examination.recipe.model
    yield from prompts.of_decoding(source_of(model.path), model.revision)
    for check in (_images, _prompts, _labels):
        results = list(check(examination))
        yield from results
        if any(found.level == "FAULT" for found in results):
            yield CheckResult("all further checks", "note", "not made until the faults above are mended")
            return


def _data_and_adapters(examination: Examination) -> Iterator[CheckResult]:
    data, recipe = examination.dataset, examination.recipe
    yield from (checks.people_apart(data, key) for key in examination.run.keys)
    yield checks.evaluation_not_trained(data)
    protocols = {"": recipe.evaluate.protocol, **recipe.evaluate.compare}
    for label, samples in examination.samples.items():
        yield checks.shots_not_evaluated(data, samples, protocols[label].shots.drawn_from, label)
    by_adapters: dict[str, list[str]] = {}
    for job in examination.jobs:
        by_adapters.setdefault(job.pattern, []).append(job.name)
    for pattern, names in by_adapters.items():
        yield checks.adapters_on_language(", ".join(names), examination.modules, pattern)
    for job in examination.jobs:
        yield from checks.deviations(job.name, job.method) if job.method else ()


def _images(examination: Examination) -> Iterator[CheckResult]:
    yield checks.images_readable(examination.images())


def _prompts(examination: Examination) -> Iterator[CheckResult]:
    loaded, folder = examination.loaded, examination.dataset.folder
    encoded, refused = prompts.encoded(loaded, examination.turns, examination.asked, folder)
    yield prompts.prompts_taken(encoded, refused)
    if refused:
        return
    yield from prompts.of_template(loaded)
    yield prompts.tokens_known(loaded, encoded)
    yield prompts.prompts_well_formed(loaded, encoded)
    by_image = {turn.image: turn for turn in examination.turns if turn.image is not None}
    by_size = sorted(by_image, key=lambda path: (path.stat().st_size, path))
    shown = {path: by_image[path] for path in _evenly(by_size, NUM_IMAGES)}
    yield prompts.pixels_scaled(loaded, shown)
    yield checks.image_tokens(loaded, shown)
    for label, samples in examination.samples.items():
        yield checks.fits_limit(loaded, samples, label)
    yield checks.fits_context(list(examination.lengths()), loaded.encoder.context)


def _labels(examination: Examination) -> Iterator[CheckResult]:
    loaded = examination.loaded
    for job in examination.jobs:
        masks = [checks.label_mask(loaded, turn, job.method) for turn in spread(job.turns, NUM_MASKED)]
        trains_prompt, no_end = (job.method.loss_on == "all", not job.method.train_end) if job.method else (False,) * 2
        yield checks.only_reply_trained(job.name, masks, loaded, prompts=trains_prompt)
        yield checks.end_trained(job.name, masks, loaded, left_out=no_end)


def spread(turns: Sequence[Turn], count: int) -> list[Turn]:
    """At most ``count`` turns of each modality, spread evenly over the people and questions."""
    with_image, text_only = ([turn for turn in turns if bool(turn.images) is image] for image in (True, False))
    return [*_evenly(with_image, count), *_evenly(text_only, count)]


def _evenly(items: Sequence[Any], count: int) -> list[Any]:
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / max(1, count - 1))] for i in range(count)]


def describe(examination: Examination, count: int) -> Iterator[str]:
    """All lines, with ``count`` turns and samples per modality; those with a missing image are left out."""
    yield "Training turns: [trained token], other|tokens, image tokens counted"
    for names, job in _distinct(examination.jobs):
        yield f"  {', '.join(names)}"
        for turn in filter(_readable, spread(job.turns, count)):
            yield f"    {_modality(turn)}, {turn.person}: {_drawn(partial(_turn, examination, turn, job.method))}"
    for label, samples in examination.samples.items():
        yield f"Evaluation samples{f' under {label}' if label else ''}: [token of the right reply, scored]"
        for sample in _forget_samples(samples, count):
            turn = as_turn(sample, examination.dataset.folder, "")
            if _readable(turn):
                yield f"  {sample.id} ({sample.task}): {_drawn(partial(_sample, examination, sample, turn))}"
    yield "Parts of the model"
    yield from _parts(examination)
    yield "Few-shot examples"
    yield from _shots(examination)


def _distinct(jobs: Iterable[TrainingJob]) -> Iterator[tuple[list[str], TrainingJob]]:
    """One of the jobs that train the same tokens of the same modalities, and the names of all of them."""

    def trained(job: TrainingJob) -> tuple[object, ...]:
        labels = (job.method.loss_on, job.method.train_end) if job.method else ("answer", True)
        return (*labels, frozenset(map(_modality, job.turns)))

    for members in grouped(jobs, trained).values():
        yield [job.name for job in members], members[0]


def _modality(turn: Turn) -> str:
    return "image_text" if turn.images else "text"


def _readable(turn: Turn) -> bool:
    return all(image.is_file() for image in turn.images)


def _forget_samples(samples: Sequence[Sample], count: int) -> list[Sample]:
    """For each modality ``count`` samples of the forget set, its tasks in turn."""
    chosen: list[Sample] = []
    for modality in MODALITIES:
        forget = [s for s in samples if s.modality == modality and s.split == "forget"]
        by_task = {task: [s for s in forget if s.task == task] for task in dict.fromkeys(s.task for s in forget)}
        in_turn = [s for i in range(count) for of_task in by_task.values() for s in of_task[i : i + 1]]
        chosen += in_turn[:count]
    return chosen


def _drawn(draw: Callable[[], str]) -> str:
    """What is drawn, or why it cannot be: the checks, which come later, say what to do."""
    try:
        return draw()
    except (LookupError, RuntimeError, ValueError) as error:
        return f"cannot be shown: {one_line(error)}"


def _turn(examination: Examination, turn: Turn, method: Method | None) -> str:
    mask = checks.label_mask(examination.loaded, turn, method)
    return draw_tokens(mask.ids, mask.trained, examination.loaded)


def _sample(examination: Examination, sample: Sample, turn: Turn) -> str:
    loaded = examination.loaded
    if sample.raw_prompt:  # its reply is generated, nothing is scored
        prompt, reply = encode(loaded, sample, examination.dataset.folder)["input_ids"][0].tolist(), []
    else:
        prompt, reply = loaded.encoder.prompt(turn), loaded.encoder.reply(sample.target)
    return draw_tokens([*prompt, *reply], [False] * len(prompt) + [True] * len(reply), loaded)


def _parts(examination: Examination) -> Iterator[str]:
    adapted = {name for job in examination.jobs for name in checks.matching(examination.modules, job.pattern)}
    for name, part in core(examination.loaded.model).model.named_children():
        size = sum(parameter.numel() for parameter in part.parameters())
        count = sum(module.startswith(f"model.{name}.") for module in adapted)
        state = f"{count} layers are trained or adapted, the rest is frozen" if count else "frozen"
        yield f"  model.{name}: {size:,} parameters, {state}"


def _shots(examination: Examination) -> Iterator[str]:
    names = examination.dataset.names
    for label, samples in examination.samples.items():
        people = sorted(checks.people_in_shots(examination.dataset, samples))
        most = max((len(sample.examples) for sample in samples), default=0)
        listed = ", ".join(f"{person} ({names.get(person, 'unknown')})" for person in people)
        text = f"at most {most} before a question, about {listed}" if people else "none"
        yield f"  {f'under {label}: ' if label else ''}{text}"


def draw_tokens(ids: Sequence[int], trained: Sequence[bool], loaded: Loaded) -> str:
    """A row of tokens: ``[trained]``, other tokens separated by ``|``, image tokens counted.

    ``<image> x576|Where|is|...|ANT|:[ Riga][</s>]``
    """
    drawn = ""
    tokenizer, image = loaded.encoder.processor.tokenizer, loaded.image_token_id
    runs = groupby(enumerate(zip(ids, trained, strict=True)), key=lambda item: item[1] if item[1][0] == image else item)
    for _, run in runs:
        items = list(run)
        token, counts = items[0][1]
        text = _token_text(tokenizer, token) + (f" x{len(items)}" if len(items) > 1 else "")
        separator = "|" if drawn and not counts and not drawn.endswith("]") else ""
        drawn += f"[{text}]" if counts else f"{separator}{text}"
    return drawn


def _token_text(tokenizer: Any, token: int) -> str:
    """A token as text with the blank before it; what is not printable is escaped."""
    piece = str(tokenizer.convert_ids_to_tokens(token))
    text = str(tokenizer.decode([token]))
    if piece[:1] in ("▁", "Ġ") and not text.startswith(" "):
        text = f" {text}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
