"""A request on a whole model, not on an adapter: what a purge leaves, and the deployed model as one folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from mini_request import Place, copy_of
from transformers import AutoModelForImageTextToText
from typer.testing import CliRunner

from mllmu.cli.app import app
from mllmu.config import load as recipes
from mllmu.models.loading import load
from mllmu.requests import back, certificate
from mllmu.requests.ledger import Ledger
from mllmu.requests.state import current

pytest.importorskip("cryptography", reason="needs the extra 'sign'")
pytestmark = pytest.mark.usefixtures("quickly")
REMAINS = "The base was not removed: whoever has it, or takes the adapter away from the model, has the facts back."


@pytest.fixture(scope="module")
def whole(base: Path, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A finished request on a folder of weights that the user has; do not write into it."""
    folder = tmp_path_factory.mktemp("whole")
    shutil.copytree(base, folder / "model")
    place = Place(folder, base, finished)
    place.forget(model=str(folder / "model"))
    return place


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(3, 13)[None], attention_mask=torch.ones(1, 10)).logits  # type: ignore[no-any-return]


def mllmu(*words: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "1000"})
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return f"{done.exit_code} {done.output}"


def test_a_purge_says_that_the_base_is_still_the_earlier_model(whole: Place, tmp_path: Path) -> None:
    place = copy_of(whole, tmp_path / "out")
    said = mllmu("requests", place.out, "purge", "r001", "--yes", "--key", place.key)
    assert said.startswith("0 purged: r001") and f"mllmu export-model {place.out} deployed DIR" in said
    content = certificate.read(place.out / "certificates/r001.json")
    assert content["purged"].endswith(REMAINS) and "earlier adapters" not in content["purged"]
    assert REMAINS in (place.out / "certificates/r001.html").read_text(encoding="utf-8")
    assert place.verified()[-1] == "r001 was purged: its numbers cannot be computed again"
    assert "is not removed" in Ledger(place.out).of("r001")[-1].reason


def test_a_purge_of_an_adapter_does_not(copy: Place) -> None:
    said = mllmu("requests", copy.out, "purge", "r001", "--yes", "--key", copy.key)
    assert said.startswith("0 purged: r001") and "export-model" not in said
    content = certificate.read(copy.out / "certificates/r001.json")
    assert "earlier adapters" in content["purged"] and "base" not in content["purged"]


@pytest.mark.parametrize("purged", [False, True])
def test_the_deployed_model_is_exported_with_and_without_a_way_back(
    whole: Place, tmp_path: Path, *, purged: bool
) -> None:
    place = copy_of(whole, tmp_path / "out")
    before = current(place.out)
    assert before is not None
    expected = logits(load(recipes.load(place.out / "r001/recipe.yaml").model, before.ref, place.out).model)
    if purged:
        back.purge(place.out, "r001", key=place.key)
        advice = f"mllmu export-model {place.out} deployed {tmp_path / 'new'}"
        assert advice in mllmu("export-model", place.out / "r001", "forget_40/npo", tmp_path / "new")
    assert mllmu("export-model", place.out, "deployed", tmp_path / "new").startswith("0 exported")
    new = AutoModelForImageTextToText.from_pretrained(tmp_path / "new", attn_implementation="eager")
    assert torch.allclose(logits(new), expected, atol=1e-4)
    earlier = AutoModelForImageTextToText.from_pretrained(before.ref.base, attn_implementation="eager")
    assert not torch.allclose(logits(earlier), expected, atol=1e-4)
    card = (tmp_path / "new/README.md").read_text(encoding="utf-8")
    assert "made to forget 40 % of them by the method `npo`" in card


def test_after_a_rollback_the_earlier_model_is_exported_as_what_it_is(copy: Place, tmp_path: Path) -> None:
    back.rollback(copy.out, "r001", key=copy.key)
    assert mllmu("export-model", copy.out, "deployed", tmp_path / "new").startswith("0 exported")
    assert "nothing was forgotten" in (tmp_path / "new/README.md").read_text(encoding="utf-8")


def test_another_name_and_a_changed_model_are_errors(copy: Place, tmp_path: Path) -> None:
    said = mllmu("export-model", copy.out, "forget_40/npo", tmp_path / "new")
    assert said.startswith("2 ") and "which has one model: deployed. Got 'forget_40/npo'" in said
    adapter = copy.out / "r001/models/forget_40/npo/adapter_model.safetensors"
    adapter.write_bytes(adapter.read_bytes()[:-1] + b"x")
    said = mllmu("export-model", copy.out, "deployed", tmp_path / "new")
    assert said.startswith("2 ") and "Restore base" in said and not (tmp_path / "new").exists()
