from __future__ import annotations

import pytest
import torch

from mmpo.errors import UserError
from mmpo.models.families.loading import VLM
from mmpo.models.families.prompts import (
    encode_prompt,
    encode_response,
    placeholders_for,
    process_images,
    prompt_words,
    response_offsets,
    token_weights,
)
from tests.tiny import tiny_image, tiny_llava, user


def test_prompt_equals_the_processor(vlm: VLM) -> None:
    images = [tiny_image(0), tiny_image(1)]
    messages = user("Is there a dog?", 2)
    text = vlm.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    direct = vlm.processor(text=text, images=images, add_special_tokens=False, return_tensors="pt")
    processed = process_images(vlm, images)
    assert encode_prompt(vlm, messages, processed.placeholders) == direct.input_ids[0].tolist()
    assert encode_prompt(vlm, messages, 2) == direct.input_ids[0].tolist()
    assert torch.equal(processed.tensors["pixel_values"], direct.pixel_values)
    assert len(processed) == 2 and [len(p) for p in processed.placeholders] == [16, 16]


def test_response_continues_the_conversation(vlm: VLM) -> None:
    """Prompt and response ids together are the ids of the whole conversation, end token once."""
    messages = user("Is there a dog?", 0)
    answered = [*messages, {"role": "assistant", "content": "Yes, there is a dog."}]
    whole = encode_prompt(vlm, answered, add_generation_prompt=False)
    assert encode_prompt(vlm, messages) + encode_response(vlm, "Yes, there is a dog.") == whole
    assert whole.count(vlm.eos_id) == 1
    assert encode_response(vlm, "Yes", eos=False) == encode_response(vlm, "Yes")[:-1]


def test_template_without_end_token_still_ends_once(vlm: VLM) -> None:
    template = vlm.processor.chat_template.replace("{{ eos_token }}", " ")
    vlm.processor.chat_template = template
    ids = encode_response(vlm, "Yes")
    assert ids[-1] == vlm.eos_id and ids.count(vlm.eos_id) == 1
    assert vlm.tokenizer.decode(ids[:-1]) == " Yes"  # and no trailing space of the template's


def test_bos_is_there_once_whoever_adds_it(vlm: VLM) -> None:
    from tokenizers.processors import TemplateProcessing

    ids = encode_prompt(vlm, user("Hi", 0))
    assert ids.count(vlm.tokenizer.bos_token_id) == 1
    other = tiny_llava()
    other.processor.chat_template = other.processor.chat_template.replace("{{ bos_token }}", "")
    other.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", other.tokenizer.bos_token_id)]
    )
    assert encode_prompt(other, user("Hi", 0)) == ids


def test_offsets_cover_the_text(vlm: VLM) -> None:
    text = "No, there is no cat."
    offsets = response_offsets(vlm, text)
    assert len(offsets) == len(encode_response(vlm, text))
    assert offsets[0][0] == 0 and offsets[-2][1] == len(text) and offsets[-1] == (len(text), len(text))
    assert "".join(text[a:b] for a, b in offsets) == text


def test_a_token_on_the_border_of_a_span_is_inside(vlm: VLM) -> None:
    offsets = [(0, 3), (3, 4), (4, 10), (10, 10)]
    spans = [{"start": 3, "end": 5, "weight": 4.0}]
    assert token_weights(offsets, spans) == [1.0, 4.0, 4.0, 1.0]
    assert token_weights(offsets, spans, default=0.5) == [0.5, 4.0, 4.0, 0.5]
    assert token_weights(offsets, []) == [1.0] * 4


def test_image_counts_must_agree(vlm: VLM) -> None:
    with pytest.raises(UserError, match=r"shows 1 image\(s\) but 2"):
        encode_prompt(vlm, user("Hi", 1), 2)
    with pytest.raises(UserError, match=r"shows 0 image\(s\) but 1"):
        encode_prompt(vlm, user("an <image> in the text", 0), 1)


def test_no_images() -> None:
    vlm = tiny_llava()
    assert len(process_images(vlm, [])) == 0 and placeholders_for(vlm, 0) == []


def test_missing_template_is_named(vlm: VLM) -> None:
    vlm.processor.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        encode_prompt(vlm, user("Hi", 0))


def test_words_of_the_user_s_text_and_their_tokens() -> None:
    vlm = tiny_llava()
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is there a dog's house?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "No dog."}]},
        {"role": "user", "content": [{"type": "text", "text": "Is there a dog's house?"}]},
    ]
    ids = encode_prompt(vlm, messages, 1)
    words = prompt_words(vlm, messages, 1)
    assert [word for word, _ in words] == ["Is", "there", "a", "dog's", "house"] * 2
    for word, places in words:
        assert vlm.tokenizer.decode([ids[place] for place in places]).strip() == word
        assert vlm.image_token_id not in [ids[place] for place in places]
    flat = [place for _, places in words for place in places]
    assert flat == sorted(set(flat)), "in order, every token once"
