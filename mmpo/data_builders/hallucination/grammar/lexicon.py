"""The closed word classes of English that the grammar of image descriptions is built on."""

from __future__ import annotations

import re

from mmpo.text.function_words import (
    AUXILIARIES,
    BE,
    CONJUNCTIONS,
    DETERMINERS,
    FUNCTION_WORDS,
    NUMBERS,
    PLURAL_DETERMINERS,
    PREPOSITIONS,
    PRONOUNS,
    SINGULAR_DETERMINERS,
    STATES,
)

__all__ = [
    "AUXILIARIES", "BE", "CONJUNCTIONS", "DETERMINERS", "FUNCTION_WORDS", "NUMBERS", "PLURAL_DETERMINERS",
    "PREPOSITIONS", "PRONOUNS", "SINGULAR_DETERMINERS", "STATES",
]  # fmt: skip


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


POSSESSIVES = _words("his her its their my your our")

PERSONAL_PRONOUNS = _words("he she it they we him her us them itself themselves")
ANAPHORA = re.compile(
    r"(?:it|its|they|their|them|he|she|his|her|this|these|those|one of|both|each|some of|one (?:is|can)|"
    r"another(?: one)? (?:is|are|can)|the (?:other|others|first|second|third|rest|latter|former))\b",
    re.I,
)
"""Beginnings of sentences that refer to something named before."""

BE_PLURAL = {plural: singular for singular, plural in BE.items()}

LIST_LINKS = _words("with including featuring containing like as between among amongst amidst amid has have")
"""Links whose list continues: in `a table with a cup, a fork and a plate` the plate stands on the table too."""

_MEASURES = _words(
    "couple pair group bunch set number variety row stack pile herd flock crowd lot collection assortment series "
    "array slice piece pack line cluster handful mix range selection"
)
PLURAL_MEASURES = _words("couple number lot variety handful bunch few range")

_DETERMINER = "|".join(sorted(DETERMINERS, key=lambda word: (-len(word), word))) + r"|\d+"
QUANTIFIER = re.compile(
    rf"(?:(?:at least|about|approximately|up to|only|nearly)\s+)?(?:{_DETERMINER})(?:\s+(?:{_DETERMINER}))*\b"
    rf"(?:\s+(?:\w+\s+)?(?:{'|'.join(sorted(_MEASURES))})s?\s+of\b(?:\s+(?:{_DETERMINER}|different)\b)*)?",
    re.I,
)

_PLACES = "|".join(
    sorted(
        _words(
            "left right top bottom front side sides middle center centre back edge end corner rear background "
            "foreground midst part half direction"
        ),
        key=lambda word: (-len(word), word),
    )
)
COMPLEX_PREPOSITION = re.compile(
    rf"(?:(?:on|in|at|to|from|towards?)\s+(?:(?:the|its|their|each|either|one|both)\s+)?(?:\w+\s+)?(?:{_PLACES})"
    rf"(?:\s+(?:{_PLACES}))?\s+of|next\s+to|close\s+to|closer\s+to|adjacent\s+to|out\s+of|on\s+top\s+of|in\s+addition\s+to|"
    r"such\s+as|as\s+part\s+of|apart\s+from|aside\s+from|away\s+from|full\s+of|front\s+of)\b",
    re.I,
)
PLACE_WITHOUT_NOUN = re.compile(
    r"(?:on|in|at|to|towards?)\s+(?:the\s+|both\s+|either\s+)?(?:\w+\s+)?"
    rf"(?:{_PLACES}|distance)(?:\s+(?:{_PLACES}))?(?!\s+of\b)\b",
    re.I,
)
"""A position in the picture: `on the left`, `in the middle`."""

_AND = r"(?:and|or|as\s+well\s+as|along\s+with|plus)\b"
SEPARATOR = re.compile(rf"\s*(?:,\s*{_AND}|,|\b{_AND})\s*", re.I)
CLAUSE_JOINER = re.compile(
    r"\s*(?:[,;]\s*(?:and|while|whereas|but|with|where)\b|[,;]|\b(?:and|while|whereas|but)\b)\s*(?:also\s+)?", re.I
)

_ADVERB = r"(?:also|clearly|even|mainly|prominently|further|additionally|just|then)"
_PICTURE = r"(?:image|picture|photo|photograph|scene|view|shot|snapshot|painting|drawing|frame|setting)"
_SHOWS = (
    r"(?:shows?|features?|depicts?|captures?|displays?|contains?|includes?|presents?|portrays?|showcases?|has|consists\s+of|"
    r"is\s+of|is\s+filled\s+with|is\s+full\s+of)"
)
THERE = re.compile(
    rf"there(?:'s|\s+(?:{_ADVERB}\s+)?(?:is|are|was|were|appears?\s+to\s+be|seems?\s+to\s+be))(?:\s+{_ADVERB})?(?=\s)",
    re.I,
)
LISTING = re.compile(
    rf"(?:(?:i|we|you|one|viewers)\s+(?:(?:can|could|may)\s+)?(?:{_ADVERB}\s+)?(?:see|spot|notice|observe|find|make\s+out)"
    rf"|(?:(?:the|this|that|an?|another)\s+)?(?:(?!of\b)\w+\s+){{0,3}}?{_PICTURE}\s+(?:{_ADVERB}\s+)?{_SHOWS}"
    rf"|(?:this|it|here)\s+(?:{_ADVERB}\s+)?(?:is|are|{_SHOWS})"
    rf"|(?:some\s+|the\s+)?(?:other|additional|notable|visible)\s+\w+\s+(?:(?:in|on|around|of)\s+(?:the|this)\s+\w+\s+)?(?:{_ADVERB}\s+)?include"
    r")(?=\s)",
    re.I,
)
"""Beginnings that a list of things follows: `the image features`, `I can see`, `other objects in the room include`."""

VERBS = _words(
    "contain contains include includes hold holds sit sits stand stands lie lies appear appears seem seems rest rests "
    "hang hangs"
)
"""Full verbs that are common after the subject of a description."""

BEING = re.compile(
    rf"(?:(?:is|are|was|were)(?:\s+(?:{_ADVERB}|currently|all|both|being|not))*|can\s+(?:{_ADVERB}\s+)?be|"
    rf"(?:appears?|seems?)\s+to\s+be(?:\s+{_ADVERB})?|(?:{_ADVERB}\s+)?(?:has|have|contains?|includes?|holds?))(?=[\s.,;!?]|$)",
    re.I,
)
"""The verb of a clause about the place or state of its subject."""
