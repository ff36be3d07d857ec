"""Object HalBench's extraction by a text model: which objects an answer says are in the picture."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from mmpo.chat import ChatModel
from mmpo.chat.judging import Judgement, Mode, judge, without_thinking
from mmpo.chat.templates import render
from mmpo.eval.object_halbench.metrics import HalbenchAnswer, NamedObject
from mmpo.eval.object_halbench.settings import ObjectHalBenchSettings
from mmpo.outside import json_of
from mmpo.text.object_words import BaseFormReader
from mmpo.text.word_forms import has_tagger, open_tagger, tokenize

TEMPLATE = "object_halbench_extract"
SHORT = 3
"""Answers of so many words are taken to name nothing, without asking."""

_LIST = re.compile(r"\[[^\[\]]*\]")
_ARTICLES = frozenset({"a", "an", "the"})


def read_objects(text: str, mode: Mode) -> list[str] | None:
    """The names in a reply; None where it holds no list.

    strict, as the script: the reply as JSON, else, where it holds `["`, its last line; a map's keys and a text's
    letters pass for a list. tolerant: a list of names, also the last one anywhere in it, without a thinking model's
    notes.
    """
    if mode == "strict":
        return _strict_list(text)
    cleaned = without_thinking(text)
    for candidate in (cleaned, *cleaned.splitlines()[-1:], *reversed(_LIST.findall(cleaned))):
        try:
            value: Any = json_of(candidate)
        except ValueError:
            continue
        if isinstance(value, list) and all(isinstance(name, str) for name in value):
            return [name.strip() for name in value if name.strip()]
    return None


def _strict_list(text: str) -> list[str] | None:
    lines = text.strip().split("\n")
    for candidate in (text, *(lines[-1:] if '["' in text else ())):
        try:
            value: Any = json_of(candidate)
        except ValueError:
            continue
        if isinstance(value, (list, dict, str)) and all(isinstance(name, str) for name in value):
            return [name.strip() for name in value if name.strip()]
        return None
    return None


def named_by_model(
    chat: ChatModel,
    answers: Sequence[HalbenchAnswer],
    reader: BaseFormReader,
    own: ObjectHalBenchSettings,
) -> tuple[list[tuple[NamedObject, ...] | None], list[Judgement[list[str]]]]:
    """The objects in each answer according to the model (None where it gave no list), and its replies in the order of
    the answers that are longer than three words.
    """
    long = [answer for answer in answers if len(answer.text.split()) > SHORT]
    prompts = [render(own.template, question=answer.question, answer=answer.text) for answer in long]
    judgements = judge(
        chat,
        prompts,
        lambda text: read_objects(text, own.parser),
        label="extracting objects",
        max_tokens=512,
        temperature=own.temperature,
    )
    matcher = NameMatcher(reader, (name for one in judgements for name in one.value or ()))
    given = iter(judgements)
    named: list[tuple[NamedObject, ...] | None] = []
    for answer in answers:
        if len(answer.text.split()) <= SHORT:
            named.append(())
            continue
        value = next(given).value
        named.append(None if value is None else matcher.named(value))
    return named, judgements


class NameMatcher:
    """Objects of the vocabulary behind extracted names: the phrases in a name if it has any, otherwise every run of its
    nouns as a whole (`fire truck` is looked up as it stands). Without a tagger the whole name is one run.
    """

    def __init__(self, reader: BaseFormReader, names: Iterable[str]) -> None:
        self._entries, self._capitals = reader.vocabulary.entries, reader.vocabulary.capitals
        distinct = list(dict.fromkeys(names))
        tokens = [["a", *self._words(name)] for name in distinct]
        bases = list(reader.forms.bases(tokens))
        if has_tagger():
            tags = list(open_tagger().tags(tokens))
        else:
            tags = [["DT", *["NN"] * (len(row) - 1)] for row in tokens]
        self._strings = {
            name: reader.phrases_in(lemmas)
            or self._as_written(name, lemmas)
            or [run for run in _runs(lemmas, kinds) if run not in self._capitals]
            for name, lemmas, kinds in zip(distinct, bases, tags, strict=True)
        }

    def named(self, names: Sequence[str]) -> tuple[NamedObject, ...]:
        """The objects that a list of extracted names stands for, each distinct string once."""
        strings = list(dict.fromkeys(string for name in names for string in self._strings[name]))
        if "toilet" in strings and "seat" in strings:
            strings.remove("seat")
        return tuple((string, self._entries[string]) for string in strings if string in self._entries)

    def _as_written(self, name: str, lemmas: Sequence[str]) -> list[str]:
        """A name that as a whole is an entry which no text finds: with its capitals (`iPhone`), or of three words."""
        words = name.split()
        bare = " ".join(words[1:] if words[:1] and words[0].lower() in _ARTICLES else words)
        if self._capitals.get(bare.lower()) == bare:
            return [bare.lower()]
        whole = " ".join(lemmas[1:])
        return [whole] if len(lemmas) > 3 and whole in self._entries else []

    @staticmethod
    def _words(name: str) -> list[str]:
        words = [token.text.lower() for token in tokenize(name)]
        return words[1:] if words[:1] and words[0] in _ARTICLES else words


def _runs(words: Sequence[str], tags: Sequence[str]) -> list[str]:
    """The longest runs of nouns, each joined by spaces."""
    runs: list[list[str]] = [[]]
    for word, tag in zip(words, tags, strict=True):
        if tag.startswith("NN"):
            runs[-1].append(word)
        elif runs[-1]:
            runs.append([])
    return [" ".join(run) for run in runs if run]
