"""The batches of an evaluation in low precision, where replies depend on what is asked together.

Rounding in bfloat16 differs with the shape of a batch, and two likely tokens may change places. So the batches follow
from the samples alone, a batch is asked whole after an interruption, and free memory may only cut one into parts, which
is recorded with every response of it (``asked_with``).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mllmu.core import process
from mllmu.core.records import Response, Sample
from mllmu.core.runfolder import Journal, read_json, seal, write_json
from mllmu.models.engine.memory import MOST, starting_size
from mllmu.models.engine.respond import plan_batches
from mllmu.models.engine.vllm_backend import VllmModel
from mllmu.models.loading import Loaded
from mllmu.parallel import team

AT_ONCE = "responses.partial.{}.json"
"""Where a process keeps how many questions it asks at once."""
PLANNED = 512
"""Questions of a batch where the recipe says ``auto``: fewer leave a large GPU idle, and a small one cuts them."""


def size(batch_size: int | Literal["auto"]) -> int:
    """Questions of a planned batch."""
    return PLANNED if batch_size == "auto" else batch_size


def kept(known: Mapping[str, Response], planned: Iterable[Sequence[Sample]]) -> dict[str, Response]:
    """The known responses of batches that are complete and were planned as now; all others are asked again."""
    whole = (batch for batch in planned if all(_planned(known.get(s.id)) == len(batch) for s in batch))
    return {sample.id: known[sample.id] for batch in whole for sample in batch}


def resume(
    folder: Path, files: str, known: Mapping[str, Response], planned: Sequence[Sequence[Sample]] | None
) -> dict[str, Response]:
    """The responses of an interrupted attempt that can be kept; the others are removed from its files.

    Args:
        files: pattern of the names of these files.
        planned: the batches; None in float32, where all are kept but those of lower precision.
    """
    exact = {name: response for name, response in known.items() if not response.planned_with}
    valid = exact if planned is None else kept(known, planned)
    if len(valid) < len(known):
        if process.leads():
            first, *others = sorted(folder.glob(files))
            batches = ([valid[s.id] for s in batch if s.id in valid] for batch in planned or ())
            Journal(first, Response).write([batch for batch in batches if batch] or [[*valid.values()]])
            for path in others:
                path.unlink()
        if process.count() > 1:
            team.wait_for_all()
    return valid


def _planned(response: Response | None) -> int:
    return response.planned_with if response else 0


def cut(batches: Iterable[Sequence[Sample]], most: int) -> list[list[Sample]]:
    """Batches of more than ``most`` samples halved until they fit.

    >>> [len(batch) for batch in cut([[None] * 5, [None] * 2], 3)]
    [3, 2, 2]
    """
    found: list[list[Sample]] = []
    for batch in batches:
        half = (len(batch) + 1) // 2
        found += [list(batch)] if len(batch) <= most else cut([batch[:half], batch[half:]], max(1, most))
    return found


def weight(batch: Sequence[Sample]) -> float:
    """About how long a batch takes, to share batches fairly among processes: what is read and what may be written."""
    return sum(len(sample.prompt) for sample in batch) + len(batch) * max(sample.max_new_tokens for sample in batch)


def at_once(folder: Path, loaded: Loaded | VllmModel, samples: Sequence[Sample], how: Mapping[str, Any]) -> int:
    """How many questions a process asks at once with ``batch_size: auto``: as many as there is memory for.

    The number is kept, as it decides the batches: after an interruption it is the same. vLLM finds out itself what
    fits, and only gets more to choose from.

    Args:
        how: arguments of :func:`mllmu.models.engine.memory.starting_size`.
    """
    record = folder / AT_ONCE.format(process.rank())
    fits = read_json(record).get("at_once")
    if not fits:
        fits = MOST if isinstance(loaded, VllmModel) else starting_size(loaded, samples, **how)
        write_json(record, seal({"at_once": fits}))
    return int(fits)


def regroup(planned: Iterable[Sequence[Sample]], known: Mapping[str, Response], most: int) -> list[list[Sample]]:
    """Batches of ``most`` samples from all planned ones, less those that are known as a whole."""
    batches = plan_batches([sample for batch in planned for sample in batch], most)
    return [batch for batch in batches if not all(sample.id in known for sample in batch)]


def marked(asked: Iterable[Sequence[Response]], planned: Iterable[Sequence[Sample]]) -> Iterator[list[Response]]:
    """The responses of every batch as it was asked, each with the sizes of that batch and of the planned one."""
    sizes = {sample.id: len(batch) for batch in planned for sample in batch}
    for batch in asked:
        yield [
            response.model_copy(update={"asked_with": len(batch), "planned_with": sizes[response.sample_id]})
            for response in batch
        ]


def facts(responses: Sequence[Response], batch_size: int) -> dict[str, Any]:
    """What is recorded of a model's responses: the planned batch size, and how many were in a batch that was cut."""
    cut_up = sum(response.asked_with < response.planned_with for response in responses)
    return {"batch_size": batch_size, "responses": len(responses), "asked_in_parts": cut_up}


def warnings(records: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """What a reader must know of some models' records: unequal plans, and batches that were cut; mostly nothing."""
    ways = {
        model: f"{r['precision']} {r.get('batch_size', '')}".strip() for model, r in records.items() if "precision" in r
    }
    found = []
    if len(set(ways.values())) > 1:
        found.append(
            "Models were asked in different precision or batches, on which their responses depend: "
            f"{'; '.join(f'{model} {way}' for model, way in ways.items())}."
        )
    parts = [
        f"{model} {r['asked_in_parts']} of {r['responses']}" for model, r in records.items() if r.get("asked_in_parts")
    ]
    if parts:
        found.append(
            "Some batches did not fit into memory and were asked in parts, on which responses in bfloat16 depend: "
            f"{'; '.join(parts)} responses."
        )
    return tuple(found)
