"""One process of two: what they must do together, on the CPU.

python -m tests.trainers.run_ddp RANK FOLDER

* DistributedDataParallel over a scorer whose adapter sits on tower, projector and language model; the second process's
  pairs show no image. The first keeps the gradients.
* A relevance table, of which each process embeds its share.
* Numbers of a step whose micro-batches both have.
* Sample answers at an evaluation while the weights are cut up (FSDP2).
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from safetensors.torch import save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers import TrainerControl, TrainerState

from mmpo.models.families.loading import VLM
from mmpo.models.scoring.score import PairScorer
from mmpo.trainers.callbacks import SamplesFile
from mmpo.trainers.collate import encode_pairs
from mmpo.trainers.images import ImageStore
from mmpo.trainers.lora import add_lora
from mmpo.trainers.samples import SampleQuestions
from mmpo.trainers.settings import LoraSettings, SampleSettings
from mmpo.trainers.step import gather_step
from mmpo.trainers.views.relevance import PolicyEmbedder, RelevanceTable
from tests.tiny import save_tiny_llava, tiny_llava
from tests.trainers import run_fsdp
from tests.trainers.material import make_pairs


def policy() -> VLM:
    """With an adapter on every linear layer but the head, the tower's last one included, which nothing reads."""
    torch.manual_seed(3)
    targets = r".*(vision_tower|multi_modal_projector|language_model)\..*(q_proj|v_proj|fc1|linear_1|down_proj)"
    vlm = add_lora(tiny_llava(), LoraSettings(rank=2, targets=targets))
    for name, parameter in vlm.model.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0.0, 0.1)
    return vlm


def relevance(folder: Path) -> RelevanceTable:
    vlm = tiny_llava()
    vlm.source = str(folder / "model")
    store = ImageStore(vlm, 2**20)
    images = list(dict.fromkeys(key for row in encode_pairs(vlm, make_pairs(10), store).rows for key in row.images))
    table = RelevanceTable(folder / "relevance", PolicyEmbedder(vlm, store), store)
    table.fill(images, ["dog", "cat", "table"])
    return table


def sampling_while_sharded(folder: Path, rank: int, mesh: Any) -> None:
    vlm = run_fsdp.policy()
    store = ImageStore(vlm, 2**20)
    sampler = SampleQuestions(
        vlm, store, encode_pairs(vlm, make_pairs(2), store).rows, SampleSettings(n=1, max_new_tokens=2)
    )
    for layer in vlm.base.get_decoder().layers:
        fully_shard(layer, mesh=mesh)
    scorer = fully_shard(PairScorer(vlm, sharing="on"), mesh=mesh)
    with torch.no_grad():
        scorer(run_fsdp.batch_of(vlm, rank))  # as the evaluation before the samples does: FSDP wants the whole first
    state = TrainerState(is_world_process_zero=rank == 0)
    callback: Any = SamplesFile(folder / "samples.jsonl", sampler)
    for _ in range(2):
        callback.on_evaluate(None, state, TrainerControl(), model=scorer)


def main() -> None:
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    logging.basicConfig(level=logging.WARNING, filename=folder / f"said-{rank}.log")
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    accelerator = Accelerator(cpu=True)

    vlm = policy()
    scorer: Any = DistributedDataParallel(PairScorer(vlm, sharing="on").train(), broadcast_buffers=False)
    for _ in range(2):  # a gradient that does not come is noticed at the next step
        scorer.zero_grad()
        found = run_fsdp.gradients(scorer, run_fsdp.batch_of(vlm, rank))
    if rank == 0:
        found = {name.removeprefix("module."): value.contiguous() for name, value in found.items()}
        save_file(found, folder / "ddp.safetensors")

    if rank == 0:
        save_tiny_llava(folder / "model")
    accelerator.wait_for_everyone()
    vectors = relevance(folder)._vectors
    own = [{"W": torch.full((2 + rank,), float(2 * number + rank))} for number in range(2)]
    steps = gather_step(own, accelerator)
    metadata = {
        "known": sorted(vectors),
        "step": [step.values["W"].tolist() for step in steps],
        "own": [step.values["W"][step.own].tolist() for step in steps],
    }
    (folder / f"facts-{rank}.json").write_text(json.dumps(metadata))
    sampling_while_sharded(folder, rank, init_device_mesh("cpu", (2,)))
    store.set(f"done {rank}", "")  # neither leaves while the other still talks to it
    store.wait(["done 0", "done 1"])
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
