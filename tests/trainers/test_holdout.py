"""What is held out for evaluation: the share that was asked for, and no image on both sides."""

from __future__ import annotations

import json
import logging
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from mmpo.data.pair import PreferencePair
from mmpo.data.shards import PairWriter
from mmpo.files.images import encode_image
from mmpo.trainers.collate import EncodedPair, EncodedPairs
from mmpo.trainers.holdout import STRADDLES, hold_out
from mmpo.trainers.train import train
from tests.tiny import tiny_image
from tests.trainers.material import settings_for


def pair(name: str, images: Sequence[object], twin: str | None = None) -> EncodedPair:
    ids = torch.zeros(3, dtype=torch.int32)
    return EncodedPair(name, ids, ids, ids, None, None, tuple(map(str, images)), twin=twin)


def shown(pairs: EncodedPairs) -> set[str]:
    return {key for row in pairs.rows for key in row.all_images}


def check(pairs: EncodedPairs, fraction: float, seed: int, lost: float) -> None:
    """The rule: the share within a fifth (or one pair) of what was asked, no image on both sides, all pairs counted, at
    most `lost` of them left out."""
    trained, held = hold_out(pairs, fraction, seed)
    asked = fraction * len(pairs)
    assert abs(len(held) - asked) <= max(0.2 * asked, 1), (len(held), asked)
    assert trained.rows and held.rows and not shown(trained) & shown(held)
    left_out = len(pairs) - len(trained) - len(held)
    assert trained.dropped.total() == left_out <= lost * len(pairs), left_out
    assert set(trained.dropped) <= {STRADDLES}
    again = hold_out(pairs, fraction, seed)
    assert [[row.id for row in side.rows] for side in again] == [[row.id for row in s.rows] for s in (trained, held)]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("fraction", [0.02, 0.05, 0.2, 0.5])
def test_groups_of_many_sizes_are_held_out_whole(seed: int, fraction: float) -> None:
    rng = random.Random(seed)
    rows = []
    for group in range(60):
        rows += [pair(f"{group}-{i}", [f"g{group}"]) for i in range(rng.choice([1, 1, 2, 3, 5, 8, 40]))]
    rng.shuffle(rows)
    check(EncodedPairs(rows), fraction, seed, lost=0)


def test_small_groups_go_first() -> None:
    rows = [pair(f"large-{i}", ["large"]) for i in range(30)] + [pair(f"small-{i}", [i]) for i in range(70)]
    for seed in range(5):
        trained, held = hold_out(EncodedPairs(rows), 0.3, seed)
        assert len(held) == 30 and "large" not in shown(held) and len(trained) == 70
    assert hold_out(EncodedPairs(rows), 0.0, 0)[1].rows == []


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("fraction", [0.02, 0.05, 0.1, 0.2])
def test_sequences_that_borrow_images(seed: int, fraction: float) -> None:
    """MIA-like: every pair has an image of its own and some companions, most of them shown once or twice;
    nearly all pairs make one group."""
    rng = random.Random(seed)
    rows = []
    for i in range(300):
        companions = {rng.randrange(300) for _ in range(rng.choice([0, 1, 1, 2, 2, 3]))}
        rows.append(pair(f"p{i}", [i, *sorted(companions - {i})]))
    check(EncodedPairs(rows), fraction, seed, lost=0.5)


def test_a_chain_is_cut_where_it_costs_one_pair() -> None:
    """Pair i shows images i and i + 1: one group, which two cuts at most take apart."""
    rows = [pair(f"p{i}", [i, i + 1]) for i in range(200)]
    trained, held = hold_out(EncodedPairs(rows), 0.1, 0)
    assert trained.dropped[STRADDLES] <= 2 and 16 <= len(held) <= 24
    check(EncodedPairs(rows), 0.1, 0, lost=0.01)


def test_two_blocks_with_a_bridge() -> None:
    rows = [pair(f"a{i}", ["a", f"a{i}"]) for i in range(20)] + [pair(f"b{i}", ["b", f"b{i}"]) for i in range(180)]
    trained, held = hold_out(EncodedPairs([*rows, pair("bridge", ["a", "b"])]), 0.1, 3)
    assert {row.id[0] for row in held.rows} == {"a"} and len(held) == 20 and len(trained) == 180


def test_twins_stay_together_through_a_cut() -> None:
    rows = [pair(f"p{i}", [i, i + 2], twin=f"p{i ^ 1}") for i in range(80)]
    trained, held = hold_out(EncodedPairs(rows), 0.1, 0)
    assert 6 <= len(held) <= 10
    for side in (trained, held):
        assert {row.twin for row in side.rows} == {row.id for row in side.rows}
    assert not shown(trained) & shown(held)


def test_where_one_image_links_everything_nothing_is_held_out(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "mmpo"):
        trained, held = hold_out(EncodedPairs([pair(f"p{i}", ["x", i]) for i in range(30)]), 0.2, 0)
    assert len(trained) == 30 and not held.rows and "nothing is held out" in caplog.text
    alone, none = hold_out(EncodedPairs([pair("one", ["x"])]), 0.5, 0)
    assert len(alone) == 1 and not none.rows


def test_a_run_says_what_it_left_out(tiny_llava_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A ring of twelve pairs with two images each; the images of a pair are scaled to a limit of its own."""
    pictures = [encode_image(tiny_image(i)) for i in range(12)]
    with PairWriter(tmp_path / "pairs", recipe={"builder": "test"}) as writer:
        for i in range(12):
            simple = PreferencePair.simple(
                id=f"p{i}", image=pictures[i], question="What?", chosen=f"A dog {i}.", rejected="A cat."
            )
            content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "What?"}]
            simple.prompt[0]["content"] = content
            writer.add(PreferencePair(**{**vars(simple), "images": [pictures[i], pictures[(i + 1) % 12]]}))
    settings = settings_for(
        tiny_llava_folder, tmp_path / "pairs", max_steps=1, eval_fraction=0.25, max_pixels_per_pair=2500
    )
    with caplog.at_level(logging.WARNING, "mmpo"):
        result = train(settings, tmp_path / "run")
    assert result.dropped == {STRADDLES: 2} and result.eval_pairs == 3 and result.pairs == 7
    assert "left out 2 more that show images of both sides" in caplog.text
    rejects = [json.loads(line) for line in (tmp_path / "run" / "rejects.jsonl").open()]
    assert [row["reason"] for row in rejects] == [STRADDLES] * 2


def test_nothing_is_held_out_and_nothing_counted_twice() -> None:
    pairs = EncodedPairs([pair("a", [1]), pair("b", [2])], Counter(same_tokens=3))
    trained, held = hold_out(pairs, 0, 0)
    assert (trained.rows, held.rows, trained.dropped) == (pairs.rows, [], Counter())
