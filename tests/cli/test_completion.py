"""What a shell offers: by its own protocol, and in a bash that completes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.maintenance.outputs import write_status
from vidgen_dist.families import known_fields
from vidgen_dist.spec import RunSpec
from vidgen_dist.spec.option import declared_options

Complete = Callable[..., list[str]]

ROOT = Path(__file__).parents[2]


@pytest.fixture
def complete(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Complete:
    """What is offered for the last word of a command line."""
    from vidgen_dist import cli

    def run(*words: str) -> list[str]:
        monkeypatch.setenv("_VIDGEN_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", " ".join(["vidgen", *words]))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        monkeypatch.setattr(sys, "argv", ["vidgen"])
        with pytest.raises(SystemExit):
            cli.main()
        return capsys.readouterr().out.split()

    return run


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("ver",), ["verify"]),
        (("manifest", "b"), ["build"]),
        (("render", "m", "out", "--vae"), ["--vae-tiling"]),
        (("render", "m", "--task", "v"), ["video-to-video"]),
        (("render", "m", "--dtype", "b"), ["bfloat16"]),
        (("render", "m", "--device", "a"), ["auto", "ascend"]),
        (("render", "m", "--format", "m"), ["mp4"]),
        (("render", "m", "--replicas", "a"), ["auto"]),
        (("render", "m", "--bad-rows", "f"), ["fail"]),
        (("render", "m", "--reject", "black,fro"), ["black,frozen"]),
        (("render", "m", "--set", "num_inf"), ["num_inference_steps="]),
        (("render", "m", "--option", "topology.watchdog.den"), ["topology.watchdog.denoise="]),
        (("plan", "--device-name", "9"), ["910B"]),
        (("export", "out", "there", "--to", "w"), ["webdataset"]),
        (("render", "m", "--retry", ""), ["failed"]),
    ],
)
def test_values_are_offered_where_there_is_a_list(
    complete: Complete, words: tuple[str, ...], offered: list[str]
) -> None:
    assert complete(*words) == offered


def test_all_fields_and_keys_are_offered(complete: Complete) -> None:
    assert complete("render", "m", "--set", "") == [f"{name}=" for name in known_fields()]
    keys = [f"{known.key}=" for known in declared_options(RunSpec)]
    assert complete("render", "m", "--option", "") == keys


def test_error_classes_are_those_of_the_run(complete: Complete, tmp_path: Path) -> None:
    write_status(tmp_path, failures={"OSError": 1, "MediaError": 3})
    run_file = tmp_path / "run.yaml"
    run_file.write_text(f"model: {{id: m}}\nmanifest: {{uri: m}}\noutput: {{uri: '{tmp_path}'}}\n")
    offered = ["failed", "failed:MediaError", "failed:OSError"]
    assert complete("render", "m.parquet", str(tmp_path), "--retry", "f") == offered
    assert complete("render", str(run_file), "--retry", "f") == offered
    run_file.write_text("model: [")
    assert complete("render", str(run_file), "--retry", "f") == ["failed"]


def test_a_bash_completes_after_install_completion(tmp_path: Path) -> None:
    """The installed script asks the command; where nothing is offered, the shell completes names of files."""
    program = tmp_path / "bin" / "vidgen"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m vidgen_dist "$@"\n')
    program.chmod(0o755)
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        # Detection looks at the parent process, which is a test here.
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
    }
    (tmp_path / ".bashrc").write_text("alias mine=true\n")

    def bash(script: str) -> str:
        command = ["bash", "--norc", "-c", script]
        ran = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=True
        )
        return ran.stdout

    bash("vidgen --install-completion bash")
    assert (tmp_path / ".bashrc").read_text().startswith("alias mine=true\n")
    found = bash(
        "source ~/.bashrc; complete -p vidgen; "
        "COMP_WORDS=(vidgen render m --task i) COMP_CWORD=4; _vidgen_completion vidgen; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    declared, *offered = found.splitlines()
    assert "-o default" in declared
    assert offered == ["image-to-video"]
