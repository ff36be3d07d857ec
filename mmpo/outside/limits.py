"""Limits on texts from outside, and the values that are refused in JSON and YAML alike."""

from __future__ import annotations

import re

from mmpo.outside.failures import Unreadable

MAX_DEPTH = 100
"""Lists and maps inside one another. Published files stay below 12."""
MAX_FILE = 4 << 30
MAX_LINE = 256 << 20
MAX_YAML = 4 << 20
MAX_NODES = 100_000
"""Values of a YAML text, aliases counted as often as they are used: about five seconds of parsing."""
MAX_RATIO, SMALL = 200, 64 << 20
"""A gzip file may unpack to `SMALL` bytes, or to `MAX_RATIO` times its size."""
INTEGERS = range(-(2**63), 2**64)
HALVES = re.compile("[\ud800-\udfff]")


def size(count: int) -> str:
    return f"{count >> 30} GiB" if count >= 1 << 30 else f"{count >> 20} MiB"


def too_deep(line: int | None) -> Unreadable:
    return Unreadable(f"lists and maps are nested more than {MAX_DEPTH} deep", line=line, hint="is it the right file?")


def half(character: str, line: int | None) -> Unreadable:
    hint = "its writer cut a character in two; write it whole, or take it out"
    return Unreadable(f"\\u{ord(character):04x} is half a character", line=line, hint=hint)


def too_long(digits: str) -> tuple[str, str]:
    """Problem and hint."""
    shown = digits if len(digits) <= 30 else f"{digits[:12]}… ({len(digits)} characters)"
    return f"the number {shown} is too large", "numbers have 64 bits; put quotes around what is a name"
