from __future__ import annotations

from pathlib import Path

import pytest

from mmpo.errors import UserError
from mmpo.text.synonyms import SHIPPED, read_lexicon, synonyms_of


def test_the_shipped_list_knows_the_words_of_questions() -> None:
    synonyms = synonyms_of()
    assert synonyms("image") == ["picture", "photo"] and synonyms("Describe")[0] == "Explain"
    assert synonyms("zyzzyva") == []
    for word, others in read_lexicon(SHIPPED).items():
        assert word not in others and len(set(others)) == len(others) > 0 and word == word.lower(), word


def test_a_users_entries_go_before_and_everything_is_text(tmp_path: Path) -> None:
    file = tmp_path / "words.yaml"
    file.write_text("Image: [scan, picture]\nno: [nay]\n'yes': [aye]\n")
    synonyms = synonyms_of("shipped", file)
    assert synonyms("image") == ["scan", "picture", "photo"]
    assert synonyms("No") == ["Nay"] and synonyms("yes") == ["aye"]
    file.write_text('{"big": ["large"]}')
    assert synonyms_of("shipped", file)("big") == ["large", "huge"]


@pytest.mark.parametrize("text", ["big: large", "[big]", "big: [[a]]", "big: [", "a: {b: [c]}"])
def test_a_broken_lexicon_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "words.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=r"words\.yaml"):
        synonyms_of("shipped", file)


def test_wordnet_is_used_or_missed_by_name() -> None:
    try:
        from nltk.corpus import wordnet

        wordnet.ensure_loaded()
    except (ImportError, LookupError):
        with pytest.raises(UserError, match="WordNet is not installed"):
            synonyms_of("wordnet")
    else:
        assert "photo" in synonyms_of("wordnet")("photograph")
