"""The key file: the secret from which fakes are drawn, and who is behind each of them.

Who has it can undo the pseudonyms; who has it not, cannot, even with the table of another person and this program:
fakes are drawn by HMAC-SHA256 under a secret of 256 random bits. It is made at the first use, readable by its owner
only, and never lies in a run folder.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import random
import secrets
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mllmu.core.errors import DataError, did_you_mean
from mllmu.core.runfolder import explain_os_errors

FORMAT = "mllmu-people-key-1"
RUN_FILES = ("recipe.yaml", "run.json")
OWNER_ONLY = 0o600


class _Content(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: str = Field(pattern=f"^{FORMAT}$")
    secret: str = Field(pattern="^[0-9a-f]{64}$")
    replaced: dict[str, dict[str, str]] = {}
    people: dict[str, dict[str, str]] = {}


class Key:
    """A key file in memory.

    Attributes:
        replaced: kind -> original -> fake; what once got a fake keeps it.
        people: pseudonymous id -> the original id, name and other identifiers.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._content = _load(path)
        self._secret = bytes.fromhex(self._content.secret)
        self.replaced = self._content.replaced
        self.people = self._content.people

    @property
    def name(self) -> str:
        """A fingerprint by which a run says which key it was made with; tells nothing about the secret."""
        return hashlib.sha256(b"mllmu key name" + self._secret).hexdigest()[:16]

    def number(self, *keys: str) -> int:
        """256 bits that depend on the secret and the keys; the same in any order of calls."""
        message = "\x1f".join(keys).encode()
        return int.from_bytes(hmac.digest(self._secret, message, "sha256"), "big")

    def draw(self, *keys: str) -> random.Random:
        """A generator of an item's own."""
        return random.Random(self.number(*keys))  # noqa: S311 - the seed is the secret

    def save(self) -> None:
        """Write the key file completely or not at all, readable by its owner only."""
        content = {
            "format": FORMAT,
            "secret": self._content.secret,
            "replaced": {kind: dict(sorted(pairs.items())) for kind, pairs in sorted(self.replaced.items())},
            "people": dict(sorted(self.people.items())),
        }
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        if self.path.is_file() and self.path.read_text(encoding="utf-8") == text:
            return
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        with explain_os_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary.unlink(missing_ok=True)
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY)
            with open(handle, "w", encoding="utf-8") as file:  # noqa: PTH123 - opened by its handle
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)


def reveal(path: Path, asked: Sequence[str] = ()) -> dict[str, dict[str, str]]:
    """What is behind pseudonymous ids, names and other fakes; everybody, if nothing is asked.

    Returns:
        By id, all that is known of a person; by any other fake (a city, an e-mail address) its ``original``.

    Raises:
        DataError: no key file, or something that it does not know.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such key file. Name the file that data.source.key named when the data were made.")
    key = Key(path)
    ids = {name.casefold(): one for one, known in key.people.items() for name in (one, known.get("pseudonym", ""))}
    fakes = {fake.casefold(): original for pairs in key.replaced.values() for original, fake in pairs.items()}
    found: dict[str, dict[str, str]] = {}
    for text in asked or key.people:
        if person := ids.get(text.casefold()):
            found[person] = key.people[person]
        elif original := fakes.get(text.casefold()):
            found[text] = {"original": original}
        else:
            raise DataError(
                f"{path}: knows no '{text}' among {len(key.people)} people.{did_you_mean(text.casefold(), ids)} "
                "Is it the key of this run?"
            )
    return found


def _load(path: Path) -> _Content:
    refuse_run_folder(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return _Content(format=FORMAT, secret=secrets.token_hex(32))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: the key file cannot be read ({error}). Name the right file, or a new one.") from None
    try:
        return _Content.model_validate_json(text)
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"])) or "file"
        raise DataError(
            f"{path}: not a key file (wrong {place}). It is never overwritten; restore it from a copy, or name a new "
            "file in data.source.key (everybody then gets new pseudonyms)."
        ) from None


def refuse_run_folder(path: Path) -> None:
    """The key must not travel with the results."""
    for folder in path.resolve().parents:
        if all((folder / name).is_file() for name in RUN_FILES):
            raise DataError(
                f"data.source.key: {path} lies in the run folder {folder}. Whoever gets the results would get the key; "
                "keep it elsewhere."
            )
