"""What holds for every registered loss, those with views, states and divergences included: padding does not count, and
a pair is what it is whatever stands beside it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from mmpo.objectives import OBJECTIVES, build_objective
from mmpo.types import PairLogps, ResponseLogps

LENGTHS = {"chosen": (4, 2, 6), "rejected": (3, 5, 6)}
PROMPT = 3
"""Tokens in front of every response, where states span the whole sequence."""
OF_THE_BATCH = ("aot", "kto_pair")
"""Compare pairs with each other by design."""


def response(lengths: Sequence[int], seed: int, *, pad: int, whole: bool) -> ResponseLogps:
    """Responses made row by row, so that the same rows in another batch hold the same numbers."""
    width = max(lengths) + pad
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    span = torch.arange(width + PROMPT) < torch.tensor(lengths)[:, None] + PROMPT
    columns: list[list[torch.Tensor]] = [[] for _ in range(6)]
    for length in lengths:
        generator = torch.Generator().manual_seed(1000 * seed + length)
        rows = [
            -0.1 - torch.rand(length, generator=generator, dtype=torch.float64),
            -0.1 - torch.rand(length, generator=generator, dtype=torch.float64),
            torch.where(torch.rand(length, generator=generator) < 0.5, 4.0, 1.0).double(),
            torch.rand(length, generator=generator, dtype=torch.float64),
        ]
        states = [torch.randn(length + PROMPT * whole, 5, generator=generator, dtype=torch.float64) for _ in range(2)]
        for column, row in zip(columns, rows, strict=False):
            column.append(torch.nn.functional.pad(row, (0, width - length)))
        for column, row in zip(columns[4:], states, strict=True):
            # Behind the end stands what padding tokens made of themselves.
            column.append(torch.nn.functional.pad(row, (0, 0, 0, width - length), value=9.0))
    policy, reference, weights, kl, ours, theirs = (torch.stack(column) for column in columns)
    return ResponseLogps(
        policy, reference, mask, weights, None, ours, theirs,
        span if whole else None, kl,
    )  # fmt: skip


def pairs_for(name: str, rows: Sequence[int], pad: int = 0) -> PairLogps:
    objective = build_objective(name)
    whole = objective.hidden is not None and objective.hidden.span == "sequence"

    def side(which: str, seed: int) -> ResponseLogps:
        return response([LENGTHS[which][row] for row in rows], seed, pad=pad, whole=whole)

    views = {
        view: side("rejected" if view.side == "rejected" else "chosen", 3 + number)
        for number, view in enumerate(objective.views)
    }
    return PairLogps(side("chosen", 1), side("rejected", 2), views, auxiliary=side("chosen", 50))


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_padding_does_not_count(name: str) -> None:
    plain, padded = (build_objective(name).loss(pairs_for(name, (0, 1, 2), pad)).item() for pad in (0, 5))
    assert padded == pytest.approx(plain, rel=1e-9)


@pytest.mark.parametrize("name", sorted(set(OBJECTIVES) - set(OF_THE_BATCH)))
def test_a_pair_alone_counts_what_it_counts_in_a_batch(name: str) -> None:
    def totals(rows: Sequence[int]) -> list[float]:
        ((_, term),) = build_objective(name).terms(pairs_for(name, rows)).values()
        return [*term.values.tolist(), *term.weights.tolist()]

    alone = [totals((row,)) for row in range(3)]
    assert totals((0, 1, 2)) == pytest.approx([value for part in zip(*alone, strict=True) for value in part], rel=1e-9)
