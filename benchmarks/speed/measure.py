"""Time, memory, arithmetic and tower work of training steps."""

from __future__ import annotations

import gc
import multiprocessing
import os
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from benchmarks.measuring import MEMORY_RETURNED, peak_mib, restart_peak, seconds_in_turns
from benchmarks.speed.sides import SIDES, TRAINERS, Setting, Side

aten = torch.ops.aten


@dataclass
class Counted:
    """One step's loss and arithmetic: floating-point operations, those of the language-model head among them, and how
    many patches go through the tower's first layer, recomputation included."""

    loss: float
    flops: int
    head_flops: int
    tower_rows: int


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def count(side: Side) -> Counted:
    """The arithmetic of one step. Attention counts as if nothing were masked, which is how kernels without a block
    mask work. Kernels that PyTorch does not know (TRL's fused head on a GPU is one) are not seen."""
    rows = [0]
    layers = next(
        module for module in side.tower().modules() if isinstance(module, torch.nn.ModuleList) and len(module)
    )
    # A linear layer inside the first block: recomputation for backward calls the block's parts, not the block.
    linear = next(module for module in layers[0].modules() if isinstance(module, torch.nn.Linear))

    def seen(module: Any, args: tuple[torch.Tensor, ...]) -> None:
        rows[0] += args[0].shape[:-1].numel()

    hook = linear.register_forward_pre_hook(seen)
    vocabulary = side.vlm.head.weight.shape[0]
    head = [0]

    def product(a_shape: Any, b_shape: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
        work = 2 * a_shape[0] * a_shape[1] * b_shape[-1]
        # A product with the vocabulary on any side of it belongs to the head.
        if vocabulary in (a_shape[0], a_shape[1], b_shape[-1]):
            head[0] += work
        return int(work)

    custom = {
        aten.mm: product,
        aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    }
    counter = FlopCounterMode(display=False, custom_mapping=custom)
    try:
        with counter:
            loss = side.step()
    finally:
        hook.remove()
    return Counted(loss, int(counter.get_total_flops()), head[0], rows[0])


def _attention(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward(grad: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    return int(sdpa_backward_flop_count(grad, query, key, value))


# --- peak memory ----------------------------------------------------------------------------------------------------


def peak_memory(names: tuple[str, ...], setting: Setting, threads: int) -> dict[str, float]:
    """MiB by which training steps raise the high-water mark above the loaded model: of a fresh process each on a CPU,
    of the allocator on a GPU."""
    if setting.device != "cpu":
        return {name: _on_gpu(name, setting) for name in names}
    context = _server()
    with context.Pool(1, maxtasksperchild=1) as pool:
        return {name: pool.apply(_own_memory, (name, setting, threads)) for name in names}


_context: Any = None


def _server() -> Any:
    """A server that has imported everything and used none of it; each measurement is a fork of it."""
    global _context
    if _context is None:
        os.environ |= MEMORY_RETURNED
        _context = multiprocessing.get_context("forkserver")
        _context.set_forkserver_preload(["benchmarks.speed.preload"])
    return _context


def _own_memory(name: str, setting: Setting, threads: int) -> float:
    torch.set_num_threads(threads)
    step = SIDES[name](setting).step
    gc.collect()
    before = restart_peak()
    step()
    step()
    return peak_mib() - before


def _on_gpu(name: str, setting: Setting) -> float:
    side = SIDES[name](setting)
    side.step()
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    side.step()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


# --- one row --------------------------------------------------------------------------------------------------------


def measure(setting: Setting, rounds: int, threads: int, *, memory: bool = True) -> dict[str, Any]:
    """Everything about one layout. Sides run in turns on a CPU, whose load others share; one after another on a GPU,
    whose memory they could not share."""
    groups = [tuple(SIDES)] if setting.device == "cpu" else [(name,) for name in SIDES]
    seconds: dict[str, list[float]] = {}
    counted: dict[str, Counted] = {}
    refused: dict[str, str] = {}
    for group in groups:
        sides: dict[str, Side] = {}
        for name in group:
            try:
                sides[name] = SIDES[name](setting)
                counted[name] = count(sides[name])  # the first step, which also warms up
            except Exception as error:
                if name != "trl":
                    raise
                sides.pop(name, None)
                refused[name] = f"{type(error).__name__}: {error}"
        steps = {name: side.step for name, side in sides.items()}
        seconds |= seconds_in_turns(steps, rounds, partial(_wait, setting.device))
        del sides, steps
        gc.collect()
    peak = peak_memory(tuple(name for name in TRAINERS if name in seconds), setting, threads) if memory else {}
    return {
        "seconds": seconds, "losses": {name: value.loss for name, value in counted.items()}, "refused": refused,
        "peak_mib": peak, "counted": {name: vars(value) for name, value in counted.items()},
    }  # fmt: skip
