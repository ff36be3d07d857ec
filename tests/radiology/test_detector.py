"""The detector: labelled sentences, masking, spans, lexicon files, speed on junk."""

from __future__ import annotations

import random
import string
import time
from pathlib import Path

import pytest

from mmpo.errors import UserError
from mmpo.files.atomic import read_jsonl
from mmpo.radiology.detector import RuleDetector, merge_spans
from mmpo.radiology.lexicon import load_lexicon, shipped_lexicon
from mmpo.radiology.lines import split_lines

HERE = Path(__file__).parent
DETECTOR = RuleDetector()


def precision_recall(path: Path) -> tuple[float, float]:
    labelled = [(row["label"], DETECTOR.sentence(row["text"]).flagged) for row in read_jsonl(path)]
    hits = sum(true and said for true, said in labelled)
    return hits / sum(said for _, said in labelled), hits / sum(true for true, _ in labelled)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("prior_sentences.jsonl", 152),
        ("prior_sentences_held_out.jsonl", 130),
        ("prior_sentences_third.jsonl", 150),
        ("prior_sentences_blind.jsonl", 80),
        ("prior_sentences_second_blind.jsonl", 100),
        ("prior_sentences_third_blind.jsonl", 40),
    ],
)
def test_own_sentences(name: str, number: int) -> None:
    assert len(list(read_jsonl(HERE / name))) == number
    precision, recall = precision_recall(HERE / name)
    assert precision >= 0.95 and recall >= 0.95


def test_shared_sentences() -> None:
    path = Path(__file__).resolve().parents[3] / "shared" / "data" / "prior_reference_sentences.jsonl"
    if not path.exists():
        pytest.skip("the shared labelled sentences are not on this machine")
    precision, recall = precision_recall(path)
    assert precision >= 0.95 and recall >= 0.95


def test_exclusions_mask_and_do_not_veto() -> None:
    found = DETECTOR.sentence("Status post CABG, unchanged sternal wires.")
    assert found.flagged and [cue.text for cue in found.cues] == ["unchanged"]
    assert found.exclusions[0][0] == "status post"
    assert not DETECTOR.sentence("Status post CABG.").flagged


def test_spans_are_in_the_original_text() -> None:
    text = "Heart  size is\tUNCHANGED — as   compared to the prior film."
    found = DETECTOR.sentence(text)
    for cue in found.cues:
        assert text[cue.start : cue.end] == cue.text
    assert any(cue.text == "UNCHANGED" for cue in found.cues)
    report = "FINDINGS: Lungs are clear.\nHeart is stable."
    (span,) = DETECTOR.report(report).row()["spans"]
    assert report[slice(*span)] == "stable"


def test_needs_never_hide_a_match() -> None:
    """`needs` only save time: without them every sentence gets the same verdict."""
    texts = [
        row["text"]
        for name in ("prior_sentences.jsonl", "prior_sentences_held_out.jsonl")
        for row in read_jsonl(HERE / name)
    ]
    slow = [
        [(cue.name, m.span()) for cue in shipped_lexicon().cues for m in cue.regex.finditer(text.lower())]
        for text in texts
    ]
    quick = [
        [
            (c.name, m.span())
            for c in shipped_lexicon().cues
            if c.may_match(t.lower())
            for m in c.regex.finditer(t.lower())
        ]
        for t in texts
    ]
    assert slow == quick


def test_deterministic_and_linear() -> None:
    rng = random.Random(0)
    junk = "".join(rng.choice(string.ascii_letters + "    .,\n") for _ in range(100_000))
    words = "no prior compared to change since the old new " * 2_500
    for text in (junk, words, "compared " * 12_000, "a" * 100_000):
        began = time.process_time()
        assert DETECTOR.report(text).row() == DETECTOR.report(text).row()
        assert time.process_time() - began < 10


def test_odd_characters() -> None:
    assert DETECTOR.sentence("İİ Heart is ‘unchanged’ – from\u00a0prior.").flagged
    for text in ("", " ", "\0\0", "…", "\ud800 unchanged"):
        DETECTOR.report(text)


def test_user_lexicon(tmp_path: Path) -> None:
    more = tmp_path / "more.yaml"
    more.write_text(
        "cues:\n  - {name: idem, score: 1.0, phrases: ['same as the old one', 'idem']}\n"
        "exclusions:\n  - {name: stable door, pattern: 'stable doors?'}\nremove: [ongoing]\n"
    )
    detector = RuleDetector(load_lexicon(more))
    assert detector.sentence("Idem.").flagged and not DETECTOR.sentence("Idem.").flagged
    assert not detector.sentence("A stable door is seen.").flagged
    assert not any(cue.name == "ongoing" for cue in detector.lexicon.cues)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cues:\n  - {name: a, score: 2, pattern: x}", "less than or equal to 1"),
        ("cues:\n  - {name: a, score: 1, pattern: '('}", "not a regular expression"),
        ("cues:\n  - {name: a, score: 1, pattern: '(?:a+)+'}", "repeats without limit"),
        ("cues:\n  - {name: a, score: 1, pattern: '{NOPE}'}", "NOPE"),
        ("cues:\n  - {name: a, score: 1}", "either `pattern` or `phrases`"),
        ("remove: [nothing]", "nothing"),
        ("kues: []", "Extra inputs"),
        ("cues: [", "not valid YAML"),
    ],
)
def test_wrong_lexicons_say_what_is_wrong(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "lexicon.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"lexicon\.yaml") as error:
        load_lexicon(path)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("report", "lines"),
    [
        ("A 3.5 cm mass. No effusion.", ["A 3.5 cm mass.", "No effusion."]),
        ("Lungs are clear.Heart is normal.", ["Lungs are clear.", "Heart is normal."]),
        ("FINDINGS:\nThe lungs are\nclear and normal.\nHeart is large", ["FINDINGS:\nThe lungs are\nclear and normal.", "Heart is large"]),  # noqa: E501
        ("1. No change.\n2. Edema.", ["1. No change.", "2. Edema."]),
        ("Seen by Dr. Smith. See No. 3 below.", ["Seen by Dr. Smith.", "See No. 3 below."]),
        ("Comparison to ___. Clear.", ["Comparison to ___.", "Clear."]),
        ("Clear; no effusion.\n\n\n", ["Clear; no effusion."]),
        ("", []),
    ],
)  # fmt: skip
def test_lines(report: str, lines: list[str]) -> None:
    found = split_lines(report)
    assert [line.text for line in found] == lines
    assert all(report[line.start : line.end] == line.text for line in found)


def test_merge_spans() -> None:
    assert merge_spans([(5, 8), (0, 2), (2, 4), (7, 9)]) == [(0, 4), (5, 9)]
