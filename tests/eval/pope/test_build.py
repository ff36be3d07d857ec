"""POPE questions from annotations."""

from __future__ import annotations

from collections import Counter

import pytest

from mmpo.errors import UserError
from mmpo.eval.pope import build as pope_builder
from mmpo.eval.pope.build import ImageObjects, build, co_occurrence, frequencies, select, usable

IMAGES = [
    ImageObjects("a", ("dog", "person", "car")),
    ImageObjects("b", ("person", "cup", "table")),
    ImageObjects("c", ("person", "cup", "dog", "umbrella")),
    ImageObjects("d", ("apple", "table", "cup")),
]


def asked(split: str, **options: object) -> list[tuple[str, str, str]]:
    questions = build(IMAGES, [split], **options)[split].questions  # type: ignore[list-item,arg-type,index]
    return [(q.image, q.text.removesuffix(" in the image?").removeprefix("Is there "), q.label) for q in questions]


def test_counts() -> None:
    assert list(frequencies(IMAGES).items()) == [
        ("dog", 2), ("person", 3), ("car", 1), ("cup", 3), ("table", 2), ("umbrella", 1), ("apple", 1),
    ]  # fmt: skip
    partners = co_occurrence(IMAGES)
    assert partners["dog"] == ["person", "car", "cup", "umbrella"]  # person twice, the rest once in order of appearance
    assert partners["cup"] == ["person", "table", "dog", "umbrella", "apple"]


def test_popular_asks_for_the_most_frequent_absent_objects() -> None:
    assert asked("popular")[:6] == [
        ("a", "a dog", "yes"),
        ("a", "a cup", "no"),
        ("a", "a person", "yes"),
        ("a", "a table", "no"),
        ("a", "a car", "yes"),
        ("a", "an umbrella", "no"),
    ]


def test_adversarial_asks_for_the_partner_of_the_positive_before() -> None:
    questions = asked("adversarial")
    assert questions[:5] == [
        ("a", "a dog", "yes"),
        ("a", "a cup", "no"),
        ("a", "a person", "yes"),
        ("a", "a table", "no"),
        ("a", "a car", "yes"),
    ]
    # The car was only seen with dog and person, which are here: a random draw of the two objects that are left.
    assert questions[5][1] in ("an umbrella", "an apple")
    assert build(IMAGES, ["adversarial"])["adversarial"].fallbacks == 3  # the same for the dog in c and the apple in d


def test_every_split_is_balanced_truthful_and_without_repetition() -> None:
    objects = {image.image: image.objects for image in IMAGES}
    for split, built in build(IMAGES, seed=4).items():
        assert [q.question_id for q in built.questions] == list(range(1, 25)), split
        assert len({(q.image, q.text) for q in built.questions}) == 24
        for q in built.questions:
            name = q.text.removesuffix(" in the image?").split(" ", 3)[3]
            assert (name in objects[q.image]) == (q.label == "yes")


def test_splits_share_images_and_positives() -> None:
    built = build(IMAGES)
    positives = [[(q.image, q.text) for q in b.questions if q.label == "yes"] for b in built.values()]
    assert positives[0] == positives[1] == positives[2]


def test_random_is_uniform_over_absent_objects_and_seeded() -> None:
    draws = Counter()
    for seed in range(400):
        draws[build(IMAGES, ["random"], positives=1, seed=seed)["random"].questions[1].text] += 1
    names = {text.removesuffix(" in the image?").split(" ", 3)[3] for text in draws}
    assert names == {"cup", "table", "umbrella", "apple"}
    assert all(70 <= count <= 130 for count in draws.values())
    assert build(IMAGES, ["random"], seed=1) == build(IMAGES, ["random"], seed=1)


def test_a_split_does_not_depend_on_which_others_are_built() -> None:
    assert build(IMAGES, ["random"])["random"] == build(IMAGES)["random"]


@pytest.mark.parametrize(
    ("name", "fixed", "official"),
    [("umbrella", "an", "an"), ("unicycle", "a", "an"), ("hourglass", "an", "a"), ("Apple", "an", "a")],
)
def test_articles(name: str, fixed: str, official: str) -> None:
    images = [ImageObjects("a", (name,)), ImageObjects("b", ("dog",))]
    for article, expected in (("fixed", fixed), ("official", official)):
        text = build(images, ["popular"], positives=1, article=article)["popular"].questions[0].text  # type: ignore[arg-type]
        assert text == f"Is there {expected} {name} in the image?"


def test_a_template_keeps_its_other_letters() -> None:
    template = "Can you see {article} {object} anywhere at all?"
    questions = build(IMAGES[3:] + IMAGES[:1], ["popular"], template=template)["popular"].questions
    assert questions[0].text == "Can you see an apple anywhere at all?"


def test_unknown_article_rule() -> None:
    with pytest.raises(UserError, match="'right' is unknown"):
        build(IMAGES, article="right")  # type: ignore[arg-type]


@pytest.mark.parametrize("split", ["random", "popular", "adversarial"])
def test_no_absent_object_left_is_an_error_not_a_loop(split: str) -> None:
    images = [ImageObjects("a", ("dog", "cat", "cup")), ImageObjects("b", ("dog", "cat", "hat"))]
    with pytest.raises(UserError, match="a: no absent object is left"):
        build(images, [split])  # type: ignore[list-item]


def test_too_few_objects_in_an_image() -> None:
    with pytest.raises(UserError, match="b has 1 objects, 2 are needed"):
        build([*IMAGES, ImageObjects("b", ("dog",))], positives=2)


def test_select_draws_from_images_with_enough_different_objects() -> None:
    images = [*IMAGES, ImageObjects("few", ("dog", "dog", "dog"))]
    assert [image.image for image in select(images, None)] == ["a", "b", "c", "d"]
    two = select(images, 2, seed=5)
    assert two == select(images, 2, seed=5) and len({image.image for image in two}) == 2
    assert len({tuple(image.image for image in select(images, 2, seed=seed)) for seed in range(30)}) > 5


def test_select_drops_duplicate_objects() -> None:
    assert select([ImageObjects("a", ("dog", "cat", "dog"))], None, positives=2)[0].objects == ("dog", "cat")


def test_select_says_how_many_qualify() -> None:
    with pytest.raises(UserError, match="4 of 4 images have at least 3 different objects, 5 were asked for"):
        select(IMAGES, 5)
    with pytest.raises(UserError, match="0 of 0 images"):
        select([], None)


def test_template_is_the_published_one() -> None:
    assert pope_builder.TEMPLATE.format(article="a", object="dog") == "Is there a dog in the image?"


def test_images_that_leave_something_to_ask() -> None:
    """Hand-made: dropping an image drops kinds, which may cost another image."""
    images = [
        ImageObjects("a", ("dog", "cat")), ImageObjects("b", ("cup", "dog", "dog")), ImageObjects("c", ("sky",)),
        ImageObjects("d", ("dog", "cat", "cup", "sky")),
    ]  # fmt: skip
    assert [image.image for image in usable(images, 1)] == ["a", "b", "c"]
    assert usable(images, 2) == [], "d lacks nothing; a and b then know three kinds, of which one is absent"
    assert usable([images[0], ImageObjects("e", ("cup", "sky"))], 2)[1].image == "e"
