"""Responses by hand, and the value of a loss on them; random records with everything that any loss reads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad as padded

from mmpo.objectives import OBJECTIVES, build_objective
from mmpo.objectives.build import Objective
from mmpo.objectives.describing import settings
from mmpo.types import PairLogps, ResponseGroups, ResponseLogps

LOG2 = math.log(2)

LENGTHS = {"chosen": (4, 2, 6), "rejected": (3, 5, 6)}
"""Scored tokens of three pairs."""
PROMPT = 3
"""Tokens in front of every response, where states span the whole sequence."""
ASPECTS = 2

EVERY_SETTING = [(name, given) for name, entry in sorted(OBJECTIVES.items()) for given in settings(entry)]
"""Every objective with its default parameters, and with each other choice of a parameter that has choices."""


def setting_id(value: Any) -> str:
    return value if isinstance(value, str) else "-".join(f"{key}={one}" for key, one in value.items()) or "plain"


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def response(
    policy: list[float],
    reference: list[float] | None = None,
    weights: list[float] | None = None,
    kl: list[float] | None = None,
    pad: int = 0,
) -> ResponseLogps:
    """One response from its tokens, float64, with `pad` places of padding behind it."""

    def row(values: list[float] | None) -> torch.Tensor | None:
        return None if values is None else torch.tensor([values + [0.0] * pad], dtype=torch.float64)

    mask = torch.arange(len(policy) + pad)[None] < len(policy)
    given = row(policy)
    assert given is not None
    return ResponseLogps(
        given.requires_grad_(), row(reference or [0.0] * len(policy)), mask, row(weights), kl=row(kl or policy)
    )


def value(name: str, pairs: PairLogps, **parameters: Any) -> float:
    return build_objective({name: parameters}).loss(pairs).item()


# ---- random records


def one_objective(name: str, given: Mapping[str, Any]) -> Objective:
    """The objective, without the trial run of `build_objective`."""
    return Objective({name: 1.0}, {name: given})


def random_response(
    lengths: Sequence[int], seeds: Sequence[int], *, pad: int = 0, whole: bool = False, drawn: Sequence[int] = ()
) -> ResponseLogps:
    """Responses of these lengths with every field, float64, each row made from its own seed, so that it is the same in
    another batch. `whole`: states span a prompt as well. `drawn`: how many tokens each draws."""
    width = max(lengths) + pad
    rows = [
        _row(length, seed, whole, drawn[i] if drawn else length)
        for i, (length, seed) in enumerate(zip(lengths, seeds, strict=True))
    ]
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    span = torch.arange(width + PROMPT) < torch.tensor(lengths)[:, None] + PROMPT
    parts = max(len(row["step_scores"]) for row in rows)

    def column(name: str) -> Tensor:
        stacked = []
        for row in rows:
            one = row[name]
            if name in ("step_scores", "segment_scores"):
                lack = parts - len(one)
                stacked.append(padded(one, (0, lack) if one.dim() == 1 else (0, 0, 0, lack), value=math.nan))
            elif name in ("policy_hidden", "reference_hidden"):
                # behind the end stands what padding tokens made of themselves
                stacked.append(padded(one, (0, 0, 0, width + PROMPT * whole - len(one)), value=9.0))
            else:
                fill: Any = {torch.long: -1, torch.bool: False}.get(one.dtype, 0.0)
                stacked.append(padded(one, (0, width - len(one)), value=fill))
        return torch.stack(stacked)

    found = {name: column(name) for name in rows[0]}
    own = {
        name: found.pop(name) for name in ("policy", "reference", "weights", "kl", "policy_hidden", "reference_hidden")
    }
    return ResponseLogps(
        own["policy"], own["reference"], mask, own["weights"], None, own["policy_hidden"], own["reference_hidden"],
        span if whole else None, own["kl"], found,
    )  # fmt: skip


@cache
def _row(length: int, seed: int, whole: bool, drawn: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    number = (torch.arange(length) * 2) // max(2, length)  # two parts, or one of a single token
    count = int(number.max()) + 1
    places = torch.zeros(length, dtype=torch.bool)
    places[torch.randperm(length, generator=generator)[:drawn]] = True
    return {
        "policy": -0.1 - rand(length),
        "reference": -0.1 - rand(length),
        "weights": torch.where(rand(length) < 0.5, 4.0, 1.0).double(),
        "kl": rand(length),
        "tail_kl": rand(length),
        "log_sum_squares": -0.1 - rand(length),
        "eos_policy": -1 - rand(length),
        "eos_reference": -1 - rand(length),
        "label_logit": rand(length),
        "label_logit_corrupted": rand(length),
        "reference_label_logit": rand(length),
        "reference_label_logit_corrupted": rand(length),
        "second_reference": -0.1 - rand(length),
        "turns": number,
        "steps": number,
        "segments": number,
        "step_scores": rand(count),
        "segment_scores": rand(count, ASPECTS),
        "positions": places,
        "policy_hidden": torch.randn(length + PROMPT * whole, 5, generator=generator, dtype=torch.float64),
        "reference_hidden": torch.randn(length + PROMPT * whole, 5, generator=generator, dtype=torch.float64),
    }


def with_gaps(response: ResponseLogps, columns: Sequence[int] = (0, 1, 3)) -> ResponseLogps:
    """The same responses with a masked place before each of these columns, as between turns: log-probs there are 0,
    and what is of no turn is -1."""
    width = response.mask.shape[1]
    order = [place for column in range(width) for place in ([-1] * columns.count(column) + [column])]

    def wider(values: Tensor, fill: float = 0.0) -> Tensor:
        room = torch.cat([values, torch.full_like(values[:, :1], fill)], 1)
        return room[:, torch.tensor(order) % (width + 1)]

    def given(values: Tensor | None) -> Tensor | None:
        return None if values is None else wider(values)

    parts = ("turns", "steps", "segments")
    return replace(
        response,
        policy=wider(response.policy),
        reference=given(response.reference),
        mask=wider(response.mask, False),
        weights=None if response.weights is None else wider(response.weights, 1.0),
        kl=given(response.kl),
        more={
            key: values if key.endswith("_scores") else wider(values, -1 if key in parts else 0)
            for key, values in response.more.items()
        },
    )


def record_with_gaps(pairs: PairLogps) -> PairLogps:
    """The record with gaps in every response."""
    groups = pairs.groups
    return replace(
        pairs,
        chosen=with_gaps(pairs.chosen),
        rejected=with_gaps(pairs.rejected, (2, 2)),
        views={
            view: with_gaps(side, (2, 2) if view.side == "rejected" else (0, 1, 3))
            for view, side in pairs.views.items()
        },
        auxiliary=None if pairs.auxiliary is None else with_gaps(pairs.auxiliary),
        samples=None if pairs.samples is None else with_gaps(pairs.samples),
        groups=None if groups is None else replace(groups, responses=with_gaps(groups.responses)),
    )


def random_record(name: str, given: Mapping[str, Any], rows: Sequence[int] = (0, 1, 2), pad: int = 0) -> PairLogps:
    """Pairs, `rows` of three, with everything that the objective and all others read."""
    objective = one_objective(name, given)
    whole = objective.hidden is not None and objective.hidden.span == "sequence"
    common = [min(LENGTHS["chosen"][row], LENGTHS["rejected"][row]) for row in rows]

    def side(which: str, seed: int) -> ResponseLogps:
        lengths = [LENGTHS[which][row] for row in rows]
        return random_response(lengths, [100 * seed + row for row in rows], pad=pad, whole=whole, drawn=common)

    def scores(seed: int, low: float) -> Tensor:
        return torch.tensor([low + 0.4 * _row(1, 100 * seed + row, False, 1)["kl"].item() for row in rows]).double()

    views = {
        view: side("rejected" if view.side == "rejected" else "chosen", 3 + number)
        for number, view in enumerate(objective.views)
    }
    twice = [row for row in rows for _ in range(2)]
    samples = random_response(
        [3 + row for row in twice], [9000 + 10 * row + k % 2 for k, row in enumerate(twice)], pad=pad
    )
    return PairLogps(
        side("chosen", 1),
        side("rejected", 2),
        views,
        auxiliary=side("chosen", 50),
        scores={"chosen": scores(60, 0.55), "rejected": scores(61, 0.1), "similarity": scores(62, 0.3)},
        groups=ResponseGroups(
            random_response(
                [2 + row for row in twice], [9500 + 10 * row + k % 2 for k, row in enumerate(twice)], pad=pad
            ),
            torch.arange(len(rows)).repeat_interleave(2),
            torch.stack([scores(63, 0.5), scores(64, 0.1)], 1).flatten(),
            random_response([2 + row for row in rows], [9800 + row for row in rows], pad=pad),
        ),
        samples=samples,
        samples_of=torch.arange(len(rows)).repeat_interleave(2),
        progress=0.25,
    )


def responses_of(pairs: PairLogps) -> dict[str, ResponseLogps]:
    """All responses of a record by what they are."""
    found = {"chosen": pairs.chosen, "rejected": pairs.rejected}
    found.update({view.name: side for view, side in pairs.views.items()})
    if pairs.auxiliary is not None:
        found["auxiliary"] = pairs.auxiliary
    if pairs.samples is not None:
        found["samples"] = pairs.samples
    if pairs.groups is not None:
        found["groups"] = pairs.groups.responses
    return found
