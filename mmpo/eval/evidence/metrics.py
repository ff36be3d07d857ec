"""The numbers of the benchmark `evidence`: what descriptions claim, by verdict. Pure counts.

Shapes: g photos; columns as in `COLUMNS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmpo.eval.statistics.tally import Caution, Metric, Tally, share
from mmpo.evidence.records import CombinedOpinion
from mmpo.statistics import Array

COLUMNS = ("descriptions", "present", "absent", "uncertain", "judged", "pool", "with_absent", "words")
_DESCRIPTIONS, _PRESENT, _ABSENT, _UNCERTAIN, _JUDGED, _POOL, _WITH_ABSENT, _WORDS = range(len(COLUMNS))


@dataclass(frozen=True)
class JudgedDescription:
    """A description, the classes that it claims, and the verdicts about its photo."""

    path: str
    text: str
    claimed: tuple[str, ...]
    verdicts: Mapping[str, CombinedOpinion]

    def named(self, verdict: str) -> list[str]:
        """The claimed classes with this verdict."""
        return [name for name in self.claimed if self.verdicts[name].verdict == verdict]

    @property
    def counts(self) -> list[int]:
        """One row of `COLUMNS`. The pool are all classes that are in the photo as far as anyone asked: those that any
        description of it claims, and those that a detector found, confirmed by agreement."""
        present, absent, uncertain = (len(self.named(kind)) for kind in ("present", "absent", "uncertain"))
        pool = sum(one.verdict == "present" for one in self.verdicts.values())
        return [1, present, absent, uncertain, present + absent, pool, int(absent > 0), len(self.text.split())]


def _mean(name: str, column: int, better: str, meaning: str, **more: object) -> Metric:
    def formula(counts: Array) -> Array:
        return counts[..., column] / np.maximum(counts[..., _DESCRIPTIONS], 1)

    return Metric(name, formula, better, meaning, percent=False, **more)  # type: ignore[arg-type]


def _claims(counts: Array) -> Array:
    total: Array = counts[..., _PRESENT] + counts[..., _ABSENT] + counts[..., _UNCERTAIN]
    return total


METRICS: tuple[Metric, ...] = (
    share(
        "absent_share",
        _ABSENT,
        _JUDGED,
        "lower",
        "share of claimed objects that are not there, of those that the sources agree about",
        label="absent claims",
        headline=1,
        sentence="Of what descriptions claim, {} is not there.",
        watched=True,
    ),
    _mean("absent_per_description", _ABSENT, "lower", "objects claimed in a description that are not there"),
    share(
        "with_absent",
        _WITH_ABSENT,
        _DESCRIPTIONS,
        "lower",
        "share of descriptions that claim anything that is not there",
        label="descriptions with an absent claim",
        independent=True,
    ),
    share(
        "recall_pool",
        _PRESENT,
        _POOL,
        "higher",
        "share of the objects known to be there (claimed by any state, or found by a detector) that is named",
        label="recall of the pool",
        caution=Caution(0.05, "recall of the pool moved {moved}; fewer mistakes may be fewer words"),
    ),
    Metric(
        "uncertain_share",
        lambda counts: counts[..., _UNCERTAIN] / np.maximum(_claims(counts), 1),
        "neither",
        "share of claimed objects about which the sources do not agree",
        denominator=_claims,
        label="uncertain claims",
    ),
    _mean(
        "words",
        _WORDS,
        "neither",
        "words in a description",
        caution=Caution(0.15, "descriptions went {moved} words; look at recall too", relative=True),
    ),
)


def tally(rows: Sequence[JudgedDescription]) -> Tally:
    """The counts of one state, photo by photo."""
    counts = np.array([one.counts for one in rows], dtype=np.float64).reshape(len(rows), len(COLUMNS))
    return Tally(tuple(one.path for one in rows), counts, METRICS)
