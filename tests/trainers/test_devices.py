"""The whole of a training run in two CPU processes whose weights are cut up: losses, samples, checkpoints, a rank that
is killed, resuming, the adapter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mmpo.errors import UserError
from mmpo.trainers.fitting import check_sharding
from mmpo.trainers.ranks import naming_a_lost_process
from mmpo.trainers.sharding import check_launch
from mmpo.trainers.train import train
from tests.trainers.material import settings_for, write_pairs
from tests.trainers.two_processes import HANGS

ROOT = Path(__file__).parents[2]
FSDP = (
    *("--use_fsdp", "--fsdp_version", "2", "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP"),
    *("--fsdp_cpu_ram_efficient_loading", "false"),
)


def launch(how: tuple[str, ...], file: Path, run_dir: Path, *more: str) -> tuple[int, str, float]:
    """Exit status, what was printed, and the seconds it took."""
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch", *how, "--num_processes", "2", "--num_machines", "1"),
        *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
        *("-m", "tests.faults.run_train", str(file), str(run_dir), *more),
    ]
    env = os.environ | {
        **{"CUDA_VISIBLE_DEVICES": ""},
        **{"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
    }
    began = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=HANGS)
    return done.returncode, done.stderr, time.monotonic() - began


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.open()]


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        pytest.param((*FSDP, "--fsdp_state_dict_type", "FULL_STATE_DICT"), id="fsdp"),
        pytest.param((*FSDP, "--fsdp_state_dict_type", "SHARDED_STATE_DICT"), id="fsdp-sharded-files"),
    ],
)
def test_a_whole_run(tiny_llava_folder: Path, tmp_path: Path, how: tuple[str, ...]) -> None:
    settings = settings_for(
        tiny_llava_folder,
        write_pairs(tmp_path / "pairs", 22),
        **{"batch_size": 2, "max_steps": 4, "logging_steps": 1, "eval_steps": 2, "save_steps": 2},
        objective={"dpo": {"beta": 0.2}, "sft": {"weight": 0.5, "per": "token"}},
        samples={"n": 1, "max_new_tokens": 3},
    )
    file = tmp_path / "settings.json"
    file.write_text(settings.model_dump_json())
    train(settings.model_copy(update={"batch_size": 4}), tmp_path / "one")

    two = tmp_path / "two"
    code, said, seconds = launch(how, file, two, "step", "3")  # the process that reports kills itself
    assert code and seconds < HANGS / 2
    assert "Run the same command again" in said, said[-3000:]
    assert not (two / "adapter").exists()
    code, said, _ = launch(how, file, two)
    assert code == 0, said[-3000:]
    assert json.loads((two / "train_result.json").read_text())["resumed_from"] == 2

    ones, twos = rows(tmp_path / "one" / "metrics.jsonl"), rows(two / "metrics.jsonl")
    assert [row["step"] for row in ones] == [row["step"] for row in twos]
    for a, b in zip(ones, twos, strict=True):
        for name in {"loss", "eval_loss", "grad_norm", "rewards/margins"} & set(a):
            assert b[name] == pytest.approx(a[name], rel=1e-3, abs=1e-4), (a["step"], name)
    assert [row["policy"] for row in rows(two / "samples.jsonl")] == [
        row["policy"] for row in rows(tmp_path / "one" / "samples.jsonl")
    ]
    expected, found = (load_file(run / "adapter" / "adapter_model.safetensors") for run in (tmp_path / "one", two))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-2, atol=1e-3)


WORKS = {"VERSION": "2", "AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP", "CPU_RAM_EFFICIENT_LOADING": "false"}


@pytest.mark.parametrize("name", WORKS)
def test_fsdp_that_could_not_work_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    for other, value in WORKS.items():
        monkeypatch.setenv(f"FSDP_{other}", value)
    check_launch()
    monkeypatch.setenv(f"FSDP_{name}", {"VERSION": "1"}.get(name, "true"))
    with pytest.raises(UserError, match=f"hint: fsdp_{name.lower()}: {WORKS[name]}"):
        check_launch()


@pytest.mark.skipif(torch.cuda.is_available(), reason="it is refused on CPUs alone")
def test_deepspeed_on_cpus_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(UserError, match="does not start on CPUs"):
        check_launch()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"regularizers": {"sam": {}}}, r"regularizers \(sam\) need whole weights"),
        ({"reference": {"moving": {}}}, "a moving reference needs whole weights"),
        ({"quantize": "nf4"}, "quantize: nf4 is not supported"),
    ],
)
@pytest.mark.parametrize("how", ["FSDP", "DEEPSPEED"])
def test_what_needs_whole_weights_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str, values: dict[str, Any], message: str
) -> None:
    settings = settings_for(tmp_path, tmp_path, **values)
    check_sharding(settings)
    monkeypatch.setenv(f"ACCELERATE_USE_{how}", "true")
    with pytest.raises(UserError, match=message):
        check_sharding(settings)


@pytest.mark.parametrize(("message", "named"), [("[gloo] Connection closed by peer", True), ("out of memory", False)])
def test_the_error_of_a_lost_process_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, message: str, named: bool
) -> None:
    for name, value in {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError if named else RuntimeError) as caught, naming_a_lost_process():
        raise RuntimeError(message)
    assert ("Run the same command again" in str(caught.value)) is named
