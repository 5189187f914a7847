"""A real HTTP server on loopback that speaks the chat protocol, and misbehaves on demand.

with LlmServer(answer=lambda body: '{"score": 7, "reason": "x"}') as server:
    server.script += ["429", "reset", "half"]      # the first three requests, then everything is answered
"""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

Body = dict[str, Any]
KEY = "sk-test-0123456789-secret"


def rating(score: int = 7, reason: str = "fine") -> str:
    return json.dumps({"score": score, "reason": reason})


class LlmServer:
    """Answers every request with ``answer(body)``, after doing what ``script`` says, one entry a request.

    Entries: a status as text ("429", "500", "400", "401", "404", "302"), or "reset", "silence", "half" (fewer bytes
    than announced), "cut" (JSON cut short, announced as it is), "html", "empty" (no choices), "no usage", "length"
    (cut off by the token limit), "say:<content>", "refuse:<message>" (status 400).
    """

    def __init__(self, answer: Callable[[Body], str] = lambda _: rating(), *, retry_after: str = "") -> None:
        self.answer = answer
        self.retry_after = retry_after
        self.script: list[str] = []
        self.bodies: list[Body] = []
        self.headers: list[dict[str, str]] = []
        self.most_at_once = 0
        self._at_once = 0
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name in the base class
                del format, args

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server.lock:
                    server.bodies.append(body)
                    server.headers.append({name.lower(): value for name, value in self.headers.items()})
                    todo = server.script.pop(0) if server.script else ""
                    server._at_once += 1
                    server.most_at_once = max(server.most_at_once, server._at_once)
                try:
                    server._act(self, body, todo)
                finally:
                    with server.lock:
                        server._at_once -= 1

        return Handler

    def _act(self, handler: BaseHTTPRequestHandler, body: Body, todo: str) -> None:
        if todo == "reset":
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()
            handler.close_connection = True
        elif todo == "silence":
            self.closing.wait(10)
            handler.close_connection = True
        elif todo.isdecimal():
            # Some servers repeat the key they were sent; the client must not pass that on.
            said = json.dumps({"error": {"message": f"no, {handler.headers.get('Authorization')}"}})
            self._send(handler, int(todo), said.encode())
        elif todo.startswith("refuse:"):
            said = json.dumps({"error": {"message": todo.removeprefix("refuse:")}})
            self._send(handler, 400, said.encode())
        elif todo == "html":
            self._send(handler, 200, b"<html>maintenance</html>")
        elif todo == "empty":
            self._send(handler, 200, b'{"choices": []}')
        else:
            self._reply(handler, body, todo)

    def _reply(self, handler: BaseHTTPRequestHandler, body: Body, todo: str) -> None:
        said = todo.removeprefix("say:") if todo.startswith("say:") else self.answer(body)
        choice = {"message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
        if todo == "length":
            choice |= {"message": {"role": "assistant", "content": said[:5]}, "finish_reason": "length"}
        answer: Body = {"choices": [choice], "usage": {"prompt_tokens": 100, "completion_tokens": 10}}
        if todo == "no usage":
            del answer["usage"]
        data = json.dumps(answer).encode()
        if todo == "half":
            self._send(handler, 200, data[: len(data) // 2], announced=len(data))
        else:
            self._send(handler, 200, data[: len(data) // 2] if todo == "cut" else data)

    def _send(self, handler: BaseHTTPRequestHandler, status: int, data: bytes, *, announced: int | None = None) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(announced or len(data)))
        if self.retry_after and status in (429, 503):
            handler.send_header("Retry-After", self.retry_after)
        if status == 302:
            handler.send_header("Location", "/elsewhere")
        handler.end_headers()
        handler.wfile.write(data)
        handler.close_connection = announced is not None
