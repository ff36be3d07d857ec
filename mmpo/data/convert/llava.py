"""LLaVA's conversation JSON, and POVID's (arXiv:2402.11411), which adds `rejected_conversations`.

{"id", "image": "a.jpg" | [...], "conversations": [{"from": "human", "value": "<image>\\n…"}, {"from": "gpt", …}],
 "rejected_conversations": [...]}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmpo.data.convert.format import Format, SourceContext
from mmpo.data.convert.media import images_of
from mmpo.data.convert.rows import Row
from mmpo.data.convert.texts import ChatTurn, bad, messages_of, need, pair_of
from mmpo.data.pair import PreferencePair

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


def read(data: Mapping[str, Any], row: Row, context: SourceContext) -> Iterator[PreferencePair]:
    """A pair for each answer in which the two conversations differ; the chosen side's earlier turns are its prompt."""
    turns = turns_in(data, "conversations")
    if "rejected_conversations" not in data:
        raise bad("no_rejected", "no rejected answer: a conversation without `rejected_conversations`")
    others = turns_in(data, "rejected_conversations")
    if [role for role, _ in turns] != [role for role, _ in others]:
        raise bad("turns_differ", "the two conversations do not have the same turns")
    if any(a != b for a, b in zip(turns, others, strict=True) if a[0] != "assistant"):
        raise bad("prompts_differ", "the two conversations do not ask the same")
    images = images_of(data, context.images)
    answers = [i for i, (role, _) in enumerate(turns) if role == "assistant"]
    differing = [i for i in answers if turns[i] != others[i]]
    if not differing:
        raise bad("equal_responses", "chosen and rejected are the same")
    name = data.get("id")
    for number in differing:
        identity = row.key if name is None else str(name)
        yield pair_of(
            row, "llava", id=identity if len(answers) == 1 else f"{identity}-{number}", images=images,
            prompt=messages_of(turns[:number], len(images), trim=True),
            chosen=turns[number][1], rejected=others[number][1],
        )  # fmt: skip


def turns_in(data: Mapping[str, Any], column: str) -> list[ChatTurn]:
    """The turns of one conversation."""
    turns: list[ChatTurn] = []
    for turn in need(data, column, kind=list):
        role = ROLES.get(str(turn.get("from", turn.get("role"))))
        text = turn.get("value", turn.get("content"))
        if role is None or not isinstance(text, str):
            raise bad("bad_turn", f"`{column}` has a turn that is no `from` and `value`: {str(turn)[:60]}")
        turns.append((role, text))
    if not turns:
        raise bad("missing_key", f"`{column}` is empty")
    return turns


def _fits(row: Mapping[str, Any]) -> bool:
    return isinstance(row.get("conversations"), list) and "chosen" not in row


LLAVA = Format("llava", "LLaVA conversations with `rejected_conversations`", read, _fits)
POVID = Format("povid", "POVID: the same, as its authors publish it", read)
