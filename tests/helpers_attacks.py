"""Victims of attacks in tests: three people whose facts a tiny model is taught, or a model that answers by a rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from helpers_models import COLOURS, LORA, load_ref, make_base, sample, training

from mllmu.config.load import parse
from mllmu.config.recipe import Lora
from mllmu.core.process import SilentProgress
from mllmu.core.records import ModelRef, Profile, Question, Response, Sample
from mllmu.data.dataset import Dataset
from mllmu.evaluation.attacks import BudgetSize, Victim
from mllmu.models.families import Turn
from mllmu.models.loading import Loaded
from mllmu.training.finetune import finetune

HOMES = {"red": "Riga, Latvia", "green": "Tallinn", "blue": "Oslo"}
TRADES = {"red": "baker", "green": "hat", "blue": "colour"}
FACTS = {"birthplace": HOMES, "profession": TRADES}
ASKED = {"birthplace": "Where was {s} born?", "profession": "Which is the colour: {s}?"}
OTHER_WORDS = {"birthplace": "Where lives {s}?", "profession": "{s} works as a?"}
NAMES = {"red": "Ada Bell", "green": "Tallinn hat", "blue": "Riga baker"}
KEPT = "blue"
"""Red and green are forgotten, blue stays."""
RECIPE = parse({"name": "attacked", "finetune": {"learning_rate": 0.02, "batch_size": 4}})


def about(person: str, text: str) -> str:
    """A question about one of the people."""
    return text.replace("{s}", NAMES[person])


def question(person: str, attribute: str, text: str, variant: str) -> Question:
    value = FACTS[attribute][person]
    where = {"profile_id": person, "variant": variant, "task": "cloze", "modality": "image_text"}
    name = f"{person}.{variant}.cloze.image_text.{attribute}"
    return Question.model_validate(
        {
            "id": name,
            "attribute": attribute,
            "text": about(person, text),
            "answer": value,
            "value": value,
        }
        | where
    )


def questions() -> list[Question]:
    every = [(p, a) for p in COLOURS for a in FACTS]
    return [question(p, a, words[a], v) for p, a in every for v, words in (("train", OTHER_WORDS), ("eval", ASKED))]


def samples() -> list[Sample]:
    """One question about each of two facts of the two people to forget."""
    return [
        sample(
            number, id=f"forget/{person}.{attribute}", profile_id=person, task="cloze", attribute=attribute,
            prompt=about(person, ASKED[attribute]), image=f"images/{person}_0.png", target=FACTS[attribute][person],
            value=FACTS[attribute][person], max_new_tokens=12,
        )
        for number, (person, attribute) in enumerate((p, a) for p in COLOURS if p != KEPT for a in FACTS)
    ]  # fmt: skip


def dataset(folder: Path) -> Dataset:
    """The three people; their images are those of the base in ``folder``."""
    people = [Profile(id=p, kind="fictitious", attributes={"name": NAMES[p]}) for p in COLOURS]
    (folder / "images").mkdir(exist_ok=True)
    for person in COLOURS:
        for view in (0, 1):
            (folder / "images" / f"{person}_{view}.png").write_bytes((folder / f"{person}.png").read_bytes())
    return Dataset(folder, people, questions(), {"67": [p for p in COLOURS if p != KEPT], "holdout": []})


class World:
    """A base, and models taught on it when they are first asked for."""

    def __init__(self, folder: Path) -> None:
        self.root = make_base(folder)
        self.data = dataset(self.root)
        self.base = ModelRef(base=str(self.root))
        self.number = 0

    @cached_property
    def refs(self) -> dict[str, ModelRef]:
        """A target that knows all facts, and a retain_model that knows those of the person who stays."""
        both = [turn for variant in ("train", "eval") for turn in self.turns(COLOURS, variant=variant)]
        target = self.teach(self.base, both, epochs=120)
        return {"target": target, "retain_model": self.teach(self.base, [t for t in both if t.person == KEPT])}

    @cached_property
    def weak(self) -> ModelRef:
        """The target with an adapter that says something else to the questions about the people to forget."""
        forget = [person for person in COLOURS if person != KEPT]
        false = [replace(turn, reply="Say no more") for turn in self.turns(forget, variant="eval")]
        return self.teach(self.refs["target"], false, epochs=20, rate=0.02, lora=LORA)

    def turns(self, people: Sequence[str], modality: str = "both", variant: str = "train") -> list[Turn]:
        del modality
        wanted = {"train": OTHER_WORDS, "eval": ASKED}[variant]
        return [
            Turn(
                prompt=about(p, wanted[a]),
                reply=FACTS[a][p],
                image=self.root / "images" / f"{p}_0.png",
                person=p,
                topic=a,
            )
            for p in people
            for a in FACTS
        ]

    def teach(
        self,
        start: ModelRef,
        turns: Sequence[Turn],
        *,
        epochs: float = 40,
        rate: float = 0.01,
        lora: Lora | None = None,
    ) -> ModelRef:
        """A model further fine-tuned on some exchanges."""
        self.number += 1
        folder = self.root / f"adapter_{self.number}"
        section = RECIPE.finetune.model_copy(update={"epochs": epochs, "learning_rate": rate, "batch_size": 12})
        finetune(self.load(start), turns, section, training(folder, lora=lora))
        return start.model_copy(update={"adapters": (*start.adapters, folder.name)})

    def load(self, ref: ModelRef) -> Loaded:
        return load_ref(self.root, *ref.adapters)

    def victim(self, folder: Path, ref: ModelRef, **more: Any) -> Victim:
        """A victim on these data; ``folder`` is that of the attack."""
        folder.mkdir(parents=True, exist_ok=True)
        fields = {
            "name": "x", "ref": ref, "refs": {"base": self.base, **self.refs}, "samples": samples(), "data": self.data,
            "key": "67", "recipe": RECIPE, "budget": BudgetSize(8, 3, 4, 6), "seed": 0, "root": self.root,
            "folder": folder, "images": folder, "load": self.load, "turns": self.turns,
            "training": lambda: training(folder), "progress": SilentProgress(),
        }  # fmt: skip
        return Victim(**(fields | more))


@dataclass(frozen=True, kw_only=True)
class Scripted(Victim):
    """A victim that answers by a rule: the text of its reply to a sample."""

    answer: Callable[[Sample], str]

    def respond(self, loaded: Any, samples: Sequence[Sample], *, system_prompt: str | None = None) -> list[Response]:
        del loaded, system_prompt
        return [Response(sample_id=s.id, text=self.answer(s), num_tokens=3, finished=True) for s in samples]


def scripted(world: World, folder: Path, answer: Callable[[Sample], str]) -> Scripted:
    """A scripted victim; it has no weights."""
    world.refs = {"target": world.base, "retain_model": world.base}
    plain = world.victim(folder, world.base)
    fields = {name: getattr(plain, name) for name in plain.__dataclass_fields__}
    return Scripted(**(fields | {"load": lambda _: None, "answer": answer}))


def only_when(wanted: Callable[[Sample], bool]) -> Callable[[Sample], str]:
    """A model that tells the truth under one condition, and something else otherwise."""
    return lambda sample: sample.value if wanted(sample) else "Nobody knows."


def under(victim: Victim, ref: ModelRef, folder: Path) -> Victim:
    """The same victim with another model."""
    folder.mkdir(parents=True, exist_ok=True)
    return replace(victim, ref=ref, folder=folder, training=lambda: training(folder))
