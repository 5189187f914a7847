"""What is measured of every layer; plain values, so that the page needs no model."""

from mllmu.core.records import Modality, Record


class LayerRow(Record):
    """One layer of one model, asked in one modality; layer 0 is the first layer of the language model.

    Attributes:
        readable: share of the fact's tokens that the last norm and the head read from this layer (logit lens).
        logp: mean log p of these tokens, read the same way, in nats.
        similarity: linear CKA with the target's states; None with fewer than four tokens.
        erased: what the target loses with this model's state, as a share of what it loses with the retain_model's.
        probe, control: accuracy of a linear probe on the people to forget, trained on the others, and the same with
            values shuffled among the people it is trained on; None without an attribute to probe.
    """

    model: str
    modality: Modality
    layer: int
    readable: float
    logp: float
    similarity: float | None = None
    erased: float | None = None
    probe: float | None = None
    control: float | None = None


class ErasureRow(Record):
    """One model in one modality: how far all its layers together have erased the facts; 1 is as if never learned."""

    model: str
    modality: Modality
    erased: float | None
    num_questions: int
    num_tokens: int


class LayersResult(Record):
    """All numbers of the page."""

    title: str
    num_people: int
    probed: tuple[str, ...] = ()
    layers: tuple[LayerRow, ...]
    models: tuple[ErasureRow, ...]
