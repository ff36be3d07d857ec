"""Small random models of the families that take videos, ready to be shown some, in memory or saved.

With torchvision they have their families' own video processors. Without it those can't even be imported; then a
small one from here takes their place, which makes the same tensors of the same pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BatchFeature, PreTrainedConfig, ProcessorMixin
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.models.auto.video_processing_auto import AutoVideoProcessor
from transformers.utils import is_torchvision_available
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import make_batched_metadata

from mmpo.files.images import encode_image
from mmpo.models.families.loading import VLM
from mmpo.models.families.records import FAMILIES
from mmpo.video.clip import Clip
from tests.tiny import tiny_image
from tests.tiny_families import TINY, with_real_videos

VIDEO = [family.model_type for family in FAMILIES.values() if family.video_keys]

SIZE = (28, 28)
"""Frames as the towers of these models take them; the grids of the Qwen families make 24 x 24 of it."""


class FrameVideos(BaseVideoProcessor):
    """Whole frames of 28 x 28: [1, frames, 3, h, w]."""

    num_frames, fps = 8, 1
    mean, std = OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    def __call__(self, videos: Sequence[np.ndarray], **_: Any) -> BatchFeature:
        return BatchFeature({"pixel_values_videos": [torch.stack([self._pixels(f, SIZE) for f in v]) for v in videos]})

    def _pixels(self, frame: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
        """[3, h, w], normalized."""
        resized = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC), dtype=np.float32) / 255
        normal = (resized - np.float32(self.mean)) / np.float32(self.std)
        return torch.from_numpy(normal).permute(2, 0, 1)


class GridVideos(FrameVideos):
    """Patches of 2 x 4 x 4 pixels, merged by two: the Qwen families' form."""

    patch_size, merge_size, temporal_patch_size = 4, 2, 2

    def __call__(self, videos: Sequence[np.ndarray], video_metadata: Any = None, **_: Any) -> BatchFeature:
        patches, grids = zip(*map(self._patches, videos), strict=True)
        metadata = make_batched_metadata(videos, video_metadata)
        return BatchFeature(
            {
                "pixel_values_videos": torch.cat(patches),
                "video_grid_thw": torch.tensor(grids),
                "video_metadata": metadata,
            }
        )

    def _patches(self, frames: np.ndarray) -> tuple[torch.Tensor, list[int]]:
        p, m = self.patch_size, self.merge_size
        height, width = (min(40, max(8, side // (p * m) * (p * m))) for side in frames.shape[1:3])
        pixels = torch.stack([self._pixels(frame, (width, height)) for frame in frames])
        if len(pixels) % 2:
            pixels = torch.cat([pixels, pixels[-1:]])
        t, h, w = len(pixels) // 2, height // p, width // p
        cut = pixels.reshape(t, 2, 3, h // m, m, p, w // m, m, p).permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
        return cut.reshape(t * h * w, 3 * 2 * p * p), [t, h, w]


class Qwen3Videos(GridVideos):
    mean = std = (0.5, 0.5, 0.5)


for _class in (FrameVideos, GridVideos, Qwen3Videos):
    _config = type(f"{_class.__name__}Config", (PreTrainedConfig,), {"model_type": f"tiny_{_class.__name__.lower()}"})
    AutoVideoProcessor.register(_config, _class)


def video_model(name: str, **text: Any) -> VLM:
    """A model that is shown videos in its prompts' video parts."""
    vlm = TINY[name](**text)
    vlm.processor.chat_template = with_video(vlm.processor.chat_template)
    if is_torchvision_available():
        return with_real_videos(vlm)
    vlm.processor.video_processor = small_processor(vlm)
    return vlm


def small_processor(vlm: VLM) -> FrameVideos:
    """The stand-in for the video processor of the model's family."""
    if vlm.family.grid_positions:
        return Qwen3Videos() if vlm.family.model_type == "qwen3_vl" else GridVideos()
    return FrameVideos()


def save_video_model(name: str, folder: Path, *, brief: bool = False, **text: Any) -> Path:
    """The model in a folder that `load_vlm` opens, inside `openable` where torchvision is missing. A `brief` one ends
    its answers at any of a hundred tokens, and so within a few."""
    vlm = video_model(name, **text)
    if brief:
        vlm.model.generation_config.eos_token_id = [vlm.eos_id, *range(150, 250)]
    vlm.model.save_pretrained(folder)
    vlm.processor.save_pretrained(folder)
    return folder


@pytest.fixture
def openable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Saved models open without torchvision too: transformers can't name the class of a video processor then."""
    if not is_torchvision_available():
        monkeypatch.setattr(ProcessorMixin, "check_argument_for_proper_class", lambda self, name, part: type(part))


def with_video(template: str) -> str:
    """The tiny templates write images only; a video goes where an image would, by its own token."""
    for image, clip in (
        ("<|image_pad|>", "<|video_pad|>"),
        ("<image>", "<video>"),
    ):
        if image in template:
            begin = "{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
            both = (
                "{% for part in message['content'] if part['type'] != 'text' %}"
                "{% if part['type'] == 'video' %}<video>{% else %}<image>{% endif %}\n{% endfor %}"
            )
            if begin in template:
                return template.replace(begin, both)
            piece = template[template.index("{% if part['type'] == 'image' %}") :]
            shown = piece[len("{% if part['type'] == 'image' %}") : piece.index("{% else %}")]
            clipped = "{% elif part['type'] == 'video' %}" + shown.replace(image, clip)
            return template.replace(shown + "{% else %}", shown + clipped + "{% else %}", 1)
    raise AssertionError(template)


def clip(seed: int = 0, frames: int = 4, size: tuple[int, int] = SIZE, step: float = 0.5) -> Clip:
    """Noise frames as PNG files, `step` seconds apart."""
    files = tuple(encode_image(tiny_image(100 * seed + i, size)) for i in range(frames))
    return Clip(files, tuple(step * i for i in range(frames)))
