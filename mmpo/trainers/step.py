"""Statistics of a whole optimizer step, for the losses in which its pairs depend on each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor

from mmpo.types import StepStatistics


def gather_step(own: Sequence[Mapping[str, Tensor]], accelerator: Accelerator) -> list[StepStatistics]:
    """From the numbers [b] of each of this process's micro-batches: those of the whole step, for each micro-batch with
    the places of its pairs.

    The pairs stand in the order of the step's micro-batches, of which process p of w has p, p + w, …, so that it does
    not depend on the cut. Every process calls this with as many micro-batches (an empty one may be among them) and the
    same names.
    """
    names = list(own[0])
    sizes = torch.tensor([len(batch[names[0]]) for batch in own], device=own[0][names[0]].device)
    table = torch.cat([torch.stack([batch[name] for name in names]) for batch in own], dim=1)  # [names, n]
    everyone, tables = sizes[None], table[None]  # [w, micro-batches], [w, names, n]
    rank, world = accelerator.process_index, accelerator.num_processes
    if world > 1:
        everyone = accelerator.gather(sizes[None])
        widest = int(everyone.sum(1).max())
        padded = torch.nn.functional.pad(table, (0, widest - table.shape[1]))
        tables = accelerator.gather(padded[None])
    counts: list[list[int]] = everyone.tolist()
    parts = [rows[:, : sum(each)].split(each, dim=1) for rows, each in zip(tables, counts, strict=True)]
    ordered = [(number, process) for number in range(len(own)) for process in range(world)]
    whole = torch.cat([parts[process][number] for number, process in ordered], dim=1)
    values = dict(zip(names, whole.unbind(), strict=True))
    found, place = [], 0
    for number, process in ordered:
        if process == rank:
            found.append(StepStatistics(values, slice(place, place + counts[process][number])))
        place += counts[process][number]
    return found
