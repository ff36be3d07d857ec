"""One process of two under FSDP2 (`fully_shard`): score, differentiate, and let the first process keep the gradients.

python -m tests.trainers.run_fsdp RANK FOLDER

With and without checkpointing, each as a file in FOLDER. The second process's pairs show no image: it must not wait
for a tower that only the first one calls. The processes find each other through a file: no port that another program
may take, and no agent whose heartbeat fails on a busy machine.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from mmpo.models.families.loading import VLM
from mmpo.models.scoring.score import PairBatch, PairScorer
from mmpo.objectives import build_objective
from tests.models.pairs import pair_batch
from tests.tiny import add_lora, tiny_llava

OBJECTIVE = {"dpo": {"beta": 0.3}, "sft": {"weight": 0.5}}


def policy() -> VLM:
    return add_lora(tiny_llava(), spread=0.1)


def batch_of(vlm: VLM, rank: int) -> PairBatch:
    """Two pairs with an image each, or one pair of words."""
    if rank == 0:
        return pair_batch(vlm, 2)
    words = pair_batch(vlm, 1, text_only=0)
    words.image_inputs = {}
    return words


def gradients(scorer: nn.Module, batch: PairBatch) -> dict[str, torch.Tensor]:
    loss = build_objective(OBJECTIVE).loss(scorer(batch))
    loss.backward()
    found: dict[str, Any] = {name: p.grad for name, p in scorer.named_parameters() if p.grad is not None}
    whole = {name: g.full_tensor() if hasattr(g, "full_tensor") else g for name, g in found.items()}
    return whole | {"loss": loss.detach()[None]}


def sharded(mesh: Any, rank: int, *, checkpointing: bool) -> dict[str, torch.Tensor]:
    vlm = policy()
    scorer = PairScorer(vlm, sharing="on").train()
    if checkpointing:
        scorer.gradient_checkpointing_enable()
    for layer in vlm.base.get_decoder().layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(scorer, mesh=mesh)
    return gradients(scorer, batch_of(vlm, rank))


def main() -> None:
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    for checkpointing in (False, True):
        found = sharded(mesh, rank, checkpointing=checkpointing)
        if rank == 0:
            contiguous = {name: value.contiguous() for name, value in found.items()}
            save_file(contiguous, folder / f"checkpointing-{checkpointing}.safetensors")
    # Neither leaves while the other still talks to it; said through the file, since a barrier is talk as well.
    store.set(f"done {rank}", "")
    store.wait(["done 0", "done 1"])
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
