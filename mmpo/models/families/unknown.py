"""Scoring with a model that mmpo has no record of: one row at a time, everything left to the model's own code.

Slow, and right for every model that is causal and takes its processor's output as it is. Whether it is, the first
batch shows (`check`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmpo.errors import UserError
from mmpo.models.families.loading import VLM
from mmpo.models.families.processing import ROWS, processor_facts
from mmpo.models.scoring.logprob import logits_of
from mmpo.models.tree.layout import TreeBatch

# Far above rounding in bfloat16, far below what reading the future or missing an image does.
_TOLERANCE = 0.05


@dataclass(frozen=True)
class ProcessedPixels:
    """The processor's tensors of the distinct images, each with `key + ROWS`: how many rows belong to each image."""

    tensors: Mapping[str, Tensor]

    def __len__(self) -> int:
        return max((len(value) for key, value in self.tensors.items() if key.endswith(ROWS)), default=0)

    def of(self, images: Sequence[int]) -> dict[str, Tensor]:
        """The tensors of some images, in order; none for no images."""
        if images and max(images) >= len(self):
            raise UserError(f"a prompt shows image {max(images)} but only {len(self)} were given")
        found = {}
        for key, value in self.tensors.items():
            if images and not key.endswith(ROWS):
                parts = value.split(self.tensors[key + ROWS].tolist())
                found[key] = torch.cat([parts[image] for image in images])
        return found


def hidden_states(vlm: VLM, layout: TreeBatch, pixels: ProcessedPixels | None) -> Tensor:
    """Last hidden states [rows, s, h] of plain rows, computed row by row; zeros at padding."""
    pixels = pixels or ProcessedPixels({})
    rows, first = [], 0
    for number, count in enumerate(layout.images_per_row):
        length = int(layout.attention_mask[number].sum())
        images = layout.image_order[first : first + count]
        first += count
        row = _row(vlm, layout.input_ids[number, :length], pixels.of(images))
        rows.append(torch.nn.functional.pad(row, (0, 0, 0, layout.input_ids.shape[1] - length)))
    return torch.stack(rows)


@torch.no_grad()
def check(vlm: VLM, layout: TreeBatch, pixels: ProcessedPixels | None) -> None:
    """Raises `UserError` unless, on the first row with images (else the first), a later token changes nothing that
    was computed before it, the head's output is what the model itself makes of the states, and the images change
    something."""
    counts = layout.images_per_row
    number = next((i for i, count in enumerate(counts) if count), 0)
    ids = layout.input_ids[number, : int(layout.attention_mask[number].sum())]
    first = sum(counts[:number])
    shown = (pixels or ProcessedPixels({})).of(layout.image_order[first : first + counts[number]])
    states, shorter = _row(vlm, ids, shown), _row(vlm, ids[:-1], shown)
    if not (states[:-1] - shorter).abs().mean() <= _TOLERANCE * states.abs().mean():
        raise UserError(
            f"{vlm.family.name}: the model reads tokens that come later, so its log-probs can't be taken from one pass",
            hint="use a model of a supported family",
        )
    own = vlm.base(**_inputs(vlm, ids, shown), use_cache=False).logits[0].float().log_softmax(-1)
    ours = logits_of(states, vlm.head.weight, vlm.head.bias, vlm.softcap).log_softmax(-1)  # type: ignore[arg-type]
    if not (own - ours).abs().mean() <= _TOLERANCE:
        raise UserError(
            f"{vlm.family.name}: the model changes its logits after the head (a scale, a cap), mmpo doesn't know how",
            hint="use a model of a supported family",
        )
    if shown:
        other = {key: value.flip(-1) * 0.5 if value.is_floating_point() else value for key, value in shown.items()}
        if torch.equal(states, _row(vlm, ids, other)):
            raise UserError(
                f"{vlm.family.name}: another image gives the same states: the model doesn't see what it is shown",
                hint="use a model of a supported family",
            )


def _row(vlm: VLM, ids: Tensor, pixels: Mapping[str, Tensor]) -> Tensor:
    """Hidden states [n, h] of one row without padding."""
    states: Tensor = vlm.backbone(**_inputs(vlm, ids, pixels), use_cache=False).last_hidden_state[0]
    return states


def _inputs(vlm: VLM, ids: Tensor, pixels: Mapping[str, Tensor]) -> dict[str, Any]:
    """Keyword arguments of the model's own forward for one row."""
    ids = ids[None]
    kinds = {key: (ids == vlm.image_token_id).long() for key in processor_facts(vlm).get("token_keys", ())}
    images = {
        key: value.to(vlm.device, vlm.dtype if value.is_floating_point() else None) for key, value in pixels.items()
    }
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **kinds, **images}
