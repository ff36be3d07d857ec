"""Taking things out of a sentence so that what remains is English, and putting others in.

A phrase whose object is not there goes; what depended on it moves up where it can stand alone (`a dog next to a cat`
becomes `a cat`), a tail that loses its phrase goes with its link (`sleeping on a couch` as a whole), and a clause
that loses its predicate becomes `there is …`. Verbs follow the number of their new subjects.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from mmpo.data_builders.hallucination.grammar import lexicon as lx
from mmpo.data_builders.hallucination.grammar.tree import (
    Clause,
    Phrase,
    Sentence,
    Tail,
    clause_names,
    is_place,
    phrase_names,
)
from mmpo.text.words import article

_LEADING_AND = re.compile(r"^,?\s*(?:and|or)\b", re.I)

_PLURAL_RELATIVE = re.compile(r",?\s*(?:which|who|that)\s+(?:are|were|have)\b", re.I)


@dataclass
class Editor:
    """Edits the sentences of one description, in order.

    `absent(name)` says which classes have to go. `spare` are phrases that may take the place of what was removed,
    `told` the classes that the edited text has named so far. `across(phrase)` is the place in the picture of a phrase's
    object is, from left to right: a list in reading order stays one.
    """

    absent: Callable[[str], bool]
    spare: list[Phrase] = field(default_factory=list)
    oxford: bool = False
    told: set[str] = field(default_factory=set)
    across: Callable[[Phrase], float | None] = lambda phrase: None
    used: list[Phrase] = field(default_factory=list)

    def sentence(self, sentence: Sentence) -> Sentence | None:
        """The sentence without what is absent; None where nothing is left to say."""
        clauses: list[Clause] = []
        whole_before = True
        for clause in sentence.clauses:
            edited = self._clause(clause)
            first = not clauses and bool(clause.joiner)
            if edited is None or self._dangles(edited, first=first, after_edit=not whole_before):
                whole_before = False
                continue
            whole_before = edited == clause
            if not clauses and edited.kind == "fragment" and clause.joiner:
                edited = self._there(edited.items, edited)
            clauses.append(edited)
            self.told.update(clause_names(edited))
        return Sentence(tuple(clauses), sentence.end) if clauses else None

    def _dangles(self, clause: Clause, *, first: bool, after_edit: bool) -> bool:
        """Does the clause depend on one that is gone or changed (`it is …`, `and is standing …`)?"""
        if clause.kind == "whole":
            return first or (after_edit and lx.BEING.match(clause.tails[0].link.strip()) is not None)
        return first and lx.ANAPHORA.match(_first_words(clause)) is not None

    def _clause(self, clause: Clause) -> Clause | None:
        if not any(self.absent(name) for name in clause_names(clause)):
            return clause
        if clause.kind == "whole":
            return None
        front = tuple(kept for tail in clause.front if (kept := self._tail(tail)[0]))
        fronted = replace(clause, front=front, front_end=clause.front_end if front else "")
        if clause.kind == "subject":
            return self._subject(fronted)
        items = self._items(clause.items, substitute=True)
        if not items and clause.front:
            items = self._named(item for tail in front for item in tail.items)
            fronted = replace(fronted, front=(), front_end="")
        if not items or (clause.kind == "fragment" and not any(item.names or item.tails for item in items)):
            return None
        return agree(replace(fronted, items=items, joints=self._joints(clause, items)), clause)

    def _subject(self, clause: Clause) -> Clause | None:
        subjects = [self._phrase(item) for item in clause.items]
        kept = tuple(phrase for phrase, _ in subjects if phrase is not None)
        core, lifted = self._tail(clause.tails[0])
        more = [tail for tail in self._tails(clause.tails[1:]) if core or lifted or _LEADING_AND.match(tail.link)]
        tails = _without_plural_relatives(([core] if core else lifted) + more, clause.tails)
        if not kept:
            homeless = [item for _, promoted in subjects for item in promoted]
            homeless += [item for tail in tails if not tail.link.startswith(",") for item in tail.items]
            items = self._named(homeless) or self._substitutes()
            return self._there(items, clause) if items else None
        if not tails:
            fresh = tuple(item for item in kept if item.names and not self.told.issuperset(item.names))
            return self._there(fresh, clause) if fresh else None
        tails[0] = strip_and(tails[0])
        was_plural, now_plural = is_many(clause.items), is_many(kept)
        verb = conjugate(clause.verb, now_plural) if was_plural != now_plural else clause.verb
        return replace(clause, items=kept, joints=self._joints(clause, kept), verb=verb, tails=tuple(tails))

    def _items(self, items: Iterable[Phrase], *, substitute: bool) -> tuple[Phrase, ...]:
        left: list[Phrase] = []
        gaps: list[int] = []
        for item in items:
            phrase, promoted = self._phrase(item)
            if phrase is not None:
                left.append(phrase)
            elif named := self._named(promoted):
                left += named
            else:
                gaps.append(len(left))
        for number, gap in enumerate(gaps if substitute else ()):
            for phrase in self._substitutes():
                left = inserted(left, phrase, self.across, otherwise=gap + number)
        return tuple(left)

    def _phrase(self, phrase: Phrase) -> tuple[Phrase | None, list[Phrase]]:
        """The phrase without absent tails; or None and the phrases inside it that can stand alone."""
        tails = _without_plural_relatives(self._tails(phrase.tails), phrase.tails)
        hollow = not phrase.names and _count_of(tails) < _count_of(phrase.tails)
        if hollow or any(self.absent(name) for name in phrase.names):  # "a view of a dog" is nothing without the dog
            return None, [item for tail in tails for item in tail.items]
        if tails and tails[0] != phrase.tails[0]:
            tails[0] = strip_and(tails[0])
        return replace(phrase, tails=tuple(tails)), []

    def _tails(self, tails: Iterable[Tail]) -> list[Tail]:
        left: list[Tail] = []
        for tail in tails:
            here, lifted = self._tail(tail)
            left += ([here] if here else []) + lifted
        return left

    def _tail(self, tail: Tail) -> tuple[Tail | None, list[Tail]]:
        """The tail that is left, or None and the tails of the lost phrase that can move up."""
        if any(self.absent(name) for name in tail.names):
            return None, []
        if not any(self.absent(name) for item in tail.items for name in phrase_names(item)):
            return tail, []
        link = _last_word(tail.link)
        if link == "between" or (tail.link and link not in lx.LIST_LINKS):
            kept = [phrase for item in tail.items if (phrase := self._phrase(item)[0])]
            if len(kept) == len(tail.items):
                return replace(tail, items=tuple(kept)), []
            return None, [inner for item in tail.items for inner in item.tails if self._can_move(inner)]
        items = self._items(tail.items, substitute=link in ("with", "including", "has", "have"))
        if not items or (link in ("among", "amongst", "amidst", "amid") and len(items) < 2):
            return None, []
        return replace(tail, items=items, joints=joints(len(items), tail.joints, self.oxford)), []

    def _can_move(self, tail: Tail) -> bool:
        names = [name for item in tail.items for name in phrase_names(item)] + list(tail.names)
        if any(self.absent(name) for name in names):
            return False
        words = tail.link.lower().split()
        placed = bool(words) and (
            words[-1] in lx.PREPOSITIONS or lx.COMPLEX_PREPOSITION.match(tail.link.strip()) is not None
        )
        return placed and words[-1] not in ("of", "with") and (bool(names) or is_place(tail))

    def _named(self, phrases: Iterable[Phrase]) -> tuple[Phrase, ...]:
        """Those that name a class not mentioned yet, made fit to stand first."""
        fresh = [
            indefinite(phrase)
            for phrase in phrases
            if phrase.names
            and phrase.quantifier.split(" ")[0] not in lx.POSSESSIVES
            and not self.told.issuperset(phrase.names)
        ]
        return tuple(fresh)

    def _substitutes(self) -> tuple[Phrase, ...]:
        if not self.spare:
            return ()
        self.used.append(self.spare.pop(0))
        return (self.used[-1],)

    def _there(self, items: tuple[Phrase, ...], old: Clause) -> Clause:
        """`There is …`, in the place of a clause that no longer holds."""
        items = tuple(indefinite(item) for item in items)
        opening = "there are" if items[0].plural else "there is"
        front, end = (
            (old.front, old.front_end) if not any(map(self.absent, clause_names(old, front_only=True))) else ((), "")
        )
        return Clause("there", items, joints(len(items), (), self.oxford), old.joiner, front, end, opening)

    def _joints(self, old: Clause, items: tuple[Phrase, ...]) -> tuple[str, ...]:
        if len(items) != len(old.items):
            return joints(len(items), old.joints, self.oxford)
        if len(items) == 2 and old.joints[0].startswith(",") and items[0] != old.items[0]:
            return joints(2, (), self.oxford)  # the comma closed a tail that is gone
        return old.joints


def joints(count: int, like: tuple[str, ...], oxford: bool) -> tuple[str, ...]:
    """The separators of `count` items, in the manner of an earlier list (`, ` and ` or `; a last comma or none)."""
    if count < 2:
        return ()
    word = "or" if like and re.search(r"\bor\b", like[-1]) else "and"
    comma = like[-1].startswith(",") if len(like) > 1 else oxford
    return (", ",) * (count - 2) + (f", {word} " if comma and count > 2 else f" {word} ",)


def inserted(
    items: Sequence[Phrase], phrase: Phrase, across: Callable[[Phrase], float | None], *, otherwise: int
) -> list[Phrase]:
    """`items` with one more: in its place from left to right if the list is so ordered, else at index `otherwise`."""
    spots = [across(item) for item in items]
    known = [spot for spot in spots if spot is not None]
    spot = across(phrase)
    at = otherwise
    if spot is not None and known and known == sorted(known):
        at = next((index for index, other in enumerate(spots) if other is not None and other > spot), len(items))
    return [*items[:at], phrase, *items[at:]]


def is_many(items: tuple[Phrase, ...]) -> bool:
    return len(items) > 1 or items[0].plural


def agree(clause: Clause, before: Clause) -> Clause:
    """`there is` or `there are`: after the first item, or after all of them where the sentence did so before."""
    if clause.kind != "there":
        return clause
    counted_all = (
        before.kind == "there"
        and len(before.items) > 1
        and not before.items[0].plural
        and is_plural_verb(before.opening)
    )
    plural = is_many(clause.items) if counted_all else clause.items[0].plural
    if is_plural_verb(clause.opening) == plural:
        return clause
    return replace(clause, opening=conjugate(clause.opening.replace("there's", "there is"), plural))


def is_plural_verb(text: str) -> bool:
    return any(word in lx.BE_PLURAL or word in ("appear", "seem") for word in text.lower().split())


def conjugate(verb: str, plural: bool) -> str:
    """The verb for one or for many: `is sitting` / `are sitting`, `sits` / `sit`. Modal verbs stay."""
    words = verb.split(" ")
    if any(word.lower() in ("can", "could", "may", "might", "will") for word in words):
        return verb
    for index, word in enumerate(words):
        swap = lx.BE if plural else lx.BE_PLURAL
        if word.lower() in swap:
            words[index] = swap[word.lower()]
            return " ".join(words)
        if word.lower() in ("appear", "appears", "seem", "seems"):
            words[index] = word.rstrip("s") + ("" if plural else "s")
            return " ".join(words)
    if len(words) > 1 or words[0].lower() in lx.AUXILIARIES:
        return verb
    return _bare_verb(verb) if plural else _third_person(verb)


def _third_person(verb: str) -> str:
    if re.search(r"(s|x|z|ch|sh|o)$", verb):
        return verb + "es"
    return verb[:-1] + "ies" if re.search(r"[^aeiou]y$", verb) else verb + "s"


def _bare_verb(verb: str) -> str:
    if verb.endswith("ies"):
        return verb[:-3] + "y"
    return verb[:-2] if re.search(r"(ss|x|zz|ch|sh|o)es$", verb) else verb[:-1]


def indefinite(phrase: Phrase) -> Phrase:
    """The phrase as it is first named: `the dog` becomes `a dog`, `the dogs` `some dogs`."""
    first, _, rest = phrase.quantifier.partition(" ")
    if first not in ("the", "this", "that", "these", "those", "all", "both", "each", "every", *lx.POSSESSIVES):
        return phrase
    if rest == "other":
        return replace(phrase, quantifier="other" if phrase.plural else "another")
    if rest:
        return replace(phrase, quantifier=rest)
    return replace(phrase, quantifier="some" if phrase.plural else article(phrase.words))


def _count_of(tails: Iterable[Tail]) -> int:
    return sum(tail.link.strip() == "of" for tail in tails)


def _first_words(clause: Clause) -> str:
    return f"{clause.opening or clause.items[0].quantifier} {clause.items[0].words} {clause.verb}".strip()


def _last_word(text: str) -> str:
    words = text.lower().split()
    return words[-1] if words else ""


def _without_plural_relatives(tails: list[Tail], before: tuple[Tail, ...]) -> list[Tail]:
    """After a list got shorter, `, which are …` may refer to one thing only: it goes."""
    if all(tail in tails for tail in before):
        return tails
    return [tail for tail in tails if not _PLURAL_RELATIVE.match(tail.link)]


def strip_and(tail: Tail) -> Tail:
    """The first of several tails does not begin with `and`."""
    return replace(tail, link=_LEADING_AND.sub("", tail.link)) if _LEADING_AND.match(tail.link) else tail
