"""CLEAR: fictitious authors with many images each, every image with a caption, and the questions of TOFU."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from mllmu.core.process import rng
from mllmu.core.records import Profile
from mllmu.data.published.content import PublishedData, QuestionReader, used
from mllmu.data.published.store import Store, Table
from mllmu.data.sources import Published

FULL = "full"
TEXT = "full+tofu"
BLOCK = 20
"""TOFU asks this many questions about an author, one author after the other."""
ASK = "Describe this image and the person in it."
NAME = "What is the name of the person in this image?"
_PERTURBED = re.compile(r"(?:forget\d\d|retain)_perturbed$")
NUM_OPTIONS = 4


class Clear(Published):
    """CLEAR as published: captions of many images per person (image+text) and TOFU's questions (text).

    Every image is taught with its caption, and asked again: for the caption (generation, with the published
    paraphrase and wrong captions where there are some) and for the name (classification with published wrong names).
    TOFU rows have no name: they come in blocks of twenty per author, and a block belongs to the person named in most of
    its rows; a block without a name is listed as left out. Forget sets are ``forget01``, ``05`` and ``10``.

    Source: https://huggingface.co/datasets/therem/CLEAR (arXiv:2410.18057). The words that ask for a caption are ours.
    """

    source = "https://huggingface.co/datasets/therem/CLEAR"

    def read(self) -> PublishedData:
        store, data = Store(self.path, self.revision), PublishedData()
        store.need([FULL], "Expected a copy of therem/CLEAR with a folder of parquet files per config.")
        configs = store.configs
        ids = self._captions(store, configs, data)
        if TEXT in configs:
            self._texts(store.table(TEXT), data, ids)
        else:
            data.account.notes.append(f"no config {TEXT}: there are no text questions")
        data.read_forget(store, {name.strip(): person for name, person in ids.items()}, "name")
        return data

    def _captions(self, store: Store, configs: Sequence[str], data: PublishedData) -> dict[str, str]:
        """Images with their captions; returns the id of every name."""
        table = store.table(FULL)
        table.need(("image", "caption", "name"))
        wrong = _perturbed(store, configs)
        training, evaluation = (QuestionReader(FULL, variant, data.account) for variant in ("train", "eval"))
        ids: dict[str, str] = {}
        for number, row in enumerate(table.rows(("caption", "name"))):
            data.account.rows[FULL] += 1
            name, caption = row["name"], row["caption"]
            if not isinstance(name, str) or not name.strip():
                data.account.skip(FULL, number, "", "there is no name")
                continue
            if name not in ids:
                ids[name] = f"{len(ids) + 1:03d}"
                data.people.append(Profile(id=ids[name], kind="fictitious", attributes={"name": name}))
            person = ids[name]
            images = data.images.setdefault(person, [])
            images.append(partial(table.image, number, "image"))
            more, view = wrong.get((name, caption), {}), len(images) - 1
            about: dict[str, Any] = {"modality": "image_text", "view": view}
            said = {"task": "generation", "text": ASK, "answer": caption, "attribute": "caption", **about}
            other: dict[str, Any] = {"alternatives": tuple(more.get("perturbed_captions") or ())}
            other["rewording"] = more.get("paraphrased_caption") or ""
            found = [training.read(number, person, **said), evaluation.read(number, person, **said, **other)]
            if options := _options(person, view, name, more.get("perturbed_names") or ()):
                asked = {"task": "classification", "text": NAME, "answer": name, "attribute": "name", **about}
                found.append(evaluation.read(number, person, **asked, options=options))
            data.questions.setdefault(person, []).extend(used(found))
        return ids

    def _texts(self, table: Table, data: PublishedData, ids: Mapping[str, str]) -> None:
        """TOFU's questions, block by block."""
        table.need(("question", "answer"))
        readers = [QuestionReader(TEXT, variant, data.account) for variant in ("train", "eval")]
        rows = list(enumerate(table.rows(("question", "answer"))))
        data.account.rows[TEXT] = len(rows)
        asked = [(number, row) for number, row in rows if row["question"]]  # the others are the captions once more
        for first in range(0, len(asked), BLOCK):
            block = asked[first : first + BLOCK]
            person = _named([row for _, row in block], ids)
            for number, row in block:
                if person is None:
                    data.account.skip(TEXT, number, "", "its block of twenty rows names nobody of the config full")
                    continue
                texts = row["question"], row["answer"]
                data.questions[person] += used([r.read(number, person, "generation", "text", *texts) for r in readers])


def _perturbed(store: Store, configs: Sequence[str]) -> dict[tuple[str, str], dict[str, Any]]:
    """Wrong captions, wrong names and paraphrases by name and caption."""
    columns = ("perturbed_captions", "paraphrased_caption", "perturbed_names")
    known: dict[tuple[str, str], dict[str, Any]] = {}
    for config in configs:
        if _PERTURBED.fullmatch(config):
            table = store.table(config)
            table.need(("name", "caption"))
            here = tuple(column for column in columns if column in table.columns)
            for row in table.rows(("name", "caption", *here)):
                known.setdefault((row["name"], row["caption"]), row)
    return known


def _options(person: str, view: int, name: str, wrong: Any) -> dict[str, str]:
    """The name among three published wrong ones, in an order drawn by the image; empty if there are too few."""
    others = [other for other in dict.fromkeys(wrong) if other != name][: NUM_OPTIONS - 1]
    if len(others) < NUM_OPTIONS - 1:
        return {}
    shuffled = [name, *others]
    rng(0, "clear", person, view).shuffle(shuffled)
    return dict(zip("ABCD", shuffled, strict=True))


def _named(rows: Sequence[dict[str, Any]], ids: Mapping[str, str]) -> str | None:
    """The id of the person named in most rows of a block; None if no row names one."""
    counts = Counter(name for row in rows for name in ids if name in f"{row['question']} {row['answer']}")
    return ids[counts.most_common(1)[0][0]] if counts else None
