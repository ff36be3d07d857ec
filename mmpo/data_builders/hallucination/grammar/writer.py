"""The rule-based writer: rewords parsed sentences, corrects a description, and words both sides of a pair alike.

HA-DPO (Zhao et al. 2023, arXiv:2311.16839) has a language model rewrite the corrected *and* the hallucinated
description, so that style does not give them away. Here one grammar reads both, one renderer words both, and what
varies is drawn from the same seed for both; sentences that the grammar can't read stay as the model wrote them on
both sides.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mmpo.data_builders.hallucination.detect import SplitSentence, claimed, split_sentences
from mmpo.data_builders.hallucination.grammar import lexicon as lx
from mmpo.data_builders.hallucination.grammar.edit import Editor, agree, inserted, joints
from mmpo.data_builders.hallucination.grammar.parse import parse
from mmpo.data_builders.hallucination.grammar.phrases import noun_phrase
from mmpo.data_builders.hallucination.grammar.tree import Clause, Phrase, Sentence, is_place, say, sentence_names
from mmpo.text.vocabulary import ObjectVocabulary

OPENINGS = ("there is", "I can see", "the image shows", "the picture shows", "we can see")
"""Possible beginnings of a rewritten list."""


@dataclass(frozen=True)
class Correction:
    """A description and its corrected text. `lost` are true objects whose sentence could not be saved."""

    original: str
    corrected: str
    removed: tuple[str, ...]
    added: tuple[str, ...]
    lost: tuple[str, ...]


@dataclass(frozen=True)
class SentencePart:
    """One sentence of a description, with the white space before it; `tree` is None where the grammar can't read it."""

    before: str
    text: str
    names: tuple[str, ...]
    tree: Sentence | None


class Writer:
    """Writes descriptions for one vocabulary. Everything it does depends on its arguments alone."""

    def __init__(self, vocabulary: ObjectVocabulary) -> None:
        self.vocabulary = vocabulary

    def read(self, text: str) -> list[SentencePart]:
        """The sentences of a description, parsed."""
        return [self._part(piece) for piece in split_sentences(text)]

    def _part(self, piece: SplitSentence) -> SentencePart:
        mentions = claimed(piece.text, self.vocabulary)
        return SentencePart(piece.before, piece.text, tuple(m.name for m in mentions), parse(piece.text, mentions))

    def correct(
        self,
        text: str,
        absent: Callable[[str], bool],
        missed: Sequence[Phrase] = (),
        *,
        add: int = 0,
        variant: int = 0,
        seed: str = "",
        across: Callable[[Phrase], float | None] = lambda phrase: None,
        repaired: str | None = None,
    ) -> Correction:
        """Both sides of a pair: `text` reworded, and the same without what is absent. `repaired` is `text` with other
        mistakes put right already (numbers, colours, places); the corrected side starts from it.

        `missed` are phrases for objects that the text leaves out, in the order of their importance; up to `add` of them
        are put in, first where something was removed. With any `add`, true objects whose sentence was lost come back
        the same way without counting. Variant 0 keeps the model's own openings; further variants draw others, the
        same ones for both sides.
        """
        parts = self.read(text)
        originals = [self._reworded(part, number, variant, seed) for number, part in enumerate(parts)]
        starts = originals
        if repaired is not None and repaired != text:
            starts = [self._reworded(part, number, variant, seed) for number, part in enumerate(self.read(repaired))]
        said = {name for part in parts for name in part.names}
        spare = [phrase for phrase in missed if not said.issuperset(phrase.names)][:add]
        editor = Editor(absent, spare, oxford=bool(re.search(r",\s+(?:and|or)\s", text)), across=across)
        kept: list[SentencePart] = []
        changed = False
        for part in starts:
            if changed and lx.ANAPHORA.match(part.text):
                continue
            wrong = any(absent(name) for name in part.names)
            tree = None if part.tree is None else (editor.sentence(part.tree) if wrong else part.tree)
            changed = wrong
            if wrong and tree is None:
                continue
            text_now = say(tree) if wrong and tree is not None else part.text
            names = tuple(sentence_names(tree)) if wrong and tree is not None else part.names
            editor.told.update(names)
            kept.append(SentencePart(part.before, text_now, names, tree))
        told = {name for part in kept for name in part.names}
        lost = tuple(sorted({name for name in said if not absent(name)} - told))
        more = ([self._again(name, missed) for name in lost] + editor.spare) if add else []
        kept = self._append(kept, more, editor)
        added = tuple(name for phrase in editor.used + (editor.spare if add else []) for name in phrase.names)
        return Correction(
            join(originals), join(kept), tuple(sorted(name for name in said if absent(name))), added, lost
        )

    def reword(self, text: str, variant: int, seed: str) -> str:
        """One side by itself: the same facts, with the openings of this variant."""
        return join([self._reworded(part, number, variant, seed) for number, part in enumerate(self.read(text))])

    def recast(self, text: str, told: str, *, variant: int = 0, seed: str = "") -> tuple[str, str] | None:
        """`text` reworded, and the same with the objects that `told` lists in the place of its own: what another person
        saw, in the same sentences. Sentences about other objects go. None where either text holds no list that the
        grammar can read.
        """
        parts = [self._reworded(part, number, variant, seed) for number, part in enumerate(self.read(text))]
        items = tuple(item for part in self.read(told) for item in told_items(part.tree))
        places = [number for number, part in enumerate(parts) if part.names and _lists(part.tree)]
        if not places or not items:
            return None
        kept = []
        for number, part in enumerate(parts):
            if number == places[-1] and part.tree is not None:
                kept.append(replace(part, text=say(_with_items(part.tree, items, text))))
            elif not part.names:
                kept.append(part)
        return join(parts), join(kept)

    def _again(self, name: str, missed: Sequence[Phrase]) -> Phrase:
        return next((phrase for phrase in missed if phrase.names == (name,)), noun_phrase(name))

    def _reworded(self, part: SentencePart, number: int, variant: int, seed: str) -> SentencePart:
        if part.tree is None or variant == 0:
            return part if part.tree is None else replace(part, text=say(part.tree))
        tree = vary(part.tree, random.Random(f"{seed}/{variant}/{number}"))
        return replace(part, text=say(tree), tree=tree)

    def _append(self, parts: list[SentencePart], phrases: list[Phrase], editor: Editor) -> list[SentencePart]:
        """Add phrases to the last plain list of the text, or say them in a sentence of their own at its end."""
        if not phrases:
            return parts
        last = parts[-1] if parts else None
        if last is not None and last.tree is not None and (tree := extended(last.tree, phrases, editor)):
            return [*parts[:-1], SentencePart(last.before, say(tree), tuple(sentence_names(tree)), tree)]
        opening = "there are" if phrases[0].plural else "there is"
        between = joints(len(phrases), (), editor.oxford)
        tree = Sentence((Clause("there", tuple(phrases), between, opening=opening),))
        return [*parts, SentencePart(" ", say(tree), tuple(sentence_names(tree)), tree)]


def listing(opening: str, phrases: Sequence[Phrase]) -> str:
    """One sentence that lists phrases: `The image contains a cat and two cups.`; nothing where there are none."""
    items = tuple(phrases)
    return say(Sentence((Clause("listing", items, joints(len(items), (), False), opening=opening),))) if items else ""


def told_items(tree: Sentence | None) -> list[Phrase]:
    """The items that a sentence lists, each with its tails; those behind `with` where what precedes it is no object."""
    found: list[Phrase] = []
    for clause in tree.clauses if tree is not None else ():
        for item in clause.items:
            inner = [phrase for tail in item.tails if tail.link.strip() == "with" for phrase in tail.items]
            found += [item] if item.names else [phrase for phrase in inner if phrase.names]
    return found


def _lists(tree: Sentence | None) -> bool:
    return tree is not None and tree.clauses[-1].kind in ("there", "listing") and bool(told_items(tree))


def _with_items(tree: Sentence, items: tuple[Phrase, ...], text: str) -> Sentence:
    """The sentence with another list; behind `with` where its own stands there."""
    clause = tree.clauses[-1]
    between = joints(len(items), (), bool(re.search(r",\s+(?:and|or)\s", text)))
    head = clause.items[0]
    if not head.names and head.tails and head.tails[-1].link.strip() == "with":
        tail = replace(head.tails[-1], items=items, joints=between)
        listed = replace(clause, items=(replace(head, tails=(*head.tails[:-1], tail)),), joints=())
    else:
        listed = agree(replace(clause, items=items, joints=between), replace(clause, items=clause.items[:1], joints=()))
    return replace(
        tree,
        clauses=(listed,) if told_items(replace(tree, clauses=tree.clauses[:-1])) else (*tree.clauses[:-1], listed),
    )


def extended(tree: Sentence, phrases: list[Phrase], editor: Editor) -> Sentence | None:
    """The sentence with more items on its list; None if it does not end with a plain list."""
    clause = tree.clauses[-1]
    if clause.kind not in ("there", "listing"):
        return None
    inner = clause.items[0].tails[-1] if len(clause.items) == 1 and clause.items[0].tails else None
    if inner is not None and inner.link.strip() == "with":
        items = _with_more(inner.items, phrases, editor)
        tail = replace(inner, items=items, joints=joints(len(items), inner.joints, editor.oxford))
        head = replace(clause.items[0], tails=(*clause.items[0].tails[:-1], tail))
        return replace(tree, clauses=(*tree.clauses[:-1], replace(clause, items=(head,))))
    if not all(is_place(tail) for item in clause.items for tail in item.tails):
        return None
    items = _with_more(clause.items, phrases, editor)
    grown = replace(clause, items=items, joints=joints(len(items), clause.joints, editor.oxford))
    return replace(tree, clauses=(*tree.clauses[:-1], agree(grown, clause)))


def _with_more(items: tuple[Phrase, ...], phrases: list[Phrase], editor: Editor) -> tuple[Phrase, ...]:
    grown = list(items)
    for phrase in phrases:
        grown = inserted(grown, phrase, editor.across, otherwise=len(grown))
    return tuple(grown)


def join(parts: Sequence[SentencePart]) -> str:
    return "".join(part.before + part.text for part in parts).strip()


def vary(sentence: Sentence, rng: random.Random) -> Sentence:
    """The same facts behind another opening, where the sentence opens a list."""
    clause = sentence.clauses[0]
    fixed = clause.front_end == " " or re.search(r"\b(?:include|it|this|here)\b", clause.opening)
    if clause.kind not in ("there", "listing") or fixed:
        return sentence
    opening = rng.choice(OPENINGS)
    if opening == "there is":
        varied = replace(clause, kind="there", opening="there are" if clause.items[0].plural else "there is")
    else:
        varied = replace(clause, kind="listing", opening=opening)
    return replace(sentence, clauses=(varied, *sentence.clauses[1:]))
