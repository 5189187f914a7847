"""Put all samples to a model and keep every response as soon as it is there."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from mllmu.core import ranks
from mllmu.core.jsonl import Journal, dump_lines
from mllmu.core.progress import Progress
from mllmu.core.records import Response, Sample
from mllmu.core.runfolder import RunFolder, write_atomic
from mllmu.models.engine.memory import MOST, starting_size
from mllmu.models.engine.respond import plan_batches, respond
from mllmu.models.engine.vllm_backend import VllmModel
from mllmu.models.loading import Loaded
from mllmu.parallel import team

PARTIAL, OF_FOLLOWER, PARTIALS = "responses.partial.jsonl", "responses.partial.{}.jsonl", "responses.partial*.jsonl"
"""Responses so far: of the only or the leading process, of another one, and of all."""
PLANNED = 64
"""Questions of a batch as long as the free memory is unknown."""


def collect(
    samples: Sequence[Sample],
    load: Callable[[], Loaded | VllmModel],
    *,
    image_folder: Path,
    system_prompt: str,
    batch_size: int | Literal["auto"],
    folder: Path,
    progress: Progress,
    label: str,
) -> list[Response]:
    """Respond to every sample; responses are written batch by batch and read back after an interruption.

    Of several processes each takes a share of the batches, whole ones, so that no response depends on their number;
    each keeps its responses in a file of its own, and the leading one puts them together.

    Args:
        load: loads the model; called only if a response is missing.
        image_folder: the folder the samples' image paths start from.
        system_prompt: system prompt of the model.
        batch_size: questions at once; ``auto`` shares them out in batches of :data:`PLANNED`, and then asks as many at
            once as this process has memory for.
        folder: gets ``responses.jsonl``, in the order of the samples.

    Returns:
        All responses; nothing where this process does not lead.
    """
    known = read_known(folder)
    team.wait_for_all()  # no process may write before all have read
    planned = plan_batches(samples, PLANNED if batch_size == "auto" else batch_size)
    missing = [[sample for sample in batch if sample.id not in known] for batch in planned]
    missing = [batch for batch in missing if batch]
    batches = [missing[index] for index in team.own_share([weight(batch) for batch in missing])]
    progress.start(label, len(known) + sum(map(len, batches)))
    progress.advance(len(known))
    if batches:
        journal = Journal(folder / (PARTIAL if ranks.leads() else OF_FOLLOWER.format(ranks.rank())), Response)
        journal.resume()
        loaded = load()
        how: dict[str, Any] = {"image_folder": image_folder, "system_prompt": system_prompt}
        if batch_size == "auto":  # vLLM finds out itself what fits, and only gets more to choose from
            own = [sample for batch in batches for sample in batch]
            fits = MOST if isinstance(loaded, VllmModel) else starting_size(loaded, own, **how)
            batches = plan_batches(own, fits)
        made = loaded.respond(batches, **how) if isinstance(loaded, VllmModel) else respond(loaded, batches, **how)
        for responses in made:
            journal.append(responses)
            progress.advance(len(responses))
    progress.finish()
    team.wait_for_all()
    return _put_together(samples, folder) if ranks.leads() else []


def _put_together(samples: Sequence[Sample], folder: Path) -> list[Response]:
    """The responses of all processes in one file, in the order of the samples."""
    known = read_known(folder)
    responses = [known[sample.id] for sample in samples]
    write_atomic(folder / RunFolder.RESPONSES_FILE, dump_lines(responses))
    for path in folder.glob(PARTIALS):
        path.unlink()
    return responses


def weight(batch: Sequence[Sample]) -> float:
    """About how long a batch takes, to share batches fairly among processes: what is read and what may be written."""
    return sum(len(sample.prompt) for sample in batch) + len(batch) * max(sample.max_new_tokens for sample in batch)


def read_known(folder: Path) -> dict[str, Response]:
    """Responses of an interrupted evaluation, of all its processes, by sample."""
    found = [response for path in sorted(folder.glob(PARTIALS)) for response in Journal(path, Response).read()]
    return {response.sample_id: response for response in found}
