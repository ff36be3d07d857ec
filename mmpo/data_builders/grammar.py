"""A small grammar of image descriptions: a sentence becomes clauses with lists of noun phrases.

It covers what people and models write about pictures, and no more:

    clause   := [front] opening list             "In the background, there is | a cat on a rug and a dog"
              | [front] list being tail*         "A cat and a dog | are | sleeping on a rug"
              | list                             "A kitchen with a stove"
    list     := phrase (separator phrase)*
    phrase   := quantifier words tail*           "several | small plates | on a table"
    tail     := link [list]                      "standing near | a refrigerator",  "in | the middle"

What it cannot read it says so (`parse` returns None), and the writer leaves such a sentence alone or drops it. The
grammar knows closed word classes only (`lexicon`) and the object mentions that the vocabulary found; other words are
taken by position.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

from mmpo.data_builders import lexicon as lx
from mmpo.data_builders.tree import Clause, Phrase, Sentence, Tail, is_plural


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
class _Token:
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


_Role = Literal["object", "subject", "further subject"]
"""What a phrase is in its clause: after subjects a verb may follow, and after several the verb is plural."""

_TOKEN = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")
_ADVERB_LY = re.compile(r"\w{3,}ly$")
_MAX_WORDS = 6


def parse(text: str, mentions: Iterable[Spotted]) -> Sentence | None:
    """Read one sentence; `mentions` are the object mentions in it. None where the grammar does not fit."""
    return _Parser(text, list(mentions)).sentence()


class _Parser:
    """Recursive descent over character positions: a reader returns what it read and where it stopped, or None."""

    def __init__(self, text: str, mentions: list[Spotted]) -> None:
        body = text.rstrip()
        stripped = body.rstrip(".!?\"')")
        self.end_mark = body[len(stripped) :] or ""
        self.text = stripped
        self.mentions = mentions
        self.tokens = [
            _Token(m.group(), m.start(), m.end(), self._mention_at(m.start())) for m in _TOKEN.finditer(self.text)
        ]
        self.index = {token.start: i for i, token in enumerate(self.tokens)}

    # ---- positions and word classes

    def _mention_at(self, position: int) -> int:
        return next((i for i, m in enumerate(self.mentions) if m.start <= position < m.end), -1)

    def _skip(self, at: int) -> int:
        while at < len(self.text) and self.text[at].isspace():
            at += 1
        return at

    def _token(self, at: int) -> _Token | None:
        position = self.index.get(self._skip(at))
        return None if position is None else self.tokens[position]

    def _next(self, token: _Token) -> _Token | None:
        position = self.index[token.start] + 1
        return self.tokens[position] if position < len(self.tokens) else None

    def _done(self, at: int) -> bool:
        return self._skip(at) >= len(self.text)

    def _names(self, start: int, end: int) -> tuple[str, ...]:
        return tuple(m.name for m in self.mentions if start <= m.start < end)

    def _is_participle(self, token: _Token | None) -> bool:
        return (
            token is not None
            and token.mention < 0
            and (token.lower in lx.STATES or (len(token.text) > 4 and token.lower.endswith(("ing", "ed"))))
        )

    def _is_function(self, token: _Token | None) -> bool:
        return token is None or not token.is_word or (token.mention < 0 and token.lower in lx.FUNCTION_WORDS)

    def _slice(self, start: int, end: int) -> str:
        """The text from start to end with single spaces; a sentence's first letter is lowered, since it may move."""
        piece = re.sub(r"\s+", " ", self.text[start:end])
        if start == 0 and piece[:2] not in ("I ", "I'"):
            piece = piece[:1].lower() + piece[1:]
        return piece

    # ---- sentence and clauses

    def sentence(self) -> Sentence | None:
        clauses: list[Clause] = []
        at, joiner = self._skip(0), ""
        while not self._done(at):
            if clauses:
                match = lx.CLAUSE_JOINER.match(self.text, at)
                if match is None:
                    return None
                joiner = re.sub(r"\s+", " ", match.group())
                at = match.end()
            read = self._clause(at, joiner)
            if read is None:
                if not clauses:
                    return None
                tail, end = self._whole(at, at)
                read = Clause("whole", (), (), joiner, tails=(tail,)), end
            clauses.append(read[0])
            at = read[1]
        return Sentence(tuple(clauses), self.end_mark) if clauses else None

    def _clause(self, at: int, joiner: str) -> tuple[Clause, int] | None:
        front: tuple[Tail, ...] = ()
        front_end = ""
        read_front = self._front(at)
        if read_front is not None:
            front, front_end, at = read_front
        at = self._skip(at)
        for kind, pattern in (("there", lx.THERE), ("listing", lx.LISTING)):
            if match := pattern.match(self.text, at):
                read = self._list(match.end(), "object", depth=0)
                if read is None:
                    return None
                items, joints, end = read
                opening = self._slice(match.start(), match.end())
                return Clause(kind, items, joints, joiner, front, front_end, opening), end  # type: ignore[arg-type]
        read = self._list(at, "subject", depth=0)
        if read is None:
            return None
        items, joints, end = read
        if verb := self._verb(end, len(items) > 1 or items[0].plural):
            return self._predicate(verb, items, joints, joiner, front, front_end)
        if front:
            return None
        return Clause("fragment", items, joints, joiner), end

    def _predicate(
        self,
        verb: tuple[str, int],
        items: tuple[Phrase, ...],
        joints: tuple[str, ...],
        joiner: str,
        front: tuple[Tail, ...],
        front_end: str,
    ) -> tuple[Clause, int] | None:
        said, at = verb
        tails: list[Tail] = []
        token = self._token(at)
        read = None if self._is_participle(token) else self._list(at, "object", depth=0)
        if read and (read[0][0].quantifier or read[0][0].names):
            tails.append(Tail("", read[0], read[1]))
            at = read[2]
        elif token is not None and not self._is_function(token) and not self._is_participle(token):
            start = at
            while token is not None and not self._is_function(token) and token.mention < 0:
                at, token = token.end, self._next(token)
            tails.append(Tail(self._slice(start, at)))
        more, at = self._tails(at, depth=0)
        tails += more
        if not tails:
            return None
        return Clause("subject", items, joints, joiner, front, front_end, "", said, tuple(tails)), at

    def _verb(self, at: int, plural: bool | None) -> tuple[str, int] | None:
        """The finite verb at `at`: a form of be or have, or a word whose ending fits the subject's number (`sits`)."""
        at = self._skip(at)
        if match := lx.BEING.match(self.text, at):
            return self._slice(match.start(), match.end()), match.end()
        token = self._token(at)
        if token is None or plural is None or not self._looks_finite(token, plural):
            return None
        return token.text, token.end

    def _looks_finite(self, token: _Token, plural: bool) -> bool:
        after = self._next(token)
        if not token.is_word or token.mention >= 0 or self._is_function(token) or self._is_participle(token):
            return False
        if after is not None and not (self._is_function(after) and after.is_word):
            return False
        ends_in_s = token.lower.endswith("s") and not token.lower.endswith("ss")
        return len(token.text) > 2 and ends_in_s != plural

    def _front(self, at: int) -> tuple[tuple[Tail, ...], str, int] | None:
        """`In the background,` or `Additionally,`: what stands before the clause proper."""
        at = self._skip(at)
        token = self._token(at)
        if token is None or token.mention >= 0:
            return None
        following = self._next(token)
        if (
            following is not None
            and following.text == ","
            and not self._is_participle(token)
            and token.lower not in lx.DETERMINERS
        ):
            return (Tail(self._slice(at, token.end)),), ", ", following.end
        if token.lower not in lx.PREPOSITIONS and not lx.COMPLEX_PREPOSITION.match(self.text, at):
            return None
        read = self._tail(at, depth=1)
        if read is None or not read[0].items:
            return None
        tail, end = read
        tail = Tail(self._slice(at, at + len(tail.link)), tail.items, tail.joints)
        comma = self._token(end)
        if comma is not None and comma.text == ",":
            return (tail,), ", ", comma.end
        end = self._skip(end)
        if lx.THERE.match(self.text, end) or lx.LISTING.match(self.text, end):
            return (tail,), " ", end
        return None

    # ---- lists and phrases

    def _list(self, at: int, role: _Role, *, depth: int) -> tuple[tuple[Phrase, ...], tuple[str, ...], int] | None:
        read = self._phrase(at, role, depth=depth)
        if read is None:
            return None
        items, joints = [read[0]], []
        at = read[1]
        while match := lx.SEPARATOR.match(self.text, at):
            start = match.end()
            if lx.THERE.match(self.text, start) or lx.LISTING.match(self.text, start):
                break
            if role == "object" and self._opens_clause(start):
                break
            read = self._phrase(start, "object" if role == "object" else "further subject", depth=depth)
            if read is None:
                break
            items.append(read[0])
            joints.append(re.sub(r"\s+", " ", match.group()))
            at = read[1]
        return tuple(items), tuple(joints), at

    def _opens_clause(self, at: int) -> bool:
        """Does a clause with its own subject and verb begin here?"""
        read = self._list(at, "subject", depth=0)
        return read is not None and self._verb(read[2], len(read[0]) > 1 or read[0][0].plural) is not None

    def _phrase(self, at: int, role: _Role, *, depth: int) -> tuple[Phrase, int] | None:
        start = self._skip(at)
        quantifier = ""
        token = self._token(start)
        if token is None or not token.is_word:
            return None
        if token.lower in lx.PERSONAL_PRONOUNS and self._is_function(self._next(token)):
            return Phrase("", token.lower, (), token.lower in ("they", "them", "we", "us", "themselves")), token.end
        if token.mention < 0 and _ADVERB_LY.match(token.lower):
            return None
        match = lx.QUANTIFIER.match(self.text, start)
        if match and token.mention < 0:
            quantifier = self._slice(match.start(), match.end())
            at = match.end()
        token = self._token(at)
        first = token
        while token is not None and not self._ends_phrase(token, first, role, quantifier):
            at, token = token.end, self._next(token)
        words_start = first.start if first is not None else at
        words = self._slice(words_start, at).strip() if first is not None and at > first.start else ""
        if not words or len(words.split()) > _MAX_WORDS:
            return None
        names = self._names(words_start, at)
        tails, at = self._tails(at, role, depth=depth)
        return Phrase(quantifier, words, names, is_plural(quantifier, words), tuple(tails)), at

    def _ends_phrase(self, token: _Token, first: _Token | None, role: _Role, quantifier: str) -> bool:
        """Is the phrase over before `token`?"""
        if self._is_function(token):
            return True
        if token.mention >= 0:
            return False
        if role != "object" and token is not first and token.lower in lx.VERBS:
            return True
        before = self.tokens[self.index[token.start] - 1] if self.index[token.start] else None
        after_noun = token is not first and before is not None and before.mention >= 0
        following = self._next(token)
        if self._is_participle(token):
            if token is first:  # "standing near …" is no phrase, "parked cars" is
                loose = token.lower.endswith("ing") or token.lower in lx.STATES or self._is_function(following)
                return not quantifier and loose
            return after_noun or self._is_function(following) or bool(following and _ADVERB_LY.match(following.lower))
        if token is not first and _ADVERB_LY.match(token.lower):
            return True
        if role == "object" or not after_noun or before is None:
            return False
        words = self._slice(first.start, before.end) if first is not None else before.text
        return self._looks_finite(token, role == "further subject" or is_plural(quantifier, words))

    # ---- tails

    def _tails(self, at: int, role: _Role = "object", *, depth: int) -> tuple[list[Tail], int]:
        tails: list[Tail] = []
        while (read := self._tail(at, role, depth=depth)) is not None:
            tails.append(read[0])
            at = read[1]
        return tails, at

    def _tail(self, at: int, role: _Role = "object", *, depth: int) -> tuple[Tail, int] | None:
        """A link and what it governs. Tails set off by a comma or joined by `and` belong to the outermost phrase."""
        start = at
        position = self._skip(at)
        if match := lx.SEPARATOR.match(self.text, at):
            token = self._token(match.end())
            if depth or token is None or match.group().strip().lower() not in (",", "and", ", and"):
                return None
            if self._is_anaphoric(token):
                return self._whole(start, match.end())
            if not self._hangs(token):
                return None
            position = match.end()
            if "," in match.group():
                plain = self._governed(start, position, role)
                ends = plain is not None and (self._done(plain[1]) or self.text[self._skip(plain[1])] in ",;")
                return plain if ends else self._whole(start, position)
        return self._governed(start, position, role)

    def _hangs(self, token: _Token) -> bool:
        """Does a tail begin here, after a comma or `and`?"""
        if token.mention >= 0:
            return False
        if token.lower in ("which", "who", "where", "whose", "with") or _ADVERB_LY.match(token.lower):
            return True
        if token.lower in ("also", "both", "all"):
            return self._is_participle(self._next(token))
        return self._is_participle(token) and token.lower not in ("there", "here", "also")

    def _governed(self, start: int, position: int, role: _Role) -> tuple[Tail, int] | None:
        """The link at `position` with the list or phrase it governs; its text counts from `start`."""
        linked = self._link(position)
        if linked == position:
            return None
        last = self.text[position:linked].split()[-1].lower()
        read = self._list(linked, role, depth=1) if last in lx.LIST_LINKS and role == "object" else None
        if read is None and (single := self._phrase(linked, role, depth=1)):
            read = ((single[0],), (), single[1])
        link = re.sub(r"\s+", " ", self.text[start:linked])
        if read is None:
            token = self._token(linked)
            if (
                last in lx.PREPOSITIONS
                and token is not None
                and last not in ("by", "around", "up", "down", "over", "along", "inside")
            ):
                return self._whole(start, linked)
            if token is not None and token.is_word and lx.SEPARATOR.match(self.text, linked) is None:
                if role != "object" and self._verb(linked, None):
                    return Tail(link), linked
                return self._whole(start, linked)
            return Tail(link), linked
        return Tail(link, read[0], read[1]), read[2]

    def _is_anaphoric(self, token: _Token) -> bool:
        """`one near the window`, `some of them sitting`: a quantifier with no noun counts out what was named before."""
        match = lx.QUANTIFIER.match(self.text, token.start)
        if (
            match is None
            or token.mention >= 0
            or token.lower in ("a", "an", "no", "this", "its", "his", "her", "their")
        ):
            return token.lower == "others"
        after = self._token(match.end())
        return (
            after is None
            or (after.mention < 0 and (after.lower in lx.PREPOSITIONS or after.lower in lx.AUXILIARIES))
            or (self._is_participle(after) and self._is_function(self._next(after)))
        )

    def _link(self, at: int) -> int:
        """The end of the words that tie a phrase to what it hangs on; `at` itself where there are none."""
        end = at
        token = self._token(at)
        if token is not None and token.lower in ("which", "that", "who", "where") and token.mention < 0:
            being = lx.BEING.match(self.text, self._skip(token.end))
            if being is None:
                return at
            end = being.end()
        while (token := self._token(end)) is not None and token.mention < 0:
            if match := lx.COMPLEX_PREPOSITION.match(self.text, token.start):
                end = match.end()
                break
            if token.lower in lx.PREPOSITIONS:
                end = token.end
                continue
            if self._is_participle(token) or _ADVERB_LY.match(token.lower):
                end = token.end
                continue
            break
        return end

    def _whole(self, start: int, after: int) -> tuple[Tail, int]:
        """A tail that can't be taken apart: everything up to the next clause, kept or dropped as one piece."""
        end = len(self.text)
        for match in re.finditer(r"[,;]\s+(?:and|while|but|with|whereas)\b", self.text[after:], re.I):
            following = self._token(after + match.end())
            if following is not None and not self._is_anaphoric(following):
                end = after + match.start()
                break
        link = re.sub(r"\s+", " ", self.text[start:end])
        return Tail(link, names=self._names(start, end)), end
