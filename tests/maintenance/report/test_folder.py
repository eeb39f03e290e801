"""A report is replaced as a whole, and nothing else is ever touched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from vidgen_dist.errors import Refused
from vidgen_dist.maintenance.report.folder import REPORT_FILE, claim, publish, remove_others
from vidgen_dist.storage.folder import Storage, open_storage


@pytest.fixture
def place(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "report"))


def test_an_empty_folder_is_taken(place: Storage) -> None:
    claim(place)
    assert json.loads(place.read_bytes(REPORT_FILE)) == {"vidgen report": 1}
    # Again, also after a death before the first page.
    claim(place)


@pytest.mark.parametrize("name", ["notes.txt", "index.html", "pages/x.html"])
def test_another_folder_is_refused(place: Storage, name: str) -> None:
    place.write_bytes(name, b"mine")
    with pytest.raises(Refused, match=f"something else in it, such as {name.partition('/')[0]}"):
        claim(place)
    assert place.list() == [name]


@pytest.mark.parametrize("content", [b"{}", b"no JSON", b"[]", b'{"vidgen report": 2}'])
def test_what_is_no_report_of_this_release_is_refused(place: Storage, content: bytes) -> None:
    place.write_bytes(REPORT_FILE, content)
    with pytest.raises(Refused, match=r"is not what `vidgen report` writes|of another release"):
        claim(place)


def test_a_death_leaves_the_old_report(place: Storage) -> None:
    claim(place)
    old = {"pages/1-a.js": b"old", "index.html": b"old"}
    remove_others(place, publish(place, old.items()))

    def dies() -> Iterator[tuple[str, bytes]]:
        yield "pages/2-a.js", b"new"
        yield "pages/2-b.js", b"new"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish(place, dies())
    assert {name: place.read_bytes(name) for name in old} == old
    new = {"pages/2-a.js": b"new", "pages/2-b.js": b"new", "index.html": b"new"}
    written = publish(place, new.items())
    # A death here leaves both; the first page is of the new one.
    assert place.read_bytes("index.html") == b"new"
    place.write_bytes("media/old.webp", b"")
    place.write_bytes("media/kept.webp", b"")
    place.write_bytes("notes.txt", b"mine")
    remove_others(place, {*written, "media/kept.webp"})
    assert place.list() == sorted([*new, "media/kept.webp", "notes.txt", REPORT_FILE])


def test_a_page_that_is_there_is_not_written_again(place: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    claim(place)
    pages = [("pages/1-a.js", b"text"), ("pages/1-b.js", b"other"), ("index.html", b"first")]
    publish(place, pages)
    # A half of it, as a storage without renaming may leave.
    place.write_bytes("pages/1-b.js", b"oth")
    written: list[str] = []
    write = Storage.write_bytes
    monkeypatch.setattr(
        Storage, "write_bytes", lambda self, path, data: (written.append(path), write(self, path, data))
    )
    publish(place, pages)
    assert written == ["pages/1-b.js", "index.html"]
