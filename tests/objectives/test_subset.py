"""Weighted DPO: gamma, the end token, normalization, gradients, and dense DPO as a special case."""

from __future__ import annotations

import pytest
import torch

from mmpo.errors import UserError
from mmpo.objectives import build_objective
from mmpo.objectives.pairwise import dense_dpo, dpo
from mmpo.objectives.subset import subset_dpo
from mmpo.types import PairLogps, ResponseLogps


def pairs(weighted: bool = True) -> PairLogps:
    """Two pairs of up to six tokens; the last scored token of each response is the end."""
    torch.manual_seed(0)

    def side(lengths: tuple[int, int], relevant: tuple[tuple[int, ...], tuple[int, ...]]) -> ResponseLogps:
        mask = torch.arange(6)[None] < torch.tensor(lengths)[:, None]
        policy = (-torch.rand(2, 6) * mask).requires_grad_()
        weights = torch.zeros(2, 6)
        for row, places in enumerate(relevant):
            weights[row, list(places)] = 1
        weights[torch.arange(2), torch.tensor(lengths) - 1] = 1  # as the collator leaves the end token
        return ResponseLogps(policy, -torch.rand(2, 6) * mask, mask, weights if weighted else None)

    return PairLogps(side((5, 6), ((1,), ())), side((6, 5), ((1, 2), (0, 3))))


def test_gamma_one_is_dpo() -> None:
    given = pairs()
    assert torch.allclose(subset_dpo(given, gamma=1.0).mean, dpo(given).mean, atol=1e-6)


def test_gamma_zero_reads_edited_tokens_alone() -> None:
    given = pairs()
    subset_dpo(given, gamma=0.0).mean.backward()
    for side, places in ((given.chosen, {(0, 1)}), (given.rejected, {(0, 1), (0, 2), (1, 0), (1, 3)})):
        touched = {(int(r), int(t)) for r, t in side.policy.grad.nonzero()}  # type: ignore[union-attr]
        assert touched == places


def test_share_of_gradient_is_gamma_and_end_token() -> None:
    given = pairs()
    subset_dpo(given, gamma=0.25).mean.backward()
    gradient = given.rejected.policy.grad[0]  # type: ignore[index]
    assert torch.allclose(gradient[0] / gradient[1], torch.tensor(0.25))
    assert torch.allclose(gradient[5] / gradient[1], torch.tensor(0.25))  # the end
    given = pairs()
    subset_dpo(given, gamma=0.25, eos_weight="relevant").mean.backward()
    gradient = given.rejected.policy.grad[0]  # type: ignore[index]
    assert torch.allclose(gradient[5] / gradient[1], torch.tensor(1.0))


def test_a_common_prefix_cancels() -> None:
    given = pairs()
    with torch.no_grad():
        assert given.chosen.reference is not None and given.rejected.reference is not None
        given.rejected.policy[:, 0] = given.chosen.policy[:, 0]
        given.rejected.reference[:, 0] = given.chosen.reference[:, 0]
        given.rejected.weights[:, 0] = given.chosen.weights[:, 0] = 0  # type: ignore[index]
    for gamma in (0.0, 0.3, 1.0):
        before = subset_dpo(given, gamma=gamma).mean
        with torch.no_grad():
            for side in (given.chosen, given.rejected):
                side.policy[:, 0] -= 0.7
        assert torch.allclose(before, subset_dpo(given, gamma=gamma).mean, atol=1e-6)


def test_dense_dpo_is_gamma_over_the_weighted_count() -> None:
    given = pairs()
    dense = []
    for side in (given.chosen, given.rejected):
        assert side.weights is not None
        side.weights[torch.arange(2), side.mask.sum(-1) - 1] = 0
        dense.append(ResponseLogps(side.policy, side.reference, side.mask, 1 + 4 * side.weights))
    subset = subset_dpo(given, beta=0.5, gamma=0.2, normalise="weighted_count").mean
    assert torch.allclose(subset, dense_dpo(PairLogps(dense[0], dense[1]), beta=0.5).mean, atol=1e-6)


def test_wrong_parameters() -> None:
    for wrong in ({"gamma": 2}, {"normalise": "mean"}, {"eos_weight": "no"}):
        with pytest.raises(UserError):
            build_objective({"subset_dpo": wrong})
    with pytest.raises(UserError, match="token weights"):
        subset_dpo(pairs(weighted=False))
