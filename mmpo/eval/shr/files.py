"""The files of SHR: images with their Visual Genome regions, objects and further facts, and the responses to judge."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpo.data.records import read_records
from mmpo.errors import UserError
from mmpo.outside import json_of, read_text

IMAGES_FILE = "val_images_final.json"
FACTS_FILES = "shr_factual*.jsonl"


@dataclass(frozen=True)
class ShrRegion:
    """A phrase about a part of the image; `box` is (x, y, width, height) in pixels."""

    phrase: str
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class ShrImage:
    """People's notes about one image. `facts` are SHR's additional sentences; many images have none."""

    id: str
    regions: tuple[ShrRegion, ...]
    objects: tuple[str, ...]
    facts: tuple[str, ...] = ()
    size: tuple[int, int] | None = None


def read_images(path: str | Path) -> dict[str, ShrImage]:
    """Read the published annotations, by image id: the list in `val_images_final.json`, or the folder that holds it.

    Files `shr_factual*.jsonl` beside it are read too. Raises UserError naming file and entry.
    """
    path = Path(path)
    file = path / IMAGES_FILE if path.is_dir() else path
    facts = read_facts(sorted(file.parent.glob(FACTS_FILES)))
    images: dict[str, ShrImage] = {}
    for where, record in read_records(file):
        image = _image(record, where, facts)
        if image.id in images:
            raise UserError(f"{where}: image {image.id} is listed twice")
        images[image.id] = image
    return images


def read_facts(paths: Iterable[str | Path]) -> dict[str, tuple[str, ...]]:
    """Read lines of `{"IMAGE_ID": ["fact", …]}`. Raises UserError naming file and line."""
    facts: dict[str, tuple[str, ...]] = {}
    for path in paths:
        for where, record in read_records(path):
            for image, listed in record.items():
                if not isinstance(listed, list) or not all(isinstance(fact, str) for fact in listed):
                    raise UserError(f"{where}: image {image}: expected a list of sentences")
                if image in facts:
                    raise UserError(f"{where}: image {image} has facts already")
                facts[image] = tuple(listed)
    return facts


def read_responses(path: str | Path) -> dict[str, str]:
    """Read responses by image id: one object `{"IMAGE_ID": "response"}`, or records with `image_id` and `response`
    (`answer`, `caption` and `text` are understood too). Raises UserError naming the entry.
    """
    path = Path(path)
    table = whole_object(path)
    if table is not None and "image_id" not in table:
        for image, response in table.items():
            if not isinstance(response, str):
                raise UserError(f"{path}: image {image}: the response must be text, found {type(response).__name__}")
        return dict(table)
    responses: dict[str, str] = {}
    for where, record in read_records(path):
        identity = record.get("image_id")
        text = next((record[key] for key in ("response", "answer", "caption", "text") if key in record), None)
        if isinstance(identity, bool) or not isinstance(identity, (int, str)) or not isinstance(text, str):
            raise UserError(f"{where}: expected `image_id` and `response`")
        if str(identity) in responses:
            raise UserError(f"{where}: image {identity} has a response already")
        responses[str(identity)] = text
    return responses


@dataclass(frozen=True)
class SavedJudgement:
    """One image of a `judgement.json`: the response, the judge's reply, and the sentences with their classes."""

    response: str
    raw: str | None
    sentences: tuple[tuple[str, str | None], ...] | None


def read_judgements(path: str | Path) -> dict[str, dict[str, SavedJudgement]] | None:
    """Read a `judgement.json` as run -> image -> what was judged: `{RUN: {IMAGE_ID: {"model_response",
    "raw_judgement", "judgement": [{"model_response", "judgement", "classification"}]}}}`.

    None where the file holds something else, such as plain responses. Raises UserError naming run and image.
    """
    table = whole_object(Path(path))
    if not table or not all(isinstance(run, dict) for run in table.values()):
        return None
    return {
        name: {image: _saved(entry, f"{path}: run {name}: image {image}") for image, entry in run.items()}
        for name, run in table.items()
    }


def _saved(entry: Any, where: str) -> SavedJudgement:
    if not isinstance(entry, dict):
        raise UserError(f"{where}: expected an object with `raw_judgement` or `judgement`")
    response = entry.get("model_response", entry.get("mode_response"))  # the second is a published misspelling
    raw, listed = entry.get("raw_judgement"), entry.get("judgement")
    stored = None
    if listed is not None:
        try:
            stored = tuple((str(one["model_response"]), one["classification"]) for one in listed)
        except (TypeError, KeyError):
            raise UserError(f"{where}: `judgement` must list `model_response` and `classification`") from None
        if response is None:
            response = " ".join(f"{sentence}." for sentence, _ in stored)
    if not isinstance(response, str) or not (raw is None or isinstance(raw, str)) or (raw is None and stored is None):
        raise UserError(f"{where}: expected texts `model_response` and `raw_judgement`, or a list `judgement`")
    return SavedJudgement(response, raw, stored)


def whole_object(path: Path) -> dict[str, Any] | None:
    """The file as one JSON object; None where it is a list or JSON Lines."""
    try:
        value = json_of(read_text(path))
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _image(record: Mapping[str, Any], where: str, facts: Mapping[str, tuple[str, ...]]) -> ShrImage:
    try:
        identity = str(record["image_id"])
        regions = tuple(
            ShrRegion(_text(item["phrase"]).strip(), (item["x"], item["y"], item["width"], item["height"]))
            for item in record["regions"]["regions"]
        )
        objects = tuple(_text(name) for item in record["objects"]["objects"] for name in item["names"])
        size = (int(record["image"]["width"]), int(record["image"]["height"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{where}: not an SHR image ({error!r})", hint="expected image_id, image, objects and regions"
        ) from None
    return ShrImage(identity, regions, tuple(dict.fromkeys(objects)), facts.get(identity, ()), size)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no text")
    return value
