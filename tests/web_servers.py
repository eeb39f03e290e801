"""Web servers on this host that run as long as a block does."""

from __future__ import annotations

import http.server
import threading
from types import TracebackType
from typing import Self


class WebServer(http.server.ThreadingHTTPServer):
    """Serves on a free port until the block ends.

    Args:
        handler: Answers requests.

    Attributes:
        address: Scheme, host and port.
    """

    def __init__(self, handler: type[QuietHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self.server_port}"
        # By default a server looks twice a second whether it is to end, which each test would wait for.
        self._thread = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()


class QuietHandler(http.server.BaseHTTPRequestHandler):
    """Prints nothing."""

    def log_message(self, *_: object) -> None:
        """Nothing."""
