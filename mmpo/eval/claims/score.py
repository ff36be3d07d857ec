"""Claims in descriptions made elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from mmpo.data.annotations.records import AnnotatedImage, AnnotatedObject
from mmpo.eval.chair import metrics as chair
from mmpo.eval.claims import metrics as claims
from mmpo.eval.claims.settings import ClaimsSettings
from mmpo.eval.claims.task import Claims, how_read
from mmpo.eval.descriptions import annotated_images, described, known_of, responses, vocabulary_read
from mmpo.eval.protocol import AnnotatedSet
from mmpo.eval.scoring import Scored, ScoreRequest, scorer
from mmpo.eval.statistics.compare import intervals
from mmpo.eval.task import Context
from mmpo.text.scene_claims import KINDS


@scorer(
    "claims",
    needs=("annotations",),
    options={
        "vocabulary": "auto, coco, or a file of synonyms",
        "exhaustive": "yes or no; yes: the texts list everything they show, all numbers are exact",
        "captions": "COCO's captions file, where the annotations are an instances file",
        "image_key": "key of the image in the answers (image_id)",
        "caption_key": "key of the description (caption)",
        "sentences": "file to write, every claim of every description",
    },
)
def score_claims(request: ScoreRequest) -> Scored:
    """Wrong claims in percent of those that the annotations decide, overall and by kind."""
    assert request.annotations is not None
    options = request.options
    exhaustive = request.flag("exhaustive") or False
    located = described(request)
    images = annotated_images(request.annotations, options.get("captions"))
    if images is None:  # a table says what is there, not how many and where
        table = chair.read_ground_truth(request.annotations)
        bare = {image: tuple(map(AnnotatedObject, names)) for image, names in table.items()}
        images = [AnnotatedImage(image, image, Path(), None, None, objects) for image, objects in bare.items()]
    names = (name for image in images for name in image.object_names)
    vocabulary = chair.vocabulary_for(names, options.get("vocabulary", "auto"))
    known = {image.path: image for image in reversed(images)} | {image.id: image for image in images}
    meant = known_of(located, known, f"is not in {request.annotations}")
    shown = [replace(image, path=name) for name, image in meant.items()]
    task = Claims(ClaimsSettings(exhaustive=exhaustive), Context(AnnotatedSet(shown, {}, vocabulary)))
    result = task.result(responses(shown, located))
    if "sentences" in options:
        claims.write_rows(options["sentences"], result)
    metrics, known_intervals = numbers(result)
    return Scored(
        metrics=metrics,
        conventions=[
            f"shares in percent, over {len(located)} descriptions; `wrong` of the claims that the annotations decide, "
            "`decided` of those that were read",
            how_read(exhaustive=exhaustive),
            vocabulary_read(request, vocabulary),
        ],
        read=len(located),
        scored=len(located),
        unparsed=result.silent,
        warnings=_warnings(result),
        intervals=known_intervals,
    )


def numbers(result: claims.ClaimsResult) -> tuple[dict[str, Any], dict[str, Any]]:
    """The metrics, overall ones beside a map for each kind of which anything was read, and their 95% intervals."""
    metrics: dict[str, Any] = dict(result.overall.shown(percent=True))
    found: dict[str, Any] = dict(intervals(result.overall, percent=True))
    for kind in KINDS:
        total, decided, wrong = result.totals(kind)
        if not total:
            continue
        tally = result.by_kind[kind]
        metrics[kind] = {
            **tally.shown(percent=True),
            "claims": total,
            "decided_claims": decided,
            "wrong_claims": wrong,
        }
        found[kind] = intervals(tally, percent=True)
    return metrics, found


def _warnings(result: claims.ClaimsResult) -> list[str]:
    found = []
    if "wrong" in result.overall.undefined and result.silent < len(result.rows):
        found.append("claims were read, but the annotations decide none of them: do they name these objects?")
    if result.silent:
        found.append(f"{result.silent} descriptions make no claim that could be read; they count in no share")
    return found
