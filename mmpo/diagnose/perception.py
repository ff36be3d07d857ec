"""Does the picture change the answer? The divergence of a model's next-token distributions between the picture and the
same picture with most of it hidden, along a given answer (Wang et al. 2025, PAPO, arXiv:2507.06448, where it is a
training signal). Near zero the answer is written without looking.

Shapes: b pairs, t tokens of a response (padded), h hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mmpo.data.corruption import Corruption, generator
from mmpo.models.families.loading import VLM
from mmpo.models.families.processing import join_images
from mmpo.models.scoring.divergence import token_kl
from mmpo.models.scoring.pairs import PairBatch
from mmpo.trainers.encoded import EncodedPair
from mmpo.trainers.images import ImageStore
from mmpo.trainers.views.views import ImageCorrupter


class MaskedPictures:
    """Batches with their pictures masked: `share` of each picture's patches in its mean colour, drawn by `seed` and the
    picture's content, so that a picture is always masked alike. Prompts and their lengths stay."""

    def __init__(self, vlm: VLM, store: ImageStore, share: float, seed: int) -> None:
        self._store, self._seed = store, seed
        self._mask = ImageCorrupter(vlm, store, Corruption("patches", {"share": share}), ())

    def __call__(self, batch: PairBatch, rows: Sequence[EncodedPair]) -> PairBatch:
        """The batch that a `PairCollator` made of these rows, about the masked pictures."""
        keys = (keys for row in rows for keys in (row.images, row.rejected_images or ()))
        shown = dict.fromkeys(image for images in map(self._store.shown, keys) for image in images)
        masked = [
            self._mask(image.key, generator(self._seed, self._store.content(image.key), 0), image.among_several)
            for image in shown
        ]
        return replace(batch, image_inputs=join_images([one.tensors for one in masked]))


def perception_gap(vlm: VLM, clean: Tensor, masked: Tensor, mask: Tensor) -> Tensor:
    """[b] the mean over a response's tokens of KL(clean || masked), nats, from the states [b, t, h] that predict them;
    `mask` [b, t] says which tokens count."""
    found = token_kl(masked[mask], clean[mask], vlm.head, softcap=vlm.softcap).double()
    spread = torch.zeros(mask.shape, dtype=torch.float64, device=found.device).masked_scatter(mask, found)
    return spread.sum(dim=-1) / mask.sum(dim=-1)
