"""What scoring returns beyond log-probs: states of any layer and span, divergences, preferred tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mmpo.errors import UserError
from mmpo.models.families.loading import VLM
from mmpo.models.scoring.pairs import PairBatch, ViewResponses
from mmpo.models.scoring.score import PairScorer
from mmpo.types import Hidden, ViewSpec
from tests.models.pairs import mixed_batch
from tests.tiny import add_lora, tiny_llava


@pytest.fixture
def vlm() -> VLM:
    return add_lora(tiny_llava(), spread=0.1)


def row_states(vlm: VLM, batch: PairBatch, i: int, *, adapter: bool = True) -> tuple[torch.Tensor, ...]:
    """All hidden states of pair i's chosen row from the model's own forward, [s, h] each."""
    ids = torch.cat([batch.prompt_ids[i], batch.chosen_ids[i]])[None]
    pixels = batch.image_inputs["pixel_values"][batch.image_index[i]] if batch.image_index[i] else None
    plain = tiny_llava()  # its own attention
    plain.model.load_state_dict(
        {k.replace(".base_layer", ""): v for k, v in vlm.base.state_dict().items() if "lora_" not in k}
    )
    if adapter:
        plain = add_lora(plain)
        plain.model.load_state_dict(vlm.model.state_dict())
    out = plain.model(input_ids=ids, pixel_values=pixels, output_hidden_states=True)
    return tuple(state[0].detach() for state in out.hidden_states)


@pytest.mark.parametrize("sharing", ["on", "off"])
@pytest.mark.parametrize(("layer", "index"), [(-1, 2), (2, 2), (1, 1), (-2, 1), (0, 0)])
@pytest.mark.parametrize("span", ["response", "sequence"])
def test_states_are_those_of_the_models_own_forward(vlm: VLM, sharing: str, layer: int, index: int, span: str) -> None:
    batch = mixed_batch(vlm)
    scored = PairScorer(vlm, sharing=sharing, hidden=Hidden(layer, span))(batch)  # type: ignore[arg-type]
    for i in (1, 3):
        expected = row_states(vlm, batch, i)[index]
        reference = row_states(vlm, batch, i, adapter=False)[index]
        if span == "response":
            expected, reference = (states[len(batch.prompt_ids[i]) :] for states in (expected, reference))
            mask = scored.chosen.mask[i]
            assert scored.chosen.hidden_mask is None
        else:
            assert scored.chosen.hidden_mask is not None
            mask = scored.chosen.hidden_mask[i]
        for found, wanted in ((scored.chosen.policy_hidden, expected), (scored.chosen.reference_hidden, reference)):
            assert found is not None and not found[i][~mask].any()
            torch.testing.assert_close(found[i][mask].detach(), wanted, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("layer", [1, 2])
def test_states_carry_the_gradient_also_with_recomputed_layers(vlm: VLM, layer: int) -> None:
    batch = mixed_batch(vlm)
    found = []
    for checkpointing in (False, True):
        scorer = PairScorer(vlm, sharing="on", hidden=Hidden(layer))
        scorer.train()
        if checkpointing:
            scorer.gradient_checkpointing_enable()
        vlm.model.zero_grad()
        states = scorer(batch).chosen.policy_hidden
        states.square().sum().backward()
        found.append({n: p.grad.clone() for n, p in vlm.model.named_parameters() if p.grad is not None})
    assert any(grad.abs().max() > 0 for grad in found[0].values())
    for name, grad in found[0].items():
        torch.testing.assert_close(found[1][name], grad, msg=name)


def test_a_layer_that_is_not_there_is_named(vlm: VLM) -> None:
    with pytest.raises(UserError, match="after layer 7"):
        PairScorer(vlm, hidden=Hidden(7))(mixed_batch(vlm))


@pytest.mark.parametrize("sharing", ["on", "off"])
def test_divergence_of_each_token(vlm: VLM, sharing: str) -> None:
    batch = mixed_batch(vlm)
    scored = PairScorer(vlm, sharing=sharing, reads=("kl",))(batch)  # type: ignore[arg-type]
    for i in (1, 3):
        n = len(batch.prompt_ids[i])
        ours, theirs = (
            vlm.head(row_states(vlm, batch, i, adapter=adapter)[-1][n - 1 : -1]).log_softmax(-1)
            for adapter in (True, False)
        )
        expected = (theirs.exp() * (theirs - ours)).sum(-1)
        mask = scored.chosen.mask[i]
        torch.testing.assert_close(scored.chosen.kl[i][mask].detach(), expected.detach(), atol=1e-4, rtol=1e-3)
        assert not scored.chosen.kl[i][~mask].any()
    scored.rejected.kl_sum.sum().backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in vlm.model.parameters())
    with pytest.raises(UserError, match="without it"):
        _ = PairScorer(vlm)(batch).chosen.kl_sum
    with pytest.raises(UserError, match="distributions"):
        PairScorer(vlm, reference="cached", reads=("kl",))


@pytest.mark.parametrize("sharing", ["on", "off"])
def test_preferred_tokens_are_scored_in_the_chosen_answers_places(vlm: VLM, sharing: str) -> None:
    """Each place's favourite under another image, scored about the own image by policy and reference alike."""
    batch = mixed_batch(vlm)
    batch.rejected_prompt_ids = batch.rejected_image_index = None
    other = [[1 - k for k in index] if len(index) == 1 and index[0] < 2 else index for index in batch.image_index]
    plain = ViewResponses(batch.prompt_ids, other, batch.chosen_ids)
    own = ViewResponses(batch.prompt_ids, batch.image_index, batch.chosen_ids)
    there = ViewSpec("there", "chosen", image="corrupted")
    best = ViewSpec("best", "chosen", preferred_under=there)
    batch = replace(batch, views={there: plain, best: own})
    scored = PairScorer(vlm, sharing=sharing)(batch)  # type: ignore[arg-type]
    favourite = scored.view(best)
    changed = replace(batch, image_index=other)
    for i in (0, 1):
        n = len(batch.prompt_ids[i])
        likeliest = vlm.head(row_states(vlm, changed, i)[-1][n - 1 : -1]).argmax(-1)
        mask = favourite.mask[i]
        for found, adapter in ((favourite.policy, True), (favourite.reference, False)):
            logps = vlm.head(row_states(vlm, batch, i, adapter=adapter)[-1][n - 1 : -1]).log_softmax(-1)
            expected = logps.gather(1, likeliest[:, None]).squeeze(1)
            torch.testing.assert_close(found[i][mask].detach(), expected.detach(), atol=1e-4, rtol=1e-4)
    assert not torch.equal(favourite.policy, scored.chosen.policy)
