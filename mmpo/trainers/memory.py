"""The memory that training takes, reported before it starts; and a trial of the largest batch.

Weights and optimizer are counted. What a forward pass keeps for the backward pass is measured on one pair, whose
saved tensors autograd hands out, and scaled to the largest batch by distinct tokens: everything that is kept grows
with them (attention keeps its inputs, not its scores). With checkpointing a layer's kept tensors come back one layer at
a time, and layers are measured one at a time. Nothing that is measured is held on to, so that looking takes less than
the step itself.

Not in it: the temporary memory of the tower, which is gone before the policy's activations appear, and auxiliary
samples. Groups of responses are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from mmpo.errors import UserError
from mmpo.models.families.loading import VLM
from mmpo.models.scoring.lean import watching_kept
from mmpo.models.scoring.logprob import CHUNK_ELEMENTS
from mmpo.models.scoring.score import PairBatch, PairScorer
from mmpo.objectives import Objective

logger = logging.getLogger(__name__)

OPTIMIZER_STATES = 2
"""AdamW keeps two averages of each trained weight."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one device: model weights; gradients and optimizer states of what is trained; what the largest batch
    keeps between forward and backward; and the temporary memory of backward: one layer's gradients and a chunk of
    logits."""

    weights: int
    optimizer: int
    activations: int
    working: int

    @property
    def total(self) -> int:
        return self.weights + self.optimizer + self.activations + self.working

    @property
    def to_come(self) -> int:
        """Bytes that training adds to the loaded model."""
        return self.total - self.weights

    def as_dict(self) -> dict[str, int]:
        return asdict(self) | {"total": self.total}


def estimate_memory(vlm: VLM, scorer: PairScorer, batch: PairBatch, tokens: int, largest: int) -> MemoryEstimate:
    """The memory of training whose largest batch has `largest` distinct tokens, from a `batch` of `tokens`.

    Runs the policy once on `batch`, forward only (with checkpointing each layer twice). The state of
    random generators is restored.
    """
    trained = [p for p in vlm.model.parameters() if p.requires_grad]
    layers = vlm.base.get_decoder().layers
    checkpointing = any(getattr(layer, "gradient_checkpointing", False) for layer in layers)
    alone: list[int] = []
    with _measuring(layers if checkpointing else (), _addresses(vlm), alone):
        kept = kept_bytes(scorer, batch)
    scale = largest / tokens
    layer = int((max(alone) if alone else kept / len(layers)) * scale)
    # In backward a layer's gradients are as large as what it kept; checkpointing first makes that again.
    working = (2 * layer if checkpointing else layer) + 2 * 4 * CHUNK_ELEMENTS
    return MemoryEstimate(
        weights=sum(t.nbytes for t in (*scorer.parameters(), *scorer.buffers())),
        optimizer=sum(p.nbytes + OPTIMIZER_STATES * 4 * p.numel() for p in trained),
        activations=int(kept * scale),
        working=working,
    )


def kept_bytes(scorer: PairScorer, batch: PairBatch) -> int:
    """Bytes that the policy's forward pass keeps for its backward pass, each piece of memory once, without weights.
    They are counted and freed."""
    kept = _Kept(_addresses(scorer._vlm))
    training = scorer.training
    scorer.train()
    try:
        with _random_state(scorer), watching_kept(kept.see, hold=False):
            scorer(batch)
    finally:
        scorer.train(training)
    return kept.bytes


class _Kept:
    """Counts the memory of tensors that are shown to it, each piece once; pieces at the addresses `own` don't count."""

    def __init__(self, own: set[int]) -> None:
        self.own, self.bytes = own, 0
        self._seen: dict[
            int, StorageWeakRef
        ] = {}  # without the memory, but as long as it is there no number comes twice

    def see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        reference = StorageWeakRef(storage)
        if storage.data_ptr() not in self.own and reference.cdata not in self._seen:
            self._seen[reference.cdata] = reference
            self.bytes += storage.nbytes()


@contextmanager
def _measuring(layers: Iterable[nn.Module], own: set[int], found: list[int]) -> Iterator[None]:
    """Before each of these layers runs, run it without checkpointing; what it keeps goes to `found`, and is freed."""

    def measure(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kept = _Kept(own)
        before, layer.gradient_checkpointing = layer.gradient_checkpointing, False
        try:
            with watching_kept(kept.see, hold=False):
                layer.forward(*args, **kwargs)
        finally:
            layer.gradient_checkpointing = before
        found.append(kept.bytes)

    hooks = [layer.register_forward_pre_hook(measure, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def saying_out_of_memory(described: str) -> Iterator[None]:
    """Turns running out of memory into a `UserError` with the remedies."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        # On a CPU it is an ordinary error with these words.
        if type(error) is RuntimeError and "can't allocate memory" not in str(error):
            raise
        raise UserError(
            f"out of memory on {described}",
            hint="lower batch_size or tokens_per_batch, or set gradient_checkpointing, max_pixels, max_tokens",
        ) from error


def try_batch(scorer: PairScorer, objective: Objective, batch: PairBatch, described: str) -> None:
    """Forward and backward on the largest batch of a run, before its first step. Leaves no gradients. Raises
    `UserError` if memory does not suffice."""
    training = scorer.training
    scorer.train()
    try:
        with _random_state(scorer), saying_out_of_memory(f"the largest batch ({described})"):
            terms = objective.on_pairs_alone() if batch.groups is None else objective.without("auxiliary")
            terms.loss(scorer(batch)).backward()
    finally:
        scorer.zero_grad(set_to_none=True)
        scorer.train(training)


def free_bytes(device: torch.device) -> int:
    """Free bytes on the device, with those that PyTorch holds in reserve."""
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + held
    return int(psutil.virtual_memory().available)


def check_memory(
    vlm: VLM,
    scorer: PairScorer,
    objective: Objective,
    make_batch: Callable[[list[int]], PairBatch],
    largest: list[int],
    tokens: Callable[[list[int]], int],
) -> MemoryEstimate:
    """Estimate and report the memory, and where it is scarce (or a GPU's) try the largest batch.

    `make_batch` makes a batch of pairs given by index, `tokens` counts its distinct tokens; `largest` is the largest
    batch of the run.
    """
    one = largest[-1:]
    with saying_out_of_memory(f"one pair ({tokens(one):,} tokens)"):
        estimate = estimate_memory(vlm, scorer, make_batch(one), tokens(one), tokens(largest))
    free = free_bytes(vlm.device)
    described = f"{len(largest)} pairs, {tokens(largest):,} tokens"
    logger.info(
        "memory: about %s = weights %s + optimizer %s + the largest batch %s (%s); %s more is free",
        *map(gigabytes, (estimate.total, estimate.weights, estimate.optimizer)),
        gigabytes(estimate.activations + estimate.working),
        described,
        gigabytes(free),
        extra={"say": True},
    )
    if estimate.to_come > free:
        logger.warning(
            "training needs about %s besides the model and %s is free: lower batch_size or tokens_per_batch, or set "
            "gradient_checkpointing, max_pixels or max_tokens",
            gigabytes(estimate.to_come),
            gigabytes(free),
        )
    if vlm.device.type != "cpu" or 2 * estimate.to_come > free:
        try_batch(scorer, objective, make_batch(largest), described)
    return estimate


def gigabytes(amount: int) -> str:
    return f"{amount / 1e9:.1f} GB" if amount >= 1e8 else f"{amount / 1e6:.0f} MB"


def _stored(vlm: VLM) -> list[Tensor]:
    return [*vlm.model.parameters(), *vlm.model.buffers()]


def _addresses(vlm: VLM) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in _stored(vlm)}


def _random_state(scorer: PairScorer) -> Any:
    devices = sorted({p.device.index or 0 for p in scorer.parameters() if p.device.type == "cuda"})
    return torch.random.fork_rng(devices=devices)
