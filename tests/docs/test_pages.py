"""What the pages say is so: links resolve, run files parse, commands and flags exist."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from docs.generate import ROOT
from tests.docs.pages import PAGES, anchors, commands, fenced, links, read
from vidgen_dist import cli, load_pipeline, output_layout
from vidgen_dist.families import OUR_FIELDS
from vidgen_dist.quality import FLAGS
from vidgen_dist.spec import make_spec

ALL_PAGES = [
    *PAGES,
    "CONTRIBUTING.md",
    "SECURITY.md",
    "cluster/README.md",
    "tests/references/README.md",
    "vidgen_dist/demo/model/README.md",
]
LEAST = {"model": {"id": "m"}, "manifest": {"uri": "m.parquet"}, "output": {"uri": "out"}}


@pytest.mark.parametrize("page", ALL_PAGES)
def test_links_resolve(page: str) -> None:
    for link in links(page):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), f"{page}: {link} does not exist"
        if anchor:
            assert anchor in anchors(target.resolve()), f"{page}: {link}: no such heading"


def test_every_page_is_listed() -> None:
    listed = set(links("docs/README.md"))
    for page in PAGES:
        assert page in ("README.md", "docs/README.md", "docs/index.md") or Path(page).name in listed, page


@pytest.mark.parametrize("page", PAGES)
def test_run_files_parse(page: str) -> None:
    for text in fenced(page, "yaml"):
        data = yaml.safe_load(text)
        whole = {**LEAST, **data}
        whole["model"] = {**LEAST["model"], **whole["model"]}
        make_spec(whole, page)


@pytest.mark.parametrize("page", ALL_PAGES)
def test_commands_exist(page: str) -> None:
    for arguments in commands(page):
        command = get_command(cli.app)
        left = list(arguments)
        while left and left[0] in getattr(command, "commands", {}):
            command = command.commands[left.pop(0)]
        assert not hasattr(command, "commands"), f"{page}: vidgen {' '.join(arguments)}: no such command"
        flags = {flag for param in command.params for flag in (*param.opts, *param.secondary_opts)}
        for argument in left:
            if argument.startswith("--"):
                assert argument in flags, f"{page}: vidgen {' '.join(arguments)}: unknown flag {argument}"


def test_every_benchmark_is_told_of() -> None:
    text = read("docs/benchmarks.md")
    for path in (ROOT / "tests" / "benchmarks").glob("*.py"):
        if path.name.startswith(("_", "test_", "beside_")):
            continue
        assert f"python -m tests.benchmarks.{path.stem}" in text, path.name
    for name in re.findall(r"python -m tests\.benchmarks\.(\w+)", text):
        assert (ROOT / "tests" / "benchmarks" / f"{name}.py").is_file(), name


def test_every_file_of_an_output_is_told_of() -> None:
    text = read("docs/output.md")
    for name, value in vars(output_layout).items():
        assert not name.isupper() or value in text, value


def test_every_flag_of_quality_is_told_of() -> None:
    for flag in FLAGS:
        assert f"\n| `{flag}` |" in read("docs/quality-and-provenance.md")


def test_the_readme_is_short() -> None:
    text = read("README.md")
    assert len(text.splitlines()) <= 200
    assert len(text) <= 12_000


def test_the_commands_of_the_readme() -> None:
    """What a newcomer types first."""
    for command in ("pip install . && vidgen demo", "pip install '.[test]' && pytest"):
        assert f"\n    {command}\n" in read("README.md")


@pytest.mark.parametrize("page", ["README.md", "docs/models.md", "docs/from-mindone.md"])
def test_calls_in_python_are_possible(page: str) -> None:
    (text,) = fenced(page, "python")
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    named = {call.func.id: call for call in calls if isinstance(call.func, ast.Name)}
    given = {name: [str(keyword.arg) for keyword in call.keywords] for name, call in named.items()}
    inspect.signature(load_pipeline).bind("model", **dict.fromkeys(given["load_pipeline"]))
    assert set(given["RenderRequest"]) <= set(OUR_FIELDS)
