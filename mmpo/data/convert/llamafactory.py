"""LLaMA-Factory: ranking data in the sharegpt layout, registered in `dataset_info.json`.

    {"conversations": [{"from": "human", "value": "<image>…"}], "chosen": {"from": "gpt", "value": …},
     "rejected": {…}, "images": ["images/….png"]}

Paths are relative to the folder (`dataset_dir` and `media_dir` in LLaMA-Factory's settings).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from mmpo.data.atomic import write_json
from mmpo.data.convert.format import Context, Format
from mmpo.data.convert.media import Media, images_of
from mmpo.data.convert.rows import Row
from mmpo.data.convert.texts import EXTRAS, Turn, alternating, bad, extras_of, need, pair_of_turns, turns_of
from mmpo.data.convert.writing import LinesSink, video_column
from mmpo.data.outside import read_json
from mmpo.data.pair import PreferencePair

INFO = "dataset_info.json"
COLUMNS = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected", "images": "images"}
TAGS = {
    "role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt", "system_tag": "system",
}  # fmt: skip


def read(data: Mapping[str, Any], row: Row, context: Context) -> Iterator[PreferencePair]:
    """Columns and tags are those that `dataset_info.json` beside the file gives, where there is one."""
    columns, tags = _names(context.folder, row.place.rpartition(":")[0])
    roles = {tags["user_tag"]: "user", tags["assistant_tag"]: "assistant", tags["system_tag"]: "system"}

    def turn(message: Any) -> Turn:
        role, text = (message.get(tags[tag]) for tag in ("role_tag", "content_tag"))
        if role not in roles or not isinstance(text, str):
            raise bad("bad_turn", f"no `{tags['role_tag']}` and `{tags['content_tag']}`: {str(message)[:60]}")
        return roles[role], text

    turns = [turn(message) for message in need(data, columns["messages"], kind=list)]
    if system := data.get(columns.get("system", "system")):
        turns = [("system", str(system)), *turns]
    images = images_of(data, context.images, columns["images"])
    yield pair_of_turns(
        row, "llamafactory", turns, images=images, videos=data.get(columns.get("videos", "videos")),
        root=context.images,
        chosen=turn(need(data, columns["chosen"], kind=Mapping))[1],
        rejected=turn(need(data, columns["rejected"], kind=Mapping))[1],
    )  # fmt: skip


@lru_cache(maxsize=32)
def _names(folder: Path, file: str) -> tuple[dict[str, str], dict[str, str]]:
    entries = read_json(folder / INFO) if (folder / INFO).is_file() else {}
    for entry in entries.values() if isinstance(entries, dict) else ():
        if isinstance(entry, dict) and entry.get("file_name") == file:
            return COLUMNS | (entry.get("columns") or {}), TAGS | (entry.get("tags") or {})
    return COLUMNS, TAGS


class LlamaFactorySink(LinesSink):
    """`SPLIT.jsonl` and its entry in `dataset_info.json`."""

    def __init__(self, folder: Path, media: Media, facts: Mapping[str, Any]) -> None:
        super().__init__(folder, media, facts)
        self._videos = False

    def row(self, pair: PreferencePair, placed: Mapping[str, Any]) -> dict[str, Any]:
        if placed["rejected_images"] is not None:
            raise bad("no_place", "LLaMA-Factory has no other images for the rejected side")
        names = {"user": "human", "assistant": "gpt", "system": "system"}
        row: dict[str, Any] = {
            "id": pair.id,
            "conversations": [
                {"from": names[role], "value": text} for role, text in alternating(turns_of(pair.prompt))
            ],
            "chosen": {"from": "gpt", "value": pair.chosen_text},
            "rejected": {"from": "gpt", "value": pair.rejected_text},
            "images": placed["images"],
            EXTRAS: extras_of(pair),
        }
        if placed["videos"]:
            self._videos = True
            row["videos"] = video_column(placed)
        return row

    def finish(self) -> None:
        super().finish()
        columns = COLUMNS | ({"videos": "videos"} if self._videos else {})
        entry = {"file_name": self.file_name, "formatting": "sharegpt", "ranking": True, "columns": columns}
        write_json(self.folder / INFO, {self.facts["name"]: entry})


def _fits(row: Mapping[str, Any]) -> bool:
    return {"conversations", "chosen", "rejected"} <= row.keys()


LLAMAFACTORY = Format(
    "llamafactory", "LLaMA-Factory: sharegpt ranking data", read, _fits, LlamaFactorySink, media=("copy", "reference")
)
