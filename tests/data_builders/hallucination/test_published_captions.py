"""Captions that LLaVA-1.5 really wrote (OPERA's released file), corrected against COCO's annotations."""

from __future__ import annotations

import json
import re
from difflib import SequenceMatcher
from pathlib import Path

import pytest

from mmpo.data_builders.hallucination.detect import claimed, split_sentences
from mmpo.data_builders.hallucination.grammar.writer import Writer
from mmpo.data_builders.hallucination.style_probe import Sides, probe
from mmpo.text.vocabulary import coco

BROKEN = re.compile(r"(?:\b(?:a|an|the|and|is|are|of|with|on|to)|,)\s*[.!?,]|  |\b(?:a|an|the) (?:and|with|on|is)\b")


def test_llava_prose(published_data: Path) -> None:
    vocabulary = coco()
    writer = Writer(vocabulary)
    truth = json.loads((published_data / "derived/coco2014_chair_gt_objects.json").read_text())
    captions = published_data / "shikiw_OPERA/log/chair_eval_results/llava-1.5/greedy.jsonl"
    sentences = wrong = unread = lost = removed = 0
    for line in captions.read_text().splitlines():
        row = json.loads(line)
        there = {vocabulary.name_of(name) or name for name in truth[str(row["image_id"])]}
        parts = writer.read(row["caption"])
        for part in parts:
            sentences += 1
            if not there.issuperset(part.names):
                wrong += 1
                unread += part.tree is None
        result = writer.correct(row["caption"], lambda name, there=there: name not in there)
        # What is right stays as it was, to the letter.
        assert re.sub(r"\s+", " ", result.original) == re.sub(r"\s+", " ", row["caption"].strip())
        assert there.issuperset(mention.name for mention in claimed(result.corrected, vocabulary))
        for piece in split_sentences(result.corrected):
            assert piece.text in row["caption"] or not BROKEN.search(piece.text), piece.text
        lost += len(result.lost)
        removed += len(result.removed)
    assert sentences > 2000 and wrong > 300
    assert unread < 0.15 * wrong
    assert lost < 0.1 * removed


@pytest.mark.slow
def test_edits_of_real_prose_are_no_style(published_data: Path) -> None:
    """Style tells the sides apart by what was taken out; beyond that they are the same, and nothing is warned of."""
    vocabulary = coco()
    writer = Writer(vocabulary)
    truth = json.loads((published_data / "derived/coco2014_chair_gt_objects.json").read_text())
    captions = published_data / "shikiw_OPERA/log/chair_eval_results/llava-1.5/greedy.jsonl"
    sides = []
    shared = words = 0
    for line in captions.read_text().splitlines():
        row = json.loads(line)
        there = {vocabulary.name_of(name) or name for name in truth[str(row["image_id"])]}
        made = writer.correct(row["caption"], lambda name, there=there: name not in there)
        if made.corrected and made.removed:
            sides.append(Sides(str(row["image_id"]), made.corrected, made.original))
            both = made.corrected.split(), made.original.split()
            blocks = SequenceMatcher(None, *both, autojunk=False).get_matching_blocks()
            shared, words = shared + sum(block.size for block in blocks), words + len(both[0])
    report = probe(sides, vocabulary)
    assert len(sides) == 220 and shared / words > 0.95
    assert report is not None and report.beyond is not None and not report.separable
    print(f"{shared / words:.3f} of the words; {report.line()}")
    assert round(report.style.auroc, 2) == 0.87 and report.beyond.auroc < 0.55
