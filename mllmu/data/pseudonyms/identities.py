"""Finds the people of a table in texts: names, ids, contacts and addresses, however they are spelt.

Texts and originals are compared in plain letters: transliterated by ``anyascii``, without case, accents, marks and
invisible characters. So ``José`` is found in ``JOSE`` and in decomposed letters, ``Jörg`` in ``Joerg``, a Chinese name
in a text without spaces and in Pinyin. Inflected forms, nicknames and descriptions are not found.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import NamedTuple, Self

from mllmu.core.errors import needs_extra

MIN_ID = 4
"""A shorter id is not looked for: '7' would be everywhere."""
MIN_JOINED = 6
"""Letters that a full name needs to be looked for inside a word, as in 'carlabenning77'."""
MIN_PHONE, PHONE_DIGITS = 7, 8
"""So many last digits are a telephone number, whatever stands before them; one with fewer is not looked for."""
START, MAX_WORDS = 3, 12
"""Letters by which a beginning is rejected, and most words of an original."""
MIN_STEM, MAX_ENDING = 4, 4
"""Letters of a word of a name that an inflected form keeps, and how many may follow."""
PARTICLE = 3
"""Most letters of words such as 'de' and 'van' inside a name."""
TITLES = ("dr", "mr", "mrs", "ms", "miss", "prof", "sir", "jr", "sr", "ii", "iii", "iv", "phd", "md", "msc", "bsc")
_ASCII_WORD = re.compile("[a-z0-9]+")
_DIGITS = re.compile(r"[+(]{0,2}\d(?:[\W_]{0,3}\d){6,}")
DIGRAPHS = {"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe"}


class Word(NamedTuple):
    """A word of a text in plain letters, and where it stands; ``inner``: its script may join it to other words."""

    plain: str
    start: int
    end: int
    inner: bool = False


class Form(NamedTuple):
    """One form of an original: its plain letters without spaces, whose it is, and what may stand in its place.

    ``certain``: it tells who a person is by itself; otherwise it is a word of a name, or a number, that may mean
    something else. ``inner``: it is also looked for inside words of its script.
    """

    plain: str
    kind: str
    owner: str
    certain: bool
    fake: str = ""
    inner: bool = False


class Find(NamedTuple):
    """A form found in a text."""

    start: int
    end: int
    form: Form


@cache
def _plain_char(char: str) -> str:
    """A character in plain letters; a space if it separates words, nothing if it is invisible.

    Letters without a sound of their own (Hebrew aleph, Arabic ayn) are written as their number, so none is lost.
    """
    with needs_extra("data.source people: comparing names", "people"):
        from anyascii import anyascii
    category = unicodedata.category(char)
    if category[0] in "LNM":
        sound = "".join(_ASCII_WORD.findall(anyascii(char).lower()))
        return sound or (f"{ord(char):x}" if category == "Lo" else "")
    return "" if category == "Cf" else " "


def plain(text: str) -> str:
    """Plain letters and digits, for comparison.

    >>> plain("Élodie, 王伟")
    'elodie wangwei'
    """
    return " ".join(word.plain for word in words(text))


def words(text: str) -> list[Word]:
    """The words of a text; marks, underscores and spaces separate them."""
    if text.isascii():
        return [Word(m[0], m.start(), m.end()) for m in _ASCII_WORD.finditer(text.lower())]
    return [word for m in re.finditer(r"\S+", text) for word in _words(m[0], m.start())]


@cache
def _joins(char: str) -> bool:
    """Whether a character belongs to the one before: an accent, a vowel sign, the rest of a syllable, or invisible."""
    return unicodedata.category(char) in ("Mn", "Mc", "Me", "Cf") or "\u1160" <= char <= "\u11ff"


def _letters(chunk: str) -> list[str]:
    """For every character what it is in plain letters, together with those that it joins."""
    starts = [at for at, char in enumerate(chunk) if at == 0 or not _joins(char)]
    found: list[str] = []
    for start, end in pairwise([*starts, len(chunk)]):
        visible = "".join(char for char in chunk[start:end] if unicodedata.category(char) != "Cf")
        composed = "".join(_plain_char(char) for char in unicodedata.normalize("NFC", visible))
        found += [composed, *[""] * (end - start - 1)]
    return found


def _words(chunk: str, start: int) -> Iterator[Word]:
    letters = _letters(chunk)
    begin = 0
    for at in range(len(chunk) + 1):
        if at == len(chunk) or letters[at] == " ":
            if found := "".join(letters[begin:at]):
                yield Word(found, start + begin, start + at, caseless(chunk[begin:at]))
            begin = at + 1


def caseless(text: str) -> bool:
    """Whether a text has letters of a script without capitals; such scripts often put words together."""
    return any(char.isalpha() and char.lower() == char.upper() for char in text)


def name_words(name: str) -> list[str]:
    """The words of a name that tell who it is: no initials, no titles, and no 'de' or 'van'.

    The last are short words in lower case between others, where the name has capitals elsewhere: in 'omar ali' and
    'ali HADDAD' every word tells.

    >>> name_words("Dr. Anna M. de la Cruz-Holt PhD"), name_words("omar ali")
    (['Anna', 'Cruz-Holt'], ['omar', 'ali'])
    """
    told = [word for part in name.split() if plain(word := part.strip(".,")) not in TITLES]
    inside = range(1, len(told) - 1) if any(word != word.lower() for word in told) else ()
    particles = [at for at in inside if told[at][:1].islower() and len(told[at]) <= PARTICLE]
    return [word for at, word in enumerate(told) if at not in particles and len(plain(word)) > 1] or [name]


def spellings(name: str) -> set[str]:
    """A name in plain letters without spaces, each of its umlauts as one letter and as two.

    >>> sorted(spellings("Jörg O'Neil"))
    ['joergoneil', 'jorgoneil']
    """
    found = {unicodedata.normalize("NFC", name).lower()}
    for letter, two in DIGRAPHS.items():
        found |= {text.replace(letter, two) for text in found}
    return {plain(text).replace(" ", "") for text in found} - {""}


def name_forms(owner: str, name: str, pseudonym: str, fakes: Mapping[str, str]) -> Iterator[Form]:
    """Forms of a name: all of it, first and last in any order, and each of its words.

    Args:
        fakes: what stands for each of its words.
    """
    told = name_words(name)
    for whole in {name, " ".join(told), f"{told[0]} {told[-1]}"}:
        first, _, rest = whole.partition(" ")
        for form in (spellings(whole) | spellings(f"{rest} {first}")) if len(words(whole)) > 1 else ():
            yield Form(form, "name", owner, certain=True, fake=pseudonym)
    for word in told:
        inner, fake = caseless(word), pseudonym if word == name else fakes.get(word, pseudonym)
        for part in {word, *(word[each.start : each.end] for each in words(word))}:
            for form in spellings(part) if len(part) > 1 else ():
                yield Form(form, "name", owner, certain=inner and part == name, fake=fake, inner=inner)


def other_forms(owner: str, known: Mapping[str, str]) -> Iterator[Form]:
    """Forms of an id, an e-mail address and a street address."""
    original = known.get("id", "")
    if len(form := plain(original).replace(" ", "")) >= MIN_ID:
        yield Form(form, "id", owner, certain=not form.isdecimal(), fake=owner)
    lines = [part for part in known.get("address", "").split(",") if any(map(str.isdecimal, part))]
    for kind, original in [("email", known.get("email", "")), *(("address", line) for line in lines)]:
        if len(words(original)) > 1:
            yield Form(plain(original).replace(" ", ""), kind, owner, certain=True)


def apart(finds: Iterable[Find]) -> list[Find]:
    """Finds from left to right; of those that overlap the longest, of equal ones the certain one."""
    taken: list[Find] = []
    for find in sorted(finds, key=lambda find: (find.start - find.end, not find.form.certain)):
        if all(find.end <= other.start or find.start >= other.end for other in taken):
            taken.append(find)
    return sorted(taken)


class Identities:
    """The people of a table, to be found in texts.

    Args:
        forms: of their originals.
        phones: telephone number -> whose it is.
    """

    def __init__(self, forms: Iterable[Form], phones: Mapping[str, str]) -> None:
        self._forms: dict[str, Form] = {}
        for form in sorted(set(forms), key=lambda form: (not form.certain, form)):
            self._forms.setdefault(form.plain, form)
        known = self._forms.values()
        self._starts = {form.plain[:size] for form in known for size in range(1, START + 1)}
        self._long = [form for form in known if form.kind == "name" and form.certain and len(form.plain) >= MIN_JOINED]
        self._inner = [form for form in known if form.inner and form not in self._long]
        words_of_names = [form for form in known if form.kind == "name" and not form.certain]
        self._stems = {form.plain[: max(MIN_STEM, len(form.plain) - 1)]: form for form in words_of_names}
        self._within: dict[tuple[str, bool], list[Form]] = {}
        numbers = {_last_digits(number): owner for number, owner in phones.items()}
        self._phones = {number: owner for number, owner in numbers.items() if len(number) >= MIN_PHONE}

    @classmethod
    def of(cls, people: Mapping[str, Mapping[str, str]]) -> Self:
        """The people that a key file knows, by pseudonymous id."""
        forms = [
            form
            for pid, known in people.items()
            for form in (*name_forms(pid, known["name"], known.get("pseudonym", ""), {}), *other_forms(pid, known))
        ]
        return cls(forms, {known["phone"]: pid for pid, known in people.items() if known.get("phone")})

    def find(self, text: str) -> list[Find]:
        """All finds from left to right; of those that overlap, the longest."""
        found = words(text)
        starts = [at for at, word in enumerate(found) if word.plain[:START] in self._starts]
        finds = [find for at in starts for find in self._from(found, at)]
        finds += [find for word in found if self._forms_in(word) for find in self._inside(word, text)]
        finds += self._numbers(text) if self._phones else ()
        return apart(finds)

    def near(self, text: str) -> Iterator[Find]:
        """Words that begin like a word of a name and end otherwise, as inflected forms do; a help for the eye only."""
        for word in words(text):
            for size in range(MIN_STEM, len(word.plain) + 1):
                form = self._stems.get(word.plain[:size])
                if form and len(word.plain) <= size + MAX_ENDING:
                    yield Find(word.start, word.end, form)
                    break

    def _from(self, found: Sequence[Word], at: int) -> Iterator[Find]:
        """Forms that begin with a word and end with it or one of the next."""
        joined = ""
        for last in found[at : at + MAX_WORDS]:
            joined += last.plain
            form = self._forms.get(joined)
            if form and (last is found[at] or form.certain or len(joined) >= MIN_JOINED):
                yield Find(found[at].start, last.end, form)

    def _forms_in(self, word: Word) -> list[Form]:
        """Names inside a word: full ones in any, single words of a name in scripts that join words."""
        key = word.plain, word.inner
        if key not in self._within:
            forms = [*self._long, *(self._inner if word.inner else ())]
            self._within[key] = [form for form in forms if form.plain in word.plain and form.plain != word.plain]
        return self._within[key]

    def _inside(self, word: Word, text: str) -> Iterator[Find]:
        for form in self._forms_in(word):
            before, _, after = word.plain.partition(form.plain)
            ends = [0]
            for letter in _letters(text[word.start : word.end]):
                ends.append(ends[-1] + len(letter))
            start = max(at for at, end in enumerate(ends) if end <= len(before))
            end = min(at for at, end in enumerate(ends) if end >= len(word.plain) - len(after))
            yield Find(word.start + start, word.start + end, form)

    def _numbers(self, text: str) -> Iterator[Find]:
        for m in _DIGITS.finditer(text):
            digits = "".join(str(unicodedata.decimal(char)) for char in m[0] if char.isdecimal())
            for number, owner in self._phones.items():
                if number in digits:
                    yield Find(m.start(), m.end(), Form(number, "phone", owner, certain=True))


def _last_digits(number: str) -> str:
    return "".join(char for char in number if char.isdecimal()).lstrip("0")[-PHONE_DIGITS:]
