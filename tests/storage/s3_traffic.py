"""The traffic between S3 clients and moto's server: counted, and damaged on request."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

HANG_SECONDS = 1.5
"""How long a request hangs: longer than the timeout that clients are given."""

_REFUSALS = {
    "500 Internal Server Error": "InternalError",
    "503 Service Unavailable": "SlowDown",
}


class Traffic:
    """A WSGI application before another one.

    A spoiled request is, by chance, refused with a 500 or 503 status, obeyed and then answered with a 500
    status, obeyed and its connection cut without an answer, or left hanging and then cut.

    Attributes:
        counts: Requests by method and path.
        obeyed: When requests were first obeyed, by method and path, by the system's clock.
        spoiled: Requests that were spoiled, by kind.

    Args:
        app: Who answers.
        share: Of the requests, those to be spoiled.
        seed: Of the chance.
    """

    def __init__(self, app: Any, share: float = 0.0, seed: int = 0) -> None:
        self.share = share
        self.counts: Counter[tuple[str, str]] = Counter()
        self.obeyed: dict[tuple[str, str], float] = {}
        self.spoiled: Counter[str] = Counter()
        self._app = app
        self._random = random.Random(seed)
        self._guard = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        with self._guard:
            self.counts[environ["REQUEST_METHOD"], environ["PATH_INFO"]] += 1
            spoil = self._random.random() < self.share
            kind = self._random.choice(["refused", "obeyed", "cut", "hanging"]) if spoil else ""
            if kind:
                self.spoiled[kind] += 1
            status = self._random.choice(list(_REFUSALS))
        if kind == "refused":
            # Else the connection's next request would begin with what was not read of this one.
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            return _refuse(status, start_response)
        if kind in ("obeyed", "cut"):
            for _ in self._obey(environ, lambda *_: _ignore):
                pass
            if kind == "obeyed":
                return _refuse("500 Internal Server Error", start_response)
        if kind == "hanging":
            time.sleep(HANG_SECONDS)
        if kind:
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            return _refuse("500 Internal Server Error", start_response)
        return self._obey(environ, start_response)

    def _obey(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        def start(status: str, *headers: Any) -> Any:
            # A request that its client did not send to the end is not.
            if status.startswith("2"):
                self.obeyed.setdefault((environ["REQUEST_METHOD"], environ["PATH_INFO"]), time.time())
            return start_response(status, *headers)

        return self._app(environ, start)  # type: ignore[no-any-return]


def _refuse(status: str, start_response: Any) -> list[bytes]:
    body = f"<Error><Code>{_REFUSALS[status]}</Code><Message>sorry</Message></Error>".encode()
    start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]


def _ignore(_data: bytes) -> None:
    """Takes the body of an answer that is not sent."""
