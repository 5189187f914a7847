"""The client against a real server that misbehaves: nothing is lost, everything is counted, the key stays home."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from llm_server import KEY, Body, LlmServer, rating
from pydantic import BaseModel, ConfigDict, Field

from mllmu.config.load import read_yaml
from mllmu.core.errors import BudgetError, EndpointError, MllmuError, RecipeError, RunStoreError
from mllmu.core.plugins import explain
from mllmu.llm import Call, Client, EndpointSettings, Preview, ReplyCache, Unanswered

pytestmark = pytest.mark.usefixtures("loopback")


class Rating(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    score: int = Field(ge=1, le=10)
    reason: str


@pytest.fixture
def server() -> Iterator[LlmServer]:
    with LlmServer() as running:
        yield running


def settings(server: LlmServer, cache: Path, **more: Any) -> EndpointSettings:
    base: dict[str, Any] = {"model": "m", "base_url": server.base_url, "cache": cache, "timeout_s": 5}
    return EndpointSettings(**{**base, **more})


def calls(count: int) -> list[Call]:
    return [Call(({"role": "user", "content": f"question {number}"},)) for number in range(count)]


def ask(given: EndpointSettings, count: int) -> tuple[dict[int, Rating | Unanswered], dict[str, float]]:
    with Client(given, Rating) as client:
        return dict(client.ask_all(calls(count))), client.budget.facts()


@pytest.mark.parametrize(
    ("trouble", "counted"),
    [
        ("429", "failed_429"),
        ("500", "failed_500"),
        ("503", "failed_503"),
        ("reset", "failed_connection"),
        ("half", "failed_connection"),
        ("cut", "failed_damaged"),
        ("html", "failed_damaged"),
        ("empty", "failed_damaged"),
    ],
)
def test_a_passing_fault_is_tried_again_and_counted(
    server: LlmServer, tmp_path: Path, trouble: str, counted: str
) -> None:
    server.script = [trouble, trouble]
    found, facts = ask(settings(server, tmp_path), 1)
    assert found == {0: Rating(score=7, reason="fine")}
    assert (facts[counted], facts["requests"], facts["answered"]) == (2, 3, 1)


def test_equal_calls_at_the_same_time_are_paid_once(server: LlmServer, tmp_path: Path) -> None:
    server.script = ["500"]
    with Client(settings(server, tmp_path, concurrency=4), Rating) as client:
        found = dict(client.ask_all([*calls(2), *calls(2), *calls(2)]))
    facts = client.budget.facts()
    assert len(found) == 6 and len(server.bodies) == 3, "two calls, and one second try"
    assert (facts["answered"], facts["cached"]) == (2, 4)


def test_silence_ends_at_the_timeout_and_is_tried_again(server: LlmServer, tmp_path: Path) -> None:
    server.script = ["silence"]
    began = time.monotonic()
    found, facts = ask(settings(server, tmp_path, timeout_s=0.2), 1)
    assert found[0] == Rating(score=7, reason="fine")
    assert facts["failed_timeout"] == 1 and 0.2 <= time.monotonic() - began < 4


def test_no_answer_is_lost_when_everything_goes_wrong_at_once(server: LlmServer, tmp_path: Path) -> None:
    server.answer = lambda body: rating(1 + int(body["messages"][0]["content"].split()[1]) % 10)
    server.script = ["429", "reset", "500", "half", "cut", "say:nonsense", "429", "html", "reset", 'say:{"score": 99}']
    found, facts = ask(settings(server, tmp_path, concurrency=4), 30)
    assert {place: answer.score for place, answer in found.items() if isinstance(answer, Rating)} == {
        number: 1 + number % 10 for number in range(30)
    }
    assert facts["failed_schema"] == 2  # the two broken replies were sent back
    assert sum(count for name, count in facts.items() if name.startswith("failed_")) == 10
    assert facts["requests"] == len(server.bodies) == 30 + 10


def test_retry_after_holds_back_every_call(tmp_path: Path) -> None:
    with LlmServer(retry_after="1") as server:
        server.script = ["429"]
        began = time.monotonic()
        found, _ = ask(settings(server, tmp_path, concurrency=1), 3)
        assert len(found) == 3 and time.monotonic() - began >= 1


def test_retry_after_may_be_a_date() -> None:
    from mllmu.llm.endpoint import retry_after_s

    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 27 < retry_after_s(soon) <= 30
    assert [retry_after_s(odd) for odd in ("", "soon", "-3", "nan", "inf")] == [0, 0, 0, 0, 0]


def test_a_pause_longer_than_allowed_stops_with_advice(tmp_path: Path) -> None:
    with LlmServer(retry_after="3600") as server:
        server.script = ["429"]
        with pytest.raises(EndpointError, match=r"asks to wait 3600 s, more than max_wait_s \(120\).*kept"):
            ask(settings(server, tmp_path), 1)


def test_an_endpoint_that_never_recovers_stops_the_run_after_the_last_attempt(
    server: LlmServer, tmp_path: Path
) -> None:
    server.script = ["500"] * 3
    with pytest.raises(EndpointError, match=r"no answer in 3 attempts, the last time: status 500.*repeat the command"):
        ask(settings(server, tmp_path, max_attempts=3), 1)
    assert len(server.bodies) == 3


@pytest.mark.parametrize("proxy", ["socks5://me:pa55word@127.0.0.1:9", "http://127.0.0.1:port", "127.0.0.1:x:y"])
def test_a_proxy_that_cannot_be_used_is_named_without_its_password(
    server: LlmServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(EndpointError, match=r"the proxy in the environment \(.*ALL_PROXY") as stopped:
        ask(settings(server, tmp_path), 1)
    assert "pa55word" not in str(stopped.value)


def test_an_unreachable_endpoint_is_named(tmp_path: Path) -> None:
    given = EndpointSettings(model="m", base_url="http://127.0.0.1:9/v1", cache=tmp_path, max_attempts=2)
    with pytest.raises(EndpointError, match=r"http://127\.0\.0\.1:9/v1 \(m\): no answer in 2 attempts.*connection"):
        ask(given, 1)


@pytest.mark.parametrize(
    ("status", "advice"),
    [("401", "OPENAI_API_KEY is not accepted"), ("404", "knows the model 'm'"), ("302", "not followed")],
)
def test_a_lasting_fault_stops_at_once(server: LlmServer, tmp_path: Path, status: str, advice: str) -> None:
    server.script = [status] * 9
    with pytest.raises(EndpointError, match=advice):
        ask(settings(server, tmp_path, concurrency=1), 3)
    assert len(server.bodies) == 1


def test_a_broken_reply_is_sent_back_with_what_is_wrong(server: LlmServer, tmp_path: Path) -> None:
    server.script = ["say:I think seven.", 'say:{"score": 11, "reason": "x"}']
    found, facts = ask(settings(server, tmp_path), 1)
    assert found[0] == Rating(score=7, reason="fine") and facts["failed_schema"] == 2
    second, third = server.bodies[1]["messages"], server.bodies[2]["messages"]
    assert [message["role"] for message in second] == ["user", "assistant", "user"]
    assert second[1]["content"] == "I think seven." and "no JSON object" in second[2]["content"]
    assert len(third) == 3 and "score: Input should be less than or equal to 10" in third[2]["content"]


def test_a_reply_that_never_fits_is_reported_and_does_not_stop_the_others(server: LlmServer, tmp_path: Path) -> None:
    server.answer = lambda body: "never" if "question 1" in body["messages"][0]["content"] else rating()
    found, facts = ask(settings(server, tmp_path, repair_turns=1, concurrency=1), 3)
    assert isinstance(found[1], Unanswered) and "no reply fits the schema after 1 repair turns" in found[1].reason
    assert found[0] == found[2] == Rating(score=7, reason="fine")
    assert facts["failed_unanswered"] == 1 and facts["requests"] == 4


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ('{"score": 7, "reason": "ok \ud83d"}', "ok \ufffd"),  # half a pair in the message
        (r'{"score": 7, "reason": "ok \ud83d"}', "ok \ufffd"),  # half a pair spelled in the object
        (r'{"score": 7, "reason": "\ude00, \ud83d\ude00"}', "\ufffd, \U0001f600"),
    ],
)
def test_half_a_surrogate_pair_costs_one_character_and_not_the_reply(
    server: LlmServer, tmp_path: Path, said: str, read: str
) -> None:
    server.script = [f"say:{said}"]
    found, facts = ask(settings(server, tmp_path), 1)
    assert found == {0: Rating(score=7, reason=read)} and facts["requests"] == 1
    again, facts = ask(settings(server, tmp_path), 1)
    assert again == found and (facts["requests"], facts["cached"]) == (0, 1)


def test_a_reply_cut_off_by_the_token_limit_says_so(server: LlmServer, tmp_path: Path) -> None:
    server.script = ["length"]
    found, _ = ask(settings(server, tmp_path, repair_turns=0), 1)
    assert isinstance(found[0], Unanswered) and "cut off by the token limit" in found[0].reason


def test_a_model_that_only_ever_fails_is_stopped_before_it_costs_more(server: LlmServer, tmp_path: Path) -> None:
    server.answer = lambda _: "never"
    with pytest.raises(EndpointError, match=r"the first 5 calls to 'm' were all in vain.*'structured'"):
        ask(settings(server, tmp_path, repair_turns=0, concurrency=1), 50)
    assert len(server.bodies) == 5


def test_a_rejected_request_is_reported_and_the_others_go_on(server: LlmServer, tmp_path: Path) -> None:
    server.script = ["400"]
    found, _ = ask(settings(server, tmp_path, concurrency=1), 3)
    assert isinstance(found[0], Unanswered) and "rejected by the endpoint: status 400" in found[0].reason
    assert isinstance(found[1], Rating) and isinstance(found[2], Rating)


def test_a_second_run_costs_nothing(server: LlmServer, tmp_path: Path) -> None:
    first, _ = ask(settings(server, tmp_path), 12)
    given = settings(server, tmp_path, max_requests=0, concurrency=3, timeout_s=1, max_cost=0, price_in=1, price_out=1)
    assert Preview.of(given, Rating, calls(14), 0).num_cached == 12
    second, facts = ask(given, 12)
    assert second == first and (facts["requests"], facts["cached"], facts["cost"]) == (0, 12, 0)
    assert len(server.bodies) == 12


@pytest.mark.parametrize("change", [{"model": "n"}, {"temperature": 0.5}, {"max_tokens": 9}, {"parameters": {"a": 1}}])
def test_another_question_or_setting_is_asked_anew(server: LlmServer, tmp_path: Path, change: dict[str, Any]) -> None:
    ask(settings(server, tmp_path), 1)
    _, facts = ask(settings(server, tmp_path, **change), 1)
    assert facts["cached"] == 0 and len(server.bodies) == 2


def test_the_request_budget_is_exact_and_everything_paid_is_kept(server: LlmServer, tmp_path: Path) -> None:
    given = settings(server, tmp_path, max_requests=5, concurrency=4)
    with Client(given, Rating) as client, pytest.raises(BudgetError, match=r"max_requests is 5, spent 5.*kept"):
        list(client.ask_all(calls(20)))
    assert len(server.bodies) == 5
    yielded = []
    with Client(given, Rating) as client, pytest.raises(BudgetError):
        for pair in client.ask_all(calls(20)):
            yielded.append(pair)
    assert len(server.bodies) == 10 and len(yielded) == 10  # five from the cache, five new ones


def test_tokens_and_money_are_counted_and_limited(server: LlmServer, tmp_path: Path) -> None:
    priced = {"price_in": 2.0, "price_out": 5.0}
    _, facts = ask(settings(server, tmp_path / "a", **priced), 4)
    # 4 replies of 100 tokens read and 10 written: (400 * 2 + 40 * 5) / 10^6
    assert (facts["tokens_in"], facts["tokens_out"], facts["cost"]) == (400, 40, pytest.approx(0.001))
    with pytest.raises(BudgetError, match="max_total_tokens is 150, spent 220"):
        ask(settings(server, tmp_path / "b", max_total_tokens=150, concurrency=1), 9)
    with pytest.raises(BudgetError, match=r"max_cost is 0\.0004, spent 0\.0005"):
        ask(settings(server, tmp_path / "c", max_cost=0.0004, concurrency=1, **priced), 9)


def test_tokens_are_estimated_where_the_endpoint_does_not_count(server: LlmServer, tmp_path: Path) -> None:
    server.script = ["no usage"]
    _, facts = ask(settings(server, tmp_path), 1)
    assert facts["usage_estimated"] == 1
    assert facts["tokens_out"] == -(-len(rating()) // 4) and facts["tokens_in"] > 5


def test_no_more_requests_are_under_way_than_allowed(server: LlmServer, tmp_path: Path) -> None:
    def slow(_: Body) -> str:
        time.sleep(0.02)
        return rating()

    server.answer = slow
    ask(settings(server, tmp_path, concurrency=3), 12)
    assert server.most_at_once == 3


def test_leaving_early_sends_no_further_requests(server: LlmServer, tmp_path: Path) -> None:
    with Client(settings(server, tmp_path, concurrency=1), Rating) as client:
        for _ in client.ask_all(calls(500)):
            break
    assert len(server.bodies) < 100
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("llm")]


def everything_under(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_the_key_is_sent_and_reaches_no_file_no_log_and_no_message(
    server: LlmServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    server.answer = lambda _: rating(7, f"your key is {KEY}")
    found, _ = ask(settings(server, tmp_path), 3)
    assert {headers["authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    server.script = ["401"]
    with pytest.raises(EndpointError) as refused:
        ask(settings(server, tmp_path, model="other"), 1)
    server.script = ["400"]
    rejected, _ = ask(settings(server, tmp_path, model="third"), 1)
    out, err = capfd.readouterr()
    assert isinstance(found[0], Rating) and found[0].reason == "your key is (not shown)"
    for text in (str(refused.value), str(rejected), repr(found), caplog.text, out, err):
        assert KEY not in text
    assert "(not shown)" in str(refused.value)
    assert KEY.encode() not in everything_under(tmp_path) and everything_under(tmp_path)


def test_a_missing_key_is_explained_and_an_empty_variable_means_no_key(
    server: LlmServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(EndpointError, match=r"environment variable OPENAI_API_KEY is not set.*key_variable"):
        ask(settings(server, tmp_path), 1)
    ask(settings(server, tmp_path, key_variable=""), 1)
    ask(settings(server, tmp_path, key_variable=read_yaml("", where="--set key_variable=")), 1)
    assert "authorization" not in server.headers[0]
    monkeypatch.setenv("OTHER", f"{KEY}\nX-Evil: 1")
    with pytest.raises(EndpointError, match="OTHER holds no key") as error:
        ask(settings(server, tmp_path, key_variable="OTHER"), 1)
    assert KEY not in str(error.value)


@pytest.mark.parametrize(
    "given",
    [
        {"model": "m", "key_variable": KEY},
        {"key_variable": KEY},
        {"model": "m", "api_key": KEY},
        {"api_key": KEY},
        {"model": "m", "base_url": f"https://user:{KEY}@host/v1"},
        {"base_url": f"https://{KEY}@host/v1"},
    ],
)
def test_a_key_in_the_wrong_place_is_refused_without_repeating_it(given: dict[str, Any]) -> None:
    from pydantic import ValidationError

    with pytest.raises(ValidationError) as error:
        EndpointSettings(**given)
    assert KEY not in explain(error.value, EndpointSettings, where="judge.")
    assert KEY not in str(error.value)


@pytest.mark.parametrize("url", ["ftp://host/v1", "host/v1", "http://", "http://host:99999/v1", "http://h/v1?key=1"])
def test_an_impossible_address_is_refused(url: str) -> None:
    from mllmu.core.plugins import build

    with pytest.raises(RecipeError, match="base_url"):
        build("judges", "endpoint", {"model": "m", "base_url": url})


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="max_cost needs price_in"):
        EndpointSettings(model="m", max_cost=1)
    with pytest.raises(ValueError, match="give both or none"):
        EndpointSettings(model="m", price_in=1)
    with pytest.raises(ValueError, match="'stream' is set by the program"):
        EndpointSettings(model="m", parameters={"stream": True})


@pytest.mark.parametrize("way", ["json_schema", "json_object", "prompt"])
def test_the_schema_is_asked_for_in_the_way_the_endpoint_knows(server: LlmServer, tmp_path: Path, way: str) -> None:
    ask(settings(server, tmp_path, structured=way), 1)
    body = server.bodies[0]
    form = body.get("response_format", {})
    if way == "json_schema":
        schema = form["json_schema"]["schema"]
        assert form["json_schema"]["strict"] is True
        assert schema["additionalProperties"] is False and schema["required"] == ["score", "reason"]
        assert schema["properties"]["score"] == {"maximum": 10, "minimum": 1, "type": "integer"}
        return
    assert form == ({"type": "json_object"} if way == "json_object" else {})
    assert '"additionalProperties": false' in body["messages"][0]["content"]


def test_votes_differ_by_seed_and_so_do_their_replies_in_the_cache(server: LlmServer, tmp_path: Path) -> None:
    message = {"role": "user", "content": "same"}
    with Client(settings(server, tmp_path, concurrency=1), Rating) as client:
        list(client.ask_all([Call((message,), seed) for seed in (1, 2, 1)]))
        assert client.budget.facts()["requests"] == 2
    assert [body["seed"] for body in server.bodies] == [1, 2]


def test_a_damaged_cache_is_named(server: LlmServer, tmp_path: Path) -> None:
    ask(settings(server, tmp_path), 1)
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(b"this is no reply" * 100)
    with pytest.raises(RunStoreError, match=rf"{kept.name}: the cache of replies cannot be used.*'cache'"):
        ask(settings(server, tmp_path), 1)


def test_a_cache_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunStoreError, match=r"file: the cache of replies cannot be used \(.*exists.*'cache'"):
        ReplyCache(tmp_path / "file")


def test_a_cache_that_cannot_be_written_is_named_before_anything_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(**_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    with pytest.raises(RunStoreError, match=r"the cache of replies cannot be used \(.*denied.*'cache'"):
        ReplyCache(tmp_path)


def test_the_cache_holds_no_question(server: LlmServer, tmp_path: Path) -> None:
    ask(settings(server, tmp_path), 1)
    stored = everything_under(tmp_path)
    assert b"question 0" not in stored and json.dumps(rating())[1:-1].encode() in stored


def test_errors_of_the_endpoint_are_errors_for_users() -> None:
    assert issubclass(EndpointError, MllmuError) and issubclass(BudgetError, MllmuError)
