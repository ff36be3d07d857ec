"""Shared generation gives the tokens of the model's own `generate`, whatever the shape of the work."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration, MistralConfig

from mmpo.errors import UserError
from mmpo.models.families.loading import VLM
from mmpo.models.families.prompts import encode_prompt, process_images
from mmpo.models.generation.choosing import Greedy, TokenSampler, YesNo, outside_nucleus, stream_seed
from mmpo.models.generation.generate import (
    PromptGroup,
    answering,
    common_prefix,
    generate_alone,
    generate_shared,
)
from mmpo.models.generation.shared_cache import Grid, SharingUnsupported, _explicit, partial_attention
from tests.tiny import tiny_image, tiny_llava, user

QUESTIONS = [
    "Is there a dog in the image?",
    "Is there a cat in this picture? Please answer yes or no.",
    "What?",
    "How many people are on the street?",
]


def group_of(vlm: VLM, questions: list[str], *images: int) -> PromptGroup:
    processed = process_images(vlm, [tiny_image(i) for i in images])
    prompts = [encode_prompt(vlm, user(q, len(images)), processed.placeholders) for q in questions]
    return PromptGroup(prompts, processed.tensors, len(images))


def sliding_llava() -> VLM:
    """A LLaVA whose language model attends through a sliding window."""
    vlm = tiny_llava()
    text = {k: v for k, v in vlm.config.text_config.to_dict().items() if k not in ("model_type", "head_dim")}
    text_config = MistralConfig(**(text | {"sliding_window": 8}))
    config = LlavaConfig(**(vlm.config.to_dict() | {"text_config": text_config}))
    model = LlavaForConditionalGeneration(config).eval()
    model.generation_config = vlm.base.generation_config
    return VLM(model=model, processor=vlm.processor, family=vlm.family, source="sliding")


def assert_same(vlm: VLM, groups: list[PromptGroup], limit: int = 12, within: float = 1e-4) -> list[list[int]]:
    """Every continuation equals the one made alone, except from a near-tie on. Returns the shared tokens."""
    yes_no = YesNo(vlm.tokenizer)
    with answering(vlm.model):
        shared = generate_shared(vlm, groups, max_new_tokens=limit, reader=yes_no.read)
        assert [len(rows) for rows in shared] == [len(group.prompts) for group in groups]
        for group, rows in zip(groups, shared, strict=True):
            for index, row in enumerate(rows):
                alone, _ = generate_alone(vlm, group, index, max_new_tokens=limit, reader=yes_no.read)
                if row.margin > within and alone.margin > within:
                    assert row.token_ids == alone.token_ids
                    assert row.truncated == alone.truncated
                    assert row.margin == pytest.approx(alone.margin, abs=within)
                assert row.first == pytest.approx(alone.first, abs=within)
    return [row.token_ids for rows in shared for row in rows]


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        ([[1, 2, 3], [1, 2, 4, 5]], 2),
        ([[1, 2, 3], [1, 2, 3]], 2),  # equal prompts keep a last token of their own
        ([[1, 2], [1, 2, 3]], 1),  # so does a prompt that another one continues
        ([[1]], 0),
        ([[2, 1], [3, 1]], 0),
    ],
)
def test_common_prefix(prompts: list[list[int]], expected: int) -> None:
    assert common_prefix(prompts) == expected


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_groups_of_different_sizes_and_question_lengths(kv_heads: int) -> None:
    vlm = tiny_llava(text={"num_key_value_heads": kv_heads})
    assert_same(vlm, [group_of(vlm, QUESTIONS, 0), group_of(vlm, QUESTIONS[:1], 1), group_of(vlm, QUESTIONS[1:], 2)])


def test_long_answers_outgrow_the_row_cache(vlm: VLM) -> None:
    assert_same(vlm, [group_of(vlm, QUESTIONS, 0)], limit=80)


def test_several_images_no_image_and_prefixes_of_different_length(vlm: VLM) -> None:
    groups = [group_of(vlm, QUESTIONS[:2], 0, 1), group_of(vlm, QUESTIONS, 2), group_of(vlm, QUESTIONS[2:])]
    assert_same(vlm, groups)


def test_images_that_come_after_the_question_are_placed_in_every_row(vlm: VLM) -> None:
    processed = process_images(vlm, [tiny_image(0), tiny_image(1)])
    first, second = processed.placeholders
    words = [vlm.tokenizer(q, add_special_tokens=False).input_ids for q in QUESTIONS[:3]]
    start = [vlm.tokenizer.bos_token_id]
    both_after = PromptGroup([[*start, *w, *first, *second, 9] for w in words], processed.tensors, 2)
    one_before = PromptGroup([[*start, *first, *w, *second, 9] for w in words], processed.tensors, 2)
    assert_same(vlm, [both_after, one_before])


def test_rows_end_at_different_steps(vlm: VLM) -> None:
    groups = [group_of(vlm, QUESTIONS, i) for i in range(4)]
    long = assert_same(vlm, groups, limit=16)
    # End tokens that the model really writes, at different places; whole groups finish early, others go to the limit.
    vlm.base.generation_config.eos_token_id = [row[3 + i % 5] for i, row in enumerate(long) if i not in (2, 7)]
    lengths = [len(row) for row in assert_same(vlm, groups, limit=16)]
    assert len(set(lengths)) > 3
    assert min(lengths) < 5


def test_the_end_token_is_kept_and_the_limit_is_marked(vlm: VLM) -> None:
    group = group_of(vlm, QUESTIONS[:1], 0)
    with answering(vlm.model):
        [[free]] = generate_shared(vlm, [group], max_new_tokens=6)
        assert free.truncated
        vlm.base.generation_config.eos_token_id = free.token_ids[2]
        stop = free.token_ids.index(free.token_ids[2]) + 1
        [[ended]] = generate_shared(vlm, [group], max_new_tokens=6)
        [[exact]] = generate_shared(vlm, [group], max_new_tokens=stop)
    assert ended.token_ids == free.token_ids[:stop] == exact.token_ids
    assert not ended.truncated
    assert not exact.truncated
    assert vlm.end_ids == [free.token_ids[2]]


def test_bfloat16(vlm: VLM) -> None:
    vlm.model.to(torch.bfloat16)
    assert_same(vlm, [group_of(vlm, QUESTIONS, 0), group_of(vlm, QUESTIONS[:2], 1)], limit=6, within=0.15)


def test_tower_and_prefix_run_once_per_image(vlm: VLM) -> None:
    towers: list[int] = []
    tokens: list[int] = []
    vlm.backbone.vision_tower.register_forward_hook(lambda m, a, out: towers.append(len(out[0])))
    vlm.backbone.language_model.layers[0].register_forward_hook(lambda m, a, out: tokens.append(out.shape[:2].numel()))
    groups = [group_of(vlm, QUESTIONS, 0), group_of(vlm, QUESTIONS, 1)]
    with answering(vlm.model):
        generate_shared(vlm, groups, max_new_tokens=2)
    prefixes = [common_prefix(group.prompts) for group in groups]
    own = sum(len(p) - prefix for g, prefix in zip(groups, prefixes, strict=True) for p in g.prompts)
    assert towers == [2]
    assert tokens == [sum(prefixes), own, 8]


def test_the_model_comes_back_as_it_was(vlm: VLM) -> None:
    vlm.model.train()
    vlm.backbone.vision_tower.eval()
    before = {name: module.training for name, module in vlm.model.named_modules()}
    attention = vlm.config.text_config._attn_implementation
    with answering(vlm.model):
        assert not vlm.model.training
        generate_shared(vlm, [group_of(vlm, QUESTIONS, 0)], max_new_tokens=2)
    assert {name: module.training for name, module in vlm.model.named_modules()} == before
    assert vlm.config.text_config._attn_implementation == attention
    assert torch.is_grad_enabled()


def test_refuses_what_it_can_not_share(vlm: VLM) -> None:
    sliding = sliding_llava()
    with answering(sliding.model), pytest.raises(SharingUnsupported, match="sliding_window"):
        generate_shared(sliding, [group_of(sliding, QUESTIONS, 0)], max_new_tokens=2)
    with answering(vlm.model), pytest.raises(SharingUnsupported, match="first token"):
        generate_shared(vlm, [PromptGroup([[1, 2], [3, 4]], n_images=0)], max_new_tokens=2)


def test_grid_round_trip() -> None:
    x = torch.arange(6.0).reshape(6, 1, 1)
    grid = Grid([1, 3, 2], torch.device("cpu"))
    spread = grid.spread(x)
    assert spread.shape == (3, 1, 3, 1)
    valid = grid.valid(torch.device("cpu"))
    assert valid is not None
    assert valid.tolist() == [[False, False, True], [True, True, True], [False, True, True]]
    assert spread[0, 0, 2, 0] == 0
    assert spread[2, 0, 1:, 0].tolist() == [4.0, 5.0]
    assert torch.equal(grid.collect(spread.transpose(1, 2)), x)


@pytest.mark.parametrize("heads", [2, 6])
def test_partial_attention_and_its_log_sum_exp(heads: int) -> None:
    q, k, v = torch.randn(3, heads, 4, 8), torch.randn(3, 2, 5, 8), torch.randn(3, 2, 5, 8)
    bias = torch.zeros(3, 1, 4, 5)
    bias[1, :, :, :2] = float("-inf")
    bias[2, :, 1, 3] = float("-inf")
    out, lse = partial_attention(q, k, v, 0.3, bias)
    wide_k, wide_v = (x.repeat_interleave(heads // 2, 1) for x in (k, v))
    scores = q @ wide_k.transpose(-1, -2) * 0.3 + bias
    torch.testing.assert_close(out, (scores.softmax(-1) @ wide_v).transpose(1, 2))
    torch.testing.assert_close(lse, scores.logsumexp(-1).transpose(1, 2))
    explicit, explicit_lse = _explicit(q, wide_k, wide_v, 0.3, bias)
    torch.testing.assert_close(out, explicit.transpose(1, 2))
    torch.testing.assert_close(lse, explicit_lse.transpose(1, 2))


def test_samples_are_the_same_alone_and_packed(vlm: VLM) -> None:
    groups = [group_of(vlm, [QUESTIONS[0]] * 4, 0), group_of(vlm, QUESTIONS[1:3], 1)]
    seeds = [stream_seed("x", i) for i in range(6)]
    packed = TokenSampler(seeds, temperature=0.8, top_p=0.9)
    with answering(vlm.model):
        shared = [row for rows in generate_shared(vlm, groups, max_new_tokens=8, chooser=packed) for row in rows]
        places = [(group, index) for group in groups for index in range(len(group.prompts))]
        for row, (group, index) in enumerate(places):
            alone, _ = generate_alone(vlm, group, index, max_new_tokens=8, chooser=packed.alone(row))
            assert shared[row].token_ids == alone.token_ids
    assert len({tuple(row.token_ids) for row in shared[:4]}) > 1


def test_sampler_draws_from_the_tempered_distribution() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    n = 3000
    sampler = TokenSampler([stream_seed(i) for i in range(n)], temperature=2.0)
    picks = sampler.scores(logits.expand(n, -1), range(n)).argmax(-1)
    shares = torch.bincount(picks, minlength=4) / n
    expected = (logits[0] / 2).softmax(-1)
    assert (shares - expected).abs().max() < 4 * math.sqrt(0.25 / n)


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.999])
def test_nucleus(top_p: float) -> None:
    logits = torch.randn(5, 700) * torch.tensor([0.1, 1.0, 3.0, 8.0, 20.0])[:, None]
    dropped = outside_nucleus(logits, top_p)
    for row, p in zip(dropped, logits.softmax(-1), strict=True):
        kept, mass = [], 0.0
        for index in p.argsort(descending=True).tolist():
            if mass >= top_p:
                break
            kept.append(index)
            mass += p[index].item()
        assert abs(len(kept) - int((~row).sum())) <= 1  # rounding of the running sum decides the border token
        assert set((~row).nonzero().flatten().tolist()) <= {
            *kept,
            *p.argsort(descending=True)[: len(kept) + 1].tolist(),
        }


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"top_p": 0.0}, {"top_p": 1.2}])
def test_sampler_refuses_senseless_settings(options: dict[str, float]) -> None:
    with pytest.raises(UserError):
        TokenSampler([1], **options)


def test_greedy_breaks_exact_ties_as_generate_does(vlm: VLM) -> None:
    group = group_of(vlm, QUESTIONS[:2], 0)
    with answering(vlm.model):
        [[free, _]] = generate_shared(vlm, [group], max_new_tokens=1)
        best = free.token_ids[0]
        for twin in (best - 1, best + 1):  # the same logit for three tokens: the first one must win
            vlm.base.lm_head.weight[twin] = vlm.base.lm_head.weight[best]
        [[tied, _]] = generate_shared(vlm, [group], max_new_tokens=1, chooser=Greedy())
        alone, _ = generate_alone(vlm, group, 0, max_new_tokens=1)
    assert tied.token_ids == alone.token_ids == [best - 1]
    assert tied.margin == 0.0


def test_yes_no_spellings(vlm: VLM) -> None:
    yes_no = YesNo(vlm.tokenizer)
    words = [vlm.tokenizer.decode([i]) for i in (*yes_no.yes, *yes_no.no)]
    assert {word.strip().lower() for word in words} == {"yes", "no"}
    assert {" yes", " Yes"} <= set(words) or {"yes", "Yes"} <= set(words)
    logits = torch.randn(2, len(vlm.tokenizer))
    read = yes_no.read(logits)
    p = logits.softmax(-1)
    torch.testing.assert_close(
        torch.sigmoid(read[:, 0] - read[:, 1]),
        p[:, yes_no.yes].sum(-1) / p[:, [*yes_no.yes, *yes_no.no]].sum(-1),
    )
