"""Keys and passwords: refused wherever a recipe could hold them, and shown in no message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from mllmu.cli.app import app
from mllmu.cli.failures import tell_bug
from mllmu.config.load import parse, put
from mllmu.core.confidential import is_secret, redacted
from mllmu.core.errors import RecipeError
from mllmu.core.plugins import build

KEYS = (
    "sk-proj-Ab3dEf6hIj9kLm2nOp5q", "hf_AbCdEfGhIjKlMnOpQrSt", "ghp_0123456789abcdefghijABCDEF", "AKIAIOSFODNN7EXAMPLE",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2ln", "Bearer 0123456789abcdef", "https://me:hunter22@host/v1",
    "https://host/v1?api_key=hunter22", "https://host/sk-0123456789abcdefABCD/v1", "glpat-0123456789abcdefghij",
)  # fmt: skip
PLAIN = (
    "llava-hf/llava-1.5-7b-hf", "https://api.openai.com/v1", "http://localhost:8000/v1",
    "runs/2024-01-02_risk-sk-learn", "OPENAI_API_KEY",
    "meta-llama/Llama-3.2-11B-Vision-Instruct", "e130f45a9b1c2d3e4f5061728394a5b6c7d8e9f0", ".*(q_proj|v_proj)",
    "NPO at 5 % for the basic model, bearer of the title", "max_new_tokens: 50, token: 12, key: people.key.json",
)  # fmt: skip
PLACES = (
    "report.title", "model.path", "model.revision", "model.image_processor.x", "data.source.base_url", "data.review",
    "data.source.parameters.extra_headers.x", "evaluate.judges.0.model", "evaluate.judges.0.parameters.stop",
)  # fmt: skip
SECRET_FIELDS = ("api_key", "Authorization", "x-api-key", "hf_token", "password", "client_secret", "access_token")


def recipe(place: str, value: object) -> dict[str, Any]:
    raw: dict[str, Any] = {"name": "x", "evaluate": {"judges": [{"name": "endpoint", "model": "m"}]}}
    raw["data"] = {"source": {"name": "llm", "model": "m"}}
    put(raw, place, value, where="")
    return raw


@pytest.mark.parametrize("place", PLACES)
def test_a_key_is_refused_wherever_it_stands(place: str) -> None:
    for key in KEYS:
        with pytest.raises(RecipeError, match=f"^recipe: {place}: looks like a key or a password") as caught:
            parse(recipe(place, key))
        assert key not in str(caught.value) and "hunter22" not in str(caught.value)


@pytest.mark.parametrize("field", SECRET_FIELDS)
@pytest.mark.parametrize(
    "place", ["data.source.parameters", "evaluate.judges.0.parameters.extra_headers", "evaluate.vllm"]
)
def test_a_field_for_a_key_is_refused_whatever_it_holds(place: str, field: str) -> None:
    with pytest.raises(RecipeError, match=f"{field}: looks like a key") as caught:
        parse(recipe(f"{place}.{field}", "abcd"))
    assert "abcd" not in str(caught.value)


def test_the_value_of_a_secret_variable_is_known_in_any_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_ENDPOINT_KEY", "correct horse battery staple")
    text = "a title with correct horse battery staple in it"
    assert is_secret("report.title", text) and redacted(text) == "a title with (not shown) in it"
    with pytest.raises(RecipeError, match="looks like a key"):
        parse(recipe("report.title", text))


def test_ordinary_texts_are_no_secrets() -> None:
    for text in PLAIN:
        assert not is_secret("model.path", text), text
        assert redacted(text) == text
    for name in ("max_tokens", "key", "keys", "key_variable", "tokens_in", "columns.key"):
        assert not is_secret(name, "x"), name


@pytest.mark.parametrize("name", ["base_url", "parameters", "key_variable"])
def test_a_plug_in_with_an_endpoint_repeats_no_key(name: str) -> None:
    for key in KEYS:
        with pytest.raises(RecipeError) as caught:
            build("judges", "endpoint", {"model": "m", name: {"api_key": key} if name == "parameters" else key})
        assert key not in str(caught.value) and "hunter22" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    ["name: x\nreport: {title: 'KEY}", "name: KEY", "name: x\nmodel: KEY", "name: x\nreport: {title: [KEY]}", "KEY"],
)
def test_no_message_of_a_command_shows_a_key(tmp_path: Path, content: str) -> None:
    path = tmp_path / "recipe.yaml"
    for key in KEYS:
        path.write_text(content.replace("KEY", key), encoding="utf-8")
        for more in ([], ["--set", f"report.title='{key}"], ["--set", f"api_key={key}"], ["--set", key]):
            done = CliRunner().invoke(app, ["validate", str(path), *more])
            assert done.exit_code == 2
            assert key not in done.output and "hunter22" not in done.output, content


def test_a_traceback_and_a_message_about_headers_show_no_key(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise RuntimeError(f"request failed: {{'Authorization': 'Bearer hunter22'}}, {KEYS[0]}")
    except RuntimeError as error:
        tell_bug(type(error), error, error.__traceback__)
    said = capsys.readouterr().err
    assert "RuntimeError: request failed" in said and "hunter22" not in said and KEYS[0] not in said
    assert yaml.safe_load(redacted("{api_key: abcdef, n: 3}")) == {"api_key": "(not shown)", "n": 3}
