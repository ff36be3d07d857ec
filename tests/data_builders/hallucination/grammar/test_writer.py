"""Corrections are English, keep what is true, and word both sides alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmpo.data.annotations.records import AnnotatedImage, AnnotatedObject
from mmpo.data_builders.hallucination.grammar.edit import conjugate, indefinite, joints
from mmpo.data_builders.hallucination.grammar.phrases import Naming, missed_phrases, noun_phrase, usual_namings
from mmpo.data_builders.hallucination.grammar.tree import Phrase, Tail, say_tail
from mmpo.data_builders.hallucination.grammar.writer import Writer
from mmpo.demo.language import CARELESS, describe
from mmpo.demo.scene import sample_scene
from mmpo.demo.things import VOCABULARY
from mmpo.text.vocabulary import ObjectVocabulary
from tests.data_builders.hallucination.grammar.test_parse import READABLE, WORDS

WRITER = Writer(WORDS)


def corrected(text: str, *absent: str) -> str:
    return WRITER.correct(text, set(absent).__contains__).corrected


@pytest.mark.parametrize(
    ("text", "absent", "expected"),
    [
        ("There is a cat and a dog.", "cat", "There is a dog."),
        ("There is a cat and two dogs.", "cat", "There are two dogs."),
        ("There are two dogs and a cat.", "dog", "There is a cat."),
        (READABLE[0], "cup", "There is a cat on the left and two apples on the right."),
        (READABLE[0], "cat", "There is a red cup in the middle and two apples on the right."),
        (READABLE[0], "cat cup", "There are two apples on the right."),
        (READABLE[1], "bus", "In this street picture I can see a green car and a dog."),
        (READABLE[1], "dog", "In this street picture I can see a bus and a green car."),
        (READABLE[2], "cow", "The picture shows a farm with a tractor and two chickens."),
        (READABLE[2], "cow tractor chicken", "The picture shows a farm."),
        (READABLE[3], "cup", "The image features a dining table with several plates and a fork."),
        (READABLE[3], "dining table", "The image features a cup and a fork."),
        (READABLE[4], "refrigerator", "In the background, there is a person."),
        (READABLE[4], "person", "In the background, there is a refrigerator."),
        ("A cat, a dog, and a bird are in the yard.", "bird", "A cat and a dog are in the yard."),
        ("A cat and a dog are sleeping on a couch.", "dog", "A cat is sleeping on a couch."),
        ("A cat and a dog are sleeping on a couch.", "couch", "There is a cat and a dog."),
        ("A dog is sleeping on the couch.", "dog", "There is a couch."),
        ("A man rides a horse.", "horse", "There is a man."),
        ("Two dogs and a cat sit on a bench.", "dog", "A cat sits on a bench."),
        ("There is a cat next to a dog on the left.", "dog", "There is a cat on the left."),
        ("There is a dog next to a cat on the left.", "dog", "There is a cat on the left."),
        ("There is a car between a bus and a bench.", "bench", "There is a car."),
        ("There are two cats, one on a couch and another on the floor.", "couch", "There are two cats."),
        ("A bench is visible, and a chair can be seen near the table.", "bench", "A chair can be seen near the table."),
        ("There is a cat. It is sleeping on a couch. There is a car.", "cat", "There is a car."),
        ("On the table, there is a cup.", "dining table", "There is a cup."),
        ("There is a cat on a couch, which is red, and a dog.", "cat", "There is a couch and a dog."),
        ("There is a cat, a dog or a bird.", "dog", "There is a cat or a bird."),
    ],
)  # fmt: skip
def test_correction(text: str, absent: str, expected: str) -> None:
    names = {name for name in WORDS.names if name in absent}
    assert corrected(text, *names) == expected


def test_a_sentence_that_nothing_is_left_of_goes_and_the_rest_stays() -> None:
    text = "A kitchen scene. There is a dog. There is a cup."
    correction = WRITER.correct(text, {"dog"}.__contains__)
    assert correction.corrected == "A kitchen scene. There is a cup."
    assert correction.removed == ("dog",)
    assert corrected("There is a dog.", "dog") == ""


def test_a_sentence_the_grammar_cannot_read_is_kept_or_dropped_whole() -> None:
    odd = "What a cat would want with all that, who knows?"
    assert corrected(f"There is a cup. {odd}", "dog") == f"There is a cup. {odd}"
    assert corrected(f"There is a cup and a dog. {odd}", "cat") == "There is a cup and a dog."


def test_denied_objects_are_no_claims() -> None:
    text = "There is a cup. There is no dog in the picture."
    assert corrected(text, "dog") == text


def test_paragraphs_stay() -> None:
    assert corrected("There is a cup.\n\nThere is a dog and a cat.", "dog") == "There is a cup.\n\nThere is a cat."


def test_missed_objects_take_the_place_of_wrong_ones() -> None:
    missed = [noun_phrase("bird"), noun_phrase("apple", 2)]
    absent = {"dog"}.__contains__
    one = WRITER.correct("There is a dog and a cat.", absent, missed, add=1)
    assert (one.corrected, one.added) == ("There is a bird and a cat.", ("bird",))
    both = WRITER.correct("There is a dog and a cat.", absent, missed, add=2)
    assert both.corrected == "There is a bird, a cat and two apples."
    lonely = WRITER.correct("There is a dog.", absent, missed, add=2)
    assert lonely.corrected == "There is a bird and two apples."
    assert (
        WRITER.correct("There is a dog and a bird.", absent, missed, add=1).corrected
        == "There are two apples and a bird."
    )


def test_what_the_picture_shows_with_takes_more_at_its_end() -> None:
    absent = {"dog"}.__contains__
    result = WRITER.correct(
        "The picture shows a farm with a dog, a cow and a cat.", absent, [noun_phrase("bird")], add=1
    )
    assert result.corrected == "The picture shows a farm with a bird, a cow and a cat."


def test_a_list_in_reading_order_stays_in_order() -> None:
    places = {"cat": 1.0, "bird": 5.0, "cup": 9.0}

    def across(phrase: Phrase) -> float | None:
        return next((places[name] for name in phrase.names if name in places), None)

    text = "There is a dog, a cat and a cup."
    result = WRITER.correct(text, {"dog"}.__contains__, [noun_phrase("bird")], add=1, across=across)
    assert result.corrected == "There is a cat, a bird and a cup."


def test_true_objects_of_a_lost_sentence_come_back() -> None:
    odd = "Why a cat and a dog would be here is anyone's guess."
    text = f"There is a cup and a fork. {odd}"
    kept = WRITER.correct(text, {"dog"}.__contains__, [noun_phrase("cat", place="on the left")], add=1)
    assert kept.lost == ("cat",)
    assert kept.corrected == "There is a cup, a fork and a cat on the left."
    assert WRITER.correct(text, {"dog"}.__contains__).corrected == "There is a cup and a fork."


def test_both_sides_get_the_same_openings() -> None:
    text = "There is a cat and a dog. I can see a cup and two apples."
    seen = set()
    for variant in range(1, 6):
        result = WRITER.correct(text, {"dog"}.__contains__, variant=variant, seed="7/image/0")
        again = WRITER.correct(text, {"dog"}.__contains__, variant=variant, seed="7/image/0")
        assert result == again
        assert result.original.replace(" and a dog", "") == result.corrected
        seen.add(result.original)
    assert len(seen) > 2
    assert WRITER.correct(text, {"dog"}.__contains__, variant=0, seed="x").original == text


def test_phrases_for_missed_objects_follow_the_manner_of_the_text() -> None:
    image = AnnotatedImage(
        "i", "i.png", Path("."), 90, 90,
        (
            AnnotatedObject("apple", (0, 0, 8, 8)),
            AnnotatedObject("car", (60, 0, 30, 30), {"color": "red"}),
            AnnotatedObject("man", (0, 0, 20, 20)),
            AnnotatedObject("chicken", (0, 0, 10, 10)),
            AnnotatedObject("chicken", (80, 0, 10, 10)),
            AnnotatedObject("spaceship", (0, 0, 90, 90)),
        ),
    )  # fmt: skip

    def words(text: str, **options: Any) -> list[str]:
        phrases = missed_phrases(image, WORDS.name_of, (90, 90), [part.tree for part in WRITER.read(text)], **options)
        return [f"{p.quantifier} {p.words}{''.join(map(say_tail, p.tails))}" for p in phrases]

    assert words("There is a cup.") == ["a car", "a person", "two chickens", "an apple"]
    assert words("There is a cup.", min_area=0.01) == ["a car", "a person", "two chickens"]
    assert words("There is a blue cup on the left side and a cat in the middle.") == [
        "a red car on the right",
        "a person on the left side",
        "two chickens",
        "an apple on the left side",
    ]
    said = AnnotatedObject("cup", None, {"side": "on the right"})  # what the annotation says in words needs no box
    image = replace(image, objects=(said,))
    assert words("There is a cat in the middle.") == ["a cup on the right"]


def test_things_are_named_as_the_model_names_them() -> None:
    said = "There is a red mug and an old apple. I can see a blue mug, a cup and two apples on the left."
    vocabulary = ObjectVocabulary({"cup": ["mug"], "apple": []})
    namings = usual_namings(part.tree for part in Writer(vocabulary).read(said))
    assert namings == {"cup": Naming("a", "mug", colored=True), "apple": Naming("a", "old apple")}
    one = noun_phrase("cup", 1, "orange", naming=namings["cup"])
    assert (one.quantifier, one.words, one.names) == ("an", "orange mug", ("cup",))
    assert noun_phrase("cup", 3, naming=namings["cup"]).words == "mugs"
    pair = noun_phrase("scissors", 2)
    assert (pair.quantifier, pair.words, pair.plural) == ("a pair of", "scissors", False)


def test_small_grammar() -> None:
    assert [conjugate(verb, True) for verb in ("is", "has", "sits", "watches", "carries", "can be")] == [
        "are", "have", "sit", "watch", "carry", "can be",
    ]  # fmt: skip
    assert [conjugate(verb, False) for verb in ("are also", "sit", "watch", "carry", "appear to be")] == [
        "is also", "sits", "watches", "carries", "appears to be",
    ]  # fmt: skip
    assert joints(3, (), False) == (", ", " and ")
    assert joints(3, (), True) == (", ", ", and ")
    assert joints(2, (", ", ", or "), True) == (" or ",)
    assert joints(1, (" and ",), False) == ()
    dogs = Phrase("the", "dogs", ("dog",), True, (Tail(" on", ()),))
    assert indefinite(dogs).quantifier == "some"
    assert indefinite(Phrase("the", "old apple", ("apple",), False)).quantifier == "an"
    assert indefinite(Phrase("the other", "dog", ("dog",), False)).quantifier == "another"


def test_descriptions_of_the_demo_world() -> None:
    """Every description that a careless annotator of the demo world writes is read, and corrected to what is there."""
    vocabulary = ObjectVocabulary(VOCABULARY)
    writer = Writer(vocabulary)
    corrections = 0
    for index in range(150):
        scene = sample_scene((0, 7, index))
        text = describe(scene, np.random.default_rng(index), CARELESS, brief=index % 5 == 0).answer
        assert all(part.tree is not None for part in writer.read(text)), text
        result = writer.correct(text, lambda name, there=frozenset(scene.things): name not in there)
        assert result.original == text
        assert {mention.name for mention in vocabulary.find(result.corrected)} == set(scene.things)
        corrections += bool(result.removed)
    assert corrections > 50
