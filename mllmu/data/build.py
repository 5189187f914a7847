"""The data stage: from a source of people to everything the later stages read, on disk.

data/profiles.jsonl    everybody: fictitious people, then holdout, then celebrities
data/questions.jsonl   their questions: train, eval and test for the people; eval for holdout and celebrities
data/splits.json       {"5": [ids], "10": [ids], ..., "holdout": [ids]}
data/rejected.jsonl    questions that a writer's own checks threw out, if any, to be looked at
data/images/           <id>_0.png is the portrait, <id>_1.png ... the transformed views
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL.Image import Image

from mllmu import plugins
from mllmu.data.portraits import Portraits
from mllmu.data.question_rules import check
from mllmu.data.splits import HOLDOUT, forget_ids
from mllmu.data.writers import Order, Rejected, Written
from mllmu.errors import DataError
from mllmu.progress import Progress
from mllmu.recipe import DataSection
from mllmu.records import Profile, Question, dump_lines, read_lines
from mllmu.runstore import write_atomic

# Celebrities look the same in every run, whatever its seed, or a model that knows them could not recognise them.
CELEBRITY_PORTRAIT_SEED = 0
HOLDOUT_PREFIX = "h"


@dataclass(frozen=True)
class Dataset:
    """Everything the data stage wrote, read back."""

    folder: Path
    profiles: list[Profile]
    questions: list[Question]
    splits: dict[str, list[str]]

    @cached_property
    def celebrities(self) -> list[str]:
        return [p.id for p in self.profiles if p.kind == "celebrity"]

    @cached_property
    def holdout(self) -> list[str]:
        return self.splits.get(HOLDOUT, [])

    @cached_property
    def people(self) -> list[str]:
        """Ids of the fictitious people the target is taught."""
        hidden = {*self.holdout, *self.celebrities}
        return [p.id for p in self.profiles if p.id not in hidden]

    @cached_property
    def names(self) -> dict[str, str]:
        return {p.id: p.name for p in self.profiles}

    def retained(self, key: str) -> list[str]:
        """Everybody who is taught and not forgotten at a ratio."""
        gone = set(self.splits[key])
        return [person for person in self.people if person not in gone]

    def views(self, person: str) -> int:
        """Number of pictures of a person."""
        count = 0
        while (self.folder / "images" / f"{person}_{count}.png").is_file():
            count += 1
        return count


def make(section: DataSection, seed: int, folder: Path, progress: Progress) -> dict[str, Any]:
    """Write the data into ``folder`` and return counts.

    Raises:
        DataError: the source contradicts itself, two people share a picture, or a question breaks a rule.
    """
    people, holdout, celebrities = gather(section, seed)
    everybody = [*people, *holdout, *celebrities]
    splits = {**forget_ids([p.id for p in people], section.splits, seed), HOLDOUT: [p.id for p in holdout]}
    written = ask(section, seed, people, holdout, celebrities, progress)
    write_atomic(folder / "profiles.jsonl", dump_lines(everybody))
    write_atomic(folder / "questions.jsonl", dump_lines(written.questions))
    if written.rejected:
        write_atomic(folder / "rejected.jsonl", dump_lines(written.rejected))
    write_atomic(folder / "splits.json", json.dumps(splits, indent=1) + "\n")
    portraits = section.portraits.build("portraits", "data.portraits")
    pictures = draw(portraits, people, holdout, celebrities, seed, folder / "images", progress)
    counts = {"num_people": len(people), "num_questions": len(written.questions), "num_images": pictures}
    return {**counts, **({"questions": written.facts} if written.facts else {})}


def gather(section: DataSection, seed: int) -> tuple[list[Profile], list[Profile], list[Profile]]:
    """The people to teach, the holdout people (seen by no model), and the celebrities."""
    source = section.source.build("sources", "data.source")
    people: list[Profile] = source.profiles(seed)
    celebrities: list[Profile] = (
        section.celebrities.build("sources", "data.celebrities").profiles(seed) if section.celebrities else []
    )
    _check_kind("data.source", people, "fictitious")
    _check_kind("data.celebrities", celebrities, "celebrity")
    holdout = _holdout(section, len(people), seed)
    _check_distinct([*people, *holdout, *celebrities])
    return people, holdout, celebrities


def _holdout(section: DataSection, num_people: int, seed: int) -> list[Profile]:
    """Invented people who continue the series of the synthetic source, so that they share nobody with it."""
    if not section.splits.holdout:
        return []
    settings: dict[str, Any] = section.source.settings if section.source.name == "synthetic" else {}
    first = int(settings.get("first_id", 1)) + num_people
    settings |= {"num_people": section.splits.holdout, "first_id": first, "id_prefix": HOLDOUT_PREFIX}
    series = plugins.build("sources", "synthetic", settings, where="data.splits.holdout")
    people: list[Profile] = series.profiles(seed)
    return people


def _check_kind(where: str, profiles: Sequence[Profile], kind: str) -> None:
    """Celebrities are never taught and never forgotten, so neither source may give people of the other kind."""
    for profile in profiles:
        if profile.kind != kind:
            raise DataError(f"{where}: profile {profile.id} is of kind '{profile.kind}', expected '{kind}' only.")
        if not profile.attributes.get("name"):
            raise DataError(f"{where}: profile {profile.id} has no name. Every person needs the attribute 'name'.")


def _check_distinct(profiles: Sequence[Profile]) -> None:
    """Nobody may be on two sides: one id or one name, one person."""
    seen: dict[tuple[str, str], str] = {}
    for profile in profiles:
        for what, value in (("id", profile.id), ("name", profile.name.casefold())):
            if (what, value) in seen:
                raise DataError(
                    f"profile {profile.id}: the {what} '{value}' already belongs to profile {seen[what, value]}. "
                    "One person must not be on two sides of a split; rename or remove one of them."
                )
            seen[what, value] = profile.id


def ask(
    section: DataSection,
    seed: int,
    people: Sequence[Profile],
    holdout: Sequence[Profile],
    celebrities: Sequence[Profile],
    progress: Progress,
) -> Written:
    """All questions, checked against the rules; holdout people and celebrities are only evaluated."""
    writer = section.questions.build("questions", "data.questions")
    order = Order(seed, train_wordings=section.train_wordings, train_formats=section.train_formats)
    questions: list[Question] = []
    rejected: list[Rejected] = []
    facts: dict[str, float] = {}
    asked_only = order._replace(variants=("eval",))
    for group, wanted in ((people, order), (holdout, asked_only), (celebrities, asked_only)):
        written = writer.write(group, wanted, progress)
        check(written.questions, group)
        questions += written.questions
        rejected += written.rejected
        facts = {name: facts.get(name, 0) + written.facts.get(name, 0) for name in {**facts, **written.facts}}
    return Written(questions, tuple(rejected), facts)


def draw(
    portraits: Portraits,
    people: Sequence[Profile],
    holdout: Sequence[Profile],
    celebrities: Sequence[Profile],
    seed: int,
    folder: Path,
    progress: Progress,
) -> int:
    """Draw all pictures and return how many; two people with the same pixels are an error.

    Holdout people and celebrities are only ever shown as they are, so they need the one portrait.
    """
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(p, view, seed) for p in people for view in range(portraits.num_views)]
    jobs += [(p, 0, seed) for p in holdout] + [(p, 0, CELEBRITY_PORTRAIT_SEED) for p in celebrities]
    hashes: dict[str, str] = {}
    progress.start("portraits", len(jobs))
    for profile, view, portrait_seed in jobs:
        path = folder / f"{profile.id}_{view}.png"
        png = _png(portraits.render(profile, view, portrait_seed))
        other = hashes.setdefault(hashlib.sha256(png).hexdigest(), path.name)
        if other != path.name:
            raise DataError(
                f"{path.name}: the same pixels as {other}. A picture must stand for one person and one view; "
                "replace one of the two."
            )
        write_atomic(path, png)
        progress.advance()
    progress.finish()
    return len(jobs)


def _png(image: Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def load(folder: Path) -> Dataset:
    """Read what :func:`make` wrote."""
    try:
        splits = json.loads((folder / "splits.json").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{folder / 'splits.json'}: cannot be read ({error}). Make the data again (--force).") from None
    profiles, questions = (
        read_lines(folder / "profiles.jsonl", Profile),
        read_lines(folder / "questions.jsonl", Question),
    )
    return Dataset(folder, profiles, questions, splits)
