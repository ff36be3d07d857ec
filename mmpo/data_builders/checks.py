"""Checks beyond existence: is the number right, the colour, the place in the picture?

Each looks only at what is annotated: a colour needs `attributes: {color: …}`, a place needs boxes, and a class marked
as a crowd has no number. Each knows how its mistake is put right (`Finding.edits`), and `repaired` does so in English.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from mmpo.data.annotations import AnnotatedObject
from mmpo.data.vocabulary import Mention, ObjectVocabulary
from mmpo.data.words import article, plural
from mmpo.data_builders import lexicon as lx
from mmpo.data_builders.detect import Check, Edit, Finding, ObjectCheck, SentenceVerdict, Truth, claimed
from mmpo.data_builders.edit import agree, conjugate, is_many
from mmpo.data_builders.grammar import parse
from mmpo.data_builders.phrases import NUMBER_WORDS
from mmpo.data_builders.tree import Clause, Sentence, say

TOLERANCE = 0.1
"""How far beyond its third of the picture an object's centre may lie and still be `on the left`, say."""

_VALUES = {word: number for number, word in NUMBER_WORDS.items()} | {str(number): number for number in range(1, 100)}
_WORD_BEFORE = re.compile(r"([\w-]+)(\s+)$")
_IS_COLOR = re.compile(rf"\s+(?:is|are)\s+({'|'.join(sorted(lx.COLORS))})\b(?!\s+(?:and|or)\b)", re.I)
_SIDE = re.compile(
    r"(?:\s+(?:(?:is|are)\s+)?(?:visible|located|seen|placed|standing|sitting)?)?\s*"
    r"\b(?P<place>(?:on|in|at|to|towards?)\s+the\s+(?:far\s+)?(?P<side>left|right|middle|center|centre|top|bottom))\b"
    r"(?!-|\s+(?:left|right|top|bottom)\b)"
    r"(?:\s+(?:side|part|half|edge|corner|area)\b)?"
    r"(?:\s+of\s+the\s+(?:image|picture|photo|photograph|scene|frame)\b)?"
    r"(?!\s+(?:side|part|half|edge|corner|area|of)\b)",
    re.I,
)
_SAY_SIDE = {
    "left": "on the left", "right": "on the right", "middle": "in the middle", "top": "at the top",
    "bottom": "at the bottom",
}  # fmt: skip


@dataclass(frozen=True)
class Described:
    """A mention with the words that go with it: spans of its number, its colour and its place (start, end, text)."""

    mention: Mention
    number: tuple[int, int, str] | None
    color: tuple[int, int, str] | None
    place: tuple[int, int, str] | None


def described(sentence: str, vocabulary: ObjectVocabulary) -> Iterator[Described]:
    """Every object that the sentence claims, with the words before and behind it."""
    for mention in claimed(sentence, vocabulary):
        number = color = None
        at = mention.start
        while match := _WORD_BEFORE.search(sentence[:at]):
            word, span = match[1].lower(), (match.start(1), match.end(1), match[1].lower())
            if word in _VALUES:
                number = span
                break
            if word in lx.COLORS:
                # `a black and white cat` has no one colour that could be wrong
                mixed = color is not None or re.search(r"\b(\w+)\s+(?:and|or)\s+$", sentence[: match.start(1)])
                color = None if mixed else span
                if mixed:
                    break
            elif word in lx.FUNCTION_WORDS:
                break
            at = match.start(1)
        behind = sentence[mention.end :]
        if color is None and (match := _IS_COLOR.match(behind)):
            color = (mention.end + match.start(1), mention.end + match.end(1), match[1].lower())
        place = None
        if match := _SIDE.match(behind):
            side = match["side"].lower().replace("center", "middle").replace("centre", "middle")
            place = (mention.end + match.start("place"), mention.end + match.end("place"), side)
        yield Described(mention, number, color, place)


@dataclass(frozen=True)
class CountCheck:
    """Numbers from two on (`one of them` counts nothing). More than there are is always wrong; fewer only where the
    sentence names the class once and does not say where (`two cups on the left` may leave out others).
    """

    vocabulary: ObjectVocabulary

    def __call__(self, sentence: str, truth: Truth) -> Iterator[Finding]:
        claims = list(described(sentence, self.vocabulary))
        names = [claim.mention.name for claim in claims]
        for claim in claims:
            mention, marked = claim.mention, truth.objects.get(claim.mention.name, ())
            if claim.number is None or not marked or any(item.attributes.get("crowd") for item in marked):
                continue
            said, there = _VALUES[claim.number[2]], len(marked)
            if said < 2:
                continue
            whole = names.count(mention.name) == 1 and claim.place is None
            wrong = said > there or (whole and said < there)
            reason = f"{there} {mention.name if there == 1 else plural(mention.name)}, not {said}"
            if not wrong:
                reason = f"{said} {plural(mention.name)} are in this picture"
            edits = self._edits(claim, there, sentence) if wrong else ()
            yield Finding(claim.number[0], mention.end, "count", mention.name, wrong, reason, edits)

    def _edits(self, claim: Described, there: int, sentence: str) -> tuple[Edit, ...]:
        assert claim.number is not None
        start, end, _ = claim.number
        mention = claim.mention
        singular = self._singular(mention)
        number = NUMBER_WORDS.get(there, str(there))
        if there == 1:
            number = article(sentence[end : mention.start].strip() or singular)
        noun = singular if there == 1 else plural(singular)
        if sentence[start].isupper():
            number = number.capitalize()
        return Edit(start, end, number), Edit(mention.start, mention.end, noun)

    def _singular(self, mention: Mention) -> str:
        words = self.vocabulary.synonyms[mention.name]
        said = mention.word.lower()
        return next((word for word in words if said in (word, plural(word))), mention.name)


@dataclass(frozen=True)
class ColorCheck:
    """A colour is right if any marked object of the class has it; said only where all of them have one marked."""

    vocabulary: ObjectVocabulary

    def __call__(self, sentence: str, truth: Truth) -> Iterator[Finding]:
        for claim in described(sentence, self.vocabulary):
            mention = claim.mention
            marked = [item.attributes.get("color") for item in truth.objects.get(mention.name, ())]
            if claim.color is None or not marked or not all(isinstance(color, str) for color in marked):
                continue
            start, end, said = claim.color
            colors = list(dict.fromkeys(str(color).lower() for color in marked))
            wrong = _same_color(said) not in map(_same_color, colors)
            there = " and ".join(colors)
            reason = f"the {mention.name} is {there}, not {said}" if wrong else f"the {mention.name} is {said}"
            edits = (Edit(start, end, colors[0]),) if wrong else ()
            yield Finding(start, end, "color", mention.name, wrong, reason, edits)


@dataclass(frozen=True)
class PositionCheck:
    """Left, middle, right, top and bottom are thirds of the picture, with `TOLERANCE` around them. A place is right if
    as many objects of the class are there as the sentence says, or one where it gives no number.
    """

    vocabulary: ObjectVocabulary

    def __call__(self, sentence: str, truth: Truth) -> Iterator[Finding]:
        size = truth.image.width, truth.image.height
        for claim in described(sentence, self.vocabulary):
            mention = claim.mention
            marked = truth.objects.get(mention.name, ())
            if claim.place is None or not marked or size[0] is None or size[1] is None:
                continue
            centers = [_center(item, size[0], size[1]) for item in marked]
            known = [center for center in centers if center is not None]
            if len(known) < len(marked):
                continue
            start, end, side = claim.place
            needed = min(_VALUES[claim.number[2]] if claim.number else 1, len(marked))
            wrong = sum(_is_at(center, side) for center in known) < needed
            places = list(dict.fromkeys(_side_of(center, vertical=side in ("top", "bottom")) for center in known))
            where = " and ".join(_SAY_SIDE.get(place, "in between") for place in places)
            reason = f"the {mention.name} is {where}" + (f", not {_SAY_SIDE[side]}" if wrong else "")
            one = places[0] if len(places) == 1 else ""
            edits = (Edit(start, end, _SAY_SIDE[one]),) if wrong and one in _SAY_SIDE else ()
            yield Finding(start, end, "position", mention.name, wrong, reason, edits)


CHECKS: dict[str, Callable[[ObjectVocabulary], Check]] = {
    "objects": ObjectCheck,
    "counts": CountCheck,
    "colors": ColorCheck,
    "positions": PositionCheck,
}


def checks_for(names: Sequence[str], vocabulary: ObjectVocabulary) -> list[Check]:
    """The checks that settings name, in their order."""
    return [CHECKS[name](vocabulary) for name in names]


def repaired(text: str, verdicts: Sequence[SentenceVerdict], vocabulary: ObjectVocabulary) -> str:
    """`text` with every mistake put right that has edits; articles and verbs follow where the grammar reads the
    sentence. What can't be repaired stays as it is, for the detector to find again.
    """
    for verdict in reversed(verdicts):
        edits = sorted({e for f in verdict.findings if f.wrong for e in f.edits}, key=lambda edit: -edit.start)
        if not edits:
            continue
        start, end = verdict.start, verdict.start + len(verdict.text)
        sentence = verdict.text
        for edit in edits:
            sentence = sentence[: edit.start - start] + edit.text + sentence[edit.end - start :]
        sentence = re.sub(r"\b([Aa])n?\s+(?=([\w-]+))", _article, sentence)
        text = text[:start] + _agreeing(verdict.text, sentence, vocabulary) + text[end:]
    return text


def _article(match: re.Match[str]) -> str:
    return f"{match[1]}{article(match[2])[1:]} "


def _agreeing(before: str, after: str, vocabulary: ObjectVocabulary) -> str:
    """The edited sentence with verbs that fit the new numbers; unchanged where the grammar can't compare the two."""
    old, new = (parse(sentence, claimed(sentence, vocabulary)) for sentence in (before, after))
    if old is None or new is None or len(old.clauses) != len(new.clauses):
        return after
    clauses = tuple(_agreed(clause, was) for clause, was in zip(new.clauses, old.clauses, strict=True))
    return after if clauses == new.clauses else say(Sentence(clauses, new.end))


def _agreed(clause: Clause, before: Clause) -> Clause:
    if clause.kind == "subject" and before.kind == "subject" and is_many(clause.items) != is_many(before.items):
        return replace(clause, verb=conjugate(clause.verb, is_many(clause.items)))
    return agree(clause, before)


def _same_color(color: str) -> str:
    return {"gray": "grey", "golden": "gold"}.get(color, color)


def _center(item: AnnotatedObject, width: int, height: int) -> tuple[float, float] | None:
    if item.bbox_xywh is None:
        return None
    x, y, wide, high = item.bbox_xywh
    return (x + wide / 2) / width, (y + high / 2) / height


def _is_at(center: tuple[float, float], side: str) -> bool:
    x, y = center
    low, high = 1 / 3 + TOLERANCE, 2 / 3 - TOLERANCE
    if side == "middle":
        return 1 / 3 - TOLERANCE < x < 2 / 3 + TOLERANCE
    return {"left": x < low, "right": x > high, "top": y < low, "bottom": y > high}[side]


def _side_of(center: tuple[float, float], *, vertical: bool) -> str:
    names = ("top", "", "bottom") if vertical else ("left", "middle", "right")
    return names[max(0, min(2, int(center[vertical] * 3)))]
