"""The specification's test vectors, on a small synonym table in CHAIR's form."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmpo.errors import UserError
from mmpo.text.object_words import WORDS, object_reader
from mmpo.text.vocabulary import ObjectVocabulary
from tests.text.test_word_forms import needs_spacy

SYNONYMS = """\
person, man, woman, child, people
elephant
fire hydrant, hydrant
toilet
chair, seat
tie, necktie
bicycle, bike
motorcycle, motorbike,  motor bike
train, locomotive
dining table, table
oven, stove
orange
wine glass, wineglass
fork
knife
bus, minibus
skis, ski
sports ball, ball
tennis racket, racket
cell phone, iPhone
"""

SAME = {
    "a baby elephant near a fire hydrant": ["elephant", "fire hydrant"],
    "The toilet seat": ["toilet"],
    "the seat of the toilet": ["toilet"],
    "the seat of the chair": ["chair", "chair"],
    "a bow tie": ["tie"],
    "a motor bike": [],
    "a motorbike": ["motorcycle"],
    "train track": [],
    "passenger train": ["train"],
    "dining table": ["dining table"],
    "stove top oven": ["oven", "oven"],
    "an orange shirt": ["orange"],
    "two wine glasses": ["wine glass"],
    "several knives and forks": ["knife", "fork"],
    "an iPhone": [],
    "a bear-shaped toy": [],
    "": [],
}
DIFFERENT = {
    "men and women": {"tag-lemma": 1, "singularize": 2, "noun-lemma": 1, "rules": 2},
    "a bus and buses": {"tag-lemma": 2, "singularize": 1, "noun-lemma": 2, "rules": 2},
    "a person skiing down": {"tag-lemma": 2, "singularize": 1, "noun-lemma": 1, "rules": 1},
    "a sports ball": {"tag-lemma": 1, "singularize": 1, "noun-lemma": 1, "rules": 1},
    "a tennis racket": {"tag-lemma": 1, "singularize": 1, "noun-lemma": 1, "rules": 1},
}


@pytest.fixture
def vocabulary(tmp_path: Path) -> ObjectVocabulary:
    (tmp_path / "synonyms.txt").write_text(SYNONYMS)
    return ObjectVocabulary.from_file(tmp_path / "synonyms.txt", chair_merges=True)


@pytest.mark.parametrize("words", ["rules", "noun-lemma", "singularize", pytest.param("tag-lemma", marks=needs_spacy)])
def test_vectors(words: str, vocabulary: ObjectVocabulary) -> None:
    reader = object_reader(words, vocabulary)
    texts = [*SAME, *DIFFERENT]
    found = {text: reading for text, reading in zip(texts, reader.read(texts), strict=True)}
    assert {text: [m.name for m in found[text].mentions] for text in SAME} == SAME
    assert {text: len(found[text].mentions) for text in DIFFERENT} == {t: DIFFERENT[t][words] for t in DIFFERENT}
    assert all(text[m.start : m.end] == m.word for text, reading in found.items() for m in reading.mentions)


def test_a_phrase_is_one_token(vocabulary: ObjectVocabulary) -> None:
    for words in ("rules", "noun-lemma"):
        (reading,) = object_reader(words, vocabulary).read(["A fire hydrant."])
        assert reading.tokens == 3, words


def test_own_vocabulary_keeps_phrases_of_any_length() -> None:
    own = ObjectVocabulary({"bag": ["sports bag"], "oven": ["stove top oven"]}, ignore=["bag pipe"])
    texts = ["Two sports bags, a stove top oven and a bag pipe."]
    for words in ("rules", "noun-lemma", "singularize"):
        (reading,) = object_reader(words, own).read(texts)
        assert [(m.word, m.name) for m in reading.mentions] == [("sports bags", "bag"), ("stove top oven", "oven")]


def test_order_and_number_survive_batches(vocabulary: ObjectVocabulary) -> None:
    texts = [f"{number} forks" if number % 3 else "nothing" for number in range(1100)]
    readings = list(object_reader("noun-lemma", vocabulary).read(iter(texts)))
    assert [bool(reading.mentions) for reading in readings] == [bool(number % 3) for number in range(1100)]


def test_unknown_way(vocabulary: ObjectVocabulary) -> None:
    with pytest.raises(UserError, match="choose one of") as error:
        object_reader("stem", vocabulary)
    assert all(name in str(error.value) for name in WORDS)
