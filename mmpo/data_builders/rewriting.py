"""A folder of pairs written again with something added to each pair, into a new folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from mmpo.data.pair import PreferencePair
from mmpo.data.reader import check_pairs, count_pairs, read_pairs, read_scores, shard_paths
from mmpo.data.shards import Counts, PairWriter
from mmpo.errors import Quarantined, UserError
from mmpo.files.atomic import file_digest
from mmpo.progress import track

PairsChange = Callable[[Sequence[PreferencePair]], Iterable[PreferencePair | Quarantined]]
"""From some pairs to as many with what is added, in order; a pair that can't get it is left out."""

AT_ONCE = 64
"""Pairs that are changed together: also what a kill can cost."""


def rewrite(
    source: Path, out: Path, change: PairsChange, *, recipe: Mapping[str, Any], scores: Sequence[str] = (), title: str
) -> Counts:
    """Write the pairs of `source` to `out` as `change` makes them; a second call continues where a killed one stopped.
    `recipe` says how, `scores` are names of scores that are added. Raises `UserError` for a folder without pairs and
    for one written otherwise."""
    check_pairs(source)
    if out.resolve() == source.resolve():
        raise UserError(f"{out}: is the folder that is read", hint="give a new folder")
    names = {name for _, own in read_scores(source) for name in own or {}}
    digests = [file_digest(path) for path in shard_paths(source, "train")]
    with PairWriter(
        out,
        recipe={**recipe, "pairs": digests},
        scores=sorted(names | {*scores}),
        images=source,
        rows_per_shard=AT_ONCE,
    ) as writer:
        left = islice(read_pairs(source), writer.sources_done, None)
        rest = count_pairs(source) - writer.sources_done
        for pair, made in track(_changed(left, change), title, rest):
            if isinstance(made, Quarantined):
                writer.reject(pair.id, made)
            else:
                writer.add(made)
    return writer.counts


def _changed(
    pairs: Iterator[PreferencePair], change: PairsChange
) -> Iterator[tuple[PreferencePair, PreferencePair | Quarantined]]:
    while some := list(islice(pairs, AT_ONCE)):
        yield from zip(some, change(some), strict=True)
