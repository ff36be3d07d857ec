"""Pair batches for the tests of the scoring core."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from mmpo.models.families.loading import VLM
from mmpo.models.families.processing import ProcessedImages, join_images
from mmpo.models.families.prompts import encode_prompt, encode_response, process_images
from mmpo.models.scoring.score import PairBatch
from mmpo.types import PairLogps
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


def one_pair(
    vlm: VLM, messages: list[dict[str, Any]], shown: ProcessedImages, chosen: str = "Yes", rejected: str = "No"
) -> PairBatch:
    """One prompt about all that is shown, and two answers to it."""
    prompt = encode_prompt(vlm, messages, shown.placeholders)
    ids = [[torch.tensor(one)] for one in (prompt, encode_response(vlm, chosen), encode_response(vlm, rejected))]
    return PairBatch(["a"], ids[0], ids[1], ids[2], shown.tensors, [list(range(len(shown.placeholders)))])


PICTURES = [tiny_image(0), tiny_image(1, (30, 60)), tiny_image(2, (64, 28))]
"""Three images of different shapes: families that keep shapes or cut tiles make different numbers of tokens of them."""


def mixed_batch(vlm: VLM, *, across: bool = True) -> PairBatch:
    """What a batch can hold at once: pairs about different images and one image, several images (prepared once more
    where the family does so beside others), no image, and a rejected side that sees another image. `across` lets pairs
    share with each other."""
    images = process_images(vlm, PICTURES)
    several = [1, 0]
    if vlm.family.count_key is not None:
        beside = process_images(vlm, [PICTURES[1], PICTURES[0]], several=True)
        tensors = join_images([images.tensors, beside.tensors])
        images, several = ProcessedImages(tensors, images.placeholders + beside.placeholders), [3, 4]
    shown = [[0], [0], [1], several, []]
    texts = ["Is there a dog?", "What colour is the ball?", "Describe the image.", "How many people?", "Hello"]
    other: list[list[int] | None] = [None, None, [2], None, None]

    def prompt(i: int, show: Sequence[int]) -> torch.Tensor:
        return torch.tensor(encode_prompt(vlm, user(texts[i], len(show)), [images.placeholders[k] for k in show]))

    return PairBatch(
        ids=[f"pair-{i}" for i in range(5)],
        prompt_ids=[prompt(i, show) for i, show in enumerate(shown)],
        chosen_ids=[torch.tensor(encode_response(vlm, "Yes, there is a dog" + " there" * i)) for i in range(5)],
        rejected_ids=[torch.tensor(encode_response(vlm, "No " * (5 - i) + "cat")) for i in range(5)],
        image_inputs=images.tensors,
        image_index=shown,
        rejected_prompt_ids=[None if show is None else prompt(i, show) for i, show in enumerate(other)],
        rejected_image_index=other,
        image_tokens=[ids.count(vlm.image_token_id) for ids in images.placeholders] if across else None,
    )


def by_hand(
    vlm: VLM, messages: list[dict[str, Any]], images: Sequence[Image.Image], response: str
) -> tuple[list[int], torch.Tensor]:
    """Token ids of prompt and response, and every token's log-prob but the first's, as a user of transformers would get
    them: whole text and images through the processor, all it returns through the model with its own attention."""
    if vlm.family.template is not None:  # PaliGemma's processor puts its prompt together by itself
        text = "<image>" * len(images) + messages[0]["content"][-1]["text"]
        out = vlm.processor(text=text, images=list(images), suffix=response, return_tensors="pt")
        out.pop("labels")
    else:
        answer = {"role": "assistant", "content": [{"type": "text", "text": response}]}
        text = vlm.processor.apply_chat_template([*messages, answer], tokenize=False).rstrip()
        shown = [list(images)] if images else None
        out = vlm.processor(text=[text], images=shown, add_special_tokens=False, return_tensors="pt")
    inputs = {"pixel_values" if key == "pixel_values_images" else key: value for key, value in out.items()}
    text_config = vlm.config.get_text_config()
    before = text_config._attn_implementation
    plain = "sdpa" if getattr(text_config, "attn_logit_softcapping", None) is None else "eager"
    vlm.base.set_attn_implementation({"text_config": plain})
    logps = vlm.model(**inputs).logits[0, :-1].float().log_softmax(-1)
    vlm.base.set_attn_implementation({"text_config": before})
    ids = inputs["input_ids"][0]
    return ids.tolist(), logps.gather(1, ids[1:, None]).squeeze(1)


def gradients(vlm: VLM, pairs: PairLogps) -> dict[str, torch.Tensor]:
    """Gradients of an uneven function of every log-prob."""
    vlm.model.zero_grad(set_to_none=True)
    (pairs.chosen.policy_sum.sum() - 2 * pairs.rejected.policy_sum.square().sum() / 50).backward()
    return {name: p.grad.clone() for name, p in vlm.model.named_parameters() if p.grad is not None}


def worst_relative(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    assert actual.keys() == expected.keys() and actual
    return max(((actual[k] - expected[k]).norm() / expected[k].norm().clamp_min(1e-12)).item() for k in expected)
