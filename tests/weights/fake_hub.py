"""A model hub on localhost: the few endpoints that huggingface_hub uses, with files in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import unquote

from tests.web_servers import QuietHandler, WebServer


@dataclass
class Repository:
    """The commits of one model, and the names that point at them."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False

    def commit(self, files: dict[str, bytes], *refs: str) -> str:
        """Add a commit that holds `files`; the refs then point at it. Returns its hash."""
        text = json.dumps(
            {name: hashlib.sha1(data).hexdigest() for name, data in files.items()}, sort_keys=True
        )
        sha = hashlib.sha1(text.encode()).hexdigest()
        self.commits[sha] = dict(files)
        self.refs |= dict.fromkeys(refs, sha)
        return sha

    def resolve(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.refs.get(revision)


@dataclass
class Hub:
    """What the server has, and which requests it got.

    Args:
        endpoint: Its address, for HF_ENDPOINT.
        repositories: Models by id.
        delivered: "commit/file" of every download, in order.
        asked: Method and path of every request, in order.
        failing: While set, every answer is this HTTP status.
    """

    endpoint: str
    repositories: dict[str, Repository] = field(default_factory=dict)
    delivered: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    failing: int | None = None


@contextmanager
def serve() -> Iterator[Hub]:
    with WebServer(_Handler) as server:
        hub = Hub(server.address)
        server.hub = hub  # type: ignore[attr-defined]
        yield hub


class _Handler(QuietHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        path = unquote(self.path.partition("?")[0])
        hub.asked.append(f"{self.command} {path}")
        if hub.failing is not None:
            self._send(hub.failing)
        elif path.startswith("/api/models/"):
            model, _, revision = path.removeprefix("/api/models/").partition("/tree/")
            if revision:
                self._tree(hub, model, revision)
                return
            model, _, revision = model.partition("/revision/")
            self._info(hub, model, revision or "main")
        elif "/resolve/" in path:
            model, _, rest = path.lstrip("/").partition("/resolve/")
            revision, _, name = rest.partition("/")
            self._file(hub, model, revision, name)
        else:
            self._send(404)

    def _found(self, hub: Hub, model: str, revision: str) -> tuple[Repository, str] | None:
        repository = hub.repositories.get(model)
        if repository is None:
            self._send(404, {"X-Error-Code": "RepoNotFound"})
            return None
        commit = repository.resolve(revision)
        if commit is None:
            self._send(404, {"X-Error-Code": "RevisionNotFound"})
            return None
        return repository, commit

    def _info(self, hub: Hub, model: str, revision: str) -> None:
        found = self._found(hub, model, revision)
        if found is not None:
            repository, commit = found
            siblings = [{"rfilename": name} for name in repository.commits[commit]]
            body = json.dumps({"id": model, "modelId": model, "sha": commit, "siblings": siblings})
            self._send(200, {"Content-Type": "application/json"}, body.encode())

    def _tree(self, hub: Hub, model: str, revision: str) -> None:
        """The list of files that huggingface_hub 2 asks for."""
        found = self._found(hub, model, revision)
        if found is not None:
            repository, commit = found
            listed = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in repository.commits[commit].items()
            ]
            self._send(200, {"Content-Type": "application/json"}, json.dumps(listed).encode())

    def _file(self, hub: Hub, model: str, revision: str, name: str) -> None:
        found = self._found(hub, model, revision)
        if found is None:
            return
        repository, commit = found
        if repository.gated:
            self._send(403, {"X-Error-Code": "GatedRepo"})
            return
        data = repository.commits[commit].get(name)
        if data is None:
            self._send(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        if self.command == "GET":
            hub.delivered.append(f"{commit}/{name}")
        etag = f'"{hashlib.sha1(data).hexdigest()}"'
        self._send(200, {"X-Repo-Commit": commit, "ETag": etag}, data)

    def _send(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
