"""CHAIR, Caption Hallucination Assessment with Image Relevance (Rohrbach et al., EMNLP 2018, arXiv 1809.02156).

Every object word of a description is mapped to an object name; a mention is hallucinated when the image does not
contain that object. CHAIRi is the share of hallucinated mentions, CHAIRs the share of descriptions with at least one,
Recall the share of the image's objects that are mentioned, Len the mean number of tokens. Which words count as which
object is the business of the vocabulary and of the rule for word forms, and both stand in the result: numbers are
comparable only within one of each, one prompt and one length limit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmpo.data.annotations.records import AnnotatedImage
from mmpo.data.records import read_records, text_of, write_lines
from mmpo.errors import UserError
from mmpo.eval.statistics.tally import Caution, Tally, share
from mmpo.outside import Unreadable, json_of, read_json, read_text
from mmpo.statistics import Array
from mmpo.text.object_words import ObjectReader, ObjectReading, object_reader
from mmpo.text.vocabulary import ObjectVocabulary, coco

PROMPT = "Please describe this image in detail."
"""The prompt of the protocol for large vision-language models (500 COCO images, 512 or 64 new tokens)."""

_MENTIONS, _HALLUCINATED, _CAPTIONS, _HALLUCINATED_CAPTIONS, _FOUND, _PRESENT, _TOKENS = range(7)


SHORTER = Caution(
    0.2,
    "descriptions went {moved} tokens; shorter ones hallucinate less by saying less, look at recall too",
    relative=True,
)
METRICS = (
    share("CHAIRi", _HALLUCINATED, _MENTIONS, "lower", "objects named that are absent", label="CHAIR_i", watched=True),
    share(
        "CHAIRs", _HALLUCINATED_CAPTIONS, _CAPTIONS, "lower", "descriptions that mention an object which is not there",
        independent=True, label="CHAIR_s", headline=1, watched=True,
    ),
    share("Recall", _FOUND, _PRESENT, "higher", "objects that are mentioned", label="object recall", watched=True),
    share("Len", _TOKENS, _CAPTIONS, "neither", "of a description", percent=False, label="tokens", caution=SHORTER),
)  # fmt: skip


@dataclass(frozen=True)
class ObjectMention:
    """An object word of a caption: its characters, the word as written, the object it names, and whether the image
    lacks it.
    """

    start: int
    end: int
    word: str
    name: str
    hallucinated: bool


@dataclass(frozen=True)
class ChairRow:
    """One scored description. `found` are the image's objects that it mentions, `missed` those that it does not."""

    image: str
    caption: str
    mentions: tuple[ObjectMention, ...]
    found: tuple[str, ...]
    missed: tuple[str, ...]
    tokens: int

    @property
    def hallucinated(self) -> bool:
        """True if any mention is hallucinated."""
        return any(mention.hallucinated for mention in self.mentions)


@dataclass(frozen=True)
class ChairResult:
    """All descriptions, scored; `without_objects` mention no object of the vocabulary (they count in CHAIRs and
    Recall).
    """

    rows: tuple[ChairRow, ...]
    tally: Tally

    @property
    def metrics(self) -> dict[str, float]:
        """CHAIRi, CHAIRs and Recall as fractions, Len in tokens; 0 where undefined (see `tally.undefined`)."""
        return self.tally.values

    @property
    def without_objects(self) -> int:
        """Descriptions in which no word names an object."""
        return sum(not row.mentions for row in self.rows)


def score(
    captions: Mapping[str, str],
    ground_truth: Mapping[str, Collection[str]],
    vocabulary: ObjectVocabulary,
    *,
    words: str = "rules",
) -> ChairResult:
    """Score one description per image (both maps by image id) against the objects that are in each image. `words`
    names the rule for word forms (`object_words.WORDS`).

    Names of `ground_truth` that the vocabulary does not know can never be mentioned and would only lower Recall: they
    are an error. Raises UserError where there is nothing to score, or an image has no ground truth.
    """
    if not captions:
        raise UserError("there are no descriptions to score")
    _check_names(captions, ground_truth, vocabulary)
    readings = object_reader(words, vocabulary).read(captions.values())
    rows = tuple(
        _row(image, caption, ground_truth[image], reading)
        for (image, caption), reading in zip(captions.items(), readings, strict=True)
    )
    counts = np.array([_counts(row) for row in rows], dtype=np.int64)
    outcomes = {row.image: not row.hallucinated for row in rows}
    return ChairResult(rows, Tally(tuple(captions), counts, METRICS, outcomes, paired_metric="CHAIRs"))


def ground_truth(
    images: Iterable[AnnotatedImage], vocabulary: ObjectVocabulary, *, words: str = "rules"
) -> dict[str, tuple[str, ...]]:
    """The objects of each image as CHAIR defines them: annotated ones and those that the reference captions mention,
    under the vocabulary's names.

    An annotated name that is a synonym in the vocabulary counts as its object; one that it does not know is left out,
    because no description could mention it.
    """
    return objects_in(images, object_reader(words, vocabulary))


def objects_in(images: Iterable[AnnotatedImage], reader: ObjectReader) -> dict[str, tuple[str, ...]]:
    """As `ground_truth`, with a reader that is open."""
    images = list(images)
    readings = reader.read(caption for image in images for caption in image.captions)
    truth = {}
    for image in images:
        names = [reader.vocabulary.name_of(name) for name in image.object_names]
        mentioned = [mention.name for _ in image.captions for mention in next(readings).mentions]
        truth[image.id] = tuple(dict.fromkeys(name for name in [*names, *mentioned] if name is not None))
    return truth


def vocabulary_for(names: Iterable[str], choice: str, published_rules: bool | None = None) -> ObjectVocabulary:
    """The vocabulary that `choice` names: `auto`, `coco`, or a file. `auto` is coco where all annotated `names` are
    COCO's, else these names with their plurals; `published_rules=None` follows CHAIR's script for a .txt list.
    """
    if choice == "coco":
        return coco()
    if choice != "auto":
        published = Path(choice).suffix == ".txt" if published_rules is None else published_rules
        return ObjectVocabulary.from_file(choice, chair_merges=published)
    distinct = list(dict.fromkeys(names))
    known = coco().names
    return coco() if all(name in known for name in distinct) else ObjectVocabulary.from_names(distinct)


def phrases(vocabulary: ObjectVocabulary) -> str:
    """The rule by which the vocabulary finds phrases, in words for the reader of a result."""
    return "the published script's double words" if vocabulary.chair_merges else "longest phrase first"


def read_captions(path: str | Path, *, image_key: str = "image_id", caption_key: str = "caption") -> dict[str, str]:
    """Read `{"image_id", "caption"}` records (JSON Lines or an array), or the original script's `{"imgToEval": {id:
    {"caption"}}}`.

    Raises UserError naming file and line for a missing key or an image described twice.
    """
    return {image: caption for image, (caption, _) in located_captions(path, image_key, caption_key).items()}


def located_captions(
    path: str | Path, image_key: str = "image_id", caption_key: str = "caption"
) -> dict[str, tuple[str, str]]:
    """As `read_captions`, each with the file and line it stands at."""
    captions: dict[str, tuple[str, str]] = {}
    for where, record in _caption_records(Path(path)):
        image = _image_id(record, image_key, where)
        if image in captions:
            raise UserError(f"{where}: image {image} is already described at {captions[image][1]}")
        captions[image] = text_of(record, (caption_key,), where), where
    return captions


def read_ground_truth(path: str | Path) -> dict[str, tuple[str, ...]]:
    """Read a table `{"IMAGE_ID": ["object", …]}` in JSON. Raises UserError naming the entry that is not a list of
    names.
    """
    table = read_json(path, unique=True)
    if not isinstance(table, dict):
        raise UserError(f"{path}: expected an object that maps image ids to lists of object names")
    for image, objects in table.items():
        if not isinstance(objects, list) or not all(isinstance(name, str) for name in objects):
            raise UserError(f"{path}: image {image}: expected a list of object names, found {objects!r:.60}")
    return {image: tuple(dict.fromkeys(objects)) for image, objects in table.items()}


def write_rows(path: str | Path, result: ChairResult) -> None:
    """Write one JSON line per description: `image_id`, `caption`, its mentions with their characters, objects found
    and missed.
    """
    rows = (
        {
            "image_id": row.image,
            "caption": row.caption,
            "mentions": [asdict(mention) for mention in row.mentions],
            "found": row.found,
            "missed": row.missed,
        }
        for row in result.rows
    )
    write_lines(path, rows)


def _caption_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        whole = json_of(read_text(path), unique=True)
    except Unreadable:  # JSON Lines, or read_records says what is wrong
        whole = None
    if isinstance(whole, dict) and isinstance(whole.get("imgToEval"), dict):
        for image, entry in whole["imgToEval"].items():
            if not isinstance(entry, dict):
                raise UserError(f"{path}:{image}: expected a JSON object, found {type(entry).__name__}")
            yield f"{path}:{image}", {"image_id": image, **entry}
    else:
        yield from read_records(path)


def _image_id(record: Mapping[str, Any], key: str, where: str) -> str:
    if key not in record:
        keys = ", ".join(f"`{name}`" for name in record) or "no keys"
        raise UserError(f"{where}: no `{key}`; the record has {keys}", hint="image_key and caption_key name other keys")
    value = record[key]
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise UserError(f"{where}: `{key}` must be a number or a name, found {value!r}")
    return str(value)


def _check_names(
    captions: Mapping[str, str], truth: Mapping[str, Collection[str]], vocabulary: ObjectVocabulary
) -> None:
    missing = next((image for image in captions if image not in truth), None)
    if missing is not None:
        raise UserError(
            f"image {missing} is described but has no ground-truth objects",
            hint="add it, with an empty list if it shows nothing",
        )
    known = set(vocabulary.names)
    for image in captions:
        unknown = next((name for name in truth[image] if name not in known), None)
        if unknown is not None:
            raise UserError(
                f"image {image}: the object {unknown!r} is not in the vocabulary of {len(known)} names",
                hint="add it to the vocabulary, or use the vocabulary that the ground truth was made with",
            )


def _row(image: str, caption: str, objects: Collection[str], reading: ObjectReading) -> ChairRow:
    present = tuple(dict.fromkeys(objects))
    mentions = tuple(
        ObjectMention(found.start, found.end, found.word, found.name, found.name not in present)
        for found in reading.mentions
    )
    named = {mention.name for mention in mentions}
    return ChairRow(
        image=image,
        caption=caption,
        mentions=mentions,
        found=tuple(name for name in present if name in named),
        missed=tuple(name for name in present if name not in named),
        tokens=reading.tokens,
    )


def _counts(row: ChairRow) -> Array:
    counts = np.zeros(7, dtype=np.int64)
    counts[_MENTIONS] = len(row.mentions)
    counts[_HALLUCINATED] = sum(mention.hallucinated for mention in row.mentions)
    counts[_CAPTIONS] = 1
    counts[_HALLUCINATED_CAPTIONS] = row.hallucinated
    counts[_FOUND] = len(row.found)
    counts[_PRESENT] = len(row.found) + len(row.missed)
    counts[_TOKENS] = row.tokens
    return counts
