"""Correcting what a text claims: another number, colour, place or relation, in the sentence as it is.

Nothing else of the sentence changes but what has to follow: the noun, the article, the verb. What no single word can
put right goes (the place of cars that stand apart), and so does what was counted twice. A sentence that can't be put
right goes as a whole.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from mmpo.data.truth import ACROSS, Truth, corrected, decide, side_at
from mmpo.data_builders.hallucination.detect import Detector, SplitSentence, claimed, split_sentences
from mmpo.data_builders.hallucination.grammar import lexicon as lx
from mmpo.data_builders.hallucination.grammar.edit import Editor, agree, conjugate, is_many
from mmpo.data_builders.hallucination.grammar.parse import parse
from mmpo.data_builders.hallucination.grammar.tree import Clause, Sentence, clause_names, say
from mmpo.text.described import SAY_SIDE, DescribedObject, PictureSide, base_word, described
from mmpo.text.function_words import NUMBERS
from mmpo.text.scene_claims import Claim
from mmpo.text.vocabulary import Mention, ObjectVocabulary
from mmpo.text.words import PAIRED, article, plural

_ORDER = ("count", "place", "color", "relation")
_REPEATED = "\0repeated"
_MORE_ABOUT_SEVERAL = re.compile(
    r"\b(?:they|their|them|both|each|all|one|others?|another|(?:which|that|who)\s+(?:is|are|was|were|has|have))\b", re.I
)
_OF_THE_PICTURE = re.compile(r"\s+of\s+the\s+\w+$", re.I)
_OTHER_SIDE = {"left": "right", "right": "left", "above": "below", "below": "above"}


@dataclass(frozen=True)
class Edit:
    """`text[start:end]` becomes `text`."""

    start: int
    end: int
    text: str


def repaired(text: str, truth: Truth, detector: Detector) -> str:
    """`text` with every claim put right that the annotation contradicts, but for objects that are not there. Applied to
    its own result it changes nothing.
    """
    for _ in range(4 * len(text.split()) + 4):  # each step takes away a mistake or a sentence
        wrong = [c for c in detector.claims(text) if c.kind != "object" and decide(c, truth) is False]
        if not wrong:
            break
        claim = min(wrong, key=lambda claim: _ORDER.index(claim.kind))
        misplaced = {c.about.mention for c in wrong if c.kind == "place"}
        text = _put_right(text, claim, truth, detector.vocabulary, misplaced)
    return text


def _put_right(
    text: str, claim: Claim, truth: Truth, vocabulary: ObjectVocabulary, misplaced: Collection[Mention]
) -> str:
    right = corrected(claim, truth)
    if claim.kind == "count":
        if right is None:
            return without_sentence(text, claim.start)
        if right == 0:
            return without_mention(text, _repeat(claim, misplaced), vocabulary)
    if claim.about.spread is not None and claim.kind in ("count", "place"):
        marked = truth.marked(claim.name) or []
        number = right if isinstance(right, int) else len(marked)
        edits = _spread_edits(text, claim.about, [side_at(item, truth) for item in marked[:number]], number, vocabulary)
        changed = _apply(text, claim, edits, vocabulary)
    else:
        changed = with_value(text, claim, right, vocabulary)
    return without_sentence(text, claim.start) if changed is None or changed == text else changed


def _repeat(claim: Claim, misplaced: Collection[Mention]) -> Mention:
    """The mention to remove of an object that was counted twice: one at a wrong place, else the last."""
    single = [about for about in (*claim.before, claim.about) if about.counted and about.counted.number == 1]
    wrong = [about.mention for about in single if about.mention in misplaced]
    return wrong[-1] if wrong and claim.about.counted in [about.counted for about in single] else claim.about.mention


def with_value(
    text: str, claim: Claim, value: str | int | None, vocabulary: ObjectVocabulary, *, spelt: bool = False
) -> str | None:
    """The text with another value in the place of the claim's; None takes the words away. None where the sentence can't
    be changed so. `spelt`: one is written as `one`, not as `a`.
    """
    about = claim.about
    edits: list[Edit] | None
    if claim.kind == "count":
        edits = _number_edits(text, about, int(value or 0), vocabulary, spelt=spelt)
    elif claim.kind == "color":
        edits = _color_edits(text, claim, value if isinstance(value, str) else None)
    elif claim.kind == "place":
        edits = _place_edits(text, about, value if isinstance(value, str) else None)
    else:
        edits = [
            Edit(claim.start, claim.end, re.sub(r"left|right|above|below", _turned, text[claim.start : claim.end]))
        ]
    return None if edits is None else _apply(text, claim, edits, vocabulary)


def _turned(match: re.Match[str]) -> str:
    return _OTHER_SIDE[match.group()]


# ---- numbers


def _number_edits(
    text: str, about: DescribedObject, number: int, vocabulary: ObjectVocabulary, *, spelt: bool = False
) -> list[Edit] | None:
    counted, mention = about.counted, about.mention
    last = re.split(r"[\s-]", mention.word.lower())[-1]
    if counted is None or number < 1 or last in PAIRED:
        return None
    base = base_word(mention, vocabulary)
    noun = base if number == 1 else plural(base)
    noun = mention.word if noun.lower() == mention.word.lower() else noun
    start, end = counted.start, counted.end
    said = text[start:end]
    word = str(number) if said.isdigit() else number_word(number)
    if not counted.new:  # `the two dogs`, `both dogs`
        if said.lower() == "both":
            word = "the" if number == 1 else f"all {word}"
        elif number == 1:
            word, end = "", end + 1
    elif number == 1 and not spelt and not said.isdigit():
        word = article(text[end : mention.start].strip() or noun)
    if said[:1].isupper():
        word = word[:1].upper() + word[1:]
    return [Edit(start, end, word), Edit(mention.start, mention.end, noun)]


def number_word(number: int) -> str:
    return NUMBERS[number - 1] if 0 < number <= len(NUMBERS) else str(number)


# ---- colours


def _color_edits(text: str, claim: Claim, color: str | None) -> list[Edit] | None:
    start, end = claim.start, claim.end
    if color is None:
        if start > claim.about.mention.start:  # `the cars are red`
            return None
        end += len(text[end:]) - len(text[end:].lstrip())
    edits = [Edit(start, end, _like(text[start:end], color or ""))]
    counted = claim.about.counted
    if counted is not None and counted.article and text[counted.end : start].isspace():
        first = color or text[end : claim.about.mention.end].split()[0]
        said = text[counted.start : counted.end]
        if said.lower() in ("a", "an"):
            edits.append(Edit(counted.start, counted.end, _like(said, article(first))))
    return edits


def _like(old: str, new: str) -> str:
    return new[:1].upper() + new[1:] if old[:1].isupper() else new


# ---- places


def _place_edits(text: str, about: DescribedObject, side: str | None) -> list[Edit] | None:
    place = about.place
    if place is None:
        return None
    front = place.start < about.mention.start
    if side is not None:
        return [
            Edit(place.start, place.end, _like(text[place.start :], other_place(text[place.start : place.end], side)))
        ]
    if about.predicate:
        return None
    if front:
        rest = re.compile(r",?\s*").match(text, place.end)
        end = rest.end() if rest else place.end
        return [Edit(place.start, end + 1, text[end].upper())]
    return [Edit(place.lead, place.end, "")]


def other_place(words: str, side: str) -> str:
    """Words of place for another side, as like the old ones as English has it: `on the left side` gives `on the right
    side` and `in the middle`."""
    if side in ("left", "right") and (match := re.search(r"left|right", words, re.I)):
        return words[: match.start()] + side + words[match.end() :]
    tail = _OF_THE_PICTURE.search(words)
    return SAY_SIDE[side] + (tail.group() if tail else "")


def _spread_edits(
    text: str, about: DescribedObject, sides: Sequence[PictureSide | None], number: int, vocabulary: ObjectVocabulary
) -> list[Edit] | None:
    """Edits that correct the number and places of a group whose parts are named separately; None if impossible."""
    assert about.spread is not None and about.counted is not None
    edits = [Edit(*about.spread, spread_words(sides))]
    if number == about.counted.number:
        return edits
    more = _number_edits(text, about, number, vocabulary)
    return None if more is None else edits + more


def spread_words(sides: Iterable[PictureSide | None]) -> str:
    """The places of a group's members, behind its noun: ` on the left`, `, one on the left and two on the right`;
    empty where any is unknown.
    """
    found = Counter(sides)
    if None in found or not found:
        return ""
    if len(found) == 1:
        return f" {SAY_SIDE[str(next(iter(found)))]}"
    parts = [f"{number_word(found[side])} {SAY_SIDE[side]}" for side in ACROSS if found[side]]
    return ", " + ", ".join(parts[:-1]) + " and " + parts[-1]


# ---- sentences


def _apply(text: str, claim: Claim, edits: Sequence[Edit] | None, vocabulary: ObjectVocabulary) -> str | None:
    """The edited text, with verbs that fit; None where they can't be made to, or more depends on the old number."""
    if edits is None:
        return None
    piece = sentence_at(text, claim.start)
    end = piece.start + len(piece.text)
    after = piece.text
    for edit in sorted(edits, key=lambda edit: -edit.start):
        after = after[: edit.start - piece.start] + edit.text + after[edit.end - piece.start :]
    if claim.kind == "count":
        if _says_more(text, max(edit.end for edit in edits), end, vocabulary):
            return None
        agreeing = _agreeing(piece.text, after, claim.name, vocabulary)
        if agreeing is None:
            return None
        after = agreeing
    return text[: piece.start] + after + text[end:]


def _says_more(text: str, at: int, end: int, vocabulary: ObjectVocabulary) -> bool:
    """Do words for several things follow (`both asleep`)? The places of other groups don't count."""
    for about in described(text, vocabulary):
        if about.spread is not None:
            start, stop = about.spread
            text = text[:start] + " " * (stop - start) + text[stop:]
    return _MORE_ABOUT_SEVERAL.search(text, at, end) is not None


def _agreeing(before: str, after: str, name: str, vocabulary: ObjectVocabulary) -> str | None:
    """The edited sentence with verbs that fit the new numbers; None where the grammar can't compare the two."""
    old, new = (parse(sentence, vocabulary.find(sentence)) for sentence in (before, after))
    if old is not None and new is not None and _kinds(old) != _kinds(new):
        # `two mugs stands`: a verb of the old number makes no clause with the new noun
        for clause in old.clauses:
            if clause.kind == "subject" and name in clause_names(clause):
                after = after.replace(f" {clause.verb}", f" {conjugate(clause.verb, not is_many(clause.items))}", 1)
        new = parse(after, vocabulary.find(after))
        return after if new is not None and _kinds(old) == _kinds(new) else None
    if old is None or new is None:
        return None
    if any(clause.kind == "whole" and name in clause_names(clause) for clause in (*old.clauses, *new.clauses)):
        return None
    clauses = tuple(_agreed(clause, was) for clause, was in zip(new.clauses, old.clauses, strict=True))
    return after if clauses == new.clauses else say(Sentence(clauses, new.end))


def _kinds(sentence: Sentence) -> list[str]:
    return [clause.kind for clause in sentence.clauses]


def _agreed(clause: Clause, before: Clause) -> Clause:
    if clause.kind == "subject" and before.kind == "subject" and is_many(clause.items) != is_many(before.items):
        return replace(clause, verb=conjugate(clause.verb, is_many(clause.items)))
    return agree(clause, before)


def without_mention(text: str, mention: Mention, vocabulary: ObjectVocabulary) -> str:
    """The text without one mention of an object; its sentence goes where it can't do without."""
    piece = sentence_at(text, mention.start)
    mentions = [
        replace(m, name=_REPEATED) if m.start + piece.start == mention.start else m
        for m in claimed(piece.text, vocabulary)
    ]
    tree = parse(piece.text, mentions)
    editor = Editor(_REPEATED.__eq__, oxford=bool(re.search(r",\s+(?:and|or)\s", piece.text)))
    edited = None if tree is None else editor.sentence(tree)
    if edited is None:
        return without_sentence(text, mention.start)
    return text[: piece.start] + say(edited) + text[piece.start + len(piece.text) :]


def without_sentence(text: str, at: int) -> str:
    """The text without the sentence at a place, and without those behind it that lean on it."""
    pieces = split_sentences(text)
    gone = next(index for index, piece in enumerate(pieces) if piece.start + len(piece.text) > at)
    after = gone + 1
    while after < len(pieces) and lx.ANAPHORA.match(pieces[after].text):
        after += 1
    kept = pieces[:gone] + pieces[after:]
    return "".join(piece.before + piece.text for piece in kept).strip()


def sentence_at(text: str, at: int) -> SplitSentence:
    return next(piece for piece in split_sentences(text) if piece.start + len(piece.text) > at)
