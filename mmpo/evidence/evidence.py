"""Evidence: pictures and classes in, verdicts out. The one module that builders and benchmarks need.

    class CandidateSettings(EvidenceSettings): ...          # `evidence:`, `controls:`, `agree:`, `precision:`

    with ExitStack() as stack:
        evidence = Evidence.open(settings, vocabulary, run_dir / "evidence", stack, engine=engine, model=fingerprint)
        source["evidence"] = evidence.identity              # for source.json: another detector is another build
        evidence.refuse_shared(seen_pictures)               # no control among the pictures; before anything runs
        if evidence.controls:                               # claims must be the model's own: the builder describes them
            evidence.calibrate([names_claimed(one.picture) for one in evidence.controls])
        findings = evidence.find(pictures, names)           # a unit at a time; kept on disk, never asked twice
        cuts = evidence.cuts(all_findings)                  # once all units have theirs: without controls `self` looks
        verdicts = evidence.judged(findings[0], cuts)       # … for two groups in all numbers

`pictures` come from `open_picture(data, path)`. `names` are classes of the vocabulary. Findings may be of more classes
than were asked for: what a closed-set detector found too, which all other sources are then asked about.
`FittedEvidence.as_json` goes into the build's folder, its `warnings` into the card.
"""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from mmpo.errors import UserError
from mmpo.evidence.agreement import SourceOverlap, overlap
from mmpo.evidence.controls import (
    ControlPicture,
    SeenPicture,
    control_names,
    open_picture,
    read_controls,
    refuse_shared,
)
from mmpo.evidence.cuts import LEAST_AUROC, SourceCuts, VerdictCuts, calibrated_cuts, separation
from mmpo.evidence.kept import FindingStore
from mmpo.evidence.records import CombinedOpinion, EvidencePicture, Opinion, SourceFinding, SourceFindings
from mmpo.evidence.registry import EVIDENCE_SOURCES
from mmpo.evidence.settings import EvidenceSettings
from mmpo.evidence.source import EvidenceContext, EvidenceSource
from mmpo.files.atomic import write_json
from mmpo.locks import locked
from mmpo.progress import task
from mmpo.text.vocabulary import ObjectVocabulary

if TYPE_CHECKING:
    from mmpo.models.generation.answerer import Answerer

__all__ = ["Evidence", "FittedEvidence", "PictureFindings", "SeenPicture", "open_picture"]

log = logging.getLogger(__name__)

PictureFindings: TypeAlias = Mapping[str, SourceFindings]
"""By source: what it found in one picture."""
BLOCK = 16
"""Pictures that are asked about together, and kept together."""


@dataclass(frozen=True)
class FittedEvidence:
    """What turns findings into verdicts: the cuts of each source. `overlaps` compare sources on the controls."""

    by: Mapping[str, SourceCuts]
    calibrated: bool
    overlaps: tuple[SourceOverlap, ...] = ()
    warnings: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {
            "calibrated": self.calibrated,
            "sources": {label: asdict(cuts) for label, cuts in self.by.items()},
            "overlaps": [asdict(one) for one in self.overlaps],
            "warnings": list(self.warnings),
        }


class Evidence:
    """All sources of one build or evaluation. `identity` has, by source, everything that decides its findings;
    `controls` are the pictures to calibrate on (empty without any)."""

    def __init__(
        self,
        settings: EvidenceSettings,
        sources: Mapping[str, EvidenceSource[Any]],
        folder: Path,
        context: EvidenceContext,
        cache: Path | None = None,
    ) -> None:
        self.settings, self.sources, self._folder, self._context = settings, dict(sources), folder, context
        self._cache = cache
        self.identity = {label: source.identity for label, source in self.sources.items()}
        self._fitted: FittedEvidence | None = None

    @classmethod
    def open(
        cls,
        settings: EvidenceSettings,
        vocabulary: ObjectVocabulary,
        folder: str | Path,
        stack: ExitStack,
        *,
        engine: Callable[[], Answerer] | None = None,
        model: str = "",
        questions: bool = False,
        cache: Path | None = None,
    ) -> Evidence:
        """Quick: models are loaded, and servers asked, by the first `find`. `engine` loads the model that `self` asks
        (without adapter), `model` is the fingerprint of its files. `questions`: claims are yes/no questions about a
        picture, in place of classes; sources that know only classes abstain. `cache`: a folder that
        others share, for what is found; it is kept apart by the identity of each source. UserError for a source that
        can't be used."""
        folder = Path(folder)
        sources: dict[str, EvidenceSource[Any]] = {}
        for label, one in zip(settings.source_labels(), settings.evidence, strict=True):
            replies = (cache or folder) / label / "replies.jsonl"
            context = EvidenceContext(vocabulary, stack, engine, model, replies, questions)
            sources[label] = EVIDENCE_SOURCES[one.source].load()(one, context)
        return cls(
            settings, sources, folder, EvidenceContext(vocabulary, stack, engine, model, questions=questions), cache
        )

    @cached_property
    def controls(self) -> list[ControlPicture]:
        if self.settings.controls is None:
            return []
        return read_controls(self.settings.controls, self._context.vocabulary)

    def refuse_shared(self, pictures: Iterable[SeenPicture]) -> None:
        """UserError where a control picture, or a near-duplicate of one, is among `pictures`."""
        if self.controls:
            refuse_shared(self.controls, pictures)

    # ---- findings

    @cached_property
    def _stores(self) -> dict[str, FindingStore]:
        return {
            label: FindingStore(self._place(label), self.identity[label], self._context.stack) for label in self.sources
        }

    def _place(self, label: str) -> Path:
        """The folder of a source's findings; a shared one is held by one process at a time."""
        if self._cache is None:
            return self._folder / label
        place = self._cache / f"{label}-{hashlib.sha256(self.identity[label].encode()).hexdigest()[:12]}"
        self._context.stack.enter_context(locked(place))
        return place

    def find(
        self, pictures: Sequence[EvidencePicture], names: Sequence[Collection[str]], *, label: str = ""
    ) -> list[PictureFindings]:
        """For each picture the findings of every source about its `names`, and about the classes that a closed-set
        detector found besides. What is known is read, the rest asked. With a `label` progress is shown under it."""
        asked: dict[str, set[str]] = defaultdict(set)
        first: dict[str, EvidencePicture] = {}
        for picture, own in zip(pictures, names, strict=True):
            if not self._context.questions and (
                unknown := [name for name in own if name not in self._context.vocabulary.synonyms]
            ):
                raise ValueError(f"{unknown[0]!r} is no class of the vocabulary")
            asked[picture.key].update(own)
            first.setdefault(picture.key, picture)
        found: dict[str, PictureFindings] = {}
        keys = list(first)
        with task(label or "looking for evidence", total=len(keys)) as running:
            for start in range(0, len(keys), BLOCK):
                part = keys[start : start + BLOCK]
                block = self._block([first[key] for key in part], [asked[key] for key in part])
                found |= dict(zip(part, block, strict=True))
                running.advance(len(part))
        return [found[picture.key] for picture in pictures]

    def _block(self, pictures: Sequence[EvidencePicture], names: Sequence[set[str]]) -> list[PictureFindings]:
        wanted = [set(own) for own in names]
        for label, source in self.sources.items():
            if source.finds_classes and not self._context.questions:
                seen = source.assumed_cuts([])
                for own, found in zip(wanted, self._known(label, pictures, names), strict=True):
                    own.update(
                        name for name, one in found.items() if one.z is not None and seen.verdict(one.z) == "present"
                    )
        by_source = {label: self._known(label, pictures, wanted) for label in self.sources}
        return [
            {label: {name: found[place][name] for name in sorted(wanted[place])} for label, found in by_source.items()}
            for place in range(len(pictures))
        ]

    def _known(
        self, label: str, pictures: Sequence[EvidencePicture], names: Sequence[Collection[str]]
    ) -> list[dict[str, SourceFinding]]:
        """What a source says of these classes, from the disk or asked now; and what it found besides."""
        if self._context.questions and not self.sources[label].settings.answers_questions:
            return [{name: SourceFinding(None, "knows_classes_only") for name in own} for own in names]
        store = self._stores[label]
        known = [store.get(picture.key) for picture in pictures]
        missing = [sorted(set(own) - had.keys()) for own, had in zip(names, known, strict=True)]
        todo = [place for place, own in enumerate(missing) if own]
        if not todo:
            return known
        made = self.sources[label].find([pictures[place] for place in todo], [missing[place] for place in todo])
        store.add({pictures[place].key: found for place, found in zip(todo, made, strict=True)})
        for place, found in zip(todo, made, strict=True):
            if lost := set(missing[place]) - found.keys():
                raise UserError(f"the source of evidence {label} says nothing of {sorted(lost)[0]!r}")
            known[place] |= found
        return known

    # ---- cuts

    def calibrate(self, claimed: Sequence[Collection[str]]) -> FittedEvidence:
        """Fit all sources on the controls, of which `claimed` are the classes that the model claims in each; as many
        absent ones are asked about too. Written to `controls.json` in the folder."""
        if not self.controls:
            raise UserError("there are no control pictures to calibrate on", hint="set `controls`")
        names = control_names(self.controls, claimed)
        found = self.find([one.picture for one in self.controls], names, label="asking about control pictures")
        claims = [
            (number, name, name in one.present)
            for number, one in enumerate(self.controls)
            for name in sorted(names[number])
        ]
        own = {(number, name) for number, said in enumerate(claimed) for name in said}
        by = {label: self._calibrated(label, source, found, claims, own) for label, source in self.sources.items()}
        self._fitted = FittedEvidence(by, True, self._overlaps(by, found, claims))
        self._fitted = replace(self._fitted, warnings=tuple(_warnings(self._fitted)))
        write_json(self._folder / "controls.json", self._fitted.as_json())
        for warning in self._fitted.warnings:
            log.warning("%s", warning)
        return self._fitted

    def _calibrated(
        self,
        label: str,
        source: EvidenceSource[Any],
        found: Sequence[PictureFindings],
        claims: Sequence[tuple[int, str, bool]],
        claimed: Collection[tuple[int, str]],
    ) -> SourceCuts:
        if not source.calibrated:
            return SourceCuts(source.assumed_cuts([]), certain=True)
        rows = [(found[number][label][name], number, true, (number, name) in claimed) for number, name, true in claims]
        rows = [row for row in rows if row[0].z is not None]
        if not rows:
            return SourceCuts(VerdictCuts(off="no_controls"))
        truth, picture_of = np.array([row[2] for row in rows]), np.array([row[1] for row in rows])
        if truth.all() or not truth.any():
            return SourceCuts(VerdictCuts(off="no_controls"))
        place = np.unique(picture_of, return_inverse=True)[1]
        parts = [dict(source.parts(finding)) for finding, *_ in rows]
        kept: tuple[str, ...] | None = None
        told = []
        if any(parts):
            for name in parts[0]:
                value, interval = separation(np.array([part[name] for part in parts]), truth, place)
                told.append((name, value, interval.low))
            kept = tuple(name for name, _, low in told if low >= LEAST_AUROC)
            if not kept:
                return SourceCuts(VerdictCuts(off="too_weak"), kept=(), parts=tuple(told))
        z = np.array([_number(source, finding, kept) for finding, *_ in rows])
        fitted = calibrated_cuts(
            z, truth, place, claimed=np.array([row[3] for row in rows]), precision=self.settings.precision
        )
        return replace(fitted, kept=kept, parts=tuple(told))

    def _overlaps(
        self,
        by: Mapping[str, SourceCuts],
        found: Sequence[PictureFindings],
        claims: Sequence[tuple[int, str, bool]],
    ) -> tuple[SourceOverlap, ...]:
        votes = {
            label: [self._opinion(label, by[label], found[number][label][name]).verdict for number, name, _ in claims]
            for label in self.sources
        }
        truth = [true for *_, true in claims]
        return tuple(
            overlap(one, other, list(zip(votes[one], votes[other], strict=True)), truth)
            for one, other in combinations(self.sources, 2)
        )

    def cuts(self, findings: Iterable[PictureFindings] = ()) -> FittedEvidence:
        """Those of the controls; without controls those that each source assumes, or finds in its numbers for all
        claims (`findings` of every picture)."""
        if self.settings.controls is not None:
            if self._fitted is None:
                raise RuntimeError("there are controls: calibrate before asking for cuts")
            return self._fitted
        numbers: dict[str, list[float]] = defaultdict(list)
        for found in findings:
            for label, own in found.items():
                numbers[label] += [one.z for _, one in sorted(own.items()) if one.z is not None]
        by = {
            label: SourceCuts(source.assumed_cuts(numbers[label]), certain=not source.calibrated)
            for label, source in self.sources.items()
        }
        fitted = FittedEvidence(by, all(not source.calibrated for source in self.sources.values()))
        fitted = replace(fitted, warnings=tuple(_warnings(fitted)))
        for warning in fitted.warnings:
            log.warning("%s", warning)
        return fitted

    # ---- verdicts

    def judged(self, findings: PictureFindings, fitted: FittedEvidence) -> dict[str, CombinedOpinion]:
        """The verdict about each class of one picture, by name."""
        names = sorted(set().union(*findings.values()))
        return {
            name: self.settings.combined(
                name, {label: self._opinion(label, fitted.by[label], own[name]) for label, own in findings.items()}
            )
            for name in names
        }

    def _opinion(self, label: str, cuts: SourceCuts, finding: SourceFinding) -> Opinion:
        z = None if finding.z is None else _number(self.sources[label], finding, cuts.kept)
        return cuts.opinion(z, finding.why, finding.detail.get("decoy"))


def _number(source: EvidenceSource[Any], finding: SourceFinding, kept: Collection[str] | None) -> float:
    """z over the parts that are kept (None: as the source gives it)."""
    assert finding.z is not None
    if not kept:
        return finding.z
    parts = source.parts(finding)
    return sum(parts[name] for name in kept) / len(kept)


def _warnings(fitted: FittedEvidence) -> Iterator[str]:
    for label, one in fitted.by.items():
        if one.cuts.off == "too_weak":
            measured = "no wording passes"
            if one.calibration is not None:
                measured = f"AUROC {one.calibration.auroc:.2f}, at least {one.calibration.auroc_low:.2f}"
            yield f"evidence {label} is off: it hardly tells present from absent on the controls ({measured})"
        elif one.cuts.off:
            yield f"evidence {label} is off: {_OFF[one.cuts.off]}"
        elif fitted.calibrated and None in (one.cuts.present_at, one.cuts.absent_below):
            side = "present" if one.cuts.present_at is None else "absent"
            yield (
                f"evidence {label} never says {side}: the controls show no number at which that is right often enough; "
                "more controls may, or a lower `precision`"
            )
        for name, value, low in one.parts:
            if one.kept is not None and name not in one.kept:
                yield f"evidence {label}: the wording {name!r} is left out (AUROC {value:.2f}, at least {low:.2f})"
    yield from filter(None, (one.warning for one in fitted.overlaps))
    if not fitted.calibrated:
        yield "the sources of evidence are not calibrated: their thresholds are assumed; `controls` measures them"


_OFF = {
    "no_controls": "the controls have no claim of both kinds that it has a number for",
    "one_group": "its numbers do not fall into two groups; `controls` would calibrate it",
    "few_claims": "too few claims to find a cut without labels; `controls` would calibrate it",
}
