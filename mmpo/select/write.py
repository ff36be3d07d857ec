"""The folder of selected pairs: what is kept, in its order, then a reject for each pair that is not."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from mmpo.data.pair import PreferencePair
from mmpo.data.reader import PairDataset
from mmpo.data.shards import PairWriter
from mmpo.errors import Quarantined
from mmpo.files.atomic import replacing
from mmpo.files.paths import inside
from mmpo.progress import task
from mmpo.select.chain import Decision
from mmpo.select.logps import pair_ids

STAGE = "stage"
"""The score of a new pair that is its stage in a curriculum."""


def open_writer(
    out: Path, source: Path, scores: Sequence[str], decision: Decision, recipe: Mapping[str, Any]
) -> PairWriter:
    """The writer of the new folder, behind what an earlier run wrote. The new scores are columns beside the old."""
    added = [*decision.columns, *([STAGE] if decision.stage is not None else [])]
    return PairWriter(out, recipe=recipe, scores=list(dict.fromkeys([*scores, *added])), images=source)


def write_selected(writer: PairWriter, source: Path, decision: Decision) -> None:
    """Write what is not written yet. A kept pair whose picture can't be read becomes a reject."""
    total = len(decision.code)
    with task("writing pairs", total) as running:
        running.advance(writer.sources_done)
        for id, found in _outcomes(source, decision, writer.sources_done):
            if isinstance(found, Quarantined):
                writer.reject(id, found)
            else:
                try:
                    bring_videos(found, source, writer.folder)
                    writer.add(found)
                except Quarantined as error:
                    writer.reject(id, error)
            running.advance()


def _outcomes(source: Path, decision: Decision, done: int) -> Iterator[tuple[str, PreferencePair | Quarantined]]:
    """Id and outcome of every pair behind the first `done`: the kept ones in their order, then the others as they
    stand in the folder."""
    dataset = PairDataset(source, keep_open=True)
    labels = [f"select/{report.step}" for report in decision.reports]
    for place in decision.kept[done:].tolist():
        pair = _with_notes(dataset[place], place, labels, decision)
        yield pair.id, pair
    reasons = [Quarantined(step, reason) for step, reason in decision.reasons]
    dropped = ((id, int(code)) for id, code in zip(pair_ids(source), decision.code, strict=True) if code >= 0)
    for id, code in islice(dropped, max(0, done - len(decision.kept)), None):
        yield id, reasons[code]


def _with_notes(pair: PreferencePair, place: int, labels: Sequence[str], decision: Decision) -> PreferencePair:
    """The pair with its new scores, and the steps that it passed in its provenance."""
    scores = {name: float(values[place]) for name, values in decision.columns.items() if values[place] == values[place]}
    if decision.stage is not None:
        scores[STAGE] = float(decision.stage[place])
    filters = [*(pair.provenance.get("filters") or []), *labels]
    kept = {**(pair.scores or {}), **scores} or None
    return replace(pair, scores=kept, provenance={**pair.provenance, "filters": filters})


def bring_videos(pair: PreferencePair, source: Path, out: Path) -> None:
    """Copy the files of videos that are not stored as frames, once each."""
    for video in pair.videos or []:
        if (path := video.get("path")) is None or (out / path).exists():
            continue
        file = inside(source, path, links=True)
        if not file.is_file():
            raise Quarantined("decode", "missing", path)
        with replacing(out / path) as beside:
            shutil.copyfile(file, beside)
