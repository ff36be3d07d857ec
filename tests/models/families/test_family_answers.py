"""Answers of every family: shared where the engine can, else one by one with a notice; always the model's own."""

from __future__ import annotations

import warnings

import pytest
import torch

from mmpo.models.families.loading import VLM
from mmpo.models.families.prompts import encode_prompt, process_images
from mmpo.models.generation.answer import AnswerEngine
from mmpo.models.generation.generate import PromptGroup, answering, generate_alone, prefill_images
from mmpo.models.tree.attention import use_tree_attention
from tests.models.generation.test_generate import QUESTIONS, assert_same
from tests.models.pairs import PICTURES
from tests.tiny import user
from tests.tiny_families import TINY

ALONE = {"gemma3", "paligemma", "paligemma2", "mistral3-window"}
"""Two-way blocks or sliding windows: prefixes can't be shared in generation."""

REPEATED = {"gemma3", "mistral3-window"}
"""Of these, the ones whose questions can each continue a copy of the image's cache."""

SHARED = [name for name in TINY if name not in ALONE]


def group_about(vlm: VLM, *pictures: int) -> PromptGroup:
    processed = process_images(vlm, [PICTURES[i] for i in pictures], several=len(pictures) > 1)
    prompts = [encode_prompt(vlm, user(text, len(pictures)), processed.placeholders) for text in QUESTIONS[:3]]
    return PromptGroup(prompts, processed.tensors, len(pictures))


def ordinary(vlm: VLM, pictures: tuple[int, ...], text: str, limit: int) -> list[int]:
    """Processor and `model.generate`, as any user of transformers would write it."""
    shown = [PICTURES[i] for i in pictures]
    if vlm.family.template is not None:
        inputs = vlm.processor(images=[shown], text=["<image>" * len(shown) + text], return_tensors="pt")
        inputs.pop("labels")
    else:
        messages = user(text, len(shown))
        prompt = vlm.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        inputs = vlm.processor(images=[shown], text=[prompt], add_special_tokens=False, return_tensors="pt")
    inputs = {"pixel_values" if key == "pixel_values_images" else key: value for key, value in inputs.items()}
    if getattr(vlm.config.get_text_config(), "attn_logit_softcapping", None) is not None:
        vlm.base.set_attn_implementation({"text_config": "eager"})
    out = vlm.model.generate(**inputs, do_sample=False, max_new_tokens=limit)
    return out[0, inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("name", SHARED)
def test_shared_generation_equals_one_by_one(name: str) -> None:
    vlm = TINY[name]()
    groups = [group_about(vlm, 0), group_about(vlm, 1), group_about(vlm, 2, 0)]
    tokens = assert_same(vlm, groups, limit=8)
    assert len({tuple(row) for row in tokens}) > 1


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "internvl"])
@pytest.mark.parametrize("penalty", [1.05, 1.6, 0.8])
def test_a_repetition_penalty_is_shared(name: str, penalty: float) -> None:
    """Qwen2.5-VL ships with 1.05. Shared decoding applies it as `generate` does, to greedy answers and to samples."""
    vlm = TINY[name]()
    groups = [group_about(vlm, 0), group_about(vlm, 2, 0)]
    plain = assert_same(vlm, groups, limit=16)
    vlm.base.generation_config.repetition_penalty = penalty
    tokens = assert_same(vlm, groups, limit=16)
    assert tokens != plain or penalty == 1.05
    engine = AnswerEngine(vlm, max_new_tokens=16)
    texts = list(QUESTIONS[:3])
    answers = list(engine.answer([(PICTURES[0], texts)]))
    assert not engine.unshared_reason and engine.checks[0].asked == 3 and not engine.checks[0].different
    for answer, text in zip(answers, texts, strict=True):
        if answer.margin > 1e-4:
            assert list(answer.token_ids) == ordinary(vlm, (0,), text, 16)
    sampled = AnswerEngine(vlm, max_new_tokens=12).samples(PICTURES[0], texts[0], 4, seed=1)
    one_by_one = AnswerEngine(vlm, max_new_tokens=12, sharing="off").samples(PICTURES[0], texts[0], 4, seed=1)
    assert sampled == one_by_one


@pytest.mark.parametrize("name", TINY)
def test_answers_are_those_of_generate(name: str) -> None:
    vlm = TINY[name]()
    shown = [(0,), (1,), (2, 0)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        engine = AnswerEngine(vlm, max_new_tokens=6)
        answers = list(engine.answer([([PICTURES[i] for i in own], QUESTIONS[:2]) for own in shown]))
    notices = [str(w.message) for w in caught if issubclass(w.category, RuntimeWarning)]
    assert [n for n in notices if "one by one" in n] == (notices if name in ALONE - REPEATED else [])
    assert [n for n in notices if "copy of its image's cache" in n] == (notices if name in REPEATED else [])
    assert bool(engine.unshared_reason) == (name in ALONE) and engine.repeats == (name in REPEATED)
    if name in REPEATED:
        assert engine.checks[-1].asked == 3 and not engine.checks[-1].different
    expected = [ordinary(vlm, own, text, 6) for own in shown for text in QUESTIONS[:2]]
    for answer, tokens in zip(answers, expected, strict=True):
        assert list(answer.token_ids) == tokens or answer.margin < 1e-4


@pytest.mark.parametrize("name", TINY)
def test_generation_is_unchanged_after_scoring(name: str) -> None:
    """The switch to the tree attention stays on; without a plan it is what the model had before."""
    vlm = TINY[name]()
    group = group_about(vlm, 1)
    plain = "eager" if getattr(vlm.config.get_text_config(), "attn_logit_softcapping", None) else "sdpa"
    vlm.base.set_attn_implementation({"text_config": plain})
    with answering(vlm.model):
        before, _ = generate_alone(vlm, group, 0, max_new_tokens=6)
        use_tree_attention(vlm.base)
        after, _ = generate_alone(vlm, group, 0, max_new_tokens=6)
    assert after.token_ids == before.token_ids
    assert after.margin == pytest.approx(before.margin, abs=1e-4)


def test_prompt_token_kinds_reach_generate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without them Qwen's own code places image tokens like text (trl #5277), and nothing says so."""
    vlm = TINY["qwen2_5_vl"]()
    group = group_about(vlm, 1)
    with answering(vlm.model):
        _, right = generate_alone(vlm, group, 0, max_new_tokens=1)
        monkeypatch.setattr("mmpo.models.generation.generate.token_kinds", lambda *_: {})
        _, wrong = generate_alone(vlm, group, 0, max_new_tokens=1)
    assert (torch.stack(right) - torch.stack(wrong)).abs().max() > 1e-2


def test_a_window_that_cuts_nothing_is_no_reason_not_to_share() -> None:
    vlm = TINY["mistral3-window"](sliding_window=500)
    assert_same(vlm, [group_about(vlm, 0), group_about(vlm, 1)], limit=6)


@pytest.mark.parametrize("name", sorted(REPEATED))
def test_a_copied_cache_encodes_the_image_once(name: str) -> None:
    vlm = TINY[name]()
    group = group_about(vlm, 0)
    calls: list[int] = []
    vlm.backbone.vision_tower.register_forward_hook(lambda *_: calls.append(1))
    with answering(vlm.model):
        past = prefill_images(vlm, group)
        copied = [generate_alone(vlm, group, i, max_new_tokens=6, past=past) for i in range(3)]
        assert len(calls) == 1
        for i, (row, scores) in enumerate(copied):
            alone, reference = generate_alone(vlm, group, i, max_new_tokens=6)
            assert row.token_ids == alone.token_ids
            torch.testing.assert_close(torch.stack(scores), torch.stack(reference), atol=1e-5, rtol=0)


def test_where_a_prompt_changes_its_image_a_copy_would_be_wrong() -> None:
    """PaliGemma's prompt sees itself both ways: why it is asked one by one."""
    vlm = TINY["paligemma"]()
    group = group_about(vlm, 0)
    with answering(vlm.model):
        _, copied = generate_alone(vlm, group, 0, max_new_tokens=1, past=prefill_images(vlm, group))
        _, alone = generate_alone(vlm, group, 0, max_new_tokens=1)
    assert (copied[0] - alone[0]).abs().max() > 1e-2
