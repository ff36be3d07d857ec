"""Budgets: pixels by image and by pair, tokens by pair and by batch. What is cut, dropped and scaled is counted, and an
image token is never cut. The issues named are those that peers' users filed."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from mmpo.data.pair import PreferencePair
from mmpo.errors import Quarantined, UserError
from mmpo.files.images import encode_image
from mmpo.models.families.loading import VLM
from mmpo.models.scoring.score import PairScorer
from mmpo.models.scoring.segment_logps import shared_row
from mmpo.trainers import collate as collate_module
from mmpo.trainers.collate import EncodedPairs, PairCollator, encode_pairs
from mmpo.trainers.images import ImageStore, scaled_down
from mmpo.trainers.reference import pair_key
from mmpo.trainers.schedule import Schedule, Shape, cut
from tests.tiny import tiny_image, user
from tests.tiny_families import TINY
from tests.trainers.material import make_pairs


def image_pair(name: str, sizes: list[tuple[int, int]], chosen: str = "A dog.", **more: Any) -> PreferencePair:
    return PreferencePair(
        id=name,
        images=[encode_image(tiny_image(k, size)) for k, size in enumerate(sizes)],
        prompt=user("Describe the image.", len(sizes)),
        chosen=[{"role": "assistant", "content": [{"type": "text", "text": chosen}]}],
        rejected=[{"role": "assistant", "content": [{"type": "text", "text": "There is a cat on the table."}]}],
        **more,
    )


def encode(
    vlm: VLM, pairs: list[PreferencePair], store: ImageStore, **limits: Any
) -> tuple[EncodedPairs, Counter[str]]:
    reasons: Counter[str] = Counter()

    def note(name: str, error: Quarantined) -> None:
        reasons[error.reason] += 1

    return encode_pairs(vlm, pairs, store, on_reject=note, **limits), reasons


# --- tokens of a pair -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "smolvlm"])
def test_cutting_takes_from_responses_and_never_from_images(family: str) -> None:
    """trl 5283, 5285, 5881: a length limit that takes image tokens away, or leaves side inputs behind."""
    vlm = TINY[family]()
    pairs = make_pairs(6)
    whole, _ = encode(vlm, pairs, ImageStore(vlm, 2**24))
    limit = max(len(row.prompt) for row in whole.rows) + 6
    store = ImageStore(vlm, 2**24)
    cut_pairs, reasons = encode(vlm, pairs, store, max_tokens=limit)
    assert len(cut_pairs) + sum(reasons.values()) == len(pairs) and len(cut_pairs)
    assert cut_pairs.dropped == reasons
    kept = {row.id: row for row in whole.rows}
    for row in cut_pairs.rows:
        assert torch.equal(row.prompt, kept[row.id].prompt)
        for side, before in ((row.chosen, kept[row.id].chosen), (row.rejected, kept[row.id].rejected)):
            assert torch.equal(side, before[: limit - len(row.prompt)])
    assert cut_pairs.truncated > 0
    # What is left still scores: every placeholder has its feature.
    PairScorer(vlm, sharing="on", reference="none")(PairCollator(store)(cut_pairs.rows)["batch"])


def test_a_prompt_without_room_is_dropped_and_counted(vlm: VLM) -> None:
    pairs = make_pairs(6)
    shortest = min(len(row.prompt) for row in encode(vlm, pairs, ImageStore(vlm, 2**24))[0].rows)
    left, reasons = encode(vlm, pairs, ImageStore(vlm, 2**24), max_tokens=shortest)
    assert len(left) == 0 and reasons == {"too_long": 6} and left.truncated == 0


def test_the_limit_never_goes_beyond_the_model(vlm: VLM) -> None:
    vlm.config.get_text_config().max_position_embeddings = 60
    left, _ = encode(vlm, make_pairs(6), ImageStore(vlm, 2**24), max_tokens=10_000)
    assert left.truncated and max(len(r.prompt) + max(len(r.chosen), len(r.rejected)) for r in left.rows) <= 60


def test_a_cut_through_the_prompt_would_be_noticed(vlm: VLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts the peers' error back: the whole row is cut, image tokens first to go with `keep_end`."""
    honest = collate_module.prompt_ids
    monkeypatch.setattr(collate_module, "prompt_ids", lambda *args: honest(*args)[8:])
    store = ImageStore(vlm, 2**24)
    rows, _ = encode(vlm, make_pairs(2), store)
    with pytest.raises(ValueError, match="image tokens"):
        PairScorer(vlm, sharing="on")(PairCollator(store)(rows.rows)["batch"])


# --- pixels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(640, 480), (10, 3000), (3000, 10), (1, 7), (100, 100)])
@pytest.mark.parametrize("pixels", [1, 5, 999, 10_000])
def test_scaling_down_keeps_within_the_limit(size: tuple[int, int], pixels: int) -> None:
    if size[0] * size[1] <= pixels:
        return
    small = scaled_down(Image.new("RGB", size), pixels)
    assert 1 <= small.width * small.height <= pixels
    if pixels == 10_000 and size == (640, 480):
        assert small.width / small.height == pytest.approx(4 / 3, rel=0.02)


def test_pixels_by_image_and_by_pair() -> None:
    """ms-swift 7188: does the limit count per image or per sample? Each has its name."""
    vlm = TINY["qwen2_5_vl"]()
    pairs = [image_pair("one", [(40, 40)]), image_pair("three", [(40, 40), (40, 40), (40, 20)])]
    tokens = {}
    for name, by_image, by_pair in (
        ("free", None, None),
        ("image", 800, None),
        ("pair", None, 1600),
        ("both", 800, 1600),
    ):
        store = ImageStore(vlm, 2**24, by_image)
        rows, _ = encode(vlm, pairs, store, max_pixels_per_pair=by_pair)
        tokens[name] = [sum(store.placeholder_tokens(key) for key in row.images) for row in rows.rows]
        shown = [sum(p.width * p.height for p in map(store.picture, row.images)) for row in rows.rows]
        assert by_image is None or all(
            p.width * p.height <= by_image for row in rows.rows for p in map(store.picture, row.images)
        )
        assert by_pair is None or max(shown) <= by_pair
        scaled = {"free": 0, "image": 2, "pair": 3, "both": 4}[name]
        assert len(store.scaled) == scaled, name
    assert tokens["free"][0] > tokens["image"][0] and tokens["pair"][0] == tokens["free"][0]
    assert tokens["pair"][1] < tokens["free"][1]


def test_scaled_images_are_others_to_the_reference_cache(vlm: VLM) -> None:
    pair = make_pairs(1)[0]
    keys = set()
    for limit in (None, 10_000, 900, 500):
        store = ImageStore(vlm, 2**24, limit)
        rows, _ = encode(vlm, [pair], store)
        keys.add(pair_key(rows.rows[0], store))
    assert len(keys) == 3  # 40 x 36 pixels: the second limit changes nothing


def test_a_broken_image_is_named_whatever_the_limits(vlm: VLM) -> None:
    good = make_pairs(1)[0]
    for data, reason in ((b"no image at all", "not_an_image"), (good.images[0][:60], "truncated")):
        assert isinstance(data, bytes)
        pairs = [good, replace(good, id="bad", images=[data])]
        rows, reasons = encode(vlm, pairs, ImageStore(vlm, 0, 400), max_pixels_per_pair=300)
        assert [row.id for row in rows.rows] == [good.id] and sum(reasons.values()) == 1
        assert reasons[reason] == 1


def test_image_tokens_are_counted_without_preparing_again(vlm: VLM, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ImageStore(vlm, 0)
    rows, _ = encode(vlm, make_pairs(4), store)
    calls: list[Any] = []
    honest = ImageStore.prepared
    monkeypatch.setattr(ImageStore, "prepared", lambda self, *image: calls.append(image) or honest(self, *image))
    PairCollator(store)(rows.rows)
    assert len(calls) == 2  # two distinct images


# --- tokens of a batch ----------------------------------------------------------------------------------------------


def distinct(vlm: VLM, store: ImageStore, rows: list[Any]) -> int:
    """Tokens of the row that the model gets."""
    batch = PairCollator(store)(rows)["batch"]
    trees = batch.shared(vlm.visual_token_ids, whole_prompts=vlm.family.blocks == "prompt").trees
    return shared_row(vlm, trees, batch.image_inputs).input_ids.numel()


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "paligemma"])
def test_the_budget_counts_what_the_model_gets(family: str) -> None:
    vlm = TINY[family]()
    first, second, third = make_pairs(5)[::2]
    other = replace(first, id="same prompt", chosen=second.chosen)
    asks = replace(first, id="same image", prompt=user("How many people are on the street?"))
    sides = replace(first, id="sides", rejected_images=second.images)
    pairs = [first, other, asks, sides, second, third]
    store = ImageStore(vlm, 2**24)
    rows, reasons = encode(vlm, pairs, store)
    assert not reasons
    schedule = Schedule(rows.lengths, Shape(6), seed=0, parts=rows.parts(vlm))
    for some in ([0], [0, 1], [0, 2], [3], [4, 5], range(6)):
        counted = schedule.tokens(list(some))
        real = distinct(vlm, store, [rows[i] for i in some])
        assert real <= counted  # beginnings may be equal beyond the image
        assert counted <= sum(rows.lengths[i] for i in some)
    assert schedule.tokens([0, 1]) == distinct(vlm, store, [rows[0], rows[1]]) < rows.lengths[0] + rows.lengths[1]


def test_shared_parts_make_larger_batches() -> None:
    prompt = (b"prompt", 80)
    parts = [[prompt, (f"a{i}".encode(), 10), (f"b{i}".encode(), 10)] for i in range(9)]
    lengths = [100] * 9
    assert [len(batch) for batch in cut(lengths, 9, 260)] == [2, 2, 2, 2, 1]
    assert [len(batch) for batch in cut(lengths, 9, 260, parts)] == [9]
    schedule = Schedule(lengths, Shape(9, tokens=200), seed=0, epochs=2, parts=parts)
    assert all(schedule.tokens(batch) <= 200 for step in schedule.steps for batch in step)
    assert Counter(i for step in schedule.steps for batch in step for i in batch) == dict.fromkeys(range(9), 2)
    with pytest.raises(UserError, match="longest pair has 100 tokens"):
        Schedule(lengths, Shape(9, tokens=99), seed=0, parts=parts)


def test_padding_is_no_part_of_a_shared_row(vlm: VLM, tmp_path: Path) -> None:
    """Lengths of 100 and 20 fill a budget of 120 together; padded they would need 200."""
    parts = [[(b"long", 100)], [(b"short", 20)]]
    assert cut([100, 20], 2, 120, parts) == [[1, 0]]
    assert cut([100, 20], 2, 120) == [[1], [0]]
