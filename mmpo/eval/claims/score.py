"""Claims in descriptions made elsewhere: who has which objects, where and how many, and the scorer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmpo.data.annotations.records import AnnotatedImage
from mmpo.data.evidence import Truth
from mmpo.errors import UserError
from mmpo.eval.chair import metrics as chair
from mmpo.eval.chair.score import annotated_images, described, flag, vocabulary_read
from mmpo.eval.claims import metrics as claims
from mmpo.eval.claims.task import how_read
from mmpo.eval.image_ids import by_names
from mmpo.eval.scoring import Scored, ScoreRequest, scorer
from mmpo.eval.statistics.compare import intervals
from mmpo.text.scene_claims import KINDS
from mmpo.text.vocabulary import ObjectVocabulary


def truth_by_image(
    path: str | Path, choice: str = "auto", captions: str | Path | None = None
) -> tuple[dict[str, Truth], ObjectVocabulary]:
    """What is known about every image in `path` (see `chair_answers.annotated_images`), by image id and by file name,
    and the vocabulary that `choice` names. A table of objects says what is there, not how many and where.
    """
    images = annotated_images(path, captions)
    if images is None:
        table = chair.read_ground_truth(path)
        vocabulary = chair.vocabulary_for((name for objects in table.values() for name in objects), choice)
        known = {image: [vocabulary.name_of(name) for name in objects] for image, objects in table.items()}
        bare = {image: Truth(AnnotatedImage(image, image, Path(), None, None), frozenset()) for image in table}
        return {
            image: claims.with_names(bare[image], filter(None, names)) for image, names in known.items()
        }, vocabulary
    vocabulary = chair.vocabulary_for((name for image in images for name in image.object_names), choice)
    by_path = claims.truths(images, {}, vocabulary)
    truth = {image.id: by_path[image.path] for image in images}
    for image in images:
        truth.setdefault(image.path, truth[image.id])
    return truth, vocabulary


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
    exhaustive = flag(options.get("exhaustive"), "exhaustive") or False
    located = described(request)
    known, vocabulary = truth_by_image(
        request.annotations, options.get("vocabulary", "auto"), captions=options.get("captions")
    )
    truth = by_names(located, known)
    unknown = next((image for image in located if image not in truth), None)
    if unknown is not None:
        raise UserError(
            f"{located[unknown][1]}: image {unknown} is not in {request.annotations}",
            hint="add it there, with an empty list if it shows nothing",
        )
    texts = {image: text for image, (text, _) in located.items()}
    result = claims.score(texts, truth, vocabulary, exhaustive=exhaustive)
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
    metrics: dict[str, Any] = _percent(result.overall.values, result.overall.undefined)
    found: dict[str, Any] = dict(intervals(result.overall, percent=True))
    for kind in KINDS:
        total, decided, wrong = result.totals(kind)
        if not total:
            continue
        tally = result.by_kind[kind]
        metrics[kind] = {
            **_percent(tally.values, tally.undefined),
            "claims": total,
            "decided_claims": decided,
            "wrong_claims": wrong,
        }
        found[kind] = intervals(tally, percent=True)
    return metrics, found


def _percent(values: Mapping[str, float], undefined: tuple[str, ...]) -> dict[str, float | None]:
    return {
        name: None if name in undefined else value if name == "claims" else 100 * value
        for name, value in values.items()
    }


def _warnings(result: claims.ClaimsResult) -> list[str]:
    found = []
    if "wrong" in result.overall.undefined and result.silent < len(result.rows):
        found.append("claims were read, but the annotations decide none of them: do they name these objects?")
    if result.silent:
        found.append(f"{result.silent} descriptions make no claim that could be read; they count in no share")
    return found
