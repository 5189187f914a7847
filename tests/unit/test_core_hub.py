"""A folder is put on a hub by the hub's own client; a server on loopback stands in for the hub."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from mllmu.core.errors import EndpointError
from mllmu.core.hub import push


class Hub(BaseHTTPRequestHandler):
    """Makes repositories and takes commits of whole files; writes only with the token ``good``."""

    made: dict[str, dict[str, Any]]
    files: dict[str, bytes]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        if self.headers.get("Authorization") != "Bearer good":
            return self._say(401, {"error": "Invalid credentials"})
        parts = self.path.strip("/").split("/")
        if self.path == "/api/validate-yaml":
            return self._say(200, {"errors": [], "warnings": []})
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization', 'me')}/{asked['name']}"
            type(self).made[name] = asked
            place = f"datasets/{name}" if asked.get("type") == "dataset" else name
            return self._say(200, {"url": f"http://{self.headers['Host']}/{place}", "id": name, "name": name})
        if parts[4] == "preupload":
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            return self._say(200, {"files": files})
        assert parts[4] == "commit"
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                type(self).files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        url = f"http://{self.headers['Host']}/{parts[2]}/{parts[3]}/commit/abc"
        return self._say(200, {"success": True, "commitOid": "abc", "commitUrl": url, "hookOutput": ""})

    def do_GET(self) -> None:
        if self.headers.get("Authorization") != "Bearer good":
            return self._say(401, {"error": "Invalid credentials"})
        return self._say(200, {"id": "/".join(self.path.split("/")[3:5]), "siblings": [], "sha": "abc"})

    def _say(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    kind = type("OneHub", (Hub,), {"made": {}, "files": {}})
    server = HTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.hf_api.is_xet_available", lambda: False)
    yield kind
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_a_folder_arrives_as_it_is_in_a_private_repository(
    hub: type[Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    monkeypatch.setenv("HF_TOKEN", "good")
    files = {"README.md": b"---\ntags: [x]\n---\n# Card\n", "data/weights.safetensors": bytes(range(256)) * 10}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    address = push(tmp_path, "lab/forgetful", kind=kind)
    assert address.endswith("/commit/abc")
    assert {name: hub.files[name] for name in files} == files
    assert hub.made["lab/forgetful"].get("visibility") == "private"
    assert hub.made["lab/forgetful"].get("type", "model") == kind


@pytest.mark.parametrize(
    ("repository", "token", "said"), [("lab/x", "bad", "401"), ("no such/name", "good", "Repo id")]
)
def test_a_refusal_is_one_clear_error_and_the_folder_stays(
    hub: type[Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: str, token: str, said: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    (tmp_path / "README.md").write_text("# Card\n")
    with pytest.raises(EndpointError, match=f"--push {repository}: .*{said}.*a token that may write there"):
        push(tmp_path, repository, kind="model")
    assert (tmp_path / "README.md").is_file() and not hub.files


def test_a_hub_that_is_not_there_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", "good")
    with pytest.raises(EndpointError, match=r"--push lab/x: .*refused.*http://127\.0\.0\.1:9"):
        push(tmp_path, "lab/x", kind="model")
