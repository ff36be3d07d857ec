"""A preference pair, or a group of responses, as a row of a table: the Arrow schema, with the feature names that
`datasets` reads from it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import pyarrow as pa

from mmpo.data.pair import Message, PreferencePair, Video
from mmpo.data.responses import ResponseGroup, ScoredResponse
from mmpo.data.spans import short
from mmpo.errors import UserError
from mmpo.outside import Unreadable, json_of

PROVENANCE_FIELDS = {
    "builder": pa.string(),
    "version": pa.string(),
    "settings": pa.string(),
    "sources": pa.list_(pa.string()),
    "seed": pa.int64(),
    "judge": pa.string(),
    "filters": pa.list_(pa.string()),
    "extra": pa.string(),  # everything else, as one JSON object
}

ONCE_NOTED = ("image_weights", "unfinished", "twin")
"""Columns that stood in the provenance in mmpo 0.1."""

_IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
_PART = pa.struct({"type": pa.string(), "text": pa.string()})
_MESSAGES = pa.list_(pa.struct({"role": pa.string(), "content": pa.list_(_PART)}))
_SPANS = pa.list_(pa.struct({"start": pa.int64(), "end": pa.int64(), "weight": pa.float64()}))
_PARTS = pa.list_(
    pa.struct({"start": pa.int64(), "end": pa.int64(), "kind": pa.string(), "scores": pa.list_(pa.float64())})
)
_VIDEO = pa.struct({"frames": pa.list_(_IMAGE), "times": pa.list_(pa.float64()), "path": pa.string()})


def pair_schema(scores: Sequence[str] = (), metadata: Mapping[str, str] | None = None) -> pa.Schema:
    """The columns of a shard. `scores` names the fields of the `scores` column, which is absent when there are none.

    The schema carries the features under the key `huggingface`, so `datasets` shows `images` as images without a cast.
    """
    columns: list[tuple[str, pa.DataType]] = [
        ("id", pa.string()),
        ("images", pa.list_(_IMAGE)),
        ("prompt", _MESSAGES),
        ("chosen", _MESSAGES),
        ("rejected", _MESSAGES),
        ("rejected_images", pa.list_(_IMAGE)),
        ("videos", pa.list_(_VIDEO)),
        ("chosen_weights", _SPANS),
        ("rejected_weights", _SPANS),
        ("image_weights", _SPANS),
        ("chosen_parts", _PARTS),
        ("rejected_parts", _PARTS),
        ("unfinished", pa.bool_()),
        ("twin", pa.string()),
    ]
    if scores:
        columns.append(("scores", pa.struct({name: pa.float64() for name in scores})))
    return _schema([*columns, ("provenance", pa.struct(PROVENANCE_FIELDS))], metadata)


def group_schema(metadata: Mapping[str, str] | None = None) -> pa.Schema:
    """The columns of a shard of groups of responses, with features as in `pair_schema`."""
    columns: list[tuple[str, pa.DataType]] = [
        ("id", pa.string()),
        ("images", pa.list_(_IMAGE)),
        ("prompt", _MESSAGES),
        ("responses", pa.list_(pa.struct({"text": pa.string(), "score": pa.float64()}))),
        ("videos", pa.list_(_VIDEO)),
        ("provenance", pa.struct(PROVENANCE_FIELDS)),
    ]
    return _schema(columns, metadata)


def _schema(columns: Sequence[tuple[str, pa.DataType]], metadata: Mapping[str, str] | None) -> pa.Schema:
    features = {name: _feature(kind) for name, kind in columns}
    stamps = {"huggingface": json.dumps({"info": {"features": features}}), **(metadata or {})}
    return pa.schema([pa.field(name, kind) for name, kind in columns], metadata=stamps)


def _feature(kind: pa.DataType) -> dict[str, Any]:
    """The `datasets` feature of an Arrow type, in the form that `Features.to_dict` writes."""
    if kind == _IMAGE:
        return {"_type": "Image"}
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    return {"dtype": {pa.float64(): "float64"}.get(kind, str(kind)), "_type": "Value"}


def to_row(pair: PreferencePair, scores: Sequence[str] = ()) -> dict[str, Any]:
    """The pair as a row of `pair_schema(scores)`."""
    check_scores(pair, scores)
    row: dict[str, Any] = {
        "id": pair.id,
        "images": [_image_cell(image) for image in pair.images],
        "prompt": pair.prompt,
        "chosen": pair.chosen,
        "rejected": pair.rejected,
        "rejected_images": None if pair.rejected_images is None else [_image_cell(i) for i in pair.rejected_images],
        "videos": None if pair.videos is None else [_video_cell(video) for video in pair.videos],
        "chosen_weights": pair.chosen_weights,
        "rejected_weights": pair.rejected_weights,
        "image_weights": pair.image_weights,
        "chosen_parts": pair.chosen_parts,
        "rejected_parts": pair.rejected_parts,
        "unfinished": pair.unfinished,
        "twin": pair.twin,
        "provenance": _provenance_cell(pair.provenance),
    }
    if scores:
        row["scores"] = None if pair.scores is None else {name: pair.scores.get(name) for name in scores}
    return row


def group_to_row(group: ResponseGroup) -> dict[str, Any]:
    """The group as a row of `group_schema()`."""
    return {
        "id": group.id,
        "images": [_image_cell(image) for image in group.images],
        "prompt": group.prompt,
        "responses": [{"text": response.text, "score": response.score} for response in group.responses],
        "videos": None if group.videos is None else [_video_cell(video) for video in group.videos],
        "provenance": _provenance_cell(group.provenance),
    }


def group_from_row(row: Mapping[str, Any], where: str = "row") -> ResponseGroup:
    """The group in a row, as `from_row` reads a pair: `images`, `prompt` and `responses` are enough."""
    if missing := [name for name in ("prompt", "responses") if row.get(name) is None]:
        raise UserError(f"{where}: no `{missing[0]}`", hint="columns needed: images, prompt, responses")
    videos = row.get("videos")
    return ResponseGroup(
        id=row.get("id") or PurePath(where).name,
        prompt=_messages(row["prompt"], "prompt", where),
        responses=scored_responses(row["responses"], where),
        images=[_image(cell, where) for cell in row.get("images") or []],
        videos=None if videos is None else [_video(cell, where) for cell in videos],
        provenance=_provenance(row.get("provenance"), where),
    )


def scored_responses(cells: Any, where: str) -> list[ScoredResponse]:
    """The answers in a column of objects of `text` and `score`, which may be null or missing."""
    if not isinstance(cells, list):
        raise UserError(f"{where}: `responses` must be a list, got {short(cells)}")
    for number, cell in enumerate(cells):
        if not isinstance(cell, Mapping) or "text" not in cell:
            raise UserError(f"{where}: `responses[{number}]` must have `text` and `score`, got {short(cell)}")
    return [ScoredResponse(cell["text"], cell.get("score")) for cell in cells]


def check_scores(pair: PreferencePair, scores: Sequence[str]) -> None:
    """UserError for a score that the dataset has no place for."""
    for name in pair.scores or {}:
        if name not in scores:
            raise UserError(
                f"pair {pair.id}: the score {name!r} is not a column of this dataset ({', '.join(scores) or 'none'})",
                hint="name every score when the writer is made: PairWriter(…, scores=[…])",
            )


def from_row(row: Mapping[str, Any], where: str = "row") -> PreferencePair:
    """The pair in a row, also of a file that others wrote: `images`, `prompt`, `chosen` and `rejected` are enough.

    `where` names file and row in errors; without the folder it is the id of a pair that has none.
    """
    missing = [name for name in ("prompt", "chosen", "rejected") if row.get(name) is None]
    if missing:
        raise UserError(f"{where}: no `{missing[0]}`", hint="columns needed: images, prompt, chosen, rejected")
    rejected_images, videos, scores = row.get("rejected_images"), row.get("videos"), row.get("scores")
    provenance = _provenance(row.get("provenance"), where)
    once_noted = {name: provenance.pop(name, None) for name in ONCE_NOTED}
    image_weights, unfinished, twin = (once_noted[name] if row.get(name) is None else row[name] for name in ONCE_NOTED)
    return PreferencePair(
        id=row.get("id") or PurePath(where).name,
        images=[_image(cell, where) for cell in row.get("images") or []],
        rejected_images=None if rejected_images is None else [_image(cell, where) for cell in rejected_images],
        videos=None if videos is None else [_video(cell, where) for cell in videos],
        prompt=_messages(row["prompt"], "prompt", where),
        chosen=_messages(row["chosen"], "chosen", where),
        rejected=_messages(row["rejected"], "rejected", where),
        chosen_weights=row.get("chosen_weights"),
        rejected_weights=row.get("rejected_weights"),
        image_weights=image_weights,
        chosen_parts=row.get("chosen_parts"),
        rejected_parts=row.get("rejected_parts"),
        unfinished=False if unfinished is None else unfinished,
        twin=twin,
        scores=None if scores is None else {name: value for name, value in scores.items() if value is not None},
        provenance=provenance,
    )


def _image_cell(image: bytes | str) -> dict[str, Any]:
    return {"bytes": image, "path": None} if isinstance(image, bytes) else {"bytes": None, "path": image}


def _image(cell: Any, where: str) -> bytes | str:
    if isinstance(cell, (bytes, str)):
        return cell
    image = (cell.get("bytes") or cell.get("path")) if isinstance(cell, Mapping) else None
    if image is None:
        raise UserError(f"{where}: an image has neither bytes nor a path")
    return image


def _video_cell(video: Video) -> dict[str, Any]:
    frames = video.get("frames")
    return {
        "frames": None if frames is None else [_image_cell(frame) for frame in frames],
        "times": video.get("times"),
        "path": video.get("path"),
    }


def _video(cell: Mapping[str, Any], where: str) -> Video:
    video = {name: value for name, value in cell.items() if value is not None}
    if "frames" in video:
        video["frames"] = [_image(frame, where) for frame in video["frames"]]
    return video


def _messages(messages: Any, column: str, where: str) -> list[Message]:
    """Messages without the null fields that a table adds to parts of other types; a plain string is one text part."""
    if not isinstance(messages, list):
        raise UserError(f"{where}: `{column}` must be a list of messages, got {type(messages).__name__}")
    return [_message(message, f"{where}: `{column}`") for message in messages]


def _message(message: Any, where: str) -> Message:
    content = message.get("content") if isinstance(message, Mapping) else None
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list) or not all(isinstance(part, Mapping) for part in content):
        raise UserError(f"{where} has a message without a list of content parts: {message!r}")
    parts = [{key: value for key, value in part.items() if value is not None} for part in content]
    return {"role": message.get("role"), "content": parts}


def _provenance_cell(provenance: Mapping[str, Any]) -> dict[str, Any]:
    known = {name: provenance.get(name) for name in PROVENANCE_FIELDS if name != "extra"}
    extra = {name: value for name, value in provenance.items() if name not in known}
    known["extra"] = json.dumps(extra, sort_keys=True, ensure_ascii=False) if extra else None
    return known


def _provenance(cell: Mapping[str, Any] | None, where: str) -> dict[str, Any]:
    known = {name: value for name, value in (cell or {}).items() if value is not None}
    extra = known.pop("extra", None)
    try:
        more = json_of(extra) if isinstance(extra, str) else {}
    except Unreadable:
        more = None
    if not isinstance(more, dict):
        raise UserError(f"{where}: `provenance.extra` is not a JSON object")
    return known | more
