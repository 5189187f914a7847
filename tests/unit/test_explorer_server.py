"""The explorer behind its socket: who may read it, what it sends along, several runs, and the command."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest
from helpers_explorer import make_evaluated_run, tree

from mllmu.core.errors import DataError, MllmuError
from mllmu.explorer.board import site_of
from mllmu.explorer.server import HOST, ExplorerServer


@contextmanager
def serving(server: ExplorerServer) -> Iterator[ExplorerServer]:
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run; do not write into it."""
    return make_evaluated_run(tmp_path_factory.mktemp("served") / "run")


@pytest.fixture(scope="module")
def server(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExplorerServer]:
    with serving(ExplorerServer(site_of([root], tmp_path_factory.mktemp("board")))) as made:
        yield made


def get(server: ExplorerServer, path: str, host: str = "") -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection(HOST, server.server_port, timeout=20)
    connection.request("GET", path, headers={"Host": host or f"{HOST}:{server.server_port}"})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response, content


def test_every_answer_forbids_foreign_scripts_and_frames(server: ExplorerServer) -> None:
    for path in ("run/0/", "run/0/api/run", "static/explorer.js", "nothing"):
        response, _ = get(server, f"/{server.token}/{path}")
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "script-src 'self'" in policy and "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Referrer-Policy"] == "no-referrer"


def test_without_the_token_there_is_nothing(server: ExplorerServer) -> None:
    for path in ("/", "/run/0/", f"/{server.token[:-1]}/run/0/", "/static/explorer.js"):
        response, content = get(server, path)
        assert response.status == 404 and b"explorer" not in content.lower()


def test_a_name_that_was_bent_to_this_machine_reads_nothing(server: ExplorerServer) -> None:
    for host in ("evil.example", f"evil.example:{server.server_port}", HOST):
        assert get(server, f"/{server.token}/run/0/", host)[0].status == 404
    assert get(server, f"/{server.token}/run/0/", f"localhost:{server.server_port}")[0].status == 200


def test_it_listens_on_this_machine_alone(server: ExplorerServer) -> None:
    assert server.server_address[0] == "127.0.0.1"


@pytest.fixture
def asking(server: ExplorerServer, monkeypatch: pytest.MonkeyPatch) -> ExplorerServer:
    """The server with a model that repeats what it is sent."""
    monkeypatch.setattr(server.site, "asks", {"api/ask": lambda run, content: {"run": run.name, "said": content}})
    return server


def post(server: ExplorerServer, content: bytes, path: str = "run/0/api/ask", **changed: str) -> tuple[int, bytes]:
    own = f"{HOST}:{server.server_port}"
    headers = {"Host": own, "Origin": f"http://{own}", "Content-Type": "application/json"}
    headers |= {name.replace("_", "-"): value for name, value in changed.items()}
    connection = http.client.HTTPConnection(HOST, server.server_port, timeout=20)
    connection.request("POST", f"/{server.token}/{path}", content, {k: v for k, v in headers.items() if v})
    response = connection.getresponse()
    found = response.status, response.read()
    connection.close()
    return found


def test_a_page_of_its_own_may_ask(asking: ExplorerServer) -> None:
    status, content = post(asking, b'{"text": "Who?"}', Sec_Fetch_Site="same-origin")
    assert status == 200 and json.loads(content) == {"run": "run", "said": {"text": "Who?"}}
    assert json.loads(asking.site.get("run/0/api/run").body)["asks"] is True


@pytest.mark.parametrize(
    "changed",
    [
        {"Origin": "http://evil.example"},
        {"Origin": ""},
        {"Origin": "null"},
        {"Host": "evil.example"},
        {"Content_Type": "text/plain"},
        {"Sec_Fetch_Site": "cross-site"},
    ],
)
def test_no_other_page_may_ask(asking: ExplorerServer, changed: dict[str, str]) -> None:
    assert post(asking, b"{}", **changed)[0] == 404


def test_what_is_no_question_is_refused(asking: ExplorerServer) -> None:
    assert post(asking, b"{")[0] == 400
    assert post(asking, b"{}", path="run/0/api/other")[0] == 404
    assert post(asking, b"{}", Content_Length=str(1 << 30))[0] == 413


def test_without_ask_there_is_nobody_to_ask(server: ExplorerServer) -> None:
    assert post(server, b"{}")[0] == 404
    assert json.loads(server.site.get("run/0/api/run").body)["asks"] is False


def test_the_first_page_of_one_run_is_its_explorer(server: ExplorerServer) -> None:
    response, _ = get(server, f"/{server.token}/")
    assert response.status == 302 and response.headers["Location"] == f"/{server.token}/run/0/"
    _, content = get(server, response.headers["Location"])
    assert b"explorer.js" in content


def test_nothing_of_others_is_loaded_and_no_markup_is_made_from_text() -> None:
    folder = Path(sys.modules["mllmu.explorer"].__file__ or "").parent / "static"
    for path in folder.iterdir():
        text = path.read_text(encoding="utf-8")
        assert "https://" not in text and "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    script = (folder / "explorer.js").read_text(encoding="utf-8")
    assert not [
        word for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(") if word in script
    ]


def test_a_port_that_is_taken_is_named(server: ExplorerServer) -> None:
    with pytest.raises(MllmuError, match=f"port {server.server_port}: .*--port"):
        ExplorerServer(server.site, server.server_port)


def test_several_runs_open_on_their_board(tmp_path: Path) -> None:
    runs = [make_evaluated_run(tmp_path / name) for name in ("one", "two")]
    (runs[0] / "report").mkdir()
    (runs[0] / "report/index.html").write_text("<title>report of one</title>", encoding="utf-8")
    (runs[1] / "recipe.yaml").write_text("name: two\nseed: 1\n", encoding="utf-8")
    before = tree(tmp_path)
    (tmp_path / "scratch").mkdir()
    site = site_of([*runs, runs[0]], tmp_path / "scratch")
    assert site.get("").location == "board/"
    page = site.get("board/").body.decode()
    assert 'href="../run/0/#evaluation=10+%25"' in page and 'href="../run/1/#evaluation=10+%25"' in page
    assert 'href="../run/0/report/index.html"' in page and "../run/1/report" not in page
    report = site.get("run/0/report/index.html")
    assert report.own and b"report of one" in report.body
    assert json.loads(site.get("run/1/api/run").body)["name"] == "two"
    assert site.get("board/results").location == "board/results/" and b".csv" in site.get("board/results/").body
    assert site.get("board/board.csv").status == 200
    assert {path: at for path, at in tree(tmp_path).items() if not path.startswith("scratch")} == before


def test_runs_that_cannot_be_compared_still_open(tmp_path: Path) -> None:
    runs = [make_evaluated_run(tmp_path / name, scored=False) for name in ("one", "two")]
    (tmp_path / "scratch").mkdir()
    page = site_of(runs, tmp_path / "scratch").get("board/").body.decode()
    assert "No board: " in page and 'href="../run/1/"' in page


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no evaluation"):
        site_of([tmp_path], tmp_path)


def test_the_command_prints_the_address_and_ends_with_ctrl_c(root: Path) -> None:
    command = [sys.executable, "-u", "-m", "mllmu", "view", str(root), "--no-browser"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as running:
        line = running.stdout.readline() if running.stdout else ""
        address = line.split()[1]
        assert address.startswith(f"http://{HOST}:")
        host, _, path = address.removeprefix("http://").partition("/")
        connection = http.client.HTTPConnection(host, timeout=20)
        connection.request("GET", f"/{path}run/0/api/questions?split=forget")
        assert json.loads(connection.getresponse().read())["total"] == 3
        connection.close()
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=20)
    assert running.returncode == 0 and errors == ""


def test_a_browser_that_leaves_is_no_error(server: ExplorerServer, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise BrokenPipeError
    except BrokenPipeError:
        server.handle_error(None, ("127.0.0.1", 1))
    assert capsys.readouterr().err == ""
    try:
        raise KeyError("x")
    except KeyError:
        server.handle_error(None, ("127.0.0.1", 1))
    assert "KeyError" in capsys.readouterr().err
