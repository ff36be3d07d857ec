"""Two processes that compute together on the CPU, and what one process makes of both their batches."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import torch

from mmpo.models.scoring.score import PairScorer
from tests.trainers.run_fsdp import batch_of, gradients, policy

ROOT = Path(__file__).parents[2]
HANGS = 1200
"""Seconds that nothing takes which works, even on a machine that does much else; the work itself is a few seconds."""


def run_two(module: str, folder: Path, **environment: str) -> dict[str, torch.Tensor]:
    """Run `python -m module RANK FOLDER` twice at once, and meanwhile `whole_gradients`, which it returns."""
    env = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"} | environment
    with ExitStack() as stack:
        logs = [stack.enter_context((folder / f"{rank}.log").open("w")) for rank in range(2)]
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", module, str(rank), str(folder)],
                    cwd=ROOT,
                    env=env,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
            for rank, log in enumerate(logs)
        ]
        try:
            expected = whole_gradients()
            codes = [process.wait(timeout=HANGS) for process in processes]
        finally:
            for process in processes:
                process.kill()
    assert codes == [0, 0], "\n".join((folder / f"{rank}.log").read_text()[-3000:] for rank in range(2))
    return expected


def whole_gradients() -> dict[str, torch.Tensor]:
    """The mean of both batches' gradients, and the first one's loss."""
    expected: dict[str, torch.Tensor] = {}
    for rank in range(2):
        vlm = policy()
        for name, gradient in gradients(PairScorer(vlm, sharing="on").train(), batch_of(vlm, rank)).items():
            if name != "loss":
                expected[name] = expected.get(name, torch.zeros_like(gradient)) + gradient / 2
            elif rank == 0:
                expected[name] = gradient
    return expected


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )
