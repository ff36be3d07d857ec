"""Pairs as Python has them: a folder, `PreferencePair`s, or a `datasets.Dataset` in TRL's form. No torch here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from mmpo.data.pair import PreferencePair, validate
from mmpo.errors import Quarantined, UserError

if TYPE_CHECKING:
    import datasets

Pairs: TypeAlias = Union[str, Path, Sequence[PreferencePair], "datasets.Dataset", "datasets.IterableDataset"]
ROWS = 32
"""Rows of a dataset that are decoded together."""


def folder_of(pairs: Any) -> Path | None:
    """The folder that `pairs` name; None where they are in memory."""
    return Path(pairs) if isinstance(pairs, str | Path) else None


def pairs_in(pairs: Any, images: Path, on_reject: Any) -> Iterator[PreferencePair]:
    """The pairs in memory, checked and with ids that differ; a row of a dataset that can't be used goes to
    `on_reject(id, Quarantined)`. Image paths start in `images`, and stay below it.

    Raises `UserError` for something else than pairs, and for a `PreferencePair` that breaks a rule.
    """
    seen: dict[str, int] = {}
    for pair in _listed(pairs) if not is_dataset(pairs) else _rows(pairs, images, on_reject):
        count = seen[pair.id] = seen.get(pair.id, 0) + 1
        yield pair if count == 1 else replace(pair, id=f"{pair.id}#{count}")


def is_dataset(pairs: Any) -> bool:
    """True if it is a dataset of the package `datasets`, which is not imported to find out."""
    return type(pairs).__module__.partition(".")[0] == "datasets"


def fingerprint(pairs: Iterable[PreferencePair]) -> str:
    """A name for the content of pairs: texts, images, weights and order."""
    digest = hashlib.blake2b(digest_size=16)
    for pair in pairs:
        digest.update(repr(pair).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _listed(pairs: Any) -> Iterator[PreferencePair]:
    if isinstance(pairs, PreferencePair):
        pairs = [pairs]
    if not isinstance(pairs, Iterable) or isinstance(pairs, bytes | dict):
        raise UserError(
            f"pairs must be a folder, a list of PreferencePair or a datasets.Dataset, not {type(pairs).__name__}"
        )
    for number, pair in enumerate(pairs):
        if not isinstance(pair, PreferencePair):
            raise UserError(
                f"pairs[{number}] is a {type(pair).__name__}, not a PreferencePair",
                hint="mmpo.PreferencePair.simple(…) makes one; rows in TRL's form go into a datasets.Dataset",
            )
        yield validate(pair, f"pairs[{number}]")


def _rows(dataset: Any, images: Path, on_reject: Any) -> Iterator[PreferencePair]:
    from mmpo.data.convert.format import SourceContext
    from mmpo.data.convert.rows import Row
    from mmpo.data.convert.run import options_of, pairs_of
    from mmpo.data.convert.trl import TRL

    if isinstance(dataset, dict):
        raise UserError(f"a DatasetDict has several splits: {', '.join(dataset)}", hint='take one: dataset["train"]')
    context = SourceContext(images, images, options_of(TRL, {}))
    number = 0
    for table in dataset.with_format("arrow").iter(batch_size=ROWS):  # as stored: pictures stay encoded
        for data in table.to_pylist():
            name = f"row {number}"
            number += 1
            try:
                for made in pairs_of(TRL, Row(name, name, data), context, ()):
                    assert isinstance(made, PreferencePair)  # TRL's rows are pairs, never groups of responses
                    yield made
            except Quarantined as error:
                on_reject(name, error)
