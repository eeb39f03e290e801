"""Helpers: what tests do with a page of a report."""

from __future__ import annotations

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

RULES = {
    "runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]},
    # It would ask for the page's styles, which the policy does not allow.
    "preload": False,
}


def find(page: Page, rows: str, **fields: str) -> None:
    """Fill in the filters, and wait for what is found."""
    for name, value in fields.items():
        field = page.locator(f"[name={name}]")
        field.fill(value) if name == "q" else field.select_option(label=value)
    expect(page.locator(".found")).to_have_text(rows)


def problems(page: Page, within: str | None = None) -> list[str]:
    found = Axe().run(page, context=within, options=RULES).response["violations"]
    return [f"{one['id']}: {node['html'][:200]}" for one in found for node in one["nodes"]]
