"""What is trained on: rows of the table, and their pairs in the ecosystem's vision preference format."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image


@dataclass(frozen=True)
class Layout:
    """One row of the table. `image` is (width, height); `variants` k makes k chosen and k rejected responses to each
    prompt, all k * k pairs of which are trained on; `prompt` and `response` count tokens of text. `wide` takes the
    wider model with the whole vocabulary (on two cores)."""

    name: str
    family: str
    pairs: int
    images: int
    image: tuple[int, int]
    prompt: int = 70
    response: int = 100
    variants: int = 1
    checkpointing: bool = False
    wide: bool = False


LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout("llava-1.5", "llava", 2, 1, (360, 336), wide=True),
        Layout("llava-1.5-checkpointing", "llava", 2, 1, (360, 336), wide=True, checkpointing=True),
        Layout("llava-1.5-small-head", "llava", 2, 1, (360, 336)),
        Layout("llava-next", "llava_next", 1, 1, (672, 672)),
        Layout("qwen2.5-vl", "qwen2_5_vl", 2, 1, (756, 756)),
        Layout("smolvlm", "smolvlm", 2, 1, (1512, 1134)),
        Layout("4-images", "llava", 1, 4, (336, 336)),
        Layout("16-frames", "qwen2_5_vl", 1, 16, (336, 336), response=150),
        Layout("3+3-responses", "llava", 9, 1, (336, 336), variants=3),
    )
}


def quick(layout: Layout) -> Layout:
    """The same layout in a toy size."""
    small = (112, 112) if layout.family != "smolvlm" else (336, 252)
    return replace(layout, image=small, prompt=30, response=30, wide=False)


def examples(layout: Layout, pairs: int | None = None) -> list[dict[str, Any]]:
    """Pairs in TRL's vision preference format. All rows of a layout have one length: nothing is
    padded, which is TRL's best case."""
    made: list[dict[str, Any]] = []
    pairs = pairs or layout.pairs
    for group in range(pairs // layout.variants**2):
        images = [_picture(100 * group + k, layout.image) for k in range(layout.images)]
        question = digits(10_000 + group, layout.prompt - 12)
        sides = [[digits(20_000 + 100 * group + 10 * side + k, layout.response - 2) for k in range(layout.variants)]
                 for side in range(2)]  # fmt: skip
        for chosen in sides[0]:
            for rejected in sides[1]:
                made.append(
                    {
                        "images": images,
                        "prompt": [{"role": "user", "content": question}],
                        "chosen": [{"role": "assistant", "content": chosen}],
                        "rejected": [{"role": "assistant", "content": rejected}],
                    }
                )
    return made


def digits(seed: int, tokens: int) -> str:
    """A text of so many tokens: every digit is one of the toy tokenizer."""
    return "".join(map(str, torch.randint(0, 10, (tokens,), generator=torch.Generator().manual_seed(seed)).tolist()))


def _picture(seed: int, size: tuple[int, int]) -> Image.Image:
    """Smooth colours, like a photograph's, so that decoding costs what it costs for one."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
