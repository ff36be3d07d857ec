"""A loss's parameters are checked from its signature: every loss, every type, before a model is loaded."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest

from mmpo.errors import UserError
from mmpo.objectives import OBJECTIVES, build_objective
from mmpo.objectives.build import spec_mistakes
from mmpo.objectives.parameters import parameters_of

NUMBERS = [
    (name, key)
    for name, entry in OBJECTIVES.items()
    for key, field in parameters_of(entry.function).model_fields.items()
    if float in (field.annotation, *get_args(field.annotation)) or field.annotation is int
]


@pytest.mark.parametrize(("name", "key"), NUMBERS)
def test_a_number_is_a_finite_number_in_every_loss(name: str, key: str) -> None:
    for wrong in ("abc", "0.1", math.nan, math.inf, -math.inf, True, [0.1], {"from": "a"}, None):
        (at, message, _), *rest = spec_mistakes({name: {key: wrong}})
        assert at == (name, key) and not rest
        assert "must be a" in message and f"(it is {wrong!r})" in message
        with pytest.raises(UserError, match="must be"):
            build_objective({name: {key: wrong}})


@pytest.mark.parametrize("name", [name for name, entry in OBJECTIVES.items() if "beta" in entry.parameters])
def test_beta_is_positive(name: str) -> None:
    for wrong in (0, -0.1):
        assert "beta must be greater than 0" in spec_mistakes({name: {"beta": wrong}})[0][1]
    assert not spec_mistakes({name: {"beta": 1}}), "a whole number is a number"


@pytest.mark.parametrize("name", OBJECTIVES)
def test_defaults_are_within_their_own_ranges(name: str) -> None:
    assert not spec_mistakes({name: dict(OBJECTIVES[name].parameters)})


def test_all_mistakes_are_told_at_once() -> None:
    spec: dict[str, Any] = {"dpo": {"beta": "abc", "btea": 1}, "dpoo": {}, "sft": {"weight": -1}, "ipo": [1]}
    assert [at for at, _, _ in spec_mistakes(spec)] == [
        ("dpo", "beta"), ("dpo", "btea"), ("dpoo",), ("sft", "weight"), ("ipo",),
    ]  # fmt: skip
