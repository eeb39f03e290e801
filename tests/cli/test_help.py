"""`--help`: groups, examples that can be typed, and nothing that is cut or coloured without a terminal."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command

from tests.commands import Vidgen
from vidgen_dist import cli
from vidgen_dist.cli.help import examples, help_text


def all_commands() -> Iterator[tuple[str, Any]]:
    """Every command with its name."""
    for name, command in get_command(cli.app).commands.items():
        inner = getattr(command, "commands", None)
        if inner is None:
            yield name, command
        else:
            yield from ((f"{name} {each}", of) for each, of in inner.items())


COMMANDS = dict(all_commands())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_examples_that_can_be_typed(name: str) -> None:
    command = COMMANDS[name]
    lines = examples(command)
    assert lines
    for line in lines:
        typed = shlex.split(line.partition(" >> ")[0])
        words = ["vidgen", *name.split()]
        assert typed[: len(words)] == words, line
        # Raises a usage error for an unknown flag, a value of another type, or an argument too many.
        context = command.make_context(name, typed[len(words) :])
        missing = [
            param.name for param in command.params if param.required and not context.params[param.name]
        ]
        assert not missing, line


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_is_not_cut_without_a_terminal(name: str, vidgen: Vidgen) -> None:
    shown = vidgen(*name.split(), "--help").out
    assert not set("…│╭\x1b") & set(shown)
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    for param in COMMANDS[name].params:
        if param.param_type_name == "option":
            assert any(param.opts[0].removeprefix("--") in line and param.help in line for line in lines)
    for line in examples(COMMANDS[name]):
        assert f"    {line}" in shown


def test_the_commands_are_in_groups(vidgen: Vidgen) -> None:
    shown = vidgen("--help").out
    for group, first in (("Render", "demo"), ("Watch a run", "status"), ("Prepare", "init")):
        assert f"\n{group}:\n  {first} " in shown
    for name in COMMANDS:
        assert f"\n  {name.split()[0]} " in shown
    assert "--install-completion" in shown


def test_help_on_a_terminal_has_its_width_and_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    command = COMMANDS["render"]
    context = command.make_context("render", [], resilient_parsing=True)
    for name in ("NO_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm-256color"), ("COLUMNS", "80")):
        monkeypatch.setenv(name, value)
    coloured = help_text(command, context)
    assert "\x1b[36m" in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    plain = help_text(command, context)
    assert "\x1b[36m" not in plain
    monkeypatch.setenv("TERM", "dumb")
    plain = help_text(command, context)
    assert "\x1b" not in plain
    lines = plain.partition("\nArguments:\n")[2].splitlines()
    assert lines
    assert all(len(line) <= 80 for line in lines)
    assert "--[no-]lora-ignore-unknown" in plain
    assert all(f"    {line}" in plain.splitlines() or f"    {line}  " in plain for line in examples(command))


def test_a_wrong_flag_is_said_in_plain_lines(vidgen: Vidgen) -> None:
    ran = vidgen("render", "--no-such-flag")
    assert ran.status == 2
    assert "No such option: --no-such-flag" in ran.err
    assert not set("│╭\x1b") & set(ran.err)


@pytest.mark.parametrize("name", COMMANDS)
def test_errors_and_help_have_the_same_usage(vidgen: Vidgen, name: str) -> None:
    ran = vidgen(*name.split(), "--no-such-flag")
    assert ran.status == 2
    assert ran.err.splitlines()[0] == vidgen(*name.split(), "--help").out.splitlines()[0]
