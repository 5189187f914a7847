"""Checks of people, questions, images and shots; they need no model."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Literal

from mllmu.core.errors import DataError
from mllmu.core.records import PEOPLE_SPLITS, Exchange, Sample
from mllmu.data.dataset import Dataset, image_files
from mllmu.models.families import Turn, open_image
from mllmu.preflight.doctor.verdict import Verdict, verdict


def people_apart(dataset: Dataset, key: str) -> Verdict:
    """Nobody to forget is retained, held out or a celebrity, by id or by name, nor shares the bytes of an image."""
    forget = dataset.splits[key]
    others = [*dataset.retained(key), *dataset.holdout, *dataset.celebrities]
    found = [f"{person} is to be forgotten and on another side" for person in sorted(set(forget) & set(others))]
    named = {dataset.names[person].casefold(): person for person in others}
    for person in forget:
        other = named.get(dataset.names[person].casefold())
        found += [f"{person} and {other} have one name"] if other not in (None, person) else []
    images = {digest: image for person in others for digest, image in _images(dataset, person)}
    for person in forget:
        found += [
            f"{image} and {images[digest]} are the same image"
            for digest, image in _images(dataset, person)
            if digest in images and images[digest] != image
        ]
    return verdict(f"forget and others apart ({key} %)", found, f"{len(forget)} people against {len(others)}")


def _images(dataset: Dataset, person: str) -> Iterable[tuple[str, str]]:
    for path in image_files(dataset.folder, person):
        yield hashlib.sha256(path.read_bytes()).hexdigest(), path.name


def evaluation_not_taught(dataset: Dataset) -> Verdict:
    """No evaluation question is a training question: the same text for the same person in the same modality."""
    taught = {(q.profile_id, q.modality, _folded(q.text)) for q in dataset.questions if q.variant == "train"}
    asked = [q for q in dataset.questions if q.variant != "train"]
    found = [f"{q.id} '{q.text}'" for q in asked if (q.profile_id, q.modality, _folded(q.text)) in taught]
    return verdict("evaluation questions not taught", found, f"{len(asked)} asked, {len(taught)} taught, none in both")


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def shots_not_asked(
    dataset: Dataset, samples: Sequence[Sample], drawn_from: Literal["pool", "asked"], protocol: str = ""
) -> Verdict:
    """Nobody who is asked about is shown as an example; where the protocol asks for just that, it is a note."""
    asked = {sample.profile_id: sample.split for sample in samples if sample.split in PEOPLE_SPLITS}
    shown = shot_people(dataset, samples)
    found = [
        f"{person} is asked about in '{asked[person]}' and shown before {shown[person]}"
        for person in sorted(set(shown) & set(asked))
    ]
    check = f"shots apart from the people asked{f' ({protocol})' if protocol else ''}"
    if drawn_from == "asked" and found:
        return Verdict(check, "note", f"deviation, shots.drawn_from: asked: {verdict('', found, '').text}")
    return verdict(check, found, f"{len(shown)} people shown as examples" if shown else "no examples are shown")


def shot_people(dataset: Dataset, samples: Sequence[Sample]) -> dict[str, str]:
    """Everybody shown as an example, with one sample before which: by the image, else by the name in the text."""
    known: dict[Exchange, list[str]] = {}
    names = {name: re.compile(rf"(?<!\w){re.escape(name)}(?!\w)") for name in dataset.names.values()}
    shown: dict[str, str] = {}
    for sample in samples:
        for example in sample.examples:
            if example not in known:
                known[example] = _people_of(example, dataset.names, names)
            for person in known[example]:
                shown.setdefault(person, sample.id)
    return shown


def _people_of(example: Exchange, people: Mapping[str, str], names: Mapping[str, re.Pattern[str]]) -> list[str]:
    if example.image:
        return [PurePath(example.image).stem.rpartition("_")[0]]
    return [person for person, name in people.items() if names[name].search(example.prompt)]


def images_there(paths: Iterable[Path]) -> Verdict:
    """Every image that is trained, asked about or shown can be opened."""
    wanted = sorted(set(paths))
    found = []
    for path in wanted:
        try:
            open_image(path)
        except DataError as error:
            found.append(f"{path.name}: {str(error).removeprefix(f'{path}: ').partition('.')[0]}")
    return verdict("images", found, f"all {len(wanted)} can be opened")


def images_of(turns: Sequence[Turn], samples: Sequence[Sample], folder: Path) -> set[Path]:
    """The images of training turns, and of samples with their examples, which are named from the data folder."""
    names = {sample.image for sample in samples if sample.image}
    names |= {example.image for sample in samples for example in sample.examples if example.image}
    return {image for turn in turns for image in turn.images} | {folder / name for name in names}
