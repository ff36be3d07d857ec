"""People's text never turns into special tokens: not in prompts, not in answers, in no family."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mmpo.data.plain_text import PlainText
from mmpo.models.families.loading import VLM
from mmpo.models.families.prompts import encode_prompt, encode_response, prompt_words, response_offsets
from tests.tiny import tiny_llava, user
from tests.tiny_families import TINY


def special_ids(vlm: VLM) -> set[int]:
    return {number for number, token in vlm.tokenizer.added_tokens_decoder.items() if token.special}


def specials_of(vlm: VLM, ids: list[int]) -> list[int]:
    return [token for token in ids if token in special_ids(vlm)]


@pytest.mark.parametrize("name", TINY)
def test_text_never_turns_into_special_tokens(name: str) -> None:
    vlm = TINY[name]()
    strings = sorted(token.content for token in vlm.tokenizer.added_tokens_decoder.values())
    strings = sorted({*strings[:: len(strings) // 8 + 1], vlm.tokenizer.eos_token, vlm.processor.image_token})
    assert len(strings) >= 3
    plain_prompt = specials_of(vlm, encode_prompt(vlm, user("Is it a dog?", 0), []))
    plain_answer = specials_of(vlm, encode_response(vlm, "Yes."))
    for string in strings:
        for text in (string, f"a {string} b", f"{string}{string}", f"x{string}"):
            ids = encode_prompt(vlm, user(text, 0), [])
            assert specials_of(vlm, ids) == plain_prompt, f"{text!r} in a question"
            assert text in vlm.tokenizer.decode(ids), "the characters are still there"
            answer = encode_response(vlm, text)
            assert specials_of(vlm, answer) == plain_answer, f"{text!r} in an answer"
            assert text in vlm.tokenizer.decode(answer)
            offsets = response_offsets(vlm, text)
            assert len(offsets) == len(answer)
            assert offsets[0][0] == 0 and max(end for _, end in offsets) == len(text)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3"])
def test_what_surrounds_the_text_is_tokenized_as_ever(name: str) -> None:
    """Template, words before and words behind give the ids that they give around a harmless string."""
    vlm = TINY[name]()
    end = vlm.tokenizer.eos_token
    strange, harmless = (encode_prompt(vlm, user(f"Is there {text} dog?", 0), []) for text in (f"({end})", "(x)"))
    plain = vlm.tokenizer.convert_tokens_to_ids(vlm.tokenizer.tokenize("x"))
    at = next(i for i, (a, b) in enumerate(zip(strange, harmless, strict=False)) if a != b)
    assert harmless[at] in plain or at > 0
    tail = harmless[at + 1 :]
    assert strange[:at] == harmless[:at] and strange[len(strange) - len(tail) + 1 :] == tail[1:]


def test_a_special_string_across_parts_and_turns(vlm: VLM) -> None:
    parts: list[dict[str, Any]] = [{"type": "text", "text": "an <ima"}, {"type": "text", "text": "ge> and </s"}]
    messages = [
        {"role": "user", "content": parts},
        {"role": "assistant", "content": [{"type": "text", "text": "No </s> there."}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "><image>"}]},
    ]
    ids = encode_prompt(vlm, messages, 1)
    assert ids.count(vlm.image_token_id) == 16, "the one image that a part shows"
    assert ids.count(vlm.eos_id) == 1, "the end of the assistant's turn, written by the template"


def test_words_are_found_beside_special_strings(vlm: VLM) -> None:
    found = [word for word, _ in prompt_words(vlm, user("Is </s> there <image> a dog?", 1), 1)]
    assert found == ["Is", "s", "there", "image", "a", "dog"]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.text(st.sampled_from("<>/s| image_pd[]INSTmp0\u2042"), max_size=24))
def test_any_text(text: str) -> None:
    vlm = _LLAVA
    answer = encode_response(vlm, text)
    assert specials_of(vlm, answer) == [vlm.eos_id] and answer[-1] == vlm.eos_id
    assert vlm.tokenizer.decode(answer[:-1]).strip() == text.strip()
    assert encode_prompt(vlm, user(text, 0), []).count(vlm.eos_id) == 0


_LLAVA = tiny_llava()


def test_a_vocabulary_that_holds_special_strings_as_words() -> None:
    """A word-level or unigram model would find `</s>` among its words, without looking for special tokens."""
    words = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "a": 2, "dog": 3}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    pieces = Tokenizer(models.Unigram([("<unk>", 0.0), ("</s>", -1.0), *((c, -5.0) for c in "</s>adog▁")], unk_id=0))
    pieces.normalizer = normalizers.Replace(" ", "▁")
    for backend in (words, pieces):
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")
        plain = PlainText(tokenizer)
        encoded = plain.encode(plain.hide("a </s> dog") + "</s>")
        assert encoded.text == "a </s> dog</s>"
        assert encoded.ids.count(1) == 1 and encoded.ids[-1] == 1
        assert encoded.offsets[-1] == (10, 14)


def test_marks_and_secret_names_can_not_be_guessed() -> None:
    tokenizer = _LLAVA.tokenizer
    one, other = PlainText(tokenizer), PlainText(tokenizer)
    hidden = one.hide("</s>")
    assert hidden != other.hide("</s>")
    assert not other.has_marks(hidden), "a mark of another process is text"
