"""Training that is killed and started again ends with the weights of a run that was never touched, to the last bit."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from mmpo.trainers import checkpoints
from mmpo.trainers.settings import TrainResult, TrainSettings
from mmpo.trainers.train import train
from tests.trainers.material import settings_for, write_pairs

ROOT = Path(__file__).parents[2]
CLOCKS = ("seconds", "pairs_per_second", "eval_runtime")


@pytest.fixture(scope="module")
def settings(tiny_llava_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainSettings:
    """What a resume could get wrong: dropout, accumulation, a token budget, evaluation between checkpoints."""
    chosen: TrainSettings = settings_for(
        tiny_llava_folder,
        write_pairs(tmp_path_factory.mktemp("pairs"), 24),
        max_steps=30,
        batch_size=3,
        accumulation=2,
        tokens_per_batch=700,
        eval_steps=8,
        save_steps=5,
        logging_steps=4,
        lora={"rank": 4, "dropout": 0.1},
        samples={"n": 1, "max_new_tokens": 4},
    )
    return chosen


@pytest.fixture(scope="module")
def untouched(settings: TrainSettings, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainResult]:
    folder = tmp_path_factory.mktemp("untouched")
    return folder, train(settings, folder)


def start(settings: TrainSettings, folder: Path, *extra: str) -> subprocess.Popen[bytes]:
    file = folder.with_suffix(".json")
    file.write_text(settings.model_dump_json())
    command = [sys.executable, "-m", "tests.faults.run_train", str(file), str(folder), *extra]
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)


def lines(path: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in json.loads(line).items() if key not in CLOCKS} for line in path.open()]


def assert_same(folder: Path, other: Path) -> None:
    for name in ("adapter/adapter_model.safetensors", "checkpoints/checkpoint-30/adapter_model.safetensors"):
        assert (folder / name).read_bytes() == (other / name).read_bytes(), name
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert lines(folder / name) == lines(other / name), name
    file = "checkpoints/checkpoint-30/optimizer.pt"
    one, two = (torch.load(run / file, weights_only=True)["state"] for run in (folder, other))
    for key, state in one.items():
        assert all(torch.equal(torch.as_tensor(state[k]), torch.as_tensor(two[key][k])) for k in state), key


def test_killed_and_resumed_is_the_same_run(
    settings: TrainSettings, untouched: tuple[Path, TrainResult], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    step = random.Random(os.getpid()).randrange(7, 25)
    assert start(settings, folder, "step", str(step)).wait() == -signal.SIGKILL
    first = checkpoints.newest(folder / "checkpoints")
    assert first is not None and checkpoints.step_of(first) == (step - 1) // 5 * 5
    # Once more, half-way through the next checkpoint's second file.
    assert start(settings, folder, "save", "2").wait() == -signal.SIGKILL
    half = checkpoints.all_checkpoints(folder / "checkpoints")[-1]
    assert half != first and checkpoints.metadata_of(half) is None
    assert checkpoints.newest(folder / "checkpoints") == first
    result = train(settings, folder)
    assert result.resumed_from == checkpoints.step_of(first)
    reference, uninterrupted = untouched
    assert_same(folder, reference)
    assert result.seconds > 0 and result.steps == uninterrupted.steps == 30
    for name, value in (uninterrupted.last_eval or {}).items():
        assert name in CLOCKS or (result.last_eval or {})[name] == value


def test_a_run_that_lost_only_its_result_is_finished_again(
    settings: TrainSettings, untouched: tuple[Path, TrainResult], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(untouched[0], folder)
    shutil.rmtree(folder / "adapter")
    (folder / "train_result.json").unlink()
    (folder / "checkpoints" / "checkpoint-31").mkdir()  # a checkpoint that was just begun
    assert train(settings, folder).resumed_from == 30
    assert_same(folder, untouched[0])


@pytest.mark.slow
def test_many_kills(settings: TrainSettings, untouched: tuple[Path, TrainResult], tmp_path: Path) -> None:
    folder, rng = tmp_path / "run", random.Random(os.getpid())
    for _ in range(8):
        process = start(settings, folder)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=rng.uniform(4, 12))  # anywhere: while loading, training, saving, evaluating
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            break
    train(settings, folder)
    assert_same(folder, untouched[0])
