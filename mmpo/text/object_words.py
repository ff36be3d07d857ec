"""Objects mentioned in texts: by the vocabulary's own rules, or the published scripts' steps over base forms.

The published steps (CHAIR, Rohrbach et al. 2018; Object HalBench, Yu et al. 2023): lower case, tokens, base forms,
merge neighbours that make a phrase, drop "seat" beside "toilet", keep what the synonym table has.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, Protocol, get_args

from mmpo.errors import UserError
from mmpo.text.vocabulary import CHAIR_DOUBLE_WORDS, Mention, ObjectVocabulary
from mmpo.text.word_forms import FormName, Lemmatizer, Token, count_tokens, open_lemmatizer, tokenize

WordsName = Literal["rules", FormName]
"""The ways to read: `rules` are the vocabulary's own, which need no tagger and no word list."""

WORDS: tuple[str, ...] = get_args(WordsName)

CHAIR_REPAIRS = {"wine glas": "wine glass"}
"""The double word with which the original script repairs its singularizer."""

_BATCH = 512


@dataclass(frozen=True)
class ObjectReading:
    """The object mentions of one text in order, and its length in tokens (a merged phrase is one)."""

    mentions: tuple[Mention, ...]
    tokens: int


class ObjectReader(Protocol):
    """Finds objects in texts. `identity` names the way, `vocabulary` the objects."""

    identity: str
    vocabulary: ObjectVocabulary

    def read(self, texts: Iterable[str]) -> Iterator[ObjectReading]:
        """One reading a text, in order."""


def object_reader(words: str, vocabulary: ObjectVocabulary) -> ObjectReader:
    """The reader called `words` (one of `WORDS`). With a vocabulary of CHAIR's rules the phrases are CHAIR's double
    words, otherwise every entry of several words. Raises UserError for an unknown name.
    """
    if words not in WORDS:
        raise UserError(f"no way to read words is called {words!r}", hint=f"choose one of {', '.join(WORDS)}")
    if words == "rules":
        return RuleReader(vocabulary)
    entries = vocabulary.entries
    if vocabulary.chair_merges:
        phrases: dict[str, str] = {**CHAIR_DOUBLE_WORDS, **CHAIR_REPAIRS}
    else:
        phrases = {entry: entry for entry in (*vocabulary.ignored, *entries) if " " in entry}
    forms = open_lemmatizer(words, {word for entry in (*entries, *phrases) for word in entry.split()})
    return BaseFormReader(vocabulary, forms, phrases, published=vocabulary.chair_merges)


class RuleReader:
    """Listed and regular plurals of the vocabulary's entries, longest phrase first (`ObjectVocabulary.find`)."""

    def __init__(self, vocabulary: ObjectVocabulary) -> None:
        self.vocabulary = vocabulary
        self.identity = "rules (regular and listed plurals of the entries)"

    def read(self, texts: Iterable[str]) -> Iterator[ObjectReading]:
        for text in texts:
            mentions = tuple(self.vocabulary.find(text))
            joined = sum(len(mention.word.split()) - 1 for mention in mentions)
            yield ObjectReading(mentions, count_tokens(text) - joined)


class BaseFormReader:
    """The published steps. `phrases` maps words joined by spaces, as base forms, to the entry that they stand for; one
    that is no entry of the vocabulary (`train track`) mentions nothing. `published` applies the toilet seat rule;
    `unread` are entries that no text finds.
    """

    def __init__(
        self,
        vocabulary: ObjectVocabulary,
        forms: Lemmatizer,
        phrases: Mapping[str, str],
        *,
        published: bool,
        unread: Collection[str] = (),
    ) -> None:
        self.vocabulary, self.forms, self.published = vocabulary, forms, published
        self.identity = forms.identity
        self._names = {word: name for word, name in vocabulary.entries.items() if word not in unread}
        self._phrases: dict[str, list[tuple[tuple[str, ...], str]]] = {}
        spelt = {tuple(phrase.split()): entry for phrase, entry in phrases.items()}
        if not published:  # a phrase is found by its base forms too: `sports bag` is read as `sport bag`
            for entry, bases in zip(list(spelt.values()), forms.bases(list(spelt)), strict=True):
                spelt.setdefault(tuple(bases), entry)
        for phrase, entry in spelt.items():
            self._phrases.setdefault(phrase[0], []).append((phrase, entry))
        for options in self._phrases.values():
            options.sort(key=lambda option: -len(option[0]))

    def phrases_in(self, bases: Sequence[str]) -> list[str]:
        """The entries of the phrases among these base forms, in order."""
        tokens = [Token(word, number, number + 1) for number, word in enumerate(bases)]
        return [word for word, start, end in self._merged(tokens, bases) if end - start > 1]

    def read(self, texts: Iterable[str]) -> Iterator[ObjectReading]:
        remaining = iter(texts)
        while batch := list(islice(remaining, _BATCH)):
            tokens = [tokenize(text) for text in batch]
            lowered = [[token.text.lower() for token in row] for row in tokens]
            for text, row, bases in zip(batch, tokens, self.forms.bases(lowered), strict=True):
                yield self._reading(text, row, bases)

    def _reading(self, text: str, tokens: Sequence[Token], bases: Sequence[str]) -> ObjectReading:
        merged = list(self._merged(tokens, bases))
        count = len(merged)
        if self.published and {"toilet", "seat"} <= {word for word, _, _ in merged}:
            merged = [item for item in merged if item[0] != "seat"]
        found = (
            Mention(start, end, text[start:end], self._names[word])
            for word, start, end in merged
            if word in self._names
        )
        return ObjectReading(tuple(found), count)

    def _merged(self, tokens: Sequence[Token], bases: Sequence[str]) -> Iterator[tuple[str, int, int]]:
        """(word, start, end) with neighbours that make a phrase joined, from left to right."""
        position = 0
        while position < len(bases):
            word, length = bases[position], 1
            for phrase, entry in self._phrases.get(word, ()):
                if tuple(bases[position : position + len(phrase)]) == phrase:
                    word, length = entry, len(phrase)
                    break
            yield word, tokens[position].start, tokens[position + length - 1].end
            position += length
