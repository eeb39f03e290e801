"""`--help`: options and commands in groups, and examples.

On a terminal, texts are broken at its width. Elsewhere nothing is cut or broken: an option is one line, for
`grep`. What a command does, its exit statuses and its examples are its function's docstring.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand, TyperGroup

from vidgen_dist.cli.terminal import make_console

EXAMPLES = "Examples:"
"""The line of a docstring that examples follow, each in an indented line."""

_GROUPS = ("Arguments", "Options", "Commands")
"""The groups of what has none of its own."""

_TYPES = {"bool": "", "int": "N", "float": "N"}
"""What is shown for a type's name; TEXT for all others."""


class Command(TyperCommand):
    """A command whose help is that of this module."""

    def get_usage(self, ctx: Any) -> str:
        return usage(self, ctx)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(help_text(self, ctx))


class Group(TyperGroup):
    """A group of commands whose help is that of this module."""

    def get_usage(self, ctx: Any) -> str:
        return usage(self, ctx)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(help_text(self, ctx))


def usage(command: Any, context: Any) -> str:
    """How a command is called, in a line; errors about a command line begin with it too."""
    arguments = [_argument(param) for param in command.params if param.param_type_name == "argument"]
    commands = ["COMMAND ..."] if hasattr(command, "commands") else []
    return " ".join(["Usage:", context.command_path, "[OPTIONS]", *arguments, *commands])


def help_text(command: Any, context: Any) -> str:
    """A command's help, with colours where standard output is a terminal that has them."""
    console = make_console()
    with console.capture() as captured:
        for part in _parts(command, context):
            # An example that is broken cannot be copied.
            console.print(part, soft_wrap=isinstance(part, Text) and part.plain.startswith(EXAMPLES))
    lines = (line.rstrip() for line in captured.get().splitlines())
    return "\n".join(lines).rstrip() + "\n"


def examples(command: Any) -> list[str]:
    """The examples in a command's help: command lines, without the comments behind them."""
    _, found, text = (command.help or "").partition(f"{EXAMPLES}\n")
    return [line.partition("  #")[0].strip() for line in text.split("\n\n")[0].splitlines()] if found else []


def _parts(command: Any, context: Any) -> Iterator[Any]:
    rows = _rows(command, context)
    yield Text(f"{usage(command, context)}\n", style="bold")
    for text in (command.help or "").split("\n\n"):
        yield Text((text if text.startswith(EXAMPLES) else " ".join(text.split())) + "\n")
    for group, of_group in sorted(rows.items(), key=lambda item: item[0] not in _GROUPS):
        yield Text(f"{group}:", style="bold")
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True, style="cyan")
        table.add_column(overflow="fold")
        for names, about in of_group:
            table.add_row(Text(names), Text(about))
        yield Padding(table, (0, 0, 1, 2), expand=False)
    if command.epilog:
        yield Text(command.epilog)


def _rows(command: Any, context: Any) -> dict[str, list[tuple[str, str]]]:
    """Group -> names and texts of what is in it."""
    rows: dict[str, list[tuple[str, str]]] = {}
    for param in command.get_params(context):
        record = param.get_help_record(context)
        if record is None:
            continue
        is_argument = param.param_type_name == "argument"
        name = _argument(param) if is_argument else _option(param, record[0])
        group = getattr(param, "rich_help_panel", None) or _GROUPS[not is_argument]
        rows.setdefault(group, []).append((name, _about(record[1])))
    for name, inner in getattr(command, "commands", {}).items():
        first = " ".join((inner.help or "").split("\n\n")[0].split())
        rows.setdefault(inner.rich_help_panel or _GROUPS[2], []).append((name, first))
    return rows


def _argument(param: Any) -> str:
    """An argument, as the usage has it."""
    name = (param.metavar or param.name.upper()).strip("[]")
    return name if param.required else f"[{name}]"


def _option(param: Any, shown: str) -> str:
    """An option's flags and what they take."""
    if param.secondary_opts:
        return f"--[no-]{param.opts[0].removeprefix('--')}"
    flags = ", ".join(sorted(param.opts, key=len))
    kind = re.search(r"<(\w+)", shown)
    taken = param.metavar or (_TYPES.get(kind[1], "TEXT") if kind is not None else "")
    return f"{flags} {taken}".rstrip()


def _about(text: str) -> str:
    """A help text with its default; an option's own words for it need no brackets of their own."""
    return re.sub(r"  \[default: \((.*)\)\]$", r"  [default: \1]", text)
