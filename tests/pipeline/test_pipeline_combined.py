"""Settings that are each tested alone, together: requests for facts, one after the other, with controls and attacks."""

from __future__ import annotations

from pathlib import Path

import mini_run
import pytest
from helpers_models import Watcher

from mllmu.config.load import parse
from mllmu.core.attacked import AttackResults
from mllmu.core.errors import RecipeError
from mllmu.core.process import SilentProgress
from mllmu.core.requested import RequestResults
from mllmu.core.runfolder import RunFolder, read_json
from mllmu.studies.layers.study import LayersResult, measure_layers
from mllmu.studies.trust import trust

FACTS = "{attributes: [salary, hobby], coarsen: {birth_date: decade}}"
QUICK = ("evaluate.tasks=[cloze]", "evaluate.modalities=[text]", "finetune.epochs=1")
ASKED = ("evaluate.controls=true", "evaluate.attack_budget=small")
ATTACKS = "evaluate.attacks=[logit_lens, patching, {name: relearn_forget, steps: 1}, remove_adapter, remove_prompt]"
BESIDE = ("steering", "router", "whp", "prompting")
"""Methods that leave the weights as they are."""


def attacked(root: Path) -> AttackResults:
    (path,) = root.glob("eval/forget_*/attacks.json")
    return AttackResults.model_validate(read_json(path, sealed=True))


METHODS = "[{name: steering, epochs: 1}, {name: router, epochs: 1}, {name: whp, epochs: 1}, prompting]"
OF_FACTS = (f"unlearn.forget={FACTS}", f"unlearn.methods={METHODS}", *QUICK, *ASKED, ATTACKS)


@pytest.fixture(scope="module")
def of_facts(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One request for some facts, by methods that leave the weights alone, with controls and attacks."""
    return mini_run.run(base, tmp_path_factory.mktemp("facts") / "run", *OF_FACTS)


def test_every_attack_on_a_model_with_something_beside_its_weights_has_numbers_or_a_reason(of_facts: Path) -> None:
    rows = attacked(of_facts).rows
    attacks = dict.fromkeys(row.attack for row in rows)
    assert len(attacks) == 6
    assert {(row.model, row.attack) for row in rows} == {
        (model, attack) for model in ("target", "retain_model", *BESIDE) for attack in attacks
    }
    assert all((row.after is None) == bool(row.reason) for row in rows)
    refused = {(row.model, row.attack): row.reason for row in rows if row.reason}
    assert {model for model, attack in refused if attack == "remove_adapter"} == set(BESIDE)
    assert "no layer has one state" in refused["whp", "logit_lens"] and "no layer has one" in refused["whp", "patching"]
    assert len(refused) == len(BESIDE) + 2, "all else is possible"


def test_what_lies_beside_the_weights_is_taken_away_and_the_target_is_back(of_facts: Path) -> None:
    places = {(row.model, row.attack): row for row in attacked(of_facts).rows}
    plain = places["target", "plain"].after
    assert {places[model, "remove_prompt"].after for model in BESIDE} == {plain}


def test_controls_are_asked_of_all_models_about_the_facts_of_the_request(of_facts: Path) -> None:
    (path,) = of_facts.glob("controls/forget_*/controls.json")
    rows = read_json(path, sealed=True)["rows"]
    assert {row["model"] for row in rows} == {"target", "retain_model", *BESIDE}
    assert {row["split"] for row in rows} == {"forget", "retain"}
    page = (of_facts / "report/index.html").read_text(encoding="utf-8")
    assert all(f'id="{section}"' in page for section in ("controls", "attacks")) and "Parts of people" in page


def test_layers_are_read_of_all_models_but_the_one_of_two_passes(of_facts: Path, base: Path) -> None:
    said = Watcher()
    measure_layers(parse(mini_run.settings(base, *OF_FACTS)), of_facts, gate=False, progress=said)
    result = LayersResult.model_validate_json((of_facts / RunFolder.LAYERS_FILE).read_text(encoding="utf-8"))
    assert {row.model for row in result.models} == {"target", "retain_model", *BESIDE} - {"whp"}
    assert [note for note in said.notes if note.startswith("whp: left out; the model subtracts the logits")]


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_requests_one_after_the_other_with_controls_and_attacks(workers: int, base: Path, tmp_path: Path) -> None:
    requests = f"unlearn.requests=[{{people: ['002']}}, {{people: ['004'], {FACTS[1:]}]"
    how = (requests, "unlearn.methods=[{name: ga, modality: text}, prompting]", f"workers={workers}", *QUICK, *ASKED)
    root = mini_run.run(
        base, tmp_path / "run", *how, "evaluate.attacks=[{name: relearn_forget, steps: 1}, remove_prompt]"
    )
    (path,) = root.glob("eval/forget_*/requests.json")
    found = RequestResults.model_validate(read_json(path, sealed=True))
    assert found.labels == ("1 person", "salary, hobby, birth date of 1 person")
    assert {row.model for row in attacked(root).rows} == {"target", "retain_model", "ga", "prompting"}
    assert list(root.glob("controls/forget_*/controls.json"))
    page = (root / "report/index.html").read_text(encoding="utf-8")
    assert all(f'id="{section}"' in page for section in ("controls", "attacks", "requests"))


def test_a_pool_of_models_with_and_without_people_is_refused_for_parts_of_them(base: Path, tmp_path: Path) -> None:
    recipe = parse(mini_run.settings(base, f"unlearn.forget={FACTS}"))
    with pytest.raises(RecipeError, match="mllmu trust: trains models with and without whole people"):
        trust(recipe, tmp_path / "run", pool=2, bits=4, progress=SilentProgress())
    assert not (tmp_path / "run").exists()
