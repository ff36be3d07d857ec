"""The scorer beside what `models/families/test_families.py` says of it for every family, LLaVA included."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace

import pytest
import torch

from mmpo.errors import UserError
from mmpo.models.families.loading import VLM
from mmpo.models.families.records import Family
from mmpo.models.scoring import score
from mmpo.models.scoring.score import PairScorer
from mmpo.models.scoring.segment_logps import score_responses
from mmpo.models.tree import attention
from tests.models.pairs import gradients, pair_batch, worst_relative
from tests.tiny import add_lora, tiny_image, tiny_llava, user


@pytest.fixture
def policy() -> VLM:
    """A tiny LLaVA with an adapter that differs from its base."""
    return add_lora(tiny_llava(), spread=0.1)


def count_tower_calls(vlm: VLM) -> list[int]:
    """Images per call of the vision tower, filled as calls happen."""
    calls: list[int] = []
    vlm.backbone.vision_tower.register_forward_hook(
        lambda module, args, kwargs, out: calls.append(len(args[0] if args else kwargs["pixel_values"])),
        with_kwargs=True,
    )
    return calls


def test_padding_is_zero_and_lengths_are_token_counts(policy: VLM) -> None:
    batch = pair_batch(policy, 3)
    pairs = PairScorer(policy, sharing="on")(batch)
    assert pairs.chosen.lengths.tolist() == [len(ids) for ids in batch.chosen_ids]
    assert pairs.chosen.policy[~pairs.chosen.mask].abs().sum() == 0
    assert len(pairs) == len(batch) == 3


@pytest.mark.parametrize("changed", ["chosen", "rejected"])
@pytest.mark.parametrize("training", [False, True])
def test_a_changed_token_leaves_the_other_side_alone_to_the_bit(policy: VLM, changed: str, training: bool) -> None:
    batch = pair_batch(policy, 3)
    scorer = PairScorer(policy, sharing="on").train(training)
    before = scorer(batch)
    ids = [t.clone() for t in getattr(batch, f"{changed}_ids")]
    for t in ids:
        t[0] = (t[0] + 1) % 300
    after = scorer(replace(batch, **{f"{changed}_ids": ids}))
    other = "rejected" if changed == "chosen" else "chosen"
    assert torch.equal(getattr(before, other).policy, getattr(after, other).policy)
    assert torch.equal(getattr(before, other).reference, getattr(after, other).reference)
    assert not torch.equal(getattr(before, changed).policy, getattr(after, changed).policy)


def test_a_tower_cut_up_between_processes_is_called_without_an_image_too(policy: VLM) -> None:
    """Under ZeRO-3 (whose parameters have a `ds_id`) the others would wait for this process's share of the weights."""
    calls = count_tower_calls(policy)
    words = replace(pair_batch(policy, 1, text_only=0), image_inputs={})
    scorer = PairScorer(policy, sharing="on")
    expected = scorer(words)
    assert calls == []
    for parameter in policy.backbone.vision_tower.parameters():
        parameter.ds_id = 0
    found = scorer(words)
    assert calls == [1]
    assert torch.equal(found.chosen.policy, expected.chosen.policy)
    assert torch.equal(found.chosen.reference, expected.chosen.reference)


@pytest.mark.parametrize("sharing", ["on", "off"])
def test_vision_runs_once_per_distinct_image(policy: VLM, sharing: score.Sharing) -> None:
    calls = count_tower_calls(policy)
    pairs = PairScorer(policy, sharing=sharing).train()(pair_batch(policy, 4))
    assert calls == [2]  # one call, two distinct images, for 4 pairs, two sides, policy and reference
    pairs.chosen.policy_sum.sum().backward()
    assert calls == [2]


def test_frozen_vision_has_no_autograd(policy: VLM) -> None:
    scorer = PairScorer(policy, sharing="on").train()
    scorer.gradient_checkpointing_enable()
    requires: list[bool] = []
    policy.backbone.multi_modal_projector.register_forward_hook(lambda m, a, out: requires.append(out.requires_grad))
    scorer(pair_batch(policy)).chosen.policy_sum.sum().backward()
    assert requires == [False]


def test_trainable_projector_gets_gradients_and_its_own_reference_features() -> None:
    vlm = add_lora(tiny_llava(), spread=0.1, modules_to_save=["multi_modal_projector"])
    calls = count_tower_calls(vlm)
    batch = pair_batch(vlm)
    grads = []
    for sharing in ("on", "off"):
        pairs = PairScorer(vlm, sharing=sharing)(batch)  # type: ignore[arg-type]
        grads.append(gradients(vlm, pairs))
    assert any("multi_modal_projector" in name for name in grads[0])
    assert worst_relative(grads[0], grads[1]) < 1e-4
    assert calls == [2, 2, 2, 2]


def test_gradient_checkpointing_changes_nothing(policy: VLM) -> None:
    batch = pair_batch(policy)
    scorer = PairScorer(policy, sharing="on").train()
    plain = gradients(policy, scorer(batch))
    scorer.gradient_checkpointing_enable({"use_reentrant": True})  # asked for, and still non-reentrant
    counted = []
    layer = policy.base.get_decoder().layers[0].self_attn
    handle = layer.register_forward_hook(lambda *_: counted.append(1))
    checkpointed = gradients(policy, scorer(batch))
    handle.remove()
    assert len(counted) == 3  # reference, policy, and again in backward
    assert worst_relative(checkpointed, plain) < 1e-6
    scorer.gradient_checkpointing_disable()


def test_bfloat16_stays_close_to_float32() -> None:
    exact = add_lora(tiny_llava(text={"initializer_range": 0.05}), spread=0.05)
    batch = pair_batch(exact)
    full = PairScorer(exact, sharing="on")(batch)
    exact.model.to(torch.bfloat16)
    half = PairScorer(exact)(batch)
    assert half.chosen.policy.dtype == torch.float32
    torch.testing.assert_close(half.chosen.policy, full.chosen.policy.detach(), rtol=0, atol=0.1)
    assert all(g.isfinite().all() for g in gradients(exact, half).values())


def test_autocast_runs(policy: VLM) -> None:
    scorer = PairScorer(policy, sharing="on")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pairs = scorer(pair_batch(policy))
    assert pairs.chosen.policy.dtype == torch.float32 and gradients(policy, pairs)


def test_sides_with_different_images_become_two_rows(policy: VLM) -> None:
    batch = pair_batch(policy, 2)
    other = replace(
        batch,
        rejected_prompt_ids=[batch.prompt_ids[0], None],
        rejected_image_index=[[1], None],
    )
    pairs = {s: PairScorer(policy, sharing=s)(other) for s in ("on", "off")}  # type: ignore[arg-type]
    same = PairScorer(policy, sharing="on")(batch)
    torch.testing.assert_close(pairs["on"].rejected.policy, pairs["off"].rejected.policy, rtol=0, atol=1e-5)
    torch.testing.assert_close(pairs["on"].chosen.policy, same.chosen.policy, rtol=0, atol=1e-5)
    assert (pairs["on"].rejected.policy_sum[0] - same.rejected.policy_sum[0]).abs() > 1e-3
    torch.testing.assert_close(pairs["on"].rejected.policy_sum[1], same.rejected.policy_sum[1], rtol=0, atol=1e-4)


def test_second_model_as_reference(policy: VLM) -> None:
    reference = tiny_llava(5)
    batch = pair_batch(policy)
    pairs = PairScorer(policy, sharing="on", reference=reference.model)(batch)
    expected = PairScorer(reference, sharing="off", reference="none")(batch)
    torch.testing.assert_close(pairs.chosen.reference, expected.chosen.policy.detach(), rtol=0, atol=1e-5)
    assert expected.chosen.reference is None
    with pytest.raises(UserError, match="reference"):
        _ = expected.chosen.reference_sum


def test_reference_keeps_adapter_weights_as_they_are(policy: VLM) -> None:
    policy.model.requires_grad_(False)  # evaluation: nothing trains, and nothing may start to
    PairScorer(policy, sharing="on")(pair_batch(policy))
    assert not any(p.requires_grad for p in policy.model.parameters())
    with pytest.raises(ZeroDivisionError), policy.adapter_off():
        _ = 1 / 0
    assert (score_responses(policy, user("Hi", 0), [], ["a"])[0]) != pytest.approx(
        score_responses(tiny_llava(), user("Hi", 0), [], ["a"])[0], abs=1e-3
    )


def test_weights_are_padded_and_must_fit(policy: VLM) -> None:
    batch = pair_batch(policy, 2)
    weights = [torch.full((len(ids),), 2.0) for ids in batch.chosen_ids]
    ones = [torch.ones(len(ids)) for ids in batch.rejected_ids]
    scorer = PairScorer(policy, sharing="on")
    pairs = scorer(replace(batch, chosen_weights=weights, rejected_weights=ones).to("cpu"))
    assert pairs.chosen.weights is not None and pairs.chosen.weights[~pairs.chosen.mask].sum() == 0
    with pytest.raises(ValueError, match="one weight per token"):
        scorer(replace(batch, chosen_weights=[w[:-1] for w in weights]))


def test_self_check_passes_once_and_falls_back_loudly(
    policy: VLM, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = pair_batch(policy)
    good = PairScorer(policy).train()
    good(batch)
    assert good.shared and good.model.training and not caplog.records

    class Leaky(attention.TreePlan):  # a model whose attention ignores the plan
        pass

    def leak(module, query, key, value, mask, tree_plan=None, **kwargs):  # type: ignore[no-untyped-def]
        return original(module, query, key, value, None, **kwargs)

    original = attention.sdpa_attention_forward
    monkeypatch.setitem(attention.AttentionInterface._global_mapping, attention.TREE_ATTENTION, leak)
    bad = PairScorer(policy)
    with caplog.at_level(logging.WARNING):
        pairs = bad(batch)
    assert not bad.shared and "disagrees" in caplog.text
    expected = PairScorer(policy, sharing="off")(batch)
    torch.testing.assert_close(pairs.chosen.policy, expected.chosen.policy)


def test_families_that_cant_share(policy: VLM) -> None:
    sealed = replace(
        policy, family=Family("Sealed", "llava", sharing=False, unsupported_reason="its layers keep a running state")
    )
    assert not PairScorer(sealed).shared
    with pytest.raises(UserError, match="running state"):
        PairScorer(sealed, sharing="on")
    a = score_responses(sealed, user("Hi"), [tiny_image()], ["yes", "no"])
    b = score_responses(policy, user("Hi"), [tiny_image()], ["yes", "no"])
    assert a == pytest.approx(b, abs=1e-4)


def test_arguments_are_checked(policy: VLM) -> None:
    with pytest.raises(UserError, match="sharing"):
        PairScorer(policy, sharing="maybe")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="reference"):
        PairScorer(policy, reference="base")  # type: ignore[arg-type]


def test_missing_images_are_named(policy: VLM) -> None:
    batch = pair_batch(policy, 2)
    scorer = PairScorer(policy, sharing="on")
    with pytest.raises(UserError, match="show images but none"):
        scorer(replace(batch, image_inputs={}))
    with pytest.raises(UserError, match="only 2"):
        scorer(replace(batch, image_index=[[0], [7]]))


def test_score_responses_orders_and_sums(policy: VLM) -> None:
    scores = score_responses(policy, user("Is there a dog?"), [tiny_image(3)], ["Yes", "No, there is no dog."])
    single = [
        score_responses(policy, user("Is there a dog?"), [tiny_image(3)], [t])[0]
        for t in ("Yes", "No, there is no dog.")
    ]
    assert scores == pytest.approx(single, abs=1e-4)
    assert score_responses(policy, user("Hi", 0), [], []) == []


def test_full_fine_tuning_trains_head_and_tower() -> None:
    vlm = tiny_llava()
    batch = pair_batch(vlm)
    reference = copy.deepcopy(vlm.model)
    grads = [
        gradients(vlm, PairScorer(vlm, sharing=s, reference=reference)(batch))  # type: ignore[arg-type]
        for s in ("on", "off")
    ]
    assert {"lm_head.weight"} <= grads[0].keys() and any("vision_tower" in name for name in grads[0])
    assert (
        worst_relative(
            {k: v for k, v in grads[0].items() if v.norm() > 1e-4},
            {k: v for k, v in grads[1].items() if v.norm() > 1e-4},
        )
        < 1e-4
    )
