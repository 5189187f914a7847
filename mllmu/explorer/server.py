"""The explorer's server: the standard library's, on this machine alone, behind an address that cannot be guessed.

Other people on the machine, and pages of other sites in the user's browser, reach the port but not the data: every
address begins with a random token, and the ``Host`` must be this server's, no name that was bent to 127.0.0.1.
"""

from __future__ import annotations

import secrets
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from mllmu.core.errors import MllmuError, one_line
from mllmu.explorer.site import Site, SiteAnswer, json_answer, not_found

HOST = "127.0.0.1"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
OWN_POLICY = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""For pages that carry the rest of their policy themselves: reports and boards."""
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


class _Handler(BaseHTTPRequestHandler):
    server: ExplorerServer
    server_version, sys_version = "mllmu", ""
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        below = self._below(path)
        self._send(not_found() if below is None else self._answered(lambda: self.server.site.get(below, query)))

    def _below(self, path: str) -> str | None:
        """The address below the token; None if the request is not meant for this server, or does not know the token."""
        token, _, rest = unquote(path).removeprefix("/").partition("/")
        known = secrets.compare_digest(token.encode(), self.server.token.encode())
        return rest if known and self.headers.get("Host", "") in self.server.hosts else None

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
