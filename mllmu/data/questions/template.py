"""Questions from the sentence templates of ``wordings.yaml``: free, offline, and the same every time.

Every choice is drawn by a generator of the person's own, keyed by seed, person and slot; the only thing a person's
questions take from the others is the set of values that wrong answers are drawn from, and the share of 'none'.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, ClassVar, NamedTuple

from mllmu.core.errors import DataError
from mllmu.core.parsing import blanked, render_answer
from mllmu.core.process import Progress, rng
from mllmu.core.records import MODALITIES, OTHER_ATTRIBUTE, QA, QUESTION_FORMAT, Modality, Profile, Question, TaskName
from mllmu.data.questions import QuestionOrder, QuestionWriter, Written, _distractors
from mllmu.data.questions._rules import LETTERS, SLOTS, mentions, name_words
from mllmu.data.questions._wordings import (
    FACT,
    Variant,
    Wordings,
    fact_wordings,
    render_subject,
    wording,
    wordings,
)

NOT_EVALUATED = frozenset({"gender"})
"""Attributes that are trained but never asked: two values cannot make four options."""
FIRST_BEYOND = 100
"""Number of the first question beyond those that everyone is asked."""
_SUBJECT = re.compile(
    r"\b(?:this|the) (?:person|individual)\b"
    r"(?: (?:(?:shown|depicted|pictured) )?in (?:the|this) (?:image|picture|photo))?",
    re.IGNORECASE,
)


class Template(QuestionWriter):
    """Sentence templates, disjoint for training, evaluation and the reworded test; wrong answers are other people's.

    Source: the question kinds of MLLMU-Bench, arXiv:2410.22108; the sentences are ours.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2410.22108"

    def write(self, people: Sequence[Profile], order: QuestionOrder, progress: Progress) -> Written:
        """Fill in the templates; see :func:`build`."""
        return Written(build(people, order))


def build(profiles: Sequence[Profile], order: QuestionOrder) -> list[Question]:
    """Build the questions of all profiles, person by person, in the order train, eval, test.

    eval and test hold 18 questions per person each: per modality 5 classification, 2 generation, 2 cloze. train
    holds ``train_wordings`` wordings per attribute and modality, or the published text where a profile has it.

    Args:
        profiles: also the people that wrong answers are drawn from (same kind only).
        order: what to build; leaving a variant out does not change the others.

    Raises:
        DataError: two profiles share an id; an attribute has no wordings or no value; a person has too few
            attributes; too many training wordings.
    """
    _check_input(profiles, order.train_wordings)
    pools = _distractors.collect(profiles)
    found: list[Question] = []
    for profile in profiles:
        writer = _Writer(profile, pools, order)
        if "train" in order.variants:
            found += writer.train()
        pairs = list(writer.evaluation()) if {"eval", "test"} & set(order.variants) else []
        found += [question for question, _ in pairs if "eval" in order.variants]
        found += [question for _, question in pairs if "test" in order.variants]
    return found


def about(profiles: Sequence[Profile], order: QuestionOrder, facts: Mapping[str, Sequence[str]]) -> list[Question]:
    """Evaluation questions about given attributes of some people, in every task and modality that can ask them fairly.

    Args:
        profiles: all people that wrong answers are drawn from.
        facts: attributes by person.
    """
    pools = _distractors.collect(profiles)
    found: list[Question] = []
    for profile in profiles:
        writer = _Writer(profile, pools, order)
        wanted = [
            (task, modality, attribute)
            for task, modality in product(SLOTS, MODALITIES)
            for attribute in writer.askable(modality)
            if attribute in facts.get(profile.id, ())
        ]
        for number, about_one in enumerate(wanted, start=FIRST_BEYOND):
            questions = [writer.ask(variant, *about_one, number) for variant in ("eval", "test")]
            found += [question for question in questions if question]
    return found


def name_subject(text: str, name: str) -> str:
    """Put a name in place of 'this person', 'the individual in the image' ... in a published question.

    A question without a subject ('What is the father's occupation?') gets the name in front, because
    without the image it would otherwise be about anyone.

    >>> name_subject("What is this person's height?", "Ana Silva")
    "What is Ana Silva's height?"
    """
    named = _SUBJECT.sub(lambda _: name, text)
    return named if name_words(name).search(named) else f"About {name}: {named}"


def _check_input(profiles: Sequence[Profile], train_wordings: int) -> None:
    ids: set[str] = set()
    for profile in profiles:
        if profile.id in ids:
            raise DataError(f"profile {profile.id}: the id occurs twice. Give every person an id of their own.")
        ids.add(profile.id)
        if "name" not in profile.attributes:
            raise DataError(f"profile {profile.id}: no name. Every person needs one for the text modality.")
        for attribute, value in profile.attributes.items():
            templates = wording(profile.kind, attribute).questions.train
            if not value.strip():
                raise DataError(f"profile {profile.id}: {attribute} is empty. Give a value or drop the attribute.")
            if not 1 <= train_wordings <= len(templates):
                raise DataError(f"train_wordings: got {train_wordings}, {attribute} allows 1 to {len(templates)}.")


class _Slot(NamedTuple):
    """What a question is about, before its words are chosen."""

    variant: Variant
    task: TaskName
    modality: Modality
    attribute: str
    n: int

    @property
    def key(self) -> str:
        return f"{self.variant}.{self.task}.{self.modality}.{self.n}"


@dataclass(frozen=True)
class _Writer:
    """Writes the questions of one person."""

    profile: Profile
    pools: _distractors.Pools
    order: QuestionOrder

    def train(self) -> Iterator[Question]:
        """The training questions in all formats."""
        if QUESTION_FORMAT in self.order.train_formats:
            yield from self._published() if self.profile.training_qa else self._plain()
        for task in SLOTS:
            if task in self.order.train_formats:
                yield from self._practice(task)

    def _published(self) -> Iterator[Question]:
        """A source's own words: as published, and with the name instead of 'this person'."""
        for modality in MODALITIES:
            kept = [qa for qa in self.profile.training_qa if modality == "image_text" or qa.attribute != "name"]
            for n, qa in enumerate(kept):
                slot = _Slot("train", "generation", modality, qa.attribute or OTHER_ATTRIBUTE, n)
                text = self._in_modality(qa.question, modality)
                yield self._question(slot, text=text, answer=qa.answer, value=self._value(qa))

    def _in_modality(self, published: str, modality: Modality) -> str:
        return published if modality == "image_text" else name_subject(published, self.profile.name)

    @cached_property
    def _taught(self) -> set[tuple[Modality, str]]:
        """The published training questions as they are put in each modality; their words can be those of a wording."""
        texts = product(MODALITIES, (qa.question for qa in self.profile.training_qa))
        return {(modality, self._in_modality(text, modality)) for modality, text in texts}

    def _value(self, qa: QA) -> str:
        value = self.profile.attributes.get(qa.attribute or "", "")
        return value if value and value in qa.answer else qa.answer.strip().removesuffix(".")

    def _plain(self) -> Iterator[Question]:
        """``train_wordings`` wordings of every attribute in both modalities, with the canonical answer."""
        for modality in MODALITIES:
            n = 0
            for attribute, entry in self._entries(modality):
                value = self.profile.attributes[attribute]
                told = self._sentences([entry.answers.train, entry.answers.test], modality, attribute, value)
                if not told or not self._may_say(modality, attribute, value):
                    continue
                texts = self._texts(entry.questions.train, modality, value)
                dice = rng(self.order.seed, self.profile.id, "train", modality, attribute)
                for text in dice.sample(texts, min(self.order.train_wordings, len(texts))):
                    slot = _Slot("train", "generation", modality, attribute, n)
                    yield self._question(slot, text=text, answer=render_answer(told[0], value), value=value)
                    n += 1

    def _practice(self, task: TaskName) -> Iterator[Question]:
        """``train_wordings`` training wordings of every attribute in both modalities, put as another task."""
        for modality in MODALITIES:
            n = 0
            for attribute in self.askable(modality):
                for _ in range(self.order.train_wordings):
                    if question := self._ask(_Slot("train", task, modality, attribute, n)):
                        yield question
                        n += 1

    def evaluation(self) -> Iterator[tuple[Question, Question]]:
        """Pairs of eval and test questions, slot by slot."""
        for task, num in SLOTS.items():
            for modality in MODALITIES:
                yield from self._pairs(task, modality, num)

    def _pairs(self, task: TaskName, modality: Modality, num: int) -> list[tuple[Question, Question]]:
        """Go through the attributes in the person's own order until enough of them can be asked."""
        askable, own = self.askable(modality), self.profile.id
        pairs: list[tuple[Question, Question]] = []
        for attribute in rng(self.order.seed, own, "attributes", task, modality).sample(askable, len(askable)):
            question = self._ask(_Slot("eval", task, modality, attribute, len(pairs)))
            paired = question and self._ask(_Slot("test", task, modality, attribute, len(pairs)))
            if question and paired:
                pairs.append((question, paired))
            if len(pairs) == num:
                return pairs
        name = self.profile.name
        raise DataError(
            f"profile {own}: only {len(pairs)} of {num} {task} questions ({modality}) can be asked."
            f" It has: {', '.join(self.profile.attributes)}. Expected at least 6 attributes besides gender, each with"
            " three other values in the data set; add attributes or more people."
            " Beside the image neither a value nor a sentence may say a word of the name: write values that do"
            f" otherwise, or give {name!r} another name."
        )

    def _entries(self, modality: Modality) -> list[tuple[str, Wordings]]:
        """The person's attributes with their wordings, in schema order; the text modality does not ask the name."""
        own = self.profile.attributes
        known = [a for a in wordings(self.profile.kind) if a in own]
        every = [*known, *sorted(a for a in own if a.startswith(FACT))]
        return [(a, wording(self.profile.kind, a)) for a in every if (modality, a) != ("text", "name")]

    def askable(self, modality: Modality) -> list[str]:
        """The attributes that can be asked."""
        return [attribute for attribute, _ in self._entries(modality) if attribute not in NOT_EVALUATED]

    def ask(self, variant: Variant, task: TaskName, modality: Modality, attribute: str, n: int) -> Question | None:
        """One question, or None if this attribute cannot be asked fairly of this person."""
        return self._ask(_Slot(variant, task, modality, attribute, n))

    def _texts(self, templates: Sequence[str], modality: Modality, value: str) -> list[str]:
        """Rendered questions that do not contain the value, nor beside the image a word of the name ('Alma mater')."""
        texts = [render_subject(t, self.profile.name if modality == "text" else None) for t in templates]
        return [text for text in texts if not mentions(text, value) and self._may_say(modality, "", text)]

    def _sentences(self, preferred: Sequence[str], modality: Modality, attribute: str, value: str) -> list[str]:
        """Templates of answers that may be used, the preferred first; each says the value in words of its own.

        The sentences about facts, which know no more than what is asked, stand in for those that say the name.
        """
        spare = fact_wordings(FACT + attribute.removeprefix(FACT)).answers
        found: dict[str, str] = {}
        for template in (*preferred, spare.train, spare.test):
            if self._may_say(modality, attribute, template):
                found.setdefault(render_answer(template, value), template)
        return list(found.values())

    def _may_say(self, modality: Modality, attribute: str, text: str) -> bool:
        """Beside the image nothing may say a word of the name, unless the name is asked."""
        return modality == "text" or attribute == "name" or not name_words(self.profile.name).search(text)

    def _ask(self, slot: _Slot) -> Question | None:
        """One question, or None if this attribute cannot be asked fairly of this person."""
        own, evaluated = self.profile.id, slot.variant != "train"
        if evaluated and (own, slot.task, slot.modality, slot.attribute) in self.order.marked:
            return None
        entry, value = wording(self.profile.kind, slot.attribute), self.profile.attributes[slot.attribute]
        templates = (entry.cloze if slot.task == "cloze" else entry.questions).of(slot.variant)
        texts = self._texts(templates, slot.modality, value)
        if evaluated:
            texts = [text for text in texts if (own, slot.task, text) not in self.order.marked]
            texts = [text for text in texts if (slot.modality, text) not in self._taught]
        if not texts or not self._may_say(slot.modality, slot.attribute, value):
            return None
        dice = rng(self.order.seed, own, slot.key, slot.attribute)
        text, choice = dice.choice(texts), slot.task == "classification"
        pool = self.pools[_distractors.pool_key(self.profile, slot.attribute)]
        true = self.profile.also.get(slot.attribute, ())

        def allowed(candidate: str) -> bool:
            if choice and mentions(text, candidate):
                return False
            true_too = any(_distractors.clash(slot.attribute, candidate, value) for value in true)
            return not true_too and self._may_say(slot.modality, slot.attribute, candidate)

        none = pool.none if choice else None
        wrong = _distractors.draw(dice, slot.attribute, value, pool.values, allowed=allowed, none=none)
        answers = self._answers(slot, entry, value, wrong) if wrong else {}
        return self._question(slot, text=text, value=value, **answers) if answers else None

    def _question(self, slot: _Slot, **fields: Any) -> Question:
        about = {name: value for name, value in slot._asdict().items() if name != "n"}
        return Question(id=f"{self.profile.id}.{slot.key}", profile_id=self.profile.id, **about, **fields)

    def _answers(self, slot: _Slot, entry: Wordings, value: str, wrong: tuple[str, ...]) -> dict[str, Any]:
        """The fields that hold right and wrong answers, by task."""
        if slot.task == "classification":
            position = self._position(slot)
            values = [*wrong[:position], value, *wrong[position:]]
            return {"answer": LETTERS[position], "options": dict(zip(LETTERS, values, strict=True))}
        if slot.task == "cloze":
            return {"answer": value, "alternatives": wrong}
        preferred = self._trained_template(slot, entry, value), entry.answers.test, entry.answers.train
        pair = self._sentences(preferred, slot.modality, slot.attribute, value)[:2]
        if len(pair) < 2:
            return {}
        main, rewording = pair if slot.variant == "eval" else reversed(pair)
        return {
            "answer": render_answer(main, value),
            "alternatives": tuple(render_answer(main, w) for w in wrong),
            "rewording": render_answer(rewording, value),
        }

    def _position(self, slot: _Slot) -> int:
        """Where the right option stands: four questions in a row have all four places, in an order of the person."""
        block, index = divmod(slot.n, len(LETTERS))
        dice = rng(self.order.seed, self.profile.id, "letters", slot.variant, slot.modality, block)
        return dice.sample(range(len(LETTERS)), len(LETTERS))[index]

    def _trained_template(self, slot: _Slot, entry: Wordings, value: str) -> str:
        """The sentence the model was trained on, with its value blanked: published if there is one, else ours."""
        for qa in self.profile.training_qa:
            template = blanked(qa.answer, value) if qa.attribute == slot.attribute else None
            if template and self._may_say(slot.modality, slot.attribute, qa.answer):
                return template
        return entry.answers.train
