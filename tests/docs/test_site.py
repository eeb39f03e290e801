"""What makes a build of the site fail, on small sites; `.ci/run` builds the whole one.

That links work on GitHub is tested in `test_pages.py`.
"""

from __future__ import annotations

import importlib
import io
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils

from docs.generate import ROOT
from docs.public import PUBLIC
from tests.docs.pages import read

Build = Callable[..., list[str]]

API = (
    "```{eval-rst}\n.. autoclass:: documented.Size\n   :members:\n\n.. autofunction:: documented.area\n```\n"
)
DOCUMENTED = '''
class Size:
    """The size of a frame.

    Args:
        height, width: In pixels.
    """

    def __init__(self, height, width):
        self.height, self.width = height, width

    def scaled(self, factor, /, **options):
        """The size times a factor."""

    @property
    def pixels(self):
        """How many there are."""


def area(size, unit="pixels"):
    """The area of a frame.

    Args:
        size: Its size.
        unit: What is counted.
    """
'''


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """Builds a site of an index and other files, and returns the warnings, which strict mode makes errors.

    A file's name is its path in the repository, whose folder `docs` has the pages. `html` is the builder.
    """
    monkeypatch.syspath_prepend(tmp_path)
    # A module that changes within a second and keeps its length would be read from its bytecode.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def run(index: str, *, builder: str = "dummy", **files: str) -> list[str]:
        sys.modules.pop("documented", None)
        importlib.invalidate_caches()
        texts = {"README.md": "# The project\n", "docs/index.md": f"# Index\n\n{index}\n", **files}
        for name, text in texts.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        warnings = io.StringIO()
        # As `sphinx-build` does: what extensions register is forgotten after a build.
        with patch_docutils(ROOT / "docs"), docutils_namespace():
            app = Sphinx(
                tmp_path / "docs",
                ROOT / "docs",
                tmp_path / "site",
                tmp_path / "doctrees",
                builder,
                confoverrides={"nitpicky": True},
                status=None,
                warning=warnings,
                freshenv=True,
            )
            app.build()
        return re.sub(r"\x1b\[[\d;]*m", "", warnings.getvalue()).splitlines()

    return run


def test_links_within_the_site_and_into_the_repository(build: Build, tmp_path: Path) -> None:
    links = "[readme](../README.md) [jobs](../jobs) [code](../jobs/run.py) [more](../jobs/README.md#a)"
    files = {"docs/page.md": f"# Page\n\n{links}\n", "jobs/run.py": "", "jobs/README.md": "# Jobs\n\n## A\n"}
    index = "[page](page.md#page) [jobs](jobs) [more](jobs/README.md)\n\n```{toctree}\npage\n```"
    assert build(index, builder="html", **files) == []
    repository = "https://github.com/vidgen-dist/vidgen_dist"
    found = re.findall(
        r'href="([^"]+)"[^>]*>(?:<span[^>]*>)?(\w+)<', (tmp_path / "site" / "page.html").read_text()
    )
    targets = {text: target for target, text in found}
    assert targets["readme"] == "index.html"
    assert targets["jobs"] == f"{repository}/tree/main/jobs"
    assert targets["code"] == f"{repository}/blob/main/jobs/run.py"
    assert targets["more"] == f"{repository}/blob/main/jobs/README.md#a"
    first = (tmp_path / "site" / "index.html").read_text()
    for target in (
        "page.html#page",
        f"{repository}/tree/main/jobs",
        f"{repository}/blob/main/jobs/README.md",
    ):
        assert f'href="{target}"' in first
    # Neither fonts nor scripts come from elsewhere.
    assert re.findall(r'(?:src|<link[^>]*href)="https?:[^"]*', first) == []


@pytest.mark.parametrize(
    "link", ["[x](missing.md)", "[x](page.md#nowhere)", "[x](../missing/README.md)", "![x](missing.png)"]
)
def test_a_dead_link_fails(build: Build, link: str) -> None:
    warnings = build("```{toctree}\npage\n```", **{"docs/page.md": f"# Page\n\n{link}\n"})
    assert len(warnings) == 1
    assert "docs/page.md:3: WARNING" in warnings[0]


def test_a_page_that_no_list_has_fails(build: Build) -> None:
    (warning,) = build("", **{"docs/page.md": "# Page\n"})
    assert "docs/page.md: WARNING: document isn't included in any toctree" in warning


def test_a_stale_table_fails(build: Build) -> None:
    (warning,) = build("<!-- generated: layers -->\nold\n<!-- end -->")
    assert warning == "WARNING: docs/index.md is stale: run `python -m docs.generate`"


@pytest.mark.parametrize(
    ("there", "instead", "told"),
    [
        ("        unit: What is counted.\n", "", "documented.area: the argument unit is not documented"),
        ("        height, width: In pixels.\n", "        height: In pixels.\n", "the argument width is not"),
        (
            "        size: Its",
            "        sise: Its",
            "documented.area: sise is documented, and is not an argument",
        ),
        ('        """How many there are."""', "        ...", "documented.Size: pixels has no docstring"),
        ('        """The size times a factor."""', "        ...", "documented.Size: scaled has no docstring"),
        ('    """The area of a frame.\n', '    f"""The area of a frame.\n', "documented.area: no docstring"),
    ],
)
def test_a_public_name_without_documentation_fails(build: Build, there: str, instead: str, told: str) -> None:
    assert build(API, **{"documented.py": DOCUMENTED}) == []
    assert there in DOCUMENTED
    warnings = build(API, **{"documented.py": DOCUMENTED.replace(there, instead)})
    assert any(told in warning for warning in warnings), warnings


def test_the_public_names_are_those_that_users_read_of() -> None:
    """All that `vidgen_dist` offers, and all that the pages and the family of tests/ import."""
    public = {name for names in PUBLIC.values() for name in names}
    package = importlib.import_module("vidgen_dist")
    assert {f"vidgen_dist.{name}" for name in package.__all__} <= public
    toy = (ROOT / "tests" / "toy_family" / "vidgen_toy").glob("*.py")
    texts = [
        read("docs/add-a-family.md"),
        read("README.md"),
        *(path.read_text(encoding="utf-8") for path in toy),
    ]
    used = set()
    for text in texts:
        for module, names in re.findall(
            r"^from (vidgen_dist[\w.]*) import (\([^)]*\)|.*)$", text, re.MULTILINE
        ):
            used |= {f"{module}.{name}" for name in re.findall(r"\w+", names)}
    assert used - {"vidgen_dist.nn", "vidgen_dist.media"} <= public
