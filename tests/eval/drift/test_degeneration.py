"""Repetition, loops and diversity: the golden values of the specification, and their edges."""

from __future__ import annotations

import pytest

from mmpo.eval.drift.degeneration import (
    Loop,
    cut_alike,
    distinct_n,
    expectation_adjusted_distinct,
    loop,
    rep_n,
    repeats_like_vlmevalkit,
    words,
)

CATS = "a dog and a cat and a dog and a cat"
THE = "the the the the the"
MAN = " ".join(["The man."] * 6)
MAT = "a dog sits on a mat"
FIVE = [words(text) for text in (CATS, THE, MAN, MAT, "")]


@pytest.mark.parametrize(
    ("text", "repeated", "ends_in"),
    [
        (CATS, (0.636364, 0.5, 0.333333, 0.25), None),
        (THE, (0.8, 0.75, 0.666667, 0.5), None),
        (MAN, (0.833333, 0.818182, 0.8, 0.777778), Loop(copies=6, block=2)),
        (MAT, (0.166667, 0, 0, 0), None),
        ("", (None, None, None, None), None),
    ],
)
def test_golden_repetition(text: str, repeated: tuple[float | None, ...], ends_in: Loop | None) -> None:
    for n, expected in enumerate(repeated, start=1):
        found = rep_n(words(text), n)
        assert found is None if expected is None else found == pytest.approx(expected, abs=5e-7), n
    assert loop(words(text)) == ends_in


def test_golden_diversity_of_the_five() -> None:
    assert distinct_n(FIVE, 1) == 9 / 34
    assert distinct_n(FIVE, 2) == 0.4
    assert distinct_n(FIVE, 3) == 0.5
    assert expectation_adjusted_distinct(FIVE, 1000) == pytest.approx(0.269099, abs=5e-7)


def test_nothing_said_has_no_diversity() -> None:
    assert distinct_n([[]], 1) is None and distinct_n([["one"]], 2) is None
    assert expectation_adjusted_distinct([[]], 1000) is None


def test_words_are_lower_case_without_marks() -> None:
    assert words("A dog's “Ball”, two_legs; Ähre!") == ["a", "dog", "s", "ball", "two_legs", "ähre"]


def test_a_loop_of_the_longest_block_and_one_word_more() -> None:
    block = [f"w{i}" for i in range(64)]
    assert loop(["so", *block * 3]) == Loop(copies=3, block=64)
    assert loop([*block, "w64"] * 3) is None
    assert loop(block * 2 + block[:-1]) is None, "not three whole copies"


def test_a_loop_that_is_cut_in_its_block_or_follows_a_good_start() -> None:
    assert loop(words("a man stands here and then " + "the man " * 6 + "the")) == Loop(6, 2)
    assert loop(["no"] * 11) is None and loop(["no"] * 12) == Loop(12, 1)
    assert loop([*["no"] * 12, "yes"]) is None, "it went on"


def test_both_sides_are_cut_to_the_same_words() -> None:
    before, after = cut_alike([["a", "b", "c"], ["d"]], [["a"], ["d", "e"]])
    assert (before, after) == ([["a"], ["d"]], [["a"], ["d"]])
    with pytest.raises(ValueError, match="zip"):
        cut_alike([["a"]], [])


def test_vlmevalkit_repetition() -> None:
    assert not repeats_like_vlmevalkit("") and not repeats_like_vlmevalkit("a dog sits on a mat. " * 8)
    assert repeats_like_vlmevalkit("a dog sits on a mat. " * 200)
    assert not repeats_like_vlmevalkit("a dog sits on a mat. " * 200 + "The end.")
    unit = "x" * 100
    irregular = "".join(unit + "y" * (7 * i) for i in range(1, 60)) + unit
    assert not repeats_like_vlmevalkit(irregular), "the distances differ"
