"""Charts are parts of a page: without styles of their own, with words for those who do not see them."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from vidgen_dist.maintenance.report.charts import (
    Chart,
    StageSeconds,
    failures_chart,
    figure_chart,
    stages_chart,
    throughput_chart,
)

MINUTE = 60_000_000
START = 1_796_127_600_000_000
EDGES = START + np.arange(4) * MINUTE
STAGES = {"encode": StageSeconds(0.0, 0.1, 0.5, 0.01), "denoise": StageSeconds(60, 80, 100, 0.99)}

CHARTS = {
    "throughput": lambda name: throughput_chart(name, EDGES, np.array([3, 0, 5])),
    "stages": lambda name: stages_chart(name, STAGES),
    "failures": lambda name: failures_chart(name, {"A$x$": 3, "<b>&": 2, "_^{": 1, "": 1}),
    "figure": lambda name: figure_chart(name, "motion", np.arange(3) / 9, np.array([4, 1]), {"frozen": 0.1}),
}


def texts(chart: Chart) -> list[str]:
    return [element.text or "" for element in ET.fromstring(chart.svg).iter("text")]


@pytest.mark.parametrize("kind", CHARTS)
def test_a_chart_fits_into_a_page(kind: str) -> None:
    one, other = CHARTS[kind]("one"), CHARTS[kind]("other")
    root = ET.fromstring(one.svg)
    assert root.get("viewBox")
    for element in root.iter():
        assert element.tag not in ("style", "metadata", "script", "image")
        assert "style" not in element.attrib
        for key in ("fill", "stroke"):
            # The page decides its colours.
            if element.get(key, "none") != "none":
                assert f"{key}-" in element.get("class", ""), (element.tag, element.attrib)
    ids = re.findall(r' id="([^"]+)"', one.svg)
    assert len(ids) == len(set(ids))
    assert not set(ids) & set(re.findall(r' id="([^"]+)"', other.svg))
    references = re.findall(r'(?:href="#|url\(#|aria-\w+=")([^")]+)', one.svg)
    assert references
    assert set(references) <= set(ids)
    assert CHARTS[kind]("one").svg == one.svg, "the same figures give the same chart"
    assert "http" not in one.svg


@pytest.mark.parametrize("kind", CHARTS)
def test_a_chart_has_words(kind: str) -> None:
    chart = CHARTS[kind]("one")
    root = ET.fromstring(chart.svg)
    assert root.get("role") == "img"
    title, described = root.find("title"), root.find("desc")
    assert title is not None
    assert described is not None
    assert len(described.text or "") > 20
    assert chart.rows
    assert {len(row) for row in chart.rows} == {len(chart.header)}


def test_throughput_is_a_pace() -> None:
    chart = CHARTS["throughput"]("t")
    assert "videos per minute" in texts(chart)
    assert [row[1:] for row in chart.rows] == [("3", "3.0"), ("0", "0.0"), ("5", "5.0")]
    assert "8 videos" in chart.svg
    slow = throughput_chart("t", START + np.arange(3) * 60 * MINUTE, np.array([3, 5]))
    assert "videos per hour" in texts(slow)
    assert [row[2] for row in slow.rows] == ["3.0", "5.0"]


def test_names_are_no_mathematics_and_no_markup() -> None:
    shown = texts(CHARTS["failures"]("f"))
    assert {"A$x$", "<b>&", "_^{"} <= set(shown)


def test_many_classes_are_put_together() -> None:
    chart = failures_chart("f", {f"Class{number}": 50 - number for number in range(20)})
    assert "others" in texts(chart)
    assert "Class9" in texts(chart)
    assert "Class10" not in texts(chart)
    assert len(chart.rows) == 20


def test_limits_that_are_in_sight_are_shown() -> None:
    edges, counts = np.arange(3) / 10, np.array([4, 1])
    assert "frozen" in texts(figure_chart("q", "motion", edges, counts, {"frozen": 0.1}))
    assert "frozen" not in texts(figure_chart("q", "motion", edges, counts, {"frozen": 0.5}))


def test_no_time_at_all() -> None:
    nothing = {"encode": StageSeconds(0, 0, 0, 0), "denoise": StageSeconds(0, 0, 0, 0)}
    assert "0 ms" in texts(stages_chart("s", nothing))
