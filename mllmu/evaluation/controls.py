"""Controls: the same questions without what tells whom they are about. A score above them is knowledge of a person.

    no_picture      the picture is left out, 'this person' stays
    other_picture   the picture of another person of the run is shown
    other_name      another person's name stands in the question
    options_only    multiple choice without picture and question
    second order    multiple choice with its options in another order: not a control, it counts unstable choices

    knowledge = share right as asked - share right under the best control

What a control gets right comes from what people have in common, from the wording or from the options. All are asked
under the plain protocol, and only the reply counts. Open questions have no options alone: they count as not right
there, so that every control of a modality is compared over the same questions.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from mllmu.core.controlled import CONTROLS, Control, ControlResults, ControlRow, OrderRow
from mllmu.core.process import rng
from mllmu.core.records import Modality, Question, Response, Sample, Split
from mllmu.core.replies import parse_choice
from mllmu.data.dataset import Dataset, image_path
from mllmu.data.tasks import task_of
from mllmu.evaluation.outcome import rights
from mllmu.evaluation.samples import asked_questions
from mllmu.evaluation.stats import paired_difference, units_of

SECOND_ORDER = "second_order"
MARK = "@"
"""Between the id of a question and the control under which it is asked."""


def control_samples(
    samples: Sequence[Sample], data: Dataset, key: str, *, seed: int, needs_image: bool = False, order: bool = True
) -> list[Sample]:
    """The questions of ``samples`` under every control that applies to them.

    Args:
        samples: questions as they are asked under the plain protocol.
        data, key: the people; the others whose picture or name is lent are people not to be forgotten.
        seed: draws who lends a picture or a name, by question.
        needs_image: the model takes no prompt without an image, so the controls without one are left out.
        order: also ask multiple choice in a second order.
    """
    tasks = dict.fromkeys(sample.task for sample in samples)
    questions = {question.id: question for question in asked_questions(data, tasks)}
    found: list[Sample] = []
    for sample in samples:
        question = questions[sample.question_id]
        found += _controls(sample, question, data, key, seed, needs_image=needs_image)
        if order and sample.options:
            second = question.model_copy(update=_turned(question))
            found.append(_as(sample, SECOND_ORDER, second, sample.image))
    return found


def _controls(
    sample: Sample, question: Question, data: Dataset, key: str, seed: int, *, needs_image: bool
) -> Iterator[Sample]:
    other = _other(sample, data, key, seed)
    if sample.modality == "image_text":
        if not needs_image:
            yield _as(sample, "no_picture", question, "")
        if other:
            yield _as(sample, "other_picture", question, image_path(other))
    elif other and data.names[sample.profile_id] in question.text:
        text = question.text.replace(data.names[sample.profile_id], data.names[other])
        yield _as(sample, "other_name", question.model_copy(update={"text": text}), "")
    if sample.options and not needs_image:
        yield _as(sample, "options_only", question.model_copy(update={"text": ""}), "")


def _other(sample: Sample, data: Dataset, key: str, seed: int) -> str:
    """Who lends a question a picture or a name: a retained person, drawn by question; empty if there is none."""
    people = [person for person in data.retained(key) if person != sample.profile_id]
    return min(people, key=lambda person: rng(seed, "control", sample.id, person).random(), default="")


def _as(sample: Sample, control: str, question: Question, image: str) -> Sample:
    """A question in the place of a sample's, as that is rendered; only its reply counts."""
    rendered = task_of(sample.task).prompt(question).strip()
    changes = {"prompt": rendered, "image": image, "options": question.options, "target": question.answer}
    return sample.model_copy(
        update={**changes, "id": f"{sample.id}{MARK}{control}", "candidates": {}, "measured": (), "examples": ()}
    )


def _turned(question: Question) -> dict[str, object]:
    """Options and right letter with the values moved on by half of the letters, so balanced letters stay balanced."""
    letters = sorted(question.options)
    by = max(1, len(letters) // 2)
    moved = {letter: letters[(index + by) % len(letters)] for index, letter in enumerate(letters)}
    options = {moved[letter]: question.options[letter] for letter in letters}
    return {"options": dict(sorted(options.items())), "answer": moved[question.answer]}


def control_results(
    model: str, samples: Sequence[Sample], controls: Sequence[Sample], responses: Iterable[Response]
) -> ControlResults:
    """Compare a model's replies as asked with those under the controls, by set and modality.

    Args:
        model: name of the model in the rows.
        samples: the questions as asked; ``controls``: those of :func:`control_samples`.
        responses: to all of them and maybe to others; of two to the same question the later one counts.
    """
    replies = {response.sample_id: response for response in responses}
    right = rights([*samples, *controls], replies.values())
    asked = {sample.id: sample for sample in samples}
    by_place: dict[tuple[Split, Modality, str], dict[str, Sample]] = {}
    for sample in controls:
        original, _, control = sample.id.rpartition(MARK)
        by_place.setdefault((asked[original].split, asked[original].modality, control), {})[original] = sample
    rows, orders = [], []
    for (split, modality, control), changed in by_place.items():
        if control == SECOND_ORDER:
            orders.append(
                _order_row(model, split, modality, [(asked[of], changed[of]) for of in changed], right, replies)
            )
            continue
        place = [s for s in samples if (s.split, s.modality) == (split, modality)]
        pairs = [(s, changed.get(s.id)) for s in place if s.id in changed or control == "options_only"]
        rows.append(_row(model, split, modality, _name(control), pairs, right))
    return ControlResults(rows=tuple(rows), orders=tuple(orders))


def _name(control: str) -> Control:
    return next(each for each in CONTROLS if each == control)


def _row(
    model: str,
    split: Split,
    modality: Modality,
    control: Control,
    pairs: Sequence[tuple[Sample, Sample | None]],
    right: Mapping[str, float],
) -> ControlRow:
    asked = [sample for sample, _ in pairs]
    plain = [right[sample.id] for sample in asked]
    changed = [right[sample.id] if sample else 0.0 for _, sample in pairs]
    units, unit = units_of(asked)
    difference = paired_difference(plain, changed, [units[sample.id] for sample in asked])
    return ControlRow(
        model=model,
        split=split,
        modality=modality,
        control=control,
        asked=sum(plain) / len(plain),
        score=sum(changed) / len(changed),
        difference=difference.value,
        low=difference.low,
        high=difference.high,
        p_value=difference.p_value,
        num=difference.num,
        num_units=difference.num_clusters,
        unit=unit,
    )


def _order_row(
    model: str,
    split: Split,
    modality: Modality,
    pairs: Sequence[tuple[Sample, Sample]],
    right: Mapping[str, float],
    replies: Mapping[str, Response],
) -> OrderRow:
    chosen = [tuple(_chosen(sample, replies[sample.id]) for sample in pair) for pair in pairs]
    read = [pair for pair in chosen if None not in pair]
    plain, turned = ([right[sample.id] for sample in side] for side in zip(*pairs, strict=True))
    return OrderRow(
        model=model,
        split=split,
        modality=modality,
        unstable=sum(first != second for first, second in read) / len(read) if read else None,
        asked=sum(plain) / len(plain),
        right=sum(turned) / len(turned),
        num=len(pairs),
        num_unread=len(pairs) - len(read),
    )


def _chosen(sample: Sample, response: Response) -> str | None:
    """The value that a reply chooses by its letter; None if it names no option."""
    letter = parse_choice(response.text, sample.options).letter
    return None if letter is None else sample.options[letter]
