"""LLaMA-Factory: ranking data in its two layouts, registered in `dataset_info.json`.

    sharegpt   {"conversations": [{"from": "human", "value": "<image>…"}], "chosen": {"from": "gpt", "value": …},
                "rejected": {…}, "images": ["images/….png"]}
    alpaca     {"instruction", "input", "history": [[question, answer]], "chosen", "rejected", "system", "images"}

The registry's `columns` and `tags` give the names; files that it does not call `ranking` hold no preferences. Paths are
relative to the folder (`dataset_dir` and `media_dir` in LLaMA-Factory's settings).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mmpo.data.convert.format import Format, SourceContext
from mmpo.data.convert.media import VIDEO_KEYS, Media, cells_of, images_of
from mmpo.data.convert.rows import Row
from mmpo.data.convert.texts import (
    EXTRAS,
    ChatTurn,
    alternating,
    bad,
    extras_of,
    need,
    only_answer,
    pair_of_turns,
    turns_of,
)
from mmpo.data.convert.writing import LinesSink, video_column
from mmpo.data.pair import PreferencePair
from mmpo.files.atomic import write_json
from mmpo.outside import read_json

INFO = "dataset_info.json"
COLUMNS = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected", "images": "images"}
ALPACA = {"prompt": "instruction", "query": "input", "history": "history"}
TAGS = {
    "role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt", "system_tag": "system",
}  # fmt: skip
LAYOUTS = ("alpaca", "sharegpt")


@dataclass(frozen=True)
class DatasetEntry:
    """The entry of `dataset_info.json` for one file. Without one: the usual names, and the layout that fits the row."""

    columns: Mapping[str, str]
    tags: Mapping[str, str]
    layout: str | None = None
    ranking: bool = True


def read(data: Mapping[str, Any], row: Row, context: SourceContext) -> Iterator[PreferencePair]:
    """Columns and tags are those that `dataset_info.json` beside the file gives, where there is one."""
    entry = registered(context.folder, row.place.rpartition(":")[0]) or DatasetEntry({}, {})
    columns, tags = COLUMNS | ALPACA | dict(entry.columns), TAGS | dict(entry.tags)
    roles = {tags["user_tag"]: "user", tags["assistant_tag"]: "assistant", tags["system_tag"]: "system"}

    def turn(message: Any) -> ChatTurn:
        role, text = (message.get(tags[tag]) for tag in ("role_tag", "content_tag"))
        if role not in roles or not isinstance(text, str):
            raise bad("bad_turn", f"no `{tags['role_tag']}` and `{tags['content_tag']}`: {str(message)[:60]}")
        return roles[role], text

    def answer(side: str) -> str:
        value = data.get(columns[side])
        if value is None:
            raise bad("no_rejected" if side == "rejected" else "missing_key", f"no {side} answer (`{columns[side]}`)")
        return value if isinstance(value, str) else turn(need(data, columns[side], kind=Mapping))[1]

    rejected, chosen = answer("rejected"), answer("chosen")
    sharegpt = entry.layout == "sharegpt" or (entry.layout is None and columns["messages"] in data)
    turns = [turn(message) for message in need(data, columns["messages"], kind=list)] if sharegpt else []
    if not sharegpt:
        for question, said in data.get(columns["history"]) or []:
            turns += [("user", question), ("assistant", said)]
        asked = [need(data, columns["prompt"]), data.get(columns["query"])]
        turns.append(("user", "\n".join(text for text in asked if text)))
    if system := data.get(columns.get("system", "system")):
        turns = [("system", str(system)), *turns]
    if not all(isinstance(text, str) for _, text in turns):
        raise bad("bad_turn", f"`{columns['history']}` is not a list of questions and answers")
    videos = cells_of(data, *(_named(entry, "videos") or VIDEO_KEYS))
    yield pair_of_turns(
        row, "llamafactory", turns, images=images_of(data, context.images, *_named(entry, "images")),
        videos=videos, root=context.images, chosen=chosen, rejected=rejected,
    )  # fmt: skip


def _named(entry: DatasetEntry, column: str) -> list[str]:
    return [entry.columns[column]] if column in entry.columns else []


@lru_cache(maxsize=32)
def registry(folder: Path) -> dict[str, DatasetEntry]:
    """The entries of the folder's `dataset_info.json`, by the name of the file (or folder); empty if it is none of
    LLaMA-Factory's."""
    content = read_json(folder / INFO) if (folder / INFO).is_file() else {}
    entries: dict[str, DatasetEntry] = {}
    for entry in content.values() if isinstance(content, dict) else ():
        if not isinstance(entry, dict) or not isinstance(entry.get("file_name"), str):
            continue
        layout = entry.get("formatting", "alpaca")
        columns, tags = (
            {key: value for key, value in (entry.get(part) or {}).items() if isinstance(value, str)}
            for part in ("columns", "tags")
        )
        found = DatasetEntry(columns, tags, layout if layout in LAYOUTS else None, entry.get("ranking") is True)
        file = entry["file_name"].removeprefix("./")
        if file not in entries or found.ranking:  # a file may be registered twice; the ranking one is ours
            entries[file] = found
    return entries


def registered(folder: Path, file: str) -> DatasetEntry | None:
    """The registry's entry of a file below the folder, or of the folder that it lies in."""
    entries = registry(folder)
    parts = file.split("/")
    return next((entries[name] for k in range(len(parts), 0, -1) if (name := "/".join(parts[:k])) in entries), None)


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
            "chosen": {"from": "gpt", "value": only_answer(pair.chosen, "chosen")},
            "rejected": {"from": "gpt", "value": only_answer(pair.rejected, "rejected")},
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
    return {"chosen", "rejected"} <= row.keys() and ("conversations" in row or "instruction" in row)


LLAMAFACTORY = Format(
    "llamafactory", "LLaMA-Factory: sharegpt and alpaca ranking data", read, _fits, LlamaFactorySink,
    media=("copy", "reference"),
)  # fmt: skip
