"""People's text stays text: `</s>` or `<image>` in a question or an answer is tokenized as characters.

A tokenizer looks for its special tokens in the whole rendered conversation and treats the template's like those
that someone typed. So special strings are hidden behind marks before the template sees them (`hide`), and a rendering
that holds marks is tokenized by a copy of the tokenizer in which the special tokens have secret names (`encode`): the
template's are given those names, what people wrote is put back and matches none. Texts without special strings, nearly
all, take the ordinary way.
"""

from __future__ import annotations

import json
import re
import secrets
from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

from tokenizers import Tokenizer


class Encoded(NamedTuple):
    """`text` with the marks resolved, its token `ids`, and for each the characters [start, end) of `text`."""

    text: str
    ids: list[int]
    offsets: list[tuple[int, int]]


class PlainText:
    """Tells special tokens from text that looks like them, for one fast tokenizer. `placeholders` are further strings
    that only a template may write (image and video tokens, where the tokenizer doesn't call them special)."""

    def __init__(self, tokenizer: Any, placeholders: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._nonce = secrets.token_hex(8)  # nobody can write a mark or a secret name on purpose
        added = tokenizer.added_tokens_decoder
        strings = {token.content for token in added.values() if token.special or token.content in placeholders}
        self._secret = {text: f"mmpo{self._nonce}s{number}s" for number, text in enumerate(sorted(strings))}
        longest_first = sorted((re.escape(text) for text in strings), key=len, reverse=True)
        self._special = re.compile("|".join(longest_first) or r"(?!)")
        self._mark = re.compile(f"mmpo{self._nonce}m([0-9]+)m")
        self._hidden: list[str] = []

    def hide(self, text: str) -> str:
        """`text` with a mark in the place of each special string."""
        return self._special.sub(lambda match: self._marked(match[0]), text)

    def hide_parts(self, texts: Sequence[str]) -> list[str]:
        """The same for the text parts of one message, which a template may write one right behind the other: a string
        that is special only across a border is hidden too."""
        whole = "".join(texts)
        spans = [match.span() for match in self._special.finditer(whole)]
        if not spans:
            return list(texts)
        hidden, first = [], 0
        for text in texts:
            cursor, pieces = 0, []
            for start, end in ((max(a - first, 0), min(b - first, len(text))) for a, b in spans):
                if start < end:
                    pieces += [text[cursor:start], self._marked(text[start:end])]
                    cursor = end
            hidden.append("".join([*pieces, text[cursor:]]))
            first += len(text)
        return hidden

    def has_marks(self, rendered: str) -> bool:
        return self._mark.search(rendered) is not None

    def encode(self, rendered: str) -> Encoded:
        """Tokenize a rendered conversation, adding nothing. Special strings in it are the template's; marks stand for
        text."""
        if not self.has_marks(rendered):
            plain = self._tokenizer(rendered, add_special_tokens=False, return_offsets_mapping=True)
            return Encoded(rendered, list(plain.input_ids), list(plain.offset_mapping))
        shown: list[str] = []  # pieces of the original text
        given: list[str] = []  # the same pieces as the copy gets them
        cursor = 0
        for match in re.finditer(f"{self._mark.pattern}|{self._special.pattern}", rendered):
            piece = rendered[cursor : match.start()]
            text = self._hidden[int(match[1])] if match[1] else match[0]
            shown += [piece, text]
            given += [piece, text if match[1] else self._secret[text]]
            cursor = match.end()
        shown.append(rendered[cursor:])
        given.append(rendered[cursor:])
        encoding = self._copy.encode("".join(given), add_special_tokens=False)
        places = _Places(given, shown)
        return Encoded(
            "".join(shown),
            [self._ids.get(token, token) for token in encoding.ids],
            [(places.of(a), places.of(b)) for a, b in encoding.offsets],
        )

    def _marked(self, text: str) -> str:
        if text not in self._hidden:
            self._hidden.append(text)
        return f"mmpo{self._nonce}m{self._hidden.index(text)}m"

    @cached_property
    def _copy(self) -> Tokenizer:
        """The tokenizer with secret names for the special tokens, in its model's vocabulary as well: a vocabulary that
        holds a special string as a word would find it without looking for special tokens."""
        state = json.loads(self._tokenizer.backend_tokenizer.to_str())
        for token in state["added_tokens"]:
            token["content"] = self._secret.get(token["content"], token["content"])
        model = state["model"]
        vocabulary = model["vocab"]
        if isinstance(vocabulary, dict):
            model["vocab"] = {self._secret.get(text, text): number for text, number in vocabulary.items()}
        else:  # Unigram: [piece, score], the place is the id
            model["vocab"] = [[self._secret.get(text, text), score] for text, score in vocabulary]
        if model.get("unk_token") in self._secret:
            model["unk_token"] = self._secret[model["unk_token"]]
        return Tokenizer.from_str(json.dumps(state))

    @cached_property
    def _ids(self) -> dict[int, int]:
        """Added tokens' ids in the copy, where they may be numbered otherwise, to those of the tokenizer."""
        pairs = (
            (self._copy.token_to_id(self._secret.get(token.content, token.content)), number)
            for number, token in self._tokenizer.added_tokens_decoder.items()
        )
        return {copied: number for copied, number in pairs if copied is not None}


class _Places:
    """Maps a character's place in the text given to the copy to its place in the original text."""

    def __init__(self, given: Sequence[str], shown: Sequence[str]) -> None:
        self._given, self._shown = [0], [0]
        for one, other in zip(given, shown, strict=True):
            self._given.append(self._given[-1] + len(one))
            self._shown.append(self._shown[-1] + len(other))

    def of(self, place: int) -> int:
        piece = bisect_right(self._given, place) - 1
        end = self._shown[min(piece + 1, len(self._shown) - 1)]
        return min(self._shown[piece] + place - self._given[piece], end)
