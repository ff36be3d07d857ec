"""TARS as its released code computes it: by hand, the average over pairs, and what has a gradient."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mmpo.objectives import build_objective
from mmpo.objectives.tars_official import CHOSEN as DISTURBED
from mmpo.objectives.tars_official import spectral_distance, triplet
from mmpo.types import PairLogps, ResponseLogps
from tests.objectives.making import value


def test_the_triplet_of_the_specification() -> None:
    z_cw = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0], [2.0, 0.0]])
    z_pw = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, 0.0]])
    z_cr = torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    assert spectral_distance(z_pw, z_cw).item() == pytest.approx(0.418861, abs=1e-6)
    assert spectral_distance(z_pw, z_cr).item() == pytest.approx(1.5, abs=1e-6)
    assert triplet(z_pw, z_cw, z_cr, 0.5).item() == 0.0
    assert triplet(z_pw, z_cw, z_cr, 1.5).item() == pytest.approx(0.418861, abs=1e-6)


def official_pairs(b: int = 2, pad: int = 0) -> PairLogps:
    """Random sequences of 4 + i chosen and 6 + i rejected tokens behind prompts of 3."""
    generator = torch.Generator().manual_seed(3)

    def side(first: int) -> ResponseLogps:
        lengths = torch.tensor([first + i for i in range(b)])
        width = int(lengths.max()) + pad
        mask = torch.arange(width) < lengths[:, None]
        whole = torch.arange(width + 3) < lengths[:, None] + 3
        values = [torch.randn(b, int(lengths.max()), generator=generator).double() for _ in range(3)]
        values = [torch.nn.functional.pad(v, (0, pad)) * mask for v in values]
        states = [torch.randn(b, int(lengths.max()) + 3, 5, generator=generator).double() for _ in range(2)]
        states = [torch.nn.functional.pad(s, (0, 0, 0, pad)) * whole[..., None] for s in states]
        weights = ((values[2] > 0) & mask).double()
        return ResponseLogps(
            values[0].requires_grad_(), values[1], mask, weights, None, states[0].requires_grad_(), states[1], whole
        )

    chosen, rejected, a, c = side(4), side(6), side(4), side(6)
    noisy = replace(side(4), weights=a.weights)
    views = dict(zip(build_objective("tars_official").views, (a, c, noisy), strict=True))
    return PairLogps(chosen, rejected, views)


def test_tars_official_by_hand() -> None:
    given = official_pairs()
    a, c, n = given.views.values()
    ratio = [((v.policy - v.reference) * v.weights).sum(-1) for v in (a, c, n)]
    hinges = []
    for i in range(2):
        z = [
            s[i][m[i]]
            for s, m in (
                (a.policy_hidden, a.hidden_mask),
                (given.chosen.reference_hidden, given.chosen.hidden_mask),
                (given.rejected.reference_hidden, given.rejected.hidden_mask),
            )
        ]
        short = min(len(z[0]), len(z[2]))
        near = (torch.fft.fft(z[0].float(), dim=0).abs() - torch.fft.fft(z[1].float(), dim=0).abs()).square().mean()
        far = torch.fft.fft(z[0][:short].float(), dim=0).abs() - torch.fft.fft(z[2][:short].float(), dim=0).abs()
        hinges.append(max(0.0, (near - far.square().mean() + 0.5).item()))
    softplus_ = torch.nn.functional.softplus
    expected = softplus_(-0.1 * (ratio[0] - ratio[1])) + softplus_(-0.1 * (ratio[0] - ratio[2]))
    total = (expected + 0.1 * torch.tensor(hinges)).mean().item()
    assert value("tars_official", given) == pytest.approx(total, abs=1e-6)
    wide = {"average": False, "margin": 50.0}
    first = value("tars_official", given, lam=1.0, **wide) - value("tars_official", given, lam=0.0)
    only = replace_rows(given, [0])
    alone = value("tars_official", only, lam=1.0, **wide) - value("tars_official", only, lam=0.0)
    assert first != pytest.approx(alone, abs=1e-6), "zeros fill up to the batch's longest"
    z = [
        torch.nn.functional.pad(s[0][m[0]], (0, 0, 0, 10 - int(m[0].sum()))).detach()
        for s, m in (
            (a.policy_hidden, a.hidden_mask),
            (given.chosen.reference_hidden, given.chosen.hidden_mask),
            (given.rejected.reference_hidden, given.rejected.hidden_mask),
        )
    ]
    assert first == pytest.approx(triplet(z[0], z[1], z[2], 50.0).item(), abs=1e-4), "the first pair's, for all"


def replace_rows(pairs: PairLogps, rows: list[int]) -> PairLogps:
    """Some of the pairs alone, cut to their own longest."""

    def cut(side: ResponseLogps) -> ResponseLogps:
        width = int(side.mask[rows].sum(-1).max())
        whole = int(side.hidden_mask[rows].sum(-1).max())
        return ResponseLogps(
            side.policy[rows, :width], side.reference[rows, :width], side.mask[rows, :width],
            side.weights[rows, :width], None, side.policy_hidden[rows, :whole], side.reference_hidden[rows, :whole],
            side.hidden_mask[rows, :whole],
        )  # fmt: skip

    return PairLogps(cut(pairs.chosen), cut(pairs.rejected), {name: cut(view) for name, view in pairs.views.items()})


def test_tars_official_averages_over_pairs_and_gives_the_reference_no_gradient() -> None:
    given = official_pairs()
    halves = [value("tars_official", replace_rows(given, [i])) for i in range(2)]
    assert value("tars_official", given) == pytest.approx(sum(halves) / 2)
    given.chosen.reference_hidden = given.chosen.reference_hidden.requires_grad_()
    build_objective({"tars_official": {"margin": 50.0}}).loss(given).backward()
    view = given.view(DISTURBED)
    assert view.policy_hidden.grad.abs().sum() > 0 and given.chosen.reference_hidden.grad is None
    assert not view.policy.grad[view.weights == 0].any(), "replaced tokens are out of the loss"
    assert given.chosen.policy.grad is None and given.rejected.policy.grad is None


def test_padding_does_not_matter() -> None:
    plain, padded = (value("tars_official", official_pairs(2, pad)) for pad in (0, 3))
    assert plain == pytest.approx(padded, abs=1e-12)
