"""The Dockerfile of `cluster/`: what it copies is there, and what it installs is declared."""

from __future__ import annotations

import fnmatch
import re
import subprocess
import tomllib

from docs.generate import ROOT
from tests.cluster.manifests import CLUSTER
from vidgen_dist.demo import __name__ as demo

TEXT = (CLUSTER / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
INSTRUCTIONS = re.findall(r"^([A-Z]+) (.*)$", TEXT, re.MULTILINE)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def copied() -> dict[str, str]:
    """What is copied into the image -> where to."""
    found = {}
    for name, arguments in INSTRUCTIONS:
        if name == "COPY":
            *sources, target = [word for word in arguments.split() if not word.startswith("--")]
            found |= dict.fromkeys(sources, target)
    return found


def test_what_is_copied_exists_and_is_no_test() -> None:
    assert copied()
    for source in copied():
        assert (ROOT / source).exists(), source
        assert not source.startswith("tests")


def test_all_that_the_wheel_is_built_from_is_copied() -> None:
    needed = {"pyproject.toml", PROJECT["readme"], *PROJECT["license-files"], demo.partition(".")[0]}
    assert needed <= set(copied())


def test_what_is_copied_is_not_ignored() -> None:
    patterns = (CLUSTER / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in patterns
    kept = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    for source in copied():
        assert any(fnmatch.fnmatch(source, pattern) for pattern in kept), source


def test_extras_that_are_installed_exist() -> None:
    (installed,) = re.findall(r"pip install .*'\.\[([\w,]+)\]'", TEXT)
    assert set(installed.split(",")) <= set(PROJECT["optional-dependencies"])


def test_python_of_the_image_is_one_that_the_package_takes() -> None:
    (image,) = re.findall(r"^ARG CANN_IMAGE=(\S+)$", TEXT, re.MULTILINE)
    version, npu, system, python = image.rpartition(":")[2].split("-")
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert (npu, system) == ("910b", "ubuntu22.04")
    named = python.removeprefix("py")
    assert f"Programming Language :: Python :: {named}" in PROJECT["classifiers"]
    # The same CANN as the comment says.
    (accepted,) = re.findall(r"accepts CANN (.*?) \(", TEXT)
    assert version.rpartition(".")[0] in re.findall(r"\d+\.\d+", accepted)


def test_commands_that_other_files_call_are_in_the_image() -> None:
    commands = {
        target.rpartition("/")[2] for target in copied().values() if target.startswith("/usr/local/bin/")
    }
    assert commands == {"with-cann", "vidgen-drain"}
    assert "vidgen-drain" in (CLUSTER / "raycluster.yaml").read_text(encoding="utf-8")
    assert "with-cann ray start" in (CLUSTER / "ray-up.yaml").read_text(encoding="utf-8")


def test_a_shell_without_settings_of_cann_goes_on() -> None:
    """On a host without CANN the file that every shell reads says nothing."""
    ran = subprocess.run(
        ["bash", "-c", "echo fine"],
        env={"PATH": "/usr/bin:/bin", "BASH_ENV": str(CLUSTER / "cann-env.sh")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (ran.stdout, ran.stderr) == ("fine\n", "")
