"""Accuracy of a model's reports about synthetic chests, by kind of claim: finding, side, zone, size.

    python -m mmpo.demo.radiology.accuracy [MODEL] [--adapter DIR] [--films 300]

The reports are read in the few wordings of `dictation.py`, earlier exams and all, and compared with what was drawn;
no labels are read by rules in between, so sides and false claims count. A claim of a side, zone or size counts where
its finding is there; a finding that is not there is a false claim.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmpo.demo.by_kind import KindOutcome, KindShare, before_after, command, shares
from mmpo.demo.radiology import model_path
from mmpo.demo.radiology.chests import DEGREES, KINDS, SIDES, ZONES, Chest
from mmpo.demo.radiology.dictation import PROMPT
from mmpo.demo.radiology.world import world_split
from mmpo.errors import in_one_line
from mmpo.text.claims import split_sentences

if TYPE_CHECKING:
    from mmpo.models.generation.answer import AnswerEngine

SUMMARY = ("claimed findings that are there", "denied findings that are not there", "side", "zone", "size")
LUNG_FINDINGS = ("edema", "opacity", "nodule")
"""The findings that "the lungs are clear" denies."""

_NAMES = {
    "pleural effusion": "effusion", "lung opacity": "opacity", "lung nodule": "nodule", "pneumothorax": "pneumothorax",
    "pulmonary edema": "edema", "pacemaker": "pacemaker", "endotracheal tube": "endotracheal tube",
}  # fmt: skip
_FINDING = re.compile(
    rf"(?:\b(?P<no>no) )?(?:\b(?P<degree>{'|'.join(DEGREES)}) )?(?:\b(?P<side>{'|'.join(SIDES)}) )?"
    rf"(?:\b(?P<zone>{'|'.join(ZONES)}) )?\b(?P<name>{'|'.join(_NAMES)})\b",
    re.IGNORECASE,
)
_HEART = re.compile(
    r"\b(?:(?P<large>heart (?:is|remains) enlarged|cardiomegaly)|heart (?:size )?(?:is|remains) normal)\b", re.I
)
_CLEAR = re.compile(r"\blungs (?:are|remain) clear\b", re.I)


@dataclass(frozen=True)
class FindingClaim:
    """A sentence's claim about one kind of finding: that it is there, with its attributes, or that it isn't."""

    kind: str
    there: bool
    side: str | None = None
    zone: str | None = None
    degree: str | None = None


def read_claims(report: str) -> list[FindingClaim]:
    """The claims of a report about the film, in order; sentences in other words claim nothing."""
    found: list[FindingClaim] = []
    for sentence in split_sentences(report):
        text = sentence.text.lower()
        for match in _FINDING.finditer(text):
            found.append(
                FindingClaim(_NAMES[match["name"]], not match["no"], match["side"], match["zone"], match["degree"])
            )
        found += [FindingClaim("cardiomegaly", bool(match["large"])) for match in _HEART.finditer(text)]
        if _CLEAR.search(text):
            found += [FindingClaim(kind, False) for kind in LUNG_FINDINGS]
    return found


def outcomes(report: str, chest: Chest) -> Iterator[KindOutcome]:
    """Every claim of a report, with whether it is so; and under the name of each finding, whether it is right where a
    report names it (with the side, zone and size that it gives) and where it leaves it out.
    """
    claims = read_claims(report)
    for claim in claims:
        found = chest.of(claim.kind)
        yield SUMMARY[0] if claim.there else SUMMARY[1], bool(found) == claim.there
        if claim.there and found:
            for name, said in (("side", claim.side), ("zone", claim.zone), ("size", claim.degree)):
                attribute = "degree" if name == "size" else name
                if said is not None and getattr(found[0], attribute) is not None:
                    right = any(getattr(one, attribute) == said for one in found)
                    yield name, right
                    yield f"{claim.kind}: {name}", right
    for kind in KINDS:
        named = any(claim.kind == kind and claim.there for claim in claims)
        if chest.of(kind):
            yield f"{kind}: named where it is", named
        else:
            yield f"{kind}: not made up where it isn't", not named


def count(reports: Sequence[str], chests: Sequence[Chest]) -> dict[str, KindShare]:
    """Shares by kind of claim, then by finding."""
    said = [one for report, chest in zip(reports, chests, strict=True) for one in outcomes(report, chest)]
    parts = ("named where it is", "not made up where it isn't", "side", "zone", "size")
    order = [f"{kind}: {part}" for kind in KINDS for part in parts]
    every = shares(said, (*SUMMARY, *order))
    return {kind: share for kind, share in every.items() if kind in SUMMARY or share.asked}


def measure(
    model: Path, adapter: Path | None = None, films: int = 300, seed: int = 0
) -> dict[str, dict[str, KindShare]]:
    """Greedy reports on unseen films, counted: `base`, and with an adapter `tuned`."""
    chests = list(world_split("radiology_test", films, seed))
    pictures = [chest.draw() for chest in chests]

    def look(engine: AnswerEngine) -> dict[str, KindShare]:
        return count(list(engine.describe(pictures, PROMPT)), chests)

    return before_after(model, adapter, look, max_new_tokens=128)


def main() -> None:
    """`python -m mmpo.demo.radiology.accuracy [MODEL] [--adapter DIR] [--films N] [--json]`."""
    command(__doc__, measure, model_path, "films", 300)


if __name__ == "__main__":
    in_one_line(main)
