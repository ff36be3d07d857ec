"""What is made again in backward instead of being kept: the same numbers to the last bit, from a third less memory."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers.activations import ACT2FN

from mmpo.models.scoring import lean, score
from mmpo.models.scoring import segment_logps as segments
from mmpo.models.scoring.lean import made_again, recompute_feed_forward, recomputing, watching_kept
from mmpo.models.scoring.score import PairScorer
from tests.models.pairs import mixed_batch, pair_batch
from tests.tiny import add_lora
from tests.tiny_families import TINY


def measured(scorer: PairScorer, batch: Any) -> tuple[dict[str, torch.Tensor], int]:
    """Gradients of a loss over all log-probs, and the bytes that were kept for them."""
    kept: dict[int, int] = {}

    def see(tensor: torch.Tensor) -> None:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()

    with watching_kept(see):
        logps = scorer(batch)
        loss = (logps.chosen.policy**2).sum() - 0.3 * (logps.rejected.policy**3).sum()
    loss.backward()
    trained = {name: p for name, p in scorer.named_parameters() if p.requires_grad}
    found = {name: p.grad.clone() for name, p in trained.items() if p.grad is not None}
    scorer.zero_grad(set_to_none=True)
    return found, sum(kept.values())


@pytest.mark.parametrize("name", TINY)
def test_every_family_keeps_less_for_the_same_gradients(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    vlm = add_lora(TINY[name](), spread=0.1)
    layers = vlm.base.get_decoder().layers
    lean._tell.cache_clear()
    with caplog.at_level("DEBUG", lean.__name__):
        for _ in range(2):
            assert recompute_feed_forward(vlm.base.get_decoder()) == len(layers)
    (told,) = caplog.records
    assert f"{len(layers)} of {len(layers)} decoder layers" in told.message and told.levelname == "DEBUG"
    scorer = PairScorer(vlm, sharing="on")
    batch = mixed_batch(vlm)
    less, kept_less = measured(scorer, batch)
    monkeypatch.setattr(segments, "recomputing", lambda model: nullcontext())
    plain, kept_plain = measured(scorer, batch)
    assert less.keys() == plain.keys() and len(less) > 2 * len(layers)
    for key, gradient in plain.items():
        assert torch.equal(less[key], gradient), key
        assert gradient.abs().sum() > 0 or "lora" not in key
    assert kept_less < 0.9 * kept_plain


def test_adapters_keep_no_copies_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 weights and an adapter in float32, as training on a GPU has them."""
    vlm = add_lora(TINY["llava"](), spread=0.1)
    for name, parameter in vlm.model.named_parameters():
        if "lora_" not in name:
            parameter.data = parameter.data.bfloat16()
    batch = mixed_batch(vlm)
    found = []
    for cast in (True, False):
        if not cast:
            monkeypatch.setattr(score, "recompute_adapters", lambda model: None)
            for module in vlm.model.modules():
                vars(module).pop("_cast_input_dtype", None)
        scorer = PairScorer(vlm, sharing="on")
        with torch.autocast("cpu", torch.bfloat16):
            found.append(measured(scorer, batch))
    (less, kept_less), (plain, kept_plain) = found
    assert all(torch.equal(less[key], gradient) for key, gradient in plain.items())
    assert kept_less < 0.85 * kept_plain
    # Without autocast an adapter still casts what it gets, and what it gives back.
    assert PairScorer(vlm, sharing="on", reference="none")(pair_batch(vlm)).chosen.policy.isfinite().all()


def test_with_checkpointing_nothing_is_held_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    vlm = add_lora(TINY["llava"](), spread=0.1)
    scorer = PairScorer(vlm, sharing="on").train()
    batch = mixed_batch(vlm)
    scorer.gradient_checkpointing_enable()
    seen: list[bool] = []
    real = lean.made_again
    monkeypatch.setattr(
        lean, "made_again", lambda *given: seen.append(isinstance(real(*given), nullcontext)) or real(*given)
    )
    measured(scorer, batch)
    assert not seen, "a checkpointed layer made something again"
    scorer.gradient_checkpointing_disable()
    measured(scorer, batch)
    assert seen and not any(seen)


def test_the_gated_product_in_float64() -> None:
    torch.manual_seed(0)
    gate, up = (torch.randn(3, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    for name in ("silu", "gelu_pytorch_tanh", "gelu"):
        act = ACT2FN[name]
        assert type(act).__name__ in lean._DERIVATIVES
        assert torch.autograd.gradcheck(lambda g, u, act=act: lean._Gated.apply(g, u, act), (gate, up))


def test_a_kept_tensor_is_made_again() -> None:
    """The value is let go after forward, and backward calls for it."""
    weight = torch.randn(4, 4, requires_grad=True)
    start = torch.randn(2, 4)
    calls: list[int] = []

    def make() -> list[torch.Tensor]:
        calls.append(1)
        return [start.exp()]

    class Model:
        def get_decoder(self) -> nn.Module:
            return nn.Linear(1, 1)

    with recomputing(Model()):  # type: ignore[arg-type]
        value = start.exp()
        with made_again([value], make):
            out = value @ weight
    value.fill_(float("nan"))  # whoever still reads it gives it away
    out.sum().backward()
    assert calls == [1] and torch.allclose(weight.grad, start.exp().sum(0)[:, None].expand(4, 4))


def test_other_layers_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate_proj, self.up_proj, self.down_proj = (nn.Linear(4, 4) for _ in range(3))
            self.act_fn = nn.SiLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = 2 * x
            return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))

    class Parallel(Scaled):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.down_proj(self.act_fn(self.gate_proj(x)) + self.up_proj(x))

    class Cut(Scaled):
        def __init__(self) -> None:
            super().__init__()
            self.act_fn = nn.Hardshrink()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))

    decoder = nn.Module()
    decoder.layers = nn.ModuleList([Scaled(), Parallel(), Cut()])
    with caplog.at_level("INFO", lean.__name__):
        assert recompute_feed_forward(decoder) == 0
    assert "0 of 3 decoder layers keep less for backward, 3 are not known" in caplog.text


def test_a_flop_counter_can_watch() -> None:
    vlm = add_lora(TINY["llava"](), spread=0.1)
    scorer = PairScorer(vlm, sharing="on")
    with FlopCounterMode(display=False) as counter:
        scorer(pair_batch(vlm)).chosen.policy.sum().backward()
    assert counter.get_total_flops() > 0
