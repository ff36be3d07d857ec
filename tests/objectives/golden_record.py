"""A case of golden values as the record that an objective reads: float64, padded to the longest of its responses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmpo.objectives import build_objective
from mmpo.objectives.batchwise import MISMATCHED
from mmpo.objectives.build import States
from mmpo.objectives.term import Term
from mmpo.types import PairLogps, ResponseGroups, ResponseLogps, StepStatistics

Given = Mapping[str, Any]


def responses(given: Sequence[Given], pad: int = 0) -> ResponseLogps:
    """Rows of responses, `policy` a leaf with gradient."""
    lengths = [len(one["policy"]) for one in given]
    width = max(lengths, default=0) + pad

    def rows(name: str) -> Tensor:
        padded = [[*one[name], *[0.0] * (width - len(one[name]))] for one in given]
        return torch.tensor(padded, dtype=torch.float64).reshape(len(given), width)

    has = {name for one in given for name in one}
    mask = torch.arange(width) < torch.tensor(lengths, dtype=torch.long)[:, None]
    return ResponseLogps(
        rows("policy").requires_grad_(),
        rows("reference") if "reference" in has else None,
        mask,
        more={"log_sum_squares": rows("log_sum_squares")} if "log_sum_squares" in has else {},
    )


def record(inputs: Given, pad: int = 0) -> PairLogps:
    """The pairs, groups, samples and mismatched rows of a case. Groups stand beside one pair that nobody reads."""
    pairs = inputs.get("pairs") or [{"chosen": {"policy": [-1.0]}, "rejected": {"policy": [-1.0]}}]
    names = {name for pair in pairs for name in pair.get("scores", {})}
    samples = [(k, sample) for k, pair in enumerate(pairs) for sample in pair.get("samples", [])]
    groups = [(k, one) for k, group in enumerate(inputs.get("groups", [])) for one in group["responses"]]
    return PairLogps(
        responses([pair["chosen"] for pair in pairs], pad),
        responses([pair["rejected"] for pair in pairs], pad),
        {MISMATCHED: responses(inputs["mismatched"], pad)} if "mismatched" in inputs else {},
        scores={
            name: torch.tensor([_number(pair.get("scores", {}).get(name)) for pair in pairs], dtype=torch.float64)
            for name in names
        },
        samples=responses([one for _, one in samples], pad) if samples else None,
        samples_of=torch.tensor([k for k, _ in samples]) if samples else None,
        groups=ResponseGroups(
            responses([one for _, one in groups], pad),
            torch.tensor([k for k, _ in groups]),
            torch.tensor([_number(one["score"]) for _, one in groups], dtype=torch.float64),
        )
        if groups
        else None,
        progress=inputs.get("state", {}).get("progress", 0.0),
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def computed(
    name: str, parameters: Given, pairs: PairLogps, inputs: Given, cuts: Sequence[slice] = (slice(None),)
) -> tuple[Tensor, Tensor, States]:
    """The loss, its value per pair (NaN where a pair is not kept) and the state after the step, of a step that is cut
    into micro-batches."""
    objective = build_objective({name: dict(parameters)})
    state = {key: torch.tensor(value, dtype=torch.float64) for key, value in inputs.get("state", {}).items()}
    after: States = {}
    terms: list[Term] = []
    step = None
    if objective.reads_step:
        (entry, given), *_ = objective._entries()
        parts = [objective.statistics(part(pairs, cut)) for cut in cuts]
        values = {key: torch.cat([one[key] for one in parts]) for key in parts[0]}
        draw = None
        if "selected" in inputs:

            def draw(weights: Tensor, count: int) -> Tensor:
                assert count == len(inputs["selected"])
                return torch.zeros(len(weights), dtype=torch.bool).index_fill(0, torch.tensor(inputs["selected"]), True)

        found, after[name] = entry.look(values, state, given, seed=0, draw=draw)
        step = StepStatistics(values, found={name: found})
    for cut in cuts:
        piece = part(pairs, cut)
        piece.step = None if step is None else StepStatistics(step.values, cut, step.found)
        terms.append(objective.terms(piece)[name][1])
    values, weights = (torch.cat(column) for column in zip(*terms, strict=True))
    return values.sum() / weights.sum(), values / weights, after


def part(pairs: PairLogps, cut: slice) -> PairLogps:
    """The pairs of one micro-batch; of the mismatched rows those of the same places, and of the last all the rest."""
    if cut == slice(None):
        return PairLogps(**vars(pairs))

    def rows(one: ResponseLogps, cut: slice = cut) -> ResponseLogps:
        reference = None if one.reference is None else one.reference[cut]
        return ResponseLogps(
            one.policy[cut], reference, one.mask[cut], more={key: value[cut] for key, value in one.more.items()}
        )

    rest = slice(cut.start, None if cut.stop == len(pairs) else cut.stop)

    return PairLogps(
        rows(pairs.chosen),
        rows(pairs.rejected),
        {view: rows(one, rest) for view, one in pairs.views.items()},
        scores={key: value[cut] for key, value in pairs.scores.items()},
        progress=pairs.progress,
    )
