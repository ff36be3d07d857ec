"""Rows of training are what the processor makes, and turns of a row are kept apart."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mmpo.demo import model_path
from mmpo.demo.language import Turn, noun_phrase
from mmpo.demo.scene import sample_scene
from mmpo.models.families.loading import VLM, load_vlm
from mmpo.models.families.prompts import encode_prompt
from tools.demo_models.architecture import IMAGE_TOKENS
from tools.demo_models.caption_training import (
    batch_loss,
    decisive_tokens,
    make_batch,
    name_tokens,
    naming_again,
    several_row,
    single_row,
    thing_of_token,
)


@pytest.fixture(scope="module")
def demo() -> VLM:
    return load_vlm(str(model_path()))


def test_training_rows_are_the_prompts_of_the_processor(demo: VLM) -> None:
    scenes, before, turns = single_row((1, 2, 3))
    batch = make_batch([(scenes, before, turns[:1])], demo.tokenizer, IMAGE_TOKENS)
    content = [{"type": "image"}, {"type": "text", "text": turns[0].question}]
    prompt = encode_prompt(demo, [{"role": "user", "content": content}], 1)
    assert batch.ids[0, : len(prompt)].tolist() == prompt
    assert batch.targets[-1].item() == demo.eos_id
    pixels = demo.processor.image_processor([scenes[0].draw()], return_tensors="pt")["pixel_values"]
    assert torch.allclose(batch.images, pixels, atol=1e-5)


def test_turns_of_a_row_do_not_see_each_other(demo: VLM) -> None:
    """The loss of two turns in one row is the weighted mean of their losses alone."""
    names, decisive = name_tokens(demo.tokenizer), decisive_tokens(demo.tokenizer)
    scenes, before, turns = single_row((1, 2, 4))

    def loss_of(*chosen: int) -> tuple[float, float]:
        batch = make_batch([(scenes, before, [turns[k] for k in chosen])], demo.tokenizer, IMAGE_TOKENS)
        weight = float((1 + 4 * torch.isin(batch.targets, decisive).float()).sum())
        with torch.no_grad():
            return float(batch_loss(demo.base, batch, names, decisive, align=0.0)), weight

    (first, w1), (second, w2), (both, _) = loss_of(0), loss_of(2), loss_of(0, 2)
    assert both == pytest.approx((w1 * first + w2 * second) / (w1 + w2), rel=1e-4)


def test_naming_again_is_the_chance_of_what_the_turn_has_named(demo: VLM) -> None:
    """By hand: one turn names three things; at the second the first one's chance counts, at the third both."""
    scene = next(scene for k in range(50) if len((scene := sample_scene((0, 1, k))).things) >= 3)
    listing = Turn("What is there?", f"There is {', '.join(noun_phrase(thing) for thing in scene.things[:3])}.")
    batch = make_batch([([scene], "<image>\n", [listing, listing])], demo.tokenizer, IMAGE_TOKENS)
    things = thing_of_token(demo.tokenizer)
    logits = torch.randn(len(batch.targets), len(things), generator=torch.Generator().manual_seed(0))
    chances = logits.softmax(-1)
    expected = []
    for turn in (0, 1):
        named: list[int] = []
        for at in (batch.turns == turn).nonzero().flatten().tolist():
            thing = int(things[batch.targets[at]])
            if thing >= 0:
                again = sum(float(chances[at, things == other].sum()) for other in set(named) - {thing})
                expected += [-math.log1p(-again)] if set(named) - {thing} else []
                named.append(thing)
    assert len(expected) == 4
    assert float(naming_again(logits, batch, things)) == pytest.approx(np.mean(expected), rel=1e-5)


def test_rows_with_several_images_name_one_of_them() -> None:
    scenes, before, turns = several_row((3, 3, 1))
    assert before.count("<image>") == len(scenes) in (2, 3)
    assert all("Image" in turn.question + turn.answer for turn in turns)
