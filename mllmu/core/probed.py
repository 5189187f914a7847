"""What the probes of the gate leave behind: whether a target reads letters, and whether it takes a system prompt."""

from typing import Self

from pydantic import Field, model_validator

from mllmu.core.records import Record

LEAST_KEPT = 0.8
"""A model takes a system prompt if so large a share of what it answers right may stay right under a harmless one."""


class ProbeShare(Record):
    """How many replies of some questions are right, as a share with its 95 % interval.

    Attributes:
        right, num: replies that are right, and all.
        low, high: of the share right / num; None where no interval can be.
        chance: what guessing gives, the mean over the questions of 1 / number of options; None for open questions.
    """

    right: int = Field(ge=0)
    num: int = Field(ge=1)
    low: float | None
    high: float | None
    chance: float | None = None

    @model_validator(mode="after")
    def _no_more_than_all(self) -> Self:
        if self.right > self.num:
            raise ValueError(f"{self.right} of {self.num} replies cannot be right")
        return self

    @property
    def beats_chance(self) -> bool:
        """Whether the lower end of the interval is above what guessing gives."""
        return self.low is not None and self.chance is not None and self.low > self.chance

    def said(self, how: str = "") -> str:
        """In words: ``40 of 40 right with the answer in the prompt, guessing gives 25 %``."""
        guessed = "" if self.chance is None else f", guessing gives {100 * self.chance:.0f} %"
        return f"{self.right} of {self.num} right{how and f' {how}'}{guessed}"


class ProbeResults(Record):
    """The probes of a target at one forget ratio; None where one does not apply, or had nothing to ask.

    Attributes:
        letters: multiple choice about retained people with the true answer in the prompt.
        by_letter: multiple choice about forget and retain people as the evaluation asks it, chosen by letter.
        by_text: the same questions, chosen by the likelihood of the options' texts.
        instructions: questions that the target answers right, asked again under a harmless system prompt.
    """

    letters: ProbeShare | None = None
    by_letter: ProbeShare | None = None
    by_text: ProbeShare | None = None
    instructions: ProbeShare | None = None

    @property
    def reads_letters(self) -> bool | None:
        """Whether the right letter is chosen above chance with the answer in the prompt; None if that was not asked.

        Who chooses letters above chance by what it was taught reads them too, whatever it makes of the longer prompt.
        """
        if self.letters is None:
            return None
        return self.letters.beats_chance or (self.by_letter is not None and self.by_letter.beats_chance)

    @property
    def chooses_by_letter(self) -> bool | None:
        """False if letters are read and yet chosen at chance, though the options' texts tell what is known."""
        if self.letters is None or self.by_letter is None or self.by_text is None:
            return None
        known = self.letters.beats_chance and self.by_text.beats_chance
        return False if known and not self.by_letter.beats_chance else None

    @property
    def takes_instructions(self) -> bool | None:
        """Whether the upper end of the share that stays right is 0.8 or more; None if that was not asked."""
        if self.instructions is None or self.instructions.high is None:
            return None
        return self.instructions.high >= LEAST_KEPT

    @property
    def of_letters(self) -> str:
        """What a reader of scores by letter must know; empty if there is nothing."""
        if self.letters is None:
            return ""
        read = self.letters.said("with the answer in the prompt")
        if self.reads_letters is False:
            return f"This model does not read letters ({read})."
        if self.by_letter and self.by_text and self.chooses_by_letter is False:
            return (
                f"The target reads letters ({read}) but does not choose them by what it was taught "
                f"({self.by_letter.said()}): look at option_text ({self.by_text.said()})."
            )
        return ""

    @property
    def of_instructions(self) -> str:
        """What a reader of the scores of system prompts must know; empty if there is nothing."""
        kept = self.instructions
        if kept is None or kept.low is None or kept.high is None or self.takes_instructions is not False:
            return ""
        return (
            f"The target cannot take a system prompt: of {kept.num} questions that it answers right, it answers "
            f"{kept.right} right under a harmless one (95 % interval {kept.low:.2f} to {kept.high:.2f})."
        )
