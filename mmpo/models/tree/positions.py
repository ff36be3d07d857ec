"""Positions of tokens: of every token of a segment, and of what follows it.

Most language models count along the path. Models with multimodal rotary positions (the Qwen-VL families) give a token
three coordinates (time, height, width); there the model's own `get_rope_index` is asked, segment by segment, so that
rules for images are never written a second time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from mmpo.models.families.loading import VLM
from mmpo.models.families.processing import KINDS
from mmpo.models.tree.segments import Segment


class Positions(Protocol):
    """`first` is the position of a row's first token."""

    first: int

    def place(self, segment: Segment, start: int) -> tuple[Tensor, int]:
        """Positions of the segment's tokens, [n] or [3, n], when it begins at `start`, and where the next begins."""
        ...


class SequentialPositions:
    """One position a token: [n]."""

    def __init__(self, first: int = 0) -> None:
        self.first = first

    def place(self, segment: Segment, start: int) -> tuple[Tensor, int]:
        end = start + len(segment.ids)
        return torch.arange(start, end), end


class GridPositions:
    """Three coordinates a token: [3, n]. `image_inputs` are the processor's tensors, with the grids [images, 3].

    An image takes the coordinates of its patches and moves what follows by its longer side only, so the text after a
    picture stands much nearer than its token count says."""

    first = 0

    def __init__(self, vlm: VLM, image_inputs: Mapping[str, Tensor]) -> None:
        self._vlm = vlm
        names = ("image_grid_thw", "video_grid_thw", "second_per_grid_ts")
        self._grids = {name: image_inputs[name].cpu() for name in names if name in image_inputs}
        self._kinds = image_inputs[KINDS].tolist() if KINDS in image_inputs else None

    def place(self, segment: Segment, start: int) -> tuple[Tensor, int]:
        if not segment.images or not self._grids:
            end = start + len(segment.ids)
            return torch.arange(start, end).expand(3, -1), end
        ids = torch.tensor([[*segment.ids, self._vlm.pad_id]])  # one text token more: it shows where the next begins
        types = token_types_of(self._vlm, ids)
        grids = self._of(segment.images)
        merged = self._vlm.config.vision_config.spatial_merge_size**2
        wanted = sum(int(grids[name].prod(-1).sum()) for name in ("image_grid_thw", "video_grid_thw") if name in grids)
        if (shown := int((types > 0).sum())) != wanted // merged:
            raise ValueError(
                f"Image features and image tokens do not match: {shown} tokens, {wanted // merged} features"
            )
        places, _ = self._vlm.backbone.get_rope_index(  # type: ignore[operator]
            ids, mm_token_type_ids=types, **grids
        )
        places = places[:, 0] + start
        return places[:, :-1], int(places[0, -1])

    def _of(self, images: Sequence[int]) -> dict[str, Tensor]:
        """The grids of some images and videos, each kind in order."""
        if self._kinds is None:
            return {"image_grid_thw": self._grids["image_grid_thw"][list(images)]}
        found = {}
        for name, values in self._grids.items():
            kind = int(name != "image_grid_thw")
            own = [sum(k == kind for k in self._kinds[:i]) for i in images if self._kinds[i] == kind]
            if own:
                found[name] = values[own]
        return found


def token_types_of(vlm: VLM, ids: Tensor) -> Tensor:
    """`mm_token_type_ids` of Qwen's code: 0 for text, 1 for image tokens, 2 for video tokens."""
    types = (ids == vlm.image_token_id).int()
    for kind, token in enumerate(vlm.visual_token_ids[1:], start=2):
        types += kind * (ids == token).int()
    return types


def positions_of(vlm: VLM, image_inputs: Mapping[str, Tensor] | None = None) -> Positions:
    """The position rule of this model's family; `image_inputs` are the processor's tensors of the distinct images."""
    if vlm.family.grid_positions:
        return GridPositions(vlm, image_inputs or {})
    return SequentialPositions(vlm.family.position_base)


def place_path(positions: Positions, segments: Sequence[Segment]) -> tuple[Tensor, int]:
    """Positions of a whole path of segments, and of what follows."""
    places, start = [], positions.first
    for segment in segments:
        own, start = positions.place(segment, start)
        places.append(own)
    return torch.cat(places, dim=-1), start
