"""What responses carry: turns, scored parts, and what is left of them after a cut."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mmpo.data.pair import PreferencePair, text_message, validate
from mmpo.errors import UserError
from mmpo.models.families.loading import VLM
from mmpo.models.scoring.pairs import blank_logps
from mmpo.models.scoring.score import PairBatch, PairScorer
from mmpo.trainers.collate import PairCollator, encode_pairs
from mmpo.trainers.encoded import EncodedPairs
from mmpo.trainers.images import ImageStore
from mmpo.trainers.responses import WantedParts, numbered_parts
from tests.tiny import add_lora
from tests.trainers.material import make_pairs

TALK = [text_message("assistant", "Yes, a dog."), text_message("user", "Where?"), text_message("assistant", "Left.")]


def batch_of(vlm: VLM, pairs: list[PreferencePair], **options: object) -> tuple[EncodedPairs, PairBatch]:
    store = ImageStore(vlm, 2**24)
    encoded = encode_pairs(vlm, [validate(pair) for pair in pairs], store, **options)  # type: ignore[arg-type]
    return encoded, PairCollator(store)(encoded.rows)["batch"]


def test_a_token_belongs_to_the_first_part_that_it_overlaps() -> None:
    offsets = [(0, 3), (3, 6), (6, 9), (9, 12), (12, 12)]
    parts = [{"start": 0, "end": 4, "scores": [2.0]}, {"start": 4, "end": 5, "scores": [9.0]},
             {"start": 10, "end": 12, "scores": [-1.0]}]  # fmt: skip
    found = numbered_parts(offsets, parts)
    assert found is not None
    assert found.numbers.tolist() == [0, 0, -1, 1, -1], "the second part has no token, the end token no part"
    assert found.scores.tolist() == [[2.0], [-1.0]]
    assert numbered_parts(offsets, []) is None


def scored(pair: PreferencePair) -> PreferencePair:
    def parts(text: str) -> list[dict[str, object]]:
        middle = len(text) // 2
        return [
            {"start": 0, "end": middle, "kind": "step", "scores": [0.5]},
            {"start": 0, "end": len(text), "kind": "segment", "scores": [1.0, 3.0]},
            {"start": middle, "end": len(text), "kind": "step", "scores": [-0.5]},
        ]

    return replace(pair, chosen_parts=parts(pair.chosen_text), rejected_parts=parts(pair.rejected_text))


def test_parts_reach_the_batch_padded(vlm: VLM) -> None:
    pairs = [scored(pair) for pair in make_pairs(3)]
    assert pairs[1].chosen_parts is not None
    pairs[1] = replace(pairs[1], chosen_parts=pairs[1].chosen_parts[:2])
    encoded, batch = batch_of(vlm, pairs, parts=WantedParts(("steps", "segments")))
    more = blank_logps(batch).chosen.more
    width = max(len(row.chosen) for row in encoded.rows)
    assert more["steps"].shape == more["turns"].shape == (3, width)
    assert more["step_scores"].shape == (3, 2) and more["segment_scores"].shape == (3, 1, 2)
    assert more["step_scores"][0].tolist() == [0.5, -0.5] and more["step_scores"][1, 1].isnan()
    for row, steps, segments in zip(encoded.rows, more["steps"], more["segments"], strict=True):
        assert (steps[len(row.chosen) - 1 :] == -1).all(), "end token and padding"
        assert (segments[: len(row.chosen) - 1] == 0).all()


def test_a_cut_takes_the_parts_behind_it(vlm: VLM) -> None:
    pair = replace(make_pairs(1)[0], rejected=[text_message("assistant", "No, nothing is there at all.")])
    encoded, _ = batch_of(vlm, [scored(pair)], parts=WantedParts(("steps",)), max_response_tokens=3)
    assert encoded[0].chosen_parts["steps"].scores.tolist() == [[0.5]]


def test_pairs_without_parts_are_refused_unless_sentences_may_stand_in(vlm: VLM) -> None:
    pair = make_pairs(1)[0]
    text = "There is a dog. It is red."
    pair = replace(pair, chosen=[text_message("assistant", text)])
    with pytest.raises(UserError, match="reads scored steps of responses, and `chosen_parts` has none"):
        batch_of(vlm, [pair], parts=WantedParts(("steps",)))
    with pytest.raises(UserError, match="neither scored steps nor weights"):
        batch_of(vlm, [pair], parts=WantedParts(("steps",), from_weights=True))
    end = text.index(".") + 1
    weighted = replace(
        pair,
        chosen_weights=[{"start": end, "end": len(text), "weight": 3.0}],
        rejected_weights=[{"start": 0, "end": len(pair.rejected_text), "weight": 2.0}],
    )
    encoded, _ = batch_of(vlm, [weighted], parts=WantedParts(("steps", "segments"), from_weights=True))
    row = encoded[0]
    assert row.chosen_parts["steps"].scores.flatten().tolist() == [1.0, 3.0]
    assert set(row.rejected_parts["steps"].scores.flatten().tolist()) == {-2.0}
    assert set(row.rejected_parts["segments"].scores.flatten().tolist()) == {2.0}


def test_turns_are_scored_and_what_is_between_is_only_seen(vlm: VLM) -> None:
    vlm = add_lora(vlm, spread=0.1)
    first, second = make_pairs(2)
    talk = replace(first, chosen=TALK, rejected=[*TALK[:2], text_message("assistant", "On the right.")])
    encoded, batch = batch_of(vlm, [talk, second])
    assert encoded[1].chosen_turns is None and batch.chosen_mask is not None and batch.chosen_mask[1].all()
    assert encoded[0].chosen_turns is not None and set(encoded[0].chosen_turns.tolist()) == {-1, 0, 1}
    scored = PairScorer(vlm, sharing="on")(batch)
    whole = PairScorer(vlm, sharing="off")(replace(batch, chosen_mask=None, rejected_mask=None))
    own = batch.chosen_mask[0]
    between = torch.nn.functional.pad(~own, (0, scored.chosen.mask.shape[1] - len(own)))
    assert scored.chosen.lengths[0] == own.sum() < len(own)
    for side, other in ((scored.chosen.policy, whole.chosen.policy), (scored.chosen.reference, whole.chosen.reference)):
        assert side is not None and other is not None
        assert not side[0, between].any() and other[0, between].all()
        torch.testing.assert_close(side[0, : len(own)][own], other[0, : len(own)][own], atol=1e-5, rtol=0)
    assert blank_logps(batch).chosen.lengths.tolist() == scored.chosen.lengths.tolist()
    turns = scored.chosen.read("turns")
    assert ((turns >= 0) == scored.chosen.mask).all() and turns[0].max() == 1 and turns[1].max() == 0


def test_a_cut_between_turns_ends_with_the_turn_before(vlm: VLM) -> None:
    pair = replace(make_pairs(1)[0], chosen=TALK)
    whole, _ = batch_of(vlm, [pair])
    turns = whole[0].chosen_turns
    assert turns is not None
    first = int((turns == 0).sum())
    encoded, _ = batch_of(vlm, [pair], max_response_tokens=first + 2)
    assert encoded[0].chosen.tolist() == whole[0].chosen[:first].tolist() and encoded.truncated >= 1
