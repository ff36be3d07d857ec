"""What the grammar reads, and that saying it again changes nothing."""

from __future__ import annotations

import pytest

from mmpo.data_builders.hallucination.grammar.parse import parse
from mmpo.data_builders.hallucination.grammar.tree import Sentence, is_plural, say, sentence_names
from mmpo.text.vocabulary import ObjectVocabulary

WORDS = ObjectVocabulary(
    {
        name: []
        for name in (
            "cat", "dog", "cup", "apple", "bus", "car", "cow", "tractor", "chicken", "fork", "refrigerator", "couch",
            "bench", "horse", "umbrella", "knife", "chair", "bird",
        )
    }
    | {"person": ["man", "woman"], "dining table": ["table"]}
)  # fmt: skip

READABLE = [
    "There is a cat on the left, a red cup in the middle and two apples on the right.",
    "In this street picture I can see a bus, a green car and a dog.",
    "The picture shows a farm with a cow, a tractor and two chickens.",
    "The image features a dining table with several plates, a cup, and a fork.",
    "In the background, there is a person standing near a refrigerator.",
    "A kitchen scene.",
    "A kitchen with a cat and a dog.",
    "A cat and a dog are sleeping on a couch.",
    "Two dogs sit on the floor next to a chair.",
    "A man is wearing a hat and is riding a horse.",
    "There are two dogs, one on the left and another on a couch.",
    "A bench is visible in the background, and a chair can be seen close to the table.",
    "Additionally, there is a bird flying above the car, adding to the lively atmosphere.",
    "They are surrounded by a couple of chairs, which are placed around the table.",
    "The room also contains a dining table, as well as a couple of chairs!",
]


def read(text: str) -> Sentence | None:
    return parse(text, WORDS.find(text))


@pytest.mark.parametrize("text", READABLE)
def test_a_sentence_is_read_and_said_again_as_it_was(text: str) -> None:
    tree = read(text)
    assert tree is not None
    assert say(tree) == text
    assert sorted(sentence_names(tree)) == sorted(mention.name for mention in WORDS.find(text))


def test_a_list_is_taken_apart() -> None:
    tree = read(READABLE[0])
    assert tree is not None
    (clause,) = tree.clauses
    assert clause.kind == "there"
    assert clause.joints == (", ", " and ")
    assert [(item.quantifier, item.words, item.names) for item in clause.items] == [
        ("a", "cat", ("cat",)),
        ("a", "red cup", ("cup",)),
        ("two", "apples", ("apple",)),
    ]
    assert [item.tails[0].link for item in clause.items] == [" on", " in", " on"]


def test_what_follows_with_is_one_list() -> None:
    tree = read(READABLE[3])
    assert tree is not None
    (table,) = tree.clauses[0].items
    assert table.names == ("dining table",)
    assert [item.words for item in table.tails[0].items] == ["plates", "cup", "fork"]


def test_a_clause_with_its_own_subject_is_a_clause_of_its_own() -> None:
    tree = read("There is a cup on the table and a dog is lying on the couch.")
    assert tree is not None
    assert [(clause.kind, clause.joiner) for clause in tree.clauses] == [("there", ""), ("subject", " and ")]
    assert tree.clauses[1].verb == "is"


def test_full_verbs_after_a_subject_are_found() -> None:
    for text, verb in (
        ("A dog sits on the couch.", "sits"),
        ("Two dogs sit on the couch.", "sit"),
        ("A man rides a horse.", "rides"),
    ):
        tree = read(text)
        assert tree is not None and tree.clauses[0].verb == verb
    compound = read("A car park with a dog.")
    assert compound is not None and compound.clauses[0].items[0].words == "car park"


@pytest.mark.parametrize("text", ["", "...", "What a day to sing and dance!", "and then"])
def test_what_does_not_fit_is_refused(text: str) -> None:
    assert read(text) is None


@pytest.mark.parametrize(
    ("quantifier", "words", "plural"),
    [
        ("a", "dog", False),
        ("two", "dogs", True),
        ("the", "dogs", True),
        ("the", "bus", False),
        ("a group of", "dogs", False),
        ("a couple of", "dogs", True),
        ("one", "dog", False),
        ("3", "dogs", True),
        ("some", "people", True),
        ("the other two", "dogs", True),
        ("", "glass", False),
    ],
)
def test_number(quantifier: str, words: str, plural: bool) -> None:
    assert is_plural(quantifier, words) is plural
