"""The arithmetic that nobody can avoid for answers about an image: one tower pass, and one plain causal forward over
the distinct tokens: the beginning that the prompts share, then each prompt's own tokens and its answer's. The head is
applied where a token was chosen. Inputs lie ready, and no token waits for the one before it, as decoding must."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, takewhile

import torch
from PIL import Image

from mmpo.models.families.loading import VLM
from mmpo.models.families.prompts import encode_prompt, process_images
from mmpo.models.families.vision import encode_images, select_images


def answers_bound(
    vlm: VLM, image: Image.Image, texts: Sequence[str], answers: Sequence[Sequence[int]]
) -> Callable[[], None]:
    """A function that does it once. `answers` are the new token ids, one sequence for each text; equal texts (samples
    of one prompt) share all of it."""
    processed = process_images(vlm, [image])
    prompts = {text: _encoded(vlm, text, processed.placeholders[0]) for text in dict.fromkeys(texts)}
    alike = (len(set(column)) == 1 for column in zip(*prompts.values(), strict=False))
    shared = sum(takewhile(bool, alike))
    ids = list(next(iter(prompts.values()))[:shared])
    chosen_at = []  # the rows whose next token was chosen
    for text, prompt in prompts.items():
        ids += prompt[shared:]
        end = len(ids) - 1
        for answer in (answer for other, answer in zip(texts, answers, strict=True) if other == text):
            chosen_at.append([end, *range(len(ids), len(ids) + len(answer) - 1)])
            ids += answer[:-1]  # the last one is never read
    row = torch.tensor([ids], device=vlm.device)
    places = torch.tensor(sorted(set(chain(*chosen_at))), device=vlm.device)
    inputs = {name: tensor.to(vlm.device) for name, tensor in processed.tensors.items()}

    @torch.no_grad()
    def once() -> None:
        features = encode_images(vlm, inputs, frozen=True)
        states = vlm.backbone(input_ids=row, use_cache=False, **select_images(features, [0], vlm.family))
        vlm.head(states.last_hidden_state[0, places]).argmax(-1).tolist()

    return once


def _encoded(vlm: VLM, text: str, placeholder: Sequence[int]) -> list[int]:
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
    return list(encode_prompt(vlm, messages, [list(placeholder)]))
