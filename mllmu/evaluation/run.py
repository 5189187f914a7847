"""Ask a model all samples and keep every reply as soon as it is there."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from mllmu.models.loading import Loaded
from mllmu.models.respond import plan_batches, respond
from mllmu.progress import Progress
from mllmu.records import Response, Sample, dump_lines, parse_lines
from mllmu.runstore import explain_os_errors, write_atomic

RESPONSES = "responses.jsonl"
PARTIAL = "responses.partial.jsonl"


def collect(
    samples: Sequence[Sample],
    load: Callable[[], Loaded],
    *,
    images: Path,
    guard: str,
    batch_size: int,
    folder: Path,
    progress: Progress,
    label: str,
) -> list[Response]:
    """Reply to every sample; replies are written batch by batch and read back after an interruption.

    Args:
        load: loads the model; called only if a reply is missing.
        images: the folder the samples' picture paths start from.
        guard: system prompt of the model.
        folder: gets ``responses.jsonl``, in the order of the samples.
    """
    partial = folder / PARTIAL
    known = {response.sample_id: response for response in read_partial(partial)}
    batches = [[s for s in batch if s.id not in known] for batch in plan_batches(samples, batch_size)]
    batches = [batch for batch in batches if batch]
    progress.start(label, len(samples))
    progress.advance(len(known))
    if batches:
        write_atomic(partial, dump_lines(known.values()))
        for replies in respond(load(), batches, images=images, guard=guard):
            append(partial, replies)
            known |= {response.sample_id: response for response in replies}
            progress.advance(len(replies))
    progress.finish()
    ordered = [known[sample.id] for sample in samples]
    write_atomic(folder / RESPONSES, dump_lines(ordered))
    partial.unlink(missing_ok=True)
    return ordered


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
