"""Pairs that share an image, or an image and a prompt, scored as one tree: the same numbers from fewer tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mmpo.models.families.loading import VLM
from mmpo.models.families.prompts import encode_prompt, encode_response, process_images
from mmpo.models.scoring.score import PairBatch, PairScorer
from mmpo.models.tree import sharing
from tests.models.pairs import gradients, worst_relative
from tests.tiny import add_lora, tiny_image, tiny_llava, user


@pytest.fixture
def policy() -> VLM:
    return add_lora(tiny_llava(), spread=0.1)


@pytest.fixture(autouse=True, params=[4, 64])
def least(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The tiny model's images take few tokens: with 4, images are shared too, with 64 only whole prompts."""
    monkeypatch.setattr(sharing, "LEAST_SHARED", request.param)
    return request.param


def variants(vlm: VLM, count: int = 3) -> PairBatch:
    """`count` x `count` pairs of one prompt, and two more questions about the same image and another one."""
    images = process_images(vlm, [tiny_image(0), tiny_image(1)])

    def prompt(text: str, *shown: int) -> torch.Tensor:
        return torch.tensor(encode_prompt(vlm, user(text, len(shown)), [images.placeholders[k] for k in shown]))

    def answer(text: str) -> torch.Tensor:
        return torch.tensor(encode_response(vlm, text))

    rows = [
        (prompt("Describe the image", 0), answer("there is a dog" + " there" * i), answer("No cat" * (j + 1)), [0])
        for i in range(count)
        for j in range(count)
    ]
    rows.append((prompt("Is there a cat?", 0), answer("No"), answer("Yes, there is a cat"), [0]))
    rows.append((prompt("Is there a dog?", 1, 0), answer("Yes"), answer("No"), [1, 0]))
    counts = [ids.count(vlm.image_token_id) for ids in images.placeholders]
    prompts, chosen, rejected, index = (list(column) for column in zip(*rows, strict=True))
    names = [f"pair-{i}" for i in range(len(rows))]
    return PairBatch(names, prompts, chosen, rejected, images.tensors, index, image_tokens=counts)


def test_the_tree_of_a_batch_gives_the_log_probs_of_plain_rows(policy: VLM) -> None:
    batch = variants(policy)
    tree = PairScorer(policy, sharing="on")(batch)
    plain = PairScorer(policy, sharing="off")(replace(batch, image_tokens=None))
    for ours, theirs in ((tree.chosen, plain.chosen), (tree.rejected, plain.rejected)):
        assert torch.equal(ours.mask, theirs.mask)
        torch.testing.assert_close(ours.policy, theirs.policy, atol=1e-5, rtol=0)
        torch.testing.assert_close(ours.reference, theirs.reference, atol=1e-5, rtol=0)
    assert worst_relative(gradients(policy, tree), gradients(policy, plain)) < 1e-4


def test_gradients_of_a_response_that_several_pairs_use_add_up(policy: VLM) -> None:
    batch = variants(policy)
    together = gradients(policy, PairScorer(policy, sharing="on")(batch))
    apart = gradients(policy, PairScorer(policy, sharing="on")(replace(batch, image_tokens=None)))
    assert worst_relative(together, apart) < 1e-4


def test_nine_pairs_cost_little_more_than_three(policy: VLM, least: int) -> None:
    batch = variants(policy)
    shared = batch.shared(policy.image_token_id)
    distinct = sum(len(segment.ids) for tree in shared.trees for segment in tree)
    apart = replace(batch, image_tokens=None).shared(policy.image_token_id)
    paid = sum(len(segment.ids) for tree in apart.trees for segment in tree)
    assert len(shared.leaf) == 2 * len(batch)
    assert distinct < paid / 2.5
    assert len(shared.trees) == (1 if least == 4 else 3)  # four tokens come before every image


def test_scoring_without_trees_still_encodes_equal_paths_once(policy: VLM) -> None:
    batch = variants(policy)
    plain = PairScorer(policy, sharing="off")(batch)
    alone = PairScorer(policy, sharing="off")(replace(batch, image_tokens=None))
    torch.testing.assert_close(plain.chosen.policy, alone.chosen.policy, atol=1e-5, rtol=0)
    torch.testing.assert_close(plain.rejected.policy, alone.rejected.policy, atol=1e-5, rtol=0)
