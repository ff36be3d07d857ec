"""The silent errors of other implementations, each put back on purpose: the checks must notice.

A trap is a mutation of mmpo that makes it do what a peer or a plausible shortcut does. `error` compares with the model
called by hand on processor output (`by_hand`): tiny without the mutation, large (or an exception) with it. The ids name
where the error was met: transformers' own behaviour, or a peer's issue. docs/families.md lists all of them, with the
tests that look at those which can't be put back here.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import mmpo.models.scoring.score as score_module
from mmpo.errors import UserError
from mmpo.models.families.loading import VLM
from mmpo.models.families.processing import join_images, process_images
from mmpo.models.families.prompts import encode_prompt
from mmpo.models.families.vision import encode_images, select_images
from mmpo.models.scoring.score import PairScorer
from mmpo.models.scoring.segment_logps import plain_rows, segment_logps, shared_row
from mmpo.models.tree.layout import Segment, pack, response_tree
from mmpo.models.tree.segments import CAUSAL
from tests.models.mutations import TRAPS, images_swapped
from tests.models.pairs import PICTURES, by_hand, mixed_batch, one_pair
from tests.tiny import add_lora, user
from tests.tiny_families import TINY

ROOT = Path(__file__).parents[2]
CHOSEN = "Yes, there is a dog in the kitchen with a table, two chairs and a red cup on the left."
REJECTED = "No, there is no cat"


def error(vlm: VLM, shown: tuple[int, ...] = (1,)) -> float:
    """Worst difference (nats) of shared scoring and the model called by hand, over both sides of a pair."""
    pictures = [PICTURES[i] for i in shown]
    messages = user("Is there a dog?", len(shown))
    batch = one_pair(vlm, messages, process_images(vlm, pictures, several=len(shown) > 1), CHOSEN, REJECTED)
    pairs = PairScorer(vlm, sharing="on", reference="none")(batch)
    worst = 0.0
    for text, side in ((CHOSEN, pairs.chosen), (REJECTED, pairs.rejected)):
        _, logps = by_hand(vlm, messages, pictures, text)
        worst = max(worst, (side.policy[0] - logps[len(batch.prompt_ids[0]) - 1 :]).abs().max().item())
    return worst


@pytest.mark.parametrize("trap", TRAPS)
def test_trap(trap: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, mutate = TRAPS[trap]
    vlm = TINY[name]()
    assert error(vlm) < 2e-5
    mutate(monkeypatch, vlm)
    with suppress(UserError):  # noticed at once: better still
        assert error(vlm) > 1e-2


def test_every_error_of_the_docs_has_its_test() -> None:
    """docs/families.md names a test for each; a test that is renamed or removed must be missed."""
    page = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
    section = page.split("## Silent errors", 1)[1].split("\n## ", 1)[0]
    rows = [line.split("|")[3] for line in section.splitlines() if line.startswith("|")][2:]
    assert len(rows) > 25
    for row in rows:
        named = re.findall(r"`([\w/.]+)::(\w+)`", row)
        assert named, row
        for file, test in named:
            assert f"def {test}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), f"{file}::{test}"


def test_images_in_the_wrong_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """LLaMA-Factory 9119: bookkeeping per image."""
    vlm = TINY["llava"]()
    assert error(vlm, (0, 1)) < 2e-5
    images_swapped(monkeypatch, vlm)
    assert error(vlm, (0, 1)) > 1e-3


@pytest.mark.parametrize("loaded", ["eager", "flex_attention"])
@pytest.mark.parametrize("name", ["llava", "gemma3", "paligemma"])
def test_bool_masks_on_eager_attention(name: str, loaded: str) -> None:
    """transformers: eager and flex attention add a mask, so True becomes +1. A model loaded so must not get there."""
    vlm = TINY[name]()
    vlm.base.set_attn_implementation({"text_config": loaded})
    assert error(vlm) < 2e-5
    assert vlm.config.get_text_config()._attn_implementation == "mmpo_tree"


@pytest.mark.parametrize("name", ["llava", "gemma3", "qwen2_5_vl", "paligemma2", "mistral3-window"])
def test_documents_in_one_row_do_not_see_each_other(name: str) -> None:
    """LLaMA-Factory v1: segment ids as a 2-D mask become True, and the second document reads the first."""
    vlm = add_lora(TINY[name](), spread=0.1)
    batch = mixed_batch(vlm, across=False)
    scorer = PairScorer(vlm, sharing="on", reference="none")
    before = scorer(batch)
    changed = [ids.clone() for ids in batch.chosen_ids]
    changed[0][:] = 7
    after = scorer(replace(batch, chosen_ids=changed))
    assert torch.equal(before.chosen.policy[1:], after.chosen.policy[1:])
    assert torch.equal(before.rejected.policy, after.rejected.policy)


@pytest.mark.parametrize("name", TINY)
def test_padding_is_never_read(name: str) -> None:
    """RLAIF-V: mask None over padded rows; dpo-prefix-sharing: padding at position 1."""
    vlm = TINY[name]()
    batch = mixed_batch(vlm)
    trees = batch.shared(vlm.image_token_id, whole_prompts=True).trees
    features = encode_images(vlm, batch.image_inputs, frozen=True)
    layout = plain_rows(vlm, trees, batch.image_inputs)
    padding = layout.attention_mask == 0
    assert padding.any()
    other = replace(layout, input_ids=layout.input_ids.masked_fill(padding, 9))
    with torch.no_grad():
        assert torch.equal(segment_logps(vlm, layout, features).logps, segment_logps(vlm, other, features).logps)


@pytest.mark.parametrize("name", TINY)
def test_a_lost_image_token_is_an_error(name: str) -> None:
    """trl 5285, 5283, LLaMA-Factory 9119: truncation that takes image tokens away must never go through."""
    vlm = TINY[name]()
    batch = mixed_batch(vlm, across=False)
    ids = batch.prompt_ids[0].tolist()
    ids.remove(vlm.image_token_id)
    with pytest.raises((ValueError, IndexError)):
        PairScorer(vlm, sharing="on")(replace(batch, prompt_ids=[torch.tensor(ids), *batch.prompt_ids[1:]]))


@pytest.mark.parametrize("name", TINY)
def test_features_are_those_of_a_direct_call(name: str) -> None:
    """trl 2660: indexing the processor's output sent one row of patches to the tower, and training went on."""
    vlm = TINY[name]()
    images = process_images(vlm, PICTURES)
    together = encode_images(vlm, images.tensors, frozen=True).pooler_output
    for picture, placeholder, feature in zip(PICTURES, images.placeholders, together, strict=True):
        assert len(feature) == placeholder.count(vlm.image_token_id)
        alone = encode_images(vlm, process_images(vlm, [picture]).tensors, frozen=True).pooler_output[0]
        torch.testing.assert_close(feature, alone, rtol=0, atol=1e-5)


def test_an_output_that_nobody_reads_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """trl 5277: a side input that was silently dropped. Every output of the processor is used or listed as ignored."""
    vlm = TINY["llava_next"]()
    blind = replace(vlm, family=replace(vlm.family, pixel_keys=("pixel_values",)))
    with pytest.raises(UserError, match="image_sizes"):
        process_images(blind, PICTURES)


@pytest.mark.parametrize("name", TINY)
def test_a_frozen_tower_has_no_autograd(name: str) -> None:
    """ms-swift 10214, trl 1.16: the input hooks that peft sets make a frozen tower's output require gradients."""
    vlm = add_lora(TINY[name](), spread=0.1)
    vlm.base.enable_input_require_grads()
    scorer = PairScorer(vlm, sharing="on").train()
    scorer.gradient_checkpointing_enable()
    seen: list[bool] = []
    honest = score_module.encode_images

    def spied(*args: Any, **kwargs: Any) -> Any:
        encoded = honest(*args, **kwargs)
        seen.extend(feature.requires_grad for feature in encoded.pooler_output)
        return encoded

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(score_module, "encode_images", spied)
        scorer(mixed_batch(vlm)).chosen.policy_sum.sum().backward()
    assert seen and not any(seen)


@pytest.mark.parametrize("name", TINY)
def test_float32_pixels_meet_a_bfloat16_tower(name: str) -> None:
    """LLaMA-Factory 8647."""
    vlm = add_lora(TINY[name](), spread=0.05)
    vlm.model.to(torch.bfloat16)
    batch = mixed_batch(vlm)
    assert batch.image_inputs["pixel_values"].dtype == torch.float32
    pairs = PairScorer(vlm, sharing="on")(batch)
    assert pairs.chosen.policy.dtype == torch.float32 and pairs.chosen.policy.isfinite().all()


def test_positions_begin_where_the_family_begins() -> None:
    """PaliGemma counts from 1; rotary positions hide it, a learned table would not."""
    vlm = TINY["paligemma"]()
    layout = shared_row(vlm, [response_tree([1, 2, 3], [[4, 5], [6]])])
    assert layout.position_ids.tolist() == [[1, 2, 3, 4, 5, 4]]


@pytest.mark.parametrize("name", TINY)
def test_what_the_model_is_given(name: str) -> None:
    """transformers: with `inputs_embeds` alone image tokens are guessed by comparing embeddings; beside `pixel_values`
    Qwen's code hands every keyword to the tower; a fourth row of positions is read as packing."""
    vlm = TINY[name]()
    seen: list[dict[str, Any]] = []
    vlm.backbone.register_forward_pre_hook(lambda module, args, given: seen.append(given), with_kwargs=True)
    PairScorer(vlm, sharing="on", reference="none")(mixed_batch(vlm))
    (given,) = seen
    assert {"input_ids", "position_ids", "attention_mask", "mm_encoder_outputs", "tree_plan"} <= set(given)
    assert not {"inputs_embeds", "pixel_values", "pixel_values_videos"} & set(given)
    assert given["attention_mask"].ndim == 4
    assert given["position_ids"].shape[:-1] == ((3, 1) if vlm.family.grid_positions else (1,))


def test_an_image_that_was_prepared_for_another_company() -> None:
    """transformers: LLaVA-OneVision tiles the only image of a prompt, and shows each of several as one view. Its
    processor, given a flat list of images, takes each for the only one."""
    vlm = TINY["llava_onevision"]()
    alone, beside = (process_images(vlm, PICTURES[:2], several=several) for several in (False, True))
    assert [len(ids) for ids in beside.placeholders] == [17, 17] < [len(ids) for ids in alone.placeholders]
    encode_prompt(vlm, user("?", 2), beside.placeholders)
    encode_prompt(vlm, user("?", 1), alone.placeholders[:1])
    for wrong in (alone.placeholders, beside.placeholders[:1], [alone.placeholders[0], beside.placeholders[1]]):
        with pytest.raises(UserError, match=f"shows {len(wrong)}"):
            encode_prompt(vlm, user("?", len(wrong)), wrong)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_features_of_images_beside_others(number: int) -> None:
    """Whatever else the tower sees in the same call, and in whatever order."""
    vlm = TINY["llava_onevision"]()
    alone = process_images(vlm, PICTURES)
    beside = process_images(vlm, PICTURES[:number], several=True)
    expected = encode_images(vlm, alone.tensors, frozen=True).pooler_output
    count = torch.tensor([max(2, number)])
    pictures = PICTURES[:number] if number > 1 else [PICTURES[0]] * 2
    out = vlm.processor(text=["<image>" * len(pictures)], images=[pictures], return_tensors="pt")
    inputs = {key: out[key] for key in ("pixel_values", "image_sizes")}
    backbone: Any = vlm.backbone
    with torch.no_grad():
        own = backbone.get_image_features(**inputs, batch_num_images=count, return_dict=True).pooler_output
    together = join_images([beside.tensors, alone.tensors])
    found = encode_images(vlm, together, frozen=True).pooler_output
    for feature, wanted in zip(found, [*own[:number], *expected], strict=True):
        torch.testing.assert_close(feature, wanted, rtol=0, atol=1e-5)
    only = encode_images(vlm, beside.tensors, frozen=True).pooler_output
    for feature, wanted in zip(only, own[:number], strict=True):
        torch.testing.assert_close(feature, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", TINY)
def test_features_are_not_changed_by_their_use(name: str) -> None:
    """Policy and reference get the same object: what one pass takes from it must be there for the next."""
    vlm = TINY[name]()
    encoded = encode_images(vlm, process_images(vlm, PICTURES).tensors, frozen=True)
    before = [feature.clone() for feature in encoded.pooler_output]
    first, again = (select_images(encoded, [2, 0, 2], vlm.family)["mm_encoder_outputs"]["image"] for _ in range(2))
    assert len(encoded.pooler_output) == 3
    assert all(torch.equal(a, b) for a, b in zip(before, encoded.pooler_output, strict=True))
    for a, b in zip(first.pooler_output, again.pooler_output, strict=True):
        assert torch.equal(a, b)


def test_a_window_that_the_layout_does_not_know_is_an_error() -> None:
    vlm = TINY["mistral3-window"]()
    PairScorer(vlm, sharing="on")
    layout = pack([response_tree(range(10, 40), [range(50, 60), range(60, 65)])], rules=CAUSAL)
    with pytest.raises(UserError, match="window of 8"):
        vlm.backbone(**layout.model_inputs, use_cache=False)


def test_prompts_that_see_themselves_must_be_roots() -> None:
    """Two questions below one image: PaliGemma's image tokens see the question, so there is nothing to share."""
    tree = [
        Segment([1, 2]),
        Segment([3], 0),
        Segment([4], 1, scored=True),
        Segment([5], 0),
        Segment([6], 3, scored=True),
    ]
    with pytest.raises(ValueError, match="root as a whole"):
        shared_row(TINY["paligemma"](), [tree])
