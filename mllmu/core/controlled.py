"""What controls leave behind: the scores of a model on questions that do not show whom they are about."""

from typing import Literal, get_args

from mllmu.core.records import Modality, Record, Split

Control = Literal["no_picture", "other_picture", "other_name", "options_only"]
CONTROLS: tuple[Control, ...] = get_args(Control)
CONTROL_LABELS: dict[Control, str] = {
    "no_picture": "no picture",
    "other_picture": "another person's picture",
    "other_name": "another person's name",
    "options_only": "options only",
}


class ControlRow(Record):
    """One control of one model; the scores are shares of right replies (metric ``right``) to the same questions.

    Attributes:
        asked: share right when the question is asked as it is.
        score: share right under the control: what is right without knowing the person.
        difference: asked - score, with its 95 % interval ``low`` to ``high`` and the one-sided ``p_value`` of 'asking
            about the person does not help'.
        num, num_units, unit: questions, and what is independent among them (people; facts or questions of few people).
    """

    model: str
    split: Split
    modality: Modality
    control: Control
    asked: float | None
    score: float | None
    difference: float | None
    low: float | None
    high: float | None
    p_value: float | None
    num: int
    num_units: int
    unit: str


class OrderRow(Record):
    """Multiple choice in two orders of the options: how often a model chooses another value the second time.

    Attributes:
        unstable: share of the questions read in both orders to which the second reply names another value.
        right: share right in the second order, of all questions; ``asked``: in the first.
        num: questions; ``num_unread``: those of which a reply names no option.
    """

    model: str
    split: Split
    modality: Modality
    unstable: float | None
    asked: float
    right: float
    num: int
    num_unread: int


class ControlResults(Record):
    """All controls of some models of one forget ratio.

    Attributes:
        models: the fingerprints of the models, by name; None in files of versions that did not keep them.
    """

    rows: tuple[ControlRow, ...] = ()
    orders: tuple[OrderRow, ...] = ()
    models: dict[str, str] | None = None

    def knowledge(self, model: str, split: Split, modality: Modality) -> ControlRow | None:
        """The row of the best control: its difference is what the model knows of the people beyond any control.

        With the picture, that is what it knows by sight.
        """
        own = [row for row in self.rows if (row.model, row.split, row.modality) == (model, split, modality)]
        return min((row for row in own if row.difference is not None), key=_difference, default=None)


def _difference(row: ControlRow) -> float:
    return row.difference or 0.0
