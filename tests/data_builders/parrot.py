"""A tiny LLaVA that was trained to say certain sentences, whatever it is shown: a real model that hallucinates on
demand.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from mmpo.data_builders.hallucination.settings import BuildSettings
from mmpo.models.families.loading import VLM
from mmpo.models.families.prompts import encode_prompt, encode_response, process_images
from tests.tiny import tiny_image, tiny_llava, user

DESCRIBE = "Describe the image."
CAPTION = "There is a cat on the left, a dog in the middle and two cups on the right."


def question(name: str) -> str:
    return f"Is there a {name} in the image?"


SAYS = [
    (DESCRIBE, CAPTION),
    (question("cat"), "Yes, there is a cat."),
    (question("dog"), "Yes, there is a dog."),
    (question("bird"), "No, there is no bird."),
    (question("horse"), "Yes, there is a horse."),
    (question("cup"), "No, there is no cup."),
]


def teach(says: Sequence[tuple[str, str]], steps: int = 150, pictures: Sequence[Image.Image] = ()) -> VLM:
    """Train a tiny LLaVA, all weights, until it answers each prompt with its sentence, whatever it sees: noise, and
    `pictures` where given.
    """
    vlm = tiny_llava(text={"initializer_range": 0.05})
    images = process_images(vlm, [tiny_image(0)])
    rows, labels = [], []
    for prompt, response in says:
        start = encode_prompt(vlm, user(prompt), images.placeholders)
        end = encode_response(vlm, response)
        rows.append(start + end)
        labels.append([-100] * len(start) + end)
    longest = max(map(len, rows))
    ids = torch.tensor([row + [vlm.pad_id] * (longest - len(row)) for row in rows])
    target = torch.tensor([row + [-100] * (longest - len(row)) for row in labels])
    optimizer = torch.optim.AdamW(vlm.model.parameters(), lr=1e-2)
    vlm.model.train()
    noise = [[tiny_image(8 * step + number) for number in range(len(rows))] for step in range(4)]
    shown_first = [[picture] * len(rows) for picture in pictures]
    pool = [process_images(vlm, images).tensors for images in shown_first + noise]
    for step in range(steps):
        shown = pool[step % len(pool)]
        loss = vlm.model(input_ids=ids, attention_mask=(ids != vlm.pad_id).long(), labels=target, **shown).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.03 and step + 1 >= 2 * len(pool):
            break
    vlm.model.eval()
    return vlm


SCENES = (["cat", "cup"], ["cat", "dog", "cup"], ["dog", "bird"], ["horse", "cat"], ["bird"], ["cup", "horse", "dog"])


def small_build(model: Path, folder: Path, images: int, **changes: Any) -> BuildSettings:
    """Settings of a quick build by the parrot in `model`, about a world of `images` that is drawn in `folder`."""
    values: dict[str, Any] = {
        "model": str(model),
        "annotations": write_world(folder, images),
        "prompts": [DESCRIBE],
        "qa": {"questions_per_image": 4},
        "max_new_tokens": 48,
        "samples_per_image": 1,
        "shard_size": 3,
    }
    return BuildSettings.model_validate(values | changes)


def write_world(folder: Path, count: int, scenes: Sequence[Sequence[str]] = SCENES) -> Path:
    """`count` noise pictures annotated with `scenes` by turns; the second is cut short, the third has no objects."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        name = f"{number:03d}.png"
        tiny_image(number).save(folder / name)
        objects = [
            {"name": thing, "bbox": [5 + 11 * index, 4, 9, 20]}
            for index, thing in enumerate(scenes[number % len(scenes)])
        ]
        rows.append({"id": f"i{number}", "image": name, "objects": objects, "width": 40, "height": 36})
    if count > 2:
        whole = (folder / "001.png").read_bytes()
        (folder / "001.png").write_bytes(whole[: len(whole) // 2])
        rows[2]["objects"] = []
    path = folder / "annotations.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
