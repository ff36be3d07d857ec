"""Changed segments, and which of them weigh more."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmpo.data.annotations.records import AnnotatedImage, AnnotatedObject
from mmpo.data.pair import PreferencePair, validate
from mmpo.data_builders.hallucination.detect import Detector, SentenceVerdict
from mmpo.data_builders.hallucination.segments import changed_segments, weighted_spans
from mmpo.text.vocabulary import ObjectVocabulary

WORDS = ObjectVocabulary({name: [] for name in ("dog", "cat", "cup", "car")})


def pieces(chosen: str, rejected: str) -> tuple[list[str], list[str]]:
    ranges = changed_segments(chosen, rejected)
    first, second = ([text[a:b] for a, b in side] for text, side in zip((chosen, rejected), ranges, strict=True))
    return first, second


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        ("There is a cat on the mat.", "There is a dog on the mat.", (["cat"], ["dog"])),
        ("There is a cat on the mat.", "There is a cat and a dog on the mat.", ([], ["and a dog"])),
        # `a cat` alone is no match of three words: it belongs to the change around it
        ("I see a cat, we think.", "There is a cat nearby, we think.", (["I see a cat"], ["There is a cat nearby"])),
        ("Same text here.", "same Text here.", ([], [])),
        ("", "a dog", ([], ["a dog"])),
    ],
)
def test_segments(chosen: str, rejected: str, expected: tuple[list[str], list[str]]) -> None:
    assert pieces(chosen, rejected) == expected


def test_only_segments_with_a_claim_weigh_more() -> None:
    image = AnnotatedImage("i", "i.png", Path("."), 10, 10, (AnnotatedObject("cat"), AnnotatedObject("cup")))
    detector = Detector(WORDS)
    truth = detector.truth(image)
    chosen = "In this nice old picture there is a cat on the mat with a cup."
    rejected = "In this strange old picture there is a dog on the mat with a cup."
    sides = [(text, detector.check(text, truth)) for text in (chosen, rejected)]
    weights = weighted_spans(sides[0], sides[1], 5.0)
    for text, spans, word in zip((chosen, rejected), weights, ("cat", "dog"), strict=True):
        assert [text[span["start"] : span["end"]] for span in spans or []] == [word]
    assert weights[0] is not None and weights[0][0]["weight"] == 5.0
    pair = PreferencePair.simple(
        id="a", image=b"x", question="?", chosen=chosen, rejected=rejected,
        chosen_weights=weights[0], rejected_weights=weights[1],
    )  # fmt: skip
    assert validate(pair) is pair


def test_a_text_models_verdicts_weigh_whole_sentences() -> None:
    text, other = "A calm day. He sits on it.", "A calm evening. He stands on it."
    judged = [
        SentenceVerdict("A calm day.", 0, "unchecked", "", ()),
        SentenceVerdict("He sits on it.", 12, "correct", "", ()),
    ]
    spans, _ = weighted_spans((text, judged), (other, []), 2.0)
    assert spans == [{"start": 0, "end": len("A calm day. He sits"), "weight": 2.0}]
    assert weighted_spans((text, judged[:1]), (other, []), 2.0) == (None, None)
