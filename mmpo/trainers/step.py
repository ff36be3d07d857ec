"""A whole optimizer step: statistics for the losses in which its pairs depend on each other, and a check that its
numbers are finite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from mmpo.errors import UserError
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


class BatchLoss(NamedTuple):
    """A micro-batch: the ids of its pairs, each term's values (of a pair where they are [b]), its loss []."""

    ids: list[str]
    values: dict[str, Tensor]
    loss: Tensor


def refuse_non_finite(batches: Sequence[BatchLoss], grad_norm: Any, step: int, *, alone: bool) -> None:
    """Raises `UserError` that names the pairs, where a loss or the gradient of a step is not finite. Waits for the
    device once. `alone`: no other process has a part in the gradient."""
    probe = torch.stack([batch.loss for batch in batches]).sum()
    if torch.isfinite(probe + torch.as_tensor(grad_norm, device=probe.device)).item():
        return
    bad: list[str] = []
    for ids, values, loss in batches:
        if torch.isfinite(loss).item():
            continue
        finite = [torch.isfinite(value).tolist() for value in values.values() if value.shape == (len(ids),)]
        named = {name for row in finite for name, ok in zip(ids, row, strict=True) if not ok}
        bad += [name for name in ids if name in named] or ids
    hint = "look at these pairs; if they are sound, lower learning_rate or use dtype: float32"
    if bad:
        raise UserError(f"step {step}: the loss is not finite for the pairs {', '.join(bad)}", hint=hint)
    here = ", ".join(name for batch in batches for name in batch.ids)
    elsewhere = "" if alone else " (or those of another process)"
    raise UserError(f"step {step}: the gradient is not finite; one of the pairs {here}{elsewhere}", hint=hint)
