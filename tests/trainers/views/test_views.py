"""Views end to end: real pairs, a real (tiny) model, real corruption and perturbation, through the trainer."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPConfig, CLIPModel, CLIPProcessor

from mmpo.data.corruption import Corruption, generator
from mmpo.data.shards import read_pairs
from mmpo.errors import UserError
from mmpo.models.families.loading import load_vlm
from mmpo.models.scoring.score import PairScorer
from mmpo.objectives import build_objective
from mmpo.objectives.tars import sides
from mmpo.objectives.visual import CHOSEN
from mmpo.trainers.collate import EncodedPairs, PairCollator, encode_pairs
from mmpo.trainers.images import ImageStore
from mmpo.trainers.schedule import numbered
from mmpo.trainers.train import train
from mmpo.trainers.views.perturb import Perturber
from mmpo.trainers.views.relevance import ClipEmbedder, PolicyEmbedder, RelevanceTable, visual_agnostic
from mmpo.trainers.views.view_maker import view_maker
from mmpo.trainers.views.views import ImageCorrupter, ViewMaker
from mmpo.types import Hidden
from tests.tiny import add_lora
from tests.trainers.material import settings_for, write_pairs


@pytest.fixture
def material(tiny_llava_folder: Path, tmp_path: Path) -> tuple[Any, EncodedPairs, ImageStore, Path]:
    folder = write_pairs(tmp_path / "pairs", 6)
    vlm = add_lora(load_vlm(tiny_llava_folder), spread=0.1)
    store = ImageStore(vlm, 1 << 26)
    return vlm, encode_pairs(vlm, read_pairs(folder), store, root=folder, words=True), store, folder


def maker_for(material: Any, objective: str, **settings: Any) -> ViewMaker:
    vlm, pairs, store, folder = material
    wanted = settings_for(Path(vlm.source), folder, objective={objective: {}}, **settings)
    maker = view_maker(wanted, build_objective({objective: {}}), vlm, store, pairs.rows)
    assert maker is not None
    return maker


@pytest.mark.parametrize(
    ("relevance", "omega", "expected"),
    [
        ([-0.5, -0.2, -0.1], 0.1, [0]),
        ([-0.5, -0.46, -0.1], 0.1, [0, 1, 2]),
        ([0.18, 0.21, 0.20, 0.25, 0.19], 0.1, [0, 4, 2, 1, 3]),
        ([0.18, 0.21, 0.20, 0.25, 0.19], 1e-3, [0]),
        ([0.3, 0.3, 0.5], 1e-3, [0, 1, 2]),
        ([0.3], 1e-3, [0]),
        ([], 1e-3, []),
    ],
)
def test_number_and_choice_of_words(relevance: list[float], omega: float, expected: list[int]) -> None:
    """P = -relevance: the values of the specification."""
    assert visual_agnostic(relevance, omega=omega) == expected


def test_the_cap_leaves_at_least_one_word() -> None:
    assert visual_agnostic([0.3] * 10, cap=0.3) == [0, 1, 2]
    assert visual_agnostic([0.3] * 10, cap=0.01) == [0]


def test_corrupted_views_are_scored_on_other_images(material: Any) -> None:
    vlm, pairs, store, _ = material
    maker = maker_for(material, "vdpo")
    batch = PairCollator(store, maker.add)(pairs.rows[:4])["batch"]
    plain = PairCollator(store)(pairs.rows[:4])["batch"]
    assert len(batch.image_tokens) == len(plain.image_tokens) + 4
    for k, index in enumerate(batch.views[CHOSEN].image_index):
        assert not batch.image_inputs["pixel_values"][index].any(), "black"
        assert batch.image_inputs["pixel_values"][batch.image_index[k]].any()
    scored = PairScorer(vlm, sharing="on")(batch)
    alone = PairScorer(vlm, sharing="off")(batch)
    for name in batch.views:
        torch.testing.assert_close(scored.view(name).policy, alone.view(name).policy, atol=1e-5, rtol=0)
        torch.testing.assert_close(scored.view(name).reference, alone.view(name).reference, atol=1e-5, rtol=0)
    assert (scored.view(CHOSEN).policy_sum - scored.chosen.policy_sum).abs().min() > 1e-4
    torch.testing.assert_close(
        scored.chosen.policy, PairScorer(vlm, sharing="on")(plain).chosen.policy, atol=1e-5, rtol=0
    )


def test_policy_and_reference_see_the_same_and_every_visit_something_new(material: Any) -> None:
    _, pairs, store, _ = material
    maker = maker_for(material, "mdpo")
    collate = PairCollator(store, maker.add)
    first, again = (collate(pairs.rows[:2])["batch"].image_inputs["pixel_values"] for _ in range(2))
    assert torch.equal(first, again)
    later = collate([pairs[len(pairs)], pairs[len(pairs) + 1]])["batch"].image_inputs["pixel_values"]
    one, two = (1, 2) if len(first) == 3 else (2, 4)  # the two pairs share an image
    assert torch.equal(first[:one], later[:one]) and not torch.equal(first[one:two], later[one:two])


def test_another_image_is_never_the_same_one(material: Any) -> None:
    vlm, pairs, store, _ = material
    images = list(dict.fromkeys(row.images[0] for row in pairs.rows))
    corrupt = ImageCorrupter(vlm, store, Corruption("other"), images)
    for seed in range(12):
        found = corrupt(images[0], generator(seed, "a", 0)).tensors["pixel_values"]
        assert not torch.equal(found, store.prepared(images[0]).tensors["pixel_values"])
    with pytest.raises(UserError, match="two different images"):
        ImageCorrupter(vlm, store, Corruption("other"), images[:1])


@pytest.mark.parametrize("mode", ["mask", "replace", "synonyms"])
def test_a_perturbed_question_keeps_length_image_and_template(material: Any, mode: str, tmp_path: Path) -> None:
    vlm, pairs, store, _ = material
    lexicon = tmp_path / "synonyms.json"
    lexicon.write_text(json.dumps({"image": ["photo"], "is": ["was"], "the": ["this"], "describe": ["explain"]}))
    maker = maker_for(material, "perturbed_dpo", perturbation={"mode": mode, "omega": 10.0, "lexicon": str(lexicon)})
    batch = PairCollator(store, maker.add)(pairs.rows)["batch"]
    changed = 0
    for i, row in enumerate(pairs.rows):
        chosen, rejected = (batch.views[side].prompt_ids[i] for side in sides(0))
        assert torch.equal(chosen, rejected), "the same question for both answers"
        assert len(chosen) == len(row.prompt)
        places = {place for _, own in row.words for place in own}
        moved = {int(k) for k in torch.nonzero(chosen != row.prompt)}
        assert moved <= places
        changed += len(moved)
        if mode == "mask":
            assert moved == places, "a large omega takes every word"
    assert changed > 0 or mode == "synonyms"
    scored = PairScorer(vlm, sharing="on", hidden=Hidden())(batch)
    alone = PairScorer(vlm, sharing="off", hidden=Hidden())(batch)
    for name in batch.views:
        torch.testing.assert_close(scored.view(name).policy, alone.view(name).policy, atol=1e-5, rtol=0)
        torch.testing.assert_close(scored.view(name).policy_hidden, alone.view(name).policy_hidden, atol=1e-4, rtol=0)
    state = scored.chosen.policy_hidden
    assert state.shape[:2] == scored.chosen.mask.shape and not state[~scored.chosen.mask].any()


def test_the_images_of_a_perturbed_question_are_not_encoded_again(material: Any) -> None:
    _, pairs, store, _ = material
    maker = maker_for(material, "perturbed_dpo")
    batch = PairCollator(store, maker.add)(pairs.rows[:2])["batch"]
    plain = PairCollator(store)(pairs.rows[:2])["batch"]
    assert torch.equal(batch.image_inputs["pixel_values"], plain.image_inputs["pixel_values"])


def test_further_candidates_change_a_part_of_the_words(material: Any) -> None:
    vlm, pairs, store, folder = material
    table = RelevanceTable(folder / "relevance", PolicyEmbedder(vlm, store), store)
    table.fill((row.images[0] for row in pairs.rows), (word for row in pairs.rows for word, _ in row.words))
    perturb = Perturber(vlm, table, omega=10.0)
    row = max(pairs.rows, key=lambda row: len(row.words))
    whole = (perturb(row, generator(0, "a", 0)) != row.prompt).sum()
    parts = {int((perturb(row, generator(k, "a", 0), 1) != row.prompt).sum()) for k in range(20)}
    assert len(parts) > 1 and min(parts) > 0 and max(parts) < whole


def test_the_table_of_relevance_is_kept_and_recomputed_for_another_model(material: Any) -> None:
    vlm, pairs, store, folder = material
    words = ["dog", "image"]

    class Counting(PolicyEmbedder):
        calls = 0

        def words(self, words: Any) -> torch.Tensor:
            Counting.calls += len(words)
            return super().words(words)

    for expected in (2, 2):
        table = RelevanceTable(folder / "relevance", Counting(vlm, store), store)
        table.fill([pairs.rows[0].images[0]], words)
        assert Counting.calls == expected
    cosines = table.relevance(pairs.rows[0].images, words)
    assert all(-1 <= value <= 1 for value in cosines) and cosines[0] != cosines[1]
    other = Counting(vlm, store)
    other.identity = "policy:other"
    RelevanceTable(folder / "relevance", other, store).fill([], words)
    assert Counting.calls == 4


def test_a_clip_says_what_an_image_shows(material: Any, tmp_path: Path) -> None:
    """A random CLIP, but a real one: loading, preprocessing, both towers, unit vectors."""
    vlm, pairs, store, folder = material
    from transformers import CLIPImageProcessor

    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**size, "vocab_size": len(vlm.tokenizer), "eos_token_id": vlm.eos_id},
        vision_config={**size, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    clip = tmp_path / "clip"
    CLIPModel(config).save_pretrained(clip)
    CLIPProcessor(
        CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}), vlm.tokenizer
    ).save_pretrained(clip)
    table = RelevanceTable(folder / "relevance", ClipEmbedder(str(clip), store), store)
    table.fill([pairs.rows[0].images[0]], ["dog", "cat"])
    assert len(set(table.relevance(pairs.rows[0].images, ["dog", "cat"]))) == 2
    with pytest.raises(UserError, match="no CLIP-like model"):
        ClipEmbedder(str(tmp_path / "nothing"), store)


def test_visits_are_numbered_across_steps() -> None:
    assert numbered([[[0, 1], [2]], [[1], [0, 1]]], 3) == [[[0, 1], [2]], [[4], [3, 7]]]


@pytest.mark.parametrize(
    ("objective", "start"),
    [
        ({"mdpo": {}}, 3.0),
        ({"rdpo": {}}, 2.0),
        ({"tars": {"lam": 0.0}}, 1.0),
        ({"tars": {"candidates": 3}}, None),
        ({"dpo": {}, "image_preference": {"weight": 0.5}}, 1.5),
    ],
)
def test_training_starts_at_log_two_and_learns(
    tiny_llava_folder: Path, tmp_path: Path, objective: dict[str, Any], start: float | None
) -> None:
    pairs = write_pairs(tmp_path / "pairs", 16)
    result = train(settings_for(tiny_llava_folder, pairs, objective=objective, epochs=3), tmp_path / "run")
    assert result.first_eval is not None and result.last_eval is not None
    if start is not None:
        assert result.first_eval["eval_loss"] == pytest.approx(start * math.log(2), abs=1e-4)
    assert result.last_eval["eval_loss"] < result.first_eval["eval_loss"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"corruption": {"kind": "crop"}}, "no effect"),
        ({"perturbation": {}}, "no effect"),
        ({"objective": {"mdpo": {}}, "cache_reference": True}, "cache_reference"),
        ({"objective": {"mdpo": {}, "vdpo": {}}}, "corrupt images differently"),
        ({"objective": {"mdpo": {}}, "corruption": {"kind": "crop", "parameters": {"step": 3}}}, "no parameter"),
        ({"disturbance": {}}, "no effect"),
        ({"objective": {"tdpo2": {}}, "cache_reference": True}, "each token's distributions"),
        ({"objective": {"symmpo": {}}}, "names no twin"),
    ],
)
def test_settings_that_do_nothing_or_contradict_are_refused(
    tiny_llava_folder: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    pairs = write_pairs(tmp_path / "pairs", 6)
    with pytest.raises(UserError) as error:
        train(settings_for(tiny_llava_folder, pairs, **changes), tmp_path / "run")
    assert words in f"{error.value.message} {error.value.hint}"


def test_text_only_pairs_have_nothing_to_corrupt(material: Any) -> None:
    vlm, pairs, store, folder = material
    rows = [replace(pairs.rows[0], images=())]
    wanted = settings_for(Path(vlm.source), folder, objective={"mdpo": {}})
    with pytest.raises(UserError, match="no image to corrupt"):
        view_maker(wanted, build_objective("mdpo"), vlm, store, rows)
