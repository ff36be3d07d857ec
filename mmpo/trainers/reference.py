"""Reference log-probs computed once and kept with the pairs, for every run that trains the same model on them.

    pairs/reference/<model>/<rows>.safetensors      chosen [c tokens], rejected [r tokens], one after another
                                                    metadata: which pair owns which stretch

<model> names everything the numbers depend on besides the pair: the bytes of the model folder (weights, configuration,
processor, chat template) and of the adapter or second model that is the reference in its place, the number format, the
quantization and the layout of this file. A pair is named by its
token ids and the content of its images. A number is therefore never stale: what changed has another name, and is
computed.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from mmpo.errors import UserError
from mmpo.files.atomic import remove_leftovers, replacing
from mmpo.files.fingerprints import folder_fingerprint, model_folder
from mmpo.models.families.loading import VLM
from mmpo.models.scoring.score import PairScorer
from mmpo.progress import task
from mmpo.trainers.collate import EncodedPair, EncodedPairs, PairCollator
from mmpo.trainers.images import ImageStore
from mmpo.trainers.references import FixedReference

logger = logging.getLogger(__name__)

FORMAT = "2"
ROWS_PER_FILE = 2048
"""Pairs computed between two commits: what a killed run loses at most."""


@dataclass
class ReferenceLogps:
    """Reference log-probs per token of known pairs: `rows[key]` is (chosen [c], rejected [r]), float32."""

    folder: Path
    rows: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @classmethod
    def open(cls, parent: Path, vlm: VLM, reference: FixedReference | None = None) -> ReferenceLogps:
        """The cache of this model, or of its other `reference`, under `parent`, with everything that is in it. A file
        that can't be read counts as absent: it is computed again."""
        cache = cls(parent / reference_identity(vlm, reference))
        remove_leftovers(cache.folder)
        for path in sorted(cache.folder.glob("*.safetensors")):
            try:
                with safe_open(path, framework="pt") as file:
                    owners = json.loads(file.metadata()["pairs"])
                    sides = [file.get_tensor("chosen"), file.get_tensor("rejected")]
                    whole = file.metadata()["sum"] == _sum(sides, owners)
            except Exception:  # whatever a torn file raises
                whole = False
            if not whole:
                logger.warning("%s: damaged; what it held is computed again", path)
                path.unlink(missing_ok=True)
                continue
            parts = [side.split([row[1 + n] for row in owners]) for n, side in enumerate(sides)]
            cache.rows.update({row[0]: (c, r) for row, c, r in zip(owners, *parts, strict=True)})
        return cache

    def add(self, found: Sequence[tuple[str, Tensor, Tensor]]) -> None:
        """Commit newly computed pairs in one file, atomically."""
        owners = [[key, len(chosen), len(rejected)] for key, chosen, rejected in found]
        name = hashlib.blake2b(json.dumps(owners).encode(), digest_size=12).hexdigest()
        tensors = {
            "chosen": torch.cat([chosen for _, chosen, _ in found]),
            "rejected": torch.cat([rejected for _, _, rejected in found]),
        }
        with replacing(self.folder / f"{name}.safetensors") as partial:
            total = _sum([tensors["chosen"], tensors["rejected"]], owners)
            save_file(tensors, partial, {"pairs": json.dumps(owners), "format": FORMAT, "sum": total})
        self.rows.update({key: (chosen, rejected) for key, chosen, rejected in found})


def _sum(sides: Sequence[Tensor], owners: Any) -> str:
    """A digest of what a file holds, so that a flipped bit is noticed."""
    digest = hashlib.blake2b(json.dumps(owners).encode(), digest_size=16)
    for side in sides:
        digest.update(side.numpy().tobytes())
    return digest.hexdigest()


def reference_identity(vlm: VLM, reference: FixedReference | None = None) -> str:
    """A name for everything but the pair that reference log-probs depend on."""
    parts = [FORMAT, folder_fingerprint(model_folder(vlm.source)), str(vlm.dtype)]
    if (quantized := getattr(vlm.config, "quantization_config", None)) is not None:
        parts.append(json.dumps(quantized if isinstance(quantized, dict) else quantized.to_dict(), sort_keys=True))
    if reference is not None:
        parts.append(reference.identity)
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()


def pair_key(row: EncodedPair, store: ImageStore) -> str:
    """A name for the token ids of a pair and the content of its images."""
    digest = hashlib.blake2b(digest_size=16)
    for ids in (row.prompt, row.rejected_prompt, row.chosen, row.rejected):
        digest.update(b"none" if ids is None else len(ids).to_bytes(8, "little") + ids.numpy().tobytes())
    for images in (row.images, row.rejected_images or ()):
        digest.update(" ".join(["images", *(store.content(key) for key in images)]).encode())
    return digest.hexdigest()


@torch.no_grad()
def cached_reference(
    vlm: VLM,
    pairs: EncodedPairs,
    store: ImageStore,
    parent: Path,
    batches: Sequence[Sequence[int]],
    how: Mapping[str, Any] | None = None,
    *,
    reference: FixedReference | None = None,
    rank: int = 0,
    world: int = 1,
) -> ReferenceLogps:
    """The reference log-probs of all `pairs`; what is missing is computed, committed and counted in a progress line.

    `batches` are indices of pairs to compute together; process `rank` of `world` computes its share of them. The
    caller waits for all processes and opens the cache again. `vlm` is the policy; its adapter is off here, or
    `reference` in its place. `how` are further arguments of `PairScorer`, those of training.
    """
    cache = ReferenceLogps.open(parent, vlm, reference)
    keys = [pair_key(row, store) for row in pairs.rows]
    # Shared out before looking at what is there, which another process may be changing.
    mine = ([i for i in batch if keys[i] not in cache.rows] for batch in batches[rank::world])
    missing = [batch for batch in mine if batch]
    if not missing:
        return cache
    collate = PairCollator(store)
    was_training = vlm.model.training
    vlm.model.eval()
    found: list[tuple[str, Tensor, Tensor]] = []
    with (
        _without_adapter(vlm) if reference is None else reference.in_place_of(vlm) as scored,
        task("reference log-probs", sum(map(len, missing))) as progress,
    ):
        scorer = PairScorer(scored, reference="none", **(how or {}))
        for batch in missing:
            # Masks are laid over cached log-probs as over others: what is kept is that of all tokens.
            whole = replace(collate([pairs[i] for i in batch])["batch"], chosen_mask=None, rejected_mask=None)
            logps = scorer(whole.to(vlm.device))
            for number, index in enumerate(batch):
                sides = (logps.chosen, logps.rejected)
                chosen, rejected = (side.policy[number][side.mask[number]].float().cpu() for side in sides)
                found.append((keys[index], chosen, rejected))
            if len(found) >= ROWS_PER_FILE:
                cache.add(found)
                found = []
            progress.advance(len(batch))
    if found:
        cache.add(found)
    vlm.model.train(was_training)
    return cache


@contextmanager
def _without_adapter(vlm: VLM) -> Iterator[VLM]:
    with vlm.adapter_off():
        yield vlm


def with_reference(
    pairs: EncodedPairs,
    cache: ReferenceLogps,
    store: ImageStore,
    name: Literal["reference", "second_reference"] = "reference",
) -> EncodedPairs:
    """The pairs with their log-probs under the reference of that name. Raises `UserError` where a pair has none, or too
    few."""
    rows = []
    for row in pairs.rows:
        found = cache.rows.get(pair_key(row, store))
        if found is None or (len(found[0]), len(found[1])) != (len(row.chosen), len(row.rejected)):
            raise UserError(
                f"{cache.folder}: no reference log-probs for pair {row.id}",
                hint="run again to compute them, or set cache_reference: false",
            )
        rows.append(replace(row, reference=found) if name == "reference" else replace(row, second_reference=found))
    return replace(pairs, rows=rows)
