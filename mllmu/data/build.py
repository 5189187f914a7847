"""The data stage: from a source of people to everything the later stages read, on disk.

data/profiles.jsonl    everybody: fictitious people, then holdout, then celebrities
data/questions.jsonl   their questions: train, eval and test for the people; eval for holdout and celebrities
data/splits.json       {"5": [ids], "10": [ids], ..., "holdout": [ids]}
data/rejected.jsonl    questions that a writer's own checks threw out, if any, to be looked at
data/images/           <id>_0.png is the portrait, <id>_1.png ... the transformed views
data/source.json       what the sources read, left out and why; only for sources that report it
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from mllmu.config.recipe import DataSection
from mllmu.core import plugins
from mllmu.core.errors import DataError
from mllmu.core.jsonl import dump_lines, read_lines
from mllmu.core.progress import Progress, SilentProgress
from mllmu.core.records import Profile, Question
from mllmu.core.runfolder import write_atomic
from mllmu.data import review
from mllmu.data.images import draw, wanted
from mllmu.data.question_rules import check, check_published
from mllmu.data.review import Faults
from mllmu.data.sources import Source, adapted
from mllmu.data.splits import HOLDOUT, forget_ids
from mllmu.data.writers import Order, Questions, Rejected, Written

# Celebrities look the same in every run, whatever its seed, or a model that knows them could not recognise them.
CELEBRITY_PORTRAIT_SEED = 0
HOLDOUT_PREFIX = "h"
SOURCE_REPORT = "source.json"


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
        """Number of images of a person."""
        count = 0
        while (self.folder / "images" / f"{person}_{count}.png").is_file():
            count += 1
        return count


class Makers(NamedTuple):
    """The sources of the people and of the celebrities."""

    people: Source
    celebrities: Source | None


def makers(section: DataSection) -> Makers:
    """Construct the sources that a recipe names."""
    people = adapted(section.source.build("sources", "data.source"))
    if section.celebrities is None:
        return Makers(people, None)
    return Makers(people, adapted(section.celebrities.build("sources", "data.celebrities")))


def make(section: DataSection, seed: int, folder: Path, progress: Progress) -> dict[str, Any]:
    """Write the data into ``folder`` and return counts.

    Raises:
        DataError: the source contradicts itself, two people share an image, or a question breaks a rule.
    """
    sources = makers(section)
    people, holdout, celebrities = gather(section, seed, sources, progress)
    faults = review.load(section.review, [*people, *holdout, *celebrities])
    people, holdout, celebrities = (review.keep(group, faults) for group in (people, holdout, celebrities))
    everybody = [*people, *holdout, *celebrities]
    forgotten = forget_ids([p.id for p in people], section.splits, seed, sources.people.forget_ids())
    splits = {**forgotten, HOLDOUT: [p.id for p in holdout]}
    written, flaws = ask(section, seed, sources, (people, holdout, celebrities), progress, faults)
    if section.review:
        write_atomic(folder / "review.json", faults.model_dump_json() + "\n")
    write_atomic(folder / "profiles.jsonl", dump_lines(everybody))
    write_atomic(folder / "questions.jsonl", dump_lines(written.questions))
    if written.rejected:
        write_atomic(folder / "rejected.jsonl", dump_lines(written.rejected))
    write_atomic(folder / "splits.json", json.dumps(splits, indent=1) + "\n")
    portraits = section.portraits.build("portraits", "data.portraits")
    again = faults.ids("portrait")
    review.refuse_own_images(again, [p for p in people if sources.people.num_views(p)])
    shots = wanted(portraits, sources.people, people, seed=seed, num_views=portraits.num_views, redrawn=again)
    # holdout people and celebrities are only ever shown as they are, so they need the one portrait
    shots += wanted(portraits, None, holdout, seed=seed, num_views=1, redrawn=again)
    shots += wanted(
        portraits, sources.celebrities, celebrities, seed=CELEBRITY_PORTRAIT_SEED, num_views=1, redrawn=again
    )
    equal = draw(shots, folder / "images", progress)
    portraits.verify([(p.id, folder / "images" / f"{p.id}_0.png") for p in people if not sources.people.num_views(p)])
    _report(sources, flaws, equal, review.counts(faults), folder, progress)
    counts = {"num_people": len(people), "num_questions": len(written.questions), "num_images": len(shots)}
    return {**counts, **({"questions": written.facts} if written.facts else {})}


def gather(
    section: DataSection, seed: int, sources: Makers | None = None, progress: Progress | None = None
) -> tuple[list[Profile], list[Profile], list[Profile]]:
    """The people to teach, the holdout people (seen by no model), and the celebrities."""
    sources = sources or makers(section)
    people = sources.people.generate(seed, progress or SilentProgress())
    celebrities = sources.celebrities.profiles(seed) if sources.celebrities else []
    _check_kind("data.source", people, "fictitious")
    _check_kind("data.celebrities", celebrities, "celebrity")
    holdout = _holdout(section, len(people), seed)
    published = {p.id for p in people if sources.people.published}
    published |= {p.id for p in celebrities if sources.celebrities and sources.celebrities.published}
    _check_distinct([*people, *holdout, *celebrities], published)
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


def _check_distinct(profiles: Sequence[Profile], published: Collection[str]) -> None:
    """Nobody may be on two sides: one id or one name, one person; only published people may share a name."""
    seen: dict[tuple[str, str], str] = {}
    for profile in profiles:
        for what, value in (("id", profile.id), ("name", profile.name.casefold())):
            other = seen.get((what, value))
            as_published = what == "name" and profile.id in published and other in published
            if other is not None and not as_published:
                raise DataError(
                    f"profile {profile.id}: the {what} '{value}' already belongs to profile {other}. "
                    "One person must not be on two sides of a split; rename or remove one of them."
                )
            seen[what, value] = profile.id


def ask(
    section: DataSection,
    seed: int,
    sources: Makers,
    groups: Sequence[Sequence[Profile]],
    progress: Progress,
    faults: Faults | None = None,
) -> tuple[Written, dict[str, dict[str, int]]]:
    """All questions, checked against the rules, and the number of flaws of published ones, by side and flaw.

    Args:
        groups: people, holdout people and celebrities; the last two are only evaluated.
    """
    writer = section.questions.build("questions", "data.questions")
    order = Order(seed, train_wordings=section.train_wordings, train_formats=section.train_formats)
    order = order._replace(banned=faults.banned, unsaid=faults.unsaid) if faults else order
    questions: list[Question] = []
    rejected: list[Rejected] = []
    facts: dict[str, float] = {}
    flaws: dict[str, dict[str, int]] = {}
    makers_of_groups = (sources.people, None, sources.celebrities)
    for side, source, group in zip(("people", "holdout", "celebrities"), makers_of_groups, groups, strict=True):
        wanted_here = order if side == "people" else order._replace(variants=("eval",))
        written, found = _asked(source, writer, group, wanted_here, progress)
        questions += written.questions
        rejected += written.rejected
        facts = {name: facts.get(name, 0) + written.facts.get(name, 0) for name in {**facts, **written.facts}}
        flaws |= {side: found} if found else {}
    if faults:
        questions = review.without(questions, faults)
    return Written(questions, tuple(rejected), facts), flaws


def _asked(
    source: Source | None, writer: Questions, group: Sequence[Profile], order: Order, progress: Progress
) -> tuple[Written, dict[str, int]]:
    """Checked questions about a group: the source's own, and the writer's in the variants of which it has none."""
    own = [q for q in (source and source.questions(group, order.seed)) or () if q.variant in order.variants]
    filled = source.filled if source and own else order.variants
    missing = tuple(v for v in order.variants if v in filled and v not in {q.variant for q in own})
    written = writer.write(group, order._replace(variants=missing), progress) if missing else Written([])
    if not own:
        check(written.questions, group)
        return written, {}
    place = {person.id: number for number, person in enumerate(group)}
    questions = [*own, *written.questions]
    questions.sort(key=lambda q: (place.get(q.profile_id, len(place)), order.variants.index(q.variant)))
    written = replace(written, questions=questions)
    if source and source.published:
        return written, check_published(questions, group)
    check(questions, group)
    return written, {}


def _report(
    sources: Makers,
    flaws: dict[str, Any],
    equal: list[tuple[str, str]],
    reviewed: dict[str, Any],
    folder: Path,
    progress: Progress,
) -> None:
    """Write what the sources tell about themselves, and show each's summary in a line."""
    told = {"people": sources.people.account()}
    if sources.celebrities:
        told["celebrities"] = sources.celebrities.account()
    told["review"] = reviewed
    content: dict[str, Any] = {side: account for side, account in told.items() if account}
    for side, account in content.items():
        if summary := account.get("summary"):
            progress.note(f"{side}: {summary}")
    content |= {"flaws": flaws} if flaws else {}
    content |= {"equal_images": equal} if equal else {}
    if content:
        write_atomic(folder / SOURCE_REPORT, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


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
