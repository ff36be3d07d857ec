"""Statistics of whole distributions, a chunk at a time, against a plain softmax that autograd differentiates."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmpo.models.scoring import chunked
from mmpo.models.scoring.chunked import ChunkStatistic, chunk_statistics
from mmpo.models.scoring.divergence import Divergence, token_kl
from mmpo.models.scoring.token_statistics import (
    EndLogp,
    Entropy,
    LogSumSquares,
    TailDivergence,
    token_entropy,
    token_eos_logp,
    token_log_sum_squares,
    token_tail_kl,
)

EOS, MU, TEMPERATURE = 3, 0.83, 0.4
SINGLE = ("token_log_sum_squares", "token_entropy", "token_eos_logp")
"""Functions of one model."""


def gradients_of(*tensors: Tensor) -> list[Tensor]:
    """Copies of those that a backward pass left."""
    found = [tensor.grad.clone() for tensor in tensors if tensor.grad is not None]
    assert len(found) == len(tensors)
    return found


def tail(ours: Tensor, theirs: Tensor, mu: float = MU) -> Tensor:
    difference = theirs - ours
    above = difference > difference.detach().quantile(1 - mu, dim=-1, keepdim=True)
    return torch.where(above, theirs.exp() * difference, 0.0).sum(-1)


PLAIN: dict[str, tuple[ChunkStatistic, Callable[[Tensor, Tensor], Tensor]]] = {
    "kl": (Divergence(), lambda ours, theirs: (theirs.exp() * (theirs - ours)).sum(-1)),
    "tail_kl": (TailDivergence(MU), tail),
    "log_sum_squares": (LogSumSquares(), lambda ours, theirs: ours.exp().square().sum(-1).log()),
    "entropy": (Entropy(), lambda ours, theirs: torch.distributions.Categorical(logits=ours).entropy()),
    "eos": (EndLogp(EOS), lambda ours, theirs: ours[:, EOS]),
    "eos_cooled": (EndLogp(EOS, TEMPERATURE), lambda ours, theirs: (ours / TEMPERATURE).log_softmax(-1)[:, EOS]),
}
"""Each statistic, and the same of whole log-softmaxes."""


def log_softmax(states: Tensor, head: nn.Linear, softcap: float | None) -> Tensor:
    logits = head(states)
    return (logits if softcap is None else torch.tanh(logits / softcap) * softcap).log_softmax(-1)


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("chunk", [None, 4])
@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("softcap", [None, 1.5])
def test_equals_the_whole_softmax_with_gradients(
    name: str, chunk: int | None, trainable: bool, softcap: float | None
) -> None:
    torch.manual_seed(0)
    head = nn.Linear(8, 50).double().requires_grad_(trainable)
    other = nn.Linear(8, 50).double().requires_grad_(False)
    start, reference = torch.randn(13, 8).double() * 3, torch.randn(13, 8).double()
    incoming = torch.randn(13).double()
    statistic, plain = PLAIN[name]

    def ours(policy: Tensor) -> Tensor:
        return chunk_statistics([statistic], policy, head, reference, other, chunk=chunk, softcap=softcap)[0]

    def direct(policy: Tensor) -> Tensor:
        return plain(log_softmax(policy, head, softcap), log_softmax(reference, other, softcap).detach())

    results = []
    for score in (ours, direct):
        policy = start.clone().requires_grad_()
        head.zero_grad()
        found = score(policy)
        found.backward(incoming)
        results.append([found.detach(), *gradients_of(policy, *(head.parameters() if trainable else ()))])
    for one, another in zip(*results, strict=True):
        torch.testing.assert_close(one, another)


@pytest.mark.parametrize("trainable", [False, True])
def test_several_at_once_are_each_alone_and_meet_the_head_once(
    trainable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    head, other = nn.Linear(6, 20).double().requires_grad_(trainable), nn.Linear(6, 20).double().requires_grad_(False)
    start, reference = torch.randn(7, 6).double(), torch.randn(7, 6).double()
    statistics = [statistic for statistic, _ in PLAIN.values()]
    products: list[int] = []
    real = chunked.logits_of

    def counted(hidden: Tensor, *given: Any) -> Tensor:
        products.append(len(hidden))
        return real(hidden, *given)

    monkeypatch.setattr(chunked, "logits_of", counted)

    def gradients(groups: list[list[ChunkStatistic]]) -> list[Tensor]:
        policy = start.clone().requires_grad_()
        head.zero_grad()
        found = [value for group in groups for value in chunk_statistics(group, policy, head, reference, other)]
        torch.stack([(k + 1) * value.sum() for k, value in enumerate(found[:-1])]).sum().backward()  # not of the last
        return [*(value.detach() for value in found), *gradients_of(policy, *(head.parameters() if trainable else ()))]

    together = gradients([statistics])
    assert products == [7, 7] * (2 if trainable else 1)
    for one, another in zip(together, gradients([[statistic] for statistic in statistics]), strict=True):
        torch.testing.assert_close(one, another)


def eye(size: int) -> nn.Linear:
    head = nn.Linear(size, size, bias=False).double().requires_grad_(False)
    head.weight.copy_(torch.eye(size))
    return head


def test_the_tail_by_hand() -> None:
    """q = (1/2, 1/4, 1/4), p uniform: the differences are log 1.5, log 0.75, log 0.75. The median is log 0.75, and the
    first alone is above it."""
    reference, policy = torch.tensor([[0.5, 0.25, 0.25]]).double().log(), torch.zeros(1, 3).double()
    for mu in (0.5, 0.9):
        assert token_tail_kl(policy, reference, eye(3), mu=mu).item() == pytest.approx(0.5 * math.log(1.5))
    # at level 0.8 the quantile lies between the second and the largest, which it does not reach
    assert token_tail_kl(policy, reference, eye(3), mu=0.2).item() == pytest.approx(0.5 * math.log(1.5))


@pytest.mark.parametrize(
    ("size", "mu", "below"), [(11, 0.9, 2), (21, 0.95, 2), (6, 0.8, 2), (5, 0.5, 3), (7, 0.999, 1)]
)
def test_a_quantile_that_is_one_of_the_numbers_is_not_above_itself(size: int, mu: float, below: int) -> None:
    """(1 - mu)(v - 1) is whole in most, whatever 1 - mu has in its last places; `below` numbers are not above."""
    generator = torch.Generator().manual_seed(size)
    reference, policy = (torch.randn(1, size, generator=generator).double().log_softmax(-1) for _ in range(2))
    difference = (reference - policy).squeeze()
    kept = difference.argsort()[below:]
    expected = (reference.exp().squeeze() * difference)[kept].sum()
    assert token_tail_kl(policy, reference, eye(size), mu=mu).item() == pytest.approx(expected.item())


def test_a_tail_of_everything_is_the_divergence_less_its_smallest_difference() -> None:
    torch.manual_seed(3)
    head = nn.Linear(8, 400).double().requires_grad_(False)
    policy, reference = torch.randn(6, 8).double(), torch.randn(6, 8).double()
    ours, theirs = head(policy).log_softmax(-1), head(reference).log_softmax(-1)
    least = (theirs - ours).min(-1)
    dropped = theirs.exp().gather(1, least.indices[:, None]).squeeze(1) * least.values
    found = token_tail_kl(policy, reference, head, mu=1 - 1e-9)
    torch.testing.assert_close(found, token_kl(policy, reference, head) - dropped)


def test_nothing_moved_is_no_tail_and_no_gradient() -> None:
    head = nn.Linear(6, 30).requires_grad_(False)
    states = torch.randn(9, 6, requires_grad=True)
    found = token_tail_kl(states, states, head)
    found.sum().backward()
    assert (found == 0).all() and states.grad is not None and (states.grad == 0).all()


def test_of_a_uniform_distribution() -> None:
    policy = torch.zeros(2, 8).double()
    assert token_entropy(policy, eye(8)).tolist() == pytest.approx([math.log(8)] * 2)
    assert token_log_sum_squares(policy, eye(8)).tolist() == pytest.approx([-math.log(8)] * 2)
    assert token_eos_logp(policy, eye(8), 5, temperature=0.1).tolist() == pytest.approx([-math.log(8)] * 2)


def test_the_sum_of_squares_is_a_constant() -> None:
    policy = torch.randn(3, 4, requires_grad=True)
    assert not token_log_sum_squares(policy, nn.Linear(4, 6).requires_grad_(False)).requires_grad


@pytest.mark.parametrize("name", PLAIN)
def test_finite_where_probabilities_underflow(name: str) -> None:
    head = nn.Linear(4, 6, bias=False).requires_grad_(False)
    policy = torch.full((2, 4), 1e4, requires_grad=True)
    (found,) = chunk_statistics([PLAIN[name][0]], policy, head, torch.full((2, 4), -1e4))
    found.sum().backward()
    assert found.isfinite().all() and policy.grad is not None and policy.grad.isfinite().all()


@pytest.mark.parametrize("trainable", [False, True])
def test_nothing_of_the_vocabularys_size_is_kept(trainable: bool) -> None:
    head = nn.Linear(8, 1000, bias=False).requires_grad_(trainable)
    sizes: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() != head.weight.data_ptr():
            sizes.append(tensor.numel())
        return tensor

    policy = torch.randn(20, 8, requires_grad=True)
    statistics = [statistic for statistic, _ in PLAIN.values()]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        torch.stack(chunk_statistics(statistics, policy, head, torch.randn(20, 8))).sum().backward()
    assert sizes and max(sizes) <= 20 * 8


@pytest.mark.parametrize("name", PLAIN)
def test_bfloat16_sums_in_float32(name: str) -> None:
    torch.manual_seed(4)
    head = nn.Linear(16, 40, bias=False).to(torch.bfloat16).requires_grad_(False)
    policy, reference = (torch.randn(5, 16).to(torch.bfloat16) for _ in range(2))
    statistic, plain = PLAIN[name]
    (found,) = chunk_statistics([statistic], policy.requires_grad_(), head, reference)
    assert found.dtype == torch.float32
    ours, theirs = (nn.functional.linear(x, head.weight).float().log_softmax(-1) for x in (policy, reference))
    torch.testing.assert_close(found, plain(ours, theirs), rtol=0, atol=2e-5)
    found.sum().backward()
    assert policy.grad is not None and policy.grad.dtype == torch.bfloat16


def test_no_tokens_at_all() -> None:
    head = nn.Linear(4, 6).requires_grad_(False)
    found: Any = token_entropy(torch.zeros(0, 4, requires_grad=True), head)
    found.sum().backward()
    assert found.shape == (0,)
