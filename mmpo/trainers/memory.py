"""How much memory training takes, told before it starts; and the largest batch tried first.

Weights and optimizer are counted. What a forward pass keeps for the backward pass is measured on one pair, whose
saved tensors autograd hands out, and scaled to the largest batch by distinct tokens: everything that is kept grows
with them (attention keeps its inputs, not its scores). With checkpointing a layer's kept tensors come back one layer at
a time.

Not in it: the temporary memory of the tower, which is gone before the policy's activations appear, and auxiliary
samples.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import torch
from torch import Tensor

from mmpo.errors import UserError
from mmpo.models.compat import enable_checkpointing, is_checkpointing
from mmpo.models.lean import watching_kept
from mmpo.models.loading import VLM
from mmpo.models.logprob import CHUNK_ELEMENTS
from mmpo.models.score import PairBatch, PairScorer
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
        """What training adds to the loaded model."""
        return self.total - self.weights

    def as_dict(self) -> dict[str, int]:
        return asdict(self) | {"total": self.total}


def estimate_memory(vlm: VLM, scorer: PairScorer, batch: PairBatch, tokens: int, largest: int) -> MemoryEstimate:
    """The memory of training whose largest batch has `largest` distinct tokens, from a `batch` of `tokens`.

    Runs the policy once or twice on `batch`, forward only. Random numbers are drawn and given back.
    """
    trained = [p for p in vlm.model.parameters() if p.requires_grad]
    layers = len(vlm.base.get_decoder().layers)
    checkpointing = is_checkpointing(vlm.base)
    kept = kept_bytes(scorer, batch)
    whole = kept
    if checkpointing:
        vlm.base.gradient_checkpointing_disable()
        whole = kept_bytes(scorer, batch)
        enable_checkpointing(vlm.base)
    scale = largest / tokens
    layer = int(whole / layers * scale)
    # In backward a layer's gradients are as large as what it kept; checkpointing first makes that anew.
    working = (2 * layer if checkpointing else layer) + 2 * 4 * CHUNK_ELEMENTS
    return MemoryEstimate(
        weights=sum(t.nbytes for t in _stored(vlm)),
        optimizer=sum(p.nbytes + OPTIMIZER_STATES * 4 * p.numel() for p in trained),
        activations=int(kept * scale),
        working=working,
    )


def kept_bytes(scorer: PairScorer, batch: PairBatch) -> int:
    """What the policy's forward pass keeps for its backward pass, each piece of memory once, weights apart."""
    own = {tensor.untyped_storage().data_ptr() for tensor in _stored(scorer._vlm)}
    kept: dict[int, int] = {}

    def see(tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()

    training = scorer.training
    scorer.train()
    try:
        # Nothing is freed before the end: the graph holds on to every tensor, so no address comes twice.
        with _random_state(scorer), watching_kept(see):
            held = scorer(batch)
        del held
    finally:
        scorer.train(training)
    return sum(kept.values())


def try_batch(scorer: PairScorer, objective: Objective, batch: PairBatch, described: str) -> None:
    """Forward and backward on the largest batch of a run, before its first step. Leaves no gradient behind. Raises
    `UserError` if memory does not suffice."""
    training = scorer.training
    scorer.train()
    try:
        with _random_state(scorer):
            objective.on_pairs_alone().loss(scorer(batch)).backward()
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"out of memory on the largest batch ({described})",
            hint="lower batch_size or tokens_per_batch, or set gradient_checkpointing, max_pixels, max_tokens",
        ) from error
    finally:
        scorer.zero_grad(set_to_none=True)
        scorer.train(training)


def free_bytes(device: torch.device) -> int:
    """Memory that is free on the device, that which PyTorch holds for later included."""
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
    """Estimate, say so, and where memory is scarce (or a GPU's) try the largest batch.

    `make_batch` makes a batch of pairs given by index, `tokens` counts its distinct tokens; `largest` is the largest
    batch of the run.
    """
    one = largest[-1:]
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
            "training needs about %s beside the model and %s is free: lower batch_size or tokens_per_batch, or set "
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


def _random_state(scorer: PairScorer) -> Any:
    devices = sorted({p.device.index or 0 for p in scorer.parameters() if p.device.type == "cuda"})
    return torch.random.fork_rng(devices=devices)
