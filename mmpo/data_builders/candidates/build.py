"""Candidates about photos that nobody annotated, judged by evidence; with `pairs` also pairs of them.

    run_dir/
      source.json          what the build was started from; another source or other settings are refused
      photos.json          the pixels' digest, dHash and size of each photo
      units/ controls/     what the model said about the photos, and about the controls
      claims/              the same with its claims, where a text model reads them (`claims: text`)
      evidence/SOURCE/     what each source found, kept so that nothing is asked twice; controls.json
      findings/            the findings of each unit
      candidates/          the tables: every response, every claim with its verdict, and the page
      pair_units/ pairs/   the pairs, where a maker is named
      build_result.json    the result in numbers; written last

Verdicts wait for all findings: without controls a source finds its cut in the numbers of all claims. Killed at any
moment, the build continues behind its last unit (evidence: its last sixteen pictures) and gives the same bytes.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mmpo
from mmpo.chat import open_chat
from mmpo.claims import alone
from mmpo.data.photos import ListedPhoto, list_photos
from mmpo.data_builders.candidates.judging import (
    claims_of,
    findings_of,
    findings_row,
    fitted_of,
    judge_with,
    judged_picture,
    only,
    probes_of,
)
from mmpo.data_builders.candidates.page import draw_pictures, page
from mmpo.data_builders.candidates.records import Candidate, JudgedPicture
from mmpo.data_builders.candidates.responding import (
    AskedPhoto,
    candidate_of,
    candidate_row,
    prompts_of,
    respond,
)
from mmpo.data_builders.candidates.settings import CandidateSettings, CandidatesMade, ClaimWriter
from mmpo.data_builders.candidates.sorting import SortedPhotos, sort_photos
from mmpo.data_builders.candidates.splitting import split_claims
from mmpo.data_builders.candidates.tables import write_candidates_card, write_tables
from mmpo.data_builders.candidates.tally import CandidateTally
from mmpo.data_builders.from_candidates.build import MakerModels, PairsFromCandidates
from mmpo.data_builders.from_candidates.settings import PairsFromCandidatesSettings, PairsMade
from mmpo.data_builders.hallucination.questions import CoOccurrence
from mmpo.data_builders.models import model_contents, open_answerer
from mmpo.data_builders.run import assemble
from mmpo.data_builders.units import (
    RESULT,
    SOURCE,
    Advance,
    Units,
    Work,
    check_source,
    check_sums,
    count_table,
    digest,
    file_digest,
    finish_units,
    read_outcomes,
)
from mmpo.errors import UserError
from mmpo.evidence.evidence import Evidence, FittedEvidence
from mmpo.evidence.records import EvidencePicture
from mmpo.files.atomic import read_json, write_json
from mmpo.files.images import read_image
from mmpo.files.paths import follows_links
from mmpo.locks import in_own_folder
from mmpo.resuming import deciding
from mmpo.text.vocabulary import ObjectVocabulary, coco

if TYPE_CHECKING:
    from mmpo.models.generation.answerer import Answerer

logger = logging.getLogger("mmpo.build")
FOLDER = "candidates"
_CALLED = {"photos": "list of photos", "model": "content of the model's files", "mmpo": "mmpo version"}


@follows_links
@in_own_folder
def build(settings: CandidateSettings, run_dir: Path) -> CandidatesMade:
    """Make candidates, judge them, and make pairs where `pairs` names a maker. A finished build returns its result.

    Raises `UserError` for settings that don't fit the files or what is in `run_dir`, and for controls or a model that
    can't be used. Photos that can't be used are counted and end in `candidates/rejects.jsonl`, never in an error.
    """
    with ExitStack() as stack:
        return CandidateBuild(settings, Path(run_dir), stack).run()


class CandidateBuild:
    """One build; what it opens is closed with the stack."""

    def __init__(self, settings: CandidateSettings, run_dir: Path, stack: ExitStack) -> None:
        self.settings, self.run_dir, self.stack = settings, run_dir, stack
        self.photos = list_photos(settings.images, links=settings.allow_links)[: settings.limit]
        self.root = self.photos[0].root
        self.finished = (run_dir / RESULT).exists()

    @cached_property
    def vocabulary(self) -> ObjectVocabulary:
        named = self.settings.vocabulary
        return coco() if named == "coco" else ObjectVocabulary.from_file(named)

    @cached_property
    def model(self) -> str:
        return model_contents(self.settings.model, self.settings, self.run_dir, "model") or ""

    @cached_property
    def engine(self) -> Callable[[], Answerer]:
        return cache(partial(open_answerer, self.settings.model, self.settings, self.run_dir, self.stack))

    @cached_property
    def evidence(self) -> Evidence:
        folder = self.run_dir / "evidence"
        return Evidence.open(
            self.settings,
            self.vocabulary,
            folder,
            self.stack,
            engine=self.engine,
            model=self.model,
            questions=self.settings.claims == "text",
            cache=self.settings.evidence_cache,
        )

    @cached_property
    def sorted(self) -> SortedPhotos:
        return sort_photos(self.photos, self.settings, self.run_dir / "photos.json", self.evidence)

    @property
    def used(self) -> list[ListedPhoto]:
        """The photos that are asked about."""
        return self.sorted.used

    def source(self) -> dict[str, Any]:
        """What decides the result, as JSON data."""
        listed = [[photo.path, [[one.text, one.answer] for one in photo.prompts]] for photo in self.photos]
        controls = self.settings.controls
        words = json.dumps({name: list(own) for name, own in self.vocabulary.synonyms.items()})
        found: dict[str, Any] = {
            "settings": deciding(self.settings),
            "mmpo": mmpo.__version__,
            "photos": digest(json.dumps(listed).encode()),
            "model": self.model,
            "words": digest(words.encode()),
            "control pictures": None if controls is None else file_digest(controls.annotations),
        }
        return found | {f"evidence {label}": identity for label, identity in self._identity().items()}

    def _identity(self) -> dict[str, str]:
        """The identity of each source. A finished build no longer needs those that are gone."""
        try:
            return self.evidence.identity
        except UserError:
            if not self.finished:
                raise
            before = read_json(self.run_dir / SOURCE)
            return {key.removeprefix("evidence "): value for key, value in before.items() if key[:9] == "evidence "}

    def run(self) -> CandidatesMade:
        check_source(self.run_dir, self.source(), _CALLED)
        if self.finished:
            return CandidatesMade.model_validate(read_json(self.run_dir / RESULT))
        with alone(self.run_dir):
            used = self.used  # the first writes photos.json, which saves the others of a team the looking
        if not used:
            reasons = ", ".join(f"{count} {why}" for why, count in self.sorted.reasons().items())
            raise UserError(f"{self.settings.images}: no photo can be used ({reasons})")
        size = self.settings.shard_size
        said = finish_units(self.run_dir / "units", self.used, size, "describing photos", self._describing)
        if self.settings.writer is not None:
            said = self._split(said, self.settings.writer)
        fitted = self._calibrated()
        found = finish_units(self.run_dir / "findings", self._questions(said), size, "checking claims", self._checking)
        if fitted is None:
            fitted = self.evidence.cuts(_claimed_findings(said, found))
        with alone(self.run_dir):
            if (self.run_dir / RESULT).exists():  # another member of the team was quicker
                return CandidatesMade.model_validate(read_json(self.run_dir / RESULT))
            result = self._tables(said, found, fitted)
            if self.settings.pairs is not None:
                result = self._with_pairs(result, fitted)
            check_sums(result.counts)
            write_json(self.run_dir / RESULT, result.model_dump(mode="json"))
        logger.info("%s", count_table(result.counts))
        return result

    # ---- what the model says

    def _describing(self, stack: ExitStack) -> Work[ListedPhoto]:
        return partial(self._describe, blank=False)

    def _describe(self, number: int, part: Sequence[ListedPhoto], advance: Advance, *, blank: bool) -> dict[str, Any]:
        """The candidates of a unit. `blank`: of control pictures, of which only the claims count."""
        settings = self.settings
        if blank:
            settings = settings.model_copy(update={"log_probs": False, "log_probs_blind": False})
        asked = [AskedPhoto(read_image(photo.path, root=photo.root), prompts_of(photo, settings)) for photo in part]
        vocabulary = self.vocabulary if settings.claims == "objects" else None
        found = respond(self.engine(), asked, settings, vocabulary, advance)
        return {"outcomes": [{"candidates": [candidate_row(one) for one in own]} for own in found]}

    def _split(self, said: Sequence[Path], writer: ClaimWriter) -> list[Path]:
        """The units of `said` anew, their candidates with the claims that a text model reads in them."""
        folder = self.run_dir / "claims"

        def splitting(stack: ExitStack) -> Work[ListedPhoto]:
            chat = stack.enter_context(open_chat(writer.chat, folder / "replies.jsonl"))

            def split(number: int, part: Sequence[ListedPhoto], advance: Advance) -> dict[str, Any]:
                own = list(_candidates([said[number]]))
                found = iter(split_claims(chat, [one for photo in own for one in photo], writer))
                advance(len(part))
                return {"outcomes": [{"candidates": [candidate_row(next(found)) for _ in photo]} for photo in own]}

            return split

        return finish_units(folder, self.used, self.settings.shard_size, "reading claims", splitting)

    def _calibrated(self) -> FittedEvidence | None:
        """The cuts that the controls give; None without controls. The model describes them first: its own claims are
        what sources are calibrated on."""
        controls = self.evidence.controls
        settings = self.settings.controls
        if settings is None or not controls:
            return None
        root = settings.images or settings.annotations.parent
        photos = [ListedPhoto(one.picture.path, root) for one in controls]
        size = self.settings.shard_size
        folder = self.run_dir / "controls"
        units = finish_units(
            folder, photos, size, "describing controls", lambda stack: partial(self._describe, blank=True)
        )
        claimed = [claims_of(own) for own in _candidates(units)]
        return self.evidence.calibrate(claimed)

    # ---- what the evidence finds

    def _questions(self, said: Sequence[Path]) -> list[tuple[ListedPhoto, frozenset[str]]]:
        """Each photo with the classes to ask about: those claimed, and probes."""
        claimed = [claims_of(own) for own in _candidates(said)]
        common = CoOccurrence(claimed)
        return [
            (photo, own.union(probes_of(own, common, self.settings.probe_absent)))
            for photo, own in zip(self.used, claimed, strict=True)
        ]

    def _checking(self, stack: ExitStack) -> Work[tuple[ListedPhoto, frozenset[str]]]:
        seen = {photo.path: one for photo, one in zip(self.used, self.sorted.seen, strict=True)}

        def check(number: int, part: Sequence[tuple[ListedPhoto, frozenset[str]]], advance: Advance) -> dict[str, Any]:
            pictures = [
                EvidencePicture(seen[photo.path].key, read_image(photo.path, root=photo.root), photo.path)
                for photo, _ in part
            ]
            found = self.evidence.find(pictures, [names for _, names in part])
            advance(len(part))
            return {"outcomes": [{"findings": findings_row(one)} for one in found]}

        return check

    # ---- what comes of it

    def _judged(self, said: Sequence[Path], found: Sequence[Path], fitted: FittedEvidence) -> Iterator[JudgedPicture]:
        sources = zip(self.used, self.sorted.seen, self.sorted.clusters, strict=True)
        findings = (findings_of(outcome["findings"]) for outcome in read_outcomes(found))
        for (photo, seen, cluster), own, one in zip(sources, _candidates(said), findings, strict=True):
            opinions = self.evidence.judged(one, fitted)
            pooled = self.settings.claims == "objects"
            yield judged_picture(photo.path, seen, cluster, own, opinions, pooled=pooled)

    def _tables(self, said: Sequence[Path], found: Sequence[Path], fitted: FittedEvidence) -> CandidatesMade:
        folder = self.run_dir / FOLDER
        tally = CandidateTally(self.evidence.sources)
        pictures = (tally.add(picture) for picture in self._judged(said, found, fitted))
        write_tables(folder, pictures, self.settings.shard_size)
        result = tally.result(self.sorted, fitted)
        tally.write_rejects(folder, self.sorted)
        drawn = draw_pictures(folder, self.root, self._shown(said, found, fitted))
        custom = None if self.settings.vocabulary == "coco" else self.vocabulary.synonyms
        settings = deciding(self.settings)
        facts = {
            "pictures_per_shard": self.settings.shard_size,
            "root": str(self.root),
            "settings": settings,
            "vocabulary": None if custom is None else {name: list(own) for name, own in custom.items()},
            "evidence": fitted.as_json(),
            "counts": result.counts,
            "warnings": result.warnings,
        }
        write_candidates_card(folder, facts, page(result, drawn, settings))
        return result

    def _shown(
        self, said: Sequence[Path], found: Sequence[Path], fitted: FittedEvidence
    ) -> Iterator[tuple[JudgedPicture, dict[str, Any]]]:
        """The first photos with claims, with what was found in them."""
        left = self.settings.drawn
        findings = (outcome["findings"] for outcome in read_outcomes(found))
        for picture, row in zip(self._judged(said, found, fitted), findings, strict=True):
            if left and claims_of(picture.candidates):
                left -= 1
                yield picture, row
            if not left:
                return

    def _with_pairs(self, result: CandidatesMade, fitted: FittedEvidence) -> CandidatesMade:
        settings = self.settings
        assert settings.pairs is not None
        given = PairsFromCandidatesSettings(
            builder="pairs_from_candidates",
            candidates=self.run_dir / FOLDER,
            pairs=settings.pairs,
            images=self.root,
            allow_links=settings.allow_links,
            model=settings.model,
            max_new_tokens=settings.max_new_tokens,
            seed=settings.seed,
            dtype=settings.dtype,
            sampler=settings.sampler,
            allow_network=settings.allow_network,
            trust_remote_code=settings.trust_remote_code,
        )

        def models(stack: ExitStack) -> MakerModels:
            stored = fitted_of(fitted.as_json())
            return MakerModels(settings.model, self.engine, judge_with(self.evidence, stored, self.root))

        builder = PairsFromCandidates(given, self.run_dir, models=models)
        builder.recipe = deciding(settings)
        sources = builder.plan()
        size = builder.tables.pictures_per_shard
        paths = finish_units(self.run_dir / "pair_units", sources, size, builder.label, builder.open)
        made: PairsMade = assemble(builder, Units(sources, paths), {"pairs": self.run_dir / "pairs"})
        return result.model_copy(
            update={
                "pairs": "pairs",
                "made": made,
                "images_used": made.images_used,
                "counts": result.counts | {f"pairs: {name}": table for name, table in made.counts.items()},
                "warnings": [*result.warnings, *made.warnings],
            }
        )


def _candidates(units: Sequence[Path]) -> Iterator[list[Candidate]]:
    """The candidates of each photo, without verdicts."""
    for outcome in read_outcomes(units):
        yield [candidate_of(row) for row in outcome["candidates"]]


def _claimed_findings(said: Sequence[Path], found: Sequence[Path]) -> Iterator[Any]:
    """The findings about what the candidates of each photo claim; probes would be too easy to find a cut by."""
    findings = (findings_of(outcome["findings"]) for outcome in read_outcomes(found))
    for own, one in zip(_candidates(said), findings, strict=True):
        yield only(one, claims_of(own))
