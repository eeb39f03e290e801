"""Files open for reading: servers with and without parts, failures in the middle, proxies."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.web_servers import QuietHandler, WebServer
from vidgen_dist import media
from vidgen_dist.cli import main
from vidgen_dist.errors import Refused
from vidgen_dist.manifest import open_manifest
from vidgen_dist.storage import input_files
from vidgen_dist.storage.failures import PATIENCE, StorageError
from vidgen_dist.storage.files import fetch, open_input, read_bytes
from vidgen_dist.storage.input_files import MAX_COPY_BYTES

CONTENT = np.random.default_rng(0).bytes(400_000)


class Host(WebServer):
    """Sends one file under every path.

    Attributes:
        content: The file.
        parts: Whether it sends parts.
        tells_size: Whether it says how long an answer is; otherwise it is sent in chunks.
        answers_head: Whether it answers HEAD.
        claims: Bytes that HEAD says there are; None for as many as there are.
        busy: How many requests for content get a 503 at first.
        cut: How many answers end after half of what they promise.
        tag: The file's ETag.
        asked: Each request's method, path and range.
    """

    def __init__(self) -> None:
        super().__init__(_Answer)
        self.content = CONTENT
        self.parts = self.tells_size = self.answers_head = True
        self.busy = self.cut = 0
        self.claims: int | None = None
        self.tag = "1"
        self.asked: list[tuple[str, str, str | None]] = []
        self.url = f"{self.address}/m.parquet"


class _Answer(QuietHandler):
    server: Host
    protocol_version = "HTTP/1.1"
    # Or each answer waits 40 ms for the one who asked.
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        host, span = self.server, self.headers.get("Range")
        host.asked.append((self.command, self.path, span))
        if self.command == "HEAD" and not host.answers_head:
            self._fail(403)
            return
        if self.command == "GET" and host.busy > 0:
            host.busy -= 1
            self._fail(503)
            return
        body, total = host.content, len(host.content)
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", span or "")
        if host.parts and found:
            start, end = int(found[1]), min(int(found[2]) + 1, total)
            body = body[start:end]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{total}")
        else:
            self.send_response(200)
        self.send_header("ETag", host.tag)
        if host.tells_size:
            claimed = host.claims if self.command == "HEAD" else None
            self.send_header("Content-Length", str(len(body) if claimed is None else claimed))
        else:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if self.command == "GET":
            self._send(body)

    do_HEAD = do_GET

    def _fail(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, body: bytes) -> None:
        cut = self.server.cut > 0
        if cut:
            self.server.cut -= 1
            self.close_connection = True
            body = body[: len(body) // 2]
        if self.server.tells_size:
            self.wfile.write(body)
            return
        self.wfile.write(f"{len(body):x}\r\n".encode() + body + b"\r\n")
        if not cut:
            self.wfile.write(b"0\r\n\r\n")

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:
            # Who asked has had enough of a file that came whole.
            self.close_connection = True


pytestmark = pytest.mark.usefixtures("waits")


@pytest.fixture(autouse=True)
def _without_proxies_and_copies(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    input_files._download.cache_clear()
    yield
    input_files._download.cache_clear()


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as server:
        yield server


def parquet() -> bytes:
    """A manifest with two row groups, too large for one read."""
    prompts = [np.random.default_rng(n).bytes(50).hex() for n in range(4000)]
    table = pa.table({"id": [f"r{n}" for n in range(4000)], "prompt": prompts})
    out = io.BytesIO()
    pq.write_table(table, out, row_group_size=2000)
    return out.getvalue()


HOSTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no parts": {"parts": False},
    "no sizes": {"tells_size": False},
    "no parts, no sizes": {"parts": False, "tells_size": False},
    "no HEAD": {"answers_head": False},
    "no HEAD, no parts": {"answers_head": False, "parts": False},
}


@pytest.mark.parametrize("kind", HOSTS)
def test_any_place_of_a_file_is_read_whatever_its_host_does(kind: str, host: Host) -> None:
    vars(host).update(HOSTS[kind])
    with open_input(host.url) as file:
        assert file.seek(-10, os.SEEK_END) == len(CONTENT) - 10
        assert file.read() == CONTENT[-10:]
        assert file.read(1) == b""
        file.seek(1000)
        assert file.read(5) == CONTENT[1000:1005]
        file.seek(-5, os.SEEK_CUR)
        buffer = bytearray(3)
        assert file.readinto(buffer) == 3
        assert bytes(buffer) == CONTENT[1000:1003]
        file.seek(0)
        assert file.read() == CONTENT
    with pytest.raises(ValueError, match="closed file"):
        file.read()


@pytest.mark.parametrize("kind", HOSTS)
def test_a_manifest_is_read_whatever_its_host_does(kind: str, host: Host) -> None:
    host.content = parquet()
    vars(host).update(HOSTS[kind])
    host.busy = host.cut = 1
    manifest = open_manifest(host.url)
    assert manifest.num_rows == 4000
    host.busy = host.cut = 1
    assert [row.id for row in manifest.rows()] == [f"r{n}" for n in range(4000)]


@pytest.mark.parametrize("fault", ["busy", "cut"])
def test_what_ends_the_reading_of_a_manifest_is_named(fault: str, host: Host) -> None:
    host.content = parquet()
    manifest = open_manifest(f"{host.url}?sig=hunter2")
    setattr(host, fault, 1000)
    with pytest.raises(StorageError, match=f"^cannot read {host.url}: ") as caught:
        list(manifest.rows())
    assert caught.value.transient
    assert "hunter2" not in str(caught.value)


def test_a_host_without_parts_is_asked_for_a_file_once(host: Host) -> None:
    host.content, host.parts = parquet(), False
    assert len(list(open_manifest(host.url).rows())) == 4000
    whole = [span for method, _, span in host.asked if method == "GET" and span is None]
    assert len(whole) == 1


def test_a_file_that_changed_is_copied_anew(host: Host) -> None:
    host.parts = False
    for content in (CONTENT, CONTENT[::-1][:-1]):
        host.content = content
        with open_input(host.url) as file:
            file.seek(-7, os.SEEK_END)
            assert file.read() == content[-7:]


def test_a_large_file_without_parts_is_refused(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.parts, host.claims = False, MAX_COPY_BYTES + 1
    with open_input(f"{host.url}?sig=hunter2") as file:
        file.seek(-1, os.SEEK_END)
        with pytest.raises(Refused, match=r"m.parquet: its server sends no parts.*copy it to a disk"):
            file.read()
    with pytest.raises(Refused, match="its server sends no parts of files"):
        open_manifest(host.url)
    monkeypatch.setattr(input_files, "_RangedFile", lambda *of: input_files._local_copy(*of))
    with pytest.raises(media.MediaError, match="its server sends no parts of files"):
        media.read_image(host.url)


@pytest.mark.parametrize("fault", ["busy", "cut"])
@pytest.mark.parametrize("kind", HOSTS)
def test_faults_in_the_middle_of_a_file_are_waited_out(kind: str, fault: str, host: Host) -> None:
    vars(host).update(HOSTS[kind])
    with open_input(host.url) as file:
        for place in (300_000, 100_000):
            setattr(host, fault, PATIENCE.attempts - 1)
            file.seek(place)
            assert file.read(10) == CONTENT[place : place + 10]
            input_files._download.cache_clear()


@pytest.mark.parametrize(("fault", "said"), [("busy", "503"), ("cut", "")])
def test_faults_that_stay_are_named(fault: str, said: str, host: Host) -> None:
    uri = f"{host.url}?sig=hunter2"
    with open_input(uri) as file:
        setattr(host, fault, 1000)
        with pytest.raises(StorageError, match=f"^cannot read {host.url}: .*{said}") as caught:
            file.read(10)
        assert caught.value.transient
        assert "hunter2" not in str(caught.value)
        setattr(host, fault, 0)
        assert file.read(10) == CONTENT[:10]
    setattr(host, fault, 1000)
    with pytest.raises(StorageError, match=f"^cannot read {host.url}"):
        read_bytes(uri)


def test_whole_files_that_are_cut_are_asked_for_again(host: Host, tmp_path: Path) -> None:
    for tells_size in (True, False):
        host.tells_size = tells_size
        host.cut = host.busy = 1
        assert read_bytes(host.url) == CONTENT
        host.cut = host.busy = 1
        fetch(host.url, tmp_path / "local")
        assert (tmp_path / "local").read_bytes() == CONTENT


@pytest.mark.parametrize("change", [{"content": CONTENT + b"more"}, {"content": CONTENT[::-1], "tag": "2"}])
def test_a_file_that_changes_while_it_is_read_is_told(change: dict[str, Any], host: Host) -> None:
    with open_input(host.url) as file:
        # Its first read fails, and then it is another file.
        vars(host).update(change, busy=1)
        with pytest.raises(StorageError, match="it was changed while it was read"):
            file.read()


def test_images_of_such_hosts_are_read(host: Host) -> None:
    from PIL import Image

    out = io.BytesIO()
    Image.frombytes("RGB", (300, 300), CONTENT[:270_000]).save(out, "PNG")
    host.content = out.getvalue()
    for kind in HOSTS.values():
        vars(host).update({"parts": True, "tells_size": True, "answers_head": True, **kind})
        host.busy = host.cut = 1
        assert media.read_image(host.url.replace("m.parquet", "a.png")).size == (300, 300)


# --- other storages ----------------------------------------------------------------------------------


def test_reads_of_any_storage_are_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(CONTENT)
    opener = type(fsspec.filesystem("file").open(str(tmp_path / "a"), "rb"))
    left = [2]
    with open_input(str(tmp_path / "a")) as file:
        read = opener.read

        def refuse(self: Any, *args: Any) -> bytes:
            if left[0] > 0:
                left[0] -= 1
                raise ConnectionResetError("reset by peer")
            return read(self, *args)

        monkeypatch.setattr(opener, "read", refuse, raising=False)
        file.seek(5)
        assert file.read(3) == CONTENT[5:8]
        left[0] = 1000
        with pytest.raises(StorageError, match=f"^cannot read {tmp_path}/a: reset by peer"):
            file.read(1)


def test_a_local_file_that_shrinks_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    with open_input(str(tmp_path / "a")) as file:
        os.truncate(tmp_path / "a", 5)
        with pytest.raises(StorageError, match="it was changed while it was read"):
            file.read()


# --- proxies -----------------------------------------------------------------------------------------


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """A second host, which answers for others."""
    fsspec.filesystem("http").clear_instance_cache()
    with Host() as server:
        monkeypatch.setenv("HTTP_PROXY", server.address)
        yield server
    fsspec.filesystem("http").clear_instance_cache()


def test_a_proxy_of_the_environment_is_asked(proxy: Host) -> None:
    proxy.content = b"of the proxy"
    uri = "http://not-a-host.invalid/a"
    assert read_bytes(uri) == b"of the proxy"
    with open_input(uri) as file:
        assert file.read() == b"of the proxy"
    assert {urlsplit(path).netloc for _, path, _ in proxy.asked} == {"not-a-host.invalid"}


def test_hosts_that_need_no_proxy_are_asked_themselves(
    proxy: Host, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert read_bytes(host.url) == CONTENT
    assert proxy.asked == []


def test_a_signature_is_not_printed(
    host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table, out = pa.table({"prompt": ["a", ""], "odd": [1, 2]}), io.BytesIO()
    pq.write_table(table, out)
    host.content = out.getvalue()
    monkeypatch.setattr(sys, "argv", ["vidgen", "manifest", "check", f"{host.url}?X-Amz-Signature=hunter2"])
    with contextlib.suppress(SystemExit):
        main()
    said = "".join(capsys.readouterr())
    assert f"{host.url}: 2 rows, all can be rendered" in said
    assert f"{host.url}: unknown column 'odd'" in said
    assert "hunter2" not in said
