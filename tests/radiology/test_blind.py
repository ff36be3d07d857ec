"""Edits and judgements of edits that somebody wrote who had not seen the rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.radiology_sentences import judge_edit
from mmpo.files.atomic import read_jsonl
from mmpo.radiology.claims import keeps_claims
from mmpo.radiology.editing import RuleEditor


def rows(name: str) -> list[dict[str, Any]]:
    return list(read_jsonl(Path(__file__).parent / name))


@pytest.mark.parametrize(
    "name", ["edits_blind.jsonl", "edits_second_blind.jsonl", "edits_third_blind.jsonl", "edits_fourth_blind.jsonl"]
)
def test_edits_keep_every_finding_and_drop_every_reference(name: str) -> None:
    editor = RuleEditor()
    judged = [(row["text"], *judge_edit(row, editor)) for row in rows(name)]
    wrong = [(line, text) for line, text, _, kept in judged if not kept]
    assert len(wrong) <= 1, wrong


@pytest.mark.parametrize("name", ["guard_blind.jsonl", "guard_second_blind.jsonl"])
def test_the_guard(name: str) -> None:
    """One row of each may differ: "No new X" is not "no X" here, which the second file's author took it for."""
    wrong = [row for row in rows(name) if keeps_claims(row["text"], row["edit"]) != row["ok"]]
    assert len(wrong) <= 1, wrong
    assert not [row for row in wrong if not row["ok"]], "a bad edit got through"
