"""Searches the texts of a folder for people: the last check of the data, and ``mllmu data search``."""

import html
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from mllmu.core.records import Profile
from mllmu.core.runfolder import RunFolder, read_lines
from mllmu.data import dates
from mllmu.data.dataset import PROFILES
from mllmu.data.files import packaged_yaml
from mllmu.data.pseudonyms.identities import Find, Identities, words
from mllmu.data.values import ATTRIBUTES, value_pool

MADE = ".jsonl"
"""What the data stage makes of people, their questions above all."""
MARKED_UP = (".html", ".svg")
_PRINTED = re.compile(rf"\b(?:{'|'.join(dates.MONTHS)}) \d{{1,2}}, \d{{4}}\b")
_EMBEDDED = re.compile(r"data:[\w/+.;=-]+,[\w+/=%-]+")
BEGIN = 8192
"""Bytes at the beginning of a file by which it is known not to be text."""
_OWN_KEY = re.compile(r"[a-z0-9_]*")


class Place(NamedTuple):
    """A text of a folder, and where it stands."""

    where: str
    text: str


class Told(NamedTuple):
    """A find in a folder: the first place of its text, the text, and how often the same was found."""

    where: str
    text: str
    find: Find
    times: int

    def __str__(self) -> str:
        more = f", and {self.times - 1} times more" if self.times > 1 else ""
        return f"{self.where}: {meant(self.text, self.find)} of {self.find.form.owner}{more}"


_KINDS = {"email": "e-mail address", "phone": "telephone number", "address": "street address"}


def meant(text: str, find: Find) -> str:
    """What a find is, in words."""
    kind = find.form.kind if find.form.certain or find.form.kind != "name" else "word of the name"
    return f"{text[find.start : find.end]!r} is the {_KINDS.get(kind, kind)}".replace("the word", "a word")


def search(files: Mapping[str, Path], identities: Identities, said: Collection[str] | None) -> list[Told]:
    """Every find in the texts and names of files, equal ones once.

    Days as they are printed are no names. In records that are made of people (``.jsonl``) a word of a name does not
    count where it is among ``said``.

    Args:
        files: by the names under which they are told.
        said: see :func:`said_anyway`; None: words of names count nowhere.
    """
    found: dict[tuple[str, str], Told] = {}
    known: dict[str, list[Find]] = {}
    for name, path in files.items():
        made = path.suffix == MADE
        for where, text in texts(name, path):
            if text not in known:
                known[text] = identities.find(_PRINTED.sub(lambda m: " " * len(m[0]), text))
            for find in known[text]:
                counts = find.form.certain or (said is not None and not (made and find.form.plain in said))
                if counts:
                    key = find.form.plain, text
                    earlier = found.get(key, Told(where, text, find, 0))
                    found[key] = earlier._replace(times=earlier.times + 1)
    return list(found.values())


def texts(name: str, path: Path) -> Iterator[Place]:
    """The name of a file, and its texts; nothing more of one that is not UTF-8."""
    yield Place("file name", name)
    with path.open("rb") as file:
        begin = file.read(BEGIN)
        try:
            text = "" if b"\0" in begin else (begin + file.read()).decode()
        except UnicodeDecodeError:
            return
    read = _READERS.get(path.suffix)
    if path.suffix == MADE:
        for number, line in enumerate(text.split("\n"), start=1):
            yield from (Place(f"{name}, line {number}", each) for each in _strings(_parsed(json.loads, line)))
    elif read:
        yield from (Place(name, each) for each in _strings(_parsed(read, text)))
    else:
        plain = html.unescape(_EMBEDDED.sub("", text)) if path.suffix in MARKED_UP else text
        lines = enumerate(plain.split("\n"), start=1)
        yield from (Place(f"{name}, line {number}", line) for number, line in lines)


_READERS: Mapping[str, Callable[[str], Any]] = {".json": json.loads, ".yaml": yaml.safe_load}


def _parsed(read: Callable[[str], Any], text: str) -> Any:
    """The value in a text, or the text itself if it cannot be read so."""
    try:
        return read(text) if text.strip() else None
    except (ValueError, yaml.YAMLError):
        return text


def _strings(value: Any) -> Iterator[str]:
    """All texts of a value; of keys, those that are not ours."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (key for key in value if isinstance(key, str) and not _OWN_KEY.fullmatch(key))
        yield from (text for each in value.values() for text in _strings(each))
    elif isinstance(value, list):
        yield from (text for each in value for text in _strings(each))


def said_anyway(folder: Path) -> frozenset[str]:
    """Plain words that questions say whoever is in the table: of our sentences and values, and of checked facts.

    Args:
        folder: of the data.

    Raises:
        DataError: it holds no people.
    """
    ours = str(packaged_yaml("questions/wordings.yaml"))
    pools = (value for attribute in ATTRIBUTES for value in value_pool(attribute))
    facts = (value for person in read_lines(folder / PROFILES, Profile) for value in person.attributes.values())
    return frozenset(word.plain for text in (ours, *pools, *facts) for word in words(text))


def files_of(folder: Path, root: Path) -> dict[str, Path]:
    """Files of a data folder by their names in a run folder, with recipe and record of the run folder ``root``."""
    about = {name: root / name for name in (RunFolder.RECIPE, RunFolder.RECORD)}
    data = {f"{RunFolder.DATA}/{path.relative_to(folder).as_posix()}": path for path in sorted(folder.rglob("*"))}
    return {name: path for name, path in (about | data).items() if path.is_file()}


def search_run(root: Path, identities: Identities) -> list[Told]:
    """Finds in a whole run folder; words of names by themselves only in its data and its recipe.

    Elsewhere, in replies above all, such words are everywhere and say nothing.
    """
    folder = root / RunFolder.DATA
    about = files_of(folder, root)
    others = {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*")) if path.is_file()}
    found = search(about, identities, said_anyway(folder))
    return found + search({n: p for n, p in others.items() if n not in about}, identities, None)
