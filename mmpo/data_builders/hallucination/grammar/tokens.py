"""One sentence as words: tokens with the object mentions among them, and the kind of word at each place.

It knows closed word classes only (`lexicon`) and the mentions that the vocabulary found; other words are judged by
their endings and by what stands beside them. How words become phrases is `grammar`'s business.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mmpo.data_builders.hallucination.grammar import lexicon as lx


class Spotted(Protocol):
    """An object mention in a text, as `ObjectVocabulary.find` gives it."""

    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def word(self) -> str: ...
    @property
    def name(self) -> str: ...


@dataclass(frozen=True)
class GrammarToken:
    text: str
    start: int
    end: int
    mention: int = -1

    @property
    def lower(self) -> str:
        return self.text.lower()

    @property
    def is_word(self) -> bool:
        return self.text[0].isalnum()


_TOKEN = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")
_ADVERB_LY = re.compile(r"\w{3,}ly$")


def is_adverb(token: GrammarToken) -> bool:
    """A word in -ly: `slowly`."""
    return _ADVERB_LY.match(token.lower) is not None


class SentenceReading:
    """A sentence without its end mark. Positions are characters in `text`."""

    def __init__(self, text: str, mentions: Sequence[Spotted]) -> None:
        body = text.rstrip()
        stripped = body.rstrip(".!?\"')")
        self.end_mark = body[len(stripped) :] or ""
        self.text = stripped
        self.mentions = mentions
        self.tokens = [
            GrammarToken(m.group(), m.start(), m.end(), self._mention_at(m.start())) for m in _TOKEN.finditer(self.text)
        ]
        self.index = {token.start: i for i, token in enumerate(self.tokens)}

    # ---- positions

    def _mention_at(self, position: int) -> int:
        return next((i for i, m in enumerate(self.mentions) if m.start <= position < m.end), -1)

    def skip(self, at: int) -> int:
        """The next position that is no white space."""
        while at < len(self.text) and self.text[at].isspace():
            at += 1
        return at

    def token(self, at: int) -> GrammarToken | None:
        """The token that begins at `at`, white space before it aside."""
        position = self.index.get(self.skip(at))
        return None if position is None else self.tokens[position]

    def following(self, token: GrammarToken) -> GrammarToken | None:
        """The token after this one."""
        position = self.index[token.start] + 1
        return self.tokens[position] if position < len(self.tokens) else None

    def before(self, token: GrammarToken) -> GrammarToken | None:
        """The token before this one."""
        position = self.index[token.start]
        return self.tokens[position - 1] if position else None

    def done(self, at: int) -> bool:
        """Is there nothing from `at` on?"""
        return self.skip(at) >= len(self.text)

    def names(self, start: int, end: int) -> tuple[str, ...]:
        """The objects mentioned from start to end."""
        return tuple(m.name for m in self.mentions if start <= m.start < end)

    def slice(self, start: int, end: int) -> str:
        """The text from start to end with single spaces; a sentence's first letter is lowered, since it may move."""
        piece = re.sub(r"\s+", " ", self.text[start:end])
        if start == 0 and piece[:2] not in ("I ", "I'"):
            piece = piece[:1].lower() + piece[1:]
        return piece

    # ---- word classes

    def is_participle(self, token: GrammarToken | None) -> bool:
        """`standing`, `parked`, or a state such as `full`, and no object."""
        return (
            token is not None
            and token.mention < 0
            and (token.lower in lx.STATES or (len(token.text) > 4 and token.lower.endswith(("ing", "ed"))))
        )

    def is_function(self, token: GrammarToken | None) -> bool:
        """A mark, the end, or a word of a closed class."""
        return token is None or not token.is_word or (token.mention < 0 and token.lower in lx.FUNCTION_WORDS)

    def looks_finite(self, token: GrammarToken, plural: bool) -> bool:
        """A verb by its ending, for a subject in this number, with the sentence's end or a function word behind it."""
        after = self.following(token)
        if not token.is_word or token.mention >= 0 or self.is_function(token) or self.is_participle(token):
            return False
        if after is not None and not (self.is_function(after) and after.is_word):
            return False
        ends_in_s = token.lower.endswith("s") and not token.lower.endswith("ss")
        return len(token.text) > 2 and ends_in_s != plural

    def verb(self, at: int, plural: bool | None) -> tuple[str, int] | None:
        """The finite verb at `at`: a form of be or have, or a word whose ending fits the subject's number (`sits`)."""
        at = self.skip(at)
        if match := lx.BEING.match(self.text, at):
            return self.slice(match.start(), match.end()), match.end()
        token = self.token(at)
        if token is None or plural is None or not self.looks_finite(token, plural):
            return None
        return token.text, token.end

    def link(self, at: int) -> int:
        """The end of the words that tie a phrase to what it depends on; `at` itself where there are none."""
        end = at
        token = self.token(at)
        if token is not None and token.lower in ("which", "that", "who", "where") and token.mention < 0:
            being = lx.BEING.match(self.text, self.skip(token.end))
            if being is None:
                return at
            end = being.end()
        while (token := self.token(end)) is not None and token.mention < 0:
            if match := lx.COMPLEX_PREPOSITION.match(self.text, token.start):
                end = match.end()
                break
            if token.lower in lx.PREPOSITIONS:
                end = token.end
                continue
            if self.is_participle(token) or is_adverb(token):
                end = token.end
                continue
            break
        return end

    def hangs(self, token: GrammarToken) -> bool:
        """Does a tail begin here, after a comma or `and`?"""
        if token.mention >= 0:
            return False
        if token.lower in ("which", "who", "where", "whose", "with") or is_adverb(token):
            return True
        if token.lower in ("also", "both", "all"):
            return self.is_participle(self.following(token))
        return self.is_participle(token) and token.lower not in ("there", "here", "also")

    def is_anaphoric(self, token: GrammarToken) -> bool:
        """`one near the window`, `some of them sitting`: a quantifier with no noun counts out what was named before."""
        match = lx.QUANTIFIER.match(self.text, token.start)
        if (
            match is None
            or token.mention >= 0
            or token.lower in ("a", "an", "no", "this", "its", "his", "her", "their")
        ):
            return token.lower == "others"
        after = self.token(match.end())
        return (
            after is None
            or (after.mention < 0 and (after.lower in lx.PREPOSITIONS or after.lower in lx.AUXILIARIES))
            or (self.is_participle(after) and self.is_function(self.following(after)))
        )
