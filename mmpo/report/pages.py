"""The Jinja2 templates of reports and of the review page: everything is escaped, and nothing is fetched."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mmpo.report.svg import inline
from mmpo.visible import visible

TEMPLATES = Path(__file__).parent / "templates"


@cache
def environment() -> Environment:
    """The templates. Filters: `shown` makes control characters visible, `slug` makes a name of an attribute,
    `inline` puts one of our charts on the page, whose texts are escaped."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    made.filters |= {"shown": lambda text: visible(str(text)), "slug": slug, "inline": lambda svg: Markup(inline(svg))}
    return made


def slug(name: str) -> str:
    """A name as part of an HTML attribute's: small letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "x"


def asset(name: str) -> Markup:
    """A style sheet or script of the package, to stand in a page as it is."""
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))  # our own file, never data
