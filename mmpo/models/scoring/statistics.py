"""What objectives read of single tokens beside their log-probs, one record each: computed from the hidden states that
predict the tokens, of one model or both, where a loss reads it, and else not at all.

Shapes: b pairs, t scored tokens of a response (padded), m tokens of some scored segments, n all scored tokens, h
hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mmpo.errors import UserError
from mmpo.models.families.loading import VLM
from mmpo.models.families.prompts import encode_response
from mmpo.models.scoring.divergence import token_kl
from mmpo.models.scoring.hidden import places
from mmpo.models.scoring.logprob import plain_head
from mmpo.models.scoring.pairs import PairBatch
from mmpo.models.scoring.references import ReferenceNetwork
from mmpo.models.scoring.segment_logps import SegmentLogps
from mmpo.models.scoring.sides import Spread, path_slices
from mmpo.models.scoring.token_statistics import token_eos_logp, token_log_sum_squares, token_tail_kl
from mmpo.models.tree.layout import TreeBatch
from mmpo.types import PairLogps, ResponseLogps, ScoringOptions, ViewSpec


@dataclass(frozen=True)
class TokenStates:
    """Hidden states [m, h] that predict some tokens, of the policy and, where one is run, of the reference; the tokens
    [m]; and the heads that make logits of the states."""

    policy: Tensor
    reference: Tensor | None
    targets: Tensor
    vlm: VLM
    reference_vlm: VLM
    options: ScoringOptions
    chunk: int | None

    @property
    def softcap(self) -> float | None:
        """The bound of both models' logits, which are of one kind."""
        return self.vlm.softcap

    @property
    def of_reference(self) -> Tensor:
        """[m, h] of a reference that must be there."""
        assert self.reference is not None
        return self.reference


@dataclass(frozen=True)
class ReadStatistic:
    """One thing read: its name in `mmpo.objectives.reads`, the function that computes its fields [m], whether that
    takes the `reference`'s states, whether the fields are also wanted of the same answers about the `corrupted` image
    (as `NAME_corrupted`), and whether objectives read it of `auxiliary` answers."""

    read: str
    compute: Callable[[TokenStates], Mapping[str, Tensor]]
    reference: bool = True
    corrupted: bool = False
    auxiliary: bool = False


def _kl(states: TokenStates) -> dict[str, Tensor]:
    heads = states.vlm.head, states.reference_vlm.head
    kl = token_kl(states.policy, states.of_reference, *heads, chunk=states.chunk, softcap=states.softcap)
    return {"kl": kl}


def _tail_kl(states: TokenStates) -> dict[str, Tensor]:
    heads, mu = (states.vlm.head, states.reference_vlm.head), states.options.tail
    tail = token_tail_kl(states.policy, states.of_reference, *heads, mu=mu, chunk=states.chunk, softcap=states.softcap)
    return {"tail_kl": tail}


def _log_sum_squares(states: TokenStates) -> dict[str, Tensor]:
    with torch.no_grad():  # losses weigh with it
        squares = token_log_sum_squares(states.policy, states.vlm.head, chunk=states.chunk, softcap=states.softcap)
    return {"log_sum_squares": squares}


def _eos(states: TokenStates) -> dict[str, Tensor]:
    end = encode_response(states.vlm, "")[-1]  # the token that answers of this model end with

    def logp(hidden: Tensor, vlm: VLM, temperature: float = 1.0) -> Tensor:
        return token_eos_logp(
            hidden, vlm.head, end, temperature=temperature, chunk=states.chunk, softcap=states.softcap
        )

    with torch.no_grad():
        reference = logp(states.of_reference, states.reference_vlm, states.options.eos_temperature)
    return {"eos_policy": logp(states.policy, states.vlm), "eos_reference": reference}


def _label_logits(states: TokenStates) -> dict[str, Tensor]:
    with torch.no_grad():
        reference = token_logits(
            states.of_reference, states.reference_vlm.head, states.targets, states.reference_vlm.softcap
        )
    return {
        "label_logit": token_logits(states.policy, states.vlm.head, states.targets, states.vlm.softcap),
        "reference_label_logit": reference,
    }


def token_logits(hidden: Tensor, head: nn.Module, targets: Tensor, softcap: float | None = None) -> Tensor:
    """The raw logit [m] float32 (float64 where the head is) of each token of `targets` [m] under `head(hidden)`, hidden
    [m, h]: one row of the head for each, and no other logit."""
    plain = plain_head(head)
    wide = torch.promote_types(plain.weight.dtype, torch.float32)
    logits = (hidden.to(plain.weight.dtype).to(wide) * plain.weight[targets].to(wide)).sum(dim=-1)
    if plain.bias is not None:
        logits = logits + plain.bias[targets].to(wide)
    return logits if softcap is None else (logits / softcap).tanh() * softcap


def _predictor_states(states: TokenStates) -> dict[str, Tensor]:
    found = {"predictor_states": states.policy}
    if states.reference is not None:
        found["reference_predictor_states"] = states.reference
    return found


PREDICTOR_STATES = ReadStatistic("predictor_states", _predictor_states, reference=False)
"""The last hidden states themselves, [m, h], of both models: no objective reads them, a diagnosis does."""

STATISTICS: Mapping[str, ReadStatistic] = {
    one.read: one
    for one in (
        ReadStatistic("kl", _kl, auxiliary=True),
        ReadStatistic("tail_kl", _tail_kl),
        ReadStatistic("log_sum_squares", _log_sum_squares, reference=False),
        ReadStatistic("eos", _eos),
        ReadStatistic("label_logits", _label_logits, corrupted=True),
    )
}


class TokenStatistics:
    """The statistics that are read in a run, `asked` (those of `reads`, and `further` ones), and how to compute
    them."""

    def __init__(
        self,
        reads: Collection[str],
        vlm: VLM,
        reference: ReferenceNetwork | None,
        options: ScoringOptions,
        chunk: int | None,
        further: Sequence[ReadStatistic] = (),
    ) -> None:
        self.asked = (*(one for name, one in STATISTICS.items() if name in reads), *further)
        self.of_answers = tuple(one for one in self.asked if one.auxiliary)
        self._vlm, self._reference_vlm = vlm, reference.vlm if reference is not None else vlm
        self._options, self._chunk = options, chunk
        if reference is None and (live := [one.read for one in self.asked if one.reference]):
            raise UserError(
                f"{live[0]} needs the reference's distributions, not just its log-probs",
                hint="leave cache_reference out",
            )

    def of_pairs(
        self,
        pairs: PairLogps,
        batch: PairBatch,
        leaf: Sequence[int],
        layout: TreeBatch,
        policy: SegmentLogps,
        reference: SegmentLogps | None,
        statistics: Sequence[ReadStatistic] | None = None,
    ) -> PairLogps:
        """The pairs with what is read of their own sides, whose segments `leaf` names: all that is `asked`, or these
        `statistics`."""
        wanted = self.asked if statistics is None else statistics
        slices = path_slices(batch)
        spread = Spread(leaf, layout.lengths)
        found: dict[str, dict[str, Tensor]] = {"chosen": {}, "rejected": {}}
        for corrupted in (False, True):
            asked = [one for one in wanted if one.corrupted == corrupted]
            if not asked:
                continue
            where = {side: [(slices[side], "")] for side in found}
            if corrupted:
                for side, parts in where.items():
                    parts.append((slices[_about_the_corrupted_image(batch, side)], "_corrupted"))
            segments = sorted({number for parts in where.values() for part, _ in parts for number in leaf[part]})
            own = places(segments, layout.lengths).to(policy.logps.device)
            states = self._states(layout, policy, reference, own)
            for one in asked:
                for name, values in one.compute(states).items():
                    flat = values.new_zeros(len(policy.logps), *values.shape[1:]).index_copy(0, own, values)
                    for side, parts in where.items():
                        found[side] |= {name + ending: _padded(spread, flat, part) for part, ending in parts}
        return replace(
            pairs,
            chosen=with_statistics(pairs.chosen, found["chosen"]),
            rejected=with_statistics(pairs.rejected, found["rejected"]),
        )

    def of_tokens(self, layout: TreeBatch, policy: SegmentLogps, reference: SegmentLogps | None) -> dict[str, Tensor]:
        """What is read of auxiliary answers, of all scored tokens [n]."""
        states = self._states(layout, policy, reference, slice(None))
        return {name: values for one in self.of_answers for name, values in one.compute(states).items()}

    def _states(
        self, layout: TreeBatch, policy: SegmentLogps, reference: SegmentLogps | None, own: Tensor | slice
    ) -> TokenStates:
        assert policy.states is not None
        theirs = reference.states if reference is not None else None
        return TokenStates(
            policy.states[own],
            theirs[own] if theirs is not None else None,
            layout.targets[own],
            self._vlm,
            self._reference_vlm,
            self._options,
            self._chunk,
        )


def _padded(spread: Spread, flat: Tensor, part: slice) -> Tensor:
    found = spread(flat, part)
    assert found is not None
    return found


def with_statistics(response: ResponseLogps, found: Mapping[str, Tensor]) -> ResponseLogps:
    """The responses with these numbers of their tokens, each [b, t], where records have them."""
    more = {name: values for name, values in found.items() if name != "kl"}
    return replace(response, kl=found.get("kl", response.kl), more={**response.more, **more})


def _about_the_corrupted_image(batch: PairBatch, side: str) -> ViewSpec:
    for spec in batch.views:
        own = spec.prompt == "own" and spec.candidate == 0 and spec.preferred_under is None
        if own and spec.side == side and spec.image == "corrupted":
            return spec
    raise UserError(f"this objective compares {side} answers with the same about a corrupted image, which is not there")
