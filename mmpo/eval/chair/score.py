"""CHAIR on descriptions made elsewhere: who has which objects, from every file that people have, and the scorer."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from mmpo.data.annotations.coco import is_coco
from mmpo.data.annotations.read import read_annotations, read_coco_folder
from mmpo.data.annotations.records import AnnotatedImage
from mmpo.errors import UserError
from mmpo.eval.chair import metrics as chair
from mmpo.eval.image_ids import by_names
from mmpo.eval.scoring import Scored, ScoreRequest, scorer
from mmpo.eval.statistics.compare import intervals
from mmpo.files.atomic import write_text
from mmpo.outside import begins_with_list
from mmpo.text.object_words import WORDS, object_reader
from mmpo.text.vocabulary import ObjectVocabulary

YES = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def annotated_images(path: str | Path, captions: str | Path | None = None) -> list[AnnotatedImage] | None:
    """The images of COCO instances (with `captions`, COCO's captions file), of COCO's annotations folder, of mmpo's
    JSON Lines, or of Visual Genome; None where `path` is a table `{"image_id": [objects]}`.
    """
    path = Path(path)
    if path.is_dir():
        if captions is not None:
            raise UserError(f"{captions}: {path} is a folder, its captions files are found by name")
        return list(read_coco_folder(path))
    if path.suffix == ".jsonl" or is_coco(path) or begins_with_list(path):
        return list(read_annotations(path, captions=captions))
    if captions is not None:
        raise UserError(f"{captions}: a captions file goes with COCO instances, and {path} is a table of objects")
    return None


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


def flag(value: str | None, name: str) -> bool | None:
    """An option that is yes or no. Raises UserError for any other word."""
    if value is None:
        return None
    if value.lower() not in YES:
        raise UserError(f"{name} must be yes or no, got {value!r}")
    return YES[value.lower()]


def described(request: ScoreRequest) -> dict[str, tuple[str, str]]:
    """Each image's description and the file and line it stands at, by the keys that the options name."""
    keys = request.options.get("image_key", "image_id"), request.options.get("caption_key", "caption")
    return chair.located_captions(request.answers, *keys)


def vocabulary_read(request: ScoreRequest, vocabulary: ObjectVocabulary) -> str:
    """The vocabulary, in words for the reader of a result."""
    choice = request.options.get("vocabulary", "auto")
    return f"vocabulary: {choice} ({len(vocabulary)} objects), {chair.phrases(vocabulary)}"


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
    rules = flag(options.get("published_rules"), "published_rules")
    located = described(request)
    truth, vocabulary = objects_by_image(
        request.annotations,
        options.get("vocabulary", "auto"),
        words=words,
        published_rules=rules,
        captions=options.get("captions"),
    )
    truth = by_names(located, truth)
    unknown = next((image for image in located if image not in truth), None)
    if unknown is not None:
        raise UserError(
            f"{located[unknown][1]}: image {unknown} has no objects in {request.annotations}",
            hint="add it there, with an empty list if it shows nothing",
        )
    result = chair.score({image: text for image, (text, _) in located.items()}, truth, vocabulary, words=words)
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
            f"word forms: {object_reader(words, vocabulary).identity}",
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
