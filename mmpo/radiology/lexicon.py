"""The detector's words: a YAML or JSON file of classes, exclusions and cues, validated and compiled.

The file that ships (`lexicon.yaml`) follows the tables of the method's specification; a user's file of the same shape
is added to it. Patterns are regular expressions over lower-cased text without double spaces; groups may not repeat
without limit, so that reading time grows with the text and never explodes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mmpo.errors import UserError
from mmpo.outside import read_map

SHIPPED = Path(__file__).with_name("lexicon.yaml")
_NAME = re.compile(r"\{([A-Z][A-Z0-9]*)\}")
_WORD = r"[\w'/%.-]+"
_WORDS = {f"W{n}": rf"(?:{_WORD} ){{0,{n}}}" for n in range(1, 5)}
_UNBOUNDED_GROUP = re.compile(r"\)(?:[*+]|\{\d*,\})(?!\?)")
MAX_NESTING = 4


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = Field(min_length=1)
    pattern: str | None = None
    phrases: list[str] = []
    needs: list[str] = []


class _Cue(_Entry):
    score: float = Field(gt=0, le=1)
    without_finding: float | None = Field(None, ge=0, le=1)


class LexiconFile(BaseModel):
    """The content of a lexicon file."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    classes: dict[str, list[str]] = {}
    exclusions: list[_Entry] = []
    cues: list[_Cue] = []
    remove: list[str] = []


@dataclass(frozen=True)
class Pattern:
    """A compiled entry. `needs` are texts one of which every match contains; empty where that is not known."""

    name: str
    regex: re.Pattern[str]
    needs: tuple[str, ...]
    score: float = 0.0
    without_finding: float | None = None

    def may_match(self, text: str) -> bool:
        return not self.needs or any(need in text for need in self.needs)


@dataclass(frozen=True)
class Lexicon:
    """Compiled entries; `finding` finds a word of the class FINDING, `classes` are the alternations by name."""

    exclusions: tuple[Pattern, ...]
    cues: tuple[Pattern, ...]
    finding: re.Pattern[str]
    classes: dict[str, str]

    def phrase(self, pattern: str) -> re.Pattern[str]:
        """A further pattern in the language of the file, ignoring case."""
        return _compile("phrase", pattern, self.classes, "pattern")


@cache
def shipped_lexicon() -> Lexicon:
    """The lexicon that comes with the package."""
    return compile_lexicon([_read(SHIPPED)], [SHIPPED])


def load_lexicon(*paths: str | Path) -> Lexicon:
    """The shipped lexicon with the files at `paths` added in order. Raises UserError naming file and entry."""
    if not paths:
        return shipped_lexicon()
    files = [Path(path) for path in paths]
    return compile_lexicon([_read(SHIPPED), *(_read(path) for path in files)], [SHIPPED, *files])


def compile_lexicon(files: Sequence[LexiconFile], paths: Sequence[Path]) -> Lexicon:
    """One lexicon from several files: classes grow, entries are added, `remove` takes out those of earlier files."""
    words: dict[str, list[str]] = {}
    exclusions: dict[str, tuple[_Entry, Path]] = {}
    cues: dict[str, tuple[_Cue, Path]] = {}
    for file, path in zip(files, paths, strict=True):
        for name in file.remove:
            if exclusions.pop(name, None) is None and cues.pop(name, None) is None:
                raise UserError(f"{path}: `remove` names {name!r}, which no file before has")
        for name, items in file.classes.items():
            if not re.fullmatch(r"[A-Z][A-Z0-9]*", name) or name in _WORDS:
                raise UserError(f"{path}: class {name!r}", hint="names are capitals and digits; W1 to W4 are taken")
            words.setdefault(name, []).extend(items)
        for entry in file.exclusions:
            exclusions[entry.name] = (entry, path)
        for cue in file.cues:
            cues[cue.name] = (cue, path)
    classes = {name: "(?:" + "|".join(items) + ")" for name, items in words.items()}
    if "FINDING" not in classes:
        raise UserError(f"{paths[0]}: the class FINDING is missing")
    return Lexicon(
        tuple(_pattern(entry, path, classes) for entry, path in exclusions.values()),
        tuple(_pattern(cue, path, classes) for cue, path in cues.values()),
        _compile("FINDING", "{FINDING}", classes, str(paths[0])),
        classes,
    )


def _pattern(entry: _Entry, path: Path, classes: dict[str, str]) -> Pattern:
    where = f"{path}: {entry.name!r}"
    if (entry.pattern is None) == (not entry.phrases):
        raise UserError(f"{where} needs either `pattern` or `phrases`")
    source = entry.pattern if entry.pattern is not None else "|".join(re.escape(p.lower()) for p in entry.phrases)
    needs = tuple(need.lower() for need in entry.needs) or tuple(phrase.lower() for phrase in entry.phrases)
    score = entry.score if isinstance(entry, _Cue) else 0.0
    without = entry.without_finding if isinstance(entry, _Cue) else None
    return Pattern(entry.name, _compile(entry.name, source, classes, where), needs, score, without)


def _compile(name: str, source: str, classes: dict[str, str], where: str) -> re.Pattern[str]:
    text = source
    for _ in range(MAX_NESTING):
        unknown = [n for n in _NAME.findall(text) if n not in classes and n not in _WORDS]
        if unknown:
            known = ", ".join(sorted([*classes, *_WORDS]))
            raise UserError(f"{where}: no class is named {unknown[0]!r}", hint=f"there are {known}")
        text = _NAME.sub(lambda match: _WORDS.get(match[1]) or classes[match[1]], text)
    if _UNBOUNDED_GROUP.search(text):
        raise UserError(f"{where}: a group repeats without limit", hint="write a limit, as in (…){0,3}")
    try:
        # The end must not lie inside a word; patterns that end in a space or a look-ahead take care of themselves.
        return re.compile(rf"(?<![\w-])(?:{text})(?:(?<!\w)|(?!\w))")
    except re.error as error:
        raise UserError(f"{where}: not a regular expression: {error}") from None


def _read(path: Path) -> LexiconFile:
    try:
        return LexiconFile.model_validate(read_map(path) or {})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path}: {place}: {first['msg']}", hint="lexicon.yaml in mmpo/radiology shows how") from None
