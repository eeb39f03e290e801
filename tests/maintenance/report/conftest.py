"""A Chromium, and a report to open in it."""

from __future__ import annotations

import functools
import shutil
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.maintenance.report.outputs import put_output
from vidgen_dist.maintenance.report.writing import ReportPolicy, write_report


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The Chromium of this machine, without a window.

    It ends with the file: as long as it lives, this thread has a running event loop, and can have no other.
    """
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("there is no Chromium; install it: apt-get install chromium")
    with sync_playwright() as playwright:
        # Without a sandbox it also starts as root and in containers; it opens our own pages alone.
        chromium = playwright.chromium.launch(executable_path=found, chromium_sandbox=False)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of 24 rows on four pages; tests change nothing in it."""
    folder = tmp_path_factory.mktemp("report")
    put_output(folder)
    write_report(str(folder / "out"), policy=ReportPolicy(page_rows=6, bars=20))
    return folder / "out" / "report"


@pytest.fixture(scope="module")
def served(report: Path) -> Iterator[str]:
    """URL at which a plain web server has the report."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(report)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()
    thread.join()
