"""The account of a dataset adds up, or is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mmpo.data.card import count_reasons, read_card, recipe_hash
from mmpo.data.shards import Rejects, count_pairs, write_card
from mmpo.errors import Quarantined, UserError
from tests.data.making import RECIPE, build


def test_the_books_balance(built: Path) -> None:
    counts = read_card(built)["splits"]["train"]
    rejects = [json.loads(line) for line in (built / "rejects.jsonl").read_text().splitlines()]
    assert counts["sources"] == 60 == counts["kept"] + counts["rejected"]
    assert counts["rejected"] == len(rejects) == sum(counts["reasons"].values())
    assert (
        counts["pairs"]
        == count_pairs(built)
        == counts["kept"] + len([n for n in range(56) if n % 7 == 0 and n % 5 != 2])
    )
    assert rejects[0] == {"id": "s2", "stage": "decode", "reason": "missing", "detail": "2"}
    assert counts["reasons"] == count_reasons(built / "rejects.jsonl")
    assert counts["recipe"] == {"method": "hallucination", "seed": 3, "where": "images"}
    assert counts["recipe_hash"] == recipe_hash({"where": "images", "seed": 3, "method": "hallucination"})
    page = (built / "README.md").read_text()
    assert f"| train | 60 | {counts['kept']} | {counts['pairs']} | {counts['rejected']} |" in page


def test_a_card_that_does_not_add_up_is_refused(tmp_path: Path) -> None:
    counts = build(tmp_path)
    wrong = [
        (replace(counts, sources=61), "61 sources came in"),
        (replace(counts, reasons={}), "0 of them with a reason"),
        (replace(counts, pairs=3), "3 pairs were counted, the train shards hold"),
        (replace(counts, reasons={"decode/odd": counts.rejected}), "the rejects file holds"),
    ]
    for changed, message in wrong:
        with pytest.raises(UserError, match=message):
            write_card(tmp_path, changed)
    write_card(tmp_path, counts, RECIPE, title="Dogs", notes="Made of dogs.")
    assert (tmp_path / "README.md").read_text().split("---\n")[2].startswith("# Dogs\n\nMade of dogs.\n")


def test_reading_a_card(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the build did not finish"):
        read_card(tmp_path)
    (tmp_path / "card.json").write_text('{"format": "other"}')
    with pytest.raises(UserError, match="not a card of the format"):
        read_card(tmp_path)


def test_rejects_alone(tmp_path: Path) -> None:
    with Rejects(tmp_path / "run" / "rejects.jsonl") as rejects:
        rejects.add("a", Quarantined("train", "too_long", "4,096 tokens"))
        assert len(rejects) == 1
    with Rejects(rejects.path) as rejects:
        rejects.add("b", Quarantined("train", "too_long"))
        assert len(rejects) == 2
    assert count_reasons(rejects.path) == {"train/too_long": 2} and count_reasons(tmp_path / "none") == {}
