"""The folder of a report: taken, and replaced so that readers see the old report or the new one.

Everything but `index.html` has a name that says its content. So a new report is written beside the old one;
writing `index.html` replaces that; and only then what no page needs any more is removed. A process that dies
before leaves the old report as it was, after it the new one, each with some files too many, which the next
report removes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from vidgen_dist.errors import Refused
from vidgen_dist.maintenance.report.pages import INDEX, PAGES_FOLDER
from vidgen_dist.maintenance.report.previews import MEDIA_FOLDER
from vidgen_dist.storage.folder import Storage
from vidgen_dist.storage.names import is_hidden, is_temporary
from vidgen_dist.storage.uris import redact

REPORT_FILE = "report.json"
"""It says that the folder is a report's, so that it may be replaced."""

_FORMAT = 1


def claim(place: Storage) -> None:
    """Take an empty folder, or one that has a report.

    Raises as `has_report`.
    """
    if not has_report(place):
        place.write_bytes(REPORT_FILE, json.dumps({"vidgen report": _FORMAT}).encode())


def has_report(place: Storage) -> bool:
    """Whether a folder has a report; otherwise it is empty.

    Raises:
        Refused: Something else is in it, or it was written by a newer release.
        OSError: The storage failed.
    """
    files, folders = place.entries()
    if REPORT_FILE in files:
        _check_format(place)
        return True
    if others := [path for path in (*files, *folders) if not is_hidden(path)]:
        raise Refused(
            f"{redact(place.root)}: there is something else in it, such as {min(others)}; give an empty "
            "folder, or one with a report"
        )
    return False


def _check_format(place: Storage) -> None:
    try:
        found = json.loads(place.read_bytes(REPORT_FILE))
        there = found["vidgen report"]
    except (ValueError, TypeError, KeyError):
        raise Refused(
            f"{redact(place.uri(REPORT_FILE))}: is not what `vidgen report` writes; give an empty folder, "
            "or one with a report"
        ) from None
    if there != _FORMAT:
        raise Refused(
            f"{redact(place.root)}: has a report of another release; give another folder, or remove it"
        )


def publish(place: Storage, pages: Iterable[tuple[str, bytes]]) -> set[str]:
    """Write pages, of which the first comes last; returns their paths.

    Raises:
        OSError: The storage failed; the report is as it was.
    """
    there = place.sizes(PAGES_FOLDER)
    written = set()
    for path, content in pages:
        # The name says the content, except for the first page.
        if path == INDEX or there.get(path) != len(content):
            place.write_bytes(path, content)
        written.add(path)
    return written


def remove_others(place: Storage, needed: set[str]) -> None:
    """Remove the pages, posters and videos of earlier reports.

    Raises:
        OSError: The storage failed; the report is whole.
    """
    for folder in (PAGES_FOLDER, MEDIA_FOLDER):
        for path in place.sizes(folder):
            # Another process may be writing a temporary one, which it would miss.
            if path not in needed and not is_temporary(path):
                place.delete(path)
