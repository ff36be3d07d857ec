"""Two processes perturb, average and draw as one does with the same global batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mmpo.trainers.train import train
from tests.trainers.material import settings_for, write_pairs
from tests.trainers.test_processes import launch

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "chosen",
    [
        {"sam": {"rho": 0.1}, "mesa": {"decay": 0.5}, "pego": {}},
        {"lora_ggpo": {}},
        {"rwp": {"threshold": 5.0, "steps": 2}},
    ],
    ids=lambda chosen: "-".join(chosen),
)
def test_two_processes_are_one(chosen: dict[str, Any], tiny_llava_folder: Path, tmp_path: Path) -> None:
    settings = settings_for(
        tiny_llava_folder,
        write_pairs(tmp_path / "pairs", 22),
        batch_size=2,
        accumulation=2,
        max_steps=4,
        logging_steps=1,
        eval_steps=2,
        regularizers=chosen,
    )
    file = tmp_path / "settings.json"
    file.write_text(settings.model_dump_json())
    launch(file, tmp_path / "two")
    train(settings.model_copy(update={"batch_size": 4}), tmp_path / "one")
    one, two = ([json.loads(line) for line in (tmp_path / name / "metrics.jsonl").open()] for name in ("one", "two"))
    for a, b in zip(one, two, strict=True):
        for name in set(a) - {"seconds", "pairs_per_second", "eval_runtime"}:
            assert b[name] == pytest.approx(a[name], rel=1e-3, abs=1e-4), (a["step"], name)
    weights = [load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("one", "two")]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-2, atol=1e-3)
