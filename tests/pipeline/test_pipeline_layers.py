"""Looking into the layers of a finished mini run."""

from __future__ import annotations

import shutil
from pathlib import Path

import helpers_families
import mini_run
import pytest
import torch
from helpers_models import load_ref, turns_of

from mllmu.config import load as recipes
from mllmu.core.process import SilentProgress
from mllmu.core.runfolder import RunFolder
from mllmu.evaluation.inside import hidden_states, read_out, replaced
from mllmu.models.engine.forward import run_forward
from mllmu.models.layers import decoder_layers
from mllmu.studies.layers.study import LayersResult, measure_layers

FAMILIES = ("llava", "idefics2", "qwen2_5_vl", "gemma3")


@pytest.fixture(scope="module")
def result(base: Path, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> LayersResult:
    root = tmp_path_factory.mktemp("layers") / "run"
    shutil.copytree(finished, root)
    page = measure_layers(recipes.parse(mini_run.settings(base)), root, gate=False, progress=SilentProgress())
    assert page == root / "layers" / "index.html" and page.is_file()
    return LayersResult.model_validate_json((root / RunFolder.LAYERS_FILE).read_text(encoding="utf-8"))


def test_every_model_has_every_layer_in_both_modalities(result: LayersResult) -> None:
    places = {(row.model, row.modality, row.layer) for row in result.layers}
    assert len(places) == len(result.layers) == len(mini_run.MODELS) * 2 * 2
    assert {row.model for row in result.models} == set(mini_run.MODELS)


def test_the_target_is_like_itself_and_has_erased_nothing(result: LayersResult) -> None:
    rows = [row for row in result.layers if row.model == "target"]
    assert all(row.similarity is None or row.similarity == pytest.approx(1.0) for row in rows)
    assert all(row.erased in (None, 0.0) for row in rows)
    gold = [row for row in result.layers if row.model in ("retain_model", "retrain")]
    assert all(row.erased in (None, 1.0) for row in gold), "the yardstick, and the same model under another name"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_layer_read_out_is_what_the_model_says(family: str, tmp_path: Path) -> None:
    base = helpers_families.build(family, tmp_path)
    loaded = load_ref(base)
    batch = loaded.encoder.batch(turns_of(base))
    states = hidden_states(loaded.model, batch)
    assert len(states) == len(decoder_layers(loaded.model))
    with torch.no_grad():
        plain = run_forward(loaded.model, batch)
        expected = torch.log_softmax(plain.logits_NV, -1)
        torch.testing.assert_close(read_out(loaded.model, states[-1]), expected, rtol=1e-4, atol=1e-4)
        # its own state back in its place changes nothing, another one does
        with replaced(loaded.model, 0, batch, states[0]):
            same = run_forward(loaded.model, batch).logits_NV
        with replaced(loaded.model, 0, batch, states[0].flip(0)):
            other = run_forward(loaded.model, batch).logits_NV
    torch.testing.assert_close(same, plain.logits_NV, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(other, plain.logits_NV, rtol=1e-3, atol=1e-3)
