"""The identities that losses of scores, steps, shapes and sides name beside their formulas hold, in value and
gradient."""

from __future__ import annotations

import pytest
import torch

from mmpo.objectives import OBJECTIVES, build_objective
from mmpo.objectives.registry import Identity
from mmpo.types import PairLogps, ResponseLogps

MODULES = ("adaptive", "batchwise", "scores", "shapes", "sided", "reference_free")
IDENTITIES = [
    (name, identity)
    for name, entry in OBJECTIVES.items()
    if entry.function.__module__.split(".")[-1] in MODULES
    for identity in entry.identities
]


def some_pairs() -> PairLogps:
    """Four random pairs of different lengths, with scores."""
    generator = torch.Generator().manual_seed(5)

    def side(lengths: list[int]) -> ResponseLogps:
        mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        policy, reference = (
            -torch.rand(mask.shape, generator=generator, dtype=torch.float64) * 2 * mask for _ in range(2)
        )
        return ResponseLogps(policy.requires_grad_(), reference, mask)

    chosen, rejected = side([4, 2, 6, 1]), side([3, 5, 6, 2])
    scores = {
        "chosen": torch.tensor([0.9, 0.8, 0.7, 1.0]).double(),
        "rejected": torch.tensor([0.2, 0.5, 0.6, 0.0]).double(),
        "similarity": torch.tensor([0.9, 0.1, -0.3, 1.0]).double(),
    }
    return PairLogps(chosen, rejected, scores=scores)


def of(name: str, given: dict[str, object]) -> list[torch.Tensor]:
    pairs = some_pairs()
    loss = build_objective({name: given}).loss(pairs)
    return [loss, *torch.autograd.grad(loss, [pairs.chosen.policy, pairs.rejected.policy])]


@pytest.mark.parametrize(("name", "identity"), IDENTITIES, ids=lambda one: one if isinstance(one, str) else one.other)
def test_a_named_identity_holds(name: str, identity: Identity) -> None:
    same = dict.fromkeys(identity.same, 0.7)
    for mine, theirs in zip(
        of(name, {**same, **identity.given}), of(identity.other, {**same, **identity.others}), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_there_are_identities_to_test() -> None:
    assert {"cal_dpo", "beta_dpo", "gamma_po", "sem_dpo", "madpo", "uft", "dpo_shift"} <= {
        name for name, _ in IDENTITIES
    }
