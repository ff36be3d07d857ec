"""The term that an objective returns: a loss as a fraction, so that a mean is taken once, over a whole step."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mmpo.types import PairLogps, ResponseLogps


class Term(NamedTuple):
    """A loss or metric as a fraction: sum(values) / sum(weights), `values` and `weights` both [n].

    Kept apart so that the mean is taken once, over the whole global batch: micro-batches and ranks add numerators and
    denominators."""

    values: Tensor
    weights: Tensor

    @property
    def mean(self) -> Tensor:
        return self.values.sum() / self.weights.sum().clamp_min(torch.finfo(torch.float32).tiny)


def per_pair(losses: Tensor) -> Term:
    """A term whose mean is the mean over pairs."""
    return Term(losses, torch.ones_like(losses))


class LogRatios(NamedTuple):
    """a and b, both [b]."""

    chosen: Tensor
    rejected: Tensor

    @property
    def gap(self) -> Tensor:
        return self.chosen - self.rejected


def log_ratio(response: ResponseLogps) -> Tensor:
    """log pi - log ref of each response, summed over its tokens, [b]."""
    return response.policy_sum - response.reference_sum


def log_ratios(pairs: PairLogps) -> LogRatios:
    """Policy minus reference, summed over tokens."""
    return LogRatios(log_ratio(pairs.chosen), log_ratio(pairs.rejected))


def token_log_ratios(response: ResponseLogps) -> Tensor:
    """log pi - log ref of each token, [b, t], 0 in padding. Raises `UserError` without reference log-probs."""
    if response.reference is None:
        return response.reference_sum  # raises the error that names the remedy
    return response.policy - response.reference


def average_logps(response: ResponseLogps) -> Tensor:
    """Mean token log-prob, [b]."""
    return response.policy_sum / response.lengths.clamp_min(1)


# ---- the rewards that are logged


def log_ratio_reward(response: ResponseLogps, beta: float) -> Tensor:
    """beta (log pi - log ref) of each response, [b]."""
    return beta * log_ratio(response)


def average_reward(response: ResponseLogps, beta: float) -> Tensor:
    """beta times the mean token log-prob, [b]: the reward of losses of averages without a reference."""
    return beta * average_logps(response)


def summed_reward(response: ResponseLogps, beta: float) -> Tensor:
    """beta times the summed log-prob, [b]."""
    return beta * response.policy_sum
