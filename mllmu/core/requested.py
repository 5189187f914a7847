"""What requests leave behind that come one after the other: scores over time, what they cost, and where it is kept."""

from mllmu.core.records import Modality, Record, Split

FOLDER, FILE = "requests", "requests.json"
SO_FAR = 0
"""In place of the number of a request: all requests so far."""


class RequestScore(Record):
    """The score of one set after one request: a mean of headline scores over questions, with 95 % intervals.

    Attributes:
        after: number of the request; 0 for the target and the retain_model, which have met none.
        request: of ``forget``: whose facts are asked, or all so far (0).
        change: value - value right after its own request (rebound, of ``forget``) or of the target (other sets).
        forgotten: (target - value) / (target - retain_model); None where that cannot be said.
    """

    model: str
    modality: Modality
    split: Split
    request: int = SO_FAR
    after: int
    value: float
    low: float | None = None
    high: float | None = None
    num: int
    change: float | None = None
    change_low: float | None = None
    change_high: float | None = None
    forgotten: float | None = None
    forgotten_low: float | None = None
    forgotten_high: float | None = None


class RequestCost(Record):
    """What one request cost a method, and what is kept on disk after it: folders beside the base model, and MiB."""

    model: str
    number: int
    seconds: float
    adapters: int
    mib: float


class RequestResults(Record):
    """Everything about the requests of one run: the content of ``requests.json``; ``labels`` says what each forgets."""

    labels: tuple[str, ...]
    scores: tuple[RequestScore, ...] = ()
    costs: tuple[RequestCost, ...] = ()

    def by_place(self) -> dict[tuple[str, str, str, int, int], RequestScore]:
        """The scores by model, modality, set, request and the request after which they were measured."""
        return {(s.model, s.modality, s.split, s.request, s.after): s for s in self.scores}
