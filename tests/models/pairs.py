"""Pair batches for the tests of the scoring core."""

from __future__ import annotations

import torch

from mmpo.models.loading import VLM
from mmpo.models.prompts import encode_prompt, encode_response, process_images
from mmpo.models.score import PairBatch, PairLogps
from tests.tiny import tiny_image, user


def pair_batch(vlm: VLM, n: int = 3, *, text_only: int | None = None) -> PairBatch:
    """`n` pairs of different lengths over two distinct images; pair 2 shows both, pair `text_only` none."""
    images = process_images(vlm, [tiny_image(0), tiny_image(1)])
    prompts, chosen, rejected, index = [], [], [], []
    for i in range(n):
        shown = [] if i == text_only else [0, 1] if i == 2 else [i % 2]
        messages = user("Describe the image" + " now" * i, len(shown))
        prompts.append(torch.tensor(encode_prompt(vlm, messages, [images.placeholders[k] for k in shown])))
        chosen.append(torch.tensor(encode_response(vlm, "Yes, there is a dog" + " there" * i)))
        rejected.append(torch.tensor(encode_response(vlm, "No " * (i + 1) + "cat")))
        index.append(shown)
    return PairBatch([f"pair-{i}" for i in range(n)], prompts, chosen, rejected, images.tensors, index)


def gradients(vlm: VLM, pairs: PairLogps) -> dict[str, torch.Tensor]:
    """Gradients of an uneven function of every log-prob."""
    vlm.model.zero_grad(set_to_none=True)
    (pairs.chosen.policy_sum.sum() - 2 * pairs.rejected.policy_sum.square().sum() / 50).backward()
    return {name: p.grad.clone() for name, p in vlm.model.named_parameters() if p.grad is not None}


def worst_relative(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    assert actual.keys() == expected.keys() and actual
    return max(((actual[k] - expected[k]).norm() / expected[k].norm().clamp_min(1e-12)).item() for k in expected)
