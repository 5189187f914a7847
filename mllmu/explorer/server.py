"""The explorer's server: the standard library's, on this machine alone, behind an address that cannot be guessed.

Other people on the machine, and pages of other sites in the user's browser, reach the port but not the data: every
address begins with a random token, the ``Host`` must be this server's, no name that was bent to 127.0.0.1, and what is
sent must come from a page of this server.
"""

from __future__ import annotations

import json
import secrets
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from mllmu.core.errors import MllmuError, one_line
from mllmu.explorer.site import Site, SiteAnswer, json_answer, not_found

HOST = "127.0.0.1"
MOST_BYTES = 16 * 2**20
"""Of what a page may send: a question with an image."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
OWN_POLICY = (
    "sandbox allow-scripts allow-downloads; default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""For reports and boards, whose scripts stand in the page: without the origin of this server, as a run folder may come
from others, they read nothing but themselves."""
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class ExplorerServer(ThreadingHTTPServer):
    """Serves a site on 127.0.0.1.

    Args:
        site: what is served.
        port: 0 takes any that is free.

    Raises:
        MllmuError: the port is taken or not allowed.
    """

    daemon_threads = True

    def __init__(self, site: Site, port: int = 0) -> None:
        self.site = site
        self.token = secrets.token_urlsafe(24)
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            raise MllmuError(f"port {port}: {error}. Name another one with --port; 0 takes any that is free.") from None
        names = (f"{name}:{self.server_port}" for name in (HOST, "localhost"))
        self.hosts = frozenset(names)

    @property
    def address(self) -> str:
        """Where the browser finds it."""
        return f"http://{HOST}:{self.server_port}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing where the browser has gone before it had its answer."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: ExplorerServer
    server_version, sys_version = "mllmu", ""
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        below = self._below(path)
        self._send(not_found() if below is None else self._answered(lambda: self.server.site.get(below, query)))

    def do_POST(self) -> None:
        below = self._below(self.path)
        if below is None or not self._from_own_page():
            self.close_connection = True
            self._send(not_found())
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MOST_BYTES:
            self.close_connection = True
            message = f"too much was sent. Expected at most {MOST_BYTES // 2**20} MiB."
            self._send(json_answer({"error": message}, HTTPStatus.REQUEST_ENTITY_TOO_LARGE))
            return
        content = self.rfile.read(int(length))
        self._send(self._answered(lambda: self.server.site.post(below, json.loads(content))))

    def _below(self, path: str) -> str | None:
        """The address below the token; None if the request is not meant for this server, or does not know the token."""
        token, _, rest = unquote(path).removeprefix("/").partition("/")
        known = secrets.compare_digest(token.encode(), self.server.token.encode())
        return rest if known and self.headers.get("Host", "") in self.server.hosts else None

    def _from_own_page(self) -> bool:
        """Whether a page of this server sends; other sites cannot send JSON here, nor pretend to be this one."""
        origin, kind = self.headers.get("Origin", ""), self.headers.get("Content-Type", "")
        same = self.headers.get("Sec-Fetch-Site", "same-origin") == "same-origin"
        return same and origin.removeprefix("http://") in self.server.hosts and kind == "application/json"

    def _answered(self, answer: Any) -> SiteAnswer:
        try:
            found: SiteAnswer = answer()
        except (MllmuError, ValueError) as error:
            return json_answer({"error": str(error)}, HTTPStatus.BAD_REQUEST)
        except Exception as error:  # noqa: BLE001 - one request must not end the server, and the page shows why
            return json_answer({"error": one_line(error)}, HTTPStatus.INTERNAL_SERVER_ERROR)
        return found

    def _send(self, answer: SiteAnswer) -> None:
        self.send_response(answer.status)
        policy = OWN_POLICY if answer.own else POLICY
        headers = {**HEADERS, "Content-Security-Policy": policy, "Content-Type": answer.kind}
        if answer.location:
            headers["Location"] = f"/{self.server.token}/{answer.location}"
        for name, value in {**headers, "Content-Length": str(len(answer.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, *_: Any) -> None:
        """Nothing: an address holds the token."""
