"""Preference data in the formats of other projects: read into pairs, written from pairs. One file per family."""

from __future__ import annotations

from mmpo.data.convert.run import FORMATS, Converted, convert, detect

__all__ = ["FORMATS", "Converted", "convert", "detect"]
