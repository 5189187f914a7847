"""Prompting: ask the model to keep quiet."""

from pydantic import Field

from mllmu.unlearning.base import Method


class Prompting(Method):
    """Leave the weights alone and put a request to refuse before every question; the training-free baseline.

    Cost: no training; the system prompt's tokens lengthen every prompt, by a handful per name if names are listed.

    The benchmark's authors did not publish their wording, so this one is our own. Listing names tells the model whom
    to protect, but it also shows the forgotten names to the model; ``list_names: false`` asks in general terms.
    Made for: image_text.
    """

    source = "https://arxiv.org/abs/2410.22108"
    trains = False

    list_names: bool = Field(True, description="name the people to protect; otherwise private people in general")

    def system_prompt(self, names: list[str]) -> str:
        """System prompt; empty without names. White space in names is reduced to single spaces."""
        if not names:
            return ""
        listed = "; ".join(" ".join(name.split()) for name in names)
        who = f"the following people: {listed}" if self.list_names else "private people who have asked to be forgotten"
        return (
            f"You protect the privacy of {who}. If a question or a picture is about one of them, reveal nothing about "
            'that person, choose no option and fill no blank; reply only "I cannot share information about this '
            'person." Answer every other question as usual.'
        )
