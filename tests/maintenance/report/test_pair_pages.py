"""Pages of two outputs are made of strangers' texts, and stay what they are."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from tests.maintenance.report.test_pages import HOSTILE, card
from vidgen_dist.maintenance.comparison import COMPARED, ONLY_B, SCHEMA, SHAPES_DIFFER
from vidgen_dist.maintenance.report.pages import PairOverview, Tile, render_pair_pages
from vidgen_dist.maintenance.report.pairs import Difference, DifferencePoster, Pair, make_pair

FIGURES = {
    "outcome": COMPARED, "same_bytes": False, "same_frames": False, "psnr": 30.0, "ssim": 0.9,
    "mean_difference": 0.01, "motion_difference": 0.02, "first_different_frame": 3, "worst_frame": 4,
    "frames": 9,
}  # fmt: skip


def pair(number: int, id: str = "x", poster: DifferencePoster | None = None, **values: Any) -> Pair:
    row = dict.fromkeys(SCHEMA.names) | {"id": id} | (FIGURES if "outcome" not in values else {}) | values
    prompt = values.get("prompt")
    return make_pair(number, row, (card(number, id=id, prompt=prompt), card(number, id=id)), poster)


def pages_of(pairs: list[Pair], **values: Any) -> dict[str, str]:
    empty: dict[str, Any] = {
        "title": "",
        "about": [],
        "tiles": [],
        "charts": [],
        "settings": [],
        "sample": "",
    }
    made = render_pair_pages(PairOverview(**(empty | values)), pairs, 2)
    return {re.sub(r"^pages/[0-9a-f]{16}-", "", path): content.decode() for path, content in made}


def test_every_text_of_a_pair_is_escaped() -> None:
    poster = DifferencePoster("media/x.webp", (16, 16), HOSTILE, HOSTILE)
    hostile = pair(0, HOSTILE, poster, outcome=SHAPES_DIFFER, reason=HOSTILE, prompt=HOSTILE)
    made = pages_of(
        [hostile, hostile, hostile],
        title=HOSTILE, about=[HOSTILE], tiles=[Tile(HOSTILE, HOSTILE)], sample=HOSTILE,
        settings=[Difference(HOSTILE, HOSTILE, HOSTILE)],
    )  # fmt: skip
    for name, text in made.items():
        assert "\x00" not in text
        assert "\u202e" not in text
        if name.endswith(".html"):
            assert "<img src=x" not in text
            assert text.count("</script>") == text.count("<script ") == 1
            assert text.count("onerror") == text.count("&lt;img src=x onerror=alert(1)&gt;") > 5


def test_catalogue_of_pairs() -> None:
    pairs = [
        pair(0, "b"),
        pair(1, "d", outcome=SHAPES_DIFFER, reason="r"),
        pair(2, "a", outcome=ONLY_B),
        pair(3, "c", outcome=COMPARED, same_frames=True, same_bytes=True, psnr=math.inf, ssim=1.0),
    ]
    text = pages_of(pairs)["index.js"]
    found = json.loads(re.fullmatch(r'vidgenReport\.give\("index\.js",(.*)\);\n', text)[1])  # type: ignore[index]
    assert (found["size"], found["status"]) == (2, "dnoi")
    sorts = found["sorts"]
    assert sorts["psnr"][:3] == [30.0, None, None]
    assert sorts["psnr"][3] > 1000, "JSON has no infinity"
    assert sorts["first"] == [3, None, None, None]
    assert sorts["id"] == [1, 3, 0, 2]


def test_no_pair_at_all() -> None:
    made = pages_of([])
    assert [name for name in made if name.endswith(".html")] == ["index.html"]
    assert "The ledgers have no rows." in made["index.html"]
    assert "Both runs have the same settings." in made["index.html"]
