"""AMBER's published files: annotations with their word lists, queries, responses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mmpo.data.records import read_records, text_of
from mmpo.errors import UserError
from mmpo.outside import read_json, read_text

DIMENSIONS = {
    "discriminative-hallucination": "existence",
    "discriminative-attribute-state": "state",
    "discriminative-attribute-number": "number",
    "discriminative-attribute-action": "action",
    "discriminative-relation": "relation",
    "relation": "relation",
}
"""The `type` of a yes/no question -> what it asks about."""


@dataclass(frozen=True)
class AmberObjects:
    """The objects that people see in an image (`truth`) and those they would expect there but don't see (`hallu`)."""

    id: int
    truth: tuple[str, ...]
    hallu: tuple[str, ...]


@dataclass(frozen=True)
class AmberLabel:
    """The right answer to a yes/no question, and what it asks about."""

    id: int
    dimension: str
    label: Literal["yes", "no"]


@dataclass(frozen=True)
class Annotations:
    """The annotation file and the two word lists. `related` maps every word of the benchmark to words that mean it
    too; `safe` words are never counted as hallucinated.
    """

    items: Mapping[int, AmberObjects | AmberLabel]
    related: Mapping[str, tuple[str, ...]]
    safe: frozenset[str]

    @property
    def words(self) -> frozenset[str]:
        """Every word that a description is searched for."""
        return frozenset(self.related).union(*self.related.values())


@dataclass(frozen=True)
class Query:
    """One question of a query file."""

    id: int
    image: str
    text: str
    where: str


def read_annotations(
    path: str | Path, *, related: str | Path | None = None, safe: str | Path | None = None
) -> Annotations:
    """Read `annotations.json`, or the folder that holds it; `relation.json` and `safe_words.txt` stand beside it unless
    named.

    Items are found by their `id` (the published script goes by position). Raises UserError naming file and record.
    """
    path = Path(path)
    path = path / "annotations.json" if path.is_dir() else path
    items: dict[int, AmberObjects | AmberLabel] = {}
    for where, record in read_records(path):
        item = _item(record, where)
        if item.id in items:
            raise UserError(f"{where}: id {item.id} is used twice")
        items[item.id] = item
    words, safe_file = _beside(path, "relation.json", related), _beside(path, "safe_words.txt", safe)
    table = read_json(words, unique=True)
    if not isinstance(table, dict) or not all(_is_words(value) for value in table.values()):
        raise UserError(f"{words}: expected an object that maps words to lists of words")
    unrelated = next(
        (word for item in items.values() if isinstance(item, AmberObjects) for word in (*item.truth, *item.hallu)
         if word not in table), None,
    )  # fmt: skip
    if unrelated is not None:
        raise UserError(
            f"{words} has no entry for {unrelated!r}, which {path} names", hint="add it, with an empty list"
        )
    safe_words = read_text(safe_file).split()
    return Annotations(items, {word: tuple(others) for word, others in table.items()}, frozenset(safe_words))


def _beside(annotations: Path, name: str, given: str | Path | None) -> Path:
    path = Path(given) if given else annotations.with_name(name)
    if not path.exists():
        raise UserError(
            f"{path} does not exist",
            hint=f"AMBER's data folder has it beside annotations.json; elsewhere, set {Path(name).stem}",
        )
    return path


def read_responses(path: str | Path, annotations: Annotations) -> dict[int, str]:
    """Read `{"id", "response"}` records. Raises UserError naming the record of an id that is used twice or unknown."""
    responses: dict[int, str] = {}
    seen: dict[int, str] = {}
    for where, record in read_records(path):
        number = _id(record, where)
        if number in seen:
            raise UserError(f"{where}: id {number} is answered at {seen[number]} already")
        if number not in annotations.items:
            raise UserError(f"{where}: id {number} is in no annotation")
        responses[number], seen[number] = text_of(record, ("response",), where), where
    if not responses:
        raise UserError(f"{path} holds no responses")
    return responses


def read_queries(path: str | Path) -> list[Query]:
    """Read a query file `{"id", "image", "query"}`. Raises UserError naming the record of a mistake."""
    queries: list[Query] = []
    seen: dict[int, str] = {}
    for where, record in read_records(path):
        number = _id(record, where)
        if number in seen:
            raise UserError(f"{where}: id {number} is used at {seen[number]} already")
        seen[number] = where
        queries.append(Query(number, text_of(record, ("image",), where), text_of(record, ("query",), where), where))
    return queries


def _item(record: dict[str, Any], where: str) -> AmberObjects | AmberLabel:
    number, kind = _id(record, where), text_of(record, ("type",), where)
    if kind == "generative":
        for key in ("truth", "hallu"):
            if not _is_words(record.get(key)):
                raise UserError(f"{where}: `{key}` must be a list of words, found {record.get(key)!r:.60}")
        return AmberObjects(number, tuple(record["truth"]), tuple(record["hallu"]))
    if kind not in DIMENSIONS:
        raise UserError(f"{where}: type {kind!r} is none of generative, {', '.join(DIMENSIONS)}")
    label = text_of(record, ("truth",), where).strip().lower()
    if label not in ("yes", "no"):
        raise UserError(f"{where}: `truth` {record['truth']!r} is neither yes nor no")
    return AmberLabel(number, DIMENSIONS[kind], "yes" if label == "yes" else "no")


def _id(record: Mapping[str, Any], where: str) -> int:
    number = record.get("id")
    if isinstance(number, bool) or not isinstance(number, int):
        raise UserError(f"{where}: `id` must be a whole number, found {number!r}")
    return number


def _is_words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)
