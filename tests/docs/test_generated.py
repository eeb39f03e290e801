"""Tables of the documentation come from the declarations, and every declaration is in one."""

from __future__ import annotations

import re
import typing

import pytest
from typer.main import get_command

from docs import generate
from tests.docs.pages import PAGES, read
from vidgen_dist import cli
from vidgen_dist.families import FAMILIES, OUR_FIELDS
from vidgen_dist.ledger import SCHEMA
from vidgen_dist.output.status_file import GangStatus, RunStatus, SlowGang, SlowRow
from vidgen_dist.runtime.messages import WorkerMessage
from vidgen_dist.spec.documentation import option_rows
from vidgen_dist.worker_events import EVENTS

STANDS_IN = {
    "api": ["docs/api.md"],
    "commands": ["docs/README.md"],
    "comparison-columns": ["docs/compare.md"],
    "contents": ["docs/index.md"],
    "families": ["README.md", "docs/models.md"],
    "layers": ["docs/architecture.md"],
    "ledger-columns": ["docs/output.md"],
    "log-events": ["docs/operating.md"],
    "metrics": ["docs/operating.md"],
    "plan-flags": ["docs/planning.md"],
    "row-fields": ["docs/manifest.md"],
    "run-options": ["docs/run-file.md"],
    "samplers": ["docs/models.md"],
    "status-file": ["docs/operating.md"],
    "watchdog": ["docs/gangs.md"],
}
"""Generated block -> the pages that have it."""


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_fresh(page: str) -> None:
    text = read(page)
    fresh = generate.generated(text, page)
    assert fresh == text, f"{page} is stale: run `{generate.COMMAND}`"


def test_every_table_is_on_its_pages() -> None:
    found = {
        name: [page for page in PAGES if f"<!-- generated: {name} -->" in read(page)]
        for name in generate.TABLES
    }
    assert found == STANDS_IN
    for page in PAGES:
        assert read(page).count("<!-- generated: ") == read(page).count("<!-- end -->"), page


def test_the_command_says_which_page_is_stale(
    tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- generated: families -->\nold\n<!-- end -->\nafter\n")
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    monkeypatch.setattr(generate, "pages", lambda: [page])
    assert generate.main(["--check"]) == 1
    assert capsys.readouterr().out == "README.md is stale: run `python -m docs.generate`\n"
    assert "old" in page.read_text()
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "| CogVideoX |" in text
    page.write_text("<!-- generated: nothing -->\n<!-- end -->\n")
    with pytest.raises(KeyError, match="unknown generated block 'nothing'"):
        generate.main(["--check"])


def test_every_option_of_a_run_is_in_the_table() -> None:
    table = generate.options_tables()
    command = get_command(cli.app).commands["render"]
    flags = {param.opts[0] for param in command.params if param.param_type_name == "option"}
    assert set(re.findall(r"^\| `(--[\w-]+)` \|", table, re.MULTILINE)) == flags - {"--help", "--option"}
    for row in option_rows():
        assert f"| `{row.key}` | {row.type} |" in table
        assert "|" not in row.help + row.type


@pytest.mark.parametrize("part", [RunStatus, GangStatus, SlowRow, SlowGang])
def test_every_key_of_the_status_file_is_in_its_table(part: type) -> None:
    told = [name for names, _ in generate.arguments_of(part) for name in names.split(", ")]
    assert told == [field for field in typing.get_type_hints(part) if field != "model_config"]


def test_events_are_those_that_workers_report() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (generate.ROOT / "vidgen_dist").rglob("*.py")]
    call = re.compile(r'\b(?:WorkerEvent|WorkerMessage)\(\s*"([a-z]+)"')
    reported = {name for text in sources for name in call.findall(text)}
    assert reported | set(typing.get_args(typing.get_type_hints(WorkerMessage)["kind"])) == EVENTS.keys()


def test_every_other_declaration_is_in_its_table() -> None:
    for name in OUR_FIELDS:
        assert f"\n| `{name}` |" in generate.TABLES["row-fields"]()
    for name in SCHEMA.names:
        assert f"\n| `{name}` |" in generate.ledger_table()
    for family in FAMILIES:
        assert f"\n| {family.name} |" in generate.TABLES["families"]()
        assert re.search(rf"\n\| {family.name} \| `\w+`", generate.samplers_table())
    plan = get_command(cli.app).commands["plan"]
    for param in plan.params:
        if param.param_type_name == "option" and param.opts[0] != "--help":
            assert f"`{param.opts[0]}`" in generate.plan_table()
