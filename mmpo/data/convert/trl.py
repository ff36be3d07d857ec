"""TRL's vision preference data: rows of `images` (or `image`), `prompt`, `chosen`, `rejected`.

Read: messages with a list of parts or with plain text, plain strings, and the form without `prompt`, where both sides
begin with it. Parquet, JSON Lines, JSON, or a folder from `save_to_disk`. Written: Parquet with parts, which leaves no
doubt about where an image stands; `load_dataset` opens the folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmpo.data.convert.format import Format, SourceContext
from mmpo.data.convert.media import VIDEO_KEYS, Media, cells_of, image_of, images_of
from mmpo.data.convert.rows import Row
from mmpo.data.convert.texts import EXTRAS, bad, extras_in, extras_of, messages_of, pair_of, parts_of, videos_of
from mmpo.data.convert.writing import RowSink
from mmpo.data.pair import Message, PreferencePair, content_parts, join_text
from mmpo.data.rows import pair_schema, to_row
from mmpo.outside import json_of

COLUMNS = ("id", "images", "prompt", "chosen", "rejected")
GROUP = 32  # rows held and written together
SHARD_BYTES = 256 * 2**20


def read(data: Mapping[str, Any], row: Row, context: SourceContext) -> Iterator[PreferencePair]:
    prompt, chosen, rejected = (_messages(data.get(name)) for name in ("prompt", "chosen", "rejected"))
    if prompt is None and isinstance(chosen, list) and isinstance(rejected, list):
        prompt, chosen, rejected = _shared(chosen, rejected)
    if rejected is None:
        raise bad("no_rejected", "no rejected answer (`rejected`)")
    images = images_of(data, context.images) or _inline(prompt, "image", context)
    cells = cells_of(data, *VIDEO_KEYS) or _inline(prompt, "video", context)
    extras = extras_in(data)
    videos = videos_of(cells, context.images, extras.pop("times", None))
    yield pair_of(
        row, "trl", id=data.get("id"), images=images, videos=videos, extras=extras,
        prompt=_prompt(prompt, len(images), len(videos or [])), chosen=_response(chosen, "chosen"),
        rejected=_response(rejected, "rejected"),
    )  # fmt: skip


def _messages(value: Any) -> Any:
    """Messages that a file keeps as one JSON text; anything else as it is."""
    if isinstance(value, str) and value.lstrip().startswith("[{") and '"role"' in value:
        try:
            found = json_of(value)
        except ValueError:
            return value
        return found if all(isinstance(message, dict) and "role" in message for message in found) else value
    return value


def _inline(prompt: Any, kind: str, context: SourceContext) -> list[Any]:
    """The pictures (or videos) that stand in the messages themselves: `{"type": "image", "image": "a.png"}`."""
    found = []
    for message in prompt if isinstance(prompt, list) else ():
        content = message.get("content") if isinstance(message, Mapping) else None
        for part in content if isinstance(content, list) else ():
            if isinstance(part, Mapping) and part.get("type") in (kind, f"{kind}_url"):
                cell = next((part[key] for key in (kind, f"{kind}_url", "url", "path") if part.get(key)), None)
                if isinstance(cell, Mapping) and "url" in cell:
                    cell = cell["url"]
                if cell is not None:
                    found.append(image_of(cell, context.images) if kind == "image" else cell)
    return found


def _shared(chosen: list[Any], rejected: list[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    """The prompt that both sides begin with, and what is left of them."""
    same = 0
    while same < min(len(chosen), len(rejected)) and chosen[same] == rejected[same]:
        same += 1
    while same and chosen[same - 1].get("role") == "assistant" and (same == len(chosen) or same == len(rejected)):
        same -= 1  # one side went on, the other did not: the answer is not part of the prompt
    return chosen[:same], chosen[same:], rejected[same:]


def _prompt(prompt: Any, images: int, videos: int) -> list[Message]:
    if isinstance(prompt, str):
        return messages_of([("user", prompt)], images, videos, trim=True)
    if not isinstance(prompt, list) or not prompt:
        raise bad("missing_key", "no `prompt`")
    messages = [_message(message) for message in prompt]
    if all(isinstance(message["content"], str) for message in prompt):
        return messages_of([(message["role"], message["content"]) for message in prompt], images, videos, trim=True)
    for kind, count in (("image", images), ("video", videos)):
        if (shown := sum(1 for _ in content_parts(messages, kind))) != count:
            raise bad(f"{kind}_count", f"the prompt has {shown} {kind} part(s), the row {count} {kind}(s)")
    return messages


def _message(message: Any) -> Message:
    if not isinstance(message, Mapping) or not isinstance(message.get("content"), (str, list)):
        raise bad("bad_turn", f"a message needs `role` and `content`: {str(message)[:60]}")
    content = message["content"]
    if isinstance(content, str):
        return {"role": message.get("role"), "content": parts_of(content)}
    parts = []
    for part in content:
        if not isinstance(part, Mapping):
            raise bad("bad_turn", f"a part of a message is a {type(part).__name__}")
        kept = {key: part[key] for key in ("type", "text") if part.get(key) is not None}  # tables add nulls
        if kept.get("type") in ("image_url", "video_url"):
            kept["type"] = kept["type"].removesuffix("_url")
        parts.append(kept)
    return {"role": message.get("role"), "content": parts}


def _response(response: Any, side: str) -> str | list[Message]:
    if isinstance(response, str):
        return response
    if isinstance(response, list) and len(response) % 2:
        messages = [_message(message) for message in response]
        roles = [message["role"] for message in messages]
        texts = all(part.get("type") == "text" for message in messages for part in message["content"])
        if texts and roles == ["assistant", "user"] * (len(roles) // 2) + ["assistant"]:
            return join_text(messages) if len(messages) == 1 else messages
    raise bad("bad_response", f"`{side}` is neither a text nor assistant messages, with the user's between them")


class TrlSink(RowSink):
    """Parquet shards `data/SPLIT-00000.parquet` with TRL's columns, an id, and `mmpo` for what TRL has no place for."""

    def __init__(self, folder: Path, media: Media, facts: Mapping[str, Any]) -> None:
        super().__init__(folder, media, facts)
        (folder / "data").mkdir()
        self._schema = _schema()
        self._rows: list[dict[str, Any]] = []
        self._shards = 0
        self._shard: pq.ParquetWriter | None = None
        self._open_shard()

    def row(self, pair: PreferencePair, placed: Mapping[str, Any]) -> dict[str, Any]:
        if placed["rejected_images"] is not None:
            raise bad("no_place", "TRL has no other images for the rejected side")
        if placed["videos"]:
            raise bad("no_place", "TRL's vision data has no videos")
        row = to_row(PreferencePair(pair.id, pair.prompt, pair.chosen, pair.rejected, placed["images"]))
        return {name: row[name] for name in COLUMNS} | {EXTRAS: extras_of(pair)}

    def put(self, row: Mapping[str, Any]) -> None:
        self._rows.append(dict(row))
        if len(self._rows) == GROUP:
            self._flush()

    def _open_shard(self) -> None:
        self._path = self.folder / "data" / f"{self.facts['split']}-{self._shards:05d}.parquet"
        self._shard = pq.ParquetWriter(
            self._path, self._schema, compression="ZSTD", use_dictionary=False, write_statistics=False
        )
        self._shards += 1

    def _flush(self) -> None:
        assert self._shard is not None
        if self._rows:
            self._shard.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
            self._rows = []
            if self._path.stat().st_size >= SHARD_BYTES:
                self._shard.close()
                self._open_shard()

    def finish(self) -> None:
        self._flush()
        assert self._shard is not None
        self._shard.close()


def _schema() -> pa.Schema:
    """The columns of `pair_schema` that TRL reads, with the features that `datasets` shows."""
    full = pair_schema()
    features = json_of(full.metadata[b"huggingface"])["info"]["features"]
    kept = {name: features[name] for name in COLUMNS} | {EXTRAS: {"dtype": "string", "_type": "Value"}}
    fields = [full.field(name) for name in COLUMNS] + [pa.field(EXTRAS, pa.string())]
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": kept}})})


def _fits(row: Mapping[str, Any]) -> bool:
    if not {"chosen", "rejected"} <= row.keys() or row.keys() & {"provenance", "messages", "conversations", "question"}:
        return False
    return "prompt" in row or isinstance(row["chosen"], list)


TRL = Format(
    "trl", "TRL vision preference data", read, _fits, TrlSink, media=("embed", "reference")
)  # fmt: skip
