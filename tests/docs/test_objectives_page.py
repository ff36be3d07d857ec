"""The page of objectives lists what there is."""

from __future__ import annotations

import re
from pathlib import Path

from mmpo.objectives import OBJECTIVES
from mmpo.objectives.describing import reads

PAGE = Path(__file__).resolve().parents[2] / "docs" / "objectives.md"


def test_tables_list_every_objective_once_with_what_it_needs() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \| (.*) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(name for name, *_ in rows) == sorted(OBJECTIVES)
    for name, _, needs, _ in rows:
        assert re.findall(r"`(\w+)`", needs) == reads(OBJECTIVES[name]), name


def test_the_front_page_counts_them() -> None:
    (count,) = re.findall(
        r"(\d+) losses \(`mmpo objectives`", (PAGE.parents[1] / "README.md").read_text(encoding="utf-8")
    )
    assert int(count) == len(OBJECTIVES)
