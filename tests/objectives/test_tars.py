"""The spectral term: oracles computed by hand, identities, gradients, and no dependence on padding."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from mmpo.errors import UserError
from mmpo.objectives import build_objective
from mmpo.objectives.tars import CHOSEN, REJECTED, log_spectral_ratio, sides, spectrum
from mmpo.types import PairLogps, ResponseLogps

Z = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0], [2.0, 0.0]])


def test_spectrum_of_the_specification() -> None:
    assert spectrum(Z).sum(-1).tolist() == pytest.approx([25, 1, 1, 1], abs=1e-5)
    full = torch.fft.fft(Z, dim=0).abs().square()
    assert full.sum(-1).tolist() == pytest.approx([25, 9, 1, 9], abs=1e-4)
    assert full.sum().item() == pytest.approx(4 * Z.square().sum().item(), abs=1e-4), "Parseval"
    mirrored = Z * Z.roll(-1, 0).flip(0)  # z_l z_(-l mod L)
    assert spectrum(Z).sum().item() == pytest.approx(2 * (Z.square().sum() + mirrored.sum()).item(), abs=1e-4)


def test_reductions_and_the_band_limit() -> None:
    doubled = 2 * Z
    for reduction in ("sum", "bins"):
        found = log_spectral_ratio(doubled, Z, reduction=reduction, eps=1e-12)
        assert found.item() == pytest.approx(math.log(4), abs=0.7 if reduction == "bins" else 1e-5)
    assert log_spectral_ratio(doubled, Z, reduction="each").shape == (4, 2)
    assert log_spectral_ratio(doubled, Z, reduction="each", cutoff=0.5).shape == (2, 2)
    assert log_spectral_ratio(doubled, Z, reduction="each", cutoff=0.01).shape == (1, 2), "the mean stays"


def test_frequency_matters_beyond_the_norm() -> None:
    """A permutation of tokens keeps all norms; per-bin logarithms notice it."""
    moved = Z[[1, 0, 2, 3]]
    assert log_spectral_ratio(moved, Z, reduction="bins").abs() > 1e-2


def test_the_transform_is_taken_in_float32() -> None:
    """States of a model in bfloat16: as if they had been float32, of which a transform in bfloat16 is far away."""
    states = 30 * torch.randn(61, 4, generator=torch.Generator().manual_seed(1)) + 10
    short = states.bfloat16()
    assert spectrum(short).dtype == torch.float32
    torch.testing.assert_close(spectrum(short), spectrum(short.float()), rtol=0, atol=0)
    ratio = log_spectral_ratio(short, states.flip(0).bfloat16())
    assert ratio.item() == log_spectral_ratio(short.float(), states.flip(0).bfloat16().float()).item()


@pytest.mark.parametrize("cutoff", [1.0, 0.25])
def test_states_of_other_spans_are_not_compared(cutoff: float) -> None:
    """With a band limit the bins would fit, and be other frequencies."""
    with pytest.raises(ValueError, match="same tokens"):
        log_spectral_ratio(torch.ones(8, 2), torch.ones(9, 2), cutoff=cutoff)


def test_no_error_where_a_bin_is_empty() -> None:
    """Constant states have nothing above frequency 0: epsilon stands in."""
    still = torch.ones(6, 3, requires_grad=True)
    loss = log_spectral_ratio(still, torch.randn(6, 3, generator=torch.Generator().manual_seed(0)))
    loss.backward()
    assert loss.isfinite() and still.grad is not None and still.grad.isfinite().all()


def pairs(generator: torch.Generator, pad: int = 0, width: int = 4) -> PairLogps:
    def side(length: int) -> ResponseLogps:
        mask = torch.zeros(1, length + pad, dtype=torch.bool)
        mask[:, :length] = True
        values = [torch.randn(1, length, generator=generator, dtype=torch.float64) for _ in range(2)]
        states = [torch.randn(1, length, width, generator=generator, dtype=torch.float64) for _ in range(2)]
        rubbish = 9.0 if pad else 0.0
        padded = [torch.cat([v, torch.zeros(1, pad, dtype=torch.float64)], 1) for v in values]
        hidden = [torch.cat([s, torch.full((1, pad, width), rubbish, dtype=torch.float64)], 1) for s in states]
        return ResponseLogps(padded[0], padded[1], mask, None, None, hidden[0], hidden[1])

    chosen, rejected, a, b = side(5), side(3), side(5), side(3)
    return PairLogps(chosen, rejected, {CHOSEN: a, REJECTED: b})


def same(response: ResponseLogps) -> ResponseLogps:
    return replace(response, reference=response.policy, reference_hidden=response.policy_hidden)


@pytest.mark.parametrize("reduction", ["sum", "bins", "each"])
def test_log_two_where_nothing_is_perturbed_and_the_policy_is_the_reference(reduction: str) -> None:
    given = pairs(torch.Generator().manual_seed(0))
    chosen, rejected = same(given.chosen), same(given.rejected)
    still = PairLogps(chosen, rejected, {CHOSEN: chosen, REJECTED: rejected})
    assert build_objective({"spectral": {"reduction": reduction}}).loss(still).item() == pytest.approx(math.log(2))
    assert build_objective("perturbed_dpo").loss(still).item() == pytest.approx(math.log(2))
    total = build_objective({"tars": {"reduction": reduction, "lam": 0.2}}).loss(still)
    assert total.item() == pytest.approx(1.2 * math.log(2))


@pytest.mark.parametrize("reduction", ["sum", "bins", "each"])
def test_padding_does_not_matter(reduction: str) -> None:
    objective = build_objective({"tars": {"reduction": reduction}})
    plain, padded = (objective.loss(pairs(torch.Generator().manual_seed(1), pad)) for pad in (0, 4))
    assert plain.item() == pytest.approx(padded.item(), abs=1e-12)


def test_named_terms_compose_to_tars() -> None:
    given = pairs(torch.Generator().manual_seed(2))
    both = build_objective({"perturbed_dpo": {"beta": 0.3}, "spectral": {"weight": 0.4, "beta": 0.3}})
    whole = build_objective({"tars": {"beta": 0.3, "lam": 0.4}})
    assert both.loss(given).item() == pytest.approx(whole.loss(given).item())


def test_the_reference_gets_no_gradient_and_the_policy_the_right_one() -> None:
    given = pairs(torch.Generator().manual_seed(3))
    states = [given.view(name).policy_hidden.float().requires_grad_() for name in (CHOSEN, REJECTED)]

    def loss(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        views = {
            CHOSEN: replace(given.view(CHOSEN), policy_hidden=a),
            REJECTED: replace(given.view(REJECTED), policy_hidden=b),
        }
        return build_objective({"spectral": {"eps": 1e-3}}).loss(PairLogps(given.chosen, given.rejected, views))

    given.chosen.reference_hidden.requires_grad_()
    value = loss(*states)
    value.backward()
    assert given.chosen.reference_hidden.grad is None
    step = 1e-2
    for which, state in enumerate(states):
        for index in [(0, 0, 0), (0, 2, 1)]:
            moved = [s.detach().clone() for s in states]
            moved[which][index] += step
            above = loss(*moved).item()
            moved[which][index] -= 2 * step
            slope = (above - loss(*moved).item()) / (2 * step)
            assert state.grad[index].item() == pytest.approx(slope, rel=0.1, abs=2e-4)


def test_tars_by_hand() -> None:
    """The preference compares policy and reference under the perturbed question; the spectral term the policy there
    with the reference under the clean one. Nothing else has a say."""
    given = pairs(torch.Generator().manual_seed(8))
    views = {CHOSEN: given.view(CHOSEN), REJECTED: given.view(REJECTED)}
    gaps, ratios = [], []
    for clean, view in ((given.chosen, views[CHOSEN]), (given.rejected, views[REJECTED])):
        gaps.append((view.policy - view.reference).sum().item())
        powers = [torch.fft.fft(s[0].float(), dim=0).real ** 2 for s in (view.policy_hidden, clean.reference_hidden)]
        ratios.append((torch.log(powers[0] + 1e-8) - torch.log(powers[1] + 1e-8)).mean().item())
    expected = math.log1p(math.exp(-0.3 * (gaps[0] - gaps[1])))
    expected += 0.2 * math.log1p(math.exp(-0.3 * (ratios[0] - ratios[1])))
    objective = build_objective({"tars": {"beta": 0.3, "lam": 0.2}})
    assert objective.loss(given).item() == pytest.approx(expected, abs=1e-6)
    for side in (given.chosen, given.rejected):
        side.policy, side.reference = side.policy + 1, side.reference - 1
        side.policy_hidden = torch.zeros_like(side.policy_hidden)
    for view in views.values():
        view.reference_hidden = torch.zeros_like(view.reference_hidden)
    assert objective.loss(given).item() == pytest.approx(expected, abs=1e-6)
    given.chosen.reference_hidden = given.chosen.reference_hidden + 1
    assert objective.loss(given).item() != pytest.approx(expected, abs=1e-4)


def test_the_worst_candidate_counts_alone() -> None:
    generator = torch.Generator().manual_seed(5)
    first, second = pairs(generator), pairs(generator)
    views = first.views | dict(zip(sides(1), second.views.values(), strict=True))
    for view in views.values():
        view.policy.requires_grad_()
    both = PairLogps(first.chosen, first.rejected, views)
    single = [
        build_objective("perturbed_dpo").loss(PairLogps(p.chosen, p.rejected, p.views)).item() for p in (first, second)
    ]
    objective = build_objective({"perturbed_dpo": {"candidates": 2}})
    assert objective.views == (CHOSEN, REJECTED, *sides(1))
    loss = objective.loss(both)
    assert loss.item() == pytest.approx(max(single))
    loss.backward()
    worse = int(single[1] > single[0])
    hard, easy = (views[sides(candidate)[0]].policy.grad for candidate in (worse, 1 - worse))
    assert hard.abs().sum() > 0
    assert easy is None or easy.abs().sum() == 0
    whole = build_objective({"tars": {"candidates": 2, "lam": 0.0}}).loss(both)
    assert whole.item() == pytest.approx(max(single))


def test_one_candidate_is_the_paper() -> None:
    given = pairs(torch.Generator().manual_seed(6))
    for name in ("perturbed_dpo", "tars"):
        assert build_objective({name: {"candidates": 1}}).views == (CHOSEN, REJECTED)
        one, default = (build_objective({name: spec}).loss(given) for spec in ({"candidates": 1}, {}))
        assert one.item() == default.item()
    with pytest.raises(UserError, match="candidates must be greater than or equal to 1"):
        build_objective({"tars": {"candidates": 0}})


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"spectral": {"reduction": "max"}}, "sum, bins or each"),
        ({"tars": {"cutoff": 0.0}}, "greater than 0"),
    ],
)
def test_mistakes_are_named(spec: dict[str, dict[str, object]], words: str) -> None:
    with pytest.raises(UserError, match=words):
        build_objective(spec)


def test_missing_states_are_an_error() -> None:
    given = pairs(torch.Generator().manual_seed(4))
    bare = {name: replace(view, policy_hidden=None) for name, view in given.views.items()}
    with pytest.raises(UserError, match="hidden states"):
        build_objective("spectral").loss(PairLogps(given.chosen, given.rejected, bare))
