"""Questions of the user's own, put to the models of a run; each is loaded when it is first asked.

Nothing is trained, and nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from transformers import AutoConfig

from mllmu.config import load as recipes
from mllmu.core.errors import DataError, ModelError, did_you_mean
from mllmu.core.names import TARGET, ratio_order
from mllmu.core.process import Progress, SilentProgress
from mllmu.core.records import Modality, ModelRef, Profile, Question, Response, Sample
from mllmu.core.runfolder import RunFolder, read_lines
from mllmu.data.dataset import QUESTIONS, image_path
from mllmu.explorer.questions import profiles_of
from mllmu.explorer.truths import KnownTruth, find_person, person_in, sentence_of, telling_words, truth_of
from mllmu.models import devices
from mllmu.models.base_files import base_files, check_base
from mllmu.models.encoding import Encoder, as_turn
from mllmu.models.engine.respond import respond
from mllmu.models.families import open_image
from mllmu.models.loading import Loaded, make_encoder, quiet_libraries, release_base, source_of
from mllmu.pipeline.run import Run

NEW_TOKENS = 64
"""Most tokens of a reply, unless the user says otherwise."""


class OwnQuestion(NamedTuple):
    """A question with what is known of it.

    Attributes:
        text: as the user wrote it; it is put in the chat form of the model.
        image: the image that it shows; None for none.
        person: whom it is about, if that is known.
        truth: what is true, if that is known.
        max_new_tokens: most tokens of a reply.
    """

    text: str
    image: Path | None
    person: Profile | None
    truth: KnownTruth | None
    max_new_tokens: int = NEW_TOKENS

    def sample(self) -> Sample:
        """As it is put to a model; the candidates are the true value as the whole reply, and the sentence with it."""
        value, sentence = (self.truth.value, self.truth.sentence) if self.truth else ("", "")
        candidates = {"target": value, "sentence": sentence}
        return Sample(
            id="own/0",
            question_id="0",
            profile_id=self.person.id if self.person else "",
            split="own",
            task="generation",
            modality="image_text" if self.image else "text",
            attribute=self.truth.attribute if self.truth else "",
            prompt=self.text,
            image=str(self.image.resolve()) if self.image else "",
            target=value,
            value=value,
            candidates={name: text for name, text in candidates.items() if text},
            max_new_tokens=self.max_new_tokens,
        )


class RunAsker:
    """Puts questions to the models of one forget ratio of a run.

    Args:
        root: the run folder.
        key: the forget ratio in percent; by default the smallest.
        progress: is told which model is being loaded.

    Raises:
        DataError: the folder holds no run, or none of that ratio.
        RunStoreError: the base model is not the one that the models were made on.
    """

    def __init__(self, root: Path, key: str = "", progress: Progress | None = None) -> None:
        if not (root / RunFolder.RECIPE).is_file():
            raise DataError(f"{root}: no run in this folder. Expected one that 'mllmu run' has made.")
        self.recipe = recipes.load(root / RunFolder.RECIPE)
        self.run = Run(self.recipe, root, progress or SilentProgress())
        base = self.run.base
        check_base(root / RunFolder.model_unit("", TARGET), base_files(base.base, base.revision), base.base)
        made = RunFolder(root).models_made()
        keys = sorted({n.partition("/")[0].removeprefix("forget_") for n in made if "/" in n}, key=ratio_order)
        if key and key not in keys:
            raise DataError(f"{root}: no models of forget ratio {key} %. There are: {', '.join(keys)} %.")
        self.key = key or next(iter(keys), "")
        self.models = [m for m in self.run.models if RunFolder.model_unit(self.key, m).removeprefix("models/") in made]
        if not self.models:
            raise ModelError(f"{root}: has no finished model. Run 'mllmu finetune' and 'mllmu unlearn' first.")
        self.profiles = profiles_of(root)
        self._kept: dict[str, tuple[ModelRef, Loaded]] = {}
        self._lock = Lock()

    @cached_property
    def _questions(self) -> list[Question]:
        path = self.run.root / RunFolder.DATA / QUESTIONS
        return read_lines(path, Question) if path.is_file() else []

    @cached_property
    def _wordings(self) -> dict[str, dict[str, float]]:
        return telling_words(self._questions, self.profiles)

    def question(
        self, text: str, *, image: str | Path = "", truth: str = "", max_new_tokens: int = NEW_TOKENS
    ) -> OwnQuestion:
        """A question of the user's own.

        Args:
            image: a file; or the id or name of a person, whose portrait is shown; empty for none.
            truth: the true value, or the attribute that is asked for; empty: found by the words of the question.

        Raises:
            DataError: the question is empty, the image cannot be read, nobody is called so, or an attribute is named
                of nobody, or of a person of whom it is not known.
        """
        if not text.strip():
            raise DataError("the question is empty.")
        path, person = self._shown(image) if image else (None, None)
        person = person or person_in(text, self.profiles)
        known = self._attribute(truth, person) or KnownTruth("", truth) if truth else None
        known = known or truth_of(text, person, self._wordings)
        if person and known and known.attribute:
            modality: Modality = "image_text" if path else "text"
            known = known._replace(sentence=sentence_of(self._questions, person.id, known.attribute, modality))
        return OwnQuestion(text, path, person, known, max_new_tokens)

    def _attribute(self, name: str, person: Profile | None) -> KnownTruth | None:
        """What is true of a person under the name of an attribute; None if no person has an attribute of that name."""
        if all(name not in each.attributes for each in self.profiles.values()):
            return None
        if person is None:
            raise DataError(
                f"truth '{name}': of whom? Put the whole name of one person into the question, or show a portrait by "
                "id or name (--image); or give the true value itself."
            )
        if name not in person.attributes:
            known = ", ".join(person.attributes)
            raise DataError(f"truth '{name}': not known of {person.name} ({person.id}), of whom are known: {known}.")
        return KnownTruth(name, person.attributes[name])

    def _shown(self, image: str | Path) -> tuple[Path, Profile | None]:
        """The image of a file or person, and the person if known."""
        path = Path(image)
        person = None if path.is_file() else find_person(str(image), self.profiles)
        path = self.run.root / RunFolder.DATA / image_path(person.id) if person else path
        open_image(path)
        return path, person

    def checked(self, models: Iterable[str]) -> list[str]:
        """The models named, all of them for none; ModelError for a name that no model has."""
        wanted = list(models) or self.models
        for name in wanted:
            if name not in self.models:
                known = ", ".join(self.models)
                raise ModelError(f"no model '{name}'.{did_you_mean(name, self.models)} Models: {known}.")
        return wanted

    def ask(self, question: OwnQuestion, models: Sequence[str]) -> Iterator[tuple[str, Response]]:
        """What each model replies (greedy), with the log-probability of the true value, one after the other."""
        sample = question.sample()
        for model in self.checked(models):
            with self._lock, quiet_libraries():
                ref, loaded = self._loaded(model)
                folder = self.run.root / RunFolder.DATA
                ((response,),) = respond(loaded, [[sample]], image_folder=folder, system_prompt=ref.system_prompt)
            yield model, response

    def _loaded(self, model: str) -> tuple[ModelRef, Loaded]:
        """A model; the ones before it are kept while the memory that is free is twice as large as one of them."""
        ref = self.run.ref(self.key, model)
        if same := next((kept for kept in self._kept.values() if kept[0] == ref), None):
            return same
        if self._kept:
            _, last = next(reversed(self._kept.values()))
            size = sum(weight.nbytes for weight in last.model.parameters())
            if devices.free_bytes(last.device) < 2 * size:
                self._kept.clear()
                release_base()
        self.run.progress.note(f"loading {model}")
        self._kept[model] = ref, self.run.load(ref)
        return self._kept[model]

    def rendered(self, sample: Sample, model: str) -> str:
        """The prompt of a sample as a model reads it: with chat template and special tokens, image tokens counted."""
        ref = self.run.ref(self.key, model)
        with self._lock, quiet_libraries():
            config, encoder = self._reader
            turn = as_turn(sample, self.run.root / RunFolder.DATA, ref.system_prompt)
            ids = encoder.prompt(turn)
        image = getattr(config, "image_token_id", None) or getattr(config, "image_token_index", None)
        decode = encoder.processor.tokenizer.decode
        parts = []
        for is_image, group in groupby(ids, key=lambda token: token == image):
            run = list(group)
            parts.append(f"{decode(run[:1])} x{len(run)}" if is_image else decode(run))
        return "".join(parts)

    @cached_property
    def _reader(self) -> tuple[Any, Encoder]:
        """What reads prompts: configuration and encoder of the base, without its weights."""
        base = self.run.base
        source = source_of(base.base)
        config = AutoConfig.from_pretrained(source, revision=base.revision, trust_remote_code=False)
        return config, make_encoder(self.recipe.model, source, base.revision, config)
