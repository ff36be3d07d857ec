"""`mmpo.losses`: the registered objectives as functions of tensors, against formulas written by hand, in float64."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import mmpo
from mmpo import losses
from mmpo.errors import UserError
from mmpo.objectives import OBJECTIVES, Term, build_objective, objective
from mmpo.objectives.term import log_ratios, per_pair
from mmpo.types import PairLogps, ResponseLogps

W, L = torch.tensor([-12.5, -3.0, -40.25]).double(), torch.tensor([-11.0, -7.5, -38.0]).double()
WR, LR = torch.tensor([-13.0, -4.0, -39.0]).double(), torch.tensor([-10.0, -7.0, -39.5]).double()
N_W, N_L = torch.tensor([6, 2, 20]), torch.tensor([5, 4, 18])
K_W, K_L = torch.tensor([0.5, 0.1, 2.0]).double(), torch.tensor([0.25, 0.3, 1.0]).double()
S_W, S_L = torch.tensor([3.0, 0.75, 2.0]).double(), torch.tensor([1.0, 0.25, -0.5]).double()
A, B = W - WR, L - LR
RUNNING = 0.2 * torch.cat([A, B]).mean()
LENGTHS = {"chosen_lengths": N_W, "rejected_lengths": N_L}


def log_sigmoid(x: Tensor) -> Tensor:
    """As the papers write it; exact enough where |x| is small."""
    return torch.log(1 / (1 + torch.exp(-x)))


def odds(v: Tensor) -> Tensor:
    return torch.log(torch.exp(v) / (1 - torch.exp(v)))


FORMULAS: list[tuple[str, Callable[[], Tensor], Tensor]] = [
    ("dpo", lambda: losses.dpo(W, L, WR, LR, beta=0.1), -log_sigmoid(0.1 * (A - B))),
    ("dpo, the default beta", lambda: losses.dpo(W, L, WR, LR), -log_sigmoid(0.1 * (A - B))),
    ("hinge", lambda: losses.hinge(W, L, WR, LR, beta=0.7), (1 - 0.7 * (A - B)).clamp_min(0)),
    ("ipo", lambda: losses.ipo(W, L, WR, LR, tau=0.2, **LENGTHS), (A / N_W - B / N_L - 2.5) ** 2),
    ("ipo of sums", lambda: losses.ipo(W, L, WR, LR, tau=0.2, average=False), (A - B - 2.5) ** 2),
    ("simpo", lambda: losses.simpo(W, L, beta=2.0, gamma=1.0, **LENGTHS), -log_sigmoid(2 * (W / N_W - L / N_L) - 1)),
    ("orpo", lambda: losses.orpo(W, L, lam=0.3, **LENGTHS),
     -W / N_W - 0.3 * log_sigmoid(odds(W / N_W) - odds(L / N_L))),
    ("slic", lambda: losses.slic(W, L, delta=1.0, lam=0.1), (1 - W + L).clamp_min(0) - 0.1 * W),
    ("robust", lambda: losses.robust(W, L, WR, LR, beta=0.1, eps=0.2),
     (-0.8 * log_sigmoid(0.1 * (A - B)) + 0.2 * log_sigmoid(-0.1 * (A - B))) / 0.6),
    ("tdpo1", lambda: losses.tdpo1(W, L, WR, LR, beta=0.1, chosen_kl=K_W, rejected_kl=K_L),
     -log_sigmoid(0.1 * ((A - B) - (K_L - K_W)))),
    ("length_dpo", lambda: losses.length_dpo(W, L, WR, LR, beta=0.1, alpha=0.02, **LENGTHS),
     -log_sigmoid(0.1 * (A - B) + 0.02 * (N_W - N_L).double())),
    ("mdpo", lambda: losses.mdpo(W, L, WR, LR, beta=0.1, views={"chosen_corrupted": (W - 2, WR - 1.5)}),
     -log_sigmoid(0.1 * (A - B)) - log_sigmoid(0.1 * (A - (A - 0.5))) - log_sigmoid(0.1 * A)),
    ("odpo", lambda: losses.odpo(W, L, WR, LR, beta=0.5, offset="linear", chosen_scores=S_W, rejected_scores=S_L),
     -log_sigmoid(0.5 * (A - B) - (S_W - S_L))),
    ("sem_dpo", lambda: losses.sem_dpo(W, L, WR, LR, beta=0.1, alpha=2.0, similarity=torch.tensor([1, 0.5, 0.0]).double()),
     -torch.tensor([1.0, math.exp(-1), math.exp(-2)]).double() * log_sigmoid(0.1 * (A - B))),
    ("uft, chosen alone is scored", lambda: losses.uft(W, L, WR, LR, beta=0.3, chosen_scores=S_W.clamp(0, 1)),
     (torch.sigmoid(0.3 * A) - S_W.clamp(0, 1)) ** 2),
    ("bco_pair, the mean of the call", lambda: losses.bco_pair(W, L, WR, LR, beta=0.2, delta="running"),
     -log_sigmoid(0.2 * A - RUNNING) - log_sigmoid(RUNNING - 0.2 * B)),
    ("kto, two mismatched rows",
     lambda: losses.kto(W, L, WR, LR, views={"mismatched": (torch.tensor([-5.0, -6.0]), torch.tensor([-7.0, -6.5]))}),
     (torch.sigmoid(-0.1 * (A - 1.25)) + torch.sigmoid(-0.1 * (1.25 - B))) / 2),
    ("beta_dpo, all are kept", lambda: losses.beta_dpo(W, L, WR, LR, beta=0.1, a=0.6, keep=1.0, momentum=0.9),
     -log_sigmoid(0.1 * (1 + 0.6 * 0.9 * (A - B).mean()) * (A - B))),
]  # fmt: skip


@pytest.mark.parametrize(("name", "call", "expected"), FORMULAS, ids=[name for name, _, _ in FORMULAS])
def test_a_loss_is_its_formula(name: str, call: Callable[[], Tensor], expected: Tensor) -> None:
    found = call()
    assert found.dtype == torch.float64
    assert found.item() == pytest.approx(expected.mean().item(), rel=1e-13)


def test_dpo_at_policy_equal_to_reference_is_log_2() -> None:
    assert losses.dpo(W, L, W, L).item() == pytest.approx(0.6931471805599453, rel=1e-15)


def test_the_gradient_of_dpo_is_the_papers() -> None:
    policy = W.clone().requires_grad_()
    losses.dpo(policy, L, WR, LR, beta=0.5).backward()
    expected = -0.5 * torch.sigmoid(-0.5 * (A - B)) / 3
    torch.testing.assert_close(policy.grad, expected, rtol=1e-13, atol=0)


def test_reductions() -> None:
    every = losses.dpo(W, L, WR, LR, reduction="none")
    assert every.shape == (3,)
    assert losses.dpo(W, L, WR, LR, reduction="sum").item() == pytest.approx(every.sum().item())
    assert losses.dpo(W, L, WR, LR).item() == pytest.approx(every.mean().item())
    with pytest.raises(UserError, match="reduction='median'"):
        losses.dpo(W, L, WR, LR, reduction="median")


def sums(side: ResponseLogps) -> dict[str, Tensor]:
    return {"policy": side.policy_sum, "ref": side.reference_sum, "lengths": side.lengths, "kl": side.kl_sum}


def random_pairs(name: str, given: dict[str, float]) -> PairLogps:
    """Three pairs of several tokens with all that sums can be made of."""
    generator = torch.Generator().manual_seed(7)

    def side(lengths: tuple[int, int, int] = (4, 2, 6)) -> ResponseLogps:
        mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        policy, reference, kl = (torch.rand(mask.shape, generator=generator).double() * mask for _ in range(3))
        return ResponseLogps(-0.1 * mask - policy, -0.1 * mask - reference, mask, kl=kl)

    scores = {"chosen": [1.0, 0.75, 0.5], "rejected": [0.25, 0.5, 0.125], "similarity": [0.5, 1.0, -0.25]}
    return PairLogps(
        side(), side((3, 5, 6)), {view: side() for view in build_objective({name: given}).views},
        scores={score: torch.tensor(values).double() for score, values in scores.items()},
    )  # fmt: skip


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_every_loss_equals_the_objective_that_trains_or_says_what_it_needs(name: str) -> None:
    given = dict.fromkeys(OBJECTIVES[name].required, 0.7)
    pairs = random_pairs(name, given)
    chosen, rejected = sums(pairs.chosen), sums(pairs.rejected)

    def call() -> Tensor:
        return getattr(losses, name)(
            chosen["policy"], rejected["policy"], chosen["ref"], rejected["ref"],
            chosen_lengths=chosen["lengths"], rejected_lengths=rejected["lengths"],
            chosen_kl=chosen["kl"], rejected_kl=rejected["kl"],
            views={view.name: (side.policy_sum, side.reference_sum) for view, side in pairs.views.items()},
            chosen_scores=pairs.scores["chosen"], rejected_scores=pairs.scores["rejected"],
            similarity=pairs.scores["similarity"], **given,
        )  # fmt: skip

    if "cannot be computed from sums" in getattr(losses, name).__doc__:
        with pytest.raises(UserError, match=f"mmpo.losses.{name} needs "):
            call()
        return
    assert call().item() == pytest.approx(build_objective({name: given}).loss(pairs).item(), rel=1e-12)


def test_how_many_can_be_computed_from_sums() -> None:
    """A change here is a change of what people can call."""
    cannot = {name for name in dir(losses) if "cannot be computed from sums" in getattr(losses, name).__doc__}
    assert cannot == {
        "auxiliary", "auxiliary_kl", "chip", "chip_official", "dense_dpo", "dmpo", "dpo_2d", "dpo_bmc",
        "full_step_dpo", "gdpo", "halva", "infonca", "ld_dpo", "mrpo", "nca", "opa_dpo", "phrase_contrast", "ra_dpo",
        "span_dpo", "spectral", "subset_dpo", "tars", "tars_official", "tpo", "typo", "wpo",
    }  # fmt: skip


MISTAKES: list[tuple[Callable[[], Tensor], str]] = [
    (lambda: losses.dpo(W, L), "mmpo.losses.dpo needs ref_chosen: the reference model's"),
    (lambda: losses.dpo(W, L, WR), "needs ref_rejected"),
    (lambda: losses.simpo(W, L), "mmpo.losses.simpo needs chosen_lengths: scored tokens"),
    (lambda: losses.simpo(W, L, chosen_lengths=N_W), "needs rejected_lengths"),
    (lambda: losses.tdpo2(W, L, WR, LR), "needs rejected_kl"),
    (lambda: losses.mdpo(W, L, WR, LR), "needs the view chosen_corrupted"),
    (lambda: losses.mdpo(W, L, WR, LR, views={"chosen_corrupted": (W, None)}),
     "the reference log-probs of the view chosen_corrupted"),
    (lambda: losses.mdpo(W, L, WR, LR, views={"chosen_corrupted": W}), "must be (policy, reference)"),
    (lambda: losses.span_dpo(W, L, WR, LR), "needs the weights of every token"),
    (lambda: losses.ld_dpo(W, L, WR, LR, **LENGTHS), "needs the log-probs of every token"),
    (lambda: losses.odpo(W, L, WR, LR), "mmpo.losses.odpo needs chosen_scores: a score of each chosen response"),
    (lambda: losses.odpo(W, L, WR, LR, chosen_scores=S_W), "needs rejected_scores"),
    (lambda: losses.odpo(W, L, WR, LR, chosen_scores=S_L, rejected_scores=S_W), "chosen is above rejected"),
    (lambda: losses.uft(W, L, WR, LR), "mmpo.losses.uft needs chosen_scores"),
    (lambda: losses.sem_dpo(W, L, WR, LR, similarity=S_L), "alpha must be given"),
    (lambda: losses.sem_dpo(W, L, WR, LR, alpha=1.0), "mmpo.losses.sem_dpo needs similarity"),
    (lambda: losses.kto(W, L, WR, LR), "needs the view mismatched"),
    (lambda: losses.nca(W, L, WR, LR), "mmpo.losses.nca needs groups of scored responses"),
    (lambda: losses.dpo(W, L, WR, LR, betta=0.1), "no parameter 'betta'"),
    (lambda: losses.dpo(W, L, WR, LR, beta=-1), "dpo.beta must be greater than 0"),
    (lambda: losses.dpo(W, L, WR, LR, beta=float("nan")), "dpo.beta must be"),
    (lambda: losses.dpo(W, L, WR, LR, weight=2.0), "multiply the loss"),
    (lambda: losses.dpo(W[:2], L, WR, LR), "policy_rejected has 3 pairs, policy_chosen has 2"),
    (lambda: losses.dpo(W[:, None], L, WR, LR), "policy_chosen must have the shape [b], it has [3, 1]"),
    (lambda: losses.dpo(W[0], L, WR, LR), "must have the shape [b], it has []"),
    (lambda: losses.dpo(W.long(), L, WR, LR), "floating-point"),
    (lambda: losses.dpo(W.tolist(), L, WR, LR), "policy_chosen must be a tensor [b], not list"),
    (lambda: losses.dpo(None, L, WR, LR), "policy_chosen must be a tensor [b], not NoneType"),
    (lambda: losses.dpo(W[:0], L[:0], WR[:0], LR[:0]), "no pairs"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), MISTAKES, ids=[message[:40] for _, message in MISTAKES])
def test_mistakes_name_what_is_wrong(call: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(UserError) as caught:
        call()
    assert message in str(caught.value)


def test_an_unknown_loss_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="no loss 'dpoo'"):
        _ = losses.dpoo


@pytest.fixture
def own() -> Iterator[str]:
    @objective("twice_dpo")
    def twice_dpo(pairs: PairLogps, *, beta: float = 0.1) -> Term:
        """2 beta D."""
        return per_pair(2 * beta * log_ratios(pairs).gap)

    yield "twice_dpo"
    OBJECTIVES.forget([__name__])


def test_an_objective_of_ones_own_is_there_at_once(own: str) -> None:
    assert own in dir(mmpo.losses)
    assert mmpo.losses.twice_dpo(W, L, WR, LR, beta=0.5).item() == pytest.approx((A - B).mean().item(), rel=1e-13)
    assert str(mmpo.losses.twice_dpo.__doc__).startswith("2 beta D.")


def test_signatures_name_what_a_loss_takes() -> None:
    names = list(inspect.signature(losses.dpo).parameters)
    assert names == ["policy_chosen", "policy_rejected", "ref_chosen", "ref_rejected", "beta", "reduction"]
    assert "chosen_lengths" in inspect.signature(losses.simpo).parameters
    assert "views" in inspect.signature(losses.mdpo).parameters
