"""A WebHDFS service in memory: a name node, which is also the data node. Its rename does not overwrite."""

from __future__ import annotations

import json
import posixpath
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.web_servers import QuietHandler, WebServer


class WebHdfs(WebServer):
    """Serves until the block ends.

    Attributes:
        files: Content by path.
        data_node_status: With which the data node answers reads.
    """

    def __init__(self) -> None:
        super().__init__(_Answer)
        self.files: dict[str, bytes] = {}
        self.folders = {"/"}
        self.data_node_status = 200


class _Answer(QuietHandler):
    server: WebHdfs
    protocol_version = "HTTP/1.1"
    # Or each answer waits 40 ms for the one who asked.
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        self.path_of = "/" + unquote(url.path.removeprefix("/webhdfs/v1")).strip("/")
        self.query = dict(parse_qsl(url.query))
        on_data_node = "datanode" in self.query
        getattr(self, f"_{self.query['op'].lower()}")(body, on_data_node)

    do_PUT = do_POST = do_DELETE = do_GET

    def _send(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _json(self, content: Any, status: int = 200) -> None:
        self._send(status, json.dumps(content).encode())

    def _fail(self, status: int, kind: str, message: str) -> None:
        self._json({"RemoteException": {"exception": kind, "message": message}}, status)

    def _missing(self) -> None:
        self._fail(404, "FileNotFoundException", f"File does not exist: {self.path_of}")

    def _redirect(self) -> None:
        self._send(307, Location=f"{self.server.address}{self.path}&datanode=1")

    def _status(self, path: str, suffix: str = "") -> dict[str, Any]:
        size = len(self.server.files.get(path, b""))
        kind = "FILE" if path in self.server.files else "DIRECTORY"
        return {"pathSuffix": suffix, "type": kind, "length": size, "modificationTime": 0}

    def _getfilestatus(self, *_: Any) -> None:
        if self.path_of in self.server.files or self.path_of in self.server.folders:
            self._json({"FileStatus": self._status(self.path_of)})
        else:
            self._missing()

    def _liststatus(self, *_: Any) -> None:
        if self.path_of in self.server.files:
            self._json({"FileStatuses": {"FileStatus": [self._status(self.path_of)]}})
        elif self.path_of in self.server.folders:
            inside = [
                path
                for path in (*self.server.files, *self.server.folders)
                if path != "/" and posixpath.dirname(path) == self.path_of
            ]
            found = [self._status(path, posixpath.basename(path)) for path in inside]
            self._json({"FileStatuses": {"FileStatus": found}})
        else:
            self._missing()

    def _mkdirs(self, *_: Any) -> None:
        folder = self.path_of
        while folder != "/":
            self.server.folders.add(folder)
            folder = posixpath.dirname(folder)
        self._json({"boolean": True})

    def _create(self, body: bytes, on_data_node: bool) -> None:
        if not on_data_node:
            self._redirect()
            return
        self.server.files[self.path_of] = body
        self._send(201)

    def _append(self, body: bytes, on_data_node: bool) -> None:
        if not on_data_node:
            self._redirect()
            return
        self.server.files[self.path_of] += body
        self._send(200)

    def _open(self, _body: bytes, on_data_node: bool) -> None:
        if self.path_of not in self.server.files:
            self._missing()
        elif not on_data_node:
            self._redirect()
        elif self.server.data_node_status == 200:
            start = int(self.query.get("offset", 0))
            self._send(200, self.server.files[self.path_of][start:][: int(self.query["length"])])
        else:
            self._fail(self.server.data_node_status, "IOException", "it is not yours")

    def _rename(self, *_: Any) -> None:
        target = self.query["destination"]
        possible = self.path_of in self.server.files and target not in self.server.files
        if possible:
            self.server.files[target] = self.server.files.pop(self.path_of)
        self._json({"boolean": possible})

    def _delete(self, *_: Any) -> None:
        self._json({"boolean": self.server.files.pop(self.path_of, None) is not None})
