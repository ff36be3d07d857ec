"""Does the evidence support what a yes/no answer says? The chosen side of a question pair must pass, or there is none.

An answer is read as descriptions are (`detect`) but checked for more, since it is short and learnt as the truth:
every word beyond the usual frame (`there is`, `in the image`) must be supported; an object may be called by the name of
its class or as the annotation calls it, not by any synonym (a `woman` is a person, a person is not always a woman); and
a plural needs several.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from mmpo.data.truth import decide
from mmpo.data_builders.hallucination.detect import Detector, Truth, claimed, split_sentences
from mmpo.text.described import VAGUE, base_word, is_many
from mmpo.text.function_words import NUMBERS
from mmpo.text.scene_claims import KINDS, Claim
from mmpo.text.vocabulary import Mention, ObjectVocabulary
from mmpo.text.words import PAIRED, UNCHANGED, plurals

UNSUPPORTED, UNDECIDABLE = "unsupported", "undecidable"

_PICTURE = r"(?:image|picture|photo|photograph|scene|view|frame|shot)"
_IN_THE_PICTURE = re.compile(
    rf"\b(?:in|of|within|from|on)\s+(?:the|this|that)\s+(?:given\s+|provided\s+)?{_PICTURE}\b", re.I
)
_ANSWER = re.compile(r"\W*(?:yes\b|no\b(?=\s*(?:[^\w\s]|$|(?:there|it|i|we|you|the|this|that)\b)))\W*", re.I)
"""`No` before a noun (`No dog.`) is a part of the statement."""
_CLAUSE = re.compile(r"[,;:()\n]|\b(?:but|while|whereas|although|though|however|instead)\b", re.I)
_NEGATOR = re.compile(r"\b(?:no|not|cannot|without|neither|nor|none|never|\w+n['’]t)\b", re.I)
_DENIED_BEHIND = re.compile(r"\s+(?:is|are|was|were|does|do|did|can)(?:\s*not|n['’]t)\b", re.I)
_SCOPE_ENDS = re.compile(rf"\band\s+(?:an?|the|some|{'|'.join(NUMBERS)}|\d+)\b", re.I)
_IS = re.compile(r"\s+(?:is|was|has)\b", re.I)
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_FRAME = _words(
    "a an the some any one this that these those it there here i we you what which and or is are be being also indeed "
    "do does not no don't doesn't isn't aren't cannot can can't see find spot notice seen visible present shown yes "
    "there's that's it's neither nor without never none"
)
_SHOWS = _words(
    "image picture photo photograph scene view frame shot show shows contain contains depict depicts feature features "
    "has have include includes"
)
"""The picture and what it does; behind an object these words would say something about that."""
_LEAST = {**VAGUE, "set": 2, "pair": 2, "both": 2}
"""Words of number that stand before an object, with how many there must be at least."""
_COUNTED = re.compile(rf"(?:\b(?:an?|the)\s+)?\b({'|'.join(_LEAST)})\s+(?:of\s+)?(?:the\s+|different\s+)?$", re.I)


class EvidenceReader:
    """Reads questions and answers about pictures against what is known of these."""

    def __init__(self, vocabulary: ObjectVocabulary) -> None:
        self.vocabulary = vocabulary
        self.detector = Detector(vocabulary, KINDS[1:])

    def answer(self, text: str, truth: Truth, name: str = "") -> str:
        """The reason why an answer can't be chosen: the evidence contradicts it (`unsupported`), or does not decide it
        (`undecidable`); empty where all of it is supported. `name` is what the question was about: that it is
        not there may be claimed although it is no class.
        """
        reasons = set(self._reasons(_ANSWER.sub("", text, count=1), truth, name))
        return UNSUPPORTED if UNSUPPORTED in reasons else UNDECIDABLE if reasons else ""

    def question(self, text: str, yes: bool, name: str, truth: Truth) -> str:
        """Why a question can't be asked with this answer as the right one. `Yes` affirms all that the question says,
        `no` denies it; what is no class and not in the evidence may be denied."""
        if _NEGATOR.search(text):
            return UNDECIDABLE
        affirmed = self.answer(text, truth)
        if yes:
            return affirmed or ("" if claimed(text, self.vocabulary) else UNDECIDABLE)
        if affirmed != UNDECIDABLE:
            return "" if affirmed == UNSUPPORTED else UNSUPPORTED
        if self.vocabulary.find(text):
            return UNDECIDABLE
        return UNSUPPORTED if _named(name, truth) else ""

    def _reasons(self, text: str, truth: Truth, name: str) -> Iterator[str]:
        for piece in split_sentences(text):
            sentence = _IN_THE_PICTURE.sub(lambda match: " " * len(match.group()), piece.text)
            covered: set[int] = set()
            for claim in self.detector.claims(sentence):
                right = decide(claim, truth)
                if right is False:
                    yield UNSUPPORTED
                elif right:
                    covered |= _deciding(claim)
            start = 0
            for end in [*(match.start() for match in _CLAUSE.finditer(sentence)), len(sentence)]:
                yield from self._clause(sentence, start, end, covered, truth, name)
                start = end
                if match := _CLAUSE.match(sentence, end):
                    start = match.end()

    def _clause(self, sentence: str, start: int, end: int, covered: set[int], truth: Truth, name: str) -> Iterator[str]:
        clause = sentence[start:end]
        objects = claimed(clause, self.vocabulary) if not _NEGATOR.search(clause) else self.vocabulary.find(clause)
        taken = {start + at for mention in objects for at in range(mention.start, mention.end)} | covered
        for mention in objects:
            if _denied(clause, mention.start, mention.end):
                if truth.has(mention.name) is not False:
                    yield UNSUPPORTED if truth.has(mention.name) else UNDECIDABLE
                continue
            if not (there := truth.has(mention.name)):
                yield UNDECIDABLE if there is None else UNSUPPORTED
            elif not self._called_so(mention, truth):
                yield UNDECIDABLE
            if counted := _COUNTED.search(clause[: mention.start]):
                taken |= {start + at for at in range(counted.start(), counted.end())}
            several = _LEAST[counted[1].lower()] if counted else 2 if self._is_plural(clause, mention) else 1
            if mention.word.lower() in PAIRED and counted and counted[1].lower() == "pair":
                several = 1
            exact = {start + mention.start} <= covered  # a number that was checked
            if (
                several > 1
                and not exact
                and not self._are_there(mention, several, counted[1] if counted else "", truth)
            ):
                yield UNDECIDABLE
        if name and not self.vocabulary.find(name):
            for match in re.finditer("|".join(map(re.escape, (name, *plurals(name)))), clause, re.I):
                if _denied(clause, match.start(), match.end()):
                    taken |= {start + at for at in range(match.start(), match.end())}
        first = min((mention.start for mention in objects), default=len(clause))
        for word in _WORD.finditer(clause):
            said = word.group().lower().replace("’", "'")
            if start + word.start() in taken or said in _FRAME or (said in _SHOWS and word.start() < first):
                continue
            yield UNDECIDABLE

    def _called_so(self, mention: Mention, truth: Truth) -> bool:
        """Is the mentioned class called so by its name or by the evidence?"""
        words = {mention.name, *(item.name for item in truth.objects.get(mention.name, ()))}
        words |= {base_word(other, self.vocabulary) for other in self._told(truth) if other.name == mention.name}
        said = mention.word.lower().replace("-", " ")
        return any(said in (word, *plurals(word)) for word in map(_plain, words))

    def _told(self, truth: Truth) -> Iterator[Mention]:
        for text in (*truth.image.captions, *(region.phrase for region in truth.image.regions)):
            yield from claimed(text, self.vocabulary)

    def _is_plural(self, clause: str, mention: Mention) -> bool:
        last = re.split(r"[\s-]", mention.word.lower())[-1]
        if last in UNCHANGED and _IS.match(clause, mention.end):
            return False
        if last in UNCHANGED:
            before = clause[: mention.start] if clause[mention.start : mention.end] == mention.word else "a "
            return not re.search(r"\b(?:an?|one|this|that|any)\s+(?:\w+\s+)?$", before, re.I)
        return is_many(mention, self.vocabulary)

    def _are_there(self, mention: Mention, several: int, word: str, truth: Truth) -> bool:
        """Are there so many? `word` is the number as it was written."""
        if word in ("pair", "couple", "both"):
            exactly = truth.marked(mention.name)
            return exactly is not None and len(exactly) == 2
        marked = truth.objects.get(mention.name, ())
        if any(item.attributes.get("crowd") for item in marked):
            return True
        told = (o for o in self._told(truth) if o.name == mention.name)
        return len(marked) >= several or (several == 2 and any(self._is_plural("", o) for o in told))


def _deciding(claim: Claim) -> set[int]:
    """The characters of the words that a claim consists of; of a number not those between it and its noun."""
    counted, mention = claim.about.counted, claim.about.mention
    if claim.kind == "count" and counted is not None:
        return {*range(counted.start, counted.end), *range(mention.start, mention.end)}
    return set(range(claim.start, claim.end))


def _denied(clause: str, at: int, end: int) -> bool:
    """Is what stands at a place in the scope of a negation? `no dog or cat` denies both, `no dog and a cat` one."""
    if _DENIED_BEHIND.match(clause, end):
        return True
    negators = list(_NEGATOR.finditer(clause[:at]))
    return bool(negators) and not _SCOPE_ENDS.search(clause[negators[-1].end() : at])


def _named(name: str, truth: Truth) -> bool:
    """Does the evidence mention `name`, whatever the vocabulary knows?"""
    texts = (*truth.image.captions, *(region.phrase for region in truth.image.regions), *truth.image.object_names)
    forms = "|".join(map(re.escape, (_plain(name), *plurals(_plain(name)))))
    return any(re.search(rf"\b(?:{forms})\b", _plain(text)) for text in texts)


def _plain(word: str) -> str:
    return " ".join(word.replace("_", " ").replace("-", " ").lower().split())
