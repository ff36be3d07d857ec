"""From preference pairs to a step of training, in every family."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmpo.data.pair import PreferencePair
from mmpo.files.images import encode_image
from mmpo.models.families.prompts import encode_prompt, process_images
from mmpo.models.scoring.score import PairScorer
from mmpo.objectives import build_objective
from mmpo.trainers import reference
from mmpo.trainers.collate import PairCollator, encode_pairs
from mmpo.trainers.images import ImageStore
from mmpo.trainers.lora import add_lora
from mmpo.trainers.settings import LoraSettings
from tests.models.pairs import PICTURES
from tests.tiny_families import TINY


def pairs() -> list[PreferencePair]:
    """Two pairs about one image, one about an image of another shape."""
    return [
        PreferencePair.simple(
            id=f"pair-{number}",
            image=encode_image(PICTURES[picture]),
            question=question,
            chosen="There is a dog." + " It is red." * number,
            rejected="There is a cat and a ball.",
        )
        for number, (picture, question) in enumerate([(0, "Describe it."), (1, "What is it?"), (0, "What is left?")])
    ]


@pytest.mark.parametrize("name", TINY)
def test_pairs_become_a_step(name: str) -> None:
    vlm = TINY[name]()
    store = ImageStore(vlm, 2**24)
    encoded = encode_pairs(vlm, pairs(), store)
    assert len(encoded) == 3 and not encoded.dropped
    tuned = add_lora(vlm, LoraSettings(rank=2))
    trained = [key for key, parameter in tuned.model.named_parameters() if parameter.requires_grad]
    assert trained and all(".layers." in key and ("language_model" in key or "text_model" in key) for key in trained)
    batch = PairCollator(store)(encoded.rows)["batch"]
    placeholders = process_images(vlm, PICTURES[:2]).placeholders
    for prompt, pair, picture in zip(batch.prompt_ids, pairs(), (0, 1, 0), strict=True):
        assert prompt.tolist() == encode_prompt(vlm, pair.prompt, [placeholders[picture]])
    scorer = PairScorer(tuned, sharing="on").train()
    loss = build_objective("dpo").loss(scorer(batch))
    loss.backward()
    optimizer = torch.optim.SGD([p for p in tuned.model.parameters() if p.requires_grad], lr=0.05)
    optimizer.step()
    shared = scorer(batch)
    assert build_objective("dpo").loss(shared) < loss
    plain = PairScorer(tuned, sharing="off").train()(batch)
    torch.testing.assert_close(shared.rejected.policy, plain.rejected.policy, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", TINY)
def test_the_reference_cache(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """trl 5867, ms-swift 10196: refused for vision, or ignored without a word. Here it gives the same loss."""
    monkeypatch.setattr(reference, "reference_identity", lambda vlm, *of: name)  # these models lie in no folder
    tuned = add_lora(TINY[name](), LoraSettings(rank=2))
    for key, weight in tuned.model.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(weight, std=0.3)
    store = ImageStore(tuned, 2**24)
    encoded = encode_pairs(tuned, pairs(), store)
    cache = reference.cached_reference(tuned, encoded, store, tmp_path, [[0, 1], [2]])
    rows = reference.with_reference(encoded, reference.ReferenceLogps.open(tmp_path, tuned), store).rows
    batch = PairCollator(store)(rows)["batch"]
    fly = PairScorer(tuned, sharing="on")(batch)
    kept = PairScorer(tuned, sharing="on", reference="cached")(batch)
    torch.testing.assert_close(kept.chosen.reference, fly.chosen.reference, rtol=0, atol=1e-5)
    torch.testing.assert_close(kept.rejected.reference, fly.rejected.reference, rtol=0, atol=1e-5)
    assert len(cache.rows) == 3 and (kept.chosen.policy - kept.chosen.reference).abs().max() > 1e-3
