"""From findings to verdicts: candidates of a picture with what the evidence says of their claims."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from mmpo.data.photos import SeenPhoto
from mmpo.data_builders.candidates.records import Candidate, JudgedPicture, chair_i, pool_of, recall_pool
from mmpo.data_builders.candidates.settings import CandidateSettings
from mmpo.data_builders.candidates.tables import CandidateTables
from mmpo.data_builders.hallucination.questions import CoOccurrence
from mmpo.data_builders.models import model_contents
from mmpo.evidence.evidence import Evidence, FittedEvidence, PictureFindings
from mmpo.evidence.records import CombinedOpinion, EvidencePicture, SourceFinding
from mmpo.files.images import read_image
from mmpo.text.vocabulary import ObjectVocabulary

if TYPE_CHECKING:
    from mmpo.models.generation.answerer import Answerer

ClaimJudge = Callable[[Sequence[JudgedPicture], Sequence[Sequence[str]]], list[dict[str, CombinedOpinion]]]


def claims_of(candidates: Iterable[Candidate]) -> frozenset[str]:
    """The classes that any of them names."""
    return frozenset[str]().union(*(one.claims for one in candidates))


def probes_of(claimed: frozenset[str], common: CoOccurrence, number: int) -> list[str]:
    """The `number` classes that nobody claims and that most often come with those that are claimed."""
    likely = common.plausible(claimed)
    return sorted(likely, key=lambda name: (-likely[name], name))[:number] if claimed else []


def judged_picture(
    path: str,
    seen: SeenPhoto,
    cluster: str,
    candidates: Sequence[Candidate],
    opinions: Mapping[str, CombinedOpinion],
    *,
    pooled: bool = True,
) -> JudgedPicture:
    """The candidates with the verdicts about their claims, CHAIR_i, and recall of what is known to be there: what any
    of them names rightly, and what a detector found besides and the others confirmed. Not `pooled`: without recall, for
    claims in words, of which two may say the same."""
    picture = JudgedPicture(path, seen.key, seen.dhash, cluster, seen.width, seen.height, tuple(candidates), {})
    return _judged(picture, opinions, pooled)


def _judged(picture: JudgedPicture, opinions: Mapping[str, CombinedOpinion], pooled: bool) -> JudgedPicture:
    with_verdicts = []
    for one in picture.candidates:
        own = replace(one, verdicts={name: opinions[name].verdict for name in sorted(one.claims)})
        with_verdicts.append(replace(own, chair_i=chair_i(own.mentioned("absent"), own.mentioned("present"))))
    detected = [name for name, opinion in opinions.items() if opinion.verdict == "present" and _detected(opinion)]
    pool = pool_of(with_verdicts, detected) if pooled else frozenset[str]()
    whole = tuple(replace(one, recall_pool=recall_pool(one.present, pool)) for one in with_verdicts)
    return replace(picture, candidates=whole, opinions=dict(opinions))


def judged_by(picture: JudgedPicture, settings: CandidateSettings, sources: Collection[str]) -> JudgedPicture:
    """The picture as if of the evidence of `settings` only `sources` (labels) had been asked; their cuts stay."""
    some = {
        name: settings.combined(name, {label: one for label, one in opinion.by.items() if label in sources})
        for name, opinion in picture.opinions.items()
    }
    return _judged(picture, some, settings.claims == "objects")


def _detected(opinion: CombinedOpinion) -> bool:
    return any(label.startswith("detector") and one.verdict == "present" for label, one in opinion.by.items())


def heard(picture: JudgedPicture) -> bool:
    """Whether any source had an opinion about any claim of the picture."""
    claimed = claims_of(picture.candidates)
    return any(
        opinion.verdict is not None for name in claimed for opinion in picture.opinions[name].by.values()
    )  # fmt: skip


def only(findings: PictureFindings, names: Collection[str]) -> PictureFindings:
    """The findings about these classes."""
    return {source: {name: own[name] for name in sorted(names)} for source, own in findings.items()}


def findings_row(findings: PictureFindings) -> dict[str, Any]:
    """Findings as JSON data."""
    return {
        source: {name: [one.z, one.why, dict(one.detail)] for name, one in own.items()}
        for source, own in findings.items()
    }


def findings_of(row: Mapping[str, Any]) -> PictureFindings:
    """The findings of a row."""
    return {source: {name: SourceFinding(*one) for name, one in own.items()} for source, own in row.items()}


_FITTED: TypeAdapter[FittedEvidence] = TypeAdapter(FittedEvidence)


def fitted_of(data: Mapping[str, Any]) -> FittedEvidence:
    """The cuts that `FittedEvidence.as_json` describes."""
    return _FITTED.validate_python({**data, "by": data["sources"]})


def judge_with(evidence: Evidence, fitted: FittedEvidence, root: Path) -> ClaimJudge:
    """A function that asks about further classes of pictures, and judges them by the same cuts."""

    def judge(pictures: Sequence[JudgedPicture], names: Sequence[Sequence[str]]) -> list[dict[str, CombinedOpinion]]:
        asked = [
            EvidencePicture(picture.key, read_image(picture.image, root=root), picture.image) for picture in pictures
        ]
        found = evidence.find(asked, names)
        return [evidence.judged(only(one, own), fitted) for one, own in zip(found, names, strict=True)]

    return judge


def later_judging(
    tables: CandidateTables,
    vocabulary: ObjectVocabulary,
    run_dir: Path,
    root: Path,
    stack: ExitStack,
    engine: Callable[[], Answerer],
    sources: Collection[str] | None = None,
) -> ClaimJudge:
    """The judging of a finished folder of candidates, for further classes; sources (all, or those of these labels) are
    opened when it is first used."""

    @cache
    def opened() -> ClaimJudge:
        settings = tables.settings
        model = model_contents(settings.model, settings, run_dir, "asked") or ""
        evidence = Evidence.open(settings, vocabulary, run_dir / "evidence", stack, engine=engine, model=model)
        for label in () if sources is None else set(evidence.sources).difference(sources):
            del evidence.sources[label]
        return judge_with(evidence, fitted_of(tables.card["evidence"]), root)

    return lambda pictures, names: opened()(pictures, names)
