"""Mismatched answers, partly hidden images, drawn positions, samples of the reference."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mmpo.data.corruption import patches
from mmpo.errors import UserError
from mmpo.models.scoring.score import PairScorer
from mmpo.objectives.batchwise import MISMATCHED
from mmpo.objectives.ranking import partial_view
from mmpo.trainers.collate import PairCollator
from mmpo.trainers.train import train
from mmpo.trainers.views.drawn import BatchFields, drawn_positions, read_bank, sample_bank
from mmpo.trainers.views.others import OtherAnswers
from tests.trainers.material import settings_for, write_pairs
from tests.trainers.views.test_views import maker_for, material  # noqa: F401 - a fixture


def test_each_pair_gets_an_answer_about_another_image(material: Any) -> None:  # noqa: F811
    vlm, pairs, store, _ = material
    rows = pairs.rows[:5]  # images a a b b c
    maker = maker_for(material, "kto")
    assert maker.others is not None
    batch = PairCollator(store, maker.add)(rows)["batch"]
    theirs = [maker.others(row) for row in rows]
    assert all(other.images != row.images for other, row in zip(theirs, rows, strict=True))
    view = batch.views[MISMATCHED]
    assert [ids.tolist() for ids in view.response_ids] == [other.chosen.tolist() for other in theirs]
    assert view.image_index == batch.image_index and view.prompt_ids is batch.prompt_ids
    assert [maker.extra_tokens(row) for row in rows] == [len(other.chosen) for other in theirs]
    scored, alone = (PairScorer(vlm, sharing=how)(batch).view(MISMATCHED) for how in ("on", "off"))
    torch.testing.assert_close(scored.policy, alone.policy, atol=1e-5, rtol=0)
    torch.testing.assert_close(scored.reference, alone.reference, atol=1e-5, rtol=0)


def test_another_answer_depends_on_seed_and_pair_alone(material: Any) -> None:  # noqa: F811
    rows = material[1].rows
    found, turned = OtherAnswers(rows, 3), OtherAnswers(rows[::-1], 3)
    assert [found(row).id for row in rows] == [turned(row).id for row in rows]
    assert [found(replace(row, visit=4)).id for row in rows] == [found(row).id for row in rows]
    drawn = {OtherAnswers(rows, seed)(rows[0]).id for seed in range(60)}
    assert drawn == {row.id for row in rows if row.images != rows[0].images}


def test_held_out_pairs_meet_one_another_where_they_have_two_images(material: Any) -> None:  # noqa: F811
    rows = material[1].rows[:5]  # images a a b b c
    for seed in range(8):
        some = OtherAnswers(rows, seed, {rows[2].id, rows[4].id})
        assert (some(rows[2]), some(rows[4])) == (rows[4], rows[2])
        assert some(rows[0]).id == rows[3].id and some(rows[3]).id in {rows[0].id, rows[1].id}
        one = OtherAnswers(rows, seed, {rows[4].id})
        assert one(rows[4]).id != rows[4].id and one(rows[0]).id in {rows[2].id, rows[3].id}


def test_one_image_alone_has_no_mismatched_answers(material: Any) -> None:  # noqa: F811
    with pytest.raises(UserError, match="all 2 pairs show one image"):
        OtherAnswers(material[1].rows[:2], 0)
    with pytest.raises(UserError, match="there is one pair"):
        OtherAnswers(material[1].rows[:1], 0)


def test_kto_trains_one_pair_at_a_time_and_evaluates(tiny_llava_folder: Path, tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "pairs", 8)
    settings = settings_for(
        tiny_llava_folder, folder, objective={"kto": {}}, batch_size=1, max_steps=2, eval_fraction=0.2
    )
    assert train(settings, tmp_path / "run").steps == 2


def test_more_patches_hide_what_fewer_hide() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 40, 3), dtype=np.uint8))
    hidden = [
        (np.array(patches(image, np.random.default_rng(3), share=share, grid=4)) != np.array(image)).any(-1)
        for share in (0.25, 0.5, 1.0)
    ]
    assert not (hidden[0] & ~hidden[1]).any() and not (hidden[1] & ~hidden[2]).any()
    shares = [one.mean() for one in hidden]
    assert shares == pytest.approx([0.25, 0.5, 1.0], abs=0.02)
    with pytest.raises(UserError, match="a share above 0"):
        patches(image, np.random.default_rng(0), share=0.0)


def test_partial_images_hide_more_and_more(material: Any) -> None:  # noqa: F811
    _, pairs, store, _ = material
    collate = PairCollator(store, maker_for(material, "lpoi").add)
    batch, again = (collate(pairs.rows[:3])["batch"] for _ in range(2))
    pixels = batch.image_inputs["pixel_values"]
    assert torch.equal(pixels, again.image_inputs["pixel_values"])
    for place in range(3):
        clean = pixels[batch.image_index[place]]
        changed = [
            (pixels[batch.views[partial_view(level)].image_index[place]] != clean).float().mean()
            for level in (1, 2, 3, 4)
        ]
        assert 0 < changed[0] < changed[1] < changed[2] < changed[3]


def test_positions_are_as_many_on_both_sides_and_drawn_anew_each_visit(material: Any) -> None:  # noqa: F811
    _, pairs, store, _ = material
    rows = pairs.rows
    for row in rows:
        chosen, rejected = drawn_positions(row, 7)
        count = min(len(row.chosen), len(row.rejected))
        assert chosen.sum() == rejected.sum() == count
        assert len(chosen) == len(row.chosen) and len(rejected) == len(row.rejected)
        assert all(torch.equal(a, b) for a, b in zip(drawn_positions(row, 7), (chosen, rejected), strict=True))
    row = max(rows, key=lambda row: len(row.rejected) - len(row.chosen))
    assert len({tuple(drawn_positions(replace(row, visit=n), 7)[1].tolist()) for n in range(8)}) > 1
    batch = PairCollator(store, BatchFields(positions=True).add)(rows)["batch"]
    assert batch.rejected_more["positions"].shape == batch.rejected_more["turns"].shape


def test_a_bank_of_samples_is_scored_with_the_pairs(material: Any, tmp_path: Path) -> None:  # noqa: F811
    vlm, pairs, store, _ = material
    file = tmp_path / "bank.jsonl"
    said = {row.id: ["A dog.", "A red cup."][: 1 + n % 2] for n, row in enumerate(pairs.rows)}
    file.write_text("".join(json.dumps({"id": name, "texts": texts}) + "\n" for name, texts in said.items()))
    bank = sample_bank(vlm, file, pairs.rows)
    batch = PairCollator(store, BatchFields(bank=bank).add)(pairs.rows[:3])["batch"]
    assert batch.samples_of == [0, 1, 1, 2]
    scored = PairScorer(vlm, sharing="on")(batch)
    assert scored.samples is not None and scored.samples_of is not None and batch.samples is not None
    assert scored.samples_of.tolist() == [0, 1, 1, 2] and scored.samples.lengths.tolist() == list(
        map(len, batch.samples.response_ids)
    )
    same = replace(batch, samples=None, samples_of=None, chosen_ids=[bank[row.id][0].long() for row in pairs.rows[:3]],
                   chosen_mask=None, chosen_more={})  # fmt: skip
    own = PairScorer(vlm, sharing="off")(same).chosen.policy_sum
    torch.testing.assert_close(scored.samples.policy_sum[[0, 1, 3]], own, atol=1e-4, rtol=0)


def test_banks_that_lack_something_are_named(material: Any, tmp_path: Path) -> None:  # noqa: F811
    file = tmp_path / "bank.jsonl"
    for line, message in (
        ("{", "bank.jsonl:1: not a line of JSON"),
        ('{"id": "a"}', "bank.jsonl:1: needs `id` and `texts`"),
        ('{"id": "a", "texts": [" "]}', "texts that are not empty"),
        ("", "holds no samples"),
    ):
        file.write_text(line)
        with pytest.raises(UserError, match=message):
            read_bank(file)
    file.write_text('{"id": "pair-0", "texts": ["A dog."]}\n')
    with pytest.raises(UserError, match="5 of 6 pairs have no sample; the first is pair-1"):
        sample_bank(material[0], file, material[1].rows)


@pytest.mark.parametrize(
    ("objective", "more"),
    [({"kto": {}}, {}), ({"lpoi": {}}, {}), ({"sampo": {"draw": True}}, {}), ({"dmpo": {}}, {}),
     ({"full_step_dpo": {}}, {"parts": "weights", "token_weights": {}}),
     ({"dpo_2d": {}}, {"parts": "weights", "token_weights": {}})],
)  # fmt: skip
def test_they_train(tiny_llava_folder: Path, tmp_path: Path, objective: Any, more: Any) -> None:
    folder = write_pairs(tmp_path / "pairs", 20)
    settings = settings_for(tiny_llava_folder, folder, objective=objective, max_steps=2, eval_fraction=0, **more)
    assert train(settings, tmp_path / "run").steps == 2
