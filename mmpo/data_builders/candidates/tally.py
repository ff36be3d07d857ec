"""The account of a build of candidates: what came in, and where each went."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from mmpo.data.card import Rejects, rejects_path
from mmpo.data_builders.candidates.judging import claims_of, heard
from mmpo.data_builders.candidates.records import Candidate, JudgedPicture
from mmpo.data_builders.candidates.responding import count_candidates
from mmpo.data_builders.candidates.settings import CandidatesMade
from mmpo.data_builders.candidates.sorting import SortedPhotos
from mmpo.data_builders.units import ordered
from mmpo.errors import Quarantined
from mmpo.evidence.evidence import FittedEvidence

VERDICTS = ("present", "absent", "uncertain")


class CandidateTally:
    """Counts pictures as they pass. `sources` are the labels of the evidence."""

    def __init__(self, sources: Iterable[str]) -> None:
        self.candidates: Counter[str] = Counter()
        self.claims: Counter[str] = Counter()
        self.probes: Counter[str] = Counter()
        self.by: dict[str, Counter[str]] = {label: Counter() for label in sources}
        self.rejects: dict[str, Quarantined] = {}
        self.used = 0
        self.greedy: list[Candidate] = []

    def add(self, picture: JudgedPicture) -> JudgedPicture:
        """Count a picture, and give it on."""
        self.candidates += count_candidates(picture.candidates)
        claimed = claims_of(picture.candidates)
        for name, opinion in picture.opinions.items():
            table = self.claims if name in claimed else self.probes
            table.update(("in", opinion.verdict))
            for label, one in opinion.by.items():
                self.by[label].update(("in", one.verdict or f"abstained: {one.why}"))
        kept = [one for one in picture.candidates if one.kept]
        if not kept:
            why = Counter(one.why_not for one in picture.candidates).most_common(1)
            self.rejects[picture.image] = Quarantined("filter", "no_claim", f"most are {why[0][0]}" if why else "")
        elif claimed and not heard(picture) and not any(one.answer for one in kept):
            whys = sorted({one.why for name in claimed for one in picture.opinions[name].by.values()})
            self.rejects[picture.image] = Quarantined("evidence", "nothing_known", ", ".join(whys))
        else:
            self.used += 1
        self.greedy += [one for one in kept if one.sample == 0]
        return picture

    def result(self, photos: SortedPhotos, fitted: FittedEvidence) -> CandidatesMade:
        """The result in numbers, without pairs."""
        lost = photos.reasons() + Counter(f"{e.stage}: {e.reason}" for e in self.rejects.values())
        came = len(photos.used) + len(photos.left_out)
        counts = {
            "photos": ordered({"in": came, "used": self.used, **lost}, ("in", "used")),
            "candidates": ordered(self.candidates, ("in", "kept")),
            "claims": ordered(self.claims, ("in", *VERDICTS)),
            "probes": ordered(self.probes, ("in", *VERDICTS)),
            **{f"evidence {label}": ordered(table, ("in", *VERDICTS)) for label, table in self.by.items()},
        }
        recalls = [one.recall_pool for one in self.greedy if one.recall_pool is not None]
        return CandidatesMade(
            images=came,
            images_used=self.used,
            candidates_made=self.candidates["in"],
            claims=self.claims["in"] + self.probes["in"],
            counts=counts,
            absent_share=_mean([bool(one.absent) for one in self.greedy]) or 0.0,
            absent_per_response=_mean([len(one.absent) for one in self.greedy]) or 0.0,
            recall_pool=_mean(recalls),
            words=_mean([one.words for one in self.greedy]) or 0.0,
            calibrated=fitted.calibrated,
            sources=json.loads(json.dumps(fitted.as_json()["sources"])),
            warnings=[*photos.warnings, *fitted.warnings],
        )

    def write_rejects(self, folder: Path, photos: SortedPhotos) -> None:
        """Write `rejects.jsonl` anew: the photos without candidates, then those whose candidates are of no use."""
        path = rejects_path(folder)
        path.unlink(missing_ok=True)
        with Rejects(path) as rejects:
            for photo, error in photos.left_out:
                rejects.add(photo.path, error)
            for image, error in self.rejects.items():
                rejects.add(image, error)


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None
