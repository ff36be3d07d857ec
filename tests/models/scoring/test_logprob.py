from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from mmpo.errors import UserError
from mmpo.models.scoring.logprob import token_logps


def direct(hidden: torch.Tensor, head: nn.Linear, targets: torch.Tensor, softcap: float | None = None) -> torch.Tensor:
    logits = head(hidden).float()
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    return logits.log_softmax(-1).gather(1, targets[:, None]).squeeze(1)


@pytest.mark.parametrize("chunk", [None, 1, 4, 7, 100])
@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("softcap", [None, 1.5])
def test_equals_log_softmax_with_gradients(
    chunk: int | None, trainable: bool, bias: bool, softcap: float | None
) -> None:
    head = nn.Linear(8, 50, bias=bias).requires_grad_(trainable)
    targets = torch.randint(0, 50, (13,))
    incoming = torch.randn(13)
    results = []
    for score in (
        lambda h: token_logps(h, head, targets, chunk=chunk, softcap=softcap).logps,
        lambda h: direct(h, head, targets, softcap),
    ):
        hidden = torch.randn(13, 8, generator=torch.Generator().manual_seed(1)).mul(3).requires_grad_()
        head.zero_grad()
        logps = score(hidden)
        logps.backward(incoming)
        results.append([logps.detach(), hidden.grad, *(p.grad for p in head.parameters() if trainable)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_extreme_logits_stay_finite() -> None:
    head = nn.Linear(4, 6, bias=False)
    hidden = torch.full((2, 4), 1e4, requires_grad=True)
    logps = token_logps(hidden, head, torch.tensor([0, 1])).logps
    logps.sum().backward()
    assert logps.isfinite().all() and hidden.grad is not None and hidden.grad.isfinite().all()


def test_top1_marks_first_choices() -> None:
    head = nn.Linear(3, 3, bias=False)
    head.weight.data = torch.eye(3)
    out = token_logps(torch.tensor([[5.0, 0, 0], [0, 0, 5.0]]), head, torch.tensor([0, 1]))
    assert out.top1.tolist() == [True, False]


def test_no_gradient_is_kept_without_autograd() -> None:
    head = nn.Linear(8, 50)
    with torch.no_grad():
        assert not token_logps(torch.randn(3, 8), head, torch.tensor([1, 2, 3])).logps.requires_grad


def test_bfloat16_sums_in_float32() -> None:
    head = nn.Linear(16, 40, bias=False).to(torch.bfloat16).requires_grad_(False)
    hidden = torch.randn(5, 16).to(torch.bfloat16).requires_grad_()
    targets = torch.randint(0, 40, (5,))
    logps = token_logps(hidden, head, targets).logps
    assert logps.dtype == torch.float32
    torch.testing.assert_close(logps, direct(hidden, head, targets), rtol=0, atol=1e-5)
    logps.sum().backward()
    assert hidden.grad is not None and hidden.grad.dtype == torch.bfloat16


def test_an_adapter_on_the_head_is_refused() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lm_head = nn.Linear(4, 6)

    model = inject_adapter_in_model(LoraConfig(target_modules=["lm_head"], r=2), Model())
    with pytest.raises(UserError, match="lm_head"):
        token_logps(torch.randn(1, 4), model.lm_head, torch.tensor([0]))
