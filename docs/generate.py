"""Writes the tables of the documentation from the declarations in the code.

    python -m docs.generate            # write them
    python -m docs.generate --check    # only say which pages are stale; exit status 1 if any is

A generated table stands between two comments, `<!-- generated: NAME -->` and `<!-- end -->`; `TABLES` has the
function for each name. Nothing else of a page is touched.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from typer.main import get_command

from docs.public import MODULES, PUBLIC
from vidgen_dist import cli
from vidgen_dist.families import FAMILIES, OUR_FIELDS
from vidgen_dist.families.table import families_table
from vidgen_dist.ledger.entries import COLUMNS
from vidgen_dist.maintenance import comparison
from vidgen_dist.manifest.columns_table import columns_table
from vidgen_dist.observability.metrics import METRICS
from vidgen_dist.output.status_file import GangStatus, RunStatus, SlowGang, SlowRow
from vidgen_dist.runtime.watchdog import LIMITS
from vidgen_dist.spec.documentation import OptionRow, option_rows
from vidgen_dist.worker_events import EVENTS

ROOT = Path(__file__).parents[1]
COMMAND = "python -m docs.generate"

_BLOCK = re.compile(r"(<!-- generated: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("|" + "|".join(_cell(cell) for cell in line) + "|" for line in lines)


def _cell(text: str) -> str:
    return text if text == "---" else f" {text} " if text else " "


def arguments_of(documented: Any) -> list[tuple[str, str]]:
    """The names and texts of a docstring's `Args` section; names that share a text stay together."""
    section = re.search(r"\n    Args:\n(.*?)(?:\n\n|\n? *$)", documented.__doc__, re.DOTALL)
    found = re.findall(r"^ {8}([\w, ]+): (.*(?:\n {12}.*)*)", section[1] if section else "", re.MULTILINE)
    return [(names, re.sub(r"\s+", " ", about)) for names, about in found]


# --- tables ------------------------------------------------------------------------------------------


def options_tables() -> str:
    """The options of a run, a heading and a table for each group."""
    groups: dict[str, list[OptionRow]] = {}
    for row in option_rows():
        groups.setdefault(row.group, []).append(row)
    header = ("flag", "key in run.yaml", "what it takes", "default", "what it is")
    texts = []
    for group, options in groups.items():
        rows = [
            (
                f"`{row.flag}`" if row.flag else "",
                f"`{row.key}`",
                row.type,
                row.default or "must be given",
                row.help,
            )
            for row in options
        ]
        texts.append(f"### {group}\n\n{markdown(header, rows)}")
    return "\n\n".join(texts)


def plan_table() -> str:
    """The flags of `vidgen plan`."""
    render = {flag: told.help for told in _params("render") for flag in told.opts}
    rows, shared = [], []
    for told in _params("plan"):
        flag = told.opts[0]
        if told.param_type_name != "option" or flag == "--help":
            continue
        if render.get(flag) == told.help:
            shared.append(f"`{flag}`")
        else:
            rows.append((f"`{flag}`", _phrase(told.help)))
    return markdown(
        ("flag of `vidgen plan`", "what it is"), [*rows, (", ".join(shared), "as for `vidgen render`")]
    )


def commands_table() -> str:
    """The commands, and what each does."""
    commands: dict[str, Any] = {}
    for name, command in _group().commands.items():
        inner = getattr(command, "commands", None)
        commands |= (
            {name: command} if inner is None else {f"{name} {sub}": each for sub, each in inner.items()}
        )
    rows = [
        (f"`vidgen {name}`", re.sub(r"\s+", " ", (command.help or "").split("\n\n")[0]))
        for name, command in commands.items()
    ]
    return markdown(("command", "what it does"), rows)


def ledger_table() -> str:
    """The ledger's own columns."""
    rows = [(f"`{column.name}`", _type_name(column.type), column.about) for column in COLUMNS]
    return markdown(("column", "type", "what it holds"), rows)


def comparison_table() -> str:
    """The columns of a comparison."""
    rows = [(f"`{column.name}`", _type_name(column.type), column.about) for column in comparison.COLUMNS]
    return markdown(("column", "type", "what it holds"), rows)


def samplers_table() -> str:
    """The scheduler classes that each family takes."""
    rows = [(family.name, ", ".join(f"`{name}`" for name in family.schedulers)) for family in FAMILIES]
    return markdown(("family", "scheduler classes"), rows)


def watchdog_table() -> str:
    """How long a stage may be silent."""
    about = {row.key.rpartition(".")[2]: row.help for row in option_rows() if row.group == "Watchdog"}
    rows = [
        (
            f"`topology.watchdog.{stage}`",
            about[stage],
            *(f"{limits[stage]:.0f}" for limits in LIMITS.values()),
        )
        for stage in about
    ]
    return markdown(("key", "the limit", *(f"{device}, seconds" for device in LIMITS)), rows)


def status_table() -> str:
    """The keys of status.json, and of the mappings in it."""
    inner = {"gangs": GangStatus, "slow_rows": SlowRow, "slow_gangs": SlowGang}
    rows = []
    for names, about in arguments_of(RunStatus):
        rows.append((", ".join(f"`{name}`" for name in names.split(", ")), about))
        for part, text in arguments_of(inner[names]) if names in inner else ():
            rows.append((f"`{names}[].{part}`", text))
    return markdown(("key", "what it is"), rows)


def layers_list() -> str:
    """The layers that imports go down."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    (first, *_) = (contract for contract in contracts["contracts"] if contract["type"] == "layers")
    layers = [" ".join(layer.replace("vidgen_dist.", "").split(" | ")) for layer in first["layers"]]
    return "\n".join(["```text", *(f"{number:2}  {layer}" for number, layer in enumerate(layers, 1)), "```"])


def events_table() -> str:
    """The events of a worker's log."""
    return markdown(("event", "meaning"), [(f"`{name}`", about) for name, about in EVENTS.items()])


def metrics_table() -> str:
    """The metrics of a run."""
    rows = [
        (
            f"`{metric.exported_name}`",
            metric.kind,
            ", ".join(f"`{label}`" for label in metric.labels),
            metric.about,
        )
        for metric in METRICS
    ]
    return markdown(("metric", "kind", "labels", "what it counts"), rows)


def contents() -> str:
    """The site's list of pages: a part for each table of docs/README.md."""
    text = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    parts = [_toctree(["README"])]
    for heading, rows in re.findall(r"^\| ([^|]+) \| \|\n\|---\|---\|\n((?:\|.*\n)+)", text, re.MULTILINE):
        names = re.findall(r"^\| \[[^\]]*\]\((\S+)\.md\)", rows, re.MULTILINE)
        parts.append(_toctree(names, f":caption: {heading.capitalize()}"))
    return "\n\n".join(parts)


def api() -> str:
    """The public names: a table, as GitHub shows it, and what autodoc turns into docstrings on the site."""
    parts = []
    for heading, names in PUBLIC.items():
        rows = [(f"`{name.rpartition('.')[2]}`", f"`{name.rpartition('.')[0]}`") for name in names]
        directives = "\n\n".join(map(_directive, names))
        parts += [f"## {heading}", markdown(("name", "from"), rows), f"```{{eval-rst}}\n{directives}\n```"]
    for module, about in MODULES.items():
        names = ", ".join(f"`{name}`" for name in importlib.import_module(module).__all__)
        parts += [f"## {module}", f"{about.capitalize()}: {names}."]
    return "\n\n".join(parts)


TABLES: Mapping[str, Callable[[], str]] = {
    "api": api,
    "contents": contents,
    "families": families_table,
    "row-fields": lambda: columns_table(OUR_FIELDS),
    "run-options": options_tables,
    "log-events": events_table,
    "metrics": metrics_table,
    "plan-flags": plan_table,
    "commands": commands_table,
    "layers": layers_list,
    "ledger-columns": ledger_table,
    "comparison-columns": comparison_table,
    "samplers": samplers_table,
    "status-file": status_table,
    "watchdog": watchdog_table,
}
"""Name of a generated block -> what is in it."""


# --- details -----------------------------------------------------------------------------------------


def _toctree(pages: Sequence[str], *options: str) -> str:
    return "\n".join(["```{toctree}", ":hidden:", *options, "", *pages, "```"])


def _directive(name: str) -> str:
    """What autodoc is asked for a public name."""
    module, _, attribute = name.rpartition(".")
    found = getattr(importlib.import_module(module), attribute)
    if inspect.isclass(found):
        return f".. auto{'exception' if issubclass(found, Exception) else 'class'}:: {name}\n   :members:"
    return f".. auto{'function' if inspect.isfunction(found) else 'data'}:: {name}"


def _group() -> Any:
    return get_command(cli.app)


def _params(command: str) -> list[Any]:
    return _group().commands[command].params


def _phrase(sentence: str) -> str:
    """The first letter small and no full stop, unless it begins with a name."""
    text = sentence.rstrip(".")
    return text if text[:2].isupper() else text[:1].lower() + text[1:]


def _type_name(kind: Any) -> str:
    return str(kind).replace("element: ", "")


# --- pages -------------------------------------------------------------------------------------------


def pages(root: Path = ROOT) -> list[Path]:
    """The pages: README.md and everything in docs/."""
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def generated(text: str, page: str) -> str:
    """A page's text with its generated blocks as they should be.

    Raises:
        KeyError: A block's name is not in `TABLES`.
    """

    def block(found: re.Match[str]) -> str:
        name = found["name"]
        if name not in TABLES:
            raise KeyError(f"{page}: unknown generated block {name!r}; known: {', '.join(TABLES)}")
        return f"{found[1]}\n{TABLES[name]()}\n\n{found[3]}"

    return _BLOCK.sub(block, text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pages, or check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true", help="Write nothing; say which pages are stale.")
    options = parser.parse_args(arguments)
    stale = []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        name = page.relative_to(ROOT).as_posix()
        fresh = generated(text, name)
        if fresh == text:
            continue
        stale.append(name)
        if not options.check:
            page.write_text(fresh, encoding="utf-8")
    for name in stale:
        print(f"{name} is stale: run `{COMMAND}`" if options.check else f"{name} was written")
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
