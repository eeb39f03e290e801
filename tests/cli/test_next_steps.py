"""After each command a line says what to do next, and what it names can be typed."""

from __future__ import annotations

import io
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.main import get_command

from tests.cli.conftest import write_manifest
from tests.commands import CommandResult, Vidgen
from tests.maintenance.outputs import put_run
from vidgen_dist import cli
from vidgen_dist.cli import rendering
from vidgen_dist.ledger import LedgerWriter
from vidgen_dist.runtime.driver import render as driver
from vidgen_dist.runtime.driver.result import RunResult
from vidgen_dist.spec import RunSpec
from vidgen_dist.storage.folder import open_storage


def steps_of(ran: CommandResult) -> list[str]:
    """The commands that the line names; it is on standard error, and the last one."""
    assert "next:" not in ran.out
    lines = [line for line in ran.err.splitlines() if line.startswith("next: ")]
    assert lines == ran.err.splitlines()[-1:]
    steps = re.findall("`(vidgen [^`]+)`", lines[0])
    for step in steps:
        check_can_be_typed(step)
    return steps


def check_can_be_typed(step: str) -> None:
    words = shlex.split(step)[1:]
    command = get_command(cli.app)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    command.make_context(step, words)


def test_after_a_manifest_is_made_and_checked(vidgen: Vidgen, tmp_path: Path, checkpoint: Path) -> None:
    texts, made, more = tmp_path / "p.txt", tmp_path / "my manifest.parquet", tmp_path / "more.parquet"
    texts.write_text("a fox\n")
    check = f"vidgen manifest check '{made}' --model MODEL"
    assert steps_of(vidgen("manifest", "build", texts, made)) == [check]
    expanded = steps_of(vidgen("manifest", "expand", made, more, "--seeds", "2"))
    assert expanded == [f"vidgen manifest check {more} --model MODEL"]
    checked = steps_of(vidgen("manifest", "check", made, "--model", checkpoint))
    assert checked == [f"vidgen render '{made}' OUTPUT --model {checkpoint}"]
    made.unlink()
    assert "next:" not in vidgen("manifest", "check", made).err


def test_bad_rows_can_be_mended_or_left_out(vidgen: Vidgen, tmp_path: Path) -> None:
    rows = ({"prompt": "x", "num_frames": number} for number in (9, -1))
    write_manifest(tmp_path / "m.parquet", *rows)
    said = vidgen("manifest", "check", tmp_path / "m.parquet").err
    assert "mend them, or render the others with `vidgen render --bad-rows fail`" in said


def test_after_a_plan(vidgen: Vidgen, checkpoint: Path) -> None:
    ran = vidgen("plan", "--model", checkpoint, "--npus", "8")
    assert steps_of(ran) == []
    flags = re.search(r"^next: render with ((?:--\w+ \d+ ?)+), or", ran.err, re.MULTILINE)
    assert flags is not None
    check_can_be_typed(f"vidgen render m out {flags[1]}")
    assert "next:" not in vidgen("plan", "--model", checkpoint, "--json").err


def test_after_looking_at_an_output(vidgen: Vidgen, tmp_path: Path) -> None:
    output = tmp_path / "out"
    put_run(str(output), ids=("a", "b"))
    assert vidgen("failures", output).err == ""
    exporting = [f"vidgen export {output} URI --to hf"]
    assert steps_of(vidgen("verify", output)) == exporting
    assert vidgen("verify", output, "--json").err == ""
    next((output / "videos").rglob("*.mp4")).unlink()
    ran = vidgen("verify", output)
    assert "`vidgen verify --repair` marks them" in ran.err
    assert "next:" not in ran.err


def result(output: Path, **fields: Any) -> RunResult:
    counts = {"total": 3, "done_before": 0, "done": 3, "failed": 0, "failures": (), **fields}
    return RunResult(output=open_storage(output), videos_per_minute=1.0, exit_status=0, **counts)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ["vidgen verify {}", "vidgen export {} URI --to hf"]),
        ({"done": 2, "failed": 1}, ["vidgen failures {}", "vidgen render {}/run.yaml --retry failed"]),
    ],
)
def test_after_a_run(
    fields: dict[str, Any],
    expected: list[str],
    make_run: RunSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(driver, "render", lambda *_, **__: result(tmp_path / "out", **fields))
    rendering.run(make_run)
    shown = CommandResult(0, *capsys.readouterr())
    assert steps_of(shown) == [step.format(tmp_path / "out") for step in expected]


@pytest.fixture
def make_run(make_spec: Any) -> RunSpec:
    return make_spec("m.parquet")


def test_after_a_run_that_was_interrupted_its_message_says_it(
    make_run: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    message = "interrupted; run it again to go on"
    ended = result(tmp_path / "out", done=1, message=message)
    monkeypatch.setattr(driver, "render", lambda *_, **__: ended)
    rendering.run(make_run)
    assert capsys.readouterr().err.startswith(f"{message}\n")
    console = Console(file=io.StringIO())
    rendering.print_result(ended, console)
    assert "next:" not in console.file.getvalue()


def test_a_long_message_is_shown_whole_in_a_pipe(vidgen: Vidgen, tmp_path: Path) -> None:
    """In one line, without colours or boxes, also where somebody has set a width."""
    from tests.ledger.parts import entry

    output = tmp_path / "out"
    put_run(str(output), ids=("a",))
    message = "no such image: " + "x" * 300
    with LedgerWriter(open_storage(output), "v") as writer:
        writer.append(entry("b", "failed", error_class="MediaError", error_message=message))
    ran = vidgen("failures", output)
    (line,) = (line for line in ran.out.splitlines() if "MediaError" in line)
    assert message in line
    assert not set("…│┃\x1b") & set(ran.out)
    assert steps_of(ran) == [f"vidgen render {output}/run.yaml --retry failed"]
