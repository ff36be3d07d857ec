"""What a recipe may say about regularizers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mmpo.objectives import build_objective
from mmpo.trainers.fitting import objective_problems
from mmpo.trainers.regularizers.fitting import regularizer_problems
from mmpo.trainers.regularizers.settings import PASTS, PERTURBATIONS, RegularizerSettings
from mmpo.trainers.settings import TrainSettings


def settings(**values: Any) -> TrainSettings:
    return TrainSettings(model="m", pairs=Path("pairs"), **values)


def test_none_is_on_by_default() -> None:
    assert settings().regularizers is None and RegularizerSettings().on == ()
    assert RegularizerSettings.model_validate({"sam": {}, "pego": {"lam": 0.1}}).on == ("sam", "pego")


def test_every_regularizer_takes_its_defaults_and_survives_a_file() -> None:
    for name in RegularizerSettings.model_fields:
        given = settings(regularizers={name: {}})
        again = TrainSettings.model_validate_json(given.model_dump_json())
        assert again == given and again.regularizers is not None and again.regularizers.on == (name,)


@pytest.mark.parametrize("group", [PERTURBATIONS, PASTS])
def test_one_of_a_kind(group: tuple[str, ...]) -> None:
    for name in group[1:]:
        with pytest.raises(ValidationError, match=f"{group[0]} and {name} .*keep one of them"):
            RegularizerSettings.model_validate({group[0]: {}, name: {}})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sam": None}, "sam is empty"),
        ({"sam": {"rho": 0.0}}, "greater than 0"),
        ({"sam": {"rho": "0.05"}}, "must be a number"),
        ({"sma": {}}, "Extra inputs"),
        ({"fad": {"alpha": 1.5}}, "less than or equal to 1"),
        ({"mesa": {"decay": 1.0}}, "less than 1"),
        ({"multi_sample_dropout": {"samples": 1}}, "greater than or equal to 2"),
        ({"lora_ggpo": {"sigma": 0.0, "beta": 0.0}}, "no noise"),
        ({"pego": {"targets": []}}, "at least 1"),
    ],
    ids=str,
)
def test_mistakes(given: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RegularizerSettings.model_validate(given)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"regularizers": {"pego": {}}, "quantize": "nf4"}, "quantized here"),
        ({"regularizers": {"pego": {}}, "lora": {"targets": ["q_proj"]}}, "v_proj has no adapter"),
        ({"regularizers": {"multi_sample_dropout": {}}, "cache_reference": True}, "cached log-probs have none"),
        ({"regularizers": {"saf": {}}}, "saf starts after 5 epochs, and the run has 1"),
    ],
    ids=str,
)
def test_what_other_settings_rule_out(values: Any, message: str) -> None:
    [(_, found, hint)] = regularizer_problems(settings(**values))
    assert message in found and hint
    assert any(message in told for _, told, _ in objective_problems(settings(**values), build_objective({"dpo": {}})))
    assert not regularizer_problems(settings(regularizers={"sam": {}, "mesa": {}}, quantize="nf4"))
