"""Charts are well-formed, keep their marks inside, escape what they are told, and follow the reader's colours."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from mmpo.report.svg import Series, histogram, lines, scatter, ticks

SPACE = "{http://www.w3.org/2000/svg}"


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-3, 7, [-2, 0, 2, 4, 6]),
        (0.1, 0.12, [0.1, 0.105, 0.11, 0.115, 0.12]),
        (0, 1234, [0, 200, 400, 600, 800, 1000, 1200]),
    ],
)
def test_ticks_are_round_numbers_inside(low: float, high: float, found: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(found)


@pytest.mark.parametrize(("low", "high"), [(5, 5), (0, 0), (-1e300, 1e300), (1e-300, 2e-300), (1e15, 1e15 + 1)])
def test_ticks_of_odd_ranges_end(low: float, high: float) -> None:
    assert len(ticks(low, high)) <= 12


def test_bars_are_as_high_as_their_counts() -> None:
    bars = [
        one
        for one in parsed(histogram("t", "x", [1, 4, 0, 2], 0, 4)).iter(f"{SPACE}rect")
        if "bar" in one.get("class", "")
    ]
    heights = [float(one.get("height", "0")) for one in bars]
    assert len(heights) == 3  # an empty bar is not drawn
    assert heights[1] == pytest.approx(4 * heights[0], rel=1e-3) and heights[2] == pytest.approx(
        2 * heights[0], rel=1e-3
    )
    widths = {float(one.get("width", "0")) for one in bars}
    assert len(widths) == 1


def test_points_lie_where_their_numbers_are() -> None:
    dots = [
        (float(one.get("cx", "")), float(one.get("cy", "")))
        for one in parsed(scatter("t", "x", "y", [(0, 0), (1, 1), (2, 4)])).iter(f"{SPACE}circle")
    ]
    assert len(dots) == 3
    (x0, y0), (x1, y1), (x2, y2) = dots
    assert x2 - x0 == pytest.approx(2 * (x1 - x0), abs=0.02) and y0 - y2 == pytest.approx(4 * (y0 - y1), abs=0.04)
    assert x0 < x1 and y0 > y1  # upward on paper is a smaller number


def test_lines_of_several_series_have_a_legend() -> None:
    root = parsed(
        lines("t", "step", "nats", [Series("chosen", [(0, 1), (1, 2)]), Series("rejected", [(0, 1), (1, 0)])])
    )
    assert len(list(root.iter(f"{SPACE}polyline"))) == 2
    said = [one.text for one in root.iter(f"{SPACE}text")]
    assert "chosen" in said and "rejected" in said


HOSTILE = '</text><script>alert("1")</script> & \x00\x1b[31m \ud800 \u202e'


@pytest.mark.parametrize(
    "svg",
    [
        histogram(HOSTILE, HOSTILE, [1, 2], 0, 1, marks=[(0.5, HOSTILE)]),
        scatter(HOSTILE, HOSTILE, HOSTILE, [(0, 1)]),
        lines(HOSTILE, HOSTILE, HOSTILE, [Series(HOSTILE, [(0, 1), (1, 2)])]),
    ],
)
def test_hostile_words_stay_words(svg: str) -> None:
    root = parsed(svg.encode())  # type: ignore[arg-type]
    assert not list(root.iter(f"{SPACE}script")) and "<script" not in svg and "\x1b" not in svg


@pytest.mark.parametrize(
    "svg",
    [
        histogram("t", "x", [], 0, 1),
        histogram("t", "x", [0, 0], 3, 3),
        scatter("t", "x", "y", []),
        scatter("t", "x", "y", [(math.nan, 1), (math.inf, 2)]),
        scatter("t", "x", "y", [(1e300, -1e300), (-1e300, 1e300)]),
        lines("t", "x", "y", []),
        lines("t", "x", "y", [Series("a", [(0, 5)])]),
    ],
)
def test_nothing_and_too_much(svg: str) -> None:
    parsed(svg)
    assert "nan" not in svg and "inf" not in svg
    view = re.search(r'viewBox="0 0 (\d+) (\d+)"', svg)
    assert view is not None


def test_what_is_drawn_stays_inside() -> None:
    root = parsed(scatter("t", "x", "y", [(k, math.sin(k) * 1e6) for k in range(50)]))
    width, height = map(float, root.get("viewBox", "").split()[2:])
    for dot in root.iter(f"{SPACE}circle"):
        assert 0 < float(dot.get("cx", "")) < width and 0 < float(dot.get("cy", "")) < height


def test_colours_follow_the_reader() -> None:
    svg = histogram("t", "x", [1], 0, 1)
    assert "prefers-color-scheme: dark" in svg and 'role="img"' in svg
    assert svg == histogram("t", "x", [1], 0, 1)
