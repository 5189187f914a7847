"""Who is forgotten: by a seeded draw, or by a file of ids. Always by person, never by question."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from mllmu.errors import DataError, did_you_mean
from mllmu.recipe import Splits
from mllmu.seeding import rng

HOLDOUT = "holdout"


def ratio_key(ratio: float) -> str:
    """A forget ratio as a key, in percent.

    >>> ratio_key(0.05), ratio_key(0.125)
    ('5', '12.5')
    """
    return f"{100 * ratio:g}"


def forget_ids(ids: Sequence[str], splits: Splits, seed: int) -> dict[str, list[str]]:
    """The people to forget for each forget ratio, keyed by :func:`ratio_key`, in the order of ``ids``.

    Drawn sets are nested: whoever is forgotten at 5 % is forgotten at 10 %, so that ratios can be compared. Ids from a
    file are taken as they are.

    Raises:
        DataError: a ratio leaves nobody to forget or nobody to retain; the file is damaged or names unknown people.
    """
    if splits.file is not None:
        return _from_file(ids, splits, splits.file)
    ranked = sorted(ids, key=lambda person: rng(seed, "forget", person).random())
    chosen = {}
    for ratio in splits.forget_ratios:
        count = max(1, round(ratio * len(ids)))
        if count >= len(ids):
            raise DataError(
                f"data.splits.forget_ratios: {ratio:g} of {len(ids)} people leaves nobody to retain. "
                "Lower the ratio or make more people."
            )
        forgotten = set(ranked[:count])
        chosen[ratio_key(ratio)] = [person for person in ids if person in forgotten]
    return chosen


def _from_file(ids: Sequence[str], splits: Splits, path: Path) -> dict[str, list[str]]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file. data.splits.file names a JSON file of id lists.") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}). Expected an object of lists of ids.") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected an object of lists of ids, got {type(value).__name__}.")
    return {
        ratio_key(ratio): _listed(ids, value, key, path)
        for ratio, key in zip(splits.forget_ratios, splits.keys, strict=True)
    }


def _listed(ids: Sequence[str], value: dict[str, object], key: str, path: Path) -> list[str]:
    listed = value.get(key)
    if not isinstance(listed, list) or not listed:
        raise DataError(f"{path}: no list of ids under '{key}'.{did_you_mean(key, value)} Keys: {', '.join(value)}.")
    wanted = [str(person) for person in listed]
    unknown = [person for person in wanted if person not in set(ids)]
    if unknown:
        raise DataError(
            f"{path}: '{key}' names {len(unknown)} people that the source does not have, first '{unknown[0]}'. "
            "Use the ids of the source, or a source that has these people."
        )
    if len(set(wanted)) >= len(ids):
        raise DataError(f"{path}: '{key}' names all {len(ids)} people; nobody would be retained.")
    return [person for person in ids if person in set(wanted)]
