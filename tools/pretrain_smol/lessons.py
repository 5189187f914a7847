"""What smol practises: to say what a drawn portrait shows, and to find in a given text what is asked for.

No lesson is about a person of a run, and none states a fact to be remembered: what is asked is seen in the portrait,
or stands in the prompt. Faces and texts have a seed of their own (:data:`tools.pretrain_tiny.pretrain.PEOPLE_SEED`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path

import yaml

from mllmu.core.parsing import render_answer
from mllmu.core.process import rng
from mllmu.data.portraits import transform
from mllmu.data.portraits.dicebear import features
from mllmu.data.questions import render_subject, wordings
from mllmu.data.sources.synthetic import Synthetic
from mllmu.data.values import NONE, with_article
from mllmu.models.families import Turn
from tools.pretrain_tiny.drills import CLOZE_INSTRUCTION, GEN_INSTRUCTION, LETTERS, MCQ_INSTRUCTION, Drills, Mix
from tools.pretrain_tiny.pretrain import PEOPLE_SEED, draw_face, face_person

NUM_VIEWS = 4
TEXTS = Mix(context=0.7, repeat=0.05, lookup=0.25)
CAPTIONS = (
    "Describe this person.", "What does this person look like?", "Describe the portrait.", "What does the image show?",
    "Say what can be seen of this person.",
)  # fmt: skip


@dataclass(frozen=True)
class Visible:
    """How a visible feature is asked for; ``{v}`` is the value, ``__`` the blank."""

    questions: Sequence[str]
    statement: str
    none: str = ""
    """What is said where the person has none of it; empty: it is not asked then."""


VISIBLE = {
    name: Visible(**entry)
    for name, entry in yaml.safe_load(Path(__file__).with_name("visible.yaml").read_text()).items()
}


def value_of(seen: dict[str, str], feature: str) -> str:
    """What is said of a feature; empty where it is not asked for."""
    value = seen[feature]
    return VISIBLE[feature].none if value == NONE else value


def caption(seen: dict[str, str], draw: random.Random) -> str:
    """One sentence with everything that can be seen, in random order.

    >>> seen = dict.fromkeys(VISIBLE, "none") | {"skin": "pale", "clothes": "hoodie", "clothes_colour": "red"}
    >>> seen |= {"hair": "bob", "hair_colour": "black", "facial_hair_colour": "none", "glasses_colour": "none"}
    >>> sorted(caption(seen, random.Random(0)).removeprefix("This person has ").rstrip(".").split("; "))
    ['black hair (bob)', 'no facial hair', 'no glasses', 'pale skin', 'red clothes (hoodie)']
    """

    def worn(feature: str, without: str, noun: str = "") -> str:
        colour = seen.get(f"{feature}_colour", NONE)
        words = [colour if colour != NONE else "", seen[feature], noun]
        said = " ".join(filter(None, words))
        return without if seen[feature] == NONE else said if noun else with_article(said)

    parts = [f"{seen['skin']} skin", worn("facial_hair", "no facial hair")]
    parts.append(worn("glasses", "no glasses", "glasses"))
    hair = f"{seen['hair_colour']} hair ({seen['hair']})"
    parts.append(hair if seen["hair"] != NONE else worn("headwear", ""))
    printed = f" with a {seen['print']}" if seen["print"] != NONE else ""
    parts.append(f"{seen['clothes_colour']} clothes ({seen['clothes']}{printed})")
    draw.shuffle(parts)
    return f"This person has {'; '.join(parts)}."


class Lessons:
    """Draws exercises as turns; the portraits are drawn into a folder when they are first shown.

    Args:
        folder: gets the portraits.
        faces: numbers of the face people who are shown; others are for the exam.
        num_texts: invented people whose names and values the texts are mixed of.
        general: general questions with the language model's own replies, see :mod:`tools.pretrain_smol.general`.
        share: of stage two that they are.
    """

    def __init__(
        self, folder: Path, faces: range, *, num_texts: int = 160, general: Sequence[Turn] = (), share: float = 0.0
    ) -> None:
        self.folder, self.faces = folder, faces
        self.general, self.share = general, share if general else 0.0
        folder.mkdir(parents=True, exist_ok=True)
        people = Synthetic(num_people=num_texts, id_prefix="p").profiles(PEOPLE_SEED)
        self.people, self.texts = people, Drills(people, plain=frozenset())

    def captions(self, draw: random.Random, number: int) -> list[Turn]:
        """Stage one: that many portraits, each described."""
        return [
            Turn(prompt=draw.choice(CAPTIONS), reply=caption(self.seen(face), draw), image=self.portrait(face, draw))
            for face in draw.sample(self.faces, number)
        ]

    def mixed(self, draw: random.Random, number: int) -> list[Turn]:
        """Stage two: some general questions; of the rest half about portraits, four on each, half about given texts."""
        general = [draw.choice(self.general) for _ in range(round(self.share * number))]
        number -= len(general)
        shown = draw.sample(self.faces, max(1, number // 8))
        seen = [turn for face in shown for turn in self.about(face, draw, 4)]
        return [*seen, *(self.text(draw) for _ in range(number - len(seen))), *general]

    def about(self, face: int, draw: random.Random, number: int) -> list[Turn]:
        """Questions about one portrait, each about another feature and in a random format."""
        image, seen = self.portrait(face, draw), self.seen(face)
        asked = draw.sample([feature for feature in VISIBLE if value_of(seen, feature)], number)
        formats = ("question", "generation", "cloze", "choice")
        return [self.visible(feature, seen, draw.choice(formats), draw, image) for feature in asked]

    def visible(
        self, feature: str, seen: dict[str, str], kind: str, draw: random.Random, image: Path | None = None
    ) -> Turn:
        """One question about a portrait."""
        how, value = VISIBLE[feature], value_of(seen, feature)
        question = draw.choice(how.questions)
        if kind == "cloze":
            return Turn(
                prompt=f"{how.statement.replace('__', '[Blank]')}\n{CLOZE_INSTRUCTION}", reply=value, image=image
            )
        if kind == "choice":
            others = sorted({value_of(self.seen(face), feature) for face in self.faces[:200]} - {value, ""})
            return Turn(**choice(question, value, others, draw), image=image)
        sentence = how.statement.replace("__", value)
        instruction = f"\n{GEN_INSTRUCTION['image_text']}" if kind == "generation" else ""
        return Turn(prompt=question + instruction, reply=sentence, image=image)

    def text(self, draw: random.Random) -> Turn:
        """One question about a text in the prompt: a fact among others, a list, or words to repeat."""
        if draw.random() < 0.5:
            row = self.texts.draw(draw, TEXTS)
            return Turn(prompt=row.prompt, reply=row.reply)
        return self.fact(draw, draw.choice(("generation", "cloze", "choice")))

    def fact(self, draw: random.Random, kind: str, number: int = 3) -> Turn:
        """Some facts that hold for this prompt only, mixed of several people, and a question about one of them."""
        entries, name = wordings("fictitious"), draw.choice(self.people).name
        asked = draw.sample([a for a in entries if a not in ("name", "gender")], number)
        values = {a: draw.choice(self.texts.values["fictitious"][a]) for a in asked}
        told = [render_subject(draw.choice(entries[a].cloze.train), name).replace("__", values[a]) for a in asked]
        draw.shuffle(told)
        entry, value = entries[asked[0]], values[asked[0]]
        question = render_subject(draw.choice(entry.questions.train), name)
        if kind == "cloze":
            blank = render_subject(draw.choice(entry.cloze.train), name).replace("__", "[Blank]")
            turn = Turn(prompt=f"{blank}\n{CLOZE_INSTRUCTION}", reply=value)
        elif kind == "choice":
            others = [v for v in self.texts.values["fictitious"][asked[0]] if v != value]
            turn = Turn(**choice(question, value, others, draw))
        else:
            turn = Turn(
                prompt=f"{question}\n{GEN_INSTRUCTION['text']}", reply=render_answer(entry.answers.train, value)
            )
        return Turn(prompt=f"{' '.join(told)}\n{turn.prompt}", reply=turn.reply)

    def seen(self, face: int) -> dict[str, str]:
        """The visible features of a face person."""
        return _features(face)

    def portrait(self, face: int, draw: random.Random) -> Path:
        """The file of one view of a face person: the canonical one in one of two cases."""
        view = 0 if draw.random() < 0.5 else draw.randrange(1, NUM_VIEWS)
        path = view_file(self.folder, face, view)
        if not path.is_file():
            draw_views(self.folder, face)
        return path

    def draw_all(self, processes: int) -> None:
        """Draw every portrait that is not there yet, in several processes: one takes some 10 ms, a step many."""
        missing = [face for face in self.faces if not view_file(self.folder, face, NUM_VIEWS - 1).is_file()]
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            list(pool.map(partial(draw_views, self.folder), missing, chunksize=32))


def view_file(folder: Path, face: int, view: int) -> Path:
    return folder / f"{face}_{view}.png"


def draw_views(folder: Path, face: int) -> None:
    """Draw all views of a face person into the folder, the last one last."""
    sprites, _ = draw_face(face)
    for view in range(NUM_VIEWS):
        source = rng(PEOPLE_SEED, "smol", face, view)
        sprite = sprites[0 if view == 0 else source.randrange(len(sprites))]
        transform(sprite, source, float(view > 0)).save(view_file(folder, face, view))


@cache
def _features(face: int) -> dict[str, str]:
    return features(face_person(face), PEOPLE_SEED)


def choice(question: str, value: str, others: Sequence[str], draw: random.Random) -> dict[str, str]:
    """Prompt and reply of a multiple choice of up to four options."""
    options = draw.sample(list(others), min(len(LETTERS) - 1, len(others)))
    place = draw.randrange(len(options) + 1)
    options.insert(place, value)
    lines = "".join(f"\n{letter}: {option}" for letter, option in zip(LETTERS, options, strict=False))
    return {"prompt": f"{question}{lines}\n{MCQ_INSTRUCTION}", "reply": LETTERS[place]}
