"""AMBER's words: the nouns of a description, and which of two words mean nearly the same."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import islice
from typing import Any, Literal, Protocol, cast, get_args

import numpy as np
from numpy.typing import NDArray

from mmpo.errors import UserError
from mmpo.text.vocabulary import coco
from mmpo.text.word_forms import TaggerName, has_tagger, lemmatizer, open_tagger, tokenize

NounsName = Literal["auto", "tag-lemma", "tag-lemma:nltk", "tag-lemma:spacy", "noun-lemma"]
"""The ways to find nouns: `tag-lemma` as the published script does, `noun-lemma` takes every word for a noun, `auto` is
tag-lemma where a tagger is installed."""

THRESHOLD = 0.8
"""The similarity above which the published script takes two words for one."""

_BATCH = 512


class NounReader:
    """The nouns of descriptions that are among `words`: tokens as written (a capitalised one is none of them, as in the
    published script), tagged as nouns, then WordNet's noun lemma. `identity` says how.
    """

    def __init__(self, name: str, words: Collection[str]) -> None:
        if name not in get_args(NounsName):
            raise UserError(
                f"no way to find nouns is called {name!r}", hint=f"choose one of {', '.join(get_args(NounsName))}"
            )
        if name == "auto":
            name = "tag-lemma" if has_tagger() else "noun-lemma"
        self.tagged = name != "noun-lemma"
        self._words = frozenset(words)
        self._lemma, source = lemmatizer(self._words)
        _, _, wanted = name.partition(":")
        self._tagger = open_tagger(cast("TaggerName | None", wanted or None)) if self.tagged else None
        self.identity = f"tag-lemma ({self._tagger.identity}; {source})" if self._tagger else f"noun-lemma ({source})"

    def read(self, texts: Iterable[str]) -> Iterator[list[str]]:
        """The nouns of each text, every occurrence, in order."""
        remaining = iter(texts)
        while batch := list(islice(remaining, _BATCH)):
            tokens = [[token.text for token in tokenize(text)] for text in batch]
            tags = self._tagger.tags(tokens) if self._tagger else (["NN"] * len(row) for row in tokens)
            for row, kinds in zip(tokens, tags, strict=True):
                lemmas = (self._lemma(word, "n") for word, kind in zip(row, kinds, strict=True) if kind[:2] == "NN")
                yield [lemma for lemma in lemmas if lemma in self._words]


class Similarity(Protocol):
    """Says which word of a search list means nearly the same as a noun. `identity` names the source."""

    identity: str

    def first(self, noun: str, candidates: Mapping[str, Any]) -> str | None:
        """The first of `candidates`, in order, that is close enough to `noun`; None if none is."""


class Exact:
    """Only the same word is the same: the script's steps without word vectors."""

    identity = "exact (no word vectors)"

    def first(self, noun: str, candidates: Mapping[str, Any]) -> str | None:
        return None


class AmberSynonyms:
    """Words that stand for the same COCO class in `mmpo.text.vocabulary.coco` (sofa and couch)."""

    identity = "synonyms of mmpo's COCO vocabulary"

    def __init__(self) -> None:
        self._name = lru_cache(maxsize=10_000)(coco().name_of)

    def first(self, noun: str, candidates: Mapping[str, Any]) -> str | None:
        name = self._name(noun)
        return next((word for word in candidates if self._name(word) == name), None) if name is not None else None


class Vectors:
    """Cosine above 0.8 between the word vectors of a spaCy model (the published script takes en_core_web_lg).

    Another model gives other similarities: the small ones have no vectors and are refused.
    """

    def __init__(self, model: str) -> None:
        missing = UserError(f"the spaCy model {model} is not installed", hint="install it, or take similarity=exact")
        if importlib.util.find_spec("spacy") is None:
            raise missing
        import spacy

        parts = ["tagger", "parser", "ner", "lemmatizer", "attribute_ruler", "tok2vec"]
        try:
            pipeline = spacy.load(model, exclude=parts)
        except OSError:
            raise missing from None
        if not pipeline.vocab.vectors_length:
            raise UserError(f"the spaCy model {model} has no word vectors", hint="take a medium or large model")
        self.identity = f"word vectors of spaCy {model} {pipeline.meta['version']}, cosine > {THRESHOLD}"
        self._vocab = pipeline.vocab
        self._unit = lru_cache(maxsize=10_000)(self._normalized)

    def _normalized(self, word: str) -> NDArray[np.float64]:
        vector = np.asarray(self._vocab[word].vector, dtype=np.float64)
        length = float(np.linalg.norm(vector))
        return vector / length if length else vector

    def first(self, noun: str, candidates: Mapping[str, Any]) -> str | None:
        unit = self._unit(noun)
        return next((word for word in candidates if float(unit @ self._unit(word)) > THRESHOLD), None)


def open_similarity(name: str) -> Similarity:
    """`exact`, `synonyms`, or `spacy:MODEL`. Raises UserError for another name or a model that can't serve."""
    if name == "exact":
        return Exact()
    if name == "synonyms":
        return AmberSynonyms()
    kind, _, model = name.partition(":")
    if kind != "spacy" or not model.isidentifier():
        raise UserError(f"no word similarity is called {name!r}", hint="choose exact, synonyms or spacy:MODEL")
    return Vectors(model)
