"""Models without a record: refused by name where they are unsafe, else scored by their own code after a check."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlavaConfig

from mmpo.errors import UserError
from mmpo.models.families.loading import VLM
from mmpo.models.families.processing import process_images, processor_facts
from mmpo.models.families.records import family_of
from mmpo.models.generation.answer import AnswerEngine
from mmpo.models.scoring.score import PairBatch, PairScorer
from mmpo.models.scoring.segment_logps import score_responses
from tests.models.pairs import PICTURES, by_hand, gradients, mixed_batch, one_pair, worst_relative
from tests.tiny import add_lora, user
from tests.tiny_families import TINY, tiny_vip

UNKNOWN = family_of(SimpleNamespace(model_type="stranger", vision_config=object()))


def stranger(name: str) -> VLM:
    """A model of a known family, taken for an unknown one: what it should give is then known."""
    return replace(TINY[name](), family=UNKNOWN)


@pytest.fixture
def vip() -> VLM:
    return tiny_vip()


def test_an_unknown_model_is_taken_as_it_is(vip: VLM, caplog: pytest.LogCaptureFixture) -> None:
    assert vip.family.name == "vipllava" and not vip.family.sharing
    vlm = add_lora(vip, spread=0.1)
    with caplog.at_level(logging.WARNING):
        scorer = PairScorer(vlm)
        pairs = scorer(mixed_batch(vlm))
    assert "no record of model type vipllava" in caplog.text and not scorer.shared
    messages, text = user("Is there a dog?"), "Yes, there is a dog"
    _, logps = by_hand(vlm, messages, PICTURES[:1], text)
    torch.testing.assert_close(pairs.chosen.policy[0][pairs.chosen.mask[0]], logps[-int(pairs.chosen.lengths[0]) :])
    with pytest.raises(UserError, match="no record"):
        PairScorer(vip, sharing="on")


@pytest.mark.parametrize(
    "name", ["llava", "llava_next", "qwen2_5_vl", "qwen3_vl", "idefics3", "internvl", "gemma3", "mistral3"]
)
def test_unknown_equals_known(name: str) -> None:
    """Log-probs and gradients as with the record: images found row by row, side inputs and token kinds passed on."""
    known = add_lora(TINY[name](), spread=0.1)
    batch = mixed_batch(known)
    expected = PairScorer(known, sharing="off")(batch)
    grads = gradients(known, expected)
    unknown = replace(known, family=UNKNOWN)
    raw = replace(batch, image_inputs=process_images(unknown, PICTURES).tensors)
    pairs = PairScorer(unknown)(raw)
    torch.testing.assert_close(pairs.chosen.policy, expected.chosen.policy, rtol=0, atol=1e-5)
    torch.testing.assert_close(pairs.rejected.reference, expected.rejected.reference, rtol=0, atol=1e-5)
    assert worst_relative(gradients(unknown, pairs), grads) < 1e-4


def about_a_dog(vlm: VLM) -> PairBatch:
    return one_pair(vlm, user("Is there a dog?"), process_images(vlm, PICTURES[:1]))


def test_a_model_that_reads_ahead_is_refused() -> None:
    vlm = stranger("llava")
    batch = about_a_dog(vlm)
    for layer in vlm.base.get_decoder().layers:
        layer.self_attn.is_causal = False
    vlm.base.get_decoder().config.is_causal = False
    with pytest.raises(UserError, match="tokens that come later"):
        PairScorer(vlm, reference="none")(batch)


def test_a_model_that_sees_nothing_is_refused() -> None:
    vlm = stranger("llava")
    for parameter in vlm.backbone.multi_modal_projector.parameters():
        parameter.data.zero_()
    with pytest.raises(UserError, match="doesn't see"):
        PairScorer(vlm, reference="none")(about_a_dog(vlm))


def test_a_model_that_changes_its_logits_behind_the_head_is_refused() -> None:
    """Cohere's scale, Gemma 2's cap: the head alone would give other probabilities, and nothing else would differ."""
    vlm = add_lora(replace(TINY["llava"](), family=UNKNOWN), spread=0.1)
    batch = mixed_batch(vlm)
    PairScorer(vlm)(batch)
    vlm.head.register_forward_hook(lambda module, args, logits: logits * 0.25)
    with pytest.raises(UserError, match="changes its logits after the head"):
        PairScorer(vlm)(batch)


def test_answers_come_one_by_one() -> None:
    vlm = stranger("qwen2_5_vl")
    with pytest.warns(RuntimeWarning, match="no record of this family"):
        engine = AnswerEngine(vlm, max_new_tokens=4)
    [answer] = engine.answer([(PICTURES[1], ["Is there a dog?"])])
    [expected] = AnswerEngine(TINY["qwen2_5_vl"](), max_new_tokens=4).answer([(PICTURES[1], ["Is there a dog?"])])
    assert answer.token_ids == expected.token_ids
    assert processor_facts(vlm)["token_keys"] == ["mm_token_type_ids"]


def test_score_responses_of_an_unknown_model(vip: VLM) -> None:
    [score] = score_responses(vip, user("Is there a dog?"), PICTURES[:1], ["Yes"])
    ids, logps = by_hand(vip, user("Is there a dog?"), PICTURES[:1], "Yes")
    assert score == pytest.approx(logps[-2:].sum().item(), abs=1e-4) and ids


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (SimpleNamespace(model_type="mllama", vision_config=object()), "cross-attention"),
        (SimpleNamespace(model_type="phi4_multimodal", vision_config=object()), "adapters of its own"),
        (SimpleNamespace(model_type="florence2", vision_config=object(), is_encoder_decoder=True), "not supported"),
        (SimpleNamespace(model_type="llama"), "not supported"),
    ],
)
def test_refused_by_name_with_the_reason(config: Any, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        family_of(config)
    assert config.model_type in caught.value.message and "supported: " in (caught.value.hint or "")


@pytest.fixture(params=["linear_attention", "mamba", "conv", "recurrent", "hybrid"])
def sequential(request: pytest.FixtureRequest) -> Iterator[LlavaConfig]:
    config = LlavaConfig()
    config.text_config.layer_types = ["full_attention", request.param]
    yield config


def test_running_states_are_refused(sequential: LlavaConfig) -> None:
    with pytest.raises(UserError, match="running state"):
        family_of(sequential)


def test_qwen3_5_is_refused_by_its_layers() -> None:
    from transformers import Qwen3_5Config

    with pytest.raises(UserError, match=r"qwen3_5: layers of type linear_attention"):
        family_of(Qwen3_5Config())
