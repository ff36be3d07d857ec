"""Where tokens are: the position of every token of a segment, and of what follows it.

Most language models count along the path. Models with multimodal rotary positions (the Qwen-VL families) give a token
three coordinates (time, height, width); there the model's own `get_rope_index` is asked, segment by segment, so that
rules for images are never written a second time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from mmpo.models.loading import VLM
from mmpo.models.tree import Segment


class Positions(Protocol):
    """`first` is the position of a row's first token."""

    first: int

    def place(self, segment: Segment, start: int) -> tuple[Tensor, int]:
        """Positions of the segment's tokens, [n] or [3, n], when it begins at `start`, and where the next begins."""
        ...


class Counted:
    """One position a token: [n]."""

    def __init__(self, first: int = 0) -> None:
        self.first = first

    def place(self, segment: Segment, start: int) -> tuple[Tensor, int]:
        end = start + len(segment.ids)
        return torch.arange(start, end), end


class Grid:
    """Three coordinates a token: [3, n]. `grids` [images, 3] are the processor's `image_grid_thw`.

    An image takes the coordinates of its patches and moves what follows by its longer side only, so the text after a
    picture stands much nearer than its token count says."""

    first = 0

    def __init__(self, vlm: VLM, grids: Tensor | None) -> None:
        self._vlm = vlm
        self._grids = grids.cpu() if grids is not None else None

    def place(self, segment: Segment, start: int) -> tuple[Tensor, int]:
        if not segment.images or self._grids is None:
            end = start + len(segment.ids)
            return torch.arange(start, end).expand(3, -1), end
        ids = torch.tensor([[*segment.ids, self._vlm.pad_id]])  # one text token more: it tells where the next begins
        types = (ids == self._vlm.image_token_id).int()
        grids = self._grids[list(segment.images)]
        merged = self._vlm.config.vision_config.spatial_merge_size**2
        if (shown := int(types.sum())) != (wanted := int(grids.prod(-1).sum()) // merged):
            raise ValueError(f"Image features and image tokens do not match: {shown} tokens, {wanted} features")
        places, _ = self._vlm.backbone.get_rope_index(  # type: ignore[operator]
            ids, mm_token_type_ids=types, image_grid_thw=grids
        )
        places = places[:, 0] + start
        return places[:, :-1], int(places[0, -1])


def positions_of(vlm: VLM, image_inputs: Mapping[str, Tensor] | None = None) -> Positions:
    """How this model's family places tokens; `image_inputs` are the processor's tensors of the distinct images."""
    if vlm.family.grid_positions:
        return Grid(vlm, (image_inputs or {}).get("image_grid_thw"))
    return Counted(vlm.family.position_base)


def place_path(positions: Positions, segments: Sequence[Segment]) -> tuple[Tensor, int]:
    """Positions of a whole path of segments, and of what follows."""
    places, start = [], positions.first
    for segment in segments:
        own, start = positions.place(segment, start)
        places.append(own)
    return torch.cat(places, dim=-1), start
