"""The closed word classes of English that the grammar of image descriptions stands on."""

from __future__ import annotations

import re

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")

SINGULAR_DETERMINERS = frozenset("a an another one this that each every".split())
PLURAL_DETERMINERS = frozenset("these those several many multiple numerous various few both all other additional".split()) | frozenset(
    NUMBERS[1:]
)
DETERMINERS = SINGULAR_DETERMINERS | PLURAL_DETERMINERS | frozenset("the some no any his her its their my your our more".split())
POSSESSIVES = frozenset("his her its their my your our".split())

PRONOUNS = frozenset(
    "i we you he she it they them him us me himself herself itself themselves there here who whom which what "
    "someone something everyone everything others".split()
)
PERSONAL_PRONOUNS = frozenset("he she it they we him her us them itself themselves".split())
ANAPHORA = re.compile(
    r"(?:it|its|they|their|them|he|she|his|her|this|these|those|one of|both|each|the (?:other|others|first|second|third|rest|latter|former)|another(?: one)? (?:is|are|can)|one (?:is|can)|some of)\b", re.I
)
"""How a sentence begins that speaks of something named before. A noun may follow: `this kitchen` points outwards, `its owner` back."""

BE = {"is": "are", "was": "were", "has": "have", "does": "do"}
"""Auxiliaries, singular to plural."""
AUXILIARIES = frozenset(BE) | frozenset(BE.values()) | frozenset("can could may might will would should must had".split())
BE_PLURAL = {plural: singular for singular, plural in BE.items()}

PREPOSITIONS = frozenset(
    "on in at near by beside behind under underneath below above over across along around inside outside between among amongst "
    "amidst amid beneath against with without of to from into onto through throughout towards toward off up down for during "
    "alongside within past beyond opposite like including featuring containing".split()
)
LIST_LINKS = frozenset("with including featuring containing like as between among amongst amidst amid has have".split())
"""Links whose list goes on: in `a table with a cup, a fork and a plate` the plate stands on the table too."""

CONJUNCTIONS = frozenset("and or but nor while whereas as because since although though so if when where that than".split())
FUNCTION_WORDS = DETERMINERS | PRONOUNS | AUXILIARIES | PREPOSITIONS | CONJUNCTIONS | frozenset("not n't".split())

STATES = frozenset(
    "visible present available nearby close closer closest next adjacent full ready similar attached seen worn held made set laid "
    "hung hanging shown kept built lit lying spread drawn together outside outdoors indoors apart too alone well there here "
    "also further farther partially".split()
)
"""Words that follow a noun and tell its state or place."""

_MEASURES = (
    "couple pair group bunch set number variety row stack pile herd flock crowd lot collection assortment series array slice piece "
    "pack line cluster handful mix range selection".split()
)
PLURAL_MEASURES = frozenset("couple number lot variety handful bunch few range".split())

_DETERMINER = "|".join(sorted(DETERMINERS, key=len, reverse=True)) + r"|\d+"
QUANTIFIER = re.compile(
    rf"(?:(?:at least|about|approximately|up to|only|nearly)\s+)?(?:{_DETERMINER})(?:\s+(?:{_DETERMINER}))*\b"
    rf"(?:\s+(?:\w+\s+)?(?:{'|'.join(_MEASURES)})s?\s+of\b(?:\s+(?:{_DETERMINER}|different)\b)*)?",
    re.I,
)

_PLACES = (
    "left right top bottom front side sides middle center centre back edge end corner rear background foreground midst part half "
    "direction".split()
)
COMPLEX_PREPOSITION = re.compile(
    rf"(?:(?:on|in|at|to|from|towards?)\s+(?:(?:the|its|their|each|either|one|both)\s+)?(?:\w+\s+)?(?:{'|'.join(_PLACES)})"
    rf"(?:\s+(?:{'|'.join(_PLACES)}))?\s+of|next\s+to|close\s+to|closer\s+to|adjacent\s+to|out\s+of|on\s+top\s+of|in\s+addition\s+to|"
    r"such\s+as|as\s+part\s+of|apart\s+from|aside\s+from|away\s+from|full\s+of|front\s+of)\b",
    re.I,
)
PLACE_WITHOUT_NOUN = re.compile(
    r"(?:on|in|at|to|towards?)\s+(?:the\s+|both\s+|either\s+)?(?:\w+\s+)?"
    rf"(?:{'|'.join(_PLACES)}|distance)(?:\s+(?:{'|'.join(_PLACES)}))?(?!\s+of\b)\b",
    re.I,
)
"""A position in the picture: `on the left`, `in the middle`."""

SEPARATOR = re.compile(r"\s*(?:,\s*(?:and|or|as\s+well\s+as|along\s+with|plus)\b|,|\b(?:and|or|as\s+well\s+as|along\s+with|plus)\b)\s*", re.I)
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
    rf"there(?:'s|\s+(?:{_ADVERB}\s+)?(?:is|are|was|were|appears?\s+to\s+be|seems?\s+to\s+be))(?:\s+{_ADVERB})?(?=\s)", re.I
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

VERBS = frozenset(
    "contain contains include includes hold holds sit sits stand stands lie lies appear appears seem seems rest rests hang hangs".split()
)
"""Full verbs that are common after the subject of a description."""

BEING = re.compile(
    rf"(?:(?:is|are|was|were)(?:\s+(?:{_ADVERB}|currently|all|both|being|not))*|can\s+(?:{_ADVERB}\s+)?be|"
    rf"(?:appears?|seems?)\s+to\s+be(?:\s+{_ADVERB})?|(?:{_ADVERB}\s+)?(?:has|have|contains?|includes?|holds?))(?=[\s.,;!?]|$)",
    re.I,
)
"""The verb of a clause that tells where or how its subject is."""
