"""A small grammar of image descriptions: a sentence becomes clauses with lists of noun phrases.

It covers what people and models write about pictures, and no more:

    clause   := [front] opening list             "In the background, there is | a cat on a rug and a dog"
              | [front] list being tail*         "A cat and a dog | are | sleeping on a rug"
              | list                             "A kitchen with a stove"
    list     := phrase (separator phrase)*
    phrase   := quantifier words tail*           "several | small plates | on a table"
    tail     := link [list]                      "standing near | a refrigerator",  "in | the middle"

For a sentence it cannot read `parse` returns None, and the writer leaves that sentence alone or drops it. The kinds
of words at each place are the business of `tokens`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from mmpo.data_builders.hallucination.grammar import lexicon as lx
from mmpo.data_builders.hallucination.grammar.tokens import GrammarToken, SentenceReading, Spotted, is_adverb
from mmpo.data_builders.hallucination.grammar.tree import Clause, Phrase, Sentence, Tail, is_plural
from mmpo.text.described import read_spread

_Role = Literal["object", "subject", "further subject"]
"""The role of a phrase in its clause: after subjects a verb may follow, and after several the verb is plural."""

_MAX_WORDS = 6


def parse(text: str, mentions: Iterable[Spotted]) -> Sentence | None:
    """Read one sentence; `mentions` are the object mentions in it. None where the grammar does not fit."""
    return _Parser(SentenceReading(text, list(mentions))).sentence()


class _Parser:
    """Recursive descent over character positions: a reader returns what it read and where it stopped, or None."""

    def __init__(self, reading: SentenceReading) -> None:
        self.reading = reading
        self.text = reading.text

    # ---- sentence and clauses

    def sentence(self) -> Sentence | None:
        clauses: list[Clause] = []
        at, joiner = self.reading.skip(0), ""
        while not self.reading.done(at):
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
        return Sentence(tuple(clauses), self.reading.end_mark) if clauses else None

    def _clause(self, at: int, joiner: str) -> tuple[Clause, int] | None:
        front: tuple[Tail, ...] = ()
        front_end = ""
        read_front = self._front(at)
        if read_front is not None:
            front, front_end, at = read_front
        at = self.reading.skip(at)
        for kind, pattern in (("there", lx.THERE), ("listing", lx.LISTING)):
            if match := pattern.match(self.text, at):
                read = self._list(match.end(), "object", depth=0)
                if read is None:
                    return None
                items, joints, end = read
                opening = self.reading.slice(match.start(), match.end())
                return Clause(kind, items, joints, joiner, front, front_end, opening), end  # type: ignore[arg-type]
        read = self._list(at, "subject", depth=0)
        if read is None:
            return None
        items, joints, end = read
        if verb := self.reading.verb(end, len(items) > 1 or items[0].plural):
            return self._predicate(verb, items, joints, joiner, front, front_end)
        if front:
            return None
        items, joints, end = self._list(at, "object", depth=0) or read  # `a farm with a cow, a pig`: the farm has both
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
        token = self.reading.token(at)
        read = None if self.reading.is_participle(token) else self._list(at, "object", depth=0)
        if read and (read[0][0].quantifier or read[0][0].names):
            tails.append(Tail("", read[0], read[1]))
            at = read[2]
        elif token is not None and not self.reading.is_function(token) and not self.reading.is_participle(token):
            start = at
            while token is not None and not self.reading.is_function(token) and token.mention < 0:
                at, token = token.end, self.reading.following(token)
            tails.append(Tail(self.reading.slice(start, at)))
        more, at = self._tails(at, depth=0)
        tails += more
        if not tails:
            return None
        return Clause("subject", items, joints, joiner, front, front_end, "", said, tuple(tails)), at

    def _front(self, at: int) -> tuple[tuple[Tail, ...], str, int] | None:
        """`In the background,` or `Additionally,`: the part before the clause proper."""
        at = self.reading.skip(at)
        token = self.reading.token(at)
        if token is None or token.mention >= 0:
            return None
        following = self.reading.following(token)
        if (
            following is not None
            and following.text == ","
            and not self.reading.is_participle(token)
            and token.lower not in lx.DETERMINERS
        ):
            return (Tail(self.reading.slice(at, token.end)),), ", ", following.end
        if token.lower not in lx.PREPOSITIONS and not lx.COMPLEX_PREPOSITION.match(self.text, at):
            return None
        read = self._tail(at, depth=1)
        if read is None or not read[0].items:
            return None
        tail, end = read
        tail = Tail(self.reading.slice(at, at + len(tail.link)), tail.items, tail.joints)
        comma = self.reading.token(end)
        if comma is not None and comma.text == ",":
            return (tail,), ", ", comma.end
        end = self.reading.skip(end)
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
        return read is not None and self.reading.verb(read[2], len(read[0]) > 1 or read[0][0].plural) is not None

    def _phrase(self, at: int, role: _Role, *, depth: int) -> tuple[Phrase, int] | None:
        start = self.reading.skip(at)
        quantifier = ""
        token = self.reading.token(start)
        if token is None or not token.is_word:
            return None
        if token.lower in lx.PERSONAL_PRONOUNS and self.reading.is_function(self.reading.following(token)):
            return Phrase("", token.lower, (), token.lower in ("they", "them", "we", "us", "themselves")), token.end
        if token.mention < 0 and is_adverb(token):
            return None
        match = lx.QUANTIFIER.match(self.text, start)
        if match and token.mention < 0:
            quantifier = self.reading.slice(match.start(), match.end())
            at = match.end()
        token = self.reading.token(at)
        first = token
        while token is not None and not self._ends_phrase(token, first, role, quantifier):
            at, token = token.end, self.reading.following(token)
        words_start = first.start if first is not None else at
        words = self.reading.slice(words_start, at).strip() if first is not None and at > first.start else ""
        if not words or len(words.split()) > _MAX_WORDS:
            return None
        names = self.reading.names(words_start, at)
        tails, at = self._tails(at, role, depth=depth)
        return Phrase(quantifier, words, names, is_plural(quantifier, words), tuple(tails)), at

    def _ends_phrase(self, token: GrammarToken, first: GrammarToken | None, role: _Role, quantifier: str) -> bool:
        """Is the phrase over before `token`?"""
        if self.reading.is_function(token):
            return True
        if token.mention >= 0:
            return False
        if role != "object" and token is not first and token.lower in lx.VERBS:
            return True
        before = self.reading.before(token)
        after_noun = token is not first and before is not None and before.mention >= 0
        following = self.reading.following(token)
        if self.reading.is_participle(token):
            if token is first:  # "standing near …" is no phrase, "parked cars" is
                loose = token.lower.endswith("ing") or token.lower in lx.STATES or self.reading.is_function(following)
                return not quantifier and loose
            return after_noun or self.reading.is_function(following) or bool(following and is_adverb(following))
        if token is not first and is_adverb(token):
            return True
        if role == "object" or not after_noun or before is None:
            return False
        words = self.reading.slice(first.start, before.end) if first is not None else before.text
        return self.reading.looks_finite(token, role == "further subject" or is_plural(quantifier, words))

    # ---- tails

    def _tails(self, at: int, role: _Role = "object", *, depth: int) -> tuple[list[Tail], int]:
        tails: list[Tail] = []
        while (read := self._tail(at, role, depth=depth)) is not None:
            tails.append(read[0])
            at = read[1]
        return tails, at

    def _tail(self, at: int, role: _Role = "object", *, depth: int) -> tuple[Tail, int] | None:
        """A link and what it governs. Tails set off by a comma or joined by `and` belong to the outermost phrase."""
        if parts := read_spread(self.text, at):
            return Tail(re.sub(r"\s+", " ", self.text[at : parts[-1].end])), parts[-1].end
        start = at
        position = self.reading.skip(at)
        if match := lx.SEPARATOR.match(self.text, at):
            token = self.reading.token(match.end())
            if depth or token is None or match.group().strip().lower() not in (",", "and", ", and"):
                return None
            if self.reading.is_anaphoric(token):
                return self._whole(start, match.end())
            if not self.reading.hangs(token):
                return None
            position = match.end()
            if "," in match.group():
                plain = self._governed(start, position, role)
                ends = plain is not None and (
                    self.reading.done(plain[1]) or self.text[self.reading.skip(plain[1])] in ",;"
                )
                return plain if ends else self._whole(start, position)
        return self._governed(start, position, role)

    def _governed(self, start: int, position: int, role: _Role) -> tuple[Tail, int] | None:
        """The link at `position` with the list or phrase it governs; its text counts from `start`."""
        linked = self.reading.link(position)
        if linked == position:
            return None
        last = self.text[position:linked].split()[-1].lower()
        read = self._list(linked, role, depth=1) if last in lx.LIST_LINKS and role == "object" else None
        if read is None and (single := self._phrase(linked, role, depth=1)):
            read = ((single[0],), (), single[1])
        link = re.sub(r"\s+", " ", self.text[start:linked])
        if read is None:
            token = self.reading.token(linked)
            if (
                last in lx.PREPOSITIONS
                and token is not None
                and last not in ("by", "around", "up", "down", "over", "along", "inside")
            ):
                return self._whole(start, linked)
            if token is not None and token.is_word and lx.SEPARATOR.match(self.text, linked) is None:
                if role != "object" and self.reading.verb(linked, None):
                    return Tail(link), linked
                return self._whole(start, linked)
            return Tail(link), linked
        return Tail(link, read[0], read[1]), read[2]

    def _whole(self, start: int, after: int) -> tuple[Tail, int]:
        """A tail that can't be taken apart: everything up to the next clause, kept or dropped as one piece."""
        end = len(self.text)
        for match in re.finditer(r"[,;]\s+(?:and|while|but|with|whereas)\b", self.text[after:], re.I):
            following = self.reading.token(after + match.end())
            if following is not None and not self.reading.is_anaphoric(following):
                end = after + match.start()
                break
        link = re.sub(r"\s+", " ", self.text[start:end])
        return Tail(link, names=self.reading.names(start, end)), end
