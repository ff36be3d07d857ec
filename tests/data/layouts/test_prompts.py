"""What is written around questions, and how prompts are dealt out."""

from __future__ import annotations

import random

import pytest

from mmpo.data.layouts.mixing import SEQUENCE_MIX, companions, quotas, shuffled
from mmpo.data.layouts.prompts import (
    CAPTION_PREFIX,
    PHRASES,
    check_prompt,
    collage_text,
    has_box,
    inner_text,
    sequence_text,
)
from mmpo.errors import Quarantined, UserError


def test_sequence_prompts() -> None:
    wanted = "Image1:<image>\nImage2:<image>\nIn Image2, what is the man holding?"
    assert sequence_text("<image>\nWhat is the man holding?", 2, 2) == wanted
    assert sequence_text("What is the man holding?\n<image>", 2, 2) == wanted
    assert sequence_text("What is the man holding?\n<image>", 2, 2, official=True) == wanted + "\n"


def test_captions_of_textvqa() -> None:
    question = CAPTION_PREFIX + "Reference OCR token: STOP"
    assert collage_text(question, 3) == (
        "<image>\nIn Image3, provide a one-sentence caption for the provided image.\nReference OCR token: STOP"
    )


@pytest.mark.parametrize(
    ("question", "ours", "official"),
    [("Is it red?", "is it red?", "is it red?"), ("TV or radio?", "TV or radio?", "tV or radio?"),
     ("I see what?", "I see what?", "i see what?"), ("", "", "")],
)  # fmt: skip
def test_first_letters(question: str, ours: str, official: str) -> None:
    assert collage_text(question, 1) == f"<image>\nIn Image1, {ours}"
    assert collage_text(question, 1, official=True) == f"<image>\nIn Image1, {official}"


def test_phrases_about_the_middle() -> None:
    text = inner_text("What is it?", random.Random(0))
    phrase, _, rest = text.removeprefix("<image>\n").partition(", ")
    assert phrase in PHRASES and rest == "what is it?"
    assert len(set(PHRASES)) == len(PHRASES) == 13 * 24
    assert "Regarding the central image" in PHRASES and "As for the plot in the middle" in PHRASES
    assert len({inner_text("Why?", random.Random(seed)) for seed in range(20)}) > 10


@pytest.mark.parametrize(
    ("text", "boxed"),
    [("at [0.1, 0.25, 0.9, 1]", True), ("[0.1,0.2,0.3,0.4]", True), ("[ 1 , 2 , 3 , 4 ]", True),
     ("[.5, 1, 1, 1]", True), ("[0.1, 0.2, 0.3]", False), ("[0.1, 0.2, 0.3, 0.4, 0.5]", False),
     ("[-1, 2, 3, 4]", False), ("[a, b, c, d]", False)],
)  # fmt: skip
def test_boxes(text: str, boxed: bool) -> None:
    assert has_box(text) is boxed


@pytest.mark.parametrize(
    ("text", "images", "pictures", "reason"),
    [("In Image1, what?", 1, 2, "no_placeholder"), ("<image><image>\nWhat?", 1, 2, "image_count"),
     ("<image>\nIn Image3, what?", 1, 2, "index_beyond"), ("<image>\nIn Image0, what?", 1, 2, "index_beyond")],
)  # fmt: skip
def test_bad_prompts(text: str, images: int, pictures: int, reason: str) -> None:
    with pytest.raises(Quarantined) as caught:
        check_prompt(text, images, pictures)
    assert caught.value.reason == reason
    check_prompt("<image>\nIn Image2, what?", 1, 2)


def test_proportions_are_exact() -> None:
    sizes = quotas(sum(SEQUENCE_MIX.values()), SEQUENCE_MIX)
    assert {size: sizes.count(size) for size in SEQUENCE_MIX} == SEQUENCE_MIX
    assert sum(SEQUENCE_MIX.values()) == 62_461
    assert quotas(3, {2: 1, 3: 1}) == [2, 2, 3] and quotas(0, {2: 1.0}) == [] and len(quotas(7, {2: 0.1, 9: 0.2})) == 7
    with pytest.raises(UserError, match="proportions"):
        quotas(3, {2: 0})


def test_companions_are_distinct_and_never_the_target() -> None:
    pool = [f"{number % 7}.jpg" for number in range(100)]
    for seed in range(50):
        found = companions("3.jpg", pool, 5, random.Random(seed))
        assert len(set(found)) == 5 and "3.jpg" not in found
    with pytest.raises(Quarantined, match="too_few_companions"):
        companions("3.jpg", pool, 7, random.Random(0))
    official = [companions("3.jpg", pool, 5, random.Random(seed), official=True) for seed in range(20)]
    assert any(len(set(found)) < 5 for found in official), "the released code draws a file twice"
    many = [f"{number}.jpg" for number in range(1000)]
    assert len(set(companions(["1.jpg", "2.jpg"], many, 8, random.Random(1)))) == 8


def test_places_follow_the_shuffle() -> None:
    items, places = shuffled("abcde", random.Random(3))
    assert [items[place] for place in places] == list("abcde") and items != list("abcde")
