"""Each object of a text with the words that go with it: its number, its colour, its place in the picture, what it is
left of or above. Rules read them, and leave out what they are not sure to understand.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from mmpo.text.claims import claimed, split_sentences
from mmpo.text.function_words import FUNCTION_WORDS, NUMBERS, STATES
from mmpo.text.vocabulary import Mention, ObjectVocabulary
from mmpo.text.words import PAIRED, PLURAL, UNCHANGED, plurals

PictureSide = Literal["left", "middle", "right", "top", "bottom"]

SAY_SIDE: dict[str, str] = {
    "left": "on the left", "middle": "in the middle", "right": "on the right", "top": "at the top",
    "bottom": "at the bottom",
}  # fmt: skip
COLORS = frozenset({
    "red", "green", "blue", "yellow", "orange", "purple", "pink", "brown", "black", "white", "gray", "grey", "silver",
    "golden",
})  # fmt: skip


@dataclass(frozen=True)
class DescribedSpan:
    """`text[start:end]`, and what it says."""

    start: int
    end: int
    value: str


@dataclass(frozen=True)
class CountWords:
    """Words of number before an object: `a`, `two`, `a couple of`, `several`. `exact` ones say a number; `new` ones
    bring in objects of their own (`two cars`), others refer to those that are known (`the two cars`). An `article` is a
    number in a list of everything only; `more` is `another`.
    """

    start: int
    end: int
    number: int
    exact: bool
    new: bool
    article: bool = False
    more: bool = False


@dataclass(frozen=True)
class Placed:
    """Words of place in the picture: `on the left side of the image`. `lead` is where begins what goes if they go
    (`standing on the left`); `number` is how many of a group are there (`one on the left and two on the right`), None
    where the words are about all.
    """

    start: int
    end: int
    side: PictureSide
    lead: int
    number: int | None = None


@dataclass(frozen=True)
class Related:
    """`to the left of` and the like, between an object and `other`."""

    start: int
    end: int
    side: PictureSide
    other: Mention


@dataclass(frozen=True)
class DescribedObject:
    """An object with the words that go with it. `spread` is where words about the parts of a group begin and end
    (`, one on the left and one on the right`). `listed`: nothing else narrows down which objects are meant.
    """

    mention: Mention
    many: bool
    sentence: int
    counted: CountWords | None = None
    color: DescribedSpan | None = None
    places: tuple[Placed, ...] = ()
    spread: tuple[int, int] | None = None
    related: Related | None = None
    listed: bool = False
    predicate: bool = False
    """True if the place is the sentence's statement about the object (`the car is on the left`)."""

    @property
    def place(self) -> Placed | None:
        """The one place of all of them; None if the text gives none or several."""
        return self.places[0] if len(self.places) == 1 and self.spread is None else None


_PICTURE = r"(?:image|picture|photo|photograph|scene|frame|view)"
_WHOLE = rf"(?:{_PICTURE}|(?:living\s+)?room|kitchen|bathroom|bedroom|restroom)"
"""Things that fill a picture from side to side: the left of a kitchen is the left of its picture."""
_EXACT = {word: number for number, word in enumerate(NUMBERS, start=1)} | {str(n): n for n in range(1, 100)}
VAGUE = {
    "several": 3, "many": 3, "numerous": 3, "multiple": 2, "various": 2, "few": 2, "group": 2, "bunch": 3, "herd": 3,
    "flock": 3, "crowd": 3, "row": 2, "lot": 3, "lots": 3, "number": 2, "cluster": 2, "stack": 2, "pile": 2,
    "couple": 2,
}  # fmt: skip
"""Words of number without a number, with how many there must be at least."""
_KNOWN = ("the", "these", "those", "both", "all", "its", "his", "her", "their", "our", "my", "your")
_ROUGHLY = re.compile(
    r"\b(?:about|around|approximately|nearly|almost|over|(?:more|less|fewer|other)\s+than|up\s+to|or|to)\s+$|-\s*$",
    re.I,
)
_PERHAPS = re.compile(r"\b(?:possibly|perhaps|probably|likely|maybe|or)\s+$", re.I)
_AT_LEAST = re.compile(r"\bat\s+least\s+$", re.I)
_MEASURE = re.compile(
    rf"\b(?:(?P<the>the|these|those)|an?)?\s*(?:\w+\s+)?(?P<word>{'|'.join(('pair', *VAGUE))})s?\s+of\s+"
    r"(?:(?:the|these|those|different|other)\s+)?$|\b(?P<few>a\s+few)\s+$",
    re.I,
)
_ORDINALS = frozenset({"first", "second", "third", "fourth", "fifth", "last", "next", "more", "others"})
_WORD_BEFORE = re.compile(r"([\w-]+)(\s+|,\s+)$")
_WORD_BEHIND = re.compile(r"\s+([\w'’-]+)")
_BEING = r"(?:\s+(?:which|that|who))?\s+(?:is|are)"
_PART_OF = re.compile(
    rf"\b(?:{'|'.join(NUMBERS)}|each|any|some|none|most|all)\s+of\s+(?:the|these|those|them|its|his|her|their)\s+(?:[\w-]+\s+)*$",
    re.I,
)
"""`one of the`: the statement is not about all of them."""
_IS_COLOR = re.compile(
    rf"{_BEING}\s+(?:all\s+|both\s+)?(?P<color>{'|'.join(sorted(COLORS))})\b(?!\s+(?:and|or|with)\b|-|,\s+\w+\s+and)",
    re.I,
)
_STANDS = (
    r"(?:visible|located|positioned|situated|seen|placed|parked|standing|sitting|lying|hanging"
    r"|stands?|sits?|hangs?|lies)"
)
_SIDE = r"(?P<side>left|right|middle|cent(?:er|re)|top|bottom)"
_PART = r"(?:side|part|half|edge|corner|area|section)"
AT = (
    rf"(?:on|in|at|to|towards?|near)\s+the\s+(?:far\s+)?{_SIDE}\b(?!-(?!hand)|\s+(?:left|right|top|bottom)\b)"
    rf"(?:[\s-]+(?:hand\s+)?{_PART}\b)?(?:\s+of\s+the\s+{_WHOLE}\b)?"
    rf"(?!\s+(?:{_PART}|of|from)\b|['’]s|\s+(?:and|or)\s+(?:the\s+)?(?:left|right|middle|center|centre|top|bottom)\b)"
)
_PLACE = re.compile(rf"(?P<lead>,?(?P<being>{_BEING})?(?:\s+(?:can\s+be\s+)?{_STANDS})?)\s+(?P<place>{AT})", re.I)
_ONES = rf"(?P<number>one|another|the\s+other|{'|'.join(NUMBERS[1:])})"
_PART_OF_GROUP = re.compile(
    rf"(?:\s*,\s*(?:and\s+|with\s+)?|\s+and\s+|\s+with\s+)?{_ONES}\s+(?:{_STANDS}\s+)?(?P<place>{AT})", re.I
)
_SPREAD_BEGINS = re.compile(
    rf"(?P<before>(?:\s+visible)?(?:\s+in\s+the\s+{_PICTURE})?)\s*,?\s*(?:with\s+)?{_ONES}\s+(?:{_STANDS}\s+)?(?P<place>{AT})",
    re.I,
)
_OF_SOMETHING = re.compile(
    rf"\bthe\s+{_SIDE}(?:[\s-]+(?:hand\s+)?{_PART})?\s+of\s+(?!the\s+{_WHOLE}\b)"
    r"(?:the|an?|its|his|her|their|this|that)\b",
    re.I,
)
_OF_WHOLE = re.compile(rf"\bof\s+the\s+{_WHOLE}$", re.I)
_FRONT = re.compile(rf"(?P<place>{AT}),?\s+(?:there\s+(?:is|are)|(?:we|i|you)\s+(?:can\s+)?see)\s+$", re.I)
_RELATION = re.compile(
    rf"(?:{_BEING})?(?:\s+{_STANDS})?\s+(?P<words>(?:to|on)\s+the\s+(?P<across>left|right)(?:\s+(?:hand\s+)?side)?\s+of"
    r"|(?P<along>above|below))\s+(?:(?:the|an?|another|one)\s+)?(?:[\w-]+\s+){0,2}?$",
    re.I,
)
_LISTING = re.compile(
    r"\b(?:there(?:\s+(?:is|are)|['’]s)|(?:can\s+)?see|(?:shows?|features?|depicts?|contains?|displays?|includes?|"
    r"captures?|with))\b[^.;:]*$",
    re.I,
)
_NOT_NARROWED = re.compile(
    rf"\s*(?:[.,;!?)]|$|and\b|or\b|(?:(?:is|are)\s+)?(?:visible|present|shown)?\s*(?:in|within)\s+(?:the|this)\s+{_PICTURE}\b"
    r"|visible\b|in\s+total\b)",
    re.I,
)
_IS = re.compile(r"\s+(?:is|was|has)\b", re.I)


def side_of(word: str) -> PictureSide:
    """`center` is the middle; the other sides are called as they are."""
    low = word.lower()
    return "middle" if low.startswith("cent") else low  # type: ignore[return-value]


def described(text: str, vocabulary: ObjectVocabulary) -> list[DescribedObject]:
    """Every object that the text says is there, with the words before and behind it."""
    found: list[DescribedObject] = []
    for number, piece in enumerate(split_sentences(text)):
        start, end = piece.start, piece.start + len(piece.text)
        mentions = [moved(mention, start) for mention in claimed(piece.text, vocabulary)]
        for index, mention in enumerate(mentions):
            after = mentions[index + 1] if index + 1 < len(mentions) else None
            left = mentions[index - 1].end if index else start
            found.append(_describe(text, mention, left, after, (start, end), number, vocabulary, len(mentions) == 1))
    return found


def _describe(
    text: str,
    mention: Mention,
    left: int,
    after: Mention | None,
    sentence: tuple[int, int],
    number: int,
    vocabulary: ObjectVocabulary,
    only: bool,
) -> DescribedObject:
    many = is_many(mention, vocabulary)
    if _PART_OF.search(text, left, mention.start) or (not many and _goes_on(text, mention, sentence[1])):
        return DescribedObject(mention, many, number)
    counted, color, bare = _before(text, mention, left, None if _is_unchanged(mention) else many)
    if _is_unchanged(mention):
        many = counted.number > 1 if counted is not None else not _IS.match(text, mention.end)
    end = mention.end
    places, spread, predicate = _behind(text, end, sentence[1], many)
    if not _of_the_picture(text, places, sentence):
        places, spread, predicate = (), None, False
    if places:
        end = spread[1] if spread else places[-1].end
    elif only and counted is not None and (front := _FRONT.search(text, sentence[0], counted.start)):
        start = front.start("place")
        places = (Placed(start, front.end("place"), side_of(front["side"]), start),)
    if color is None and (match := _IS_COLOR.match(text, end, sentence[1])):
        color = DescribedSpan(match.start("color"), match.end("color"), same_color(match["color"]))
    related = None
    if after is not None and not places and after.name != mention.name:
        related = _relation(text, mention.end, after)
    listed = (
        bare
        and counted is not None
        and _LISTING.search(text, sentence[0], counted.start) is not None
        and not_narrowed(text, end, sentence[1])
    )
    return DescribedObject(mention, many, number, counted, color, places, spread, related, listed, predicate)


def _goes_on(text: str, mention: Mention, end: int) -> bool:
    """Is the mention a part of a longer name (`car door`)? Then the statement is about that."""
    match = _WORD_BEHIND.match(text, mention.end, end)
    if match is None:
        return False
    word = match[1].lower()
    return (
        word not in FUNCTION_WORDS | STATES | COLORS and not re.search(r"(?:ing|ed|ly|s|n't)$", word) and len(word) > 3
    )


def _before(
    text: str, mention: Mention, left: int, many: bool | None
) -> tuple[CountWords | None, DescribedSpan | None, bool]:
    """(words of number, colour, whether no other adjective stands there) before a mention."""
    color: DescribedSpan | None = None
    mixed = False
    bare = True
    at = mention.start
    while match := _WORD_BEFORE.search(text, left, at):
        word = match[1].lower()
        start, end = match.span(1)
        if measure := _MEASURE.search(text, left, at):
            return _measured(text, measure, mention, at), None if mixed else color, bare
        if word in _ORDINALS:
            return None, None if mixed else color, bare
        if word in FUNCTION_WORDS:
            if word in ("and", "or") and color is not None:
                mixed = True
                at = start
                continue
            return _number(text, word, start, end, left, many), None if mixed else color, bare
        if word in VAGUE:
            return CountWords(start, end, VAGUE[word], False, True), None if mixed else color, bare
        if word in _EXACT:
            return _number(text, word, start, end, left, many), None if mixed else color, bare
        if word in COLORS:
            mixed = mixed or color is not None
            color = color or DescribedSpan(start, end, same_color(word))
        else:
            bare = False
        at = start
    return None, None if mixed else color, bare


def _number(text: str, word: str, start: int, end: int, left: int, many: bool | None) -> CountWords | None:
    """The word of number at a place, if it fits a noun that is plural or not (None: one that looks alike)."""
    if word in ("a", "an"):
        return (
            None if many or _PERHAPS.search(text, left, start) else CountWords(start, end, 1, True, True, article=True)
        )
    if word == "another":
        return None if many else CountWords(start, end, 1, True, True, article=True, more=True)
    if word in VAGUE:
        return CountWords(start, end, VAGUE[word], False, True)
    if word == "both":
        return CountWords(start, end, 2, True, False)
    number = _EXACT.get(word)
    if number is None or (many is not None and (number > 1) != many) or _ROUGHLY.search(text, left, start):
        return None
    known = _WORD_BEFORE.search(text, left, start)
    new = known is None or known[1].lower() not in _KNOWN
    if known is not None and known[1].lower() in ("only", "just"):
        new = True
    return CountWords(start, end, number, _AT_LEAST.search(text, left, start) is None, new)


def _measured(text: str, measure: re.Match[str], mention: Mention, end: int) -> CountWords:
    """`a couple of`, `a group of`, `a few`. `a pair of scissors` is one."""
    start = measure.start() + len(measure.group()) - len(measure.group().lstrip())
    until = start + len(text[start:end].rstrip())
    word = (measure["word"] or "few").lower()
    if word == "pair" and mention.word.lower() in PAIRED:
        return CountWords(start, until, 1, True, measure["the"] is None, article=True)
    if word == "pair":
        return CountWords(start, until, 2, True, measure["the"] is None)
    return CountWords(start, until, VAGUE[word], False, measure["the"] is None)


def _behind(text: str, at: int, end: int, many: bool) -> tuple[tuple[Placed, ...], tuple[int, int] | None, bool]:
    """(places, where words about the parts of a group stand, whether the place is a predicate) behind a mention."""
    if many and len(parts := read_spread(text, at, end)) > 1:
        return parts, (parts[0].lead, parts[-1].end), False
    match = _PLACE.match(text, at, end)
    if match is None:
        return (), None, False
    placed = Placed(match.start("place"), match.end("place"), side_of(match["side"]), at)
    return (placed,), None, match["being"] is not None and not re.search(r"which|that|who", match["being"])


def _of_the_picture(text: str, places: tuple[Placed, ...], sentence: tuple[int, int]) -> bool:
    """Are these places in the picture? `in the middle` is not, after `one on the left side of the table`."""
    if _OF_SOMETHING.search(text, *sentence) is None:
        return True
    return any(_OF_WHOLE.search(text[place.start : place.end]) for place in places)


def read_spread(text: str, at: int, end: int | None = None) -> tuple[Placed, ...]:
    """`, one on the left and two on the right`, behind a group: where its parts are. Empty where nothing so begins at
    `at`, or it has one part only.
    """
    end = len(text) if end is None else end
    parts: list[Placed] = []
    stop = at
    while match := (_PART_OF_GROUP if parts else _SPREAD_BEGINS).match(text, stop, end):
        number = _EXACT.get(match["number"].lower(), 1)
        lead = stop if parts else match.end("before")
        parts.append(Placed(match.start("place"), match.end(), side_of(match["side"]), lead, number))
        stop = match.end()
    return tuple(parts) if len(parts) > 1 else ()


def _relation(text: str, at: int, other: Mention) -> Related | None:
    match = _RELATION.match(text, at, other.start)
    if match is None:
        return None
    along = {"above": "top", "below": "bottom"}
    side = along[match["along"].lower()] if match["along"] else match["across"].lower()
    return Related(match.start("words"), match.end("words"), side, other)  # type: ignore[arg-type]


def same_color(color: str) -> str:
    low = color.lower()
    return {"grey": "gray", "golden": "gold"}.get(low, low)


def not_narrowed(text: str, at: int, end: int) -> bool:
    """Does nothing follow, up to `end`, that narrows down which objects are meant (`two dogs sleeping`)?"""
    return _NOT_NARROWED.match(text, at, end) is not None


def base_word(mention: Mention, vocabulary: ObjectVocabulary) -> str:
    """The mention's word as the vocabulary lists it: `mugs` is `mug`, though its class be `cup`."""
    said = " ".join(mention.word.lower().replace("-", " ").split())
    return next((word for word in vocabulary.synonyms[mention.name] if said in (word, *plurals(word))), said)


def _is_unchanged(mention: Mention) -> bool:
    return re.split(r"[\s-]", mention.word.lower())[-1] in UNCHANGED


def is_many(mention: Mention, vocabulary: ObjectVocabulary) -> bool:
    """Is the word a plural? One that is the same for one and for many (`sheep`) is."""
    last = re.split(r"[\s-]", mention.word.lower())[-1]
    if last in PAIRED:
        return False
    if last in PLURAL or last in UNCHANGED:
        return True
    return base_word(mention, vocabulary) != " ".join(mention.word.lower().replace("-", " ").split())


def moved(mention: Mention, by: int) -> Mention:
    return Mention(mention.start + by, mention.end + by, mention.word, mention.name)
