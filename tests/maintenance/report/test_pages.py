"""Pages are made of strangers' texts, and stay what they are."""

from __future__ import annotations

import dataclasses
import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest

from vidgen_dist import ledger
from vidgen_dist.maintenance.report.cards import Card, make_card
from vidgen_dist.maintenance.report.pages import Failure, Overview, Tile, render_pages
from vidgen_dist.maintenance.report.previews import Preview

HOSTILE = "</script>\"'><img src=x onerror=alert(1)>{{ 7 * 7 }}{% raise %}\u202e\x00\x1b\ud800&amp;"


def card(number: int, **values: Any) -> Card:
    row = dict.fromkeys(ledger.SCHEMA.names) | {
        "id": f"row-{number}",
        "status": "done",
        "attempt": 1,
        "fingerprint": "f",
        "finished_at": datetime(2026, 1, 1, tzinfo=UTC),
        "fps": 8.0,
    }
    return make_card(number, row | values, values.pop("prompt", None), Preview())


def overview(*failures: Failure, **values: Any) -> Overview:
    empty: dict[str, Any] = {"charts": {"time": [], "failures": [], "quality": []}, "flags": []}
    given = {"title": "out", "about": [], "tiles": [], "more_failures": "", "sample": "", **empty}
    return Overview(failures=failures, **(given | values))


def pages_of(cards: list[Card], size: int = 2, **values: Any) -> dict[str, str]:
    made = render_pages(overview(**values), cards, size)
    return {re.sub(r"^pages/[0-9a-f]{16}-", "", path): content.decode() for path, content in made}


def test_every_text_is_escaped() -> None:
    lora = {"id": HOSTILE, "revision": "r", "digest": None, "scale": 0.5}
    hostile = card(0, id=HOSTILE, prompt=HOSTILE, model=HOSTILE, revision="r", loras=[lora], flags=[HOSTILE])
    failed = card(1, id=HOSTILE, status="failed", error_class=HOSTILE, error_message=HOSTILE)
    hostile = dataclasses.replace(hostile, preview=Preview(note=HOSTILE))
    failure = Failure(HOSTILE, HOSTILE, [failed])
    cards = [hostile, failed, failed]
    made = dict(
        render_pages(
            overview(
                failure, title=HOSTILE, about=[HOSTILE], tiles=[Tile(HOSTILE, HOSTILE, HOSTILE)],
                more_failures=HOSTILE, flags=[(HOSTILE, HOSTILE)], sample=HOSTILE,
            ),
            cards,
            2,
        )
    )  # fmt: skip
    assert sum(path.endswith(".html") for path in made) == 2
    for path, content in made.items():
        text = content.decode()
        assert "\x00" not in text
        assert "\u202e" not in text
        if path.endswith(".html"):
            assert "<img" not in text
            assert text.count("</script>") == text.count("<script ") == 1
            assert text.count("onerror") == text.count("&lt;img src=x onerror=alert(1)&gt;")
            assert "{{ 7 * 7 }}" in text
    script = next(content for path, content in made.items() if path.endswith("-0001.js")).decode()
    found = re.fullmatch(r"vidgenReport\.give\((.*?),(.*)\);\n", script)
    assert found
    name, data = found.groups()
    assert json.loads(name) == "0001.js"
    assert all("<img" not in html for html in json.loads(data))


def test_pages_of_rows() -> None:
    made = pages_of([card(number) for number in range(5)])
    assert [name for name in made if name.endswith(".html")] == ["0002.html", "0003.html", "index.html"]
    assert list(made)[-1] == "index.html"
    assert re.findall(r'id="row-(\d+)"', made["0003.html"]) == ["4"]
    assert re.findall(r'href="([^"]+)#gallery"', made["0003.html"])[:2] == [
        re.findall(r'href="([^"]+)#gallery" aria-label="Page 2"', made["0003.html"])[0],
        "../index.html",
    ]
    assert "Summary" in made["index.html"]
    assert "Summary" not in made["0002.html"]


def test_no_row_at_all() -> None:
    made = pages_of([])
    assert [name for name in made if name.endswith(".html")] == ["index.html"]
    assert "The ledger has no rows yet." in made["index.html"]


@pytest.mark.parametrize("change", ["card", "title"])
def test_other_content_has_other_names(change: str) -> None:
    def names(**values: Any) -> set[str]:
        cards = [card(number, seed=values.get("seed", 1)) for number in range(3)]
        return {path for path, _ in render_pages(overview(title=values.get("title", "out")), cards, 2)}

    assert names() == names()
    different = names(seed=2) if change == "card" else names(title="other")
    assert names() & different == {"index.html"}


def test_a_link_to_a_failure_leads_to_its_page() -> None:
    cards = [card(n, status="failed", error_class="A", error_message="m") for n in range(3)]
    made = dict(render_pages(overview(Failure("A", "3 rows", [cards[0], cards[2]])), cards, 2))
    index = made["index.html"].decode()
    (inner,) = (path for path in made if path.endswith("-0002.html"))
    assert re.findall(r'<li><a href="([^"]+)"><bdi>', index) == ["#row-0", f"{inner}#row-2"]


def test_catalogue() -> None:
    cards = [
        card(0, id="b", status="failed", error_class="A", error_message=""),
        card(1, id="c", flags=["noise", "odd"], seconds_denoise=2.5, motion=0.25),
        card(2, id="a", flags=["black"], mean_luma=0.01),
    ]
    text = pages_of(cards)["index.js"]
    found = json.loads(re.fullmatch(r'vidgenReport\.give\("index\.js",(.*)\);\n', text)[1])  # type: ignore[index]
    assert (found["size"], found["status"]) == (2, "fdd")
    assert (found["flagNames"], found["flags"]) == (["black", "noise", "odd"], [0, 6, 1])
    assert found["sorts"]["seconds"] == [None, 2.5, None]
    assert found["sorts"]["motion"] == [None, 0.25, None]
    assert found["sorts"]["brightness"] == [None, None, 0.01]
    assert found["sorts"]["id"] == [1, 2, 0]


def test_nobodys_folders_are_shown() -> None:
    lora = {"id": "/home/somebody/loras/ink.safetensors", "revision": None, "digest": None, "scale": 1.0}
    uri = "/home/somebody/out/videos/aa/x.mp4"
    row = card(0, model="/home/somebody/checkpoint", loras=[lora], uri=uri, worker="somebody")
    text = "".join(pages_of([row]).values())
    assert "somebody" not in text
    assert "ink.safetensors" in text
    assert "checkpoint" in text
