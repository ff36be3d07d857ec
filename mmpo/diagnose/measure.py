"""The numbers of pairs under a model and its reference, a unit of pairs at a time: one pass with hidden states where
they are asked for, and one more about masked pictures.

Shapes: b pairs, t tokens of a response (padded), h hidden.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from mmpo.data.pair import PreferencePair
from mmpo.diagnose.displacement import Ches, ches, summed
from mmpo.diagnose.perception import MaskedPictures, perception_gap
from mmpo.diagnose.settings import Costly, DiagnoseSettings
from mmpo.diagnose.table import NAN, MeanStates, PairNumbers, with_numbers
from mmpo.errors import Quarantined
from mmpo.models.families.loading import VLM
from mmpo.models.scoring.score import PairScorer
from mmpo.models.scoring.statistics import PREDICTOR_STATES
from mmpo.progress import ProgressTask
from mmpo.trainers.collate import EncodedPair, EncodedPairs, PairCollator, encode_pairs
from mmpo.trainers.images import ImageStore
from mmpo.trainers.schedule import cut
from mmpo.types import PairLogps, ResponseLogps

IMAGE_CACHE_BYTES = 256 * 2**20


@dataclass(frozen=True)
class DiagnosedUnit:
    """The numbers of a unit's pairs, in order, and the mean states of those that have some."""

    numbers: list[PairNumbers]
    states: list[MeanStates | None]


class PairMeasurer:
    """Measures units of pairs. Without an adapter the model is the reference, and there is no policy."""

    def __init__(self, vlm: VLM, settings: DiagnoseSettings) -> None:
        self.vlm, self.settings = vlm, settings
        vlm.model.eval()
        self._adapter = settings.adapter is not None
        reference = "adapter_off" if self._adapter else "none"
        self._plain = PairScorer(vlm, reference=reference)  # type: ignore[arg-type]
        self._states = PairScorer(vlm, reference=reference, further=(PREDICTOR_STATES,))  # type: ignore[arg-type]
        self._masked = PairScorer(vlm, reference="none", further=(PREDICTOR_STATES,))

    @torch.no_grad()
    def __call__(
        self,
        root: Path,
        rows: Sequence[int],
        pairs: Sequence[PreferencePair],
        *,
        asked: Collection[Costly],
        probed: Collection[int] = (),
        held_out: Collection[str] = (),
        running: ProgressTask | None = None,
    ) -> DiagnosedUnit:
        """The numbers of `pairs`, which are these rows of the folder `root`; `asked` names the costly ones. `probed`
        rows get their mean states, pairs of the ids `held_out` are marked."""
        store = ImageStore(self.vlm, IMAGE_CACHE_BYTES, self.settings.max_pixels)
        encoded, reasons = encode(self.vlm, self.settings, store, root, rows, pairs)
        found: dict[int, tuple[PairNumbers, MeanStates | None]] = {}
        names = dict(zip(rows, (pair.id for pair in pairs), strict=True))
        for row, reason in reasons.items():
            found[row] = PairNumbers(row, names[row], reason, names[row] in held_out), None
        if running is not None:
            running.advance(len(reasons))
        collate, mask = PairCollator(store), MaskedPictures(self.vlm, store, self.settings.masked, self.settings.seed)
        for indices in cut(encoded.lengths, self.settings.batch_size):
            batch = [encoded[i] for i in indices]
            for own, numbers, states in self._batch(batch, collate, mask, asked):
                row = row_of(own)
                found[row] = (
                    replace(numbers, row=row, id=names[row], held_out=names[row] in held_out),
                    states if row in probed else None,
                )
            if running is not None:
                running.advance(len(batch))
        ordered = [found[row] for row in rows]
        return DiagnosedUnit([numbers for numbers, _ in ordered], [states for _, states in ordered])

    def _batch(
        self, rows: Sequence[EncodedPair], collate: PairCollator, mask: MaskedPictures, asked: Collection[Costly]
    ) -> list[tuple[EncodedPair, PairNumbers, MeanStates | None]]:
        wanted = bool({"ches", "separability", "perception"} & set(asked))
        made = collate(rows)["batch"]
        pairs = (self._states if wanted else self._plain)(made.to(self.vlm.device))
        sums = _sums(pairs, policy=self._adapter)
        means: list[MeanStates | None] = [None] * len(rows)
        if wanted:
            similarity, means = self._similarity(pairs)
            if "ches" in asked:
                sums |= {
                    "ches": similarity.raw.tolist(),
                    "ches_normalized": similarity.normalized.tolist(),
                    "ches_relative": similarity.relative.tolist(),
                }
        if "perception" in asked and any(row.all_images for row in rows):
            unseen = self._masked(mask(made, rows).to(self.vlm.device))
            for name in ("chosen", "rejected"):
                clean, masked = getattr(pairs, name), getattr(unseen, name)
                gaps = perception_gap(
                    self.vlm, clean.read("predictor_states"), masked.read("predictor_states"), clean.mask
                )
                shown = [row.all_images for row in rows]
                sums[f"perception_{name}"] = [
                    gap if keys else NAN for gap, keys in zip(gaps.tolist(), shown, strict=True)
                ]
        blank = PairNumbers(0, "")
        return [
            (row, with_numbers(blank, {name: values[k] for name, values in sums.items()}), means[k])
            for k, row in enumerate(rows)
        ]

    def _similarity(self, pairs: PairLogps) -> tuple[Ches, list[MeanStates | None]]:
        """CHES under the reference, and its mean states."""
        name = "reference_predictor_states" if self._adapter else "predictor_states"
        sums, tokens = [], []
        for side in (pairs.chosen, pairs.rejected):
            states, mask = side.read(name), side.mask
            sums.append(summed(states.float().cpu().double().numpy(), mask.cpu().numpy()))
            tokens.append(side.lengths.cpu().double().numpy())
        means: list[MeanStates | None] = [
            MeanStates(*((total[k] / count[k]).astype("float32") for total, count in zip(sums, tokens, strict=True)))
            for k in range(len(sums[0]))
        ]
        return ches(*sums, *tokens), means


def encode(
    vlm: VLM,
    settings: DiagnoseSettings,
    store: ImageStore,
    root: Path,
    rows: Sequence[int],
    pairs: Sequence[PreferencePair],
) -> tuple[EncodedPairs, dict[int, str]]:
    """Pairs as token ids, with the limits of the training; and by row the reason why a pair can't be used. The ids of
    what is encoded begin with the row (`row_of`), for ids may come twice."""
    reasons: dict[int, str] = {}

    def leave_out(name: str, error: Quarantined) -> None:
        reasons[int(name.partition(":")[0])] = f"{error.stage}/{error.reason}"

    named = [replace(pair, id=f"{row}:{pair.id}", twin=None) for row, pair in zip(rows, pairs, strict=True)]
    encoded = encode_pairs(
        vlm,
        named,
        store,
        root=root,
        max_response_tokens=settings.max_response_tokens,
        max_tokens=settings.max_tokens,
        max_pixels_per_pair=settings.max_pixels_per_pair,
        on_reject=leave_out,
    )
    return encoded, reasons


def row_of(row: EncodedPair) -> int:
    """The number of the pair in its folder."""
    return int(row.id.partition(":")[0])


def _sums(pairs: PairLogps, *, policy: bool) -> dict[str, list[float]]:
    """Sums [b] of the log-probs, by column; without a `policy` the model's are the reference's."""

    def total(values: Tensor) -> list[float]:
        found: list[float] = values.double().sum(dim=-1).tolist()
        return found

    found: dict[str, list[float]] = {}
    for name in ("chosen", "rejected"):
        side: ResponseLogps = getattr(pairs, name)
        if policy:
            assert side.reference is not None
            found |= {f"policy_{name}": total(side.policy), f"reference_{name}": total(side.reference)}
        else:
            found[f"reference_{name}"] = total(side.policy)
        found[f"{name}_tokens"] = side.lengths.double().tolist()
    return found
