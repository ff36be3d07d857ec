"""Editing: the table of rewrites, invariants over all sentences, masks, injections."""

from __future__ import annotations

import random
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from benchmarks.radiology_sentences import judge_edit
from mmpo.files.atomic import read_jsonl
from mmpo.radiology.claims import keeps_claims
from mmpo.radiology.detector import RuleDetector
from mmpo.radiology.editing import RuleEditor, edit_report
from mmpo.radiology.findings import sentence_findings
from mmpo.radiology.injecting import inject
from mmpo.radiology.masks import Spans, relevant_spans, weight_spans

EDITOR = RuleEditor()
HERE = Path(__file__).parent
SENTENCES = [
    row["text"]
    for name in ("prior_sentences.jsonl", "prior_sentences_held_out.jsonl")
    for row in read_jsonl(HERE / name)
]


@pytest.mark.parametrize(
    ("line", "edit"),
    [
        ("Unchanged small effusion.", "Small effusion."),
        ("Compared to the prior radiograph, the left pleural effusion is larger.", "The left pleural effusion is present."),  # noqa: E501
        ("Again seen is a calcified granuloma.", "A calcified granuloma is seen."),
        ("The heart remains moderately enlarged.", "The heart is moderately enlarged."),
        ("Left lower lobe collapse persists.", "Left lower lobe collapse is present."),
        ("Previously noted left apical pneumothorax has resolved.", "No left apical pneumothorax."),
        ("Interval placement of a right chest tube.", "A right chest tube is present."),
        ("A stable opacity is seen in the left base.", "An opacity is seen in the left base."),
        ("The mass measures 4.2 cm, previously 3.6 cm.", "The mass measures 4.2 cm."),
        ("There is now a small right apical pneumothorax.", "There is a small right apical pneumothorax."),
        ("Mediastinal contours are stable and within normal limits.", "Mediastinal contours are within normal limits."),
        ("Interval improvement in bilateral opacities, which now involve only the lung bases.", "Bilateral opacities involve only the lung bases."),  # noqa: E501
        ("Small bilateral effusions, right greater than left, are stable.", "Small bilateral effusions, right greater than left, are present."),  # noqa: E501
        ("Unchanged moderate right effusion and new small left pneumothorax.", "Moderate right effusion and small left pneumothorax."),  # noqa: E501
        ("Right lung consolidation has progressed to involve the lower lobe.", "Right lung consolidation involves the lower lobe."),  # noqa: E501
        ("Increased size of the left upper lobe nodule, now 14 mm.", "Left upper lobe nodule, 14 mm."),
        ("The opacity at the left base has cleared.", "No opacity at the left base."),
        ("Redemonstration of surgical clips overlying the right axilla.", "Surgical clips overlying the right axilla are seen."),  # noqa: E501
    ],
)  # fmt: skip
def test_rewrites(line: str, edit: str) -> None:
    found = EDITOR.line(line)
    assert (found.label, found.edit) == ("partial", edit)


@pytest.mark.parametrize(
    "line",
    [
        "The heart size is unchanged.",
        "No new consolidation.",
        "No significant interval change.",
        "The endotracheal tube has been removed.",
        "COMPARISON: Chest radiograph from ___.",
        "Improved aeration of the lung bases.",
    ],
)
def test_nothing_can_be_told(line: str) -> None:
    assert EDITOR.line(line).label == "all" and EDITOR.line(line).edit == ""


@pytest.mark.parametrize("pair", read_jsonl(HERE / "guard.jsonl"), ids=lambda pair: f"{pair['text']} {pair['edit']}")
def test_the_guard(pair: dict[str, Any]) -> None:
    assert keeps_claims(pair["text"], pair["edit"]) == pair["ok"]


def test_edits_are_among_the_accepted_ones() -> None:
    judged = [(row["text"], *judge_edit(row, EDITOR)) for row in read_jsonl(HERE / "edits.jsonl")]
    wrong = [(line, text) for line, text, accepted, _ in judged if not accepted]
    assert len(wrong) <= 2, wrong


@pytest.mark.parametrize("row", read_jsonl(HERE / "edits_by_words.jsonl"), ids=lambda row: str(row["text"]))
def test_edits_by_the_words_they_keep(row: dict[str, Any]) -> None:
    said = EDITOR.line(row["text"]).edit.lower()
    assert (said == "") == (row["accept"] == [""])
    assert all(words in said for words in row.get("keep", ())), said
    assert not any(words in said for words in row.get("drop", ())), said


def test_invariants_of_every_sentence() -> None:
    rewritten = 0
    for text in SENTENCES:
        edit = EDITOR.line(text)
        if edit.label == "none":
            assert edit.edit == text
        if edit.label != "partial":
            continue
        rewritten += 1
        said = edit.edit
        assert not EDITOR.detector.sentence(said).flagged, (text, said)
        assert said[0].isupper() and said[-1] in ".!?" and not said.endswith(".."), (text, said)
        assert "  " not in said and " ." not in said and " ," not in said and ",." not in said, (text, said)
        assert EDITOR.line(said).edit == said
        before = {name for name, status in sentence_findings(text).items() if status != "negative"}
        after = {name for name, status in sentence_findings(said).items() if status != "negative"}
        assert before == after, (text, said)
    assert rewritten > 60


def test_reports_made_of_sentences() -> None:
    rng = random.Random(0)
    for _ in range(60):
        report = " ".join(rng.sample(SENTENCES, 6))
        edited = edit_report(report, EDITOR)
        assert not EDITOR.detector.flags(edited.text)
        assert "  " not in edited.text
        again = edit_report(edited.text, EDITOR)
        assert again.text == edited.text and not again.changed
        for line, edit in edited.lines:
            assert edit.label != "none" or line.text in edited.text


def test_headers_lists_and_line_breaks() -> None:
    report = (
        "COMPARISON: Film of ___.\n\nFINDINGS:\nHeart size is unchanged. There is again a\nsmall left effusion.\n\n"
        "IMPRESSION:\n1. Stable small effusion.\n2. No pneumothorax."
    )
    assert edit_report(report, EDITOR).text == (
        "FINDINGS: There is a small left effusion.\n\nIMPRESSION:\n1. Small effusion.\n2. No pneumothorax."
    )
    gone = "Findings: Heart size is unchanged. Lungs are clear.\nImpression: No change."
    assert edit_report(gone, EDITOR).text == "Findings: Lungs are clear."
    clean = "FINDINGS:  Lungs  are clear."
    assert edit_report(clean, EDITOR).text == clean


def words_without(text: str, spans: Spans) -> list[str]:
    """The lower-case words and marks of the text that lie in none of the spans."""
    tokens = re.finditer(r"\w+(?:['-]\w+)*|[^\w\s]", text)
    return [t[0].lower() for t in tokens if not any(s < t.end() and t.start() < e for s, e in spans)]


def test_masks() -> None:
    rejected = "The unchanged small effusion is seen. No change."
    chosen = "The small effusion is seen."
    ours, theirs = relevant_spans(chosen, rejected, junction=False)
    assert ours == [] and [rejected[a:b] for a, b in theirs] == ["unchanged", "No change."]
    ours, _ = relevant_spans(chosen, rejected)
    assert [chosen[a:b] for a, b in ours] == ["small"]
    assert words_without(chosen, []) == words_without(rejected, theirs)
    assert relevant_spans("The Lung.", "the lung.") == ([], [])
    spans = weight_spans(chosen, ours)
    assert spans[0]["start"] == 0 and spans[-1]["end"] == len(chosen)
    assert [span["weight"] for span in spans] == [0.0, 1.0, 0.0]
    assert all(a["end"] == b["start"] for a, b in pairwise(spans))


def test_injected_references_come_out_again() -> None:
    detector = RuleDetector()
    report = "The lungs are clear. There is a small left effusion. No pneumothorax is seen. Heart size is normal."
    made = set()
    for seed in range(30):
        injected = inject(report, random.Random(seed), detector)
        assert injected is not None and detector.flags(injected) and injected != report
        assert 1 <= len(detector.report(injected).flagged) <= 4
        ours, theirs = relevant_spans(report, injected, junction=False)
        assert words_without(report, ours) == words_without(injected, theirs)
        made.add(injected)
    assert len(made) > 10
