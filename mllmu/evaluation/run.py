"""Ask a model all samples and keep every reply as soon as it is there."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from mllmu.core import ranks
from mllmu.core.jsonl import dump_lines, parse_lines
from mllmu.core.progress import Progress
from mllmu.core.records import Response, Sample
from mllmu.core.runfolder import explain_os_errors, write_atomic
from mllmu.models.engine.memory import MOST, starting_size
from mllmu.models.engine.respond import plan_batches, respond
from mllmu.models.engine.vllm_backend import VllmModel
from mllmu.models.loading import Loaded
from mllmu.parallel import team

RESPONSES = "responses.jsonl"
PARTIAL, OF_FOLLOWER, PARTIALS = "responses.partial.jsonl", "responses.partial.{}.jsonl", "responses.partial*.jsonl"
"""Replies so far: of the only or the leading process, of another one, and of all."""
PLANNED = 64
"""Questions of a batch where memory has not been looked at."""


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
    """Reply to every sample; replies are written batch by batch and read back after an interruption.

    Of several processes each takes a share of the batches, whole ones, so that no reply depends on their number; each
    keeps its replies in a file of its own, and the leading one puts them together.

    Args:
        load: loads the model; called only if a reply is missing.
        image_folder: the folder the samples' image paths start from.
        system_prompt: system prompt of the model.
        batch_size: questions at once; ``auto`` shares them out in batches of :data:`PLANNED`, and then asks as many at
            once as this process has memory for.
        folder: gets ``responses.jsonl``, in the order of the samples.

    Returns:
        All replies; nothing where this process does not lead.
    """
    known = read_known(folder)
    team.wait_for_all()  # before anybody writes more
    batches = [
        [s for s in batch if s.id not in known]
        for batch in plan_batches(samples, PLANNED if batch_size == "auto" else batch_size)
    ]
    batches = [batch for batch in batches if batch]
    batches = [batches[place] for place in team.own_share([weight(batch) for batch in batches])]
    progress.start(label, len(known) + sum(map(len, batches)))
    progress.advance(len(known))
    if batches:
        partial = folder / (PARTIAL if ranks.leads() else OF_FOLLOWER.format(ranks.rank()))
        write_atomic(partial, dump_lines(read_partial(partial)))
        loaded = load()
        if batch_size == "auto":
            batches = _as_memory_allows(loaded, batches, image_folder, system_prompt)
        if isinstance(loaded, VllmModel):
            answers = loaded.respond(batches, image_folder=image_folder, system_prompt=system_prompt)
        else:
            answers = respond(loaded, batches, image_folder=image_folder, system_prompt=system_prompt)
        for replies in answers:
            append(partial, replies)
            progress.advance(len(replies))
    progress.finish()
    team.wait_for_all()
    if not ranks.leads():
        return []
    known = read_known(folder)
    ordered = [known[sample.id] for sample in samples]
    write_atomic(folder / RESPONSES, dump_lines(ordered))
    for path in folder.glob(PARTIALS):
        path.unlink()
    return ordered


def _as_memory_allows(
    loaded: Loaded | VllmModel, batches: Sequence[Sequence[Sample]], image_folder: Path, system_prompt: str
) -> list[list[Sample]]:
    """The same samples in other batches; vLLM finds out itself what fits, and only gets more to choose from."""
    own = [sample for batch in batches for sample in batch]
    size = (
        MOST
        if isinstance(loaded, VllmModel)
        else starting_size(loaded, own, image_folder=image_folder, system_prompt=system_prompt)
    )
    return plan_batches(own, size)


def weight(batch: Sequence[Sample]) -> float:
    """About how long a batch takes, to share batches fairly among processes: what is read and what may be written."""
    return sum(len(sample.prompt) for sample in batch) + len(batch) * max(sample.max_new_tokens for sample in batch)


def read_known(folder: Path) -> dict[str, Response]:
    """Replies of an interrupted evaluation, of all its processes, by sample."""
    found = [response for path in sorted(folder.glob(PARTIALS)) for response in read_partial(path)]
    return {response.sample_id: response for response in found}


def read_partial(path: Path) -> list[Response]:
    """Replies of an interrupted evaluation; a last line cut short is dropped."""
    if not path.is_file():
        return []
    text = path.read_bytes().decode("utf-8", errors="ignore")
    whole = text[: text.rfind("\n") + 1]
    return list(parse_lines(whole, Response, where=str(path)))


def append(path: Path, responses: Sequence[Response]) -> None:
    """Add lines to a file and force them to disk, so that a killed process loses at most one batch."""
    with explain_os_errors(path), path.open("a", encoding="utf-8") as file:
        file.write(dump_lines(responses))
        file.flush()
        os.fsync(file.fileno())
