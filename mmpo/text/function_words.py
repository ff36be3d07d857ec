"""The closed word classes of English: determiners, pronouns, auxiliaries, prepositions, conjunctions, states."""

from __future__ import annotations


def word_set(text: str) -> frozenset[str]:
    """The words that occur in a text."""
    return frozenset(text.split())


NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")

SINGULAR_DETERMINERS = word_set("a an another one this that each every")
PLURAL_DETERMINERS = frozenset(NUMBERS[1:]) | word_set(
    "these those several many multiple numerous various few both all other additional"
)
DETERMINERS = SINGULAR_DETERMINERS | PLURAL_DETERMINERS | word_set("the some no any his her its their my your our more")

PRONOUNS = word_set(
    "i we you he she it they them him us me himself herself itself themselves there here who whom which what "
    "someone something everyone everything others"
)
BE = {"is": "are", "was": "were", "has": "have", "does": "do"}
"""Auxiliaries, singular to plural."""
AUXILIARIES = frozenset(BE) | frozenset(BE.values()) | word_set("can could may might will would should must had")

PREPOSITIONS = word_set(
    "on in at near by beside behind under underneath below above over across along around inside outside between "
    "among amongst amidst amid beneath against with without of to from into onto through throughout towards toward "
    "off up down for during alongside within past beyond opposite like including featuring containing"
)

CONJUNCTIONS = word_set("and or but nor while whereas as because since although though so if when where that than")
FUNCTION_WORDS = DETERMINERS | PRONOUNS | AUXILIARIES | PREPOSITIONS | CONJUNCTIONS | word_set("not n't")

STATES = word_set(
    "visible present available nearby close closer closest next adjacent full ready similar attached seen worn held "
    "made set laid hung hanging shown kept built lit lying spread drawn together outside outdoors indoors apart too "
    "alone well there here also further farther partially"
)
"""Words that follow a noun and give its state or place."""
