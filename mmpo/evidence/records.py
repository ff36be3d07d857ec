"""What passes between evidence and the rest of mmpo: pictures and classes in, verdicts out. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypedDict

Presence: TypeAlias = Literal["present", "absent", "uncertain"]


@dataclass(frozen=True)
class EvidencePicture:
    """A picture that claims are about. `key` is the SHA-256 of its decoded pixels with their size (upright RGB), by
    which findings are cached; `data` its encoded file; `path` is relative, as the source of the pictures names it.
    """

    key: str
    data: bytes
    path: str


@dataclass(frozen=True)
class SourceFinding:
    """What one source says of one class in one picture, before any cut. `z` is None where it abstains; `why` then has
    the reason, a short word. `detail` is JSON data for people and drawings: `boxes` [[x1, y1, x2, y2, score], …] in
    pixels of the picture, `wordings` {question: logit}, `reply` of a judge.
    """

    z: float | None
    why: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Opinion:
    """One source's verdict about a class in a picture; None: it abstained (`why`). `confidence` is the calibrated
    probability of the verdict, None while uncalibrated."""

    verdict: Presence | None
    z: float | None
    confidence: float | None = None
    why: str = ""


@dataclass(frozen=True)
class CombinedOpinion:
    """All sources together about one class in one picture. `confidence`: the smallest of those that voted, None if one
    of them has none."""

    name: str
    verdict: Presence
    confidence: float | None
    by: Mapping[str, Opinion]


SourceFindings: TypeAlias = Mapping[str, SourceFinding]
"""By class name: what one source found in one picture."""


class OpinionRow(TypedDict):
    """An `Opinion` of one source as JSON or Parquet data."""

    source: str
    verdict: Presence | None
    z: float | None
    confidence: float | None
    why: str


class ClaimRow(TypedDict):
    """A `CombinedOpinion` as JSON or Parquet data: wherever verdicts are written, they look like this."""

    name: str
    verdict: Presence
    confidence: float | None
    by: list[OpinionRow]


def claim_row(found: CombinedOpinion) -> ClaimRow:
    """An opinion with what each source said."""
    by: list[OpinionRow] = [
        {"source": source, "verdict": one.verdict, "z": one.z, "confidence": one.confidence, "why": one.why}
        for source, one in found.by.items()
    ]
    return {"name": found.name, "verdict": found.verdict, "confidence": found.confidence, "by": by}


def opinion_of(row: Mapping[str, Any]) -> CombinedOpinion:
    """The opinion of a `ClaimRow`, which may have other columns too."""
    by = {one["source"]: Opinion(one["verdict"], one["z"], one["confidence"], one["why"]) for one in row["by"]}
    return CombinedOpinion(row["name"], row["verdict"], row["confidence"], by)
