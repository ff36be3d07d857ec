"""Plurals and articles, the ordinary and the odd."""

from __future__ import annotations

import pytest

from mmpo.text.words import article, is_plural, plural, plurals, with_article

PLURALS = """
dog dogs | box boxes | bus buses | glass glasses | wine glass wine glasses | bench benches | brush brushes | city cities
boy boys | key keys | knife knives | pocketknife pocketknives | person people | salesperson salespeople | man men
woman women | fireman firemen | human humans | child children | grandchild grandchildren | mouse mice | goose geese
mongoose mongooses | sheep sheep | skis skis | scissors scissors | broccoli broccoli | potato potatoes | photo photos
giraffe giraffes | bookshelf bookshelves | roof roofs | quiz quizzes | aircraft aircraft | hot dog hot dogs
cell-phone cell-phones | Dog Dogs | people people | foot feet | tooth teeth | stomach stomachs | leaf leaves
"""


def cases() -> list[tuple[str, str]]:
    found = []
    for case in PLURALS.replace("\n", "|").split("|"):
        words = case.split()
        if words:
            half = len(words) // 2
            found.append((" ".join(words[:half]), " ".join(words[half:])))
    return found


@pytest.mark.parametrize(("one", "many"), cases())
def test_plural(one: str, many: str) -> None:
    assert plural(one) == many


def test_second_plurals() -> None:
    assert plurals("mouse") == ("mice", "mouses")
    assert plurals("computer mouse") == ("computer mice", "computer mouses")


@pytest.mark.parametrize(
    "name",
    [
        "apple",
        "umbrella",
        "orange",
        "hour",
        "honest",
        "elephant",
        "oven",
        "SUV",
        "suv",
        "x-ray",
        "MP3",
        "uninteresting",
        "ice-cream",
        "igloo",
    ],
)
def test_an(name: str) -> None:
    assert article(name) == "an"


@pytest.mark.parametrize(
    "name",
    [
        "dog",
        "unicycle",
        "uniform",
        "university",
        "one-way",
        "European",
        "utensil",
        "TV",
        "tv",
        "UFO",
        "ukulele",
        "house",
        "ewe",
        "used",
    ],
)
def test_a(name: str) -> None:
    assert article(name) == "a"


@pytest.mark.parametrize(
    ("name", "introduced"),
    [
        ("dog", "a dog"),
        ("old dog", "an old dog"),
        ("scissors", "a pair of scissors"),
        ("skis", "a pair of skis"),
        ("glasses", "a pair of glasses"),
        ("wine glasses", "wine glasses"),
        ("broccoli", "some broccoli"),
        ("people", "people"),
    ],
)
def test_with_article(name: str, introduced: str) -> None:
    assert with_article(name) == introduced


def test_is_plural() -> None:
    assert is_plural("scissors") and is_plural("people")
    assert not is_plural("bus") and not is_plural("dog")
