"""Sentences, claims and verdicts."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmpo.data.annotations.records import AnnotatedImage, AnnotatedObject
from mmpo.data_builders.hallucination.detect import Detector, Finding, Truth, claimed, hallucinated, split_sentences
from mmpo.text.vocabulary import ObjectVocabulary
from tests.data_builders.hallucination.grammar.test_parse import WORDS


def picture(*names: str, captions: tuple[str, ...] = ()) -> AnnotatedImage:
    return AnnotatedImage("i", "i.png", Path("."), 10, 10, tuple(map(AnnotatedObject, names)), captions)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("It is 3.5 m wide. Next.", ["It is 3.5 m wide.", "Next."]),
        ("Dr. Miller has cups, plates, etc. There is more.", ["Dr. Miller has cups, plates, etc.", "There is more."]),
        ("Cups, plates, etc. are here.", ["Cups, plates, etc. are here."]),
        ('He said "Stop." Then he left', ['He said "Stop."', "Then he left"]),
        ("No stop here\n\nbut a new line", ["No stop here", "but a new line"]),
        ("  ", []),
    ],
)
def test_sentences(text: str, sentences: list[str]) -> None:
    pieces = split_sentences(text)
    assert [piece.text for piece in pieces] == sentences
    assert all(text[piece.start :].startswith(piece.text) for piece in pieces)
    assert "".join(piece.before + piece.text for piece in pieces).strip() == text.strip()


def test_claims() -> None:
    fruit = ObjectVocabulary({"orange": [], "dog": []})

    def names(text: str) -> list[str]:
        return [mention.word for mention in claimed(text, fruit)]

    assert names("There is a dog and an orange.") == ["dog", "orange"]
    assert names("There is no dog and not a single dog.") == []
    assert names("A room without any visible dogs.") == []
    assert names("The sky isn't empty, there is a dog.") == ["dog"]
    assert names("A man in an orange shirt, with green and orange shoes and two oranges.") == ["oranges"]


def test_verdicts() -> None:
    detector = Detector(WORDS)
    truth = detector.truth(picture("cat", "man", captions=("A cup on a table. No dog.",)))
    assert truth.names == {"cat", "person", "cup", "dining table"}
    text = "A nice day. There is a woman with a cup. Two dogs and a cat sleep."
    verdicts = detector.check(text, truth)
    assert [verdict.verdict for verdict in verdicts] == ["unchecked", "correct", "hallucination"]
    assert verdicts[2].reason == "no dog in this picture"
    (wrong,) = hallucinated(verdicts)
    assert (text[wrong.start : wrong.end], wrong.name, wrong.kind) == ("dogs", "dog", "object")
    assert verdicts[2].row() == {
        "sentence": "Two dogs and a cat sleep.",
        "verdict": "hallucination",
        "reason": "no dog in this picture",
        "spans": [{"start": wrong.start, "end": wrong.end, "kind": "object", "name": "dog"}],
    }


def test_what_is_there_in_unknown_number_is_not_counted() -> None:
    detector = Detector(WORDS, ["count"])
    truth = detector.truth(picture("cat", captions=("A dog.",)))
    verdicts = detector.check("There are no dogs. There are no cats. There are two cats.", truth)
    assert [verdict.verdict for verdict in verdicts] == ["hallucination", "hallucination", "unchecked"]
    assert [verdict.reason for verdict in verdicts[:2]] == [
        "dogs in this picture, not none",
        "cats in this picture, not none",
    ]


def test_further_checks_can_be_added() -> None:
    def loud(sentence: str, truth: Truth) -> list[Finding]:
        at = sentence.find("!")
        return [] if at < 0 else [Finding(at, at + 1, "tone", "!", True, "too loud")]

    detector = Detector(WORDS, kinds=(), checks=[loud])
    verdicts = detector.check("A cat. A dog!", detector.truth(picture("cat")))
    assert [verdict.verdict for verdict in verdicts] == ["unchecked", "hallucination"]
    assert hallucinated(verdicts)[0].start == len("A cat. A dog")
