"""Attention watched during generation equals eager `output_attentions` over the finished text, for every family."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmpo.data.layouts import Composer
from mmpo.data.layouts.compose import picture_in_picture
from mmpo.errors import UserError
from mmpo.models.families.loading import VLM
from mmpo.models.families.processing import model_tensors
from mmpo.models.families.prompts import encode_prompt, process_images
from mmpo.models.generation.answer import AnswerEngine
from mmpo.models.generation.generate import PromptGroup, answering, generate_alone, generate_shared, token_kinds
from mmpo.models.generation.probe import ProbeSpec, image_columns
from tests.models.pairs import PICTURES
from tests.tiny import tiny_image, user
from tests.tiny_families import TINY

QUESTIONS = ["Is there a dog in the image?", "What?"]
WITHIN = 1e-5
ALONE = {"gemma3", "paligemma", "paligemma2", "mistral3-window"}


def group_of(vlm: VLM, questions: list[str], pictures: list) -> PromptGroup:  # type: ignore[type-arg]
    processed = process_images(vlm, pictures, several=len(pictures) > 1)
    prompts = [encode_prompt(vlm, user(text, len(pictures)), processed.placeholders) for text in questions]
    return PromptGroup(prompts, processed.tensors, len(pictures))


def eager(vlm: VLM, group: PromptGroup, index: int, response: list[int], layers: tuple[int, ...], extra: int) -> Tensor:
    """[layers, image tokens] from eager attention over prompt and response; `extra` rows of the prompt's end count."""
    prompt = group.prompts[index]
    ids = torch.tensor([prompt + response])
    kinds = token_kinds(vlm, torch.tensor([prompt]))
    kinds = {key: torch.nn.functional.pad(value, (0, len(response))) for key, value in kinds.items()}
    if vlm.family.blocks == "prompt":  # the response is the causal part
        kinds["token_type_ids"][0, len(prompt) :] = 1
    before = vlm.config.get_text_config()._attn_implementation
    vlm.base.set_attn_implementation({"text_config": "eager"})
    try:
        with torch.no_grad():
            out = vlm.base(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                **model_tensors(vlm, group.tensors),
                **kinds,
                output_attentions=True,
            )
    finally:
        vlm.base.set_attn_implementation({"text_config": before})
    rows = slice(len(prompt) - extra, len(prompt) + len(response) - 1)
    maps = [out.attentions[layer][0].mean(0)[rows].mean(0)[image_columns(vlm, prompt)] for layer in layers]
    return torch.stack(maps)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("predictive", [False, True])
def test_watched_attention_is_that_of_eager_attention(name: str, predictive: bool) -> None:
    vlm = TINY[name]()
    spec = ProbeSpec((0, 1), predictive=predictive)
    one, two = group_of(vlm, QUESTIONS, PICTURES[:1]), group_of(vlm, QUESTIONS[:1], PICTURES[1:2])
    groups = [one, two]
    if vlm.family.blocks == "none":
        groups.append(group_of(vlm, QUESTIONS[:1], [PICTURES[2], PICTURES[0]]))
    with answering(vlm.model):
        if name not in ALONE:
            shared = generate_shared(vlm, groups, max_new_tokens=6, probe=spec)
        for number, group in enumerate(groups):
            for index in range(len(group.prompts)):
                alone, _ = generate_alone(vlm, group, index, max_new_tokens=6, probe=spec)
                rows = [alone] if name in ALONE else [alone, shared[number][index]]
                for row in rows:
                    expected = eager(vlm, group, index, row.token_ids, spec.layers, int(predictive))
                    assert row.attention is not None
                    torch.testing.assert_close(row.attention, expected, atol=WITHIN, rtol=0)
                    assert len(row.top) == len(row.token_ids) and max(row.top) <= 0


def test_images_begin_where_placeholders_and_earlier_images_put_them(vlm: VLM) -> None:
    """LLaVA-1.5's 576 tokens an image: place of the tag before expansion, plus 575 for each image before it."""
    texts = [{"type": "text", "text": f"Image{number}:"} for number in (1, 2, 3)]
    message = [{"role": "user", "content": [part for text in texts for part in (text, {"type": "image"})]}]
    tag = vlm.image_token_id
    short, long = (encode_prompt(vlm, message, [[tag] * count] * 3) for count in (1, 576))
    columns = image_columns(vlm, long)
    tags = image_columns(vlm, short)
    assert columns[::576] == [place + 575 * number for number, place in enumerate(tags)]
    ids = [0 if place in (5, 9, 13) else 7 for place in range(15)]
    expanded = [token for one in ids for token in ([tag] * 576 if one == 0 else [7])]
    assert image_columns(vlm, expanded)[::576] == [5, 584, 1163]


def test_layouts_batched_and_single(vlm: VLM) -> None:
    pictures = [tiny_image(seed, (60 + 10 * seed, 50)) for seed in range(4)]
    prompts = [
        pictures[:3],
        [Composer().collage(pictures).picture],
        [picture_in_picture(pictures[0], pictures[1]).picture],
    ]
    groups = [group_of(vlm, QUESTIONS[:1], shown) for shown in prompts]
    spec = ProbeSpec()
    with answering(vlm.model):
        batched = [rows[0] for rows in generate_shared(vlm, groups, max_new_tokens=10, probe=spec)]
        single = [generate_shared(vlm, [group], max_new_tokens=10, probe=spec)[0][0] for group in groups]
    for group, row, lone in zip(groups, batched, single, strict=True):
        expected = eager(vlm, group, 0, row.token_ids, (1,), 0)
        torch.testing.assert_close(row.attention, expected, atol=WITHIN, rtol=0)
        torch.testing.assert_close(lone.attention, expected, atol=WITHIN, rtol=0)


def test_finished_rows_do_not_count_and_images_may_follow_the_question(vlm: VLM) -> None:
    processed = process_images(vlm, [tiny_image(0), tiny_image(1)])
    first, second = processed.placeholders
    start = [vlm.tokenizer.bos_token_id]
    words = [vlm.tokenizer(text, add_special_tokens=False).input_ids for text in QUESTIONS]
    group = PromptGroup([[*start, *first, *w, *second, 9] for w in words], processed.tensors, 2)
    groups = [group, group_of(vlm, QUESTIONS, [tiny_image(3)])]
    with answering(vlm.model):
        free = generate_shared(vlm, groups, max_new_tokens=12)
        vlm.base.generation_config.eos_token_id = [free[0][0].token_ids[2], free[1][1].token_ids[5]]
        rows = generate_shared(vlm, groups, max_new_tokens=12, probe=ProbeSpec())
    assert len({len(row.token_ids) for one in rows for row in one}) > 1
    for one, found in zip(groups, rows, strict=True):
        for index, row in enumerate(found):
            expected = eager(vlm, one, index, row.token_ids, (1,), 0)
            torch.testing.assert_close(row.attention, expected, atol=WITHIN, rtol=0)


def test_heads_and_their_maximum(vlm: VLM) -> None:
    group = group_of(vlm, QUESTIONS[:1], PICTURES[:1])

    def seen(**options: object) -> Tensor:
        with answering(vlm.model):
            found = generate_shared(vlm, [group], max_new_tokens=4, probe=ProbeSpec((1,), **options))  # type: ignore[arg-type]
        assert found[0][0].attention is not None
        return found[0][0].attention

    heads = torch.stack([seen(heads=(head,)) for head in range(4)])
    torch.testing.assert_close(heads.mean(0), seen())
    assert (seen(reduce="max") >= heads.amax(0) - 1e-6).all()  # the mean over rows of maxima
    assert (heads[0] - heads[1]).abs().max() > 1e-4


def test_nothing_is_seen_of_an_empty_answer(vlm: VLM) -> None:
    group = group_of(vlm, QUESTIONS[:1], PICTURES[:1])
    with answering(vlm.model):
        [[row]] = generate_shared(vlm, [group], max_new_tokens=1, probe=ProbeSpec())
        [[last]] = generate_shared(vlm, [group], max_new_tokens=1, probe=ProbeSpec(predictive=True))
    assert row.attention is None and last.attention is not None


def test_the_engine_hands_attention_on(vlm: VLM) -> None:
    engine = AnswerEngine(vlm, max_new_tokens=5)
    prompts = [([PICTURES[0], PICTURES[1]], user(QUESTIONS[0], 2)), (PICTURES[2], QUESTIONS[1])]
    found = list(engine.watched(prompts, ProbeSpec()))
    plain = list(engine.answer([(images, [text]) for images, text in prompts]))
    assert [one.answer.token_ids for one in found] == [answer.token_ids for answer in plain]
    assert [one.attention.shape for one in found if one.attention is not None] == [(1, 32), (1, 16)]


def test_wrong_layers_and_heads_are_named(vlm: VLM) -> None:
    with pytest.raises(UserError, match="no layer 7"):
        ProbeSpec((7,)).resolved(vlm)
    with pytest.raises(UserError, match="no head 4"):
        ProbeSpec(heads=(4,)).resolved(vlm)
    assert ProbeSpec().resolved(vlm).layers == (1,)
