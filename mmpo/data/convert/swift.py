"""ms-swift: JSON Lines of `messages` whose last turn is chosen, and `rejected_response` (or `rejected_messages`).

{"messages": [{"role": "user", "content": "<image>…"}, {"role": "assistant", "content": …}],
 "rejected_response": … or [{"role": "assistant", "content": …}], "images": ["images/….png"], "rejected_images": [...]}

Older files have `query`, `response` and maybe `history` and `system` in the place of `messages`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmpo.data.convert.format import Format, SourceContext
from mmpo.data.convert.media import VIDEO_KEYS, cells_of, images_of
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


def read(data: Mapping[str, Any], row: Row, context: SourceContext) -> Iterator[PreferencePair]:
    turns = _turns(data, "messages") if "messages" in data else _query(data)
    if turns[-1][0] != "assistant":
        raise bad("bad_turn", "`messages` does not end with an assistant turn")
    rejected = _rejected(data, turns)
    images = images_of(data, context.images)
    others = images_of(data, context.images, "rejected_images") if data.get("rejected_images") else None
    if others == images:
        others = None
    yield pair_of_turns(
        row, "ms-swift", turns[:-1], images=images, rejected_images=others, videos=cells_of(data, *VIDEO_KEYS),
        root=context.images, chosen=turns[-1][1], rejected=rejected,
    )  # fmt: skip


def _rejected(data: Mapping[str, Any], turns: list[ChatTurn]) -> str:
    if (response := data.get("rejected_response")) is not None:
        if isinstance(response, str):
            return response
        others = _turns({"rejected_response": [response] if isinstance(response, Mapping) else response},
                        "rejected_response")  # fmt: skip
        if others[0][0] != "assistant":
            return _last(others, turns, "rejected_response")
        if len(others) != 1:
            raise bad("bad_response", f"`rejected_response` has {len(others)} turns")
        return others[0][1]
    if data.get("rejected_messages") is None:
        if data.get("rejected_images"):
            return turns[-1][1]  # the same words about other images
        raise bad("no_rejected", "no rejected answer: no `rejected_response`, `rejected_messages`, `rejected_images`")
    return _last(_turns(data, "rejected_messages"), turns, "rejected_messages")


def _last(others: list[ChatTurn], turns: list[ChatTurn], column: str) -> str:
    """The last of the rejected side's turns, of which the others are the prompt."""
    if others[:-1] != turns[:-1]:
        raise bad("prompts_differ", f"`messages` and `{column}` differ before their last turn")
    if others[-1][0] != "assistant":
        raise bad("bad_turn", f"`{column}` does not end with an assistant turn")
    return others[-1][1]


def _query(data: Mapping[str, Any]) -> list[ChatTurn]:
    turns: list[ChatTurn] = [("system", data["system"])] if data.get("system") else []
    for question, answer in data.get("history") or []:
        turns += [("user", question), ("assistant", answer)]
    turns += [("user", need(data, "query")), ("assistant", need(data, "response"))]
    if not all(isinstance(text, str) for _, text in turns):
        raise bad("bad_turn", "`system` and `history` hold texts")
    return turns


def _turns(data: Mapping[str, Any], column: str) -> list[ChatTurn]:
    turns: list[ChatTurn] = []
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
        turns = [*alternating(turns_of(pair.prompt)), ("assistant", only_answer(pair.chosen, "chosen"))]
        row: dict[str, Any] = {
            "id": pair.id,
            "messages": [{"role": role, "content": text} for role, text in turns],
            "rejected_response": only_answer(pair.rejected, "rejected"),
            "images": placed["images"],
            EXTRAS: extras_of(pair),
        }
        if placed["rejected_images"] is not None:
            row["rejected_images"] = placed["rejected_images"]
        if placed["videos"]:
            row["videos"] = video_column(placed)
        return row


def _fits(row: Mapping[str, Any]) -> bool:
    if "messages" not in row:
        return {"query", "response", "rejected_response"} <= row.keys()
    return bool(row.keys() & {"rejected_response", "rejected_messages", "rejected_images"})


MS_SWIFT = Format(
    "ms-swift", "ms-swift: `messages` and `rejected_response`", read, _fits, SwiftSink, ("copy", "reference")
)
