"""Numbers made of log-probs: perplexity, bits a byte, an estimated divergence. Pure; logarithms are natural."""

from __future__ import annotations

import math
from typing import TypeVar, cast

import numpy as np

from mmpo.statistics import Array

N = TypeVar("N", float, Array)


def perplexity(logp: N, tokens: N) -> N:
    """exp(-logp / tokens) of the summed log-prob of so many tokens."""
    return cast(N, np.exp(-logp / tokens))


def bits_a_byte(logp: N, text_bytes: N) -> N:
    """-logp / (ln 2 * bytes) of texts of so many UTF-8 bytes: comparable where tokenizers differ."""
    return cast(N, -logp / (math.log(2) * text_bytes))


def k3(base_logp: float, tuned_logp: float) -> float:
    """r - 1 - ln r with r = p_base / p_tuned of a token that the tuned model drew: its mean estimates KL(tuned || base)
    without the whole vocabulary, never below 0 (Schulman 2020, "Approximating KL divergence").
    """
    difference = base_logp - tuned_logp
    return math.expm1(difference) - difference
