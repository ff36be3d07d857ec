"""Settings refuse what they do not know, describe what they do, and import no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import BaseModel, ValidationError

from mmpo.trainers.settings import LoraSettings, SampleSettings, TrainSettings


@pytest.mark.parametrize("model", [TrainSettings, LoraSettings, SampleSettings])
def test_every_setting_says_what_it_does(model: type[BaseModel]) -> None:
    assert not [name for name, field in model.model_fields.items() if not field.description]


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"learning_rat": 1e-4}, "learning_rat"),
        ({"batch_size": 0}, "batch_size"),
        ({"warmup": 1.5}, "whole number of steps"),
        ({"eval_fraction": 1.0}, "eval_fraction"),
        ({"objective": {}}, "objective"),
        ({"lora": {"rang": 4}}, "rang"),
        ({"samples": {"prompts": []}}, "prompts"),
        ({"dtype": "float16"}, "dtype"),
    ],
)
def test_mistakes_are_refused(values: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        TrainSettings.model_validate({"model": "m", "pairs": "p", **values})


def test_settings_survive_json() -> None:
    settings = TrainSettings(model="m", pairs="p", lora=LoraSettings(rank=2, targets=["q_proj"]))  # type: ignore[arg-type]
    assert TrainSettings.model_validate_json(settings.model_dump_json()) == settings


def test_settings_import_no_torch() -> None:
    code = "import sys; import mmpo.trainers.settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
