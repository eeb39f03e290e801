"""Two videos side by side in a real browser: of two outputs, and two that were chosen in a gallery."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.maintenance.report.browsing import find, problems
from tests.maintenance.report.outputs import put_two_outputs
from vidgen_dist.maintenance.report.writing import ReportPolicy
from vidgen_dist.maintenance.report.writing_pairs import write_pair_report


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The first page of two, of a report of two outputs."""
    folder = tmp_path_factory.mktemp("pairs")
    a, b = put_two_outputs(folder)
    write_pair_report(a.root, b.root, str(folder / "report"), policy=ReportPolicy(page_rows=10, bars=20))
    return (folder / "report" / "index.html").as_uri()


def kinds(page: Page) -> list[str]:
    return page.locator(".pair > .text .badge").all_inner_texts()


def expect_two_that_play(page: Page) -> None:
    expect(page.locator("a.media.playing")).to_have_count(2)
    assert page.locator("video").evaluate_all("all => all.map((one) => one.paused)") == [False, False]


def test_no_request_leaves_the_report_of_two(pages: Any, pairs: str) -> None:
    page = pages("about:blank")
    asked: list[str] = []
    page.context.on("request", lambda request: asked.append(request.url))
    page.goto(pairs)
    page.locator("a.media").first.hover()
    expect_two_that_play(page)
    find(page, "2 of 8 rows", status="only in one")
    page.locator("button[type=reset]").click()
    page.get_by_role("link", name="Next").click()
    expect(page.locator(".pair")).to_have_count(3)
    assert [url for url in asked if not url.startswith(pairs.removesuffix("index.html"))] == []
    expect(page).to_have_title("one and two, page 2")


def test_both_play_while_the_pointer_is_on_one(pages: Any, pairs: str) -> None:
    page = pages(pairs)
    first, second = page.locator(".pair").first.locator("a.media").all()
    second.hover()
    expect_two_that_play(page)
    first.hover()
    expect_two_that_play(page)
    page.locator("h1").hover()
    expect(page.locator("video")).to_have_count(0)


def test_both_play_while_one_has_the_focus(pages: Any, pairs: str) -> None:
    page = pages(pairs)
    page.locator("button[type=reset]").focus()
    for _ in range(3):
        page.keyboard.press("Tab")
        if page.locator("a.media:focus").count():
            break
    expect_two_that_play(page)
    # From A over its details to B, and back with the pointer elsewhere.
    page.keyboard.press("Tab")
    expect(page.locator("video")).to_have_count(0)
    page.keyboard.press("Tab")
    expect_two_that_play(page)


def test_both_play_until_they_are_stopped(pages: Any, pairs: str) -> None:
    # It was asked for, so it moves even where little should.
    page = pages(pairs, reduced_motion="reduce")
    button = page.locator("[data-play]").first
    button.focus()
    page.keyboard.press("Enter")
    expect_two_that_play(page)
    expect(button).to_have_attribute("aria-pressed", "true")
    page.locator(".pair").first.locator("a.media").first.hover()
    page.locator("h1").hover()
    expect_two_that_play(page)
    # They begin again together.
    page.wait_for_function(
        "() => { const [one] = document.querySelectorAll('video'); return one.currentTime > 0.6 }"
    )
    page.wait_for_function(
        "() => { const [one] = document.querySelectorAll('video'); return one.currentTime < 0.5 }"
    )
    times = page.locator("video").evaluate_all("all => all.map((one) => one.currentTime)")
    assert abs(times[0] - times[1]) < 0.25
    page.keyboard.press("Escape")
    expect(page.locator("video")).to_have_count(0)
    expect(button).to_have_attribute("aria-pressed", "false")


def test_rows_of_two_outputs_are_found(pages: Any, pairs: str) -> None:
    page = pages(pairs)
    find(page, "2 of 8 rows", status="differs")
    assert kinds(page) == ["differs", "differs"]
    find(page, "3 of 8 rows", status="not comparable")
    find(page, "1 of 8 rows", status="identical")
    expect(page.locator(".pair")).to_contain_text("a fox, same")
    # Words of reasons, settings and errors, too.
    for words, name in (("4 frames", "length"), ("ink.safetensors", "far"), ("numericalerror", "failed")):
        find(page, "1 of 8 rows", status="all", q=words)
        expect(page.locator(".pair")).to_contain_text(f"a fox, {name}")
    find(page, "1 of 8 rows", q="onerror=")
    expect(page.locator(".pair .prompt")).to_contain_text("</script><img src=x onerror=")


def test_rows_of_two_outputs_are_sorted(pages: Any, pairs: str) -> None:
    page = pages(pairs)
    for order, names in (
        ("lowest PSNR", ["far", "onerror", "same"]),
        ("highest PSNR", ["same", "onerror", "far"]),
        ("motion differs most", ["far", "onerror", "same"]),
    ):
        page.locator("[name=sort]").select_option(label=order)
        for place, name in enumerate(names):
            expect(page.locator(".pair").nth(place)).to_contain_text(name)


def test_pairs_work_without_a_script(pages: Any, pairs: str) -> None:
    page = pages(pairs, java_script_enabled=False)
    expect(page.locator(".pair")).to_have_count(5)
    for hidden in ("[data-play]", ".filters"):
        expect(page.locator(hidden).first).to_be_hidden()
    expect(page.locator("svg.chart")).to_have_count(2)
    expect(page.get_by_role("table", include_hidden=True).first).to_contain_text("model.dtype")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 320)])
def test_nothing_keeps_people_out_of_pairs(pages: Any, pairs: str, scheme: str, width: int) -> None:
    page = pages(pairs, viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true })")
    assert problems(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    one, other = (side.bounding_box() for side in page.locator(".pair").first.locator("a.media").all())
    assert one is not None
    assert other is not None
    assert (one["x"] == other["x"]) == (width == 320), "below each other on a narrow screen alone"


def test_two_videos_of_a_gallery_side_by_side(pages: Any, report: Path) -> None:
    page = pages((report / "index.html").as_uri())
    for name in ("number 12", "number 17"):
        find(page, "1 of 24 rows", q=name)
        expect(page.locator(".card .prompt")).to_contain_text(name)
        button = page.locator("[data-choose]")
        button.focus()
        page.keyboard.press("Enter")
        if name == "number 12":
            expect(page.get_by_text("1 video is chosen")).to_be_visible()
            expect(button).to_have_attribute("aria-pressed", "true")
    dialog = page.get_by_role("dialog", name="Side by side")
    expect(dialog).to_be_visible()
    assert dialog.locator(".prompt").all_inner_texts() == ["a fox number 12", "a fox number 17"]
    assert problems(page, "dialog") == []
    dialog.get_by_role("button", name="Play both").click()
    expect_two_that_play(page)
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page.locator("video")).to_have_count(0)
    expect(page.locator("[data-choose]")).to_have_attribute("aria-pressed", "false")
    expect(page.locator("[data-choose]")).to_be_focused()


def test_a_choice_is_taken_back(pages: Any, report: Path) -> None:
    page = pages((report / "index.html").as_uri(), viewport={"width": 390, "height": 800})
    button = page.locator("[data-choose]").first
    button.click()
    expect(page.locator(".chosen")).to_have_text(re.compile("1 video is chosen"))
    button.click()
    expect(page.locator(".chosen")).to_be_hidden()
    expect(page.get_by_role("dialog")).to_be_hidden()
