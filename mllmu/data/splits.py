"""Forget sets: by a seeded draw, or by a file of ids. Always by person, never by question."""

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from mllmu.config.recipe import Splits, percent
from mllmu.core.errors import DataError, did_you_mean
from mllmu.core.process import rng
from mllmu.core.records import Profile
from mllmu.data.files import read_json
from mllmu.data.groups import groups_of

RATIO_TOLERANCE = 0.1
"""A list of ids may be larger or smaller than its ratio by one person, or by this part of it."""


def forget_ids(
    people: Sequence[Profile],
    splits: Splits,
    seed: int,
    prescribed: Mapping[str, Sequence[str]] | None = None,
    left_out: Collection[str] = (),
) -> dict[str, list[str]]:
    """The people to forget for each forget ratio, keyed by percent, in the order of ``people``.

    Drawn sets are nested: a person forgotten at 5 % is forgotten at 10 %, so that ratios can be compared. At least
    one person is forgotten. With ``skew`` the next person is always drawn with probabilities in proportion to the
    products of their groups' weights (Efraimidis and Spirakis 2006: the smallest -log(u) / weight come first). Ids from
    a file are taken as they are, and so are those that the source prescribes for a ratio (``prescribed``, by percent)
    if there is no file; a prescribed set of nobody is an error.

    Args:
        left_out: people of the source whom a review left out. A list may name them: it is checked as it is, and then
            they are dropped from it.

    Raises:
        DataError: a ratio leaves no one to retain; the file is damaged, names unknown people, or does not agree with
            the ratios; a list names nobody who is still there.
    """
    ids = [person.id for person in people]
    everyone = [*ids, *left_out]
    if splits.file is not None:
        return _from_file(everyone, splits, splits.file, left_out)
    weights = _weights(people, splits.skew)
    # 1 - u keeps the order of a draw without weights
    ranked = sorted(ids, key=lambda p: -math.log(1 - rng(seed, "forget", p).random()) / weights[p])
    chosen = {}
    for ratio in splits.forget_ratios:
        if (key := (prescribed or {}).get(percent(ratio))) is not None:
            if not key:
                raise DataError(
                    f"data.source: its forget set of {percent(ratio)} % holds nobody who can be used. Nobody is drawn "
                    "in their place: mend the source, or ask another of data.splits.forget_ratios."
                )
            listed = {"prescribed": list(key)}
            chosen[percent(ratio)] = _listed(everyone, listed, "prescribed", ratio, Path("data.source"), left_out)
            continue
        count = max(1, round(ratio * len(ids)))
        if count >= len(ids):
            raise DataError(
                f"data.splits.forget_ratios: {ratio:g} of {len(ids)} people leaves nobody to retain. "
                "Lower the ratio or make more people."
            )
        forgotten = set(ranked[:count])
        chosen[percent(ratio)] = [person for person in ids if person in forgotten]
    return chosen


def _weights(people: Sequence[Profile], skew: Mapping[str, float]) -> dict[str, float]:
    """The product of the weights of every person's groups."""
    groups = {person.id: groups_of(person.attributes) for person in people}
    known = sorted({group for of_person in groups.values() for group in of_person})
    if unknown := [group for group in skew if group not in known]:
        raise DataError(
            f"data.splits.skew: nobody is '{unknown[0]}'.{did_you_mean(unknown[0], known)} Groups of these people: "
            f"{', '.join(known) or 'none; they have neither gender nor date or place of birth'}."
        )
    return {person: math.prod(skew.get(group, 1.0) for group in own) for person, own in groups.items()}


def _from_file(ids: Sequence[str], splits: Splits, path: Path, left_out: Collection[str]) -> dict[str, list[str]]:
    missing = "data.splits.file names a JSON file of id lists."
    value = read_json(path, expected="Expected a JSON object of lists of ids.", missing=missing)
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected an object of lists of ids, got {type(value).__name__}.")
    return {
        percent(ratio): _listed(ids, value, key, ratio, path, left_out)
        for ratio, key in zip(splits.forget_ratios, splits.keys, strict=True)
    }


def _listed(
    ids: Sequence[str], value: Mapping[str, object], key: str, ratio: float, path: Path, left_out: Collection[str]
) -> list[str]:
    """The listed people of a source, in its order, less those whom a review left out; ``ids`` has everyone."""
    listed = value.get(key)
    if not isinstance(listed, list) or not listed:
        raise DataError(f"{path}: no list of ids under '{key}'.{did_you_mean(key, value)} Keys: {', '.join(value)}.")
    wanted = {str(person) for person in listed}
    if unknown := sorted(wanted - set(ids)):
        raise DataError(
            f"{path}: '{key}' names {len(unknown)} people that the source does not have, first '{unknown[0]}'."
            f"{did_you_mean(unknown[0], ids)} "
            "Use the ids of the source, or a source that has these people."
        )
    if len(wanted) >= len(ids):
        raise DataError(f"{path}: '{key}' names all {len(ids)} people; nobody would be retained.")
    # names of folders and titles of reports come from the ratio, so it must say what the list is
    if abs(len(wanted) - ratio * len(ids)) > max(1.0, RATIO_TOLERANCE * ratio * len(ids)):
        raise DataError(
            f"{path}: '{key}' names {len(wanted)} of {len(ids)} people, {percent(len(wanted) / len(ids))} %, but its "
            f"entry in data.splits.forget_ratios is {ratio:g}. Correct the ratio or the order of keys."
        )
    present = [person for person in ids if person not in left_out]
    kept = [person for person in present if person in wanted]
    if len(kept) in (0, len(present)):
        raise DataError(
            f"{path}: after the review {len(kept)} of the {len(wanted)} people under '{key}' are left, of all "
            f"{len(ids)} people {len(present)}: nobody to {'retain' if kept else 'forget'}. Unmark some in data.review."
        )
    return kept
