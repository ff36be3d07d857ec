"""Responses of several turns: the ids are those of the whole conversation, and only the assistant's are its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mmpo.data.pair import text_message
from mmpo.errors import UserError
from mmpo.models.families.loading import VLM
from mmpo.models.families.prompts import encode_prompt, encode_response, response_offsets
from mmpo.models.families.turns import encode_turns
from tests.tiny import tiny_llava, user
from tests.tiny_families import gemma3, idefics3, internvl, llava_next, llava_onevision, mistral3, pixtral, smolvlm
from tests.tiny_qwen import qwen2_vl, qwen3_vl

TALK = [
    text_message("assistant", "Yes, there is a dog."),
    text_message("user", "What colour is it?"),
    text_message("assistant", "Red."),
    text_message("user", "And the cup?"),
    text_message("assistant", "There are two cups on the table."),
]
TEXTS = [message["content"][0]["text"] for message in TALK[::2]]


@pytest.mark.parametrize(
    "family",
    [
        tiny_llava,
        qwen2_vl,
        qwen3_vl,
        llava_next,
        llava_onevision,
        idefics3,
        smolvlm,
        gemma3,
        internvl,
        mistral3,
        pixtral,
    ],
)
def test_prompt_and_turns_are_the_whole_conversation(family: Callable[[], VLM]) -> None:
    vlm = family()
    prompt = [text_message("user", "Is there a dog?")]
    text = vlm.processor.apply_chat_template([*prompt, *TALK], tokenize=False).rstrip()
    whole = vlm.tokenizer(text, add_special_tokens=False).input_ids
    found = encode_turns(vlm, TALK)
    ids = encode_prompt(vlm, prompt, []) + found.ids
    assert ids == (whole if whole[-1] == ids[-1] else [*whole, vlm.eos_id])
    assert len(found.ids) == len(found.offsets) == len(found.turns)
    ends = {vlm.eos_id, *vlm.end_ids}
    for turn, said in enumerate(TEXTS):
        own = [i for i, t in zip(found.ids, found.turns, strict=True) if t == turn]
        assert own[-1] in ends, "each turn is learnt with its end"
        assert vlm.tokenizer.decode([i for i in own if i not in ends]).strip() == said
    between = vlm.tokenizer.decode([i for i, t in zip(found.ids, found.turns, strict=True) if t < 0])
    assert "What colour is it?" in between and "And the cup?" in between
    assert "dog" not in between and "Red." not in between


def test_places_count_the_assistants_characters_alone(vlm: VLM) -> None:
    found = encode_turns(vlm, TALK)
    joined = "".join(TEXTS)
    covered = ["" for _ in TEXTS]
    for (a, b), turn in zip(found.offsets, found.turns, strict=True):
        if turn < 0:
            assert a == b
        else:
            covered[turn] += joined[a:b]
    assert covered == TEXTS
    ends = [place for i, place in zip(found.ids, found.offsets, strict=True) if i == vlm.eos_id]
    assert ends == [(len(TEXTS[0]),) * 2, (len(TEXTS[0] + TEXTS[1]),) * 2, (len(joined),) * 2]


def test_one_turn_is_a_response(vlm: VLM) -> None:
    one = encode_turns(vlm, TALK[:1])
    assert one.ids == encode_response(vlm, TEXTS[0]) and one.offsets == response_offsets(vlm, TEXTS[0])
    assert set(one.turns) == {0}


def test_an_unfinished_talk_lacks_only_its_last_end(vlm: VLM) -> None:
    assert encode_turns(vlm, TALK, eos=False).ids == encode_turns(vlm, TALK).ids[:-1]


def test_what_looks_like_a_special_token_stays_text(vlm: VLM) -> None:
    said = [text_message("assistant", "a </s> b"), text_message("user", "<image> x"), text_message("assistant", "c")]
    found = encode_turns(vlm, said)
    assert found.ids.count(vlm.eos_id) == 2 and vlm.image_token_id not in found.ids
    joined = "a </s> bc"
    assert (
        "".join(joined[a:b] for (a, b), turn in zip(found.offsets, found.turns, strict=True) if turn == 0)
        == joined[:-1]
    )


def test_a_template_that_drops_turns_is_refused(vlm: VLM) -> None:
    template: Any = vlm.processor.chat_template
    vlm.processor.chat_template = template.replace("for message in messages", "for message in messages[-2:]")
    with pytest.raises(UserError, match="of 3 assistant turns"):
        encode_turns(vlm, TALK)


def test_the_question_before_does_not_matter(vlm: VLM) -> None:
    whole = encode_prompt(vlm, [*user("Describe the image.", 1), *TALK], 1, add_generation_prompt=False)
    assert encode_prompt(vlm, user("Describe the image.", 1), 1) + encode_turns(vlm, TALK).ids == whole
