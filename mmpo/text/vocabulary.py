"""Object words in a text: which classes a caption mentions, and where. Singular, plural and synonyms; no model.

Captions are scanned left to right and the longest phrase wins, so `a wine glass` is one wine glass and not a glass. A
word inside a hyphenated compound (`bear-shaped`) is no mention; spaces or hyphens may join the parts of a phrase.
Meaning is not looked at: an `orange shirt` mentions an orange where `orange` is a class.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from mmpo.errors import UserError
from mmpo.outside import read_map, read_text
from mmpo.text.coco_words import COCO_ANIMALS, COCO_IGNORE, COCO_SYNONYMS
from mmpo.text.words import article, plural, plurals, with_article

__all__ = ["Mention", "ObjectVocabulary", "article", "coco", "plural", "with_article"]

_WORD = re.compile(r"\w+")
_JOIN = re.compile(r"\s+|\s*-\s*")

# The double words of CHAIR (Rohrbach et al. 2018, arXiv:1809.02156, the released evaluation): each is read as the word
# on its right. A double word that is no entry of the synonym file (`train track`) mentions nothing.
CHAIR_ANIMALS = (
    "bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "animal", "cub",
)  # fmt: skip
CHAIR_DOUBLE_WORDS = {
    word: word
    for word in (
        "motor bike", "motor cycle", "air plane", "traffic light", "street light", "traffic signal", "stop light",
        "fire hydrant", "stop sign", "parking meter", "suit case", "sports ball", "baseball bat", "baseball glove",
        "tennis racket", "wine glass", "hot dog", "cell phone", "mobile phone", "teddy bear", "hair drier",
        "potted plant", "laptop computer", "home plate", "train track",
    )
} | {f"{age} {animal}": animal for age in ("baby", "adult") for animal in CHAIR_ANIMALS} | {
    "passenger jet": "jet", "passenger train": "train", "bow tie": "tie", "toilet seat": "toilet",
}  # fmt: skip


@dataclass(frozen=True)
class Mention:
    """`text[start:end]` is `word` and mentions the class `name`."""

    start: int
    end: int
    word: str
    name: str


class ObjectVocabulary:
    """Class names with their synonyms.

    `classes` maps each name to its synonyms; the name itself always counts. `ignore` lists phrases that mention nothing
    although a part of them is a class (`train track`). With `chair_merges` the text is read as CHAIR reads it: only
    CHAIR's double words are phrases, and entries count only as they are written (an entry with a capital or a leading
    space never matches, as in CHAIR).
    """

    def __init__(
        self, classes: Mapping[str, Iterable[str]], *, ignore: Iterable[str] = (), chair_merges: bool = False
    ) -> None:
        if not classes:
            raise UserError("the vocabulary has no classes")
        self.chair_merges = chair_merges
        self.ignored = tuple(map(_plain, ignore))
        self.capitals: dict[str, str] = {}
        """Entries of a synonym list that has them in capitals (`iphone`), as it writes them (`iPhone`)."""
        self.synonyms: dict[str, tuple[str, ...]] = {}
        self._name_of: dict[str, str] = {}
        for name, synonyms in classes.items():
            words = tuple(dict.fromkeys(_entry(word, chair_merges) for word in (name, *synonyms)))
            self.synonyms[name] = words
            for word in words:
                other = self._name_of.setdefault(word, name)
                if other != name:
                    raise UserError(f"the word {word!r} stands for two classes, {other!r} and {name!r}")
        targets = self._chair_targets() if chair_merges else dict.fromkeys(self.ignored) | self._name_of
        self._phrases = _phrase_table(targets)

    @classmethod
    def from_names(cls, names: Iterable[str]) -> ObjectVocabulary:
        """Classes without synonyms, for instance the names that occur in an annotation file."""
        return cls({name: () for name in names})

    @classmethod
    def from_categories(cls, names: Iterable[str]) -> ObjectVocabulary:
        """The categories of an annotation file. One that is called like a COCO class has that class's synonyms, but for
        words that are categories themselves; names that differ in case alone are one class.
        """
        classes: dict[str, str] = {}
        for name in names:
            classes.setdefault(_plain(name), name)
        known = coco().synonyms
        synonyms = {
            name: [word for word in known.get(plain, ()) if word not in classes] for plain, name in classes.items()
        }
        return cls(synonyms, ignore=coco().ignored if any(synonyms.values()) else ())

    @classmethod
    def from_file(cls, path: str | Path, *, chair_merges: bool = False) -> ObjectVocabulary:
        """A synonym file: CHAIR's lines of `name, synonym, …`, or a JSON or YAML map `{name: [synonym, …]}`."""
        path = Path(path)
        as_map = path.suffix in (".json", ".yaml", ".yml")
        classes = _read_map(path) if as_map else _read_lines(path, read_text(path), chair_merges)
        try:
            vocabulary = cls(classes, chair_merges=chair_merges)
        except UserError as error:
            raise UserError(f"{path}: {error.message}") from None
        if not as_map:
            words = (word for name, synonyms in classes.items() for word in (name, *synonyms))
            vocabulary.capitals = {_plain(word): word for word in words if word != word.lower()}
        return vocabulary

    @property
    def names(self) -> tuple[str, ...]:
        """The classes, in the order given."""
        return tuple(self.synonyms)

    @property
    def entries(self) -> Mapping[str, str]:
        """Every word and phrase in the vocabulary, with the class that it stands for."""
        return self._name_of

    def __len__(self) -> int:
        return len(self.synonyms)

    def __contains__(self, word: object) -> bool:
        return isinstance(word, str) and self.name_of(word) is not None

    def name_of(self, word: str) -> str | None:
        """The class that a word or phrase, singular or plural, stands for; None if it is not in the vocabulary."""
        if (name := self._name_of.get(_plain(word))) is not None:
            return name
        mentions = self.find(word)
        whole = len(mentions) == 1 and mentions[0].word == word.strip()
        return mentions[0].name if whole else None

    def find(self, text: str) -> list[Mention]:
        """Every mention in the text, in order; they never overlap."""
        words = [(match.group().lower(), match.start(), match.end()) for match in _WORD.finditer(text)]
        found: list[tuple[Mention, str]] = []
        bases: set[str] = set()
        position = 0
        while position < len(words):
            length, base, name = self._longest(words, position, text)
            if length:
                start, end = words[position][1], words[position + length - 1][2]
                bases.add(base)
                if name is not None:
                    found.append((Mention(start, end, text[start:end], name), base))
            position += length or 1
        if self.chair_merges and "toilet" in bases and "seat" in bases:  # "the seat of the toilet" is no chair
            return [mention for mention, base in found if base != "seat"]
        return [mention for mention, _ in found]

    def _longest(self, words: Sequence[tuple[str, int, int]], position: int, text: str) -> tuple[int, str, str | None]:
        """(words, base form, class) of the longest phrase at this position; (0, "", None) if there is none."""
        start = words[position][1]
        if _hyphen_at(text, start - 1):
            return 0, "", None
        for phrase, base, name in self._phrases.get(words[position][0], ()):
            last = position + len(phrase) - 1
            if last >= len(words) or any(words[position + k][0] != word for k, word in enumerate(phrase)):
                continue
            gaps = (text[words[k][2] : words[k + 1][1]] for k in range(position, last))
            if all(_JOIN.fullmatch(gap) for gap in gaps) and not _hyphen_at(text, words[last][2]):
                return len(phrase), base, name
        return 0, "", None

    def _chair_targets(self) -> dict[str, str | None]:
        singles: dict[str, str | None] = {word: name for word, name in self._name_of.items() if " " not in word}
        doubles = {phrase: self._name_of.get(word) for phrase, word in CHAIR_DOUBLE_WORDS.items()}
        return singles | doubles


def _phrase_table(targets: Mapping[str, str | None]) -> dict[str, list[tuple[tuple[str, ...], str, str | None]]]:
    """First word -> the phrases that begin with it, longest first, each with base form and class.

    A plural is added to every entry, unless it is an entry itself.
    """
    forms: dict[tuple[str, ...], tuple[str, str | None]] = {}
    for target, name in targets.items():
        forms[tuple(_WORD.findall(target))] = (target, name)
    for target, name in targets.items():
        for form in plurals(target):
            forms.setdefault(tuple(_WORD.findall(form)), (target, name))
    table: dict[str, list[tuple[tuple[str, ...], str, str | None]]] = {}
    for phrase, (base, name) in forms.items():
        table.setdefault(phrase[0], []).append((phrase, base, name))
    for phrases in table.values():
        phrases.sort(key=lambda item: -len(item[0]))
    return table


def _hyphen_at(text: str, index: int) -> bool:
    """Is there a hyphen at `index` that ties two words together?"""
    return 0 < index < len(text) - 1 and text[index] == "-" and text[index - 1].isalnum() and text[index + 1].isalnum()


def _plain(word: str) -> str:
    """Lower case, single spaces, no underscores: `Dining_Table` -> `dining table`."""
    return " ".join(word.replace("_", " ").lower().split())


def _entry(word: str, as_written: bool) -> str:
    if not isinstance(word, str) or not _WORD.search(word):
        raise UserError(f"the vocabulary has an entry without letters: {word!r}")
    return word if as_written else _plain(word)


def _read_lines(path: Path, text: str, as_written: bool) -> dict[str, list[str]]:
    """CHAIR splits at comma and space, so that a doubled space stays in the entry; others may leave the space out."""
    classes: dict[str, list[str]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        words = line.strip().split(", " if as_written else ",")
        name, *synonyms = [word if as_written else word.strip() for word in words if word.strip()] or [line]
        if name in classes:
            raise UserError(f"{path}:{number}: the class {name!r} has a line already")
        classes[name] = synonyms
    return classes


def _read_map(path: Path) -> dict[str, list[str]]:
    data = read_map(path)
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected a map of names to lists of synonyms, got {type(data).__name__}")
    for name, synonyms in data.items():
        if not isinstance(name, str) or not isinstance(synonyms, (list, type(None))):
            raise UserError(f"{path}: {name!r} must be a name with a list of synonyms, got {synonyms!r}")
    return {name: synonyms or [] for name, synonyms in data.items()}


@lru_cache(maxsize=1)
def coco() -> ObjectVocabulary:
    """The 80 COCO classes with a modest list of synonyms, and common phrases that only sound like one."""
    classes: dict[str, list[str]] = {}
    for line in COCO_SYNONYMS.replace("\n  ", " ").strip().splitlines():
        name, _, synonyms = line.partition(":")
        classes[name] = [word.strip() for word in synonyms.split(",") if word.strip()]
    for animal in COCO_ANIMALS:  # the baby of an animal is no person
        classes[animal] += [f"baby {animal}", f"adult {animal}"]
    return ObjectVocabulary(classes, ignore=COCO_IGNORE)
