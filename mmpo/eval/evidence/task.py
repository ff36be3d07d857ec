"""The benchmark `evidence`: photos nobody annotated are described, and the claims are judged by sources of evidence.

Sources look at the union of what all states claim, and the cuts are fitted once, so before and after are judged alike.
Control pictures are described too: sources are calibrated on claims that the model makes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mmpo.data.photos import ListedPhoto, list_photos
from mmpo.data.records import write_lines
from mmpo.errors import Quarantined, UserError
from mmpo.eval.evidence.metrics import JudgedDescription, tally
from mmpo.eval.evidence.settings import EvidenceBenchmarkSettings
from mmpo.eval.protocol import Part, Request, Response, cut_off
from mmpo.eval.task import Context, QuestionTask, benchmark
from mmpo.evidence.evidence import Evidence, PictureFindings, SeenPicture, open_picture
from mmpo.evidence.records import CombinedOpinion, claim_row
from mmpo.files.atomic import write_json
from mmpo.files.images import read_image
from mmpo.progress import track
from mmpo.resuming import deciding
from mmpo.text.claims import claimed
from mmpo.text.vocabulary import ObjectVocabulary, coco

StateResponses = Mapping[Request, Response]
PHOTOS_AT_ONCE = 64
"""Photos whose files are in memory together."""


@benchmark("evidence", settings=EvidenceBenchmarkSettings, needs="photos and sources of evidence")
class EvidenceBenchmark(QuestionTask[EvidenceBenchmarkSettings, ListedPhoto]):
    """Absent claims, recall and length of free descriptions of photos without annotations."""

    partial = True

    def __init__(self, settings: EvidenceBenchmarkSettings, context: Context) -> None:
        super().__init__(settings, context)
        if settings.images is None:
            raise UserError("evidence needs photos", hint="set eval.evidence.images to a folder of them")
        if not settings.sources:
            raise UserError("evidence needs sources", hint="set eval.evidence.sources, for example those of the build")
        self._evidence = settings.evidence()
        for one in self._evidence.evidence:
            if one.source == "self" and one.model is None:
                raise UserError(
                    "eval.evidence: the source `self` needs `model`, the one before tuning",
                    hint="a tuned model would judge itself",
                )
        self.questions = list_photos(settings.images, links=False)[: context.limit]
        self._roots = {photo.path: photo.root for photo in self.questions}
        own = settings.vocabulary
        self.vocabulary = coco() if own == "coco" else ObjectVocabulary.from_file(own)
        self._claimed: dict[str, set[str]] = {}
        self._verdicts: dict[str, dict[str, CombinedOpinion]] = {}
        self._cuts: dict[str, Any] = {}
        with ExitStack() as stack:
            evidence = self._open(stack)
            self._controls = [(one.picture, one.picture.path) for one in evidence.controls]
            if self._controls and not context.look:
                evidence.refuse_shared(self._seen())
        calibrated = f"calibrated on {len(self._controls)} controls" if self._controls else "not calibrated"
        self.conventions = [
            f"EVIDENCE: {len(self.questions)} photos, prompt {settings.prompt!r}, greedy, at most "
            f"{settings.max_new_tokens} tokens; {len(self.vocabulary)} objects; sources "
            f"{', '.join(self._evidence.source_labels())}, {calibrated}; a verdict needs "
            f"{min(settings.least, len(settings.sources))} that agree"
        ]

    def _open(self, stack: ExitStack) -> Evidence:
        """The sources, whose findings are kept below the evaluation's cache, apart from those of other settings."""
        words = json.dumps([deciding(one) for one in self._evidence.evidence], sort_keys=True)
        name = hashlib.sha256(words.encode()).hexdigest()[:12]
        return Evidence.open(
            self._evidence, self.vocabulary, Path(self.context.cache or ".") / "evidence-findings" / name, stack
        )

    def _seen(self) -> Iterable[SeenPicture]:
        for photo in track(self.questions, "comparing photos with controls"):
            try:
                picture, hash = open_picture(read_image(photo.path, root=photo.root), photo.path)
            except Quarantined:
                continue
            yield SeenPicture(picture.key, hash, photo.path)

    # ---- requests

    def request(self, question: ListedPhoto) -> Request:
        return Request(question.path, self.settings.prompt, self.settings.max_new_tokens, str(question.root))

    def id_of(self, question: ListedPhoto) -> str:
        return question.path

    def _control_request(self, path: str) -> Request:
        assert self._evidence.controls is not None
        own = self._evidence.controls
        root = own.images or own.annotations.parent
        return Request(path, self.settings.prompt, self.settings.max_new_tokens, str(root))

    def requests(self) -> Sequence[Request]:
        controls = [self._control_request(path) for _, path in self._controls]
        return list(dict.fromkeys([*super().requests(), *controls]))

    # ---- verdicts

    def score(self, responses: StateResponses) -> list[Part]:
        self._judge([responses])
        return super().score(responses)

    def parts(self, given: Sequence[tuple[ListedPhoto, Response]]) -> list[Part]:
        rows = self._rows(given)
        return [Part(None, tally(rows), len(rows), cut_off(given))]

    def write(self, folder: Path, responses: Mapping[str, StateResponses]) -> None:
        """`verdicts_before.jsonl` and `verdicts_after.jsonl`: each description with its claims and who says what; and
        `cuts.json`."""
        self._judge(list(responses.values()))
        write_json(folder / "cuts.json", self._cuts)
        for state, given in responses.items():
            write_lines(folder / f"verdicts_{state}.jsonl", map(_row, self._rows(self.answered(given))))

    def _rows(self, given: Sequence[tuple[ListedPhoto, Response]]) -> list[JudgedDescription]:
        return [
            JudgedDescription(photo.path, response.text, self._names(response.text), self._verdicts[photo.path])
            for photo, response in given
        ]

    def _names(self, text: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(mention.name for mention in claimed(text, self.vocabulary)))

    def _judge(self, states: Sequence[StateResponses]) -> None:
        """Verdicts about all that these states claim, and what was judged before. Nothing is asked twice."""
        grown = False
        for given in states:
            for photo, response in self.answered(given):
                known = self._claimed.setdefault(photo.path, set())
                names = self._names(response.text)
                grown = grown or photo.path not in self._verdicts or not known.issuperset(names)
                known.update(names)
        if not grown:
            return
        with ExitStack() as stack:
            evidence = self._open(stack)
            if self._controls:
                evidence.calibrate(
                    [
                        {name for given in states if (said := given.get(self._control_request(path)))
                         for name in self._names(said.text)}
                        for _, path in self._controls
                    ]
                )  # fmt: skip
            found: list[PictureFindings] = []
            claims = list(self._claimed.items())
            parts = [claims[at : at + PHOTOS_AT_ONCE] for at in range(0, len(claims), PHOTOS_AT_ONCE)]
            for part in track(parts, "judging what descriptions claim"):
                photos = [open_picture(read_image(path, root=self._roots[path]), path)[0] for path, _ in part]
                found += evidence.find(photos, [names for _, names in part])
            fitted = evidence.cuts(found)
            self._cuts = fitted.as_json()
            self.warnings += [one for one in fitted.warnings if one not in self.warnings]
            self._verdicts = {
                path: evidence.judged(one, fitted) for path, one in zip(self._claimed, found, strict=True)
            }


def _row(one: JudgedDescription) -> dict[str, object]:
    return {
        "image": one.path,
        "text": one.text,
        "claims": [claim_row(one.verdicts[name]) for name in one.claimed],
        "also_present": sorted(
            name for name, own in one.verdicts.items() if own.verdict == "present" and name not in one.claimed
        ),
    }
