"""A loss's parameters are checked from its signature: every loss, every type, before a model is loaded."""

from __future__ import annotations

import math
from itertools import product
from typing import Any, get_args

import pytest

from mmpo.errors import UserError
from mmpo.objectives import OBJECTIVES, build_objective
from mmpo.objectives.build import spec_mistakes
from mmpo.objectives.parameters import parameters_of

NUMBERS = [
    (name, numbers)
    for name, entry in OBJECTIVES.items()
    if (
        numbers := [
            key
            for key, field in parameters_of(entry.function).model_fields.items()
            if float in (field.annotation, *get_args(field.annotation)) or field.annotation is int
        ]
    )
]


def required(name: str) -> dict[str, float]:
    """A value for each parameter that has no default."""
    return dict.fromkeys(OBJECTIVES[name].required, 0.5)


@pytest.mark.parametrize(("name", "keys"), NUMBERS, ids=[name for name, _ in NUMBERS])
def test_a_number_is_a_finite_number_in_every_loss(name: str, keys: list[str]) -> None:
    mistakes: tuple[Any, ...] = ("abc", "0.1", math.nan, math.inf, -math.inf, True, [0.1], {"from": "a"}, None)
    for key, wrong in product(keys, mistakes):
        (at, message, _), *rest = spec_mistakes({name: {**required(name), key: wrong}})
        assert at == (name, key) and not rest
        assert "must be a" in message and f"(it is {wrong!r})" in message
        with pytest.raises(UserError, match="must be"):
            build_objective({name: {**required(name), key: wrong}})


@pytest.mark.parametrize("name", [name for name, entry in OBJECTIVES.items() if "beta" in entry.parameters])
def test_beta_is_positive(name: str) -> None:
    for wrong in (0, -0.1):
        assert "beta must be greater than 0" in spec_mistakes({name: {**required(name), "beta": wrong}})[0][1]
    assert not spec_mistakes({name: {**required(name), "beta": 1}}), "a whole number is a number"


@pytest.mark.parametrize("name", OBJECTIVES)
def test_defaults_are_within_their_own_ranges(name: str) -> None:
    assert not spec_mistakes({name: {**required(name), **OBJECTIVES[name].parameters}})
    assert bool(spec_mistakes({name: {}})) == bool(required(name)), "what has no default must be given"


def test_a_schedule_stands_in_the_place_of_a_number() -> None:
    moving = build_objective({"dpo": {"beta": {"from": 0.5, "to": 0.1, "over": 0.5}, "weight": {"from": 0, "to": 2}}})
    found = [moving.scheduled(progress) for progress in (0.0, 0.25, 0.5, 1.0)]
    assert [one["dpo.beta"] for one in found] == pytest.approx([0.5, 0.3, 0.1, 0.1])
    assert [one["dpo.weight"] for one in found] == pytest.approx([0.0, 0.5, 1.0, 2.0])
    now = moving.at(0.25)
    assert now.weights["dpo"] == 0.5 and now.parameters["dpo"]["beta"] == pytest.approx(0.3) and not now.scheduled(0.0)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"dpo": {"beta": {"from": 0.5, "to": 0}}}, "dpo.beta must be greater than 0"),
        ({"dpo": {"beta": {"from": 0.5}}}, "or {from: NUMBER, to: NUMBER"),
        ({"dpo": {"beta": {"from": 0.5, "to": True}}}, "or {from: NUMBER"),
        ({"dpo": {"beta": {"from": 0.5, "to": 0.1, "over": 0}}}, "with a share of the run above 0"),
        ({"dpo": {"beta": {"from": 0.5, "to": 0.1, "until": 1}}}, "or {from: NUMBER"),
        ({"bco_pair": {"delta": {"from": 0.0, "to": "running"}}}, "or {from: NUMBER"),
        ({"ipo": {"average": {"from": 1.0, "to": 0.0}}}, "must be true or false"),
        ({"gamma_po": {"steps": {"from": 1, "to": 20}}}, "must be a whole number"),
    ],
)
def test_a_schedule_that_is_none_is_named(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        build_objective(spec)
    assert words in str(caught.value)


def test_all_mistakes_are_told_at_once() -> None:
    spec: dict[str, Any] = {"dpo": {"beta": "abc", "btea": 1}, "dpoo": {}, "sft": {"weight": -1}, "ipo": [1]}
    assert [at for at, _, _ in spec_mistakes(spec)] == [
        ("dpo", "beta"), ("dpo", "btea"), ("dpoo",), ("sft", "weight"), ("ipo",),
    ]  # fmt: skip
