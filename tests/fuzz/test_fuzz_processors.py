"""Damaged tokenizers, chat templates and processors: each is refused, found by the doctor's checks, or met soundly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import mutators
import pytest
from helpers_families import build
from helpers_models import answers, load_ref, sample, turns_of
from rounds import Fuzz

from mllmu.core.errors import ModelError
from mllmu.preflight.doctor import checks, prompts

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # pixels that overflow are a fault of the checks
KINDS = ("llava", "qwen2_5_vl")
LENGTH = 4
"""Tokens of a reply."""


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a random model by its family; do not write into it."""
    folder = tmp_path_factory.mktemp("bases")
    return {kind: build(kind, folder / kind) for kind in KINDS}.__getitem__


def meet(model: Path, fuzz: Fuzz) -> None:
    """Load a model, make the checks that a run makes first, and ask it in both ways.

    Raises:
        ModelError: it cannot be loaded, or a check finds a fault.
    """
    loaded, turns = load_ref(model), turns_of(model)
    encoded, refused = prompts.encoded(loaded, turns, [], model)
    images = {turn.image: turn for turn in turns if turn.image}
    results = [prompts.prompts_taken(encoded, refused), *prompts.of_decoding(str(model), None)]
    if not refused:
        results += prompts.of_template(loaded)
        results += [prompts.tokens_known(loaded, encoded), prompts.prompts_well_formed(loaded, encoded)]
        results += [prompts.pixels_scaled(loaded, images), checks.image_tokens(loaded, images)]
        results.append(checks.fits_context(list(checks.turn_lengths(loaded, turns)), loaded.encoder.context))
    if faults := [f"{each.check}: {each.text}" for each in results if each.level == "FAULT"]:
        raise ModelError("; ".join(faults))
    masks = [checks.label_mask(loaded, turn) for turn in turns]
    labels = checks.only_reply_trained("x", masks, loaded), checks.end_trained("x", masks, loaded)
    if faults := [each.text for each in labels if each.level == "FAULT"]:
        raise ModelError("; ".join(faults))
    asked = [sample(number, prompt=turn.prompt, max_new_tokens=LENGTH) for number, turn in enumerate(turns)]
    questions = [replace(turn, reply="") for turn in turns]
    shared, plain = (answers(loaded, asked, questions, share=share)[0] for share in (True, False))
    if shared != plain:
        fuzz.silent("two ways of decoding give other replies", model)


def damaged(file: Path, rng: Random) -> object:
    """Damage one file in its text, its bytes or its values; returns what stands in it now."""
    whole = file.read_text(encoding="utf-8")
    how = rng.randrange(4) if file.suffix == ".json" else 0
    if how == 0:
        made = mutators.text(rng, whole).encode("utf-8", errors="surrogatepass")
    elif how == 1:
        made = mutators.raw(rng, file.read_bytes())
    else:
        made = json.dumps(mutators.tree(rng, json.loads(whole))).encode("utf-8", errors="surrogatepass")
    file.write_bytes(made)
    return f"{file.parent.name}/{file.name}: {made[:200]!r}"


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "processor_config.json",
             "generation_config.json"],
)  # fmt: skip
def test_damaged_files_of_a_processor(name: str, fuzz: Fuzz, bases: Callable[[str], Path], tmp_path: Path) -> None:
    for rng in fuzz.rounds(share=0.5):
        kind = KINDS[1] if name == "chat_template.jinja" else rng.choice(KINDS)
        model = tmp_path / kind
        shutil.rmtree(model, ignore_errors=True)
        shutil.copytree(bases(kind), model)
        shown = damaged(model / name, rng)
        with fuzz.attempt(shown):
            meet(model, fuzz)


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_file_of_a_processor(kind: str, fuzz: Fuzz, bases: Callable[[str], Path], tmp_path: Path) -> None:
    for file in sorted(bases(kind).iterdir()):
        if file.suffix in {".json", ".jinja"}:
            model = tmp_path / f"{kind}_without_{file.name}"
            shutil.copytree(bases(kind), model)
            (model / file.name).unlink()
            with fuzz.attempt(model.name):
                meet(model, fuzz)
