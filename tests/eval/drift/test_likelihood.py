"""Perplexity, bits a byte and divergences: the golden values of the specification."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from mmpo.eval.drift.likelihood import bits_a_byte, k3, perplexity
from mmpo.models.scoring.divergence import token_kl

FIRST, SECOND = (0.5, 0.3, 0.2), (0.4, 0.4, 0.2)


def test_golden_divergences_over_the_full_vocabulary() -> None:
    """As an evaluation computes them from hidden states: the states are the logits here."""
    head = nn.Linear(3, 3, bias=False, dtype=torch.float64)
    head.weight.data.copy_(torch.eye(3))
    base, tuned = torch.tensor([FIRST, SECOND], dtype=torch.float64).log()[:, None]
    assert token_kl(tuned, base, head).item() == pytest.approx(0.025267, abs=5e-7)
    assert token_kl(base, tuned, head).item() == pytest.approx(0.025815, abs=5e-7)
    assert token_kl(base, base, head).item() == 0


def test_golden_estimate_from_samples() -> None:
    mean = sum(q * k3(math.log(p), math.log(q)) for p, q in zip(FIRST, SECOND, strict=True))
    assert mean == pytest.approx(0.025815, abs=5e-7)
    assert k3(-1.5, -1.5) == 0


def test_golden_perplexity() -> None:
    text = "ein Hund läuft"
    assert len(text.encode()) == 15
    assert perplexity(-1 - 2 - 0.5, 3) == pytest.approx(3.211271, abs=5e-7)
    assert bits_a_byte(-1 - 2 - 0.5, 15) == pytest.approx(0.336629, abs=5e-7)
