"""Best against worst: each rule of the design on candidates written for it, and the published ways."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mmpo.data_builders.candidates.records import Candidate, chair_i, recall_pool
from mmpo.data_builders.from_candidates.makers.best_worst import (
    BestWorst,
    BestWorstSettings,
    chair_dpo_sides,
    chosen_sides,
    rlaif_v_sides,
    unfit,
)
from mmpo.errors import Quarantined
from mmpo.evidence.records import Presence
from tests.data_builders.from_candidates.pictures import context, judged, said

ABSENT = ("knife", "horse", "bird")


def candidate(sample: int, absent: int, words: int, recall: float | None, **changes: Any) -> Candidate:
    """`absent` made-up classes in `words` words."""
    verdicts: dict[str, Presence] = {"cup": "present", **dict.fromkeys(ABSENT[:absent], "absent")}
    text = " ".join(["w"] * words)
    return Candidate("Describe it.", 0, sample, text, False, words, (), verdicts, recall_pool=recall, **changes)


def pairs_of(group: Sequence[Candidate], **settings: Any) -> list[tuple[int, int]]:
    wanted = BestWorstSettings(**settings)
    both = [sides for sides in permutations(group, 2) if not unfit(sides, wanted)]
    return [(won.sample, lost.sample) for won, lost in chosen_sides(both, wanted)]


def test_chair_i_is_a_share_of_judged_mentions() -> None:
    assert chair_i(2, 3) == 0.4
    assert chair_i(0, 0) is None
    assert recall_pool({"cup", "dog"}, {"cup", "cat"}) == 0.5 and recall_pool({"cup"}, ()) is None


def test_the_only_pair_of_the_design() -> None:
    group = [candidate(0, 0, 40, 0.85), candidate(1, 2, 42, 0.9), candidate(2, 3, 90, 1.0), candidate(3, 0, 12, 0.2)]
    assert pairs_of(group) == [(0, 1)]


BASE = (candidate(1, 0, 40, 0.8), candidate(2, 1, 40, 0.8))


@pytest.mark.parametrize(
    "chosen, rejected, rule",
    [
        ({}, {}, ""),
        ({}, {"verdicts": {"cup": "present"}}, "gap"),
        ({"verdicts": {"cup": "present", "horse": "absent"}}, {"verdicts": dict.fromkeys(ABSENT, "absent")},
         "chosen_absent"),
        ({"truncated": True}, {}, "truncated"),
        ({}, {"truncated": True}, "truncated"),
        ({"verdicts": {"cup": "present", "dog": "uncertain"}}, {}, "uncertain"),
        ({"verdicts": {"cup": "present", "dog": "uncertain"}}, {"verdicts": {"knife": "absent", "dog": "uncertain"}},
         ""),
        ({"text": "w " * 31}, {}, "length"),
        ({"text": "w " * 32}, {}, ""),
        ({"text": "w " * 50}, {}, ""),
        ({"text": "w " * 51}, {}, "length"),
        ({"verdicts": {}, "recall_pool": 0.0}, {}, "recall"),
        ({"recall_pool": None}, {}, "recall"),
        ({"recall_pool": 0.7}, {}, ""),
        ({"recall_pool": 0.69}, {}, "recall"),
        ({"recall_pool": 0.49}, {"recall_pool": 0.5}, "recall"),
        ({"recall_pool": 0.5}, {"recall_pool": None}, ""),
    ],
)  # fmt: skip
def test_each_rule_alone(chosen: dict[str, Any], rejected: dict[str, Any], rule: str) -> None:
    both = (replace(BASE[0], **chosen), replace(BASE[1], **rejected))
    assert unfit(both, BestWorstSettings()) == rule


def test_the_widest_gap_comes_first_and_no_candidate_is_twice_on_a_side() -> None:
    group = [
        candidate(0, 0, 40, 0.9), candidate(1, 1, 40, 0.9), candidate(2, 3, 45, 0.9), candidate(3, 0, 43, 0.9),
        candidate(4, 2, 40, 0.9),
    ]  # fmt: skip
    assert pairs_of(group) == [(3, 2), (0, 4)]
    assert pairs_of(group, pairs_per_prompt=9) == [(3, 2), (0, 4)]
    assert pairs_of(group, pairs_per_prompt=1) == [(3, 2)]
    assert pairs_of(group, gap=3) == [(3, 2)]


VERDICTS: dict[str, Presence] = {
    "cat": "present", "cup": "present", "dog": "absent", "bird": "uncertain", "horse": "uncertain",
}  # fmt: skip


def make(tmp_path: Path, texts: Sequence[str | Candidate], **settings: Any) -> list[tuple[str, str]]:
    maker = BestWorst(BestWorstSettings(**settings), context(tmp_path))
    return [(pair.chosen.text, pair.rejected.text) for pair in maker.pairs_of(judged("a.png", texts, VERDICTS))]


def test_a_pair_in_words(tmp_path: Path) -> None:
    good, bad = "There is a cat and a cup.", "There is a cat and a dog."
    maker = BestWorst(BestWorstSettings(least_recall=0.5, recall_loss=1.0), context(tmp_path))
    (pair,) = maker.pairs_of(judged("a.png", [bad, good], VERDICTS))
    assert (pair.chosen.text, pair.rejected.text) == (good, bad)
    assert (pair.punished, pair.rewarded) == ({"dog"}, {"cup"})
    assert (pair.chosen.recall, pair.rejected.recall, pair.chosen.sample) == (1.0, 0.5, 1)


def test_what_is_uncertain_is_not_punished(tmp_path: Path) -> None:
    """A pair whose sides differ in an uncertain class alone is never made."""
    with pytest.raises(Quarantined, match="nothing_absent"):
        make(tmp_path, ["There is a cat and a cup.", "There is a cat and a cup and a bird.", "A cat, a cup, a horse."])


def test_naming_nothing_never_wins(tmp_path: Path) -> None:
    assert said(0, "A nice picture.", VERDICTS).chair_i is None
    with pytest.raises(Quarantined, match="no_pair_recall"):
        make(tmp_path, ["A nice picture.", "A nice dog."])
    # as CHAIR-DPO was published, it does win
    texts = ["unused", "A nice dog.", "A nice picture."]
    assert make(tmp_path, texts, official="chair_dpo") == [("A nice picture.", "A nice dog.")]


def test_what_is_denied_is_no_claim(tmp_path: Path) -> None:
    texts = ["There is a cat and a cup, but no dog.", "There is a cat and a cup, and a dog."]
    assert make(tmp_path, texts) == [tuple(texts)]


def test_chair_dpo_drops_ties_and_looks_at_two_samples() -> None:
    group = [replace(candidate(n, 0, 10, 1.0), chair_i=c) for n, c in enumerate((0.9, 0.5, 0.25, 0.0))]
    assert [(won.sample, lost.sample) for won, lost in chair_dpo_sides(group)] == [(2, 1)]
    assert chair_dpo_sides([replace(one, chair_i=0.5) for one in group]) == []
    assert chair_dpo_sides([group[1], replace(group[2], chair_i=None)])[0][0].sample == 2
    assert chair_dpo_sides([replace(group[1], chair_i=0.0), replace(group[2], chair_i=None)]) == []


def test_rlaif_v_takes_two_pairs_that_differ_whatever_their_length() -> None:
    group = [candidate(n, n % 3, 10 + 20 * n, None) for n in range(6)]
    found = rlaif_v_sides(group, random.Random(0))
    assert len(found) == 2 and all(len(won.absent) < len(lost.absent) for won, lost in found)
    assert found == rlaif_v_sides(group, random.Random(0))
    assert rlaif_v_sides([group[0], group[3]], random.Random(0)) == []


def test_what_the_published_ways_decide_cannot_be_set() -> None:
    with pytest.raises(ValidationError, match="decides `gap`"):
        BestWorstSettings(official="rlaif_v", gap=2)
    assert BestWorstSettings(official="rlaif_v").guards.length is None
    assert BestWorstSettings().guards.length == 0.02


@pytest.mark.parametrize(
    "texts, reason",
    [
        (["There is a cat and a dog."], "one_candidate"),
        (["There is a cat.", "There is a cup."], "nothing_absent"),
        (["There is a dog.", "There is a cat and a dog."], "no_pair_gap"),
        (["A cat and a cup.", "A cat and a cup and a dog and more of the same and so on and so on."], "no_pair_length"),
    ],
)
def test_why_a_picture_gave_no_pair(tmp_path: Path, texts: list[str], reason: str) -> None:
    with pytest.raises(Quarantined) as error:
        make(tmp_path, texts)
    assert error.value.reason == reason
