"""Which people's questions are shown as examples before a question (few-shot), and whose are then not asked."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from mllmu.config.protocol import Shots
from mllmu.core.errors import RecipeError, did_you_mean
from mllmu.core.process import rng
from mllmu.core.records import Modality, Question, Split, TaskName
from mllmu.data.dataset import Dataset
from mllmu.data.tasks import task_of

NO_EXAMPLES: tuple[Split, ...] = ("celebrity", "holdout")
"""Sets whose people are never examples: celebrities are not in the published list that examples are looked up in."""

WantedPeople = int | Sequence[str] | Mapping[Split, Sequence[str]]
"""How many example people, or who, in all sets or by set."""
QuestionPlace = tuple[str, TaskName, Modality, int]
"""Where a question stands in the published lists of its person; of a multiple choice, each modality has its own."""


class Examples:
    """The example people of one forget ratio, drawn or looked up by set and task.

    Examples of the pool are the same in all sets; those drawn from the set under evaluation are its own, and put
    forgotten answers into the context. A set with fewer people than examples keeps one to ask; it then has fewer
    examples.

    Args:
        shots: how many, or who, and where from.
        dataset: the data of the run.
        questions: of everybody, which may become examples.
        key: forget ratio in percent.
        members: who is asked in each set.
        seed: draws the people, by their ids, never by their order.
        published: how many the published evaluator draws for the family of the model, where not as the task says.

    Raises:
        RecipeError: a listed person is not in the data, or is to be forgotten and listed for the pool.
    """

    def __init__(
        self,
        shots: Shots,
        dataset: Dataset,
        questions: Sequence[Question],
        key: str,
        members: Mapping[Split, Sequence[str]],
        *,
        seed: int,
        published: Mapping[TaskName, int],
    ) -> None:
        self.shots = shots
        self.seed = seed
        self.people: dict[tuple[Split, TaskName], Sequence[str]] = {}
        wanted = wanted_people(shots, published)
        _check_listed(shots, wanted, dataset, key)
        _check_sets(wanted, members)
        for split, asked in members.items():
            for task, value in wanted.items():
                if shots.drawn_from == "pool":
                    self.people[split, task] = _of_pool(value, dataset.retained(key), members["retain"], seed)
                elif split not in NO_EXAMPLES:
                    self.people[split, task] = _of_set(value, asked, dataset.people, seed, split, task)
        self._places = _places(questions)
        self._asked: dict[tuple[str, TaskName, Modality], list[Question]] = {}
        for question in questions:
            if question.variant == "eval":
                self._asked.setdefault((question.profile_id, question.task, question.modality), []).append(question)

    def of(self, split: Split, question: Question) -> list[Question]:
        """The examples of a question, in the order in which they are shown."""
        found: list[Question] = []
        for person in self.people.get((split, question.task), ()):
            known = self._asked.get((person, question.task, question.modality), [])
            if self.shots.questions == "one" and known:
                draw = rng(self.seed, "example", person, question.task, question.modality)
                known = [known[draw.randrange(len(known))]]
            found += known
        return found

    def skips(self, split: Split, question: Question) -> bool:
        """Whether a question is not asked, because its person is an example of its task.

        Of examples from the set under evaluation, the published evaluator leaves out the questions whose places in
        the lists are those of example questions: all but those that only the test set has.
        """
        if self.shots.drawn_from == "pool":
            return split == "retain" and any(question.profile_id in people for people in self.people.values())
        if question.profile_id not in self.people.get((split, question.task), ()):
            return False
        person, task, modality, _ = place = self._places[question.id]
        return any(self._places[example.id] == place for example in self._asked.get((person, task, modality), ()))


def wanted_people(shots: Shots, published: Mapping[TaskName, int]) -> dict[TaskName, WantedPeople]:
    """How many example people, or who, by task; ``published``: the family's numbers, where not as the task says."""
    return {
        task: published.get(task, task_of(task).published_people or 0) if value == "published" else value
        for task, value in shots.by_task.items()
    }


def _places(questions: Iterable[Question]) -> dict[str, QuestionPlace]:
    """The place of every question, by its id."""
    counts: Counter[tuple[str, ...]] = Counter()
    places: dict[str, QuestionPlace] = {}
    for question in questions:
        group = question.modality if question.task == "classification" else ""
        number = counts[question.profile_id, question.variant, question.task, group]
        counts[question.profile_id, question.variant, question.task, group] += 1
        places[question.id] = question.profile_id, question.task, question.modality, number
    return places


def _of_pool(value: WantedPeople, retained: Sequence[str], asked: Sequence[str], seed: int) -> Sequence[str]:
    """Retained people, first those who are not asked anyway."""
    if not isinstance(value, int):
        return list(value)
    busy = set(asked)
    return sorted(retained, key=lambda person: (person in busy, rng(seed, "pool", person).random()))[:value]


def _of_set(
    value: WantedPeople, asked: Sequence[str], order: Sequence[str], seed: int, split: Split, task: TaskName
) -> Sequence[str]:
    """People of the set under evaluation, in the order of the data."""
    if isinstance(value, int):
        drawn = sorted(asked, key=lambda person: rng(seed, "shot", split, task, person).random())
        chosen = set(drawn[: max(0, min(value, len(asked) - 1))])
    else:
        chosen = set(value.get(split, ()) if isinstance(value, Mapping) else value) & set(asked)
    return [person for person in order if person in chosen]


def _check_sets(wanted: Mapping[TaskName, WantedPeople], members: Mapping[Split, Sequence[str]]) -> None:
    """Who is listed for a set must be asked in it, or its questions would have no examples without a word."""
    for task, value in wanted.items():
        for split, people in value.items() if isinstance(value, Mapping) else ():
            known = () if split in NO_EXAMPLES else members.get(split, ())
            for person in (person for person in people if person not in known):
                where = [each for each, asked in members.items() if person in asked and each not in NO_EXAMPLES]
                raise RecipeError(
                    f"evaluate.protocol.shots.{task}.{split}: '{person}' is not among the {len(known)} people of "
                    f"this set{', but in ' + ', '.join(where) if where else ''}.{did_you_mean(person, known)} Expected "
                    "people who are asked in it."
                )


def _check_listed(shots: Shots, wanted: Mapping[TaskName, WantedPeople], dataset: Dataset, key: str) -> None:
    is_pool = shots.drawn_from == "pool"
    known = dataset.retained(key) if is_pool else [*dataset.people, *dataset.celebrities]
    where = f"people retained at {key} %" if is_pool else "people of the data"
    listed = [(task, person) for task, value in wanted.items() if isinstance(value, Sequence) for person in value]
    for task, person in listed:
        if person not in known:
            raise RecipeError(
                f"evaluate.protocol.shots.{task}: '{person}' is not among the {len(known)} {where}."
                f"{did_you_mean(person, known)} Expected ids of data/profiles.jsonl."
            )
