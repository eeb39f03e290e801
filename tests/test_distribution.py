"""The files that are published: what is in them, and that the installed wheel works."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

import vidgen_dist

ROOT = Path(__file__).parents[1]
NAME = f"vidgen_dist-{vidgen_dist.__version__}"


def run(command: Sequence[str | Path], folder: Path = ROOT) -> str:
    """Run a command that must end well, without this process's path of imports."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ran = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
    return ran.stdout.strip()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a source distribution, and of the wheel that is made of it."""
    folder = tmp_path_factory.mktemp("dist")
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", folder])
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    """The wheel."""
    return built / f"{NAME}-py3-none-any.whl"


def package_files() -> set[str]:
    """The files of the package in the repository."""
    paths = (ROOT / "vidgen_dist").rglob("*")
    return {
        path.relative_to(ROOT).as_posix()
        for path in paths
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_has_the_package_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    about = {name for name in names if name.startswith(f"{NAME}.dist-info/")}
    assert names - about == package_files()
    assert f"{NAME}.dist-info/licenses/LICENSE" in about
    # What code reads at run time.
    demo = "vidgen_dist/demo"
    for needed in (
        f"{demo}/manifest.parquet",
        f"{demo}/model/model_index.json",
        f"{demo}/model/transformer/diffusion_pytorch_model.safetensors",
        f"{demo}/model/tokenizer/spiece.model",
        "vidgen_dist/planner/devices.yaml",
        "vidgen_dist/reference_keys.json",
    ):
        assert needed in names


def test_the_source_distribution_has_what_tests_and_pages_need(built: Path) -> None:
    with tarfile.open(built / f"{NAME}.tar.gz") as archive:
        names = {name.removeprefix(f"{NAME}/") for name in archive.getnames()}
    assert {name.partition("/")[0] for name in names} == {
        ".ci",
        ".github",
        # Hatchling adds it: it says which files are not the project's.
        ".gitignore",
        "CHANGELOG.md",
        "CITATION.cff",
        "CONTRIBUTING.md",
        "LICENSE",
        "PKG-INFO",
        "README.md",
        "SECURITY.md",
        "cluster",
        "docs",
        "jobs",
        "pyproject.toml",
        "tests",
        "vidgen_dist",
    }
    assert package_files() <= names
    assert {"tests/conftest.py", "docs/conf.py", "jobs/submit.py", "cluster/Dockerfile"} <= names


def test_the_metadata_can_be_shown(built: Path) -> None:
    run([sys.executable, "-m", "twine", "check", "--strict", *sorted(built.iterdir())])


def test_the_installed_wheel_answers(wheel: Path, tmp_path: Path) -> None:
    """In an environment that has the dependencies of this one, but not this repository."""
    run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"])
    python = tmp_path / "venv" / "bin" / "python"
    run(
        [
            sys.executable,
            "-m",
            "pip",
            "--python",
            python,
            "install",
            "--quiet",
            "--no-deps",
            "--no-index",
            wheel,
        ]
    )
    site = Path(run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")

    vidgen = tmp_path / "venv" / "bin" / "vidgen"
    assert run([vidgen, "--version"], tmp_path) == vidgen_dist.__version__
    code = (
        "import vidgen_dist.demo as d; print(d.__file__, d.manifest_path(), d.checkpoint_path(), sep='\\n')"
    )
    places = run([python, "-c", code], tmp_path).splitlines()
    assert all(Path(place).is_relative_to(site) and Path(place).exists() for place in places)
    told = run([vidgen, "manifest", "check", places[1], "--model", places[2]], tmp_path)
    assert "6 rows" in told


def test_the_version_stands_in_one_place() -> None:
    assert run(["hatchling", "version"]) == vidgen_dist.__version__
