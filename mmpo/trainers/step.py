"""A whole optimizer step: statistics for the losses in which its pairs depend on each other, what these losses make of
them and remember, and a check that a step's numbers are finite."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from mmpo.errors import UserError
from mmpo.objectives import Objective
from mmpo.objectives.build import States
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


class StepRules:
    """The step rules of an objective over a run: what each loss makes of a step, and in `states` what it remembers of
    the steps before. All processes look at the same numbers, on the CPU, and so come to the same."""

    def __init__(self, objective: Objective, seed: int, saved: Mapping[str, Any] | None = None) -> None:
        """`saved` are states as `as_json` gave them. Raises `UserError` where they are not those of this objective."""
        self.seed = seed
        self.states: States = objective.start()
        if saved is None:
            return
        states = {
            loss: {name: torch.tensor(value, dtype=torch.float64) for name, value in state.items()}
            for loss, state in saved.items()
        }
        if {loss: set(state) for loss, state in states.items()} != {k: set(v) for k, v in self.states.items()}:
            raise UserError(
                "the checkpoint lacks what the objective remembers of earlier steps",
                hint="it is of another version of mmpo; start over with resume: false",
            )
        self.states.update(states)

    def as_json(self) -> dict[str, Any]:
        """The states as lists and numbers; JSON keeps them to the last bit."""
        return {
            loss: {name: value.double().tolist() for name, value in state.items()}
            for loss, state in self.states.items()
        }

    def look(
        self, objective: Objective, steps: Sequence[StepStatistics], number: int, *, training: bool
    ) -> list[StepStatistics]:
        """A step with what the losses make of it, for each of its micro-batches. `objective` has no schedules any more;
        draws are those of the step `number`. Without `training` the pairs are evaluated: what the losses remember of
        training stands, and these pairs do not move it."""
        seed = _step_seed(self.seed, number)
        looked, states = objective.look(steps[0].to("cpu"), self.states, seed=seed, training=training)
        if training:
            self.states = {loss: {k: v.double().cpu() for k, v in state.items()} for loss, state in states.items()}
        return [replace(looked, own=step.own) for step in steps]


def _step_seed(seed: int, number: int) -> int:
    """One for each step of a run, in no relation to those of other steps and runs."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=7).digest(), "big")


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
