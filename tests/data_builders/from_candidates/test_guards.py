"""Guards over a set of pairs: the numbers of the design's section 9, and what each must never let through."""

from __future__ import annotations

import random
import time
from collections import Counter

import pytest

from mmpo.data_builders.from_candidates.guards import (
    GuardSettings,
    PairFacts,
    guarded,
    less_recall,
    one_sided,
    over_object_cap,
    rlaif_v_length,
    unequal_length,
)


def pair(id: str, words: tuple[int, int] = (40, 40), **more: object) -> PairFacts:
    return PairFacts(id, "description", words, **more)  # type: ignore[arg-type]


def about(name: str, number: int) -> list[PairFacts]:
    return [pair(f"{name}{n}", punished=frozenset({name})) for n in range(number)]


def imbalance(pairs: list[PairFacts]) -> float:
    chosen, rejected = (sum(one.words[side] for one in pairs) for side in (0, 1))
    return abs(chosen - rejected) / rejected


def test_rlaif_v_drops_what_is_too_short_until_both_sides_are_as_long() -> None:
    lengths = [40, 30, 45, 60, 50, 20]
    r, out = rlaif_v_length([pair(str(n), (words, 50)) for n, words in enumerate(lengths)])
    kept = [words for n, words in enumerate(lengths) if str(n) not in out]
    assert r == pytest.approx(0.20) and kept == [40, 45, 60, 50]
    assert imbalance([pair(str(n), (words, 50)) for n, words in enumerate(kept)]) == pytest.approx(0.025)
    assert rlaif_v_length([]) == (0.0, set())
    assert rlaif_v_length([pair("long", (90, 10))]) == (0.0, set())  # a longer chosen side is never dropped


def test_a_word_is_not_punished_more_than_twice_as_often_as_rewarded() -> None:
    pairs = about("knife", 12) + [pair(f"r{n}", rewarded=frozenset({"knife"})) for n in range(3)]
    out = one_sided(pairs, factor=2, least=5)
    assert sum(one.id not in out for one in pairs[:12]) == 6
    assert out == {f"knife{n}" for n in range(6, 12)}  # the last ones go
    assert not one_sided(about("knife", 5), factor=2, least=5)
    assert len(one_sided(about("knife", 9), factor=2, least=5)) == 4  # never rewarded: five are allowed


def test_a_pair_that_punishes_one_class_and_rewards_another_is_counted_for_both() -> None:
    both = [pair(f"b{n}", punished=frozenset({"cup"}), rewarded=frozenset({"dog"})) for n in range(8)]
    dogs = about("dog", 14)
    out = one_sided(both + dogs, factor=2, least=5)
    left = [one for one in both + dogs if one.id not in out]
    punished = Counter(name for one in left for name in one.punished)
    rewarded = Counter(name for one in left for name in one.rewarded)
    assert all(n <= max(5, 2 * rewarded[name]) for name, n in punished.items())
    assert punished["cup"] == 5 and punished["dog"] == 10  # the dropped cups took their rewards along


def test_no_class_is_more_than_a_tenth_of_the_pairs() -> None:
    pairs = about("knife", 30) + [one for n in range(20) for one in about(f"thing{n}", 4)]
    out = over_object_cap(pairs, share=0.1, least=5)
    left = [one for one in pairs if one.id not in out]
    assert {one.id[:5] for one in pairs if one.id in out} == {"knife"}
    knives = sum("knife" in one.punished for one in left)
    assert knives == 8 <= 0.1 * len(left) < knives + 1
    assert not over_object_cap(about("knife", 5), share=0.1, least=5)


def test_where_the_worst_candidates_are_long_both_sides_end_as_long_or_none_is_left() -> None:
    """A set in which the shorter side always wins: the guard of length leaves no such lesson."""
    draw = random.Random(0)
    long_losers = [pair(f"p{n:03d}", (40, 41 + draw.randrange(9))) for n in range(100)]
    left = [one for one in long_losers if one.id not in unequal_length(long_losers, most=0.02)]
    assert not left or imbalance(left) <= 0.02
    mixed = [pair(f"p{n:03d}", (40, 40 + draw.randrange(-3, 10))) for n in range(100)]
    out = unequal_length(mixed, most=0.02)
    left = [one for one in mixed if one.id not in out]
    assert 30 < len(left) < 100 and imbalance(left) <= 0.02
    assert min(-one.longer for one in mixed if one.id in out) >= max(-one.longer for one in left)
    outcome = guarded(long_losers, GuardSettings())
    kept = [one for one in long_losers if one.id not in outcome.dropped]
    assert not kept or imbalance(kept) <= 0.02
    assert Counter(outcome.dropped.values())["length"] == 100 - len(kept)


def test_chosen_sides_that_name_less_go() -> None:
    pairs = [pair(f"p{n}", recall=(0.5 if n < 3 else 0.9, 0.9)) for n in range(10)]
    out = less_recall(pairs, most=0.02)
    assert out == {"p0", "p1", "p2"}
    assert less_recall(pairs, most=0.13) == set()
    assert less_recall([pair("q", recall=(None, 0.9))], most=0.0) == set()


def test_pairs_whose_sides_must_differ_in_length_are_no_matter_of_length() -> None:
    omissions = [pair(f"o{n}", (20, 10), free_length=True) for n in range(9)]
    assert not guarded(omissions, GuardSettings()).dropped


def test_the_guards_hold_together_and_can_be_switched_off() -> None:
    """What one guard takes may break what another had found right: all hold for what is left."""
    draw = random.Random(1)
    names = [f"thing{n}" for n in range(12)]
    pairs = [
        pair(
            f"p{n:04d}",
            (draw.randrange(20, 60), draw.randrange(25, 60)),
            recall=(draw.random(), draw.random()),
            punished=frozenset(draw.sample(names, 1 + (draw.random() < 0.2))),
            rewarded=frozenset(draw.sample(names, draw.randrange(3))),
        )
        for n in range(400)
    ]
    settings = GuardSettings()
    outcome = guarded(pairs, settings)
    left = [one for one in pairs if one.id not in outcome.dropped]
    assert len(left) > 50 and imbalance(left) <= 0.02
    punished = Counter(name for one in left for name in one.punished)
    rewarded = Counter(name for one in left for name in one.rewarded)
    assert max(punished.values()) <= max(5, 0.1 * len(left))
    assert all(n <= max(5, 2 * rewarded[name]) for name, n in punished.items())
    gains = [one.recall[0] - one.recall[1] for one in left]  # type: ignore[operator]
    assert sum(gains) / len(gains) >= -0.02 - 1e-9
    assert guarded(list(reversed(pairs)), settings).dropped.keys() != set() and guarded(pairs, settings) == outcome
    assert not guarded(pairs, GuardSettings.off()).dropped


def test_a_set_in_which_the_shorter_side_wins_is_warned_of() -> None:
    assert not guarded([pair("a", (40, 42)), pair("b", (42, 40))], GuardSettings.off()).warnings
    (warning,) = guarded([pair(str(n), (40, 42)) for n in range(4)], GuardSettings.off()).warnings
    assert "100% of 4 pairs" in warning


def test_many_pairs_take_seconds() -> None:
    draw = random.Random(2)
    pairs = [
        pair(
            f"p{n:06d}", (draw.randrange(20, 60), draw.randrange(20, 60)), punished=frozenset({f"t{draw.randrange(4)}"})
        )
        for n in range(20_000)
    ]
    start = time.perf_counter()
    guarded(pairs, GuardSettings())
    assert time.perf_counter() - start < 20


def test_omissions_make_up_for_what_edits_take_out() -> None:
    """Edits make the chosen side shorter, omissions longer: both stay, and the surplus of one of them goes."""
    edits = [pair(f"e{n}", (17, 22), recall=(0.9, 0.9)) for n in range(70)]
    left_out = [pair(f"o{n}", (22, 17), recall=(0.9, 0.8)) for n in range(120)]
    outcome = guarded([*edits, *left_out], GuardSettings())
    kept = [one for one in (*edits, *left_out) if one.id not in outcome.dropped]
    assert sum(one.id.startswith("e") for one in kept) == 70 and 70 <= len(kept) - 70 <= 85
    assert not outcome.warnings
