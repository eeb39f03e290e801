"""A host that is busy."""

from __future__ import annotations

import http.server
import threading

import pytest

from vidgen_dist.storage.files import open_input, read_bytes
from vidgen_dist.storage.listing import expand


class _Busy(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(503)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Quiet."""


def test_a_host_that_is_busy_is_not_told_as_a_missing_file() -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Busy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{server.server_port}/a.png"
        for call in (read_bytes, open_input, expand):
            with pytest.raises(OSError, match="503"):
                call(f"{uri}?sig=hunter2")
        server.shutdown()
