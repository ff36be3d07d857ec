"""Log-probs of pairs under policy and reference. Imports torch."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmpo.api.pairs import Pairs, folder_of, pairs_in
from mmpo.data.reader import PairDataset, check_pairs, read_pairs
from mmpo.errors import Quarantined, UserError
from mmpo.models.families.loading import VLM
from mmpo.models.scoring.score import PairScorer
from mmpo.progress import track
from mmpo.trainers.collate import PairCollator, encode_pairs
from mmpo.trainers.images import ImageStore
from mmpo.trainers.schedule import cut
from mmpo.types import ResponseLogps

if TYPE_CHECKING:
    import pandas

IMAGE_CACHE_BYTES = 1024 * 2**20


@dataclass(frozen=True)
class PairScores:
    """Log-probs of n pairs, in nats: float64 tensors [n] on the CPU, summed over a response's tokens, end included.

    `policy_*` are under the model with its adapter, `ref_*` with the adapter off, None for a model without one; the
    lengths count the scored tokens (int64). `left_out` are (id, stage/reason) of pairs that could not be scored.
    """

    ids: tuple[str, ...]
    policy_chosen: Tensor
    policy_rejected: Tensor
    ref_chosen: Tensor | None
    ref_rejected: Tensor | None
    chosen_lengths: Tensor
    rejected_lengths: Tensor
    left_out: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def margin(self) -> Tensor:
        """[n], (log pi - log ref) of chosen minus that of rejected, nats: DPO's margin without beta. Without a
        reference, log pi of chosen minus that of rejected."""
        gap = self.policy_chosen - self.policy_rejected
        return (
            gap if self.ref_chosen is None or self.ref_rejected is None else gap - self.ref_chosen + self.ref_rejected
        )

    def sums(self) -> dict[str, Tensor | None]:
        """The arguments of `mmpo.losses`: `mmpo.losses.dpo(**scores.sums(), beta=0.1)`."""
        names = ("policy_chosen", "policy_rejected", "ref_chosen", "ref_rejected", "chosen_lengths", "rejected_lengths")
        return {name: getattr(self, name) for name in names}

    def to_pandas(self) -> pandas.DataFrame:
        """A row a pair: `id`, the columns of `sums` (those of the reference empty where there is none), `margin`."""
        import pandas

        columns: dict[str, Any] = {"id": self.ids}
        columns |= {name: None if sums is None else sums.tolist() for name, sums in self.sums().items()}
        return pandas.DataFrame({**columns, "margin": self.margin.tolist()})

    def __repr__(self) -> str:
        right = int((self.margin > 0).sum())
        against = "reference" if self.ref_chosen is not None else "the rejected answer alone"
        lines = [f"{len(self)} pairs; chosen is ahead of rejected in {right} (against {against}), "
                 f"margin {self.margin.mean().item():.3f} nats in the mean"]  # fmt: skip
        if self.left_out:
            lines.append(f"left out: {_counted(self.left_out)}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        html: str = self.to_pandas().to_html(max_rows=20, float_format="{:.3f}".format, index=False)
        return html


def score_pairs(vlm: VLM, pairs: Pairs, *, images: str | Path | None, batch_size: int, reference: bool) -> PairScores:
    """See `mmpo.api.model.Model.score`."""
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise UserError(f"batch_size must be a whole number of at least 1, not {batch_size!r}")
    left_out: list[tuple[str, str]] = []

    def leave_out(name: str, error: Quarantined) -> None:
        left_out.append((name, f"{error.stage}/{error.reason}" + (f": {error.detail}" if error.detail else "")))

    store, folder = ImageStore(vlm, IMAGE_CACHE_BYTES), folder_of(pairs)
    if folder is not None:
        if images is not None:
            raise UserError("images: a folder of pairs has its images in itself", hint="leave images out")
        check_pairs(folder)
        encoded = encode_pairs(
            vlm, track(read_pairs(folder), "reading pairs"), store, root=folder, dataset=PairDataset(folder),
            on_reject=leave_out,
        )  # fmt: skip
    else:
        root = Path(images) if images is not None else Path()
        encoded = encode_pairs(vlm, pairs_in(pairs, root, leave_out), store, root=root, on_reject=leave_out)
    if not len(encoded):
        why = _counted(tuple(left_out)) or "there are none"
        raise UserError(f"no pair can be scored: {why}", hint="image paths start in the folder that `images` names")
    scorer, collate = PairScorer(vlm, reference="adapter_off" if reference else "none"), PairCollator(store)
    found: dict[int, tuple[float, ...]] = {}
    vlm.model.eval()
    with torch.no_grad():
        for batch in track(cut(encoded.lengths, batch_size), "scoring pairs"):
            logps = scorer(collate([encoded[i] for i in batch])["batch"].to(vlm.device))
            columns = [column for side in (logps.chosen, logps.rejected) for column in _columns(side)]
            found |= dict(zip(batch, zip(*(column.tolist() for column in columns), strict=True), strict=True))
    table = torch.tensor([found[i] for i in range(len(encoded))], dtype=torch.float64)
    chosen, chosen_ref, chosen_length, rejected, rejected_ref, rejected_length = table.unbind(dim=1)
    return PairScores(
        tuple(row.id for row in encoded.rows), chosen, rejected,
        chosen_ref if reference else None, rejected_ref if reference else None,
        chosen_length.long(), rejected_length.long(), tuple(left_out),
    )  # fmt: skip


def _columns(side: ResponseLogps) -> tuple[Tensor, Tensor, Tensor]:
    """Policy, reference (the policy again where there is none) and length of each response, [b]."""
    reference = side.policy if side.reference is None else side.reference
    return side.policy.double().sum(-1), reference.double().sum(-1), side.lengths


def _counted(left_out: tuple[tuple[str, str], ...]) -> str:
    """`3 decode/missing, as row 4 (photo.png)`, by reason."""
    counts = Counter(why.partition(":")[0] for _, why in left_out)
    first = {why.partition(":")[0]: (name, why.partition(": ")[2]) for name, why in reversed(left_out)}
    return ", ".join(
        f"{count} {reason}, as {first[reason][0]}" + (f" ({first[reason][1]})" if first[reason][1] else "")
        for reason, count in counts.items()
    )
