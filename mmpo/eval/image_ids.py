"""One image under several names: COCO's `2239`, `000000002239.jpg`, `COCO_val2014_000000002239.jpg`, a path."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import TypeVar

from mmpo.errors import UserError

T = TypeVar("T")
_NUMBERED = re.compile(r"(?:COCO_[a-z]+\d{4}_)?0*(\d+)")


def number_of(name: str) -> str | None:
    """The number in an image's id or file name (also without its ending), None where it is no mere number."""
    last = PurePosixPath(name.replace("\\", "/")).name
    stem = last.rpartition(".")[0] if re.search(r"\.[A-Za-z]+$", last) else last
    match = _NUMBERED.fullmatch(stem)
    return None if match is None else match.group(1)


def keys_for(names: Iterable[str], known: Mapping[str, object]) -> dict[str, str]:
    """The key of `known` that each name means: itself, else the one with the same number. Names without one, or with
    several that say different things, are left out. Raises UserError where two names mean one image.
    """
    numbered: dict[str, list[str]] = {}
    for one in known:
        if (number := number_of(one)) is not None:
            numbered.setdefault(number, []).append(one)
    found: dict[str, str] = {}
    meant: dict[str, str] = {}
    for name in names:
        key: str | None = name if name in known else None
        number = number_of(name)
        if key is None and number is not None:
            same = numbered.get(number, [])
            if same and all(known[one] == known[same[0]] for one in same):
                key = same[0]
        if key is None:
            continue
        other = meant.setdefault(number or key, name)
        if other != name and known[found[other]] == known[key]:
            raise UserError(f"{name} and {other} are one image", hint="leave one of the two out")
        found[name] = key
    return found


def by_names(names: Iterable[str], known: Mapping[str, T]) -> dict[str, T]:
    """The entry in `known` of each of `names` (see `keys_for`)."""
    return {name: known[key] for name, key in keys_for(names, known).items()}
