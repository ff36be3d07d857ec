"""From pairs to ids and batches: what is cut, what is put aside, what is shared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mmpo.data.pair import PreferencePair
from mmpo.errors import Quarantined, UserError
from mmpo.files.images import encode_image
from mmpo.models.families.loading import VLM
from mmpo.models.families.prompts import encode_prompt, encode_response
from mmpo.trainers.collate import EncodedPairs, PairCollator, encode_pairs
from mmpo.trainers.images import ImageStore
from tests.tiny import tiny_image
from tests.trainers.material import make_pairs


def encode(vlm: VLM, pairs: list[PreferencePair], **options: object) -> tuple[EncodedPairs, dict[str, str], ImageStore]:
    rejected: dict[str, str] = {}
    store = ImageStore(vlm, 2**24)

    def note(pair_id: str, error: Quarantined) -> None:
        rejected[pair_id] = error.reason

    return encode_pairs(vlm, pairs, store, on_reject=note, **options), rejected, store  # type: ignore[arg-type]


def test_ids_are_those_of_the_prompt_module(vlm: VLM) -> None:
    pair = make_pairs(1)[0]
    encoded, rejected, _ = encode(vlm, [pair])
    row = encoded[0]
    assert row.prompt.tolist() == encode_prompt(vlm, pair.prompt, 1)
    assert row.chosen.tolist() == encode_response(vlm, pair.chosen_text)
    assert row.rejected[-1] == vlm.eos_id
    assert row.length == len(row.prompt) + len(row.chosen) + len(row.rejected)
    assert not rejected and encoded.truncated == 0


def test_responses_are_cut_and_prompts_are_not(vlm: VLM) -> None:
    pairs = make_pairs(6)
    whole, _, _ = encode(vlm, pairs)
    limit = 8
    cut, _, _ = encode(vlm, pairs, max_response_tokens=limit)
    kept = {row.id: row for row in whole.rows}
    for row in cut.rows:
        assert torch.equal(row.prompt, kept[row.id].prompt)
        assert torch.equal(row.chosen, kept[row.id].chosen[:limit])
        assert len(row.rejected) <= limit
    longer = sum(len(side) > limit for row in whole.rows for side in (row.chosen, row.rejected))
    assert cut.truncated == longer > 0
    # A cut that leaves two equal beginnings leaves nothing to prefer.
    short, gone, _ = encode(vlm, pairs, max_response_tokens=1)
    assert not len(short) and set(gone.values()) == {"equal_responses"} and short.dropped["equal_responses"] == 6


def test_pairs_that_cannot_be_used_are_counted_and_named(vlm: VLM) -> None:
    good, same, empty, broken, long = make_pairs(9)[::2]
    vlm.config.get_text_config().max_position_embeddings = 400
    pairs = [
        good,
        replace(same, rejected=same.chosen),
        replace(empty, chosen=[{"role": "assistant", "content": [{"type": "text", "text": ""}]}]),
        replace(broken, images=[encode_image(tiny_image(77))[:200]]),
        replace(long, chosen=[{"role": "assistant", "content": [{"type": "text", "text": "There is a dog. " * 90}]}]),
    ]
    encoded, rejected, _ = encode(vlm, pairs)
    assert [row.id for row in encoded.rows] == [good.id]
    assert rejected[same.id] == "equal_responses"
    assert rejected[empty.id] == "empty_response"
    assert rejected[broken.id] in ("truncated", "corrupt", "not_an_image")
    assert rejected[long.id] == "too_long"
    assert sum(encoded.dropped.values()) + len(encoded) == len(pairs)


def test_mistakes_in_a_pair_name_the_pair(vlm: VLM) -> None:
    pair = make_pairs(1)[0]
    with pytest.raises(UserError, match=f"pair {pair.id}: the prompt shows 1 image"):
        encode(vlm, [replace(pair, images=pair.images * 2)])


def test_equal_bytes_are_one_image(vlm: VLM) -> None:
    encoded, _, store = encode(vlm, make_pairs(4))
    assert len(store) == 2
    batch = PairCollator(store)(encoded.rows)["batch"]
    assert batch.image_inputs["pixel_values"].shape[0] == 2
    assert batch.image_index == [[0], [0], [1], [1]]
    assert batch.ids == ["pair-0", "pair-1", "pair-2", "pair-3"]
    assert batch.prompt_ids[0].dtype == torch.long


def test_files_are_read_below_the_root_only(vlm: VLM, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(encode_image(tiny_image(5)))
    (tmp_path / "b.png").write_bytes(encode_image(tiny_image(6)))
    inside = replace(make_pairs(1)[0], images=["a.png"])
    encoded, rejected, store = encode(
        vlm, [inside, replace(inside, id="out", images=["../b.png"])], root=tmp_path / "images"
    )
    assert [row.id for row in encoded.rows] == [inside.id] and rejected == {"out": "path_escape"}
    assert PairCollator(store)(encoded.rows)["batch"].image_inputs["pixel_values"].shape[0] == 1


def test_other_images_on_the_rejected_side(vlm: VLM) -> None:
    first, _, second = make_pairs(3)
    pair = replace(first, rejected=first.chosen, rejected_images=second.images)
    encoded, rejected, store = encode(vlm, [pair, second])
    assert not rejected and encoded[0].all_images == encoded[0].images + encoded[1].images
    batch = PairCollator(store)(encoded.rows)["batch"]
    assert batch.image_inputs["pixel_values"].shape[0] == 2
    assert batch.rejected_image_index == [[1], None]
    assert batch.rejected_prompt_ids is not None and batch.rejected_prompt_ids[1] is None


def test_spans_become_token_weights(vlm: VLM) -> None:
    first, _, second = make_pairs(3)
    end = first.chosen_text.index(".") + 1
    weighted = replace(first, chosen_weights=[{"start": 0, "end": end, "weight": 3.0}])
    encoded, _, store = encode(vlm, [weighted, second])
    batch = PairCollator(store)(encoded.rows)["batch"]
    assert batch.chosen_weights is not None and batch.rejected_weights is not None
    assert batch.chosen_weights[0][0] == 3.0 and batch.chosen_weights[0][-1] == 1.0
    assert [len(w) for w in batch.chosen_weights] == [len(ids) for ids in batch.chosen_ids]
    assert all((w == 1).all() for w in [batch.chosen_weights[1], *batch.rejected_weights])


def test_a_pair_without_images(vlm: VLM) -> None:
    pair = make_pairs(1)[0]
    text = replace(pair, images=[], prompt=[{"role": "user", "content": [{"type": "text", "text": "Is there a dog?"}]}])
    encoded, _, store = encode(vlm, [text])
    batch = PairCollator(store)(encoded.rows)["batch"]
    assert batch.image_inputs == {} and batch.image_index == [[]]


def test_the_image_cache_is_bounded_and_gives_the_same_pixels(vlm: VLM) -> None:
    source = [encode_image(tiny_image(i)) for i in range(3)]
    one = 3 * 28 * 28 * 4
    bounded, unlimited = ImageStore(vlm, one + 10), ImageStore(vlm, 2**24)
    for data in source:
        key = bounded.add(data)
        assert key == unlimited.add(data)
        for _ in range(2):
            a, b = (store.prepared(key).tensors["pixel_values"] for store in (bounded, unlimited))
            assert torch.equal(a, b)
    kept = [key for key in map(bounded.add, source) if bounded.prepared(key) is bounded.prepared(key)]
    assert kept == [bounded.add(source[0])]
