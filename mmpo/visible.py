"""Text of data on a terminal: what would steer the terminal, or turn the reading direction, is shown as its code."""

from __future__ import annotations

import re
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

# C0 and C1 controls but line feed and tab, line separators, marks and overrides of direction, half characters.
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
HALF = re.compile("[\ud800-\udfff]")


def visible(text: str) -> str:
    """The text with `\\x1b` for an escape, and so on; other text, whatever its script, as it is."""
    return STEERING.sub(code, text)


def code(match: re.Match[str]) -> str:
    number = ord(match.group())
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"


class SafeConsole(Console):
    """A console that makes all text visible, wherever it comes from: strings, tables, progress bars."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control or not STEERING.search(text) else Segment(visible(text), style)
