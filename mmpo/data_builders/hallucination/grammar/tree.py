"""The parts of a sentence in a description, and their wording.

The parts are plain values: the grammar makes them from text, the editor changes them, `say` turns them into text again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mmpo.data_builders.hallucination.grammar import lexicon as lx
from mmpo.text.described import read_spread


@dataclass(frozen=True)
class Tail:
    """A dependent of a phrase or a predicate. `link` carries its own leading space or comma (` next to`, `, holding`).

    `names` are the classes in `link` itself, which happens where the tail could only be read as a whole.
    """

    link: str
    items: tuple[Phrase, ...] = ()
    joints: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Phrase:
    """A noun phrase: `a couple of` + `red apples`, the classes in it, and its tails."""

    quantifier: str
    words: str
    names: tuple[str, ...]
    plural: bool
    tails: tuple[Tail, ...] = ()


ClauseKind = Literal["there", "listing", "subject", "fragment", "whole"]


@dataclass(frozen=True)
class Clause:
    """`joiner` ties it to the clause before (`, while `); `joints` separate the items of its list.

    A `whole` clause could not be taken apart: it has no items, and one tail with all its words.
    """

    kind: ClauseKind
    items: tuple[Phrase, ...]
    joints: tuple[str, ...]
    joiner: str = ""
    front: tuple[Tail, ...] = ()
    front_end: str = ""
    opening: str = ""
    verb: str = ""
    tails: tuple[Tail, ...] = ()


@dataclass(frozen=True)
class Sentence:
    """A sentence that was understood: its clauses and its closing mark."""

    clauses: tuple[Clause, ...]
    end: str = "."


def say(sentence: Sentence) -> str:
    """The sentence in words."""
    text = "".join(_say_clause(clause, first=number == 0) for number, clause in enumerate(sentence.clauses))
    return text[:1].upper() + text[1:] + sentence.end


def _say_clause(clause: Clause, *, first: bool) -> str:
    said = "" if first else clause.joiner
    said += "".join(say_tail(tail).lstrip() for tail in clause.front) + clause.front_end
    listed = _say_list(clause.items, clause.joints)
    said += f"{clause.opening} {listed}" if clause.opening else listed
    if clause.kind == "whole":
        return said + clause.tails[0].link.strip()
    if clause.verb:
        said += f" {clause.verb}" + "".join(say_tail(t) for t in clause.tails)
    return said


def _say_list(items: Sequence[Phrase], between: Sequence[str]) -> str:
    said = ""
    for number, item in enumerate(items):
        said += (between[number - 1] if number else "") + _say_phrase(item)
    return said


def _say_phrase(phrase: Phrase) -> str:
    return f"{phrase.quantifier} {phrase.words}".strip() + "".join(say_tail(tail) for tail in phrase.tails)


def say_tail(tail: Tail) -> str:
    listed = _say_list(tail.items, tail.joints)
    if not listed:
        return tail.link if tail.link.startswith((" ", ",")) else f" {tail.link}"
    return f"{tail.link} {listed}" if tail.link.startswith((" ", ",")) or not tail.link else f" {tail.link} {listed}"


def phrase_names(phrase: Phrase) -> list[str]:
    """Every class named in the phrase, tails included."""
    return [*phrase.names, *(name for tail in phrase.tails for name in tail_names(tail))]


def tail_names(tail: Tail) -> list[str]:
    return [*tail.names, *(name for item in tail.items for name in phrase_names(item))]


def clause_names(clause: Clause, *, front_only: bool = False) -> list[str]:
    fronted = [name for tail in clause.front for name in tail_names(tail)]
    if front_only:
        return fronted
    return (
        fronted
        + [name for item in clause.items for name in phrase_names(item)]
        + [name for tail in clause.tails for name in tail_names(tail)]
    )


def is_place(tail: Tail) -> bool:
    """Does the tail give a position in the picture, such as `on the left`?"""
    items = " ".join(f"{item.quantifier} {item.words}".strip() for item in tail.items)
    return is_spread(tail) or lx.PLACE_WITHOUT_NOUN.fullmatch(f"{tail.link.strip()} {items}".strip()) is not None


def is_spread(tail: Tail) -> bool:
    """Does the tail give the places of the parts of a group: `, one on the left and one on the right`?"""
    return not tail.items and bool(read_spread(tail.link, 0))


def sentence_names(sentence: Sentence | None) -> list[str]:
    return [] if sentence is None else [name for clause in sentence.clauses for name in clause_names(clause)]


def is_plural(quantifier: str, words: str) -> bool:
    """Does a verb after this phrase take the plural? `a group of dogs` does not, `a couple of dogs` does."""
    parts = quantifier.lower().split()
    if "of" in parts:
        return parts[parts.index("of") - 1] in lx.PLURAL_MEASURES or parts[0] not in (
            "a",
            "an",
            "one",
            "the",
            "another",
        )
    for part in reversed(parts):
        if part in lx.SINGULAR_DETERMINERS or part == "1":
            return False
        if part in lx.PLURAL_DETERMINERS or part.isdigit():
            return True
    noun = words.lower().split()[-1]
    return noun in _IRREGULAR_PLURALS or (noun.endswith("s") and not noun.endswith(("ss", "us", "is")))


_IRREGULAR_PLURALS = frozenset(
    [
        "people",
        "men",
        "women",
        "children",
        "kids",
        "mice",
        "geese",
        "feet",
        "teeth",
        "knives",
        "sheep",
        "cattle",
        "police",
        "scissors",
        "pants",
    ]
)
