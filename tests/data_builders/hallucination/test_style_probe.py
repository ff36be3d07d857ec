"""The style probe sees style where there is some, and none where there is none; object words are not style."""

from __future__ import annotations

import random

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from mmpo.data_builders.hallucination.style_probe import Sides, probe, separation, without_edits, without_objects
from mmpo.text.vocabulary import ObjectVocabulary

WORDS = ObjectVocabulary({name: [] for name in ("dog", "cat", "cup", "car", "bird", "horse", "wine glass")})
NAMES = [name for name in WORDS.names if " " not in name]


def pairs(chosen: str, rejected: str, *, images: int = 40, true: str = "", things: int = 2) -> list[Sides]:
    """Pairs whose sides are two templates with objects drawn alike; with `true`, that object is on the chosen side."""
    rng = random.Random(0)
    made = []
    for number in range(2 * images):
        names = [rng.sample(NAMES, things) for _ in range(2)]
        if true:
            names[0][0] = true
        sides = [template.format(*drawn) for template, drawn in zip((chosen, rejected), names, strict=True)]
        made.append(Sides(f"i{number // 2}", *sides))
    return made


def test_no_style_noseparation() -> None:
    same = "There is a {} on the left and a {}."
    report = probe(pairs(same, same), WORDS)
    assert report is not None and report.pairs == 80 and report.images == 40
    assert report.style.auroc == 0.5 and not report.separable and report.longer_by == 0
    assert 0.3 < report.all.auroc < 0.7
    assert "WARNING" not in report.line()


def test_one_word_of_style_is_seen() -> None:
    report = probe(pairs("There is a {} and a {}.", "Here is a {} and a {}."), WORDS)
    assert report is not None and report.style.auroc > 0.99 and report.separable and report.wording.auroc > 0.99
    assert report.length.auroc == 0.5 and "WARNING" in report.line()


def test_length_is_seen() -> None:
    report = probe(pairs("There is a {} and a {} here.", "There is a {}."), WORDS)
    assert report is not None and report.longer_by == report.longer_by_low == 4.0
    assert report.length.auroc == report.length.accuracy == 1.0


def test_a_longer_list_is_length_and_no_wording() -> None:
    report = probe(
        pairs("There is a {} and a {} and a {} and a {}.", "There is a {} and a {} and a {}.", things=4), WORDS
    )
    assert report is not None and report.style.auroc == 1.0 and report.wording.auroc == 0.5


def test_objects_are_no_style() -> None:
    same = "There is a {} and a {}."
    report = probe(pairs(same, same, true="bird"), WORDS)
    assert report is not None and report.style.auroc == 0.5 and report.all.auroc > 0.8


def test_the_same_pairs_give_the_same_report_and_few_images_none() -> None:
    made = pairs("There is a {} and a {}.", "I see a {} and a {}.")
    assert probe(made, WORDS) == probe(made, WORDS)
    assert probe(made[:8], WORDS) is None and probe([], WORDS) is None


def test_blanks() -> None:
    text = "There are two red cars and a wine glass on the left, with an old dog."
    assert without_objects(text, WORDS) == "There are * * * and * * on the left, with * old *."
    assert without_objects("Dogs", WORDS) == "*"


def test_weighted_auroc_is_the_usual_one() -> None:
    rng = np.random.default_rng(0)
    labels = np.tile([1, 0], 30)
    scores = np.round(rng.normal(size=60) + labels, 1)  # with ties
    weights = np.concatenate([np.ones((1, 60), dtype=int), rng.integers(0, 3, (50, 60))])
    found = separation(scores, labels, weights)
    assert found.auroc == pytest.approx(roc_auc_score(labels, scores), abs=1e-4)
    again = [roc_auc_score(labels, scores, sample_weight=row) for row in weights[1:]]
    assert found.auroc_low == pytest.approx(np.percentile(again, 2.5), abs=1e-4)


def test_edits_are_no_style() -> None:
    """An object was taken out, and nothing else: style and length tell the sides apart, and it says nothing."""
    report = probe(
        pairs(
            "A sunny yard, in which a {} sleeps near a wall.",
            "A sunny yard, in which a {} sleeps near a wall with a {}.",
        ),
        WORDS,
    )
    assert report is not None and report.style.auroc > 0.9 and report.length.auroc == 1.0
    assert report.beyond is not None and report.beyond.auroc == 0.5
    assert not report.separable and "WARNING" not in report.line() and "beyond the edits 0.50" in report.line()


def test_another_writer_is_seen_beside_edits() -> None:
    for chosen in ("The image contains a {}.", "In this picture one can make out a {} and little else."):
        report = probe(pairs(chosen, "A sunny yard, in which a {} sleeps near a wall with a {}."), WORDS)
        assert report is not None and report.separable and "let one `writer` word both" in report.line()


@pytest.mark.parametrize(
    ("chosen", "rejected", "left"),
    [
        ("There is a *.", "There is a * and a *.", ("There is a * .", "There is a * .")),
        ("There is a *.", "Here is a *.", ("There is a * .", "Here is a * .")),
        ("A * sits.", "A * sits. In all, calm.", ("A * sits .", "A * sits . In all , calm .")),
        ("", "", ("", "")),
    ],
)
def test_without_edits(chosen: str, rejected: str, left: tuple[str, str]) -> None:
    assert without_edits(chosen, rejected) == left
