"""Seeded damage: text, bytes and trees of values that a careless hand, a bad disk or an odd program could have made.

Every function takes a ``random.Random`` and returns something new; the same state gives the same damage.
"""

from __future__ import annotations

import copy
import math
from random import Random
from typing import Any

WORDS = (
    "", " ", "\n", "\t", "~", "null", "None", "nan", "NaN", ".inf", "-.inf", "Infinity", "true", "yes", "on", "off",
    "010", "0x10", "0o17", "12:30", "1:30:00", "1_000", "1e3", "1e400", "-0", "+1", "1,5", "٣", "½", "1" * 400,
    "2024-13-45", "2024-02-30", "<<", "*a", "&a a", "!!python/object:os.system x", "!!binary x", "!x y", "---", "...",
    "{", "}", "[", "]", "{{ 7 * 7 }}", "${HOME}", "%s", "%(a)s", "=1+1", "@x", "`x`", "'", '"', "\\", "#", ": ", "- ",
    "..", "../x", "/etc/passwd", "~/x", "C:\\x", "a/b", "a\\b", "con", ".", "x" * 300, "x\0y", "\x1b[31m", "\ufeff",
    "\u2028", "\u2029", "\x85", "\u200b", "\u202e", "é", "e\u0301", "Ünï", "北京", "😀", "\ud800", "\uffff",
    "<script>", "</td>", "[/bold]", "file:///x", "https://u:p@h/x", "tiny", "auto", "all",
)  # fmt: skip
"""Words that some reader, shell, spreadsheet or file system takes for more than text."""
NUMBERS = (
    0, -0.0, 1, -1, 2, 0.5, -0.5, True, False, 2**31, -(2**31), 2**63, 2**64, 10**30, 10**400, 1e-300, 5e-324, 1e300,
    math.inf, -math.inf, math.nan, 0.1 + 0.2,
)  # fmt: skip


def value(rng: Random, depth: int = 3) -> Any:
    """A value that a setting or a field hardly ever has: of another type, out of range, nested."""
    kind = rng.randrange(10)
    if kind < 4:
        return rng.choice(NUMBERS)
    if kind < 7:
        return rng.choice(WORDS)
    if kind == 7 or not depth:
        return None
    inner = [value(rng, depth - 1) for _ in range(rng.randrange(3))]
    return inner if kind == 8 else {rng.choice(WORDS): one for one in inner}


def tree(rng: Random, whole: Any) -> Any:
    """A copy of lists and mappings in which one place is replaced, left out, doubled, renamed or put elsewhere."""
    changed = copy.deepcopy(whole)
    places = list(_places(changed))
    if not places:
        return value(rng)
    holder, key = rng.choice(places)
    act = rng.randrange(8)
    if act == 0:
        del holder[key]
    elif act == 1:
        other, there = rng.choice(places)
        holder[key] = copy.deepcopy(other[there])
    elif act == 2 and isinstance(holder, dict):
        holder[rng.choice([*WORDS, text(rng, str(key))])] = holder.pop(key)
    elif act == 3 and isinstance(holder, list):
        holder.insert(rng.randrange(len(holder) + 1), copy.deepcopy(holder[key]))
    elif act == 4 and isinstance(holder[key], str):
        holder[key] = text(rng, holder[key])
    else:
        holder[key] = value(rng)
    return changed


def _places(node: Any) -> Any:
    """All places of a tree as pairs of a list or mapping and the index or key in it."""
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, inside in pairs:
        yield node, key
        yield from _places(inside)


def text(rng: Random, whole: str) -> str:
    """The text with one to three faults: a part lost, doubled, moved or overwritten, or an odd word put in."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        whole = _text_once(rng, whole)
    return whole


def _text_once(rng: Random, whole: str) -> str:
    start, end = sorted(rng.randrange(len(whole) + 1) for _ in range(2))
    act = rng.randrange(8)
    if act == 0:
        return whole[:start]
    if act == 1:  # a few characters lost
        return whole[:start] + whole[start + rng.randrange(1, 8) :]
    if act == 2:
        return whole[:start] + rng.choice(WORDS) + whole[start:]
    if act == 3:  # one word replaced
        return whole[:start] + rng.choice(WORDS) + whole[start + rng.randrange(1, 12) :]
    if act == 4:
        return whole[:end] + whole[start:]
    lines = whole.splitlines(keepends=True) or [whole]
    place = rng.randrange(len(lines))
    if act == 5:
        lines[place] = rng.choice(("  ", "\t", "- ", "# ", "")) + lines[place].lstrip()
    elif act == 6:
        lines.insert(rng.randrange(len(lines) + 1), lines[place])
    else:
        del lines[place]
    return "".join(lines)


def raw(rng: Random, whole: bytes) -> bytes:
    """The bytes after a fault of a disk or a transfer: a bit turned, a part cut off, zeroed, lost or foreign."""
    if not whole:
        return rng.randbytes(rng.randrange(1, 64))
    start = rng.randrange(len(whole))
    end = min(len(whole), start + rng.choice((1, 2, 16, 512, 4096)))
    act = rng.randrange(6)
    if act == 0:
        return whole[:start]
    if act == 1:
        return whole[:start] + whole[end:]
    if act == 2:
        return whole[:end] + whole[start:]
    filled = bytearray(whole)
    if act == 3:
        filled[start:end] = bytes(end - start)
    elif act == 4:
        filled[start:end] = rng.randbytes(end - start)
    else:
        filled[start] ^= 1 << rng.randrange(8)
    return bytes(filled)
