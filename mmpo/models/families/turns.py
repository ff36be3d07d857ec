"""A response of several turns as token ids: what the assistant writes is told from what stands between.

    ids      Yes . </s> USER : Why ? ASSISTANT : It barks . </s>
    turns     0  0  0   -1  -1  -1 -1    -1   -1  1    1   1  1

The chat template places the turns. Whatever the assistant would write itself belongs to its turn, the end token behind
it included; the user's turn and the template's words around it belong to none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mmpo.errors import UserError
from mmpo.models.families.loading import VLM
from mmpo.models.families.processing import processor_facts
from mmpo.models.families.prompts import (
    MARK,
    PROBE,
    Offsets,
    PromptMessage,
    plain_text,
    rendered,
    response_frame,
    response_tokens,
)


class TurnTokens(NamedTuple):
    """Token ids of a response; for each the characters `[start, end)` of the assistant's texts, put one after another,
    that it covers, and the number of its turn, -1 between turns."""

    ids: list[int]
    offsets: Offsets
    turns: list[int]


def encode_turns(vlm: VLM, messages: Sequence[PromptMessage], *, eos: bool = True) -> TurnTokens:
    """A response that begins and ends with an assistant message, as the chat template writes it behind a question;
    `eos` ends the last turn with the end token."""
    texts = ["".join(part["text"] for part in message["content"]) for message in messages[::2]]
    if len(texts) == 1:
        ids, offsets = response_tokens(vlm, texts[0], eos)
        return TurnTokens(ids, offsets, [0] * len(ids))
    plain = plain_text(vlm)
    head, lead, tail = response_frame(vlm)
    head_ids = processor_facts(vlm).setdefault("head_ids", plain.encode(head).ids)
    frames = [lead, *_between(vlm, messages), tail]
    pieces = [piece for k, text in enumerate(texts) for piece in (frames[k], plain.hide(text))] + [tail]
    full = plain.encode(head + "".join(pieces))
    ids, offsets, shift = full.ids, full.offsets, len(head)
    if ids[: len(head_ids)] == head_ids:
        ids, offsets = ids[len(head_ids) :], offsets[len(head_ids) :]
    else:  # as for one turn
        full = plain.encode("".join(pieces))
        ids, offsets, shift = full.ids, full.offsets, 0
    starts, at = [], shift
    for k, text in enumerate(texts):
        at += len(plain.encode(frames[k]).text)
        starts.append(at)
        at += len(text)
    places, turns = _turns_of(full.text, ids, offsets, starts, texts, len(lead), {vlm.eos_id, *vlm.end_ids})
    ended = ids[-1] in {vlm.eos_id, *vlm.end_ids}
    if ended and not eos:
        ids, places, turns = ids[:-1], places[:-1], turns[:-1]
    elif eos and not ended:
        total = sum(map(len, texts))
        ids, places, turns = [*ids, vlm.eos_id], [*places, (total, total)], [*turns, len(texts) - 1]
    return TurnTokens(ids, places, turns)


def _between(vlm: VLM, messages: Sequence[PromptMessage]) -> list[str]:
    """The template's text between each turn of the assistant and the next, marks for special strings in it."""
    marked = [
        {"role": "assistant", "content": [{"type": "text", "text": MARK}]} if number % 2 == 0 else message
        for number, message in enumerate(messages)
    ]
    found = rendered(vlm, [*PROBE, *marked]).split(MARK)
    if len(found) != len(messages) // 2 + 2:
        raise UserError(
            f"{vlm.source}: the chat template writes {len(found) - 1} of {len(messages) // 2 + 1} assistant turns",
            hint="use pairs of one answer, or a template that keeps all turns",
        )
    return found[1:-1]


def _turns_of(
    text: str,
    ids: Sequence[int],
    offsets: Offsets,
    starts: Sequence[int],
    texts: Sequence[str],
    lead: int,
    ends: set[int],
) -> tuple[Offsets, list[int]]:
    """For each token its characters of the assistant's texts, and its turn. Turn k's text begins at `starts[k]` of
    `text`, and the model itself writes the `lead` characters before it."""
    places: Offsets = []
    turns: list[int] = []
    for a, b in offsets:
        turn, place, before = -1, (0, 0), 0
        for k, (start, own) in enumerate(zip(starts, texts, strict=True)):
            if a < start + len(own) and b > start - lead:
                turn = k
                place = (before + max(a - start, 0), before + min(max(b - start, 0), len(own)))
                break
            before += len(own)
        turns.append(turn)
        places.append(place)
    total = 0
    for k, own in enumerate(texts):
        total += len(own)
        following = max((i for i, turn in enumerate(turns) if turn <= k and turn >= 0), default=-1) + 1
        end = following
        if k + 1 == len(texts):
            end = len(ids)  # whatever the template closes the answer with
        else:
            while end < len(ids) and ids[end] not in ends and not text[slice(*offsets[end])].strip():
                end += 1
            end = end + 1 if end < len(ids) and ids[end] in ends else following
        for i in range(following, end):
            turns[i], places[i] = k, (total, total)
    return places, turns
