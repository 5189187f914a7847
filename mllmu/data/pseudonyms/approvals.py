"""What only a person can decide: whether a text may be kept, and whether a word is a name; kept by hash.

The page lies beside the file of decisions and shows originals, so neither may lie in a run folder. The file holds
hashes under the key, which tell nothing.
"""

from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ValidationError

from mllmu.core.errors import DataError, FaultsError
from mllmu.core.runfolder import write_atomic
from mllmu.data.files import misfit, read_text
from mllmu.data.pseudonyms.keyfile import OWNER_ONLY, Key, refuse_run_folder
from mllmu.data.pseudonyms.replacing import TextPiece

FORMAT = "mllmu-approved-1"
AROUND = 200
"""Characters that are shown on each side of a find."""


class Decisions(BaseModel, extra="forbid", frozen=True):
    """The content of the file of decisions: hashes of what may be kept, and of texts that are left out."""

    format: Literal["mllmu-approved-1"]
    approved: frozenset[str] = frozenset()
    left_out: frozenset[str] = frozenset()


class Doubt(NamedTuple):
    """Something that a person has to decide.

    Attributes:
        digest: its hash under the key; another text, another hash.
        where: row and column, or file and line.
        why: what may be wrong with it.
        pieces: the text, with what stands in place of its parts.
        free: a free text, which may also be left out.
    """

    digest: str
    where: str
    why: str
    pieces: Sequence[TextPiece]
    free: bool = False

    def __str__(self) -> str:
        return f"{self.where}: {self.why} [{self.digest}]"

    @property
    def replaced(self) -> str:
        """The text as it would be kept."""
        return "".join(piece.text if piece.fake is None else piece.fake for piece in self.pieces)


def marked(text: str, start: int, end: int) -> list[TextPiece]:
    """A text of which one part is in doubt, with a little of what stands around it."""
    before, after = text[max(0, start - AROUND) : start], text[end : end + AROUND]
    return [TextPiece(before), TextPiece(text[start:end], doubtful=True), TextPiece(after)]


def digest(key: Key, *parts: str) -> str:
    """The hash by which something is approved: 96 bits of HMAC-SHA256 under the key, in hexadecimal digits."""
    return f"{key.number('approved', *parts):064x}"[:24]


def decide(doubts: Iterable[Doubt], path: Path) -> Decisions:
    """The decisions of a person; all doubts are decided.

    Raises:
        DataError: the file of decisions lies in a run folder, or is none.
        FaultsError: some are open; the page on which they are decided is written then.
    """
    refuse_run_folder(path, "data.source.approved")
    decisions = load(path)
    every = list({doubt.digest: doubt for doubt in doubts}.values())
    settled = decisions.approved | {d.digest for d in every if d.free and d.digest in decisions.left_out}
    if waiting := [doubt for doubt in every if doubt.digest not in settled]:
        page = path.with_suffix(".html")
        write_atomic(page, _render(every, decisions, path.name), mode=OWNER_ONLY, elsewhere="name another file")
        raise FaultsError(
            f"{page}: {len(waiting)} texts or words wait for you. Open the page, decide about each, save it as {path} "
            "and build again; or mend what is named here:",
            waiting,
        )
    return decisions


def load(path: Path) -> Decisions:
    """Read a file of decisions; none is as good as an empty one."""
    if not path.exists():
        return Decisions(format=FORMAT)
    expected = "Expected what the page of texts and words saved; delete it to decide anew."
    try:
        return Decisions.model_validate_json(read_text(path, expected=expected))
    except ValidationError as error:
        raise DataError(f"{path}: {misfit(error, 'file')}. {expected}") from None


def _render(doubts: Sequence[Doubt], decisions: Decisions, name: str) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = files("mllmu.data").joinpath("approve.html.j2").read_text(encoding="utf-8")
    shown = {doubt.digest for doubt in doubts}
    kept = {what: sorted(getattr(decisions, what) - shown) for what in ("approved", "left_out")}
    return environment.from_string(template).render(
        doubts=doubts, decisions=decisions, kept=kept, format=FORMAT, name=name
    )
