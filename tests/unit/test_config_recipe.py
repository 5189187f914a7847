"""A recipe is complete, checked before anything runs, and every mistake in it is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from mllmu.config.load import apply_override, dump, dump_yaml, load, load_all, parse, put
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
        ("a=!!set {b}", "not valid YAML: could not determine a constructor for the tag"),
        ("a=" + "1" * 5000, "not valid YAML: Exceeds the limit"),
        ("a=!!bool x", "not valid YAML"),
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


@pytest.mark.parametrize("name", [".", "..", "...", ".x", "-x", "../x", "", "a/b", "a b", "x" * 65, "ä"])
def test_a_name_that_is_no_folder_is_refused(name: str) -> None:
    with pytest.raises(RecipeError, match=r"^recipe: name: "):
        parse({"name": name})


@pytest.mark.parametrize(
    "change",
    [
        "seed=-1", "seed=x", "data.train_wordings=0", "data.train_wordings=15", "data.splits.holdout=-1",
        "data.splits.selection=1", "data.splits.selection=-0.1", "data.splits.forget_ratios=[]",
        "data.splits.forget_ratios=[0]", "data.splits.forget_ratios=[1]", "data.splits.forget_ratios=[true]",
        "finetune.epochs=10001", "finetune.lora.rank=1e9", "finetune.learning_rate=1e3", "seed=true",
        "finetune.epochs=yes", "finetune.lora.rank=on", "finetune.lora.rank=true", "finetune.learning_rate=12:30",
        "seed=1:30", "evaluate.max_profiles={retain: 1:00}", "evaluate.max_profiles={retain: true}",
        "unlearn.methods=[{name: npo, beta: true}]", "evaluate.protocol={shots: {cloze: true}}",
        "evaluate.protocol={test_image: true}", "evaluate.protocol={shots: true}", "evaluate.compare={'..': official}",
        "evaluate.compare={.x: official}", "finetune.lora.targets='*q_proj'", "unlearn.lora.targets='(v_proj'",
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
        (b"name: &a [*a]", "name.*: more than .* values, or nested more than .* deep. Does an alias"),
        (b"name: &a {<<: *a}", "name: Input should be a valid string"),
        (b"name: a\nreport: {title: " + b"[" * 40 + b"]" * 40 + b"}", "nested more than 32 deep"),
        (b"name: a\nreport: {title: !!binary aGk=}", "could not determine a constructor for the tag"),
        (b"name: a\nreport: {title: '" + b"x" * 2**18 + b"'}", "more than 256 KiB"),
        (b'name: a\nreport: {title: "\\ud800"}', "report.title: holds a character that no file can hold"),
        (b'name: a\ndata: {source: {name: people, path: "a\\0b"}}', "data.source.path: holds a character"),
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


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"), ("off", "off"), ("yes", "yes"), ("12:30", "12:30"), ("1:30:00", "1:30:00"), ("010", "010"),
        ("0x10", "0x10"), ("1_000", "1_000"), ("2024-01-02", "2024-01-02"), ("'1e5'", "1e5"), ("'7'", "7"), ("''", ""),
        ("1e5", 100000.0), ("-2.5e-3", -0.0025), (".5", 0.5), ("7", 7), ("-0", 0), ("true", True), ("~", None),
        ("é 北", "é 北"), ('"a\\u2028b"', "a\u2028b"),
    ],
)  # fmt: skip
def test_a_value_is_what_was_written_and_reads_the_same_again(tmp_path: Path, text: str, value: object) -> None:
    made = override({}, f"a={text}")["a"]
    assert made == value and type(made) is type(value)
    written = dump_yaml({"a": value})
    assert override({}, f"a={written.removeprefix('a:').strip()}")["a"] == value
    assert yaml.safe_load(written) == {"a": value}  # by other readers, too


def test_settings_in_words_of_yaml_are_read_as_meant() -> None:
    raw = override({"name": "x"}, "model.packing=off", "gate=no", "seed=010", "finetune.learning_rate=1e-3")
    recipe = parse(raw)
    assert (recipe.model.packing, recipe.gate, recipe.seed, recipe.finetune.learning_rate) == ("off", False, 10, 0.001)
    shots = parse(override(raw, "evaluate.protocol.shots={cloze: [003, 010]}")).evaluate.protocol.shots
    assert shots.by_task["cloze"] == ("003", "010")


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan", "1e300", "1e400", "-1e16", "1" + "0" * 40])
@pytest.mark.parametrize("key", ["finetune.epochs", "model.image_processor.max_pixels", "unlearn.methods.0.beta"])
def test_a_number_without_end_is_refused_wherever_it_stands(key: str, value: str) -> None:
    with pytest.raises(RecipeError, match=rf"^--set {key}: expected a (finite )?number"):
        apply_override({"unlearn": {"methods": ["npo"]}}, f"{key}={value}")
    raw: dict[str, Any] = {"name": "x", "unlearn": {"methods": ["npo"]}}
    put(raw, key, yaml.safe_load(value) if "." in value else float(value), where="")
    with pytest.raises(RecipeError, match=f"^recipe: {key}: expected a (finite )?number"):
        parse(raw)


@pytest.mark.parametrize(
    "text",
    ["report:\n  # title: x\n", "unlearn:\n  methods:\n", "finetune:\nevaluate: {tasks: }\n",
     "model: {image_processor: }", "data: {source: , splits: , portraits: }"],
)  # fmt: skip
def test_a_section_left_empty_is_the_default(tmp_path: Path, text: str) -> None:
    assert load(write(tmp_path / "mini.yaml", f"name: mini\n{text}")) == parse({"name": "mini"})


def test_nothing_is_no_number_and_no_name() -> None:
    for change in ("finetune.epochs=", "seed=", "model.path="):
        with pytest.raises(RecipeError, match=f"^recipe: {change[:-1]}: "):
            parse(override({"name": "mini"}, change))


@pytest.mark.parametrize(
    ("change", "meant"),
    [
        ("finetune.lr=0.1", "learning_rate"), ("finetune.bs=4", "batch_size"), ("finetune.wd=4", "weight_decay"),
        ("learning_rate=0.1", "finetune.learning_rate"), ("rank=4", "finetune.lora.rank"),
        ("unlearn.epochs=4", "finetune.epochs"), ("holdout=4", "data.splits.holdout"), ("finetune.rank=4", "lora.rank"),
        ("evaluate.title=x", "report.title"), ("tasks=[cloze]", "evaluate.tasks"),
    ],
)  # fmt: skip
def test_a_setting_that_is_abbreviated_or_misplaced_is_found(change: str, meant: str) -> None:
    with pytest.raises(RecipeError, match=f"unknown setting.* Did you mean '[a-z.]*{meant}'"):
        parse(override({"name": "mini"}, change))


def test_many_aliases_cost_neither_time_nor_memory(tmp_path: Path) -> None:
    deep = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
    )
    merged = "a0: &a0 {k: x}\n" + "".join(
        f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 10)
    )
    many = "a: &a x\nb: [" + "*a, " * 200 + "]\n"
    for text, said in ((deep, "more than .* values"), (merged, "too large"), (many, "more than 100 aliases")):
        with pytest.raises(RecipeError, match=said):
            load(write(tmp_path / "mini.yaml", f"name: mini\n{text}"))
