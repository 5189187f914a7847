"""One request to an endpoint: it gives a reply, which is kept on disk, a fault worth another try, or an error."""

import json
import math
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx2
from pydantic import ValidationError

from mllmu.core.confidential import HIDDEN, redacted
from mllmu.core.errors import EndpointError, RunStoreError
from mllmu.core.records import Record
from mllmu.core.runfolder import write_atomic
from mllmu.llm.schema import without_halves
from mllmu.llm.settings import EndpointSettings

MAX_BYTES = 8 * 2**20
"""A chat reply has some kilobytes; an endpoint that sends more than this is at fault."""
EXCERPT = 200
CHARACTERS_PER_TOKEN = 4
_NOT_TAKEN = re.compile(
    r"(?:un|not |n't )(?:support|recogni[sz]ed|known|expected|permitted|allowed)|extra|only the default|deprecated",
    re.IGNORECASE,
)
_PROXIES = frozenset({"http_proxy", "https_proxy", "all_proxy"})
_AGAIN = frozenset({408, 409, 425, 429})
_THIS_REQUEST = frozenset({400, 413, 422})


class Reply(Record):
    """What an endpoint answered: the text, and the tokens that were read and written.

    ``estimated`` says that the endpoint did not count its tokens and that four characters were taken for one.
    """

    text: str
    tokens_in: int
    tokens_out: int
    finished: bool = True
    estimated: bool = False


class Transient(Exception):  # noqa: N818 - a signal between two modules, never seen by users
    """No reply this time; trying again may help. ``wait_s``: the least pause that the endpoint asked for."""

    def __init__(self, kind: str, detail: str, wait_s: float = 0.0) -> None:
        super().__init__(detail)
        self.kind = kind
        self.wait_s = wait_s


class RefusedRequest(Exception):  # noqa: N818
    """The endpoint will not answer this one request (too long, filtered, malformed)."""


def _unusable_proxy(why: str) -> str:
    names = [name for name in os.environ if name.lower() in _PROXIES]
    return (
        f"the proxy in the environment ({', '.join(names) or 'none'}) cannot be used: {redacted(why)} Expected "
        "http://HOST:PORT; for socks5://HOST:PORT install socksio; or unset the variable."
    )


class Endpoint:
    """The connection pool of one endpoint; safe to use from many threads.

    Raises:
        EndpointError: the key is missing, or a proxy of the environment cannot be used.
    """

    def __init__(self, settings: EndpointSettings) -> None:
        self._settings = settings
        self._key = settings.key()
        self._url = f"{settings.base_url}/chat/completions"
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        limits = httpx2.Limits(max_connections=settings.concurrency)
        try:
            self._http = httpx2.Client(headers=headers, timeout=settings.timeout_s, limits=limits)
        except (ImportError, ValueError, httpx2.InvalidURL) as error:
            raise EndpointError(f"{self._url}: {_unusable_proxy(str(error))}") from None

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def post(self, body: dict[str, Any]) -> Reply:
        """Send one request and read its reply.

        Raises:
            Transient: no connection, silence, a reply cut short, 408, 409, 425, 429, 5xx, or no chat reply in it.
            RefusedRequest: 400, 413, 422: this request, not the endpoint, is the trouble.
            EndpointError: any other status (wrong key, wrong path, unknown model, a redirect).
        """
        try:
            status, headers, content = self._exchange(body)
        except httpx2.TimeoutException:
            raise Transient("timeout", f"no complete reply within {self._settings.timeout_s:g} s") from None
        except httpx2.RequestError as error:
            raise Transient("connection", f"the connection failed ({self._plain(str(error))})") from None
        text = content.decode("utf-8", errors="replace")
        if status == 200:
            return self._reply(text, body)
        raise self._fault(status, headers, self._plain(text))

    def _exchange(self, body: dict[str, Any]) -> tuple[int, httpx2.Headers, bytes]:
        """Read the body piece by piece, so that neither an endless nor an endlessly slow one is waited for."""
        content, deadline = bytearray(), time.monotonic() + self._settings.timeout_s
        with self._http.stream("POST", self._url, json=body) as response:
            for piece in response.iter_bytes():
                content += piece
                if len(content) > MAX_BYTES:
                    raise EndpointError(f"{self._url}: sent more than {MAX_BYTES // 2**20} MiB for one reply.")
                if time.monotonic() > deadline:
                    raise httpx2.ReadTimeout("too slow")
            return response.status_code, response.headers, bytes(content)

    def _reply(self, text: str, body: dict[str, Any]) -> Reply:
        try:
            answer = json.loads(text)
            choice = answer["choices"][0]
            said = choice["message"].get("content") or choice["message"].get("refusal") or ""
            usage = answer.get("usage") or {}
            counted = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
            finished = choice.get("finish_reason") != "length"
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise Transient("damaged", f"status 200, but no chat reply: {self._plain(text)}") from None
        if not isinstance(said, str):
            raise Transient("damaged", "status 200, but the content of the message is not text")
        said = without_halves(said)
        known = all(type(count) is int and count >= 0 for count in counted)
        texts = (json.dumps(body["messages"]), said)
        read, written = counted if known else [math.ceil(len(text) / CHARACTERS_PER_TOKEN) for text in texts]
        return Reply(
            text=self._redact(said), tokens_in=read, tokens_out=written, finished=finished, estimated=not known
        )

    def _fault(self, status: int, headers: httpx2.Headers, text: str) -> Exception:
        said = f"status {status}: {text or 'no explanation'}"
        if status in _AGAIN or status >= 500:
            return Transient(str(status), said, retry_after_s(headers.get("retry-after", "")))
        if status in _THIS_REQUEST:
            return RefusedRequest(said + self._advice(text))
        key = f"The key in the environment variable {self._settings.key_variable or '(none)'} is not accepted."
        model = f"Check base_url, and that the endpoint knows the model '{self._settings.model}'."
        moved = "Redirects are not followed, since the key would go along; give the final address as base_url."
        other = moved if 300 <= status < 400 else "Check the settings of the endpoint."
        advice = {401: key, 403: key, 404: model}.get(status, other)
        return EndpointError(f"{self._url}: {said}. {advice}")

    def _advice(self, text: str) -> str:
        """How to leave out what an endpoint does not know or take, if it names that; empty for any other refusal."""
        named = re.search(r"\b(max_tokens|temperature|response_format|json_schema)\b", text)
        if not named or not _NOT_TAKEN.search(text):
            return ""
        limit = f"max_tokens: null and parameters: {{max_completion_tokens: {self._settings.max_tokens or 1000}}}"
        return (
            f". Set {({'max_tokens': limit, 'temperature': 'temperature: null'}).get(named[1], 'structured: prompt')}"
        )

    def _plain(self, text: str) -> str:
        """An excerpt for a message, in one line and without the key."""
        line = " ".join(self._redact(text).split())
        return line if len(line) <= EXCERPT else f"{line[:EXCERPT]} ..."

    def _redact(self, text: str) -> str:
        return text.replace(self._key, HIDDEN) if self._key else text


def retry_after_s(value: str) -> float:
    """Seconds of a Retry-After header, given as a number or as a date; 0 if there is none or it is unreadable."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return 0.0
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0


class ReplyCache:
    """Replies by the digest of their request, a file each; threads and processes may share it.

    It holds neither questions nor keys; the folder is readable by its owner only. To forget the replies, delete it.

    Args:
        folder: made if missing.

    Raises:
        RunStoreError: the folder cannot be made or written, or a file in it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with _explained(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):  # before anything is paid for
                pass

    def get(self, key: str) -> Reply | None:
        """The kept reply, None if there is none."""
        path = self._folder / f"{key}.json"
        with _explained(path):
            return Reply.model_validate_json(path.read_bytes()) if path.is_file() else None

    def put(self, key: str, reply: Reply) -> None:
        """Keep a reply; it is on disk when this returns."""
        path = self._folder / f"{key}.json"
        with _explained(path):
            write_atomic(path, reply.model_dump_json())


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RunStoreError, ValidationError) as error:
        reason = "a damaged entry" if isinstance(error, ValidationError) else error.__cause__ or error
        raise RunStoreError(
            f"{path}: the cache of replies cannot be used ({reason}). Free space, delete the file if it is damaged, "
            "or choose another folder with the setting 'cache'."
        ) from None
