"""Tokens that a correction changed, and the weights that dense DPO gives them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmpo.data.pair import PreferencePair
from mmpo.trainers.changes import changed_tokens, changed_weights
from mmpo.trainers.collate import PairCollator, encode_pairs
from mmpo.trainers.images import ImageStore
from mmpo.trainers.settings import TokenWeightSettings
from mmpo.trainers.train import train
from tests.tiny import tiny_llava
from tests.trainers.material import make_pairs, settings_for, write_pairs


def marks(chosen: str, rejected: str, **given: object) -> tuple[str, str]:
    """One letter a token; x where it was changed."""
    sides = changed_tokens([ord(c) for c in chosen], [ord(c) for c in rejected], **given)  # type: ignore[arg-type]
    return tuple("".join("x" if mark else "." for mark in side) for side in sides)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        ("abcdef", "abcdef", ("......", "......")),
        ("abcXdef", "abcYYdef", ("...x...", "...xx...")),
        ("abcdef", "abcYYdef", ("......", "........")),  # an insertion
        ("abcXXdef", "abcdef", ("........", "......")),  # a deletion
        ("Xabcdef", "Yabcdef", ("x......", "x......")),
        ("abcdefX", "abcdefY", ("......x", "......x")),
        ("abcXmnYdef", "abcPmnQdef", ("...xxxx...", "...xxxx...")),  # a match of two belongs to the change
        ("abcXmnoYdef", "abcPmnoQdef", ("...x...x...", "...x...x...")),  # a match of three does not
        ("ab", "xy", ("xx", "xx")),
        ("ab", "aby", ("xx", "xxx")),  # no match of three at all
        ("", "abc", ("", "...")),
    ],
)
def test_changed_segments(chosen: str, rejected: str, expected: tuple[str, str]) -> None:
    assert marks(chosen, rejected) == expected


def test_options() -> None:
    assert marks("abcdef", "abcYYdef", insertions=True) == ("......", "...xx...")
    assert marks("abcXmnYdef", "abcPmnQdef", min_match=2) == ("...x..x...", "...x..x...")
    assert marks("ab", "aby", min_match=1) == ("..", "...")


def test_frequent_tokens_of_long_responses_still_match() -> None:
    chosen, rejected = "abcab" * 60 + "X" + "cabca" * 60, "abcab" * 60 + "Y" + "cabca" * 60
    assert marks(chosen, rejected)[0].count("x") == 1


def test_the_end_token_weighs_one() -> None:
    sides = changed_weights([1, 2, 3, 4, 9], [1, 2, 3, 5, 5, 9], gamma=5.0, end=9)
    assert sides == ([1.0, 1.0, 1.0, 5.0, 1.0], [1.0, 1.0, 1.0, 5.0, 5.0, 1.0])
    assert changed_weights([4], [5], gamma=2.0, end=9) == ([2.0], [2.0])


def test_pairs_get_weights_and_keep_their_own() -> None:
    vlm = tiny_llava()
    store = ImageStore(vlm, 2**24)
    pairs = make_pairs(3)
    own = PreferencePair.simple(
        id="own", image=pairs[0].images[0], question="What?", chosen="There is a dog.", rejected="There is a cat.",
        chosen_weights=[{"start": 0, "end": 5, "weight": 3.0}],
    )  # fmt: skip
    found = encode_pairs(vlm, [*pairs, own], store, token_weights=TokenWeightSettings(changed=7.0))
    for row in found.rows[:3]:
        assert row.chosen_weights is not None and row.rejected_weights is not None
        assert len(row.chosen_weights) == len(row.chosen) and len(row.rejected_weights) == len(row.rejected)
        assert set(row.chosen_weights.tolist()) <= {1.0, 7.0} and row.chosen_weights[-1] == 1.0
        same = row.chosen_weights == 1.0
        assert torch.isin(row.chosen[same], row.rejected).all(), "an unchanged token is in the other response too"
    assert found.rows[3].rejected_weights is None and 3.0 in found.rows[3].chosen_weights.tolist()
    batch = PairCollator(store)(found.rows)["batch"]
    assert batch.rejected_weights[3].eq(1).all()


def test_training_with_dense_weights(tiny_llava_folder: Path, tmp_path: Path) -> None:
    settings = settings_for(
        tiny_llava_folder, write_pairs(tmp_path / "pairs", 8), max_steps=3, logging_steps=1, lora={"rank": 4},
        objective={"dense_dpo": {"beta": 0.5}}, token_weights={"changed": 5},
    )  # fmt: skip
    result = train(settings, tmp_path / "run")
    assert result.first_eval is not None and result.first_eval["eval_loss"] == pytest.approx(0.693147, abs=1e-4)
    assert result.last_train["rewards/margins"] > 0
