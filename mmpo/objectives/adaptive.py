"""Losses that make beta, a margin or a weight from the policy's own numbers: beta-DPO, DAMA, gamma-PO and WPO.

Notation as in `pairwise`; x~ is x divided by its length. Whatever is made is a constant. But for WPO it is made of a
whole optimizer step, however that is cut, and of what the loss remembers of earlier ones; evaluation reads the memory
and leaves it as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from mmpo.objectives.pair_weights import on_policy_weight
from mmpo.objectives.parameters import NonNegative, Positive, PositiveShare, Rounds, ShareBelowOne, WholeNumber
from mmpo.objectives.registry import Identity, RewardsBy, objective
from mmpo.objectives.scored import scored
from mmpo.objectives.shapes import bounded_exp
from mmpo.objectives.step_rule import Draw, Looked, State, StepRule, found, log_sums
from mmpo.objectives.term import Term, average_logps, average_reward, log_ratio_reward, log_ratios, per_pair
from mmpo.types import PairLogps

LEAST_BETA = 1e-3
"""A beta made of a step is never below this."""


# ---- beta-DPO and DAMA: a beta of the step, on the pairs that are near the usual gap


def _gaps(values: Mapping[str, Tensor]) -> Tensor:
    """D of every pair of the step [n], float64 on the CPU, where the state is."""
    return (values["W"] - values["Wr"] - values["L"] + values["Lr"]).double().cpu()


def _drawn(weights: Tensor, keep: float, draw: Draw) -> Tensor:
    """The pairs that are kept, true or false [n]: int(n keep) of them, but one at least."""
    return draw(weights, max(1, int(len(weights) * keep)))


def _batch_beta(values: Mapping[str, Tensor], state: State, given: Mapping[str, Any], draw: Draw) -> Looked:
    gaps, old = _gaps(values), given["momentum"]
    spread = gaps.std() if len(gaps) > 1 else gaps.new_zeros(())  # unbiased
    mean, std = (old * state[name].cpu() + (1 - old) * seen for name, seen in (("mean", gaps.mean()), ("std", spread)))
    return _batch_beta_of(gaps, {"mean": mean, "std": std}, given, draw)


def _batch_beta_as_it_is(values: Mapping[str, Tensor], state: State, given: Mapping[str, Any], draw: Draw) -> Looked:
    """The same with M and S as training left them."""
    return _batch_beta_of(_gaps(values), {name: value.cpu() for name, value in state.items()}, given, draw)


def _batch_beta_of(gaps: Tensor, now: State, given: Mapping[str, Any], draw: Draw) -> Looked:
    mean, std = now["mean"], now["std"]
    weights = torch.exp(-0.5 * ((gaps - mean) / std) ** 2) if std > 0 else torch.ones_like(gaps)
    kept = _drawn(weights, given["keep"], draw)
    beta = given["beta"] * (1 + given["a"] * (gaps[kept].mean() - mean))
    return Looked({"kept": kept.double(), "keep_weights": weights, "beta": beta.clamp_min(LEAST_BETA)}, now)


@objective(
    "beta_dpo",
    step=StepRule(log_sums, _batch_beta, {"mean": 0.0, "std": 0.0}, look_without_training=_batch_beta_as_it_is),
    paper="arXiv 2407.08639",
    spec="4",
    identities=(Identity({"a": 0.0, "keep": 1.0}, "dpo"),),
    link=True,
)
def beta_dpo(
    pairs: PairLogps,
    *,
    beta: Positive = 0.1,
    a: NonNegative = 0.6,
    keep: PositiveShare = 0.8,
    momentum: ShareBelowOne = 0.9,
) -> Term:
    """softplus(-beta_B D) on the kept pairs of a step, beta_B = max(beta (1 + a (mean_kept D - M)), 0.001): a step of
    clear pairs gets a larger beta. beta-DPO, Wu et al. 2024 (arXiv 2407.08639), with D itself, not beta D.

    M and S are running mean and (unbiased) deviation of D from 0, moved with the whole step before they are used;
    evaluation does not move them.
    int(N keep) of N pairs are drawn without replacement with weights e^(-((D-M)/S)^2/2), or 1 where S = 0; at least
    one. The loss is the mean over the kept pairs. a = 0 and keep = 1 is dpo.
    """
    kept = found(pairs, "beta_dpo", "kept")
    return Term(kept * softplus(-found(pairs, "beta_dpo", "beta") * log_ratios(pairs).gap), kept)


def _sums_and_score_gaps(pairs: PairLogps) -> dict[str, Tensor]:
    gap = scored(pairs, "dama", "chosen") - scored(pairs, "dama", "rejected")
    return {**log_sums(pairs), "score_gap": gap}


def _pair_betas(values: Mapping[str, Tensor], state: State, given: Mapping[str, Any], draw: Draw) -> Looked:
    gaps, score_gaps, old = _gaps(values), values["score_gap"].double().cpu(), given["momentum"]
    mean, usual = state["mean"].cpu(), state["score_gap_mean"].cpu()
    weights = torch.exp(-0.5 * (gaps - mean) ** 2)
    kept = _drawn(weights, given["keep"], draw)
    if given["form"] == "paper":
        now, seen = logsigmoid(gaps[kept].mean()), gaps[kept].mean()
        usual_after = old * usual + (1 - old) * score_gaps.mean()
    else:
        now, seen = torch.sigmoid(gaps[kept]).mean().clamp_min(torch.finfo(gaps.dtype).tiny).log(), gaps.mean()
        usual_after = usual
    # quotients of sigmoids as differences of their logarithms, so that none is 0/0
    factor = logsigmoid(score_gaps) - logsigmoid(usual) + now - logsigmoid(mean)
    betas = (given["beta"] * bounded_exp(factor)).clamp_min(LEAST_BETA)
    return Looked(
        {"kept": kept.double(), "keep_weights": weights, "betas": betas},
        {"mean": old * mean + (1 - old) * seen, "score_gap_mean": usual_after},
    )


@objective(
    "dama",
    reads=("reference", "scores"),
    step=StepRule(_sums_and_score_gaps, _pair_betas, {"mean": 0.0, "score_gap_mean": 0.0482190464911681}),
    paper="arXiv 2502.01943",
    spec="4",
    link=True,
)
def dama(
    pairs: PairLogps,
    *,
    beta: Positive = 0.1,
    keep: PositiveShare = 0.8,
    momentum: ShareBelowOne = 0.9,
    form: Literal["paper", "release"] = "paper",
) -> Term:
    """softplus(-beta_i D) on the kept pairs of a step, beta_i = max(beta sigmoid(m)/sigmoid(mean m) sigmoid(mean_kept
    D)/sigmoid(M), 0.001): a larger beta for pairs of a clear score gap m and for a policy ahead of its past. DAMA, Lu
    et al. 2025 (arXiv 2502.01943), algorithm 1.

    int(N keep) of N pairs, at least one, are drawn with weights e^(-(D-M)^2/2). M starts at 0 and moves after its use:
    `paper` by the kept pairs' mean D; `release` (injadlu/DAMA d60515f) by that of all pairs, and there the kept pairs'
    sigmoids are averaged instead of their D. mean m starts at the release's constant 0.0482, the mean score gap of its
    data; `paper` then lets it follow the scores at hand as M does.
    """
    kept = found(pairs, "dama", "kept")
    return Term(kept * softplus(-found(pairs, "dama", "betas") * log_ratios(pairs).gap), kept)


# ---- gamma-PO: a target margin for each pair


def _averages(pairs: PairLogps) -> dict[str, Tensor]:
    """Mean token log-probs of chosen and rejected."""
    return {"W~": average_logps(pairs.chosen), "L~": average_logps(pairs.rejected)}


def _target_margins(values: Mapping[str, Tensor], state: State, given: Mapping[str, Any], draw: Draw) -> Looked:
    own = given["beta"] * (_gaps(values) if given["reference"] else (values["W~"] - values["L~"]).double().cpu())
    queue = _last(state["queue"].cpu(), given["queue"])
    gaps = torch.cat([own, queue])
    count, mean, tau = len(gaps), given["ratio"] * given["beta"], given["tau"]
    rate = min(0.5 / tau, 1.0)
    share = torch.full_like(gaps, 1 / count)
    for _ in range(given["steps"]):
        slope = tau * (1 + (count * (share + 1e-10)).log()) + mean * torch.sigmoid(mean * count * share - gaps)
        share = torch.softmax(share.log() - rate * slope, 0)
    return Looked(
        {"target_margins": (mean * count * share)[: len(own)]},
        {"queue": _last(torch.cat([queue, own]), given["queue"])},
    )


def _last(values: Tensor, count: int) -> Tensor:
    return values[max(0, len(values) - count) :]


_WITH_REFERENCE = StepRule(log_sums, _target_margins, {"queue": ()})
_WITHOUT_REFERENCE = StepRule(_averages, _target_margins, {"queue": ()})


@objective(
    "gamma_po",
    reads=lambda values: ("reference",) if values["reference"] else ("lengths",),
    rewards=RewardsBy(lambda values: log_ratio_reward if values["reference"] else average_reward),
    step=lambda values: _WITH_REFERENCE if values["reference"] else _WITHOUT_REFERENCE,
    averages=lambda values: not values["reference"],
    paper="arXiv 2506.03690",
    spec="4",
    identities=(
        Identity({"ratio": 0.0}, "simpo", {"gamma": 0.0}),
        Identity({"ratio": 0.0, "reference": True}, "dpo"),
    ),
)
def gamma_po(
    pairs: PairLogps,
    *,
    beta: Positive = 10.0,
    ratio: NonNegative = 0.5,
    tau: Positive = 20.0,
    steps: Rounds = 20,
    reference: bool = False,
    queue: WholeNumber = 256,
) -> Term:
    """softplus(gamma_i - g_i), g = beta (W~ - L~): SimPO whose target margin is larger for pairs of a larger gap. Sun
    et al. 2025 (arXiv 2506.03690). With `reference` g = z and the loss is softplus(gamma_i - g0 - g_i).

    gamma_i = g0 N p_i, g0 = ratio beta; p, over the N pairs of the step and the gaps of up to `queue` earlier ones,
    minimises tau KL(p || uniform) + mean_i softplus(gamma_i - g_i) in `steps` steps of exponentiated gradient of rate
    min(0.5/tau, 1) from the uniform. The queue starts empty (the release's starts with 8 normal draws). tau to
    infinity is SimPO, or dpo.
    """
    target = found(pairs, "gamma_po", "target_margins")
    if reference:
        return per_pair(softplus(target - ratio * beta - beta * log_ratios(pairs).gap))
    return per_pair(softplus(target - beta * (average_logps(pairs.chosen) - average_logps(pairs.rejected))))


# ---- WPO: a weight for each pair


@objective("wpo", reads=("reference", "log_sum_squares"), paper="arXiv 2406.11827", spec="4")
def wpo(pairs: PairLogps, *, beta: Positive = 0.01) -> Term:
    """u_w u_l softplus(-z), u = exp(mean_t (p_t - log sum_v pi(v)^2)): pairs count as far as the policy itself would
    write them. Zhou et al. 2024 (arXiv 2406.11827), TRL's alignment of the weight with what sampling would give. The
    weight carries no gradient and is not clamped, but for exponents above 80.
    """

    return per_pair(on_policy_weight(pairs) * softplus(-beta * log_ratios(pairs).gap))
