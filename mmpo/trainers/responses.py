"""A response as token ids with all that its text carries: weights, turns, scored steps and segments.

Shapes: t tokens of a response, k parts, a aspects of a score.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmpo.data.pair import PreferencePair, answer_text, join_text
from mmpo.errors import Quarantined, UserError
from mmpo.models.families.loading import VLM
from mmpo.models.families.prompts import Offsets, token_weights
from mmpo.models.families.turns import encode_turns
from mmpo.text.claims import split_sentences

Side = Literal["chosen", "rejected"]
KINDS = {"steps": "step", "segments": "segment"}
"""What an objective reads, and the kind of part in the data."""


@dataclass(frozen=True, slots=True)
class ScoredParts:
    """Parts of a response: `numbers` [t] of the part that each token belongs to (int32, -1 outside), and `scores` [k,
    a]. Every part has a token."""

    numbers: Tensor
    scores: Tensor


@dataclass(frozen=True)
class EncodedResponse:
    """Token ids (int32) with the characters of the assistant's text that each covers, and what they carry. `turns` is
    None for a response of one turn; `cut` is 1 where the response was too long. `context` characters before its text
    were said before."""

    ids: Tensor
    offsets: Offsets
    weights: Tensor | None
    image_weights: Tensor | None
    turns: Tensor | None
    parts: Sequence[Mapping[str, Any]]
    text: str
    context: int
    cut: int


def encode_side(
    vlm: VLM, pair: PreferencePair, side: Side, begun: tuple[str, int], room: int | None
) -> EncodedResponse:
    """A side of a pair, at most `room` tokens of it; what is between turns at the end of it goes too. `begun` is the
    text that both responses continue, with the number of its tokens that stand in the prompt."""
    context, shared = begun
    response = getattr(pair, side)
    if context:
        first = {"role": "assistant", "content": [{"type": "text", "text": context + join_text(response[:1])}]}
        response = [first, *response[1:]]
    found = encode_turns(vlm, response, eos=not pair.unfinished)
    ids, offsets, turns = found.ids[shared:], found.offsets[shared:], found.turns[shared:]
    cut = int(room is not None and len(ids) > room)
    if cut:
        end = max((place + 1 for place, turn in enumerate(turns[:room]) if turn >= 0), default=0)
        ids, offsets, turns = ids[:end], offsets[:end], turns[:end]

    def weights(spans: Sequence[Mapping[str, Any]] | None) -> Tensor | None:
        if not spans:
            return None
        return torch.tensor(token_weights(offsets, _behind(spans, len(context))), dtype=torch.float32)

    return EncodedResponse(
        torch.tensor(ids, dtype=torch.int32),
        offsets,
        weights(getattr(pair, f"{side}_weights")),
        weights(pair.image_weights) if side == "chosen" else None,
        torch.tensor(turns, dtype=torch.int32) if len(response) > 1 else None,
        _behind(getattr(pair, f"{side}_parts") or (), len(context)),
        context + answer_text(getattr(pair, side)),
        len(context),
        cut,
    )


def _behind(spans: Sequence[Mapping[str, Any]], shift: int) -> list[dict[str, Any]]:
    return [{**span, "start": span["start"] + shift, "end": span["end"] + shift} for span in spans]


def numbered_parts(offsets: Offsets, parts: Sequence[Mapping[str, Any]]) -> ScoredParts | None:
    """The part of each token, by the rule of token weights: the first one that it overlaps. Parts without a token are
    left out; None if no part has one."""
    found = [int(n) for n in token_weights(offsets, [{**p, "weight": n} for n, p in enumerate(parts)], default=-1)]
    kept = sorted(set(found) - {-1})
    if not kept:
        return None
    places = {number: place for place, number in enumerate(kept)} | {-1: -1}
    scores = torch.tensor([parts[number]["scores"] for number in kept], dtype=torch.float32)
    return ScoredParts(torch.tensor([places[number] for number in found], dtype=torch.int32), scores)


@dataclass(frozen=True)
class WantedParts:
    """The parts that an objective reads (`steps`, `segments`). `from_weights`: where a pair has none, the sentences of
    its responses stand in, scored by the mean weight of their tokens."""

    kinds: Collection[str] = ()
    from_weights: bool = False

    def of(
        self, pair: PreferencePair, response: EncodedResponse, weights: Tensor | None, side: Side
    ) -> dict[str, ScoredParts]:
        """Raises `UserError` for a pair without such parts, `Quarantined` where the cut left none."""
        found: dict[str, ScoredParts] = {}
        for name in self.kinds:
            own = [part for part in response.parts if part["kind"] == KINDS[name]]
            if own:
                parts = numbered_parts(response.offsets, own)
            elif not self.from_weights:
                raise UserError(
                    f"pair {pair.id}: the objective reads scored {name} of responses, and `{side}_parts` has none",
                    hint="use data with chosen_parts and rejected_parts, or parts: weights for sentences with weights",
                )
            else:
                parts = self._sentences(pair, response, weights, side, name)
            if parts is None:
                raise Quarantined("train", f"no_{name}", f"no token of `{side}` belongs to one")
            found[name] = parts
        return found

    def _sentences(
        self, pair: PreferencePair, response: EncodedResponse, weights: Tensor | None, side: Side, name: str
    ) -> ScoredParts | None:
        if weights is None:
            raise UserError(
                f"pair {pair.id} has neither scored {name} nor weights that sentences could be scored by",
                hint="set token_weights, or use data with chosen_parts and rejected_parts",
            )
        spans = [
            {"start": sentence.start, "end": sentence.start + len(sentence.text), "scores": [0.0]}
            for sentence in split_sentences(response.text)
        ]
        parts = numbered_parts(response.offsets, spans)
        if parts is None:
            return None
        # The score of a step says how good it is: what weighs most in a rejected response is its worst. A segment's
        # multiplies its log-ratio, as a weight does.
        sign = -1.0 if name == "steps" and side == "rejected" else 1.0
        scores = [sign * weights[parts.numbers == number].mean() for number in range(len(parts.scores))]
        return ScoredParts(parts.numbers, torch.stack(scores)[:, None])


def turn_mask(turns: Sequence[Tensor | None], ids: Sequence[Tensor]) -> list[Tensor] | None:
    """True at the tokens that are scored, a mask [t] for each response; None where all are."""
    if all(own is None for own in turns):
        return None
    return [
        torch.ones(len(row), dtype=torch.bool) if own is None else own >= 0 for own, row in zip(turns, ids, strict=True)
    ]


def padded_fields(
    turns: Sequence[Tensor | None], parts: Sequence[Mapping[str, ScoredParts]], lengths: Sequence[int]
) -> dict[str, Tensor]:
    """The fields of `ResponseLogps.more` of one side of a batch: `turns`, and what `parts` there are. A response
    without turns is one turn."""
    numbers = [
        torch.zeros(length, dtype=torch.long) if own is None else own.long()
        for own, length in zip(turns, lengths, strict=True)
    ]
    found = {"turns": pad_sequence(numbers, batch_first=True, padding_value=-1)}
    for name in dict.fromkeys(name for own in parts for name in own):
        own = [row[name] for row in parts]
        scores = pad_sequence([one.scores for one in own], batch_first=True, padding_value=torch.nan)  # [b, k, a]
        if name == "steps":
            scores = scores[..., 0]
        found[name] = pad_sequence([one.numbers.long() for one in own], batch_first=True, padding_value=-1)
        found[f"{KINDS[name]}_scores"] = scores
    return found
