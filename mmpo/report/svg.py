"""Small charts as SVG text: a histogram, a scatter of points, lines. No library, no script; they are read in a browser,
in Markdown pages and in notebooks, in light and in dark.

All texts may be anything: they are escaped, and control characters shown as their codes. Numbers that are none (NaN,
infinity) are left out. The same numbers give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

from mmpo.visible import visible

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 44, 52
LARGEST = 1e100
"""Numbers beyond are drawn there: differences stay finite."""

COLOURS = ("#3268a8", "#c0532b", "#3b8c5a", "#8452a1", "#8a7a1d", "#b0396b")
DARK = ("#7fb0ea", "#f0936b", "#7fcf9d", "#c49be0", "#d8c75a", "#ee86b2")

_MARKS = (
    ".chart text{fill:var(--ink)}.chart .title{font-size:14px;font-weight:600}.chart .grid{stroke:var(--grid)}"
    ".chart .axis{stroke:var(--soft)}.chart .mark{stroke:var(--ink);stroke-dasharray:4 3}.chart .dot{fill-opacity:.45}"
    ".chart .line{fill:none;stroke-width:2}.chart .small{font-size:11px}"
)


def _colours(ink: str, soft: str, grid: str, colours: Iterable[str]) -> str:
    return f"--ink:{ink};--soft:{soft};--grid:{grid};" + "".join(f"--c{k}:{one};" for k, one in enumerate(colours))


LIGHT_COLOURS = _colours("#222", "#888", "#ddd", COLOURS)
DARK_COLOURS = _colours("#eee", "#999", "#444", DARK)
STYLE = (
    f".chart{{font:12px system-ui,sans-serif;{LIGHT_COLOURS}}}"
    f"@media (prefers-color-scheme: dark){{.chart{{{DARK_COLOURS}}}}}{_MARKS}"
)
"""The style inside each chart, which is a file of its own. It touches nothing but charts."""
PAGE_STYLE = f".chart{{font:12px system-ui,sans-serif}}{_MARKS}"
"""The style of the charts of a page, once, where the page itself has the colours; see `inline`."""


def inline(svg: str) -> str:
    """A chart to stand in a page that has `PAGE_STYLE`."""
    return svg.replace(f"<style>{STYLE}</style>\n", "", 1)


@dataclass(frozen=True)
class Series:
    """A named series of points (x, y)."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass
class _Canvas:
    """A chart with axes from `x` to `y` ranges; marks are added to `parts`."""

    title: str
    x_label: str
    y_label: str
    x: tuple[float, float]
    y: tuple[float, float]
    parts: list[str] = field(default_factory=list)

    def across(self, value: float) -> float:
        """The place of a number from left to right."""
        return LEFT + (WIDTH - LEFT - RIGHT) * _share(value, self.x)

    def up(self, value: float) -> float:
        """The place of a number from top to bottom."""
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * _share(value, self.y)

    def text(
        self, x: float, y: float, words: str, *, style: str = "", anchor: str = "middle", turn: bool = False
    ) -> str:
        turned = f' transform="rotate(-90 {_n(x)} {_n(y)})"' if turn else ""
        kind = f' class="{style}"' if style else ""
        return f'<text x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}"{kind}{turned}>{_words(words)}</text>'

    def mark(self, value: float, words: str) -> None:
        """A dashed line across the chart at a number of the x axis."""
        if not self.x[0] <= value <= self.x[1]:
            return
        at = self.across(value)
        self.parts.append(f'<line class="mark" x1="{_n(at)}" x2="{_n(at)}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        self.parts.append(self.text(at, TOP - 4, words, style="small"))

    def svg(self) -> str:
        axes = []
        for value in ticks(*self.x):
            at = _n(self.across(value))
            axes.append(f'<line class="grid" x1="{at}" x2="{at}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
            axes.append(self.text(self.across(value), HEIGHT - BOTTOM + 16, _number(value), style="small"))
        for value in ticks(*self.y):
            at = _n(self.up(value))
            axes.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
            axes.append(self.text(LEFT - 6, self.up(value) + 4, _number(value), style="small", anchor="end"))
        axes.append(f'<path class="axis" fill="none" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
        named = [
            self.text(LEFT, 18, self.title, style="title", anchor="start"),
            self.text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, self.x_label),
            self.text(16, (TOP + HEIGHT - BOTTOM) / 2, self.y_label, turn=True),
        ]
        inside = "\n".join([*axes, *self.parts, *named])
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">\n'
            f"<title>{_words(self.title)}</title>\n<style>{STYLE}</style>\n{inside}\n</svg>\n"
        )


def histogram(
    title: str,
    x_label: str,
    bars: Sequence[float],
    low: float,
    high: float,
    *,
    y_label: str = "pairs",
    marks: Iterable[tuple[float, str]] = (),
) -> str:
    """Bars of one width from `low` to `high`, as high as their counts; `marks` are dashed lines at named numbers."""
    low, high = _wide(low, high)
    canvas = _Canvas(title, x_label, y_label, (low, high), (0.0, max([*bars, 1e-9])))
    step = (high - low) / max(1, len(bars))
    for k, count in enumerate(bars):
        if count > 0:
            left, right, top = canvas.across(low + k * step), canvas.across(low + (k + 1) * step), canvas.up(count)
            canvas.parts.append(
                f'<rect class="bar" fill="var(--c0)" x="{_n(left)}" y="{_n(top)}" '
                f'width="{_n(max(right - left - 1, 0.5))}" height="{_n(HEIGHT - BOTTOM - top)}"/>'
            )
    for value, words in marks:
        canvas.mark(value, words)
    return canvas.svg()


def scatter(title: str, x_label: str, y_label: str, points: Iterable[tuple[float, float]]) -> str:
    """A dot for each (x, y). Lines at 0 are drawn where 0 is inside."""
    kept = [(_bounded(x), _bounded(y)) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    canvas = _Canvas(title, x_label, y_label, _range([x for x, _ in kept]), _range([y for _, y in kept]))
    if canvas.x[0] < 0 < canvas.x[1]:
        canvas.mark(0.0, "")
    if canvas.y[0] < 0 < canvas.y[1]:
        at = _n(canvas.up(0.0))
        canvas.parts.append(f'<line class="mark" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
    canvas.parts += [
        f'<circle class="dot" fill="var(--c0)" r="2.5" cx="{_n(canvas.across(x))}" cy="{_n(canvas.up(y))}"/>'
        for x, y in kept
    ]
    return canvas.svg()


def lines(title: str, x_label: str, y_label: str, series: Iterable[Series]) -> str:
    """A line for each series, with a legend where there are several."""
    kept = [
        Series(one.name, [(_bounded(x), _bounded(y)) for x, y in one.points if math.isfinite(x) and math.isfinite(y)])
        for one in series
    ]
    xs, ys = ([point[axis] for one in kept for point in one.points] for axis in (0, 1))
    canvas = _Canvas(title, x_label, y_label, _range(xs), _range(ys))
    # the legend stands above the lines where it has room there, else over them
    places_of_names = [LEFT + sum(32 + 6.5 * len(one.name) for one in kept[:k]) for k in range(len(kept) + 1)]
    beside = places_of_names[-1] <= WIDTH - RIGHT
    for k, one in enumerate(kept):
        colour = f"var(--c{k % len(COLOURS)})"
        places = " ".join(f"{_n(canvas.across(x))},{_n(canvas.up(y))}" for x, y in one.points)
        canvas.parts.append(f'<polyline class="line" stroke="{colour}" points="{places}"/>')
        if len(kept) > 1:
            x, y = (places_of_names[k], TOP - 8) if beside else (LEFT + 10, TOP + 14 + 16 * k)
            canvas.parts.append(f'<rect fill="{colour}" x="{_n(x)}" y="{y - 8}" width="10" height="10"/>')
            canvas.parts.append(canvas.text(x + 16, y + 1, one.name, style="small", anchor="start"))
    return canvas.svg()


def ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Round numbers from `low` to `high`: 1, 2 or 5 times a power of ten apart, at most about `most`."""
    reach = high - low
    if not reach > 0 or not math.isfinite(reach) or low + reach / most == low:
        return [low]
    power = 10.0 ** math.floor(math.log10(reach / (most - 1)))
    step = next(power * k for k in (1, 2, 5, 10, 20) if reach / (power * k) < most)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)][: most + 2]


def _range(values: Sequence[float]) -> tuple[float, float]:
    """What holds all of them with a little room."""
    low, high = _wide(min(values, default=0.0), max(values, default=1.0))
    room = (high - low) * 0.04
    return low - room, high + room


def _wide(low: float, high: float) -> tuple[float, float]:
    low, high = _bounded(low), _bounded(high)
    return (low, high) if high > low else (low - max(0.5, abs(low) / 2), low + max(0.5, abs(low) / 2))


def _bounded(value: float) -> float:
    return min(max(value, -LARGEST), LARGEST)


def _share(value: float, ends: tuple[float, float]) -> float:
    return (value - ends[0]) / (ends[1] - ends[0])


def _n(value: float) -> str:
    """A place, to a hundredth."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _number(value: float) -> str:
    return f"{value:.6g}" if abs(value) > 1e-12 else "0"


def _words(text: str) -> str:
    return escape(visible(text), quote=True)
