"""CHAIR on descriptions made elsewhere."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from mmpo.data.annotations.records import AnnotatedImage
from mmpo.eval.chair import metrics as chair
from mmpo.eval.chair.settings import ChairSettings
from mmpo.eval.chair.task import Chair
from mmpo.eval.descriptions import annotated_images, described, known_of, responses, vocabulary_read
from mmpo.eval.protocol import AnnotatedSet
from mmpo.eval.scoring import Scored, ScoreRequest, scorer
from mmpo.eval.statistics.compare import intervals
from mmpo.eval.task import Context
from mmpo.files.atomic import write_text
from mmpo.text.object_words import WORDS, object_reader
from mmpo.text.vocabulary import ObjectVocabulary


def objects_by_image(
    path: str | Path,
    choice: str = "auto",
    *,
    words: str = "rules",
    published_rules: bool | None = None,
    captions: str | Path | None = None,
) -> tuple[dict[str, tuple[str, ...]], ObjectVocabulary]:
    """The objects of every image in `path` (see `annotated_images`), by image id and by file name, and the vocabulary
    that `choice` names.
    """
    images = annotated_images(path, captions)
    if images is None:
        table = chair.read_ground_truth(path)
        names: Iterable[str] = (name for objects in table.values() for name in objects)
        return table, chair.vocabulary_for(names, choice, published_rules)
    names = (name for image in images for name in image.object_names)
    vocabulary = chair.vocabulary_for(names, choice, published_rules)
    truth = chair.ground_truth(images, vocabulary, words=words)
    for image in images:
        truth.setdefault(image.path, truth[image.id])
    return truth, vocabulary


def write_objects(path: str | Path, truth: Mapping[str, Collection[str]]) -> None:
    """Write a table `{"image_id": [objects]}`, which spares the next run the COCO files."""
    write_text(path, json.dumps({image: list(objects) for image, objects in truth.items()}, ensure_ascii=False) + "\n")


@scorer(
    "chair",
    needs=("annotations",),
    options={
        "vocabulary": "auto, coco, or a file of synonyms",
        "words": f"the rule for word forms, one of {', '.join(WORDS)}",
        "published_rules": "yes or no; empty: yes for a .txt list of synonyms",
        "captions": "COCO's captions file, where the annotations are an instances file",
        "image_key": "key of the image in the answers (image_id)",
        "caption_key": "key of the description (caption)",
        "sentences": "file to write, every mention of every description",
        "objects": "file to write, the objects of every image",
    },
)
def score_chair(request: ScoreRequest) -> Scored:
    """CHAIRs, CHAIRi, Recall in percent, Len in tokens, of caption files."""
    assert request.annotations is not None
    options = request.options
    words = options.get("words", "rules")
    located = described(request)
    truth, vocabulary = objects_by_image(
        request.annotations,
        options.get("vocabulary", "auto"),
        words=words,
        published_rules=request.flag("published_rules"),
        captions=options.get("captions"),
    )
    truth = known_of(located, truth, f"has no objects in {request.annotations}")
    reader = object_reader(words, vocabulary)
    settings = ChairSettings.model_validate({"words": words})
    images = [AnnotatedImage(name, name, Path(), None, None) for name in located]
    result = Chair(settings, Context(AnnotatedSet(images, truth, vocabulary))).result(responses(images, located))
    if "sentences" in options:
        chair.write_rows(options["sentences"], result)
    if "objects" in options:
        write_objects(options["objects"], {image: truth[image] for image in located})
    values = result.metrics
    return Scored(
        metrics={
            "CHAIRs": 100 * values["CHAIRs"],
            "CHAIRi": 100 * values["CHAIRi"],
            "Recall": 100 * values["Recall"],
            "Len": values["Len"],
            "mentions": sum(len(row.mentions) for row in result.rows),
            "without_objects": result.without_objects,
        },
        conventions=[
            f"CHAIRs, CHAIRi and Recall in percent, over {len(located)} descriptions; Len in tokens, a phrase is one",
            f"word forms: {reader.identity}",
            vocabulary_read(request, vocabulary),
        ],
        read=len(located),
        scored=len(located),
        warnings=_warnings(result),
        intervals=intervals(result.tally, percent=True),
    )


def _warnings(result: chair.ChairResult) -> list[str]:
    undefined = [f"{name} is undefined (nothing to divide by) and given as 0" for name in result.tally.undefined]
    empty = sum(not row.caption.strip() for row in result.rows)
    if empty:
        undefined.append(f"{empty} descriptions are empty; they count as free of hallucination")
    return undefined
