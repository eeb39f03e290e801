"""What the site needs beside Sphinx's own: links into the repository, and what makes a build fail.

A page's link to a file or folder outside of docs/ becomes a link to the repository on the web. Stale tables
and public names without documentation are warnings, which `-W` makes errors, as it does dead links.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments.lexers.special import TextLexer
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util import logging

from docs import generate
from docs.public import MODULES

_LOG = logging.getLogger(__name__)


class RepositoryLinks(SphinxTransform):
    """Turns links to the repository's files and folders outside of docs/ into links to the web."""

    # Before Sphinx collects downloads and resolves references.
    default_priority = 5

    def apply(self, **_: Any) -> None:
        """Replace the links of a page."""
        root = Path(self.env.srcdir).parent
        links = [
            link
            for kind in (addnodes.download_reference, addnodes.pending_xref)
            for link in self.document.findall(kind)
            if link.get("reftype") == "myst"
        ]
        for link in links:
            found = self._target(link)
            if not found.exists() or not found.is_relative_to(root) or found.is_relative_to(self.env.srcdir):
                continue
            if found == root / "README.md":
                link.update_all_atts({"refdomain": "doc", "reftarget": "index"}, replace=True)
                continue
            kind = "tree" if found.is_dir() else "blob"
            anchor = f"#{link['reftargetid']}" if link.get("reftargetid") else ""
            uri = f"{self.config.repository_url}/{kind}/main/{found.relative_to(root).as_posix()}{anchor}"
            link.replace_self(nodes.reference("", "", *link.children, refuri=uri, internal=False))

    def _target(self, link: nodes.Element) -> Path:
        """What a link points to, if that is a file or folder."""
        if link.get("refdomain") == "doc":
            # MyST takes a page outside of docs/ for one of the site: an absolute path without its ending.
            return Path(f"{link['reftarget']}.md")
        folder = Path(self.env.doc2path(self.env.docname)).parent
        if self.env.docname == "index":
            # It is the repository's README.md.
            folder = folder.parent
        return (folder / link["reftarget"]).resolve()


def warn_of_stale_tables(app: Sphinx) -> None:
    """Warn of each page whose generated tables are not what the code declares."""
    root = Path(app.srcdir).parent
    for page in generate.pages(root):
        text = page.read_text(encoding="utf-8")
        name = page.relative_to(root).as_posix()
        if generate.generated(text, name) != text:
            _LOG.warning("%s is stale: run `%s`", name, generate.COMMAND)


def warn_of_modules(_app: Sphinx) -> None:
    """Warn of each function and class without a docstring in the modules that are public as a whole."""
    for name in MODULES:
        module = importlib.import_module(name)
        for member in module.__all__:
            found = getattr(module, member)
            if (inspect.isroutine(found) or inspect.isclass(found)) and not found.__doc__:
                _LOG.warning("%s.%s: no docstring", name, member)


def warn_of_undocumented(
    _app: Sphinx, what: str, name: str, documented: Any, _options: Any, lines: list[str]
) -> None:
    """Warn of what a name's documentation lacks; `lines` are those that the page of the API will have."""
    for fault in undocumented(what, documented, lines):
        _LOG.warning("%s: %s", name, fault)


def undocumented(what: str, documented: Any, lines: list[str]) -> Iterator[str]:
    """What the documentation of a public name lacks.

    Args:
        what: `function`, `class`, … as autodoc says it.
        documented: The object.
        lines: Its docstring in reStructuredText, with a `:param name:` for each argument.
    """
    if not any(line.strip() for line in lines):
        yield "no docstring"
        return
    told = set(re.findall(r"^:param (?:\\\*)*(\w+):", "\n".join(lines), re.MULTILINE))
    # A method whose sentence says it all needs no list, but a list has all.
    if what in ("function", "class", "exception") or (what == "method" and told):
        needed, allowed = _arguments(documented)
        yield from (f"the argument {name} is not documented" for name in needed if name not in told)
        yield from (f"{name} is documented, and is not an argument" for name in sorted(told - allowed))
    if inspect.isclass(documented):
        public = {name: member for name, member in vars(documented).items() if not name.startswith("_")}
        for name, member in public.items():
            if _is_code(member) and not inspect.getdoc(getattr(documented, name)):
                yield f"{name} has no docstring"


def _is_code(member: Any) -> bool:
    return inspect.isroutine(member) or isinstance(member, property)


def _arguments(documented: Any) -> tuple[list[str], set[str]]:
    """The arguments that need documentation, and all that may have it: `*args` and `**values` too."""
    try:
        parameters = inspect.signature(documented).parameters
    except ValueError:  # an exception without a constructor of its own
        return [], set()
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [name for name, parameter in parameters.items() if parameter.kind not in variadic]
    return [name for name in needed if name not in ("self", "cls")], set(parameters)


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_config_value("repository_url", "", "env")
    app.add_lexer("csv", TextLexer)
    app.add_transform(RepositoryLinks)
    app.connect("builder-inited", warn_of_stale_tables)
    app.connect("builder-inited", warn_of_modules)
    # After napoleon, which connects with 500.
    app.connect("autodoc-process-docstring", warn_of_undocumented, priority=900)
    return {"parallel_read_safe": True}
