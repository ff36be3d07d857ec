"""The released code's perturbation of whole sequences: what is drawn, what is spared, and each correction off."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmpo.data.corruption import generator
from mmpo.data.shards import read_pairs
from mmpo.errors import UserError
from mmpo.models.families.loading import load_vlm
from mmpo.objectives import build_objective
from mmpo.objectives.tars_official import CHOSEN, CHOSEN_NOISY, REJECTED
from mmpo.trainers.collate import EncodedPairs, PairCollator, encode_pairs
from mmpo.trainers.images import ImageStore
from mmpo.trainers.view_settings import DisturbanceSettings
from mmpo.trainers.views.disturb import Disturbed, OfficialTarsPerturber
from mmpo.trainers.views.relevance import PolicyEmbedder, RelevanceTable
from mmpo.trainers.views.view_maker import view_maker
from tests.trainers.material import settings_for, write_pairs


@pytest.fixture
def material(tiny_llava_folder: Path, tmp_path: Path) -> tuple[Any, EncodedPairs, ImageStore, Path]:
    folder = write_pairs(tmp_path / "pairs", 6)
    vlm = load_vlm(tiny_llava_folder)
    store = ImageStore(vlm, 1 << 26)
    return vlm, encode_pairs(vlm, read_pairs(folder), store, root=folder), store, folder


def disturber(material: Any, **settings: Any) -> OfficialTarsPerturber:
    vlm, pairs, store, folder = material
    table = RelevanceTable(folder / "relevance", PolicyEmbedder(vlm, store), store)
    found = OfficialTarsPerturber(vlm, table, store, DisturbanceSettings(**settings))
    table.fill((key for row in pairs.rows for key in row.images), sorted(found.texts(pairs.rows)))
    return found


def draws(material: Any, n: int = 40, **settings: Any) -> tuple[Any, list[Disturbed]]:
    pairs = material[1]
    row = max(pairs.rows, key=lambda row: len(row.chosen))
    disturb = disturber(material, **settings)
    return row, [disturb(row, row.chosen, generator(k, "a", 0)) for k in range(n)]


@pytest.mark.parametrize("mode", ["replace", "mask"])
def test_tokens_change_one_for_one_anywhere_but_in_the_image_and_special_tokens(material: Any, mode: str) -> None:
    vlm = material[0]
    row, found = draws(material, mode=mode, rate=0.3)
    special = torch.tensor(sorted({*vlm.tokenizer.all_special_ids, vlm.image_token_id}))
    touched: Counter[str] = Counter()
    for one in found:
        assert len(one.prompt) == len(row.prompt) and len(one.response) == len(row.chosen) and one.images == [0]
        assert torch.equal(one.prompt == vlm.image_token_id, row.prompt == vlm.image_token_id)
        for before, after in ((row.prompt, one.prompt), (row.chosen, one.response)):
            assert not torch.isin(before[before != after], special).any()
        changed = one.response != row.chosen
        assert not (changed & (one.kept == 1)).any(), "a changed token leaves the loss"
        assert one.kept[-1] == 1, "the end token stays"
        touched.update(prompt=int((one.prompt != row.prompt).sum()), response=int(changed.sum()))
    assert touched["prompt"] > 20 and touched["response"] > 20


def test_the_number_of_draws_is_a_share_of_the_tokens_with_an_image_counting_once(material: Any) -> None:
    vlm = material[0]
    row, found = draws(material, mode="mask", rate=0.2)
    text = int((row.prompt != vlm.image_token_id).sum())
    most = int(0.2 * (text + 1 + len(row.chosen)))
    counts = {int((one.prompt != row.prompt).sum() + (one.response != row.chosen).sum()) for one in found}
    assert max(counts) <= most and max(counts) >= most - 2, "special tokens are dropped after the draw"
    _, few = draws(material, mode="mask", rate=0.001)
    assert {int((one.kept == 0).sum() + (one.prompt != row.prompt).sum()) for one in few} == {1}


def test_tokens_that_the_image_shows_are_drawn_less(material: Any) -> None:
    """One token gets all of the similarity: it is never drawn."""
    row, _ = draws(material, 1)
    disturb = disturber(material, mode="mask", rate=0.3)
    favourite = disturb._text(int(row.chosen[0]))

    class Certain:
        def relevance(self, images: Any, words: Any) -> list[float]:
            return [1.0 if word == favourite else -1.0 for word in words]

    disturb._table = Certain()  # type: ignore[assignment]
    spared, drawn = 0, 0
    for k in range(40):
        one = disturb(row, row.chosen, generator(k, "b", 0))
        spared += int(one.kept[0] == 0)
        drawn += int((one.kept == 0).sum())
    assert spared == 0 and drawn > 40
    lost = disturber(material, mode="mask", rate=0.3, in_place=False)
    lost._table = Certain()  # type: ignore[assignment]
    hit = sum(int(lost(row, row.chosen, generator(k, "b", 0)).kept[0] == 0) for k in range(40))
    assert hit > 0, "sorted, the similarity belongs to the first token of the sequence"


def test_without_scores_ordinary_tokens_are_drawn_alike_or_nothing_can_be(material: Any) -> None:
    row, _ = draws(material, 1)

    class Nothing:
        def relevance(self, images: Any, words: Any) -> list[float]:
            return [1.0] * len(words)

    short = replace(row, prompt=row.prompt[row.prompt == material[0].image_token_id])
    for uniform in (True, False):
        disturb = disturber(material, uniform=uniform)
        disturb._table = Nothing()  # type: ignore[assignment]
        one_token = row.chosen[:1]  # the softmax over one token is 1: its score is 0
        if uniform:
            assert disturb(short, one_token, generator(0, "a", 0)).kept.tolist() == [0.0]
        else:
            with pytest.raises(UserError, match="nothing to go by"):
                disturb(short, one_token, generator(0, "a", 0))


def test_an_unprotected_image_can_be_lost(material: Any) -> None:
    """Sorted similarities fall on any place, the image's too."""
    vlm = material[0]
    row, found = draws(material, 200, rate=0.2, in_place=False, keep_image=False)
    lost = [one for one in found if not one.images]
    assert lost and len(lost) < len(found)
    images = int((row.prompt == vlm.image_token_id).sum())
    for one in lost:
        assert not (one.prompt == vlm.image_token_id).any() and len(one.prompt) == len(row.prompt) - images + 1
    _, kept = draws(material, 200, rate=0.2, in_place=False)
    assert all(one.images == [0] for one in kept)


def test_a_mask_that_is_padding_is_attended_to_or_taken_out(material: Any) -> None:
    vlm = material[0]
    assert vlm.tokenizer.mask_token_id is None and vlm.tokenizer.unk_token_id is None
    row, found = draws(material, mode="mask", rate=0.2)
    for one in found:
        assert not (one.prompt == vlm.tokenizer.pad_token_id).any()
    _, shorter = draws(material, mode="mask", rate=0.2, keep_attention=False)
    assert any(len(one.prompt) < len(row.prompt) for one in shorter)
    for one in shorter:
        assert len(one.kept) == len(one.response) and (one.kept == 1).all() and one.response[-1] == row.chosen[-1]


def test_views_of_a_batch(material: Any) -> None:
    vlm, pairs, store, folder = material
    wanted = settings_for(Path(vlm.source), folder, objective={"tars_official": {}}, disturbance={"rate": 0.2})
    maker = view_maker(wanted, build_objective("tars_official"), vlm, store, pairs.rows)
    assert maker is not None
    batch = PairCollator(store, maker.add)(pairs.rows[:3])["batch"]
    clean, noisy = batch.views[CHOSEN], batch.views[CHOSEN_NOISY]
    for i in range(3):
        assert torch.equal(clean.prompt_ids[i], noisy.prompt_ids[i]), "the same draw, another image"
        assert torch.equal(clean.response_ids[i], noisy.response_ids[i])
        assert clean.weights is not None and noisy.weights is not None
        assert torch.equal(clean.weights[i], noisy.weights[i])
        assert clean.image_index[i] == batch.image_index[i] != noisy.image_index[i]
    own, other = clean, batch.views[REJECTED]
    assert any(not torch.equal(a, b) for a, b in zip(own.prompt_ids, other.prompt_ids, strict=True)), "separate draws"
    again = PairCollator(store, maker.add)(pairs.rows[:3])["batch"]
    assert all(
        torch.equal(a, b)
        for name in batch.views
        for a, b in zip(batch.views[name].response_ids, again.views[name].response_ids, strict=True)
    )
    assert np.isfinite(batch.image_inputs["pixel_values"].numpy()).all()
