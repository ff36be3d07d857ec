"""The policy at other weights beside itself: its log-probs there, with the policy's own as they were, also under
autocast."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from mmpo.models.families.loading import VLM
from mmpo.models.scoring.logprob import token_logps
from mmpo.models.scoring.other_weights import OtherWeights
from mmpo.models.scoring.score import PairScorer
from mmpo.models.scoring.statistics import ReadStatistic, TokenStates
from tests.models.pairs import mixed_batch
from tests.tiny import add_lora, tiny_llava


@pytest.fixture(scope="module")
def vlm() -> VLM:
    return add_lora(tiny_llava(), spread=0.1)


@contextmanager
def doubled(vlm: VLM) -> Iterator[None]:
    """The adapter's matrices are twice what they are, in storage of their own."""
    kept = [(p, p.data) for p in vlm.model.parameters() if p.requires_grad]
    for parameter, data in kept:
        parameter.data = 2 * data
    yield
    for parameter, data in kept:
        parameter.data = data


def log_probs(states: TokenStates) -> dict[str, Tensor]:
    found = (token_logps(side, states.vlm.head, states.targets) for side in (states.policy, states.of_reference))
    return dict(zip(("here", "there"), (one.logps for one in found), strict=True))


@pytest.mark.parametrize("sharing", ["on", "off"])
@pytest.mark.parametrize("autocast", [False, True])
def test_the_weights_are_others_in_that_pass_alone(vlm: VLM, sharing: str, autocast: bool) -> None:
    batch = mixed_batch(vlm)
    vlm.model.train()
    scorer = PairScorer(vlm, sharing=sharing)  # type: ignore[arg-type]

    def gradients(loss: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(loss, [p for p in vlm.model.parameters() if p.requires_grad]))

    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        plain = scorer(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast), doubled(vlm):
        there = scorer(batch)
    scorer.other_weights = OtherWeights(lambda: doubled(vlm), ReadStatistic("log_probs", log_probs))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        both = scorer(batch)
    assert vlm.model.training and not torch.allclose(there.chosen.policy, plain.chosen.policy, atol=1e-3)
    for side in ("chosen", "rejected"):
        found, here, other = (getattr(one, side) for one in (both, plain, there))
        torch.testing.assert_close(found.policy, here.policy, rtol=0, atol=0)
        torch.testing.assert_close(found.read("here"), here.policy)
        torch.testing.assert_close(found.read("there"), other.policy)
        assert found.read("here").requires_grad and not found.read("there").requires_grad
    for one, other in zip(gradients(both.chosen.policy.sum()), gradients(plain.chosen.policy.sum()), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
