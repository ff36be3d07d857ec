"""Edits and judgements of edits that somebody wrote who had not seen the rules."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from mmpo.radiology.claims import keeps_claims
from mmpo.radiology.detector import RuleDetector
from mmpo.radiology.editing import RuleEditor, edit_report

HERE = Path(__file__).parent


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (HERE / name).read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    "name", ["edits_blind.jsonl", "edits_second_blind.jsonl", "edits_third_blind.jsonl", "edits_fourth_blind.jsonl"]
)
def test_edits_keep_every_finding_and_drop_every_reference(name: str) -> None:
    detector = RuleDetector()
    editor = RuleEditor(detector)
    wrong = []
    for row in rows(name):
        text = edit_report(row["text"], editor).text
        keeps = bool(text) and all(word.lower() in text.lower() for word in row["keep"])
        drops = not any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in row["drop"])
        if text not in row["accept"] and not (keeps and drops and not detector.flags(text)):
            wrong.append((row["text"], text))
    assert len(wrong) <= 1, wrong


@pytest.mark.parametrize("name", ["guard_blind.jsonl", "guard_second_blind.jsonl"])
def test_the_guard(name: str) -> None:
    """One row of each may differ: "No new X" is not "no X" here, which the second file's author took it for."""
    wrong = [row for row in rows(name) if keeps_claims(row["text"], row["edit"]) != row["ok"]]
    assert len(wrong) <= 1, wrong
    assert not [row for row in wrong if not row["ok"]], "a bad edit got through"
