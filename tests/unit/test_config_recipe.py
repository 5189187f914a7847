"""A recipe is complete, checked before anything runs, and every mistake in it is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mllmu.config.load import apply_override, dump, load, load_all, parse
from mllmu.config.recipe import MethodSpec, PluginSpec, Recipe, jobs, percent
from mllmu.core.errors import MllmuError, PluginError, RecipeError

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def override(raw: dict[str, Any], *changes: str) -> dict[str, Any]:
    for change in changes:
        apply_override(raw, change)
    return raw


def test_a_name_is_enough_and_everything_else_has_the_papers_default() -> None:
    recipe = parse({"name": "mini"})
    assert (recipe.finetune.epochs, recipe.finetune.batch_size, recipe.finetune.learning_rate) == (5, 4, 2e-5)
    assert recipe.finetune.lora is not None
    assert (recipe.finetune.lora.rank, recipe.finetune.lora.alpha, recipe.finetune.lora.dropout) == (16, 16, 0.05)
    assert recipe.data.splits.forget_ratios == (0.1,)
    assert recipe.gate


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_of_the_project_is_valid_and_written_out_it_reads_the_same(path: Path, tmp_path: Path) -> None:
    for recipe in load_all(path).values():
        assert load(write(tmp_path / "again.yaml", dump(recipe))) == recipe


def test_the_papers_grid_is_every_method_at_every_ratio_in_both_modalities_on_both_models() -> None:
    folder = RECIPES[0].parent
    grid = load_all(folder / "paper_grid.yaml")
    assert [recipe.model.path for recipe in grid.values()] == ["llava-hf/llava-1.5-7b-hf", "HuggingFaceM4/idefics2-8b"]
    for recipe in grid.values():
        assert recipe.data.splits.forget_ratios == (0.05, 0.1, 0.15)
        found = {(spec.name, s.get("modality")) for spec in recipe.unlearn.methods for s in spec.by_modality}
        trained = {(name, way) for name in ("ga", "grad_diff", "kl_min", "npo") for way in ("image_text", "text")}
        assert found == trained | {("prompting", None)}


@pytest.mark.parametrize("path", [p for p in RECIPES if p.stem.endswith(("_grid", "_forget05"))],
                         ids=lambda path: path.stem)  # fmt: skip
def test_recipes_of_published_models_have_the_published_settings(path: Path) -> None:
    for recipe in load_all(path).values():
        taught = recipe.finetune
        assert (taught.epochs, taught.batch_size, taught.learning_rate, taught.modality) == (5, 4, 2e-5, "image_text")
        for lora in (taught.lora, recipe.unlearn.lora):
            assert lora is not None and (lora.rank, lora.alpha, lora.dropout) == (16, 16, 0.05)
        settings = {spec.name: spec.settings for spec in recipe.unlearn.methods}
        assert set(settings) == {"ga", "grad_diff", "kl_min", "npo", "prompting"}
        assert (settings["ga"]["epochs"], settings["kl_min"]["epochs"], settings["npo"]["epochs"]) == (1, 3, 2)
        assert settings["npo"]["beta"] == 0.4


def test_there_are_recipes() -> None:
    assert "smoke" in {path.stem for path in RECIPES}


def test_overrides_reach_nested_settings_lists_and_new_sections() -> None:
    raw = override(
        {"name": "mini", "unlearn": {"methods": ["ga", {"name": "npo"}]}},
        "finetune.lora.rank=8", "unlearn.methods.1.beta=0.1", "unlearn.lora=null", "report.title=a=b", "gate=false",
        "data.splits.forget_ratios=[0.05, 0.1]", "finetune.learning_rate=1e-3",
    )  # fmt: skip
    recipe = parse(raw)
    assert recipe.finetune.lora is not None and recipe.finetune.lora.rank == 8
    assert recipe.unlearn.methods[1].settings == {"beta": 0.1}
    assert recipe.unlearn.lora is None
    assert recipe.report.title == "a=b"
    assert not recipe.gate
    assert recipe.data.splits.forget_ratios == (0.05, 0.1)
    assert recipe.finetune.learning_rate == 0.001


def test_settings_without_a_name_belong_to_the_default_plug_in() -> None:
    recipe = parse(override({"name": "mini"}, "data.source.num_people=12", "data.portraits.size=64"))
    assert (recipe.data.source.name, recipe.data.source.settings) == ("synthetic", {"num_people": 12})
    assert (recipe.data.portraits.name, recipe.data.portraits.settings) == ("dicebear", {"size": 64})


def test_an_override_gives_settings_to_a_plug_in_written_as_a_bare_name() -> None:
    raw = override(
        {"name": "mini", "data": {"source": "synthetic"}, "unlearn": {"methods": ["npo", "ga"]}},
        "unlearn.methods.0.beta=1", "data.source.num_people=12",
    )  # fmt: skip
    assert raw["unlearn"]["methods"] == [{"name": "npo", "beta": 1}, "ga"]
    assert parse(raw).data.source == PluginSpec(name="synthetic", num_people=12)  # type: ignore[call-arg]


def test_an_override_of_an_aliased_section_leaves_the_other_place_alone(tmp_path: Path) -> None:
    text = "name: mini\nfinetune: {lora: &lora {rank: 4}}\nunlearn: {lora: *lora}\n"
    recipe = load(write(tmp_path / "mini.yaml", text), ["unlearn.lora.rank=2"])
    assert recipe.finetune.lora is not None and recipe.finetune.lora.rank == 4
    assert recipe.unlearn.lora is not None and recipe.unlearn.lora.rank == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("seed", "expected key=value"),
        ("=3", "expected key=value"),
        ("a=[", r"--set a=\[: not valid YAML: .*expected"),
        ("a=2024-13-45", "not valid YAML: month must be in 1..12"),
        ("a={b: 1, b: 2}", "'b' is given twice"),
        ("seed.deep=1", "'seed' is a single value, it has no settings inside"),
        ("ratios.0.deep=1", "'0' is a single value"),
        ("ratios.2=1", "'2' is no position in a list of 2; the first is 0"),
        ("ratios.-1=1", "'-1' is no position"),
        ("ratios.²=1", "'²' is no position"),
        ("ratios.x.y=1", "'x' is no position"),
    ],
)
def test_an_impossible_override_is_one_clear_message(change: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        apply_override({"seed": 3, "ratios": [0.1, 0.2]}, change)


@pytest.mark.parametrize(
    ("change", "place", "meant"),
    [
        ("finetun.epochs=1", "recipe: finetun:", "finetune"),
        ("finetune.epoch=1", "recipe: finetune.epoch:", "epochs"),
        ("finetune.lora.rnak=1", "recipe: finetune.lora.rnak:", "rank"),
        ("data.splits.holdot=1", "recipe: data.splits.holdot:", "holdout"),
        ("evaluate.max_profile={}", "recipe: evaluate.max_profile:", "max_profiles"),
        ("unlearn.methods.0.bta=1", r"recipe: unlearn.methods\[0\].bta:", "beta"),
        ("data.portraits.sise=64", "recipe: data.portraits.sise:", "size"),
        ("data.source.num_peple=2", "recipe: data.source.num_peple:", "num_people"),
        ("data.source={name: mllmu_bench, paht: x}", "recipe: data.source.paht:", "path"),
    ],
)
def test_a_misspelt_setting_names_its_place_and_the_nearest_one(change: str, place: str, meant: str) -> None:
    raw = override({"name": "mini", "unlearn": {"methods": ["npo"]}}, change)
    with pytest.raises(RecipeError, match=f"^{place} unknown setting.* Did you mean '{meant}'"):
        parse(raw)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("data.source=synthetik", "sources: no 'synthetik'. Did you mean 'synthetic'"),
        ("data.portraits=dicebeer", "Did you mean 'dicebear'"),
        ("data.celebrities=celebrity", "Did you mean 'celebrities'"),
        ("unlearn.methods=[np]", "Did you mean 'npo'"),
        ("evaluate.metrics=[truth_ration]", "metrics: no 'truth_ration'. Did you mean 'truth_ratio'"),
        ("evaluate.tasks=[clozze]", "evaluate.tasks: tasks: no 'clozze'. Did you mean 'cloze'"),
        ("model.family=lava", "Did you mean 'llava'"),
    ],
)
def test_an_unknown_plug_in_names_the_nearest_one(change: str, said: str) -> None:
    with pytest.raises(PluginError, match=said):
        parse(override({"name": "mini"}, change))


@pytest.mark.parametrize("name", [".", "..", "...", "", "a/b", "a b", "x" * 65, "ä"])
def test_a_name_that_is_no_folder_is_refused(name: str) -> None:
    with pytest.raises(RecipeError, match=r"^recipe: name: "):
        parse({"name": name})


def test_dots_alone_are_explained() -> None:
    with pytest.raises(RecipeError, match=r"name: the run folder is named after it, and dots alone .* \(got '\.\.'\)"):
        parse({"name": ".."})


@pytest.mark.parametrize(
    "change",
    [
        "seed=-1", "seed=x", "data.train_wordings=0", "data.train_wordings=15", "data.splits.holdout=-1",
        "data.splits.selection=1", "data.splits.selection=-0.1", "data.splits.forget_ratios=[]",
        "data.splits.forget_ratios=[0]", "data.splits.forget_ratios=[1]", "data.splits.forget_ratios=[.nan]",
        "finetune.epochs=0", "finetune.learning_rate=0", "finetune.batch_size=0", "finetune.warmup=1",
        "finetune.weight_decay=-1", "finetune.modality=image", "finetune.checkpoint_every_s=0", "finetune.lora.rank=0",
        "finetune.lora.alpha=0", "finetune.lora.dropout=1", "unlearn.methods=ga", "unlearn.methods=[{beta: 1}]",
        "unlearn.methods=[{name: npo, beta: 0}]", "unlearn.methods=[{name: ga, epochs: 0}]", "evaluate.tasks=[]",
        "unlearn.methods=[{name: ga, modality: []}]", "unlearn.methods=[{name: ga, modality: [image_text, sound]}]",
        "unlearn.methods=[{name: ga, 1: 2}]", "evaluate.batch_size=0",
        "evaluate.max_profiles={forget: -1}", "evaluate.max_profiles={forgotten: 1}", "evaluate.max_profiles=3",
        "report.num_examples=-1", "model.packing=maybe", "model.dtype=int8", "data.source=3",
        "data.source.num_people=0", "data.source.first_id=0", "data.portraits.num_views=0", "data.portraits.size=1",
    ],
)  # fmt: skip
def test_a_setting_out_of_range_is_refused_with_its_place(change: str) -> None:
    raw = override({"name": "mini"}, change)
    place = change.partition("=")[0].replace(".", r"\.")
    with pytest.raises(RecipeError, match=f"^recipe: {place}.*got "):
        parse(raw)


@pytest.mark.parametrize(
    ("splits", "said"),
    [
        ({"keys": ["forget_5"]}, "keys belong to a file of ids"),
        ({"file": "ids.json"}, "got 0 keys for 1 forget_ratios; name one key of the file each"),
        ({"file": "ids.json", "keys": ["a", "b"]}, "got 2 keys for 1 forget_ratios"),
        ({"file": "ids.json", "keys": ["a", "a"], "forget_ratios": [0.1, 0.2]}, "a key is named twice"),
        ({"forget_ratios": [0.1, 0.1]}, "two forget ratios are the same"),
        ({"forget_ratios": [0.1, 0.1000000001]}, "two forget ratios are the same"),
    ],
)
def test_splits_that_contradict_themselves_are_refused(splits: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=f"^recipe: data.splits.*{said}"):
        parse({"name": "mini", "data": {"splits": splits}})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"name: [", "not valid YAML"),
        (b"- name", "expected a mapping of settings, got list"),
        (b"mini", "expected a mapping of settings, got str"),
        (b"\xff\xfe", "cannot be read"),
        (b"name: 2024-13-45", "not valid YAML: month must be in 1..12"),
        (b"[" * 5000, "not valid YAML"),
        (b"name: a\nname: b", "not valid YAML: 'name' is given twice"),
        (b"name: a\nfinetune: {epochs: 1, epochs: 2}", "'epochs' is given twice"),
        (b"name: !!python/object:os.system x", "not valid YAML"),
        (b"", "name: Field required"),
        (b"1: 2", "name: Field required"),
        (b"name: a\n1: 2", "1: Keys should be strings"),
    ],
)
def test_a_file_that_is_no_recipe_is_an_error_that_names_it(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=rf"bad\.yaml: .*({said})"):
        load(path)


def test_a_missing_recipe_and_a_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.yaml: no such recipe"):
        load(tmp_path / "none.yaml")
    with pytest.raises(RecipeError, match="cannot be read"):
        load(tmp_path)


def test_a_byte_order_mark_and_merged_mappings_are_read(tmp_path: Path) -> None:
    path = tmp_path / "windows.yaml"
    path.write_bytes(
        b"\xef\xbb\xbfname: mini\nfinetune: &taught {epochs: 2, batch_size: 8, lora: {rank: 2}}\n"
        b"unlearn: {methods: [{name: ga, <<: {epochs: 3, batch_size: 2}, batch_size: 4}]}\n"
    )
    recipe = load(path)
    assert recipe.finetune.epochs == 2
    assert recipe.unlearn.methods[0].settings == {"epochs": 3, "batch_size": 4}


def test_a_long_wrong_value_is_not_repeated_in_full() -> None:
    with pytest.raises(RecipeError) as caught:
        parse({"name": "mini", "seed": "x" * 10_000})
    assert len(str(caught.value)) < 300


def test_a_list_of_modalities_is_one_settings_dictionary_each() -> None:
    spec = MethodSpec(name="npo", beta=0.1, modality=["image_text", "text"])  # type: ignore[call-arg]
    assert spec.by_modality == [{"beta": 0.1, "modality": "image_text"}, {"beta": 0.1, "modality": "text"}]
    assert MethodSpec(name="npo").by_modality == [{}]


def test_a_method_is_built_once_however_often_its_job_is_asked_for() -> None:
    recipe = parse(
        {"name": "mini", "unlearn": {"methods": ["ga", {"name": "npo", "modality": ["image_text", "text"]}]}}
    )
    first, again = jobs(recipe), jobs(recipe.model_copy(update={"seed": 1}))
    assert [job.name for job in first] == ["ga", "npo_image_text", "npo_text"]
    assert all(one.method is other.method for one, other in zip(first, again, strict=True))
    assert recipe == parse(recipe.model_dump(mode="json"))


def test_a_plug_in_of_another_kind_or_no_class_at_all_is_refused() -> None:
    for name, said in (
        ("mllmu.data.sources.synthetic:Synthetic", r"of another kind: one of methods defines loss\(\)"),
        ("mllmu.config.recipe:Recipe", "is not a plug-in: expected a subclass"),
        ("mllmu.config.recipe:Nobody", "is not a plug-in"),
        ("no_such_module:Method", "cannot import"),
        (":Method", "is no name of a class"),
        (".methods:Method", "is no name of a class"),
    ):
        with pytest.raises(PluginError, match=said):
            parse({"name": "mini", "unlearn": {"methods": [name]}})


def test_every_error_of_a_recipe_is_one_for_the_user() -> None:
    assert issubclass(RecipeError, MllmuError) and issubclass(PluginError, MllmuError)
    assert Recipe.model_config["frozen"]


def test_a_share_is_printed_in_percent_without_noise() -> None:
    assert [percent(ratio) for ratio in (0.05, 0.1, 0.125, 0.3, 1 / 3)] == ["5", "10", "12.5", "30", "33.3333"]


@pytest.mark.parametrize("text", ["on", "off", "auto"])
def test_packing_is_what_was_written_though_yaml_has_ideas_of_its_own(tmp_path: Path, text: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"name: x\nmodel: {{packing: {text}}}\n")
    assert load(path).model.packing == text
    assert load(path, ["model.packing=off"]).model.packing == "off"
