"""ms-swift: JSON Lines of `messages` whose last turn is chosen, and `rejected_response` (or `rejected_messages`).

{"messages": [{"role": "user", "content": "<image>…"}, {"role": "assistant", "content": …}],
 "rejected_response": …, "images": ["images/….png"], "rejected_images": [...]}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmpo.data.convert.format import Context, Format
from mmpo.data.convert.media import images_of
from mmpo.data.convert.rows import Row
from mmpo.data.convert.texts import EXTRAS, Turn, alternating, bad, extras_of, need, pair_of_turns, turns_of
from mmpo.data.convert.writing import LinesSink, video_column
from mmpo.data.pair import PreferencePair


def read(data: Mapping[str, Any], row: Row, context: Context) -> Iterator[PreferencePair]:
    turns = _turns(data, "messages")
    if turns[-1][0] != "assistant":
        raise bad("bad_turn", "`messages` does not end with an assistant turn")
    rejected = _rejected(data, turns)
    images = images_of(data, context.images, "images", "image")
    others = images_of(data, context.images, "rejected_images") if data.get("rejected_images") else None
    if others == images:
        others = None
    yield pair_of_turns(
        row, "ms-swift", turns[:-1], images=images, rejected_images=others, videos=data.get("videos"),
        root=context.images, chosen=turns[-1][1], rejected=rejected,
    )  # fmt: skip


def _rejected(data: Mapping[str, Any], turns: list[Turn]) -> str:
    if (response := data.get("rejected_response")) is not None:
        return str(need({"rejected_response": response}, "rejected_response"))
    if data.get("rejected_messages") is None:
        if data.get("rejected_images"):
            return turns[-1][1]  # the same words about other images
        raise bad("no_rejected", "neither `rejected_response`, `rejected_messages` nor `rejected_images`")
    others = _turns(data, "rejected_messages")
    if others[:-1] != turns[:-1]:
        raise bad("prompts_differ", "`messages` and `rejected_messages` differ before their last turn")
    return others[-1][1]


def _turns(data: Mapping[str, Any], column: str) -> list[Turn]:
    turns: list[Turn] = []
    for message in need(data, column, kind=list):
        role, text = message.get("role"), message.get("content")
        if role not in ("system", "user", "assistant") or not isinstance(text, str):
            raise bad("bad_turn", f"`{column}` has a turn that is no `role` and `content`: {str(message)[:60]}")
        turns.append((role, text))
    if not turns:
        raise bad("missing_key", f"`{column}` is empty")
    return turns


class SwiftSink(LinesSink):
    """`SPLIT.jsonl`; paths are relative to the folder."""

    def row(self, pair: PreferencePair, placed: Mapping[str, Any]) -> dict[str, Any]:
        turns = [*alternating(turns_of(pair.prompt)), ("assistant", pair.chosen_text)]
        row: dict[str, Any] = {
            "id": pair.id,
            "messages": [{"role": role, "content": text} for role, text in turns],
            "rejected_response": pair.rejected_text,
            "images": placed["images"],
            EXTRAS: extras_of(pair),
        }
        if placed["rejected_images"] is not None:
            row["rejected_images"] = placed["rejected_images"]
        if placed["videos"]:
            row["videos"] = video_column(placed)
        return row


def _fits(row: Mapping[str, Any]) -> bool:
    return "messages" in row and bool(row.keys() & {"rejected_response", "rejected_messages", "rejected_images"})


MS_SWIFT = Format(
    "ms-swift", "ms-swift: `messages` and `rejected_response`", read, _fits, SwiftSink, ("copy", "reference")
)
