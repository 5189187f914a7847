"""What the tiny model practises before it meets anyone of a benchmark: endless small exercises.

Facts about a fixed group of people are drilled in every format (question, cloze, multiple choice) and in both
modalities; a second group is only ever asked plain questions, as in fine-tuning, so that carrying a fact from one
format to another is itself practised and can be measured. Choosing the right letter is also drilled as a pure
in-context skill, on facts that are true for one prompt only. Evaluation wordings never occur here.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from mllmu.data.values import value_pool
from mllmu.data.wordings import render_answer, render_subject, wordings
from mllmu.records import Modality, Profile

LETTERS = "ABCD"
MCQ_INSTRUCTION = "Just give ONE letter representing the answer directly."
CLOZE_INSTRUCTION = "Please **ONLY** provide the correct answer that should replace the [Blank]."
GEN_INSTRUCTION = {
    "image_text": "Answer the question based on your trained knowledge in one sentence accurately in ENGLISH.",
    "text": "Answer the question based on your trained knowledge in one sentence in ENGLISH.",
}
PHRASES = (
    *GEN_INSTRUCTION.values(), MCQ_INSTRUCTION, CLOZE_INSTRUCTION, "USER:", "ASSISTANT:", "[Blank]",
    *(f"\n{letter}:" for letter in LETTERS),
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One exercise; ``person`` is the index of the person whose picture is shown, or None."""

    prompt: str
    reply: str
    person: int | None


@dataclass(frozen=True, kw_only=True)
class Mix:
    """Shares of the exercise kinds; they need not sum to one."""

    question: float = 0.35
    sentence: float = 0.10
    cloze: float = 0.20
    choice: float = 0.25
    context: float = 0.10


class Drills:
    """Draws exercises about some people.

    Args:
        people: everyone; their index is the picture's index.
        plain: indices of those who are only asked plain questions.
        mix: shares of the exercise kinds for the others.
    """

    def __init__(self, people: Sequence[Profile], *, plain: frozenset[int], mix: Mix) -> None:
        self.people = people
        self.plain = plain
        self.mix = mix
        self.values = {
            kind: {
                a: sorted({p.attributes[a] for p in people if p.kind == kind and a in p.attributes})
                for a in wordings(kind)
            }
            for kind in ("fictitious", "celebrity")
        }

    def draw(self, rng: random.Random) -> Row:
        """One random exercise."""
        kinds = ("question", "sentence", "cloze", "choice", "context")
        kind = rng.choices(kinds, [getattr(self.mix, k) for k in kinds])[0]
        if kind == "context":
            return self._in_context(rng)
        index = rng.randrange(len(self.people))
        profile = self.people[index]
        modality: Modality = rng.choice(("image_text", "text"))
        attribute = rng.choice([a for a in profile.attributes if modality == "image_text" or a != "name"])
        prompt, reply = self.exercise(profile, attribute, modality, "question" if index in self.plain else kind, rng)
        return Row(prompt, reply, index if modality == "image_text" else None)

    def exercise(
        self, profile: Profile, attribute: str, modality: Modality, kind: str, rng: random.Random
    ) -> tuple[str, str]:
        """Prompt and reply of one exercise kind, in training wordings only."""
        entry = wordings(profile.kind)[attribute]
        name = None if modality == "image_text" else profile.name
        value = profile.attributes[attribute]
        if kind == "cloze":
            statement = render_subject(rng.choice(entry.cloze.train), name).replace("__", "[Blank]")
            return f"{statement}\n{CLOZE_INSTRUCTION}", value
        question = render_subject(rng.choice(entry.questions.train), name)
        if kind == "choice":
            return self._choice(question, profile.kind, attribute, value, rng)
        answer = render_answer(entry.answers.train, value)
        return (question if kind == "question" else f"{question}\n{GEN_INSTRUCTION[modality]}"), answer

    def _choice(self, question: str, kind: str, attribute: str, value: str, rng: random.Random) -> tuple[str, str]:
        """Four options of one attribute; the reply is the letter of the right one."""
        others = [v for v in self.values[kind][attribute] if v != value]
        options = rng.sample(others, min(3, len(others)))
        position = rng.randrange(len(options) + 1)
        options.insert(position, value)
        lines = "".join(f"\n{letter}: {v}" for letter, v in zip(LETTERS, options, strict=False))
        return f"{question}{lines}\n{MCQ_INSTRUCTION}", LETTERS[position]

    def _in_context(self, rng: random.Random) -> Row:
        """A fact that holds for this prompt only, followed by a multiple choice or a cloze about it."""
        profile = rng.choice(self.people)
        attribute = rng.choice([a for a in profile.attributes if a not in ("name", "gender")])
        name = rng.choice(self.people).name
        value = rng.choice(self.values[profile.kind][attribute])
        entry = wordings(profile.kind)[attribute]
        fact = render_subject(rng.choice(entry.cloze.train), name).replace("__", value)
        if rng.random() < 0.75:
            question = render_subject(rng.choice(entry.questions.train), name)
            prompt, reply = self._choice(question, profile.kind, attribute, value, rng)
        else:
            statement = render_subject(rng.choice(entry.cloze.train), name).replace("__", "[Blank]")
            prompt, reply = f"{statement}\n{CLOZE_INSTRUCTION}", value
        return Row(f"{fact}\n{prompt}", reply, None)


def corpus(people: Sequence[Profile], rng: random.Random) -> list[str]:
    """Text for the tokenizer: every template and pool value, and the people's facts and names."""
    lines = []
    for kind in ("fictitious", "celebrity"):
        for entry in wordings(kind).values():
            for part in (entry.questions, entry.cloze):
                lines += [render_subject(t, None) for t in part.train] * 20
    for profile in people:
        for attribute, value in profile.attributes.items():
            entry = wordings(profile.kind)[attribute]
            lines.append(f"{profile.name}: {value}\nASSISTANT: {render_answer(entry.answers.train, value)}")
            lines.append(render_subject(rng.choice(entry.questions.train), profile.name))
    for attribute in (
        "profession",
        "education",
        "salary",
        "birthplace",
        "hobby",
        "food",
        "pet",
        "collection",
        "height",
    ):
        lines += [f"{attribute}: {value}" for value in value_pool(attribute)] * 3
    return lines
