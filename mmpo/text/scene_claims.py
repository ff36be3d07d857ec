"""Claims of a text about a picture: which objects are there, how many, which colour, where, and on which side of one
another.

    "There are two red cars on the left."
                    car: object · 2: count · red: color · on the left: place

Each claim has the characters that decide it, so that they can be replaced. `described` reads the words; whether a claim
is true is `mmpo.data.truth`'s business.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from mmpo.text.claims import split_sentences
from mmpo.text.described import CountWords, DescribedObject, described, is_many, moved, not_narrowed
from mmpo.text.vocabulary import Mention, ObjectVocabulary

ClaimKind = Literal["object", "count", "color", "place", "relation"]
KINDS: tuple[ClaimKind, ...] = get_args(ClaimKind)

RELATION_WORDS: dict[str, str] = {
    "left": "to the left of", "right": "to the right of", "top": "above", "bottom": "below",
}  # fmt: skip


_NONE = re.compile(r"\bno\s+$", re.I)


class Number(NamedTuple):
    """The number of things that a text claims: from `least` to `most`, which is None where there may be more."""

    least: int
    most: int | None


@dataclass(frozen=True)
class Claim:
    """`text[start:end]` are the words that decide it. `value` is the class of an object, a `Number`, a colour (grey is
    `gray`), or a side. `about` is the object with all its attributes, `other` a relation's second object, `before`
    what the same sentence has counted of the class already.
    """

    kind: ClaimKind
    name: str
    value: str | Number
    start: int
    end: int
    about: DescribedObject
    other: Mention | None = None
    before: tuple[DescribedObject, ...] = ()
    part: int = 0
    """The index of the group's place that it is about."""


def read_claims(text: str, vocabulary: ObjectVocabulary, *, exhaustive: bool = False) -> list[Claim]:
    """Every claim in a text that the rules understand, in its order; one object's after another.

    A number is exact where the text lists what is there and names the class once (`There are two cars.`); else (`Two
    cars are parked here.`) there may be more. `a car` is at least one. `exhaustive` is for texts that list everything
    they show, such as the demo's: all numbers are exact there, and `a car` is one car.
    """
    found = described(text, vocabulary)
    claims: list[Claim] = []
    for index, about in enumerate(found):
        mention = about.mention
        claims.append(Claim("object", mention.name, mention.name, mention.start, mention.end, about))
        claims += _count(found, index, exhaustive=exhaustive)
        if about.color is not None:
            color = about.color
            claims.append(Claim("color", mention.name, color.value, color.start, color.end, about))
        for part, place in enumerate(about.places):
            claims.append(Claim("place", mention.name, place.side, place.start, place.end, about, part=part))
        if (related := about.related) is not None:
            claims.append(
                Claim("relation", mention.name, related.side, related.start, related.end, about, related.other)
            )
    claims += _denials(text, vocabulary)
    return sorted(claims, key=lambda claim: claim.about.mention.start)


def _count(found: Sequence[DescribedObject], index: int, *, exhaustive: bool) -> Iterator[Claim]:
    about = found[index]
    counted = about.counted
    if counted is None:
        return
    name = about.mention.name
    mine = [other for other in found if other.mention.name == name and other is not about]
    same = [other for other in mine if other.counted is not None and other.counted.new]
    here = [other for other in same if exhaustive or other.sentence == about.sentence]
    before = tuple(other for other in here if other.mention.start < about.mention.start)
    if counted.more and not before:
        before = tuple(other for other in same if other.mention.start < about.mention.start)[-1:]
    counts_on = counted.new and (exhaustive or (counted.article and all(map(_is_one, before))))
    before = before if counts_on else ()
    alone = not same or (exhaustive and len(before) == len(same))
    partly = counted.number == 1 and any(other.many for other in mine)
    listed = about.listed and not counted.article and not partly and (not about.places or about.spread is not None)
    exact = counted.exact and counted.new and alone and (exhaustive or listed) and not counted.more
    least = counted.number + sum(other.counted.number for other in before if other.counted)
    number = Number(least, least if exact else None)
    yield Claim("count", name, number, counted.start, about.mention.end, about, before=before)


def _is_one(about: DescribedObject) -> bool:
    return about.counted is not None and about.counted.article


def _denials(text: str, vocabulary: ObjectVocabulary) -> Iterator[Claim]:
    """`There are no dogs.`: a number too, if nothing says which dogs."""
    for number, piece in enumerate(split_sentences(text)):
        end = piece.start + len(piece.text)
        for mention in vocabulary.find(piece.text):
            mention = moved(mention, piece.start)
            match = _NONE.search(text, piece.start, mention.start)
            if match is None or not not_narrowed(text, mention.end, end):
                continue
            counted = CountWords(match.start(), match.start() + 2, 0, True, True)
            about = DescribedObject(mention, is_many(mention, vocabulary), number, counted, listed=True)
            yield Claim("count", mention.name, Number(0, 0), counted.start, mention.end, about)
