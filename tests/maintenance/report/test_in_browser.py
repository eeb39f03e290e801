"""The report in a real browser: what it loads, plays and finds, and whether everybody can use it."""

from __future__ import annotations

import re
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.maintenance.report.browsing import find, problems
from tests.maintenance.report.outputs import HOSTILE_ID
from vidgen_dist.maintenance.report.pages import POLICY


@pytest.fixture
def index(report: Path) -> str:
    return (report / "index.html").as_uri()


def names(page: Page) -> list[str]:
    return [text.strip() for text in page.locator(".card .prompt").all_inner_texts()]


# --- what is loaded ----------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["disk", "server"])
def test_no_request_leaves_the_report(pages: Any, report: Path, served: str, place: str) -> None:
    start = f"{report.as_uri()}/" if place == "disk" else served
    page = pages("about:blank")
    asked: list[str] = []
    page.context.on("request", lambda request: asked.append(request.url))
    page.goto(f"{start}index.html")
    find(page, "4 of 24 rows", status="failed")
    find(page, "20 of 24 rows", status="done")
    page.locator("a.media").first.hover()
    expect(page.locator("a.media.playing")).to_have_count(1)
    page.locator("button[type=reset]").click()
    page.get_by_role("link", name="Next").click()
    assert [url for url in asked if not url.startswith(start)] == []
    assert {url.rpartition(".")[2].partition("#")[0] for url in asked} >= {"html", "css", "js", "webp", "mp4"}


@pytest.mark.parametrize("place", ["disk", "server"])
def test_the_policy_lets_nothing_out(pages: Any, index: str, served: str, place: str) -> None:
    page = pages(index if place == "disk" else f"{served}index.html")
    assert page.locator("meta[http-equiv=Content-Security-Policy]").get_attribute("content") == POLICY
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.setblocking(False)
        blocked = page.evaluate(
            """(url) => new Promise((resolve) => {
                addEventListener("securitypolicyviolation", (event) => resolve(event.effectiveDirective));
                document.body.append(Object.assign(new Image(), {src: url}));
            })""",
            f"http://127.0.0.1:{elsewhere.getsockname()[1]}/x.png",
        )
        assert blocked == "img-src"
        with pytest.raises(BlockingIOError):
            elsewhere.accept()
    assert any("Content Security Policy" in error for error in pages.errors)
    pages.errors.clear()


def test_nothing_but_the_first_page_is_loaded_before_somebody_searches(pages: Any, index: str) -> None:
    page = pages("about:blank")
    asked: list[str] = []
    page.context.on("request", lambda request: asked.append(request.url.rpartition("-")[2]))
    page.goto(index)
    page.wait_for_load_state("networkidle")
    assert not [name for name in asked if re.fullmatch(r"(\d+|index)\.js", name)]
    # Rows without a video are on the first page alone, whose texts are enough to show them.
    find(page, "4 of 24 rows", status="failed")
    assert [name for name in asked if name.endswith(".js") and name != "report.js"] == ["index.js", "0001.js"]


def test_texts_of_strangers_stay_texts(pages: Any, index: str) -> None:
    page = pages(index)
    find(page, "1 of 24 rows", q="onerror=")
    expect(page.locator(".card .prompt")).to_contain_text("</script><img src=x onerror=")
    expect(page.locator(".card .prompt")).to_contain_text("{{ 7 * 7 }}")
    find(page, "1 of 24 rows", q="svg/onload")
    page.get_by_text("Details of").click()
    expect(page.locator(".card details")).to_contain_text(HOSTILE_ID)
    expect(page).to_have_title("out")


# --- without a script --------------------------------------------------------------------------------


def test_pages_work_without_a_script(pages: Any, index: str) -> None:
    page = pages(index, java_script_enabled=False)
    expect(page.locator(".card")).to_have_count(6)
    for hidden in (".filters", "dialog", "[data-choose]"):
        expect(page.locator(hidden).first).to_be_hidden()
    expect(page.locator("svg.chart")).to_have_count(7)
    page.get_by_role("link", name="Next").click()
    expect(page.locator("[aria-current=page]")).to_have_text("2")
    expect(page.locator(".card")).to_have_count(6)
    page.locator("a.media").first.click()
    assert page.url.endswith(".mp4")


def test_links_of_failures_lead_to_their_rows(pages: Any, index: str) -> None:
    page = pages(index)
    page.get_by_role("link", name="bad-1").click()
    expect(page.locator(".card:target")).to_contain_text("message 1")
    # Also when other rows are shown.
    find(page, "20 of 24 rows", status="done")
    page.get_by_role("link", name="bad-2").click()
    expect(page.locator(".card:target")).to_contain_text("message 2")


# --- playing -----------------------------------------------------------------------------------------


def test_videos_play_while_the_pointer_is_on_them(pages: Any, index: str) -> None:
    page = pages(index)
    page.locator("a.media").first.hover()
    expect(page.locator("a.media").first).to_have_class(re.compile("playing"))
    assert page.locator("video").evaluate("video => video.muted && video.loop && !video.paused")
    page.mouse.move(2, 2)
    expect(page.locator("video")).to_have_count(0)


def test_videos_play_while_they_have_the_focus(pages: Any, index: str) -> None:
    page = pages(index)
    page.locator("button[type=reset]").focus()
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.locator("a.media:focus").count():
            break
    expect(page.locator("a.media:focus")).to_have_class(re.compile("playing"))
    page.keyboard.press("Escape")
    expect(page.locator("video")).to_have_count(0)
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    expect(page.locator("video")).to_have_count(1)
    page.keyboard.press("Tab")
    expect(page.locator("video")).to_have_count(0)


def test_a_tap_plays_and_stops(pages: Any, index: str) -> None:
    page = pages(index, has_touch=True, is_mobile=True, viewport={"width": 390, "height": 800})
    page.locator("a.media").first.tap()
    expect(page.locator("a.media").first).to_have_class(re.compile("playing"))
    page.locator("a.media").first.tap()
    expect(page.locator("video")).to_have_count(0)
    assert page.url.startswith(index)


def test_nothing_moves_for_those_who_asked_for_that(pages: Any, index: str) -> None:
    page = pages(index, reduced_motion="reduce")
    page.locator("a.media").first.hover()
    page.locator("a.media").first.focus()
    expect(page.locator("video")).to_have_count(0)
    page.locator("a.media").first.click()
    assert page.url.endswith(".mp4")


# --- finding -----------------------------------------------------------------------------------------


def test_filters(pages: Any, index: str) -> None:
    page = pages(index)
    before = names(page)
    find(page, "4 of 24 rows", flag="black")
    assert page.locator(".card .badge-flag").all_inner_texts() == ["black"] * 4
    find(page, "4 of 24 rows", flag="any flag")
    find(page, "16 of 24 rows", flag="no flag")
    find(page, "5 of 24 rows", flag="all", q="INK.safetensors")
    # All words, anywhere.
    find(page, "2 of 24 rows", q="message mediaerror")
    find(page, "0 of 24 rows", q="no such thing")
    expect(page.locator(".card")).to_have_count(0)
    page.locator("button[type=reset]").click()
    expect(page.locator(".found")).to_have_text("")
    assert names(page) == before


def test_filters_find_rows_of_all_pages_from_each(pages: Any, index: str) -> None:
    page = pages(index)
    page.get_by_role("link", name="Page 3").click()
    find(page, "1 of 24 rows", q="number 12")
    # The paths of posters and videos are right on this page, too.
    assert page.locator(".card img").evaluate(
        "async image => { await image.decode(); return image.naturalWidth }"
    )
    page.locator("a.media").hover()
    expect(page.locator("a.media.playing")).to_have_count(1)


def test_orders(pages: Any, index: str) -> None:
    page = pages(index)
    cards = page.locator(".card")
    for order, first in (
        ("slowest", "a fox number 19"),
        ("fastest", "a fox number 0"),
        ("newest", "a fox number 19"),
    ):
        page.locator("[name=sort]").select_option(label=order)
        expect(cards.first).to_contain_text(first)
    page.locator("[name=sort]").select_option(label="darkest")
    expect(cards.first).to_contain_text("black")
    assert all("black" in text for text in cards.all_inner_texts()[:4])
    # Rows without the figure come last.
    page.locator("[name=sort]").select_option(label="least motion")
    expect(cards.first).to_contain_text("a fox number 0")


def test_pages_of_what_is_found(pages: Any, index: str) -> None:
    page = pages(index)
    find(page, "20 of 24 rows", status="done", sort="id")
    pager = page.get_by_role("navigation", name="Pages of what was found")
    assert names(page)[0] == "a fox number 0"
    for number in (2, 3, 4):
        pager.get_by_role("button", name="Next").click()
        expect(pager).to_contain_text(f"Page {number} of 4")
    assert names(page) == ["a fox number 18", "a fox number 19"]
    # The button is gone; the focus is not lost.
    expect(pager.get_by_role("button", name="Previous")).to_be_focused()


def test_what_is_looked_for_can_be_passed_on(pages: Any, index: str) -> None:
    page = pages(index)
    find(page, "1 of 24 rows", q="number 12", status="done", sort="slowest")
    other = pages(page.url)
    expect(other.locator(".found")).to_have_text("1 of 24 rows")
    assert other.locator("[name=q]").input_value() == "number 12"
    page.locator("button[type=reset]").click()
    expect(page).to_have_url(re.compile("#gallery$"))


def test_a_report_that_was_replaced_says_so(pages: Any, report: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(report, tmp_path / "copy")
    page = pages((copy / "index.html").as_uri())
    for file in copy.glob("pages/*.js"):
        file.unlink()
    page.locator("[name=q]").fill("fox")
    expect(page.locator(".found")).to_contain_text("Reload the page")
    pages.errors.clear()


# --- for everybody -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 360)])
def test_nothing_keeps_people_out(pages: Any, index: str, scheme: str, width: int) -> None:
    page = pages(index, viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true })")
    assert problems(page) == []
    find(page, "20 of 24 rows", status="done")
    assert problems(page, ".gallery") == []


def test_nothing_keeps_people_out_of_other_pages(pages: Any, index: str) -> None:
    page = pages(index)
    page.get_by_role("link", name="Page 4").click()
    assert problems(page) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_of_charts_can_be_read(pages: Any, index: str, scheme: str) -> None:
    page = pages(index, color_scheme=scheme)
    colours = page.evaluate("""() => [...document.querySelectorAll(".chart text")].map((text) =>
        [getComputedStyle(text).fill, getComputedStyle(text.closest("figure")).backgroundColor])""")
    assert len(colours) > 30
    assert min(contrast(*pair) for pair in colours) >= 4.5


def contrast(one: str, other: str) -> float:
    """The contrast of two colours, as WCAG 2 defines it."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("width", [320, 390, 768, 1600])
def test_no_page_is_wider_than_the_screen(pages: Any, index: str, width: int) -> None:
    page = pages(index, viewport={"width": width, "height": 700})
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    sizes = page.evaluate("""() => [...document.querySelectorAll(".chart text")].map((text) => {
        const {a, b} = text.getScreenCTM();
        return parseFloat(text.getAttribute("font-size")) * Math.hypot(a, b);
    })""")
    assert min(sizes) >= 8


def test_the_keyboard_leads_through_the_page(pages: Any, index: str) -> None:
    page = pages(index)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    expect(page.get_by_role("link", name="Skip to the content")).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    page.locator("[name=q]").focus()
    assert page.locator("[name=q]").evaluate("field => getComputedStyle(field).outlineStyle") == "solid"


def test_pictures_have_words(pages: Any, index: str) -> None:
    page = pages(index)
    find(page, "20 of 24 rows", status="done")
    for image in page.locator("img").all():
        assert re.match(r"A frame of the video of: .+", image.get_attribute("alt") or "")
    for chart in page.locator("svg.chart").all():
        described = chart.get_attribute("aria-describedby")
        assert page.locator(f"[id={described}]").evaluate("element => element.textContent.length") > 20
