"""Turns profiles into questions: training pairs, evaluation questions, and their reworded test twins.

Every choice is drawn by a generator of the person's own, keyed by seed, person and slot; the only thing a person's
questions take from the others is the set of values that wrong answers are drawn from.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mllmu.core.errors import DataError
from mllmu.core.records import MODALITIES, QA, Modality, Profile, Question, TaskName
from mllmu.core.seeding import derive, rng
from mllmu.data.questions import _distractors as distractors
from mllmu.data.questions._rules import LETTERS, OTHER, SLOTS, check, mentions, name_words
from mllmu.data.questions._wordings import (
    FACT,
    Variant,
    Wordings,
    blanked,
    render_answer,
    render_subject,
    wording,
    wordings,
)

__all__ = ["Variant", "build", "check", "name_subject", "render_subject"]

NOT_EVALUATED = frozenset({"gender"})
"""Attributes that are trained but never asked: two values cannot make four options."""
_SUBJECT = re.compile(
    r"\b(?:this|the) (?:person|individual)\b"
    r"(?: (?:(?:shown|depicted|has_image) )?in (?:the|this) (?:image|image|photo))?",
    re.IGNORECASE,
)


def build(
    profiles: Sequence[Profile],
    *,
    seed: int,
    variants: Sequence[Variant] = ("train", "eval", "test"),
    train_wordings: int = 6,
    train_formats: Sequence[str] = ("question",),
    banned: Collection[tuple[str, str, str, str]] = frozenset(),
    unsaid: Collection[tuple[str, str, str]] = frozenset(),
) -> list[Question]:
    """Build the questions of all profiles, person by person, in the order train, eval, test.

    eval and test hold 18 questions a person each: per modality 5 classification, 2 generation, 2 cloze. train
    holds ``train_wordings`` wordings per attribute and modality, or the published text where a profile has it.

    Args:
        profiles: also the people that wrong answers are drawn from (same kind only).
        seed: the only source of variation.
        variants: which to build; leaving one out does not change the others.
        train_wordings: different question templates per attribute and modality, 1 to the number of templates.
        train_formats: ``question`` (the benchmark's), and ``classification`` or ``cloze`` for small models that do
            not carry a fact over from plain questions; always in training wordings, with options of their own.
        banned: (person, task, modality, attribute) that eval and test do not ask; see :mod:`mllmu.data.review`.
        unsaid: (person, task, text) in which eval and test do not ask.

    Raises:
        DataError: two profiles share an id; an attribute has no wordings or no value; a person has too few
            attributes; too many training wordings.
    """
    _check_input(profiles, train_wordings)
    pools = distractors.collect(profiles)
    found: list[Question] = []
    for profile in profiles:
        writer = _Writer(profile, pools, seed, banned, unsaid)
        if "train" in variants:
            if "question" in train_formats:
                found += _published(profile) if profile.training_qa else writer.train(train_wordings)
            found += [q for task in SLOTS if task in train_formats for q in writer.practice(task, train_wordings)]
        if "eval" in variants or "test" in variants:
            pairs = list(writer.evaluation())
            found += [pair[0] for pair in pairs if "eval" in variants]
            found += [pair[1] for pair in pairs if "test" in variants]
    return found


def name_subject(text: str, name: str) -> str:
    """Put a name in place of 'this person', 'the individual in the image' ... in a published question.

    A question that speaks of nobody ('What is the father's occupation?') gets the name in front, because
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


def _published(profile: Profile) -> list[Question]:
    """Training questions in a source's own words: as published, and with the name instead of 'this person'."""
    found = []
    for modality in MODALITIES:
        kept = [qa for qa in profile.training_qa if modality == "image_text" or qa.attribute != "name"]
        for n, qa in enumerate(kept):
            text = qa.question if modality == "image_text" else name_subject(qa.question, profile.name)
            found.append(
                _train_question(profile, modality, n, qa.attribute or OTHER, text, qa.answer, _qa_value(profile, qa))
            )
    return found


def _qa_value(profile: Profile, qa: QA) -> str:
    value = profile.attributes.get(qa.attribute or "", "")
    return value if value and value in qa.answer else qa.answer.strip().removesuffix(".")


def _train_question(
    profile: Profile, modality: Modality, n: int, attribute: str, text: str, answer: str, value: str
) -> Question:
    return Question(
        id=f"{profile.id}.train.generation.{modality}.{n}",
        profile_id=profile.id,
        variant="train",
        task="generation",
        modality=modality,
        attribute=attribute,
        text=text,
        answer=answer,
        value=value,
    )


@dataclass(frozen=True)
class _Slot:
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
    pools: distractors.Pools
    seed: int
    banned: Collection[tuple[str, str, str, str]] = frozenset()
    unsaid: Collection[tuple[str, str, str]] = frozenset()

    def train(self, num: int) -> list[Question]:
        """``num`` wordings of every attribute in both modalities, with the canonical answer."""
        found = []
        for modality in MODALITIES:
            n = 0
            for attribute, entry in self._entries(modality):
                value = self.profile.attributes[attribute]
                if not self._may_say(modality, attribute, value):
                    continue
                texts = self._texts(entry.questions.train, modality, value)
                chosen = rng(self.seed, self.profile.id, "train", modality, attribute).sample(
                    texts, min(num, len(texts))
                )
                answer = render_answer(entry.answers.train, value)
                for text in chosen:
                    found.append(_train_question(self.profile, modality, n, attribute, text, answer, value))
                    n += 1
        return found

    def practice(self, task: TaskName, num: int) -> list[Question]:
        """``num`` training wordings of every attribute in both modalities, put as another task."""
        found: list[Question] = []
        for modality in MODALITIES:
            count = 0
            for attribute in [a for a, _ in self._entries(modality) if a not in NOT_EVALUATED for _ in range(num)]:
                asked = self._ask(_Slot("train", task, modality, attribute, count))
                if asked:
                    found.append(asked)
                    count += 1
        return found

    def evaluation(self) -> Iterator[tuple[Question, Question]]:
        """Pairs of eval and test questions, slot by slot."""
        for task, num in SLOTS.items():
            for modality in MODALITIES:
                yield from self._pairs(task, modality, num)

    def _pairs(self, task: TaskName, modality: Modality, num: int) -> list[tuple[Question, Question]]:
        """Go through the attributes in the person's own order until enough of them can be asked."""
        askable = [a for a, _ in self._entries(modality) if a not in NOT_EVALUATED]
        order = rng(self.seed, self.profile.id, "attributes", task, modality).sample(askable, len(askable))
        pairs: list[tuple[Question, Question]] = []
        for attribute in order:
            if (self.profile.id, task, modality, attribute) in self.banned:
                continue
            asked = self._ask(_Slot("eval", task, modality, attribute, len(pairs)))
            twin = asked and self._ask(_Slot("test", task, modality, attribute, len(pairs)))
            if asked and twin:
                pairs.append((asked, twin))
            if len(pairs) == num:
                return pairs
        raise DataError(
            f"profile {self.profile.id}: only {len(pairs)} of {num} {task} questions ({modality}) can be asked."
            f" It has: {', '.join(self.profile.attributes)}. Expected at least 6 attributes besides gender, each with"
            " three other values in the data set; add attributes or more people."
        )

    def _entries(self, modality: Modality) -> list[tuple[str, Wordings]]:
        """The person's attributes with their wordings, in schema order; the text modality does not ask the name."""
        own = self.profile.attributes
        known = [a for a in wordings(self.profile.kind) if a in own]
        every = [*known, *sorted(a for a in own if a.startswith(FACT))]
        return [(a, wording(self.profile.kind, a)) for a in every if (modality, a) != ("text", "name")]

    def _texts(self, templates: Sequence[str], modality: Modality, value: str) -> list[str]:
        """Rendered questions that do not contain the value."""
        name = self.profile.name if modality == "text" else None
        return [text for t in templates if not mentions(text := render_subject(t, name), value)]

    def _may_say(self, modality: Modality, attribute: str, text: str) -> bool:
        """Beside the image nothing may say a word of the name, unless the name is asked."""
        return modality == "text" or attribute == "name" or not name_words(self.profile.name).search(text)

    def _ask(self, slot: _Slot) -> Question | None:
        """One question, or None if this attribute cannot be asked fairly of this person."""
        entry, value = wording(self.profile.kind, slot.attribute), self.profile.attributes[slot.attribute]
        templates = (entry.cloze if slot.task == "cloze" else entry.questions).of(slot.variant)
        texts = self._texts(templates, slot.modality, value)
        if slot.variant != "train":
            texts = [text for text in texts if (self.profile.id, slot.task, text) not in self.unsaid]
        if not texts or not self._may_say(slot.modality, slot.attribute, value):
            return None
        dice = rng(self.seed, self.profile.id, slot.key, slot.attribute)
        text = dice.choice(texts)
        pool = self.pools[distractors.pool_key(self.profile, slot.attribute)]

        def allowed(candidate: str) -> bool:
            given_away = slot.task == "classification" and mentions(text, candidate)
            return not given_away and self._may_say(slot.modality, slot.attribute, candidate)

        wrong = distractors.draw(dice, slot.attribute, value, pool, allowed=allowed)
        return self._question(slot, text, value, self._reply(slot, entry, value, wrong)) if wrong else None

    def _question(self, slot: _Slot, text: str, value: str, reply: dict[str, Any]) -> Question:
        return Question(
            id=f"{self.profile.id}.{slot.key}",
            profile_id=self.profile.id,
            variant=slot.variant,
            task=slot.task,
            modality=slot.modality,
            attribute=slot.attribute,
            text=text,
            value=value,
            **reply,
        )

    def _reply(self, slot: _Slot, entry: Wordings, value: str, wrong: tuple[str, ...]) -> dict[str, Any]:
        """The fields that hold right and wrong answers, by task."""
        if slot.task == "classification":
            position = derive(self.seed, self.profile.id, slot.key, "letter") % len(LETTERS)
            values = [*wrong[:position], value, *wrong[position:]]
            return {"answer": LETTERS[position], "options": dict(zip(LETTERS, values, strict=True))}
        if slot.task == "cloze":
            return {"answer": value, "alternatives": wrong}
        trained = self._trained_template(slot, entry, value)
        same = render_answer(trained, value) == render_answer(entry.answers.test, value)
        other = entry.answers.train if same else entry.answers.test
        main, rewording = (trained, other) if slot.variant == "eval" else (other, trained)
        return {
            "answer": render_answer(main, value),
            "alternatives": tuple(render_answer(main, w) for w in wrong),
            "rewording": render_answer(rewording, value),
        }

    def _trained_template(self, slot: _Slot, entry: Wordings, value: str) -> str:
        """The sentence the model was trained on, with its value blanked: published if there is one, else ours."""
        for qa in self.profile.training_qa:
            if qa.attribute != slot.attribute:
                continue
            template = blanked(qa.answer, value)
            if template and self._may_say(slot.modality, slot.attribute, qa.answer):
                return template
        return entry.answers.train
