"""The checks of ``mllmu doctor``. Each is a function over plain values and returns one :class:`CheckResult`."""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Literal, NamedTuple

import torch

from mllmu.core.content import content_digest
from mllmu.core.errors import DataError, one_line
from mllmu.core.records import PEOPLE_SPLITS, Exchange, Sample
from mllmu.data.dataset import Dataset, image_files
from mllmu.models.encoding import as_turn
from mllmu.models.engine.raw_prompt import encode
from mllmu.models.engine.respond import limit_of
from mllmu.models.families import IGNORE, Turn, as_plain_text, core, open_image
from mllmu.models.layers import LANGUAGE
from mllmu.models.loading import Loaded
from mllmu.models.misfits import COUNTS, held
from mllmu.training.batches import training_batch
from mllmu.unlearning.base import Method
from mllmu.unlearning.trainer import step_batch

NUM_NAMED = 3
"""Faults that a result names; the rest are counted."""
DEVIATIONS: dict[tuple[str, str], str] = {
    ("reduction", "token_mean"): "log p is averaged over all tokens of a batch, not summed per reply",
    ("reduction", "batchmean"): "the divergence is summed over positions",
    ("reference", "retain_model"): "the reference has never seen the forget set",
    ("schedule", "two_phase"): "forget and retain are not trained in the same step",
}
"""Settings of published code, and how they differ from the papers."""
UNBOUNDED = 1 << 62
IMAGE_SETTINGS = (*COUNTS, "vision_feature_select_strategy")
"""Settings of a processor, or of its image processor, that decide how many tokens an image has."""


class CheckResult(NamedTuple):
    """One line of the doctor."""

    check: str
    level: Literal["ok", "note", "FAULT"]
    text: str


def result(check: str, faults: Sequence[str], ok: str) -> CheckResult:
    """``FAULT`` with the first faults, or ``ok`` with what was checked."""
    return CheckResult(check, "FAULT", listed(faults)) if faults else CheckResult(check, "ok", ok)


def note(check: str, text: str) -> CheckResult:
    """A deviation from the paper or from good practice that the recipe asks for."""
    return CheckResult(check, "note", f"deviation, {text}")


def listed(items: Sequence[str]) -> str:
    """The first items in a line, and how many more there are.

    >>> listed(["a", "b", "c", "d"])
    'a; b; c; and 1 more'
    """
    more = [f"and {len(items) - NUM_NAMED} more"] if len(items) > NUM_NAMED else []
    return "; ".join([*items[:NUM_NAMED], *more])


def people_apart(dataset: Dataset, key: str) -> CheckResult:
    """No person to forget is also retained, held out or a celebrity: by id, by name, or by the bytes of an image."""
    forget = dataset.splits[key]
    others = [*dataset.retained(key), *dataset.holdout, *dataset.calibration, *dataset.celebrities]
    both = sorted(set(forget) & set(others))
    faults = [f"{person} is to be forgotten and also retained, held out or a celebrity" for person in both]
    names = {dataset.names[person].casefold(): person for person in others}
    images = {digest: image for person in others for digest, image in _images(dataset, person)}
    for person in forget:
        namesake = names.get(dataset.names[person].casefold(), person)
        faults += [f"{person} and {namesake} have the same name"] * (namesake != person)
        faults += [
            f"{image} and {images[digest]} are the same image"
            for digest, image in _images(dataset, person)
            if images.get(digest, image) != image
        ]
    ok = f"{len(forget)} people share no id, name or image with the {len(others)} others"
    return result(f"forget people apart from all others ({key} %)", faults, ok)


def _images(dataset: Dataset, person: str) -> Iterator[tuple[str, str]]:
    for path in image_files(dataset.folder, person):
        yield content_digest(path), path.name


def evaluation_not_trained(dataset: Dataset) -> CheckResult:
    """No evaluation question is a training question: the same text about the same person in the same modality."""
    trained = {(q.profile_id, q.modality, _bare(q.text)) for q in dataset.questions if q.variant == "train"}
    evaluated = [q for q in dataset.questions if q.variant != "train"]
    faults = [f"{q.id} '{q.text}'" for q in evaluated if (q.profile_id, q.modality, _bare(q.text)) in trained]
    ok = f"none of {len(evaluated)} evaluation questions is among the {len(trained)} training questions"
    return result("evaluation questions not trained", faults, ok)


def shots_not_evaluated(
    dataset: Dataset, samples: Sequence[Sample], drawn_from: Literal["pool", "asked"], protocol: str = ""
) -> CheckResult:
    """No evaluated person is a few-shot example; a note if the protocol asks for that."""
    evaluated = {sample.profile_id: sample.split for sample in samples if sample.split in PEOPLE_SPLITS}
    shots = people_in_shots(dataset, samples)
    faults = [
        f"{person} is evaluated in '{evaluated[person]}' and an example before {shots[person]}"
        for person in sorted(set(shots) & set(evaluated))
    ]
    check = f"examples apart from evaluated people{f' ({protocol})' if protocol else ''}"
    if drawn_from == "asked" and faults:
        return note(check, f"shots.drawn_from: asked: {listed(faults)}")
    return result(check, faults, f"{len(shots)} people are examples only" if shots else "no few-shot examples")


def people_in_shots(dataset: Dataset, samples: Sequence[Sample]) -> dict[str, str]:
    """Every person in a few-shot example (by the image, else by the name in the text), with the first such sample."""
    patterns = {person: re.compile(rf"(?<!\w){re.escape(name)}(?!\w)") for person, name in dataset.names.items()}
    first_use: dict[Exchange, str] = {}
    for sample in samples:
        for example in sample.examples:
            first_use.setdefault(example, sample.id)
    people: dict[str, str] = {}
    for example, sample_id in first_use.items():
        if example.image:
            people.setdefault(PurePath(example.image).stem.rpartition("_")[0], sample_id)
        else:
            for person in (person for person, name in patterns.items() if name.search(example.prompt)):
                people.setdefault(person, sample_id)
    return people


def images_readable(paths: Iterable[Path]) -> CheckResult:
    """Every image of a training turn, an evaluation sample or an example can be opened."""
    distinct = sorted(set(paths))
    faults = []
    for path in distinct:
        try:
            open_image(path)
        except DataError as error:
            faults.append(f"{path.name}: {str(error).removeprefix(f'{path}: ').partition('.')[0]}")
    return result("images", faults, f"all {len(distinct)} can be opened")


def deviations(name: str, method: Method) -> Iterator[CheckResult]:
    """A note if settings of a method differ from its paper.

    ``loss_on``, ``train_end`` and ``layers`` show in the labels and adapters themselves, which have checks.
    """
    changed = []
    for (setting, value), text in DEVIATIONS.items():
        field = type(method).model_fields.get(setting)
        if field and field.default != value and getattr(method, setting) == value:
            changed.append(f"{setting}: {value} ({text})")
    if changed:
        yield note(f"loss of {name}", f"not as in the paper: {listed(changed)}")


def matching(modules: Iterable[str], pattern: str) -> list[str]:
    """The modules whose whole name matches a pattern: those that get adapters."""
    return [name for name in modules if re.fullmatch(pattern, name)]


def adapters_on_language(name: str, modules: Sequence[str], pattern: str) -> CheckResult:
    """Which layers get adapters; those of the vision tower or projector, which a recipe can ask for, are a note."""
    matched = matching(modules, pattern)
    outside = [module for module in matched if not LANGUAGE.search(module)]
    check, of_all = f"adapters of {name}", f"{len(outside)} of {len(matched)} layers"
    if not matched:
        return CheckResult(check, "FAULT", f"{pattern!r} matches no layer")
    if outside:
        return note(check, f"{of_all} are outside the language model and process the image, e.g. {outside[0]}")
    return CheckResult(check, "ok", f"{len(matched)} layers of the language model match {pattern}, e.g. {matched[0]}")


class LabelMask(NamedTuple):
    """A turn as tokens: ``trained[t]`` says whether token t counts in the loss; the first ``prompt`` are the prompt."""

    turn: Turn
    ids: list[int]
    trained: list[bool]
    prompt: int

    def __str__(self) -> str:
        return f"'{self.turn.prompt[:50]}' about {self.turn.person or 'no person'}"


def label_mask(loaded: Loaded, turn: Turn, method: Method | None = None) -> LabelMask:
    """The labels of one turn as a step of a method, or of the fine-tuning, sees them."""
    batch = training_batch(loaded, [turn]) if method is None else step_batch(loaded, method, [turn])
    trained = [label != IGNORE for label in batch.labels[0].tolist()]
    return LabelMask(turn, batch.inputs["input_ids"][0].tolist(), trained, len(loaded.encoder.prompt(turn)))


def only_reply_trained(name: str, masks: Sequence[LabelMask], loaded: Loaded, *, prompts: bool = False) -> CheckResult:
    """The whole reply of each turn is trained, and neither prompt (unless ``prompts``: the method asks) nor image."""
    faults = [f"{mask}: {fault}" for mask in masks for fault in _label_faults(mask, loaded, prompts=prompts)]
    check = f"labels of {name}"
    if prompts and not faults:
        return note(check, "loss_on: all: the prompt is trained too, the image is not")
    return result(check, faults, f"the reply alone is trained, in {len(masks)} turns")


def _label_faults(mask: LabelMask, loaded: Loaded, *, prompts: bool) -> Iterator[str]:
    trained = [token for token, counts in zip(mask.ids, mask.trained, strict=True) if counts]
    in_prompt = sum(mask.trained[: mask.prompt])
    if loaded.image_token_id in trained:
        yield f"{trained.count(loaded.image_token_id)} image tokens are in the loss"
    if in_prompt and not prompts:
        yield f"{in_prompt} prompt tokens are in the loss"
    processor = loaded.encoder.processor
    text = processor.tokenizer.decode(trained[in_prompt:], skip_special_tokens=True)
    if _bare(text) != _bare(as_plain_text(mask.turn.reply, processor)):
        yield f"trained is '{text.strip()}', expected '{mask.turn.reply}'"


def _bare(text: str) -> str:
    """Text without white space, forms of a letter and case, which tokenizers may change."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def end_trained(name: str, masks: Sequence[LabelMask], loaded: Loaded, *, left_out: bool = False) -> CheckResult:
    """The last token of each turn ends the reply and is trained; a note if the method leaves it out."""
    check = f"end of reply in {name}"
    if left_out:
        return note(check, "train_end: false: the model does not learn to stop")
    tokenizer = loaded.encoder.processor.tokenizer
    # every special token but the image's may end a reply: the family's own choice is under test
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    stops = {*tokenizer.all_special_ids, *special} - {loaded.image_token_id}
    endless = [mask for mask in masks if not (mask.trained[-1] and mask.ids[-1] in stops)]
    ends = tokenizer.convert_ids_to_tokens(sorted({mask.ids[-1] for mask in masks}))
    faults = [f"{mask}: no end of sequence is trained" for mask in endless]
    return result(check, faults, f"{', '.join(ends)} is trained")


class PromptLength(NamedTuple):
    """Tokens of a prompt; of prompt and longest reply to be trained or scored; of prompt and full generated reply."""

    what: str
    prompt: int
    scored: int
    generated: int


def turn_lengths(loaded: Loaded, turns: Iterable[Turn]) -> Iterator[PromptLength]:
    """Lengths of training turns."""
    for turn in turns:
        prompt = len(loaded.encoder.prompt(turn))
        total = prompt + len(loaded.encoder.reply(turn.reply))
        yield PromptLength(f"training, person {turn.person}: '{turn.prompt[:40]}'", prompt, total, total)


def unbounded(loaded: Loaded) -> Loaded:
    """The same without an end of the context, so that a prompt that is too long is a length and no error."""
    encoder = copy(loaded.encoder)
    encoder.context = UNBOUNDED
    return replace(loaded, encoder=encoder)


def sample_lengths(
    loaded: Loaded, samples: Iterable[Sample], image_folder: Path, system_prompt: str = ""
) -> Iterator[PromptLength]:
    """Lengths of samples with their examples; raw prompts are tokenised by the processor itself."""
    loaded = unbounded(loaded)
    encoder = loaded.encoder
    for sample in samples:
        if sample.raw_prompt:
            inputs = encode(loaded, sample, image_folder, system_prompt=system_prompt)
            prompt = int(inputs["input_ids"].shape[1])
        else:
            prompt = len(encoder.prompt(as_turn(sample, image_folder, system_prompt)))
        scored = max((len(encoder.reply(text)) for text in sample.candidates.values()), default=0)
        limit = sample.max_new_tokens if sample.raw_prompt else limit_of(encoder, sample)
        yield PromptLength(sample.id, prompt, prompt + scored, prompt + limit)


def fits_limit(loaded: Loaded, samples: Iterable[Sample], protocol: str = "") -> CheckResult:
    """A right reply fits the limit of its question: always after chat prompts, whose limits follow the data."""
    check = f"reply limits{f' ({protocol})' if protocol else ''}"
    fixed = [sample for sample in samples if sample.raw_prompt]
    lengths = {sample.id: len(loaded.encoder.reply(sample.target)) for sample in fixed}
    cut = [f"{s.id} ({lengths[s.id]} of {s.max_new_tokens})" for s in fixed if lengths[s.id] > s.max_new_tokens]
    if cut:
        return note(
            check, f"prompts: published: {len(cut)} right replies have more tokens than the limit: {listed(cut)}"
        )
    return CheckResult(
        check, "ok", f"{len(fixed)} fixed limits have room for the right reply, the others follow the data"
    )


def fits_context(lengths: Sequence[PromptLength], context: int) -> CheckResult:
    """Every prompt fits with the reply that is trained or scored; a note where a generated reply may be cut off."""
    too_long = [one for one in lengths if one.scored > context]
    faults = [f"{one.what} has {one.scored} tokens, the context is {context}" for one in too_long]
    cut_off = [one for one in lengths if one.generated > context]
    if cut_off and not faults:
        worst = max(cut_off, key=lambda one: one.generated)
        text = f"{len(cut_off)} prompts leave no room for a full reply ({worst.what}: {worst.generated} tokens"
        return CheckResult("context", "note", f"{text} of {context})")
    longest = max(lengths, key=lambda one: one.scored, default=PromptLength("none", 0, 0, 0))
    ok = f"{len(lengths)} prompts; the longest has {longest.scored} of {context} tokens ({longest.what})"
    return result("context", faults, ok)


@torch.inference_mode()
def image_tokens(loaded: Loaded, turns: Mapping[Path, Turn]) -> CheckResult:
    """The processor gives each image as many tokens as the model gives features; ``turns``: one turn per image."""
    faults, counts = [], set()
    for path, turn in turns.items():
        tokens = loaded.encoder.prompt(turn).count(loaded.image_token_id)
        fault = _image_fault(loaded, turn, tokens)
        faults += [f"{path.name}: {fault}"] if fault else []
        counts.add(tokens)
    if faults:
        named = [f"{name} {value}" for name, value in held(loaded.encoder.processor, IMAGE_SETTINGS).items()]
        faults.insert(0, f"processor_config.json: image tokens come from {', '.join(named) or 'settings of its own'}")
    ok = f"{len(turns)} images of {' or '.join(map(str, sorted(counts)))} tokens have as many features"
    return result("image tokens", faults, ok if turns else "no image is trained or evaluated")


def _image_fault(loaded: Loaded, turn: Turn, tokens: int) -> str:
    try:
        if not loaded.family.image_parts:  # the model itself compares tokens with features
            core(loaded.model)(**loaded.encoder.batch([turn]).to(loaded.device).inputs)
            return ""
        pixels = {key: value.to(loaded.device) for key, value in loaded.encoder.images([turn]).items()}
        features = len(loaded.family.image_features(core(loaded.model), pixels))
    except (ValueError, RuntimeError, IndexError) as error:
        return f"the model refuses it: {one_line(error)}"
    return "" if features == tokens else f"{tokens} tokens in the prompt, {features} features from the model"
