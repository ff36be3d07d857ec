"""How often the host waits for a device, counted on one that isn't there; and noise made on the device."""

from __future__ import annotations

import pytest
import torch

from mmpo.models.generation.answer import AnswerEngine
from mmpo.models.generation.choosing import TokenSampler, hashed_exponentials
from mmpo.models.generation.probe import ProbeSpec
from mmpo.models.generation.shared_cache import wide_scores
from mmpo.models.scoring.score import PairScorer
from mmpo.objectives.build import build_objective
from tests.models.pairs import pair_batch
from tests.pretended_device import DEVICE, PretendedDevice
from tests.tiny import add_lora, tiny_image, tiny_llava

PROMPTS = [(tiny_image(i), text) for i in range(2) for text in ("Is there a dog?", "Describe the image.")]


@pytest.mark.parametrize("kind", ["watched", "samples"])
def test_a_step_waits_once_and_answers_are_the_same(kind: str) -> None:
    def run(new_tokens: int, device: PretendedDevice | None = None) -> list[tuple[int, ...]]:
        vlm = tiny_llava()
        vlm.base.generation_config.eos_token_id = [len(vlm.tokenizer) + 1]  # never drawn: all rows take every step
        engine = AnswerEngine(vlm, max_new_tokens=new_tokens, sharing="on")
        if device is not None:
            device.take(vlm.model)
        if kind == "watched":
            return [seen.answer.token_ids for seen in engine.watched(PROMPTS, ProbeSpec(layers=(0, 1)))]
        return [a.token_ids for of in engine.sample_many(PROMPTS, 2, top_p=0.9, greedy_first=True) for a in of]

    waits = []
    for new_tokens in (3, 7):
        with PretendedDevice() as device:
            there = run(new_tokens, device)
        waits.append(device.total)
    assert waits[1] - waits[0] == 4  # one a step
    here = run(7)
    greedy = slice(None) if kind == "watched" else slice(None, None, 3)  # a device's samples have noise of their own
    assert there[greedy] == here[greedy]


def test_a_sample_made_on_a_device_is_the_same_in_any_batch() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    together, alone = TokenSampler([5, None, 7], top_p=0.9), TokenSampler([5, None, 7], top_p=0.9).alone(2)
    with PretendedDevice():
        there = logits.to(DEVICE)
        first = together.scores(there, [0, 1, 2]).cpu()
        later = together.scores(there[1:], [1, 2]).cpu()
        own = [alone.scores(there[2:], [0]).cpu() for _ in range(2)]
    torch.testing.assert_close(first[2:], own[0], rtol=0, atol=0)
    torch.testing.assert_close(later[1:], own[1], rtol=0, atol=0)
    torch.testing.assert_close(first[1], logits[1], rtol=0, atol=0)
    assert not torch.equal(own[0], own[1])


def test_hashed_noise_is_exponential_and_independent() -> None:
    noise = hashed_exponentials(torch.arange(64), 3, 4000)
    assert noise.min() > 0
    shares = torch.stack([(noise < edge).double().mean() for edge in (0.01, 0.1, 0.7, 2.0, 5.0)])
    expected = 1 - torch.tensor([-0.01, -0.1, -0.7, -2.0, -5.0], dtype=torch.double).exp()
    torch.testing.assert_close(shares, expected, rtol=0, atol=4e-3)
    ranks = noise.log()[:8]
    between = torch.corrcoef(torch.cat([ranks, hashed_exponentials(torch.arange(8), 4, 4000).log()]))
    assert (between - torch.eye(16)).abs().max() < 0.09  # rows and steps; 5.7 standard deviations
    assert noise.unique().numel() > 0.98 * noise.numel()


def test_products_of_short_numbers_are_summed_in_float32() -> None:
    q, k = (torch.randn(2, 3, 4, 16, generator=torch.Generator().manual_seed(n)).bfloat16() for n in range(2))
    expected = q.double() @ k.double().transpose(-1, -2)
    with PretendedDevice():
        found = wide_scores(q.to(DEVICE), k.to(DEVICE)).cpu()
    for scores in (found, wide_scores(q, k)):
        assert scores.dtype == torch.float32
        torch.testing.assert_close(scores.double(), expected, rtol=1e-5, atol=1e-5)


def test_a_micro_batch_waits_for_nothing_but_the_models_own_checks() -> None:
    vlm = add_lora(tiny_llava(), spread=0.1)
    scorer, objective, batch = PairScorer(vlm, sharing="on"), build_objective("dpo"), pair_batch(vlm)
    expected = objective.loss(scorer(batch))
    with PretendedDevice() as device:
        device.take(vlm.model)
        loss = objective.loss(scorer(batch.to(DEVICE)))
        loss.backward()
        waits = dict(device.waits)
        found = loss.item()
    assert found == pytest.approx(expected.item(), abs=1e-5)
    # transformers' LLaVA compares image tokens with features, in the reference's forward and in the policy's
    assert sum(waits.values()) == 2 and all("segment_logps.py" in place for place in waits), waits
