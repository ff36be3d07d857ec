"""A stage of a demo model's training: so many steps by a cosine rate, kept every few, gone on with where it stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from mmpo.demo.training import Kept, cosine, fit, print_progress


def run_stage(
    file: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[int], Tensor],
    *,
    steps: int,
    warmup: int,
    save_every: int,
) -> None:
    """Train `module` in place on `loss_of(step)` until `steps` are done. `file` holds weights and Adam's moments of a
    stage that was begun, and is renewed every `save_every` steps; its name is printed with the progress."""
    kept = Kept(file, module, optimizer)
    begin = kept.restore()
    for group in optimizer.param_groups:  # what LambdaLR multiplies
        group["initial_lr"] = group["lr"]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: cosine(step, steps, warmup), begin - 1)
    progress = print_progress(file.stem, steps)

    def report(step: int, loss: float, seconds: float) -> None:
        progress(step, loss, seconds)
        if step % save_every == 0 or step == steps:
            kept.save(step)

    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    fit(loss_of, parameters, optimizer, schedule, range(begin, steps), report)
