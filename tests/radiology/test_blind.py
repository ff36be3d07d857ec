"""Edits and judgements of edits that somebody wrote who had not seen the rules."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mmpo.radiology.claims import keeps_claims
from mmpo.radiology.detector import RuleDetector
from mmpo.radiology.editing import RuleEditor, edit_report

HERE = Path(__file__).parent


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (HERE / name).read_text(encoding="utf-8").splitlines()]


def test_edits_keep_every_finding_and_drop_every_reference() -> None:
    detector = RuleDetector()
    editor = RuleEditor(detector)
    wrong = []
    for row in rows("edits_blind.jsonl"):
        text = edit_report(row["text"], editor).text
        keeps = bool(text) and all(word.lower() in text.lower() for word in row["keep"])
        drops = not any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in row["drop"])
        if text not in row["accept"] and not (keeps and drops and not detector.flags(text)):
            wrong.append((row["text"], text))
    assert len(wrong) <= 2, wrong


def test_the_guard() -> None:
    wrong = [row for row in rows("guard_blind.jsonl") if keeps_claims(row["text"], row["edit"]) != row["ok"]]
    assert len(wrong) <= 1, wrong
    assert not [row for row in wrong if not row["ok"]], "a bad edit got through"
