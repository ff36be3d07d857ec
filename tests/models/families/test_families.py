"""Every family's record is true: scoring with shared beginnings equals plain rows and the model's own forward."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mmpo.models.families.loading import VLM, attach_adapter
from mmpo.models.families.prompts import process_images
from mmpo.models.families.records import FAMILIES
from mmpo.models.scoring.score import PairScorer
from mmpo.objectives import build_objective
from tests.models.pairs import PICTURES, by_hand, gradients, mixed_batch, one_pair, worst_relative
from tests.tiny import add_lora, user
from tests.tiny_families import TINY

TOWERS = {"vision_tower", "image_tower", "vision_model", "visual"}
families = pytest.mark.parametrize("name", TINY)


@pytest.fixture
def policy(name: str) -> VLM:
    """A tiny model of the family with an adapter that differs from its base."""
    return add_lora(TINY[name](), spread=0.1)


def count_tower_calls(vlm: VLM) -> list[int]:
    """One entry a call of a vision tower."""
    calls: list[int] = []
    towers = [m for name, m in vlm.backbone.named_children() if name in TOWERS]
    for tower in towers:
        tower.register_forward_hook(lambda *_: calls.append(1))
    assert towers
    return calls


def test_every_record_has_a_tiny_model_and_a_row_in_the_docs() -> None:
    assert {TINY[name]().family.model_type for name in TINY} == set(FAMILIES)
    page = (Path(__file__).parents[3] / "docs" / "families.md").read_text(encoding="utf-8")
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| ") and "`" in line.split("|")[2]]
    for family in FAMILIES.values():
        [row] = [row for row in rows if f"`{family.model_type}`" in row[2] and not row[1].startswith(" Pixtral")]
        assert (row[4].strip() == "yes") == bool(family.video_keys), family.name
        assert (row[3].strip() == "fixed") == family.fixed_image_size, family.name
        assert (row[5].strip() == "yes") == (family.blocks == "none"), family.name


@families
def test_prompts_and_log_probs_are_the_models_own(name: str, policy: VLM) -> None:
    """Independent of layout, positions, masks, injection and head; one, two and three images."""
    for shown in ([0], [1, 0], [0, 2, 1]):
        messages, pictures = user("Is there a dog?", len(shown)), [PICTURES[i] for i in shown]
        processed = process_images(policy, pictures, several=len(shown) > 1)
        chosen, rejected = "Yes, there is a dog", "No cat"
        batch = one_pair(policy, messages, processed, chosen, rejected)
        prompt = batch.prompt_ids[0].tolist()
        pairs = PairScorer(policy, sharing="on")(batch)
        for text, ids, side in (
            (chosen, batch.chosen_ids, pairs.chosen), (rejected, batch.rejected_ids, pairs.rejected)
        ):  # fmt: skip
            whole, logps = by_hand(policy, messages, pictures, text)
            assert whole == prompt + ids[0].tolist()
            torch.testing.assert_close(side.policy[0], logps[len(prompt) - 1 :], rtol=0, atol=1e-5)


@families
def test_shared_equals_unshared(name: str, policy: VLM) -> None:
    """Log-probs, reference log-probs and gradients; pairs that share an image, several images, text only, and other
    images for the rejected side in one batch."""
    batch = mixed_batch(policy)
    a = PairScorer(policy, sharing="on")(batch)
    grads_a = gradients(policy, a)
    b = PairScorer(policy, sharing="off")(batch)
    grads_b = gradients(policy, b)
    for ours, theirs in ((a.chosen, b.chosen), (a.rejected, b.rejected)):
        torch.testing.assert_close(ours.policy, theirs.policy, rtol=0, atol=1e-5)
        torch.testing.assert_close(ours.reference, theirs.reference, rtol=0, atol=1e-5)
        assert torch.equal(ours.mask, theirs.mask) and torch.equal(ours.top1, theirs.top1)
    assert worst_relative(grads_a, grads_b) < 1e-4
    assert (a.chosen.policy_sum - a.chosen.reference_sum).abs().min() > 1e-3
    pairwise = PairScorer(policy, sharing="on")(mixed_batch(policy, across=False))
    torch.testing.assert_close(pairwise.chosen.policy, a.chosen.policy, rtol=0, atol=1e-5)


@families
def test_batch_equals_single(name: str, policy: VLM) -> None:
    batch = mixed_batch(policy)
    scorer = PairScorer(policy, sharing="on")
    together = scorer(batch)
    for i in range(len(batch)):
        lists = ("ids", "prompt_ids", "chosen_ids", "rejected_ids", "image_index")
        optional = ("rejected_prompt_ids", "rejected_image_index")
        rows = {key: [getattr(batch, key)[i]] for key in (*lists, *optional)}
        alone = scorer(replace(batch, **rows))
        for side in ("chosen", "rejected"):
            one, all_ = getattr(alone, side), getattr(together, side)
            torch.testing.assert_close(one.policy[0], all_.policy[i][all_.mask[i]], rtol=0, atol=2e-5)


@families
def test_images_are_seen(name: str, policy: VLM) -> None:
    """Another image with as many tokens gives other numbers: nothing pastes the wrong features."""
    batch = mixed_batch(policy)
    scorer = PairScorer(policy, sharing="on")
    before = scorer(batch)
    shaken = {k: v.roll(3, -1) if v.is_floating_point() else v for k, v in batch.image_inputs.items()}
    after = scorer(replace(batch, image_inputs=shaken))
    moved = (before.chosen.policy_sum - after.chosen.policy_sum).abs()
    assert moved[:4].min() > 1e-4
    assert moved[4] < 1e-5, "the pair without images moved"


@families
def test_step_zero_and_tower_calls(name: str) -> None:
    """A fresh adapter is the reference to the bit; policy, reference and both sides need one tower call."""
    vlm = add_lora(TINY[name]())
    calls = count_tower_calls(vlm)
    pairs = PairScorer(vlm, sharing="on").train()(mixed_batch(vlm))
    assert torch.equal(pairs.chosen.policy, pairs.chosen.reference)
    assert torch.equal(pairs.rejected.policy, pairs.rejected.reference)
    assert build_objective("dpo").loss(pairs).item() == pytest.approx(math.log(2), abs=1e-7)
    pairs.chosen.policy_sum.sum().backward()
    assert calls == [1]


@families
def test_gradient_checkpointing_changes_nothing(name: str, policy: VLM) -> None:
    batch = mixed_batch(policy)
    scorer = PairScorer(policy, sharing="on").train()
    plain = gradients(policy, scorer(batch))
    calls = count_tower_calls(policy)
    scorer.gradient_checkpointing_enable()
    assert worst_relative(gradients(policy, scorer(batch)), plain) < 1e-6
    assert calls == [1]


@families
@pytest.mark.parametrize("changed", ["chosen", "rejected"])
def test_a_changed_token_leaves_the_other_side_alone(name: str, policy: VLM, changed: str) -> None:
    batch = mixed_batch(policy, across=False)
    scorer = PairScorer(policy, sharing="on")
    ids = [t.clone() for t in getattr(batch, f"{changed}_ids")]
    for t in ids:
        t[0] = 300 if t[0] != 300 else 299
    before, after = scorer(batch), scorer(replace(batch, **{f"{changed}_ids": ids}))
    other = "rejected" if changed == "chosen" else "chosen"
    assert torch.equal(getattr(before, other).policy, getattr(after, other).policy)
    assert not torch.equal(getattr(before, changed).policy, getattr(after, changed).policy)


@families
def test_saved_and_merged_adapters_score_alike(name: str, policy: VLM, tmp_path: Path) -> None:
    """Qwen-VL-Series-Finetune 159: a merged model that behaved like its base."""
    batch = mixed_batch(policy)
    expected = PairScorer(policy, sharing="on")(batch)
    policy.model.save_pretrained(str(tmp_path))
    base = TINY[name]()
    loaded = replace(base, model=attach_adapter(base.base, tmp_path))
    again = PairScorer(loaded, sharing="on")(batch)
    torch.testing.assert_close(again.chosen.policy, expected.chosen.policy, rtol=0, atol=1e-5)
    torch.testing.assert_close(again.chosen.reference, expected.chosen.reference, rtol=0, atol=1e-5)
    merged = replace(base, model=loaded.model.merge_and_unload())  # type: ignore[operator]
    whole = PairScorer(merged, sharing="on", reference="none")(batch)
    torch.testing.assert_close(whole.chosen.policy, expected.chosen.policy, rtol=0, atol=1e-4)


@families
def test_vision_that_trains_gets_the_same_gradients(name: str) -> None:
    """Full tuning, tower and newline features included."""
    vlm = TINY[name]()
    vlm.model.requires_grad_(True)
    batch = mixed_batch(vlm)
    grads = [
        gradients(vlm, PairScorer(vlm, sharing=sharing, reference="none")(batch))  # type: ignore[arg-type]
        for sharing in ("on", "off")
    ]
    vision = [k for k in grads[0] if not k.startswith(("model.language_model", "model.text_model", "lm_head"))]
    assert vision and any(grads[0][k].norm() > 1e-3 for k in vision)
    scale = max(g.norm() for g in grads[1].values())
    assert max((grads[0][k] - grads[1][k]).norm() for k in grads[1]) / scale < 1e-4
