"""Shared by the writers of other projects' formats: counts, rejects, and that a row is written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmpo.data.card import Counts, Rejects, rejects_path
from mmpo.data.convert.media import Media
from mmpo.data.pair import PreferencePair
from mmpo.errors import Quarantined


class RowSink:
    """A folder of rows. Subclasses define what a row is (`row`), where it goes (`put`) and what is beside (`finish`).

    `facts` holds the `split` and the `name` of the data set.
    """

    def __init__(self, folder: Path, media: Media, facts: Mapping[str, Any]) -> None:
        self.folder, self.media, self.facts = folder, media, facts
        self.counts = Counts()
        self._rejects = Rejects(rejects_path(folder, facts["split"]))

    def row(self, pair: PreferencePair, placed: Mapping[str, Any]) -> dict[str, Any]:
        """The pair in this format, with its media as `Media.placed` gives them; Quarantined if it has no place for
        it."""
        raise NotImplementedError

    def put(self, row: Mapping[str, Any]) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        raise NotImplementedError

    def add(self, *pairs: PreferencePair) -> None:
        for row in [self.row(pair, self.media.placed(pair)) for pair in pairs]:
            self.put(row)
        self.counts.sources += 1
        self.counts.kept += 1
        self.counts.pairs += len(pairs)

    def reject(self, id: str, error: Quarantined) -> None:
        self._rejects.add(id, error)
        self.counts.sources += 1
        self.counts.rejected += 1
        reason = f"{error.stage}/{error.reason}"
        self.counts.reasons[reason] = self.counts.reasons.get(reason, 0) + 1

    def close(self, title: str, notes: str = "") -> None:
        self._rejects.close()
        self.finish()


class LinesSink(RowSink):
    """Rows as `SPLIT.jsonl`."""

    def __init__(self, folder: Path, media: Media, facts: Mapping[str, Any]) -> None:
        super().__init__(folder, media, facts)
        self.file_name = f"{facts['split']}.jsonl"
        self._file = open(folder / self.file_name, "w", encoding="utf-8", newline="\n")  # noqa: SIM115 - see finish

    def put(self, row: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def finish(self) -> None:
        self._file.close()


def video_column(placed: Mapping[str, Any]) -> list[str | list[str]]:
    """Placed videos as these formats list them: a path, or the frames' paths."""
    return [video.get("path") or video["frames"] for video in placed["videos"]]
