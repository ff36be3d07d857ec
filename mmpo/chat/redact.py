"""Keeps an API key out of everything that is shown, logged or stored, also where a server sends it back."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

SHOWN = "[key]"
PIECE = 8
"""Letters of a key, one after another, that are hidden from messages even where the rest is cut off."""
LONG_PIECE = 16
"""The same for texts that are kept as data, where eight letters may be a word."""
PLACEHOLDER = 6
"""Keys shorter than this (`none`, `EMPTY`) are no secrets, and would hide ordinary words."""


class Redactor:
    """Hides one key: as it is, percent-encoded, in base64 or hexadecimal, and in pieces."""

    def __init__(self, key: str) -> None:
        forms = [] if len(key) < PLACEHOLDER else list(_forms(key))
        self._whole = [form for form in forms if len(form) >= PLACEHOLDER]
        self._whole.sort(key=len, reverse=True)
        self._pieces = {size: _pieces(self._whole, size) for size in (PIECE, LONG_PIECE)}

    def message(self, text: str) -> str:
        """For people and logs."""
        return self._hide(text, PIECE)

    def data(self, text: str) -> str:
        """For replies of a model, which are changed only where it can't be chance."""
        return self._hide(text, LONG_PIECE)

    def _hide(self, text: str, size: int) -> str:
        for form in self._whole:
            text = re.sub(re.escape(form), SHOWN, text, flags=re.IGNORECASE)
        pieces = self._pieces[size]
        if not pieces:
            return text
        kept, place = [], 0
        while place < len(text):
            if text[place : place + size] not in pieces:
                kept.append(text[place])
                place += 1
                continue
            place += size
            while text[place - size + 1 : place + 1] in pieces and place < len(text):
                place += 1
            kept.append(SHOWN)
        return "".join(kept)


def _forms(key: str) -> Iterable[str]:
    yield from dict.fromkeys((key, quote(key, safe=""), quote_plus(key), key.encode().hex()))
    # In base64 a text looks differently by where in a group of three bytes it begins; only whole groups are its own.
    for before in range(3):
        encoded = base64.b64encode(b" " * before + key.encode()).rstrip(b"=").decode()
        own = encoded[(0, 2, 3)[before] : len(encoded) - (1 if (before + len(key.encode())) % 3 else 0)]
        yield own
        yield own.replace("+", "-").replace("/", "_")


def _pieces(forms: Iterable[str], size: int) -> set[str]:
    return {form[start : start + size] for form in forms for start in range(len(form) - size + 1)}
