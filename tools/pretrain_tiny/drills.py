"""What the tiny model practises before it meets anyone of a benchmark: endless small exercises.

Reading comes first: repeating a list, finding the letter of a value or the value of a letter, and answering about a
fact that is true for one prompt only (``READING``). A small model that is shown multiple choice from memory at once
stays at chance; one that can already read options learns it. Then (``KNOWING``) facts about a fixed group of people
are drilled in every format (question, cloze, multiple choice) and in both modalities; a second group is only ever
asked plain questions, as in fine-tuning, so that carrying a fact from one format to another can be measured.
Evaluation wordings never occur here.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from mllmu.core.parsing import render_answer
from mllmu.core.records import Modality, Profile
from mllmu.data.questions import Wordings, render_subject, wordings
from mllmu.data.values import value_pool

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
    """One exercise; ``person`` is the index of the person whose image is shown, or None."""

    prompt: str
    reply: str
    person: int | None


@dataclass(frozen=True, kw_only=True)
class Mix:
    """Shares of the exercise kinds; they need not sum to one."""

    question: float = 0.0
    sentence: float = 0.0
    cloze: float = 0.0
    choice: float = 0.0
    context: float = 0.0
    repeat: float = 0.0
    lookup: float = 0.0


READING = Mix(context=0.35, repeat=0.3, lookup=0.35)
KNOWING = Mix(question=0.28, sentence=0.07, cloze=0.24, choice=0.27, context=0.08, repeat=0.02, lookup=0.04)
# Words for an attribute in a statement that is no sentence; other attributes are called by their name.
LABELS = {
    "birth_date": "born on",
    "birthplace": "born in",
    "father_job": "father's work",
    "mother_job": "mother's work",
}


class Drills:
    """Draws exercises about some people.

    Args:
        people: everyone; their index is the image's index.
        plain: indices of those who are only asked plain questions.
    """

    def __init__(self, people: Sequence[Profile], *, plain: frozenset[int]) -> None:
        self.people = people
        self.plain = plain
        self.values = {
            kind: {
                a: sorted({p.attributes[a] for p in people if p.kind == kind and a in p.attributes})
                for a in wordings(kind)
            }
            for kind in ("fictitious", "celebrity")
        }

    def draw(self, rng: random.Random, mix: Mix, among: range | None = None) -> Row:
        """One random exercise; ``mix`` holds the shares of the kinds, ``among`` limits the people."""
        shares = asdict(mix)
        kind = rng.choices(list(shares), list(shares.values()))[0]
        if kind in ("context", "repeat", "lookup"):
            return {"context": self._in_context, "repeat": self._repeat, "lookup": self._lookup}[kind](rng)
        index = rng.choice(among or range(len(self.people)))
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
            return f"{self._statement(entry, attribute, name, rng)}\n{CLOZE_INSTRUCTION}", value
        question = render_subject(rng.choice(entry.questions.train), name)
        if kind == "choice":
            return self._choice(question, profile.kind, attribute, value, rng)
        answer = render_answer(entry.answers.train, value)
        return (question if kind == "question" else f"{question}\n{GEN_INSTRUCTION[modality]}"), answer

    def _statement(self, entry: Wordings, attribute: str, name: str | None, rng: random.Random) -> str:
        """A text with a blank: mostly a statement, sometimes a question or a mere label before the blank."""
        form = rng.random()
        if form < 0.65:
            return render_subject(rng.choice(entry.cloze.train), name).replace("__", "[Blank]")
        if form < 0.9:
            return f"{render_subject(rng.choice(entry.questions.train), name)} [Blank]"
        label = LABELS.get(attribute, attribute.replace("_", " "))
        return f"{name or 'This person'}, {label}: [Blank]"

    def _repeat(self, rng: random.Random) -> Row:
        """Say three values again."""
        text = "; ".join(self._values(rng, 3))
        return Row(text, text, None)

    def _lookup(self, rng: random.Random) -> Row:
        """The letter of a value in a list, or the value of a letter."""
        values = self._values(rng, len(LETTERS))
        place = rng.randrange(len(LETTERS))
        lines = "".join(f"\n{letter}: {value}" for letter, value in zip(LETTERS, values, strict=True))
        if rng.random() < 0.4:
            return Row(f"Which is {LETTERS[place]}?{lines}", values[place], None)
        return Row(f"Which is {values[place]}?{lines}\n{MCQ_INSTRUCTION}", LETTERS[place], None)

    def _values(self, rng: random.Random, count: int) -> list[str]:
        """Different values of one attribute."""
        pools = [pool for of_kind in self.values.values() for pool in of_kind.values() if len(pool) > 2 * len(LETTERS)]
        return rng.sample(rng.choice(pools), count)

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
            prompt, reply = f"{self._statement(entry, attribute, name, rng)}\n{CLOZE_INSTRUCTION}", value
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
