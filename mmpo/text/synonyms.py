"""Synonyms of the words of a question: a small list of its own, a user's file, or WordNet where it is installed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from mmpo.errors import UserError
from mmpo.outside import read_json, read_yaml

SHIPPED = Path(__file__).with_name("synonyms.yaml")

Synonyms = Callable[[str], list[str]]
"""A word to words that can stand in its place; none for an unknown word. The case of the first letter is kept."""


def synonyms_of(source: Literal["shipped", "wordnet"] = "shipped", lexicon: Path | None = None) -> Synonyms:
    """The entries of `lexicon`, if given, then those of `source`. Raises `UserError` for a file that can't be read, or
    where WordNet is asked for and missing."""
    first = read_lexicon(lexicon) if lexicon is not None else {}
    return _Lexicon(first, _wordnet() if source == "wordnet" else read_lexicon(SHIPPED).get)


@dataclass(frozen=True)
class _Lexicon:
    """`first`, then `then`; nothing in it is local, so that loader workers can be sent a copy."""

    first: dict[str, list[str]]
    then: Callable[[str], list[str] | None]

    def __call__(self, word: str) -> list[str]:
        lower = word.lower()
        found = dict.fromkeys([*self.first.get(lower, []), *(self.then(lower) or [])])
        return [other.capitalize() if word[:1].isupper() else other for other in found]


def read_lexicon(path: Path) -> dict[str, list[str]]:
    """A JSON or YAML map of words to lists of words, keys in lower case."""
    entries = read_json(path, unique=True) if path.suffix == ".json" else read_yaml(path, _Words)
    if not isinstance(entries, dict) or not all(
        isinstance(word, str) and isinstance(others, list) and all(isinstance(other, str) for other in others)
        for word, others in entries.items()
    ):
        raise UserError(f"{path}: expected a map of words to lists of words", hint="for instance big: [large, huge]")
    return {word.lower(): others for word, others in entries.items()}


class _Words(yaml.SafeLoader):
    """YAML in which every scalar is text: `no`, `on` and `1` are words here."""


_Words.yaml_implicit_resolvers = {}


def _wordnet() -> Synonyms:
    try:
        from nltk.corpus import wordnet

        wordnet.ensure_loaded()
    except (ImportError, LookupError) as error:
        raise UserError(
            "WordNet is not installed",
            hint="pip install nltk, then python -m nltk.downloader wordnet; or synonyms: shipped",
        ) from error

    return _synsets


@cache
def _synsets(word: str) -> list[str]:
    from nltk.corpus import wordnet

    entries: list[Any] = wordnet.synsets(word)
    names = (name.replace("_", " ") for entry in entries for name in entry.lemma_names())
    return [name for name in dict.fromkeys(names) if name.lower() != word and " " not in name]
