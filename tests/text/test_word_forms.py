"""Tokens and base forms, against what NLTK, WordNet and pattern.en give."""

from __future__ import annotations

import importlib.util

import pytest

from mmpo.errors import UserError
from mmpo.text.morphology import morphy, singularize
from mmpo.text.word_forms import SPACY_MODEL, open_lemmatizer, open_tagger, part_of_speech, tokenize

needs_spacy = pytest.mark.skipif(
    importlib.util.find_spec(SPACY_MODEL) is None, reason=f"{SPACY_MODEL} is not installed"
)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("A dog's bed.", ["A", "dog", "'s", "bed", "."]),
        ("It isn't a bear-shaped cup!", ["It", "is", "n't", "a", "bear-shaped", "cup", "!"]),
        (
            "one table. The cup (red), 1,000 cars...",
            ["one", "table", ".", "The", "cup", "(", "red", ")", ",", "1,000", "cars", "..."],
        ),
        ("the U.S. flag and/or a sign", ["the", "U.S.", "flag", "and/or", "a", "sign"]),
        ("café\n\nchairs", ["café", "chairs"]),
        ("", []),
    ],
)
def test_tokens(text: str, tokens: list[str]) -> None:
    found = tokenize(text)
    assert [token.text for token in found] == tokens
    assert all(text[token.start : token.end] == token.text for token in found)


@pytest.mark.parametrize(
    ("word", "singular"),
    # what pattern.en (through its copy in TextBlob 0.20) gives for these words
    [
        ("dogs", "dog"), ("men", "man"), ("women", "woman"), ("people", "person"), ("children", "child"),
        ("buses", "bus"), ("bus", "bu"), ("minibus", "minibu"), ("has", "ha"), ("process", "proces"), ("glass", "glas"),
        ("glasses", "glass"), ("tennis", "tenni"), ("knives", "knife"), ("shelves", "shelve"), ("scarves", "scarf"),
        ("leaves", "leaf"), ("loaves", "loaf"), ("wolves", "wolf"), ("skis", "ski"), ("scissors", "scissors"),
        ("potatoes", "potato"), ("shoes", "shoe"), ("cookies", "cookie"), ("puppies", "puppy"), ("ties", "ty"),
        ("boxes", "box"), ("benches", "bench"), ("mice", "mouse"), ("oxen", "ox"), ("vases", "vase"),
        ("horses", "horse"), ("couches", "couch"), ("chest", "chest"), ("cattle", "cattle"), ("geese", "goose"),
    ],
)  # fmt: skip
def test_singularize(word: str, singular: str) -> None:
    assert singularize(word) == singular


NOUNS = {"dog", "bus", "woman", "man", "person", "glass", "wine", "vase", "knife", "ski", "skis", "bench", "toy", "tie",
         "sports", "ball", "smartphone", "child", "sheep", "goose", "bike", "bed"}  # fmt: skip


@pytest.mark.parametrize(
    ("word", "part", "lemma"),
    # what WordNet 3.1's files give by NLTK's algorithm
    [
        ("dogs", "n", "dog"), ("buses", "n", "bus"), ("bus", "n", "bus"), ("women", "n", "woman"), ("men", "n", "men"),
        ("glasses", "n", "glass"), ("vases", "n", "vas"), ("knives", "n", "knife"), ("skis", "n", "ski"),
        ("sports", "n", "sport"), ("smartphones", "n", "smartphones"), ("children", "n", "child"),
        ("geese", "n", "goose"), ("skiing", "n", "skiing"), ("skiing", "v", "ski"), ("ties", "v", "tie"),
        ("biking", "v", "bike"), ("men", "v", "men"), ("dogs", "a", "dogs"), ("quickly", "r", "quickly"),
        ("runs", "n", "runs"), ("bed", "v", "be"),
    ],
)  # fmt: skip
def test_morphy(word: str, part: str, lemma: str) -> None:
    assert morphy(word, part, NOUNS) == lemma  # type: ignore[arg-type]


def test_penn_tags() -> None:
    assert [part_of_speech(tag) for tag in ("NNS", "VBG", "JJ", "RB", "IN", "")] == ["n", "v", "a", "r", "n", "n"]


def test_rules_without_a_tagger() -> None:
    text = ["the", "men", "with", "glasses", "and", "skis"]
    assert list(open_lemmatizer("noun-lemma", NOUNS).bases([text, []])) == [
        ["the", "men", "with", "glass", "and", "ski"],
        [],
    ]
    singular = open_lemmatizer("singularize", NOUNS)
    assert list(singular.bases([text])) == [["the", "man", "with", "glass", "and", "ski"]]
    assert singular.identity == "singularize (pattern.en's rules)"


def test_unknown_rule() -> None:
    with pytest.raises(UserError, match="no rule for word forms is called 'stem'"):
        open_lemmatizer("stem", NOUNS)


@needs_spacy
def test_tag_lemma_with_spacy() -> None:
    forms = open_lemmatizer("tag-lemma:spacy", NOUNS)
    assert SPACY_MODEL in forms.identity
    texts = [["a", "man", "is", "skiing", "down", "a", "hill"], ["two", "women", "ride", "bikes"], [], ["a", "bed"]]
    assert list(forms.bases(texts)) == [
        ["a", "man", "is", "ski", "down", "a", "hill"], ["two", "woman", "ride", "bike"], [], ["a", "bed"],
    ]  # fmt: skip
    assert list(forms.bases(texts)) == list(forms.bases(texts))


@needs_spacy
def test_tagger_keeps_our_tokens() -> None:
    tags = next(open_tagger("spacy").tags([["a", "bear-shaped", "cup", "."]]))
    assert len(tags) == 4 and tags[2] == "NN"


def test_missing_taggers_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmpo.text import word_forms

    monkeypatch.setattr(word_forms, "_nltk_tagger_here", lambda: False)
    with pytest.raises(UserError, match="NLTK's tagger is not installed"):
        open_tagger("nltk")
    monkeypatch.setattr(word_forms, "SPACY_MODEL", "no_such_model")
    with pytest.raises(UserError, match="needs a part-of-speech tagger") as error:
        open_tagger()
    assert "mmpo[words]" in str(error.value)
