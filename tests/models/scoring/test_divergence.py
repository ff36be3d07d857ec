from __future__ import annotations

import pytest
import torch
from torch import nn

from mmpo.models.scoring.divergence import token_kl


def direct(
    policy: torch.Tensor, reference: torch.Tensor, head: nn.Linear, other: nn.Linear, softcap: float | None
) -> torch.Tensor:
    def logps(states: torch.Tensor, layer: nn.Linear) -> torch.Tensor:
        logits = layer(states)
        return (logits if softcap is None else torch.tanh(logits / softcap) * softcap).log_softmax(-1)

    ours, theirs = logps(policy, head), logps(reference, other).detach()
    return torch.nn.functional.kl_div(ours, theirs, log_target=True, reduction="none").sum(-1)


@pytest.mark.parametrize("chunk", [None, 1, 4, 100])
@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("softcap", [None, 1.5])
def test_equals_the_divergence_of_whole_distributions_with_gradients(
    chunk: int | None, trainable: bool, bias: bool, softcap: float | None
) -> None:
    torch.manual_seed(0)
    head = nn.Linear(8, 50, bias=bias).double().requires_grad_(trainable)
    other = nn.Linear(8, 50, bias=bias).double().requires_grad_(False)
    start, reference = torch.randn(13, 8).double() * 3, torch.randn(13, 8).double()
    incoming = torch.randn(13).double()
    results = []
    for score in (
        lambda h: token_kl(h, reference, head, other, chunk=chunk, softcap=softcap),
        lambda h: direct(h, reference, head, other, softcap),
    ):
        policy = start.clone().requires_grad_()
        head.zero_grad()
        found = score(policy)
        found.backward(incoming)
        results.append([found.detach(), policy.grad, *(p.grad.clone() for p in head.parameters() if trainable)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_gradients_against_finite_differences(trainable: bool, softcap: float | None) -> None:
    torch.manual_seed(1)
    weight = torch.randn(7, 4, dtype=torch.float64, requires_grad=trainable)
    reference = torch.randn(5, 4, dtype=torch.float64)

    def loss(policy: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        head = nn.Linear(4, 7, bias=False)
        head.weight = nn.Parameter(weight.detach(), requires_grad=False)
        if weights:  # a leaf of its own, so that the check reaches it
            del head._parameters["weight"]
            head.weight = weights[0]
        other = nn.Linear(4, 7, bias=False).double()
        return token_kl(policy, reference, head, other.requires_grad_(False), chunk=2, softcap=softcap)

    torch.manual_seed(2)
    inputs = [torch.randn(5, 4, dtype=torch.float64, requires_grad=True), *([weight] if trainable else [])]
    state = torch.random.get_rng_state()

    def steady(*given: torch.Tensor) -> torch.Tensor:
        torch.random.set_rng_state(state)
        return loss(*given)

    assert torch.autograd.gradcheck(steady, inputs)


def test_zero_where_nothing_moved_and_never_negative() -> None:
    head = nn.Linear(6, 30).requires_grad_(False)
    states = torch.randn(9, 6, requires_grad=True)
    same = token_kl(states, states, head)
    torch.testing.assert_close(same.detach(), torch.zeros(9), atol=1e-6, rtol=0)
    same.sum().backward()
    assert states.grad is not None and states.grad.abs().max() < 1e-6
    assert (token_kl(torch.randn(9, 6) * 4, states, head) >= -1e-6).all()


def test_finite_where_probabilities_underflow() -> None:
    head = nn.Linear(4, 6, bias=False).requires_grad_(False)
    policy = torch.full((2, 4), 1e4, requires_grad=True)
    found = token_kl(policy, torch.full((2, 4), -1e4), head)
    found.sum().backward()
    assert found.isfinite().all() and policy.grad is not None and policy.grad.isfinite().all()


def test_the_reference_gets_no_gradient() -> None:
    head = nn.Linear(4, 6).requires_grad_(False)
    policy, reference = (torch.randn(3, 4, requires_grad=True) for _ in range(2))
    token_kl(policy, reference, head).sum().backward()
    assert policy.grad is not None and reference.grad is None


@pytest.mark.parametrize("trainable", [False, True])
def test_nothing_of_the_vocabularys_size_is_kept(trainable: bool) -> None:
    head = nn.Linear(8, 1000, bias=False).requires_grad_(trainable)
    sizes: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() != head.weight.data_ptr():
            sizes.append(tensor.numel())
        return tensor

    policy = torch.randn(20, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        token_kl(policy, torch.randn(20, 8), head).sum().backward()
    assert sizes and max(sizes) <= 20 * 8


def test_bfloat16_sums_in_float32() -> None:
    head = nn.Linear(16, 40, bias=False).to(torch.bfloat16).requires_grad_(False)
    policy, reference = (torch.randn(5, 16).to(torch.bfloat16) for _ in range(2))
    found = token_kl(policy.requires_grad_(), reference, head)
    assert found.dtype == torch.float32
    ours, theirs = (torch.nn.functional.linear(x, head.weight).float().log_softmax(-1) for x in (policy, reference))
    torch.testing.assert_close(found, (theirs.exp() * (theirs - ours)).sum(-1), rtol=0, atol=1e-5)
