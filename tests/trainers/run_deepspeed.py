"""One process of two under DeepSpeed: score, differentiate, and let the first process keep the gradients.

DS_ACCELERATOR=cpu python -m tests.trainers.run_deepspeed RANK FOLDER

ZeRO-2 and ZeRO-3, with and without checkpointing, each as a file in FOLDER. Under ZeRO-3 the tower's weights are cut up
too, and the second process's pairs show no image.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from mmpo.models.scoring.score import PairScorer
from mmpo.objectives import build_objective
from tests.trainers.run_fsdp import OBJECTIVE, batch_of, policy


def sharded(rank: int, stage: int, *, checkpointing: bool) -> dict[str, torch.Tensor]:
    import deepspeed
    from deepspeed.utils import safe_get_full_grad

    vlm = policy()
    scorer = PairScorer(vlm, sharing="on").train()
    if checkpointing:
        scorer.gradient_checkpointing_enable()
    config: dict[str, Any] = {
        "train_batch_size": 2,
        "train_micro_batch_size_per_gpu": 1,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {"stage": stage, "overlap_comm": False, "stage3_param_persistence_threshold": 0},
    }
    optimizer = torch.optim.AdamW([p for p in scorer.parameters() if p.requires_grad], lr=0.0)
    engine, *_ = deepspeed.initialize(model=scorer, optimizer=optimizer, dist_init_required=False, config=config)
    loss = build_objective(OBJECTIVE).loss(engine(batch_of(vlm, rank)))
    engine.backward(loss)
    found = {name: safe_get_full_grad(p) for name, p in engine.module.named_parameters() if p.requires_grad}
    return found | {"loss": loss.detach()[None]}


def main() -> None:
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_SIZE": "2"}
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    for stage in (2, 3):
        for checkpointing in (False, True):
            found = sharded(rank, stage, checkpointing=checkpointing)
            if rank == 0:
                contiguous = {name: value.contiguous() for name, value in found.items()}
                save_file(contiguous, folder / f"stage-{stage}-checkpointing-{checkpointing}.safetensors")
    store.set(f"done {rank}", "")  # neither leaves while the other still talks to it
    store.wait(["done 0", "done 1"])


if __name__ == "__main__":
    main()
