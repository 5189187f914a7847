"""The data stage: makes of a source of people the files that the later stages read.

Besides the files of :mod:`mllmu.data.dataset` it writes

data/rejected.jsonl    questions that a writer's own checks threw out, if any, to be looked at
data/source.json       what the sources read, left out and why; only for sources that report it
data/review.json       the marks of ``data.review`` that the data were made with
"""

import hashlib
import io
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from PIL.Image import Image

from mllmu.config.recipe import DataSection
from mllmu.core.errors import DataError
from mllmu.core.process import Progress, SilentProgress, derive
from mllmu.core.records import QUESTION_FORMAT, Profile
from mllmu.core.runfolder import dump_lines, write_atomic
from mllmu.data import review
from mllmu.data.dataset import CALIBRATION, HOLDOUT, PROFILES, QUESTIONS, SPLITS, image_path
from mllmu.data.holdout import holdout_people
from mllmu.data.portraits import Portraits
from mllmu.data.questions import QuestionOrder, QuestionWriter, Written, check, check_published
from mllmu.data.questions._letters import balance_letters
from mllmu.data.sources import Source
from mllmu.data.splits import forget_ids
from mllmu.data.tasks import derived

# Celebrities look the same in every run, whatever its seed, or a model that knows them could not recognise them.
CELEBRITY_PORTRAIT_SEED = 0
SOURCE_REPORT = "source.json"


@dataclass(frozen=True)
class PeopleGroup:
    """People who are treated alike.

    Attributes:
        name: ``people`` (the target is fine-tuned on them), ``holdout`` (no model is trained on them; those for
            evaluation first, then those for methods) or ``celebrities``.
        source: where questions and images of their own come from, if it has any; None: all of them are made.
    """

    name: str
    profiles: list[Profile]
    source: Source | None = None

    def order(self, order: QuestionOrder) -> QuestionOrder:
        """What is asked about the group: holdout people and celebrities are only evaluated."""
        return order if self.name == "people" else order._replace(variants=("eval",))


def sources(section: DataSection) -> tuple[Source, Source | None]:
    """The sources of the people and of the celebrities that a recipe names."""
    celebrities = section.celebrities.build("sources", "data.celebrities") if section.celebrities else None
    return section.source.build("sources", "data.source"), celebrities


def make(section: DataSection, seed: int, folder: Path, progress: Progress) -> dict[str, Any]:
    """Write the data into ``folder`` and return counts.

    Raises:
        DataError: the source contradicts itself, two people share an image, or a question breaks a rule.
    """
    groups = gather(section, seed, progress)
    faults = review.load(section.review, all_people(groups))
    left_out = [person.id for person in groups[0].profiles if person.id in faults.ids("person")]
    groups = [replace(group, profiles=review.keep(group.profiles, faults)) for group in groups]
    people, holdout, _ = groups
    prescribed = people.source.forget_ids() if people.source else {}
    splits = forget_ids(people.profiles, section.splits, seed, prescribed, left_out)
    untrained = [p.id for p in holdout.profiles]
    splits |= {HOLDOUT: untrained[: section.splits.holdout], CALIBRATION: untrained[section.splits.holdout :]}
    order = QuestionOrder.of(section, seed)._replace(marked=faults.marked)
    written, flaws = ask(section.questions.build("questions", "data.questions"), order, groups, progress)
    questions = review.without(written.questions, faults)
    if section.review:
        write_atomic(folder / review.KEPT, faults.model_dump_json() + "\n")
    write_atomic(folder / PROFILES, dump_lines(all_people(groups)))
    write_atomic(folder / QUESTIONS, dump_lines(questions))
    if written.rejected:
        write_atomic(folder / "rejected.jsonl", dump_lines(written.rejected))
    write_atomic(folder / SPLITS, json.dumps(splits, indent=1) + "\n")
    account = _report(groups, {"review": review.counts(faults), "flaws": flaws}, folder, progress)
    for source in (people.source, holdout.source):
        if source:
            source.inspect(folder)
    portraits: Portraits = section.portraits.build("portraits", "data.portraits")
    own = [p.id for p in people.profiles if people.source and people.source.num_views(p)]
    review.refuse_own_images(faults, own)
    shots = [shot for group in groups for shot in _shots(group, portraits, seed, faults.ids("portrait"))]
    equal = draw(shots, folder, progress)
    portraits.verify([(p.id, folder / image_path(p.id)) for p in people.profiles if p.id not in own])
    if equal:
        _write_report(account | {"equal_images": equal}, folder)
    counts = {"num_people": len(people.profiles), "num_questions": len(questions), "num_images": len(shots)}
    return {**counts, **({"questions": written.facts} if written.facts else {})}


def all_people(groups: Sequence[PeopleGroup]) -> list[Profile]:
    """The people of all groups."""
    return [person for group in groups for person in group.profiles]


def gather(
    section: DataSection, seed: int, progress: Progress | None = None, instead: Source | None = None
) -> list[PeopleGroup]:
    """The three groups of a data set: people, holdout people and celebrities.

    Args:
        instead: gives the people in place of the recipe's source.

    Raises:
        DataError: a person is of another kind than the group, has no name, or is in the data twice.
    """
    named, celebrities = sources(section)
    source = instead or named
    people = PeopleGroup("people", source.generate(seed, progress or SilentProgress()), source)
    known = PeopleGroup("celebrities", celebrities.profiles(seed) if celebrities else [], celebrities)
    _check_kind("data.source", people, "fictitious")
    _check_kind("data.celebrities", known, "celebrity")
    holdout = PeopleGroup("holdout", *holdout_people(section, people.profiles, seed))
    _check_kind("data.holdout_source", holdout, "fictitious")
    groups = [people, holdout, known]
    _check_distinct(groups)
    return groups


def _check_kind(where: str, group: PeopleGroup, kind: str) -> None:
    """Celebrities are never fine-tuned on and never forgotten, so neither source may give people of the other kind."""
    for profile in group.profiles:
        if profile.kind != kind:
            raise DataError(f"{where}: profile {profile.id} is of kind '{profile.kind}', expected '{kind}' only.")
        if not profile.attributes.get("name"):
            raise DataError(f"{where}: profile {profile.id} has no name. Every person needs the attribute 'name'.")


def _check_distinct(groups: Sequence[PeopleGroup]) -> None:
    """One id or one name, one person; only published people may share a name."""
    published = {p.id for group in groups if group.source and group.source.published for p in group.profiles}
    seen: dict[tuple[str, str], str] = {}
    for profile in all_people(groups):
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
    writer: QuestionWriter, order: QuestionOrder, groups: Sequence[PeopleGroup], progress: Progress
) -> tuple[Written, dict[str, dict[str, int]]]:
    """All questions, checked against the rules, and the number of flaws of published ones, by group and flaw."""
    total = Written([])
    flaws: dict[str, dict[str, int]] = {}
    for group in groups:
        written, found = _ask_about(group, writer, group.order(order), progress)
        total += written
        flaws |= {group.name: found} if found else {}
    trained = [question for question in total.questions if question.variant == "train"]
    for task in order.train_formats:
        total.questions.extend(derived(task, trained) if task != QUESTION_FORMAT else ())
    return total, flaws


def _ask_about(
    group: PeopleGroup, writer: QuestionWriter, order: QuestionOrder, progress: Progress
) -> tuple[Written, dict[str, int]]:
    """Checked questions about a group: the source's own, and the writer's in the variants of which it has none."""
    source, people = group.source, group.profiles
    own = [q for q in (source and source.questions(people, order.seed)) or () if q.variant in order.variants]
    filled = source.filled if source and own else order.variants
    missing = tuple(v for v in order.variants if v in filled and v not in {q.variant for q in own})
    written = writer.write(people, order._replace(variants=missing), progress) if missing else Written([])
    written = replace(written, questions=balance_letters(written.questions, order.seed))
    if own:
        position = {person.id: number for number, person in enumerate(people)}
        questions = [*own, *written.questions]
        questions.sort(key=lambda q: (position.get(q.profile_id, len(people)), order.variants.index(q.variant)))
        written = replace(written, questions=questions)
        if source and source.published:
            return written, check_published(questions, people)
    check(written.questions, people)
    return written, {}


class PlannedImage(NamedTuple):
    """An image to be made: its path in the data folder, how it is made, and whether it is a published one."""

    path: str
    render: Callable[[], Image]
    published: bool


def _shots(group: PeopleGroup, portraits: Portraits, seed: int, redrawn: Collection[str]) -> Iterator[PlannedImage]:
    """The images of a group: all that the source has of a person, or drawn portraits if it has none.

    Holdout people and celebrities are only ever shown as they are, so they need the one portrait.
    """
    seed = CELEBRITY_PORTRAIT_SEED if group.name == "celebrities" else seed
    drawn = portraits.num_views if group.name == "people" else 1
    for person in group.profiles:
        if group.source and (own := group.source.num_views(person)):
            renders = [partial(group.source.image, person, view) for view in range(own)]
        else:
            own_seed = derive(seed, "review", person.id) if person.id in redrawn else seed
            own, renders = 0, [partial(portraits.render, person, view, own_seed) for view in range(drawn)]
        published = bool(own and group.source and group.source.published)
        yield from (PlannedImage(image_path(person.id, view), render, published) for view, render in enumerate(renders))


def draw(shots: Sequence[PlannedImage], folder: Path, progress: Progress) -> list[tuple[str, str]]:
    """Draw all images; two with the same pixels are an error, or returned by name if they were published so."""
    hashes: dict[str, str] = {}
    equal: list[tuple[str, str]] = []
    progress.start("portraits", len(shots))
    for shot in shots:
        path = folder / shot.path
        # an interrupted run of the same settings left it (the run store sees to that), whole, so it is not paid twice
        png = path.read_bytes() if path.is_file() else _png(shot.render())
        other = hashes.setdefault(hashlib.sha256(png).hexdigest(), path.name)
        if other != path.name and not shot.published:
            raise DataError(
                f"{path.name}: the same pixels as {other}. An image must stand for one person and one view; "
                "replace one of the two."
            )
        equal += [(other, path.name)] if other != path.name else []
        write_atomic(path, png)
        progress.advance()
    progress.finish()
    return equal


def _png(image: Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _report(
    groups: Sequence[PeopleGroup], found: Mapping[str, Any], folder: Path, progress: Progress
) -> dict[str, Any]:
    """Write what the sources and the checks report, and show each summary in a line."""
    accounts = {group.name: group.source.account() for group in groups if group.source}
    content = {name: account for name, account in {**accounts, **found}.items() if account}
    for name, account in content.items():
        if isinstance(account, dict) and "summary" in account:
            progress.note(f"{name}: {account['summary']}")
    if content:
        _write_report(content, folder)
    return content


def _write_report(content: Mapping[str, Any], folder: Path) -> None:
    write_atomic(folder / SOURCE_REPORT, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
