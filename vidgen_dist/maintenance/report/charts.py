"""Charts as SVG that stands in a page: readable without a script, in the page's font and colours.

Matplotlib draws them; `_as_part_of_page` makes its files parts of a page. Colours become classes, so that the
page's style decides them, in dark mode too. Style attributes become presentation attributes, because the
page's Content-Security-Policy allows no styles but the report's own file.
"""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType

import matplotlib.dates as mdates
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from vidgen_dist.maintenance.report.texts import duration

_SVG = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"

_COLOURS = {"ink": "#1d2327", "muted": "#5b6670", "line": "#d5dbe0", "accent": "#2563a8", "bad": "#b3382c"}
"""Name -> colour in the file. The page's style has the names as `.fill-NAME` and `.stroke-NAME`."""

_SMALL = 10
"""Size of marks in a chart, in pixels."""

_SHORTEST = 1e-4
"""Seconds at which the axis of stages begins, at the least."""

_TIMES = ["%Y", "%b", "%d %b", "%H:%M", "%H:%M", "%H:%M:%S"]
_ROUND_TIMES = ["%Y", "%Y", "%b", "%d %b", "%H:%M", "%H:%M"]
"""How times are written on an axis of years, months, … seconds, and the round ones among them."""

_DROPPED = {"metadata", "style", "title"}

_WIDE, _NARROW, _HEIGHT = 4.3, 3.5, 2.4
"""Inches of 72 pixels. So small, because a chart is as wide as a phone: text must not shrink."""

_SETTINGS = {
    # Texts as texts: for those who cannot see them, and in the page's font.
    "svg.fonttype": "none",
    "svg.hashsalt": "vidgen",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": _COLOURS["line"],
    "axes.labelcolor": _COLOURS["muted"],
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": _COLOURS["line"],
    "grid.linewidth": 0.7,
    "text.color": _COLOURS["ink"],
    "xtick.color": _COLOURS["line"],
    "ytick.color": _COLOURS["line"],
    "xtick.labelcolor": _COLOURS["muted"],
    "ytick.labelcolor": _COLOURS["muted"],
    "ytick.major.size": 0,
}

# Over the defaults: a user's own settings would give other bytes.
_styled = matplotlib.style.context(["default", _SETTINGS])


@dataclass(frozen=True)
class Chart:
    """A chart.

    Args:
        svg: The element `<svg>`, to be put into a page as it is.
        header: Names of the columns of its figures.
        rows: Its figures, for a table.
    """

    svg: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class StageSeconds:
    """How long a stage takes, in seconds.

    Args:
        tenth, median, nine_tenths: So many seconds or less for a tenth, a half, nine tenths of the videos.
        share: Its share of all seconds, from 0 to 1.
    """

    tenth: float
    median: float
    nine_tenths: float
    share: float


@_styled
def throughput_chart(name: str, edges: np.ndarray, counts: np.ndarray) -> Chart:
    """Videos over time, as a pace.

    Args:
        name: A name for the chart that no other chart of the page has.
        edges: Ends of the intervals, microseconds since 1970 (N + 1,).
        counts: Videos done in each (N,).
    """
    minutes = np.diff(edges) / 60e6
    unit, per = ("hour", 60) if counts.sum() and counts.sum() / minutes.sum() < 1 else ("minute", 1)
    pace = counts / minutes * per
    times = [datetime.fromtimestamp(edge / 1e6, UTC) for edge in edges.tolist()]
    figure, axes = _figure()
    # Matplotlib counts days.
    days = np.array(mdates.date2num(times))
    axes.stairs(pace, days, fill=True, color=_COLOURS["accent"], linewidth=0)
    axes.set_xlim(days[0], days[-1])
    axes.set_ylim(0, float(pace.max(initial=0)) * 1.08 or 1)
    axes.set_ylabel(f"videos per {unit}")
    axes.grid(axis="x", visible=False)
    locator = mdates.AutoDateLocator(minticks=2, maxticks=5, tz=UTC)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(
        mdates.ConciseDateFormatter(locator, UTC, _TIMES, zero_formats=_ROUND_TIMES, show_offset=False)
    )
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    most = int(np.argmax(pace)) if len(pace) else 0
    described = (
        f"{int(counts.sum()):,} videos from {times[0]:%Y-%m-%d %H:%M} to {times[-1]:%Y-%m-%d %H:%M} UTC; "
        f"at most {pace[most]:,.1f} per {unit}, from {times[most]:%Y-%m-%d %H:%M} UTC on."
    )
    rows = [
        (f"{start:%Y-%m-%d %H:%M:%S}", f"{int(count):,}", f"{rate:,.1f}")
        for start, count, rate in zip(times, counts.tolist(), pace.tolist(), strict=False)
    ]
    svg = _svg(figure, name, "Throughput over time", described)
    return Chart(svg, ("from (UTC)", "videos", f"per {unit}"), rows)


@_styled
def stages_chart(name: str, stages: Mapping[str, StageSeconds]) -> Chart:
    """Seconds per stage: a bar from the tenth to nine tenths of the videos, a mark at the median.

    Args:
        name: As for `throughput_chart`.
        stages: Stage -> its seconds, in the order of rendering.
    """
    figure, axes = _figure()
    # The axis has no zero.
    lefts = [max(stage.tenth, _SHORTEST) for stage in stages.values()]
    medians = [max(stage.median, _SHORTEST) for stage in stages.values()]
    rights = [max(stage.nine_tenths, _SHORTEST) for stage in stages.values()]
    # A bar without a width could not be seen.
    widths = [max(right - left, left * 0.03) for left, right in zip(lefts, rights, strict=True)]
    places = range(len(stages))
    axes.barh(places, widths, left=lefts, height=0.42, color=_COLOURS["accent"], alpha=0.35)
    axes.plot(medians, places, linestyle="", marker="o", markersize=6, color=_COLOURS["accent"])
    for place, median, stage in zip(places, medians, stages.values(), strict=True):
        axes.annotate(
            duration(stage.median), (median, place), (0, 9), textcoords="offset points", ha="center",
            fontsize=_SMALL,
        )  # fmt: skip
    axes.set_yticks(places, list(stages))
    axes.set_xscale("log")
    axes.set_xlim(min(lefts) / 2, max(*rights, 2 * min(lefts)) * 2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: duration(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(len(stages) - 0.5, -0.75)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", labelcolor=_COLOURS["ink"])
    described = "; ".join(
        f"{stage}: median {duration(value.median)}, nine tenths within {duration(value.nine_tenths)}"
        for stage, value in stages.items()
    )
    rows = [
        (label, duration(each.tenth), duration(each.median), duration(each.nine_tenths), f"{each.share:.0%}")
        for label, each in stages.items()
    ]
    svg = _svg(figure, name, "Seconds per stage", f"{described}.")
    return Chart(svg, ("stage", "10 %", "median", "90 %", "of the time"), rows)


@_styled
def failures_chart(name: str, failures: Mapping[str, int], most: int = 10) -> Chart:
    """Rows by error class.

    Args:
        name: As for `throughput_chart`.
        failures: Error class -> rows, the most frequent first.
        most: Bars, at most.
    """
    shown = dict(list(failures.items())[:most])
    if len(failures) > most:
        shown["others"] = sum(failures.values()) - sum(shown.values())
    figure, axes = _figure(height=0.75 + 0.3 * len(shown))
    bars = axes.barh(
        range(len(shown)), [max(0, count) for count in shown.values()], height=0.6, color=_COLOURS["bad"]
    )
    axes.set_yticks(range(len(shown)), [_shown(label, 28) for label in shown])
    axes.bar_label(bars, [f"{count:,}" for count in shown.values()], padding=4, fontsize=_SMALL)
    axes.set_xlim(0, max(shown.values()) * 1.15)
    # A single bar is no thicker than several.
    axes.set_ylim(max(len(shown), 3) - 0.4, -0.6)
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    axes.set_xticks([])
    axes.tick_params(axis="y", labelcolor=_COLOURS["ink"])
    described = "; ".join(f"{label}: {count:,}" for label, count in shown.items())
    rows = [(label, f"{count:,}") for label, count in failures.items()]
    return Chart(_svg(figure, name, "Failed rows by error class", f"{described}."), ("class", "rows"), rows)


@_styled
def figure_chart(
    name: str,
    label: str,
    edges: np.ndarray,
    counts: np.ndarray,
    limits: Mapping[str, float] = MappingProxyType({}),
    what: str = "videos",
) -> Chart:
    """The distribution of a figure.

    Args:
        name: As for `throughput_chart`.
        label: What the figure is.
        edges: Ends of the bars (N + 1,).
        counts: How many each bar has (N,).
        limits: Flag -> the figure from which a video has it.
        what: What is counted.
    """
    figure, axes = _figure(_NARROW, 2.1)
    axes.stairs(counts, edges, fill=True, color=_COLOURS["accent"], linewidth=0)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, max(1, int(counts.max(initial=0))) * 1.12)
    axes.set_ylabel(what)
    axes.grid(axis="x", visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    for flag, limit in limits.items():
        # Most distributions are far from a limit; their axis is not stretched for it.
        if 0 < limit < edges[-1]:
            axes.axvline(limit, color=_COLOURS["bad"], linewidth=1.2, linestyle=(0, (4, 3)))
            right = limit > edges[-1] / 2
            axes.annotate(
                flag, (limit, 1), (-4 if right else 4, -2), xycoords=("data", "axes fraction"),
                textcoords="offset points", ha="right" if right else "left", va="top",
                fontsize=_SMALL, color=_COLOURS["bad"],
            )  # fmt: skip
    total = int(counts.sum())
    middle = float(edges[int(np.searchsorted(np.cumsum(counts), total / 2))]) if total else 0.0
    described = f"{total:,} {what}; the median is about {middle:.3g}, the highest below {edges[-1]:.3g}."
    rows = [
        (f"{start:g} to {end:g}", f"{int(count):,}")
        for start, end, count in zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True)
        if count
    ]
    return Chart(_svg(figure, name, label, described), (label, what), rows)


def _figure(width: float = _WIDE, height: float = _HEIGHT) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _svg(figure: Figure, name: str, title: str, described: str) -> str:
    """A figure as an element of a page, with a name and a description for those who do not see it."""
    file = io.StringIO()
    figure.patch.set_visible(False)
    for axes in figure.axes:
        axes.patch.set_visible(False)
    FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None, "Creator": None})
    root = ET.fromstring(file.getvalue())
    _as_part_of_page(root, name)
    for tag, text in (("desc", described), ("title", title)):
        element = ET.Element(f"{{{_SVG}}}{tag}", {"id": f"{name}-{tag}"})
        element.text = text
        root.insert(0, element)
    root.set("role", "img")
    root.set("class", "chart")
    root.set("aria-labelledby", f"{name}-title")
    root.set("aria-describedby", f"{name}-desc")
    # The namespace is the page's: HTML knows it.
    text = ET.tostring(root, encoding="unicode")
    return re.sub(r' xmlns(:\w+)?="[^"]*"', "", text).replace("ns0:", "").replace("ns1:href", "href")


def _as_part_of_page(root: ET.Element, name: str) -> None:
    used = {link.get(_LINK, "").removeprefix("#") for link in root.iter() if link.get(_LINK)}
    used |= set(re.findall(r"url\(#([^)]+)\)", ET.tostring(root, encoding="unicode")))
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] in _DROPPED:
                parent.remove(child)
    for element in root.iter():
        _style_to_attributes(element)
        identity = element.attrib.pop("id", None)
        if identity in used:
            element.set("id", f"{name}-{identity}")
        for key, value in list(element.attrib.items()):
            if key == _LINK and value.startswith("#"):
                element.set(key, f"#{name}-{value[1:]}")
            elif "url(#" in value:
                element.set(key, value.replace("url(#", f"url(#{name}-"))
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)


def _style_to_attributes(element: ET.Element) -> None:
    style = element.attrib.pop("style", "")
    pairs = [part.partition(":") for part in style.split(";") if part.strip()]
    values = {key.strip(): value.strip() for key, _, value in pairs}
    if "font" in values:
        size = re.search(r"([\d.]+)px", values.pop("font"))
        values |= {"font-size": size[1]} if size else {}
    for key in ("font-family", "font-style", "font-weight"):
        values.pop(key, None)
    classes = [
        f"{key}-{colour}"
        for key in ("fill", "stroke")
        for colour, code in _COLOURS.items()
        if values.get(key, element.get(key)) == code
    ]
    for key, value in values.items():
        element.set(key, value)
    if classes:
        element.set("class", " ".join(classes))


def _shown(text: str, most: int) -> str:
    # Matplotlib takes a pair of dollar signs for mathematics.
    return (text if len(text) <= most else f"{text[: most - 1]}…").replace("$", r"\$")
