"""Evaluation settings refuse what they do not know."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from mmpo.eval.settings import EvalSettings

NEEDED = {"model": "m", "images": "i", "annotations": "a.jsonl"}


def test_defaults() -> None:
    settings = EvalSettings(**NEEDED)
    assert settings.compare == "base" and settings.benchmarks == ["pope", "chair"]
    assert settings.pope.splits == ["random", "popular", "adversarial"] and settings.pope.parser == "official"


def test_none_in_words() -> None:
    assert EvalSettings(**NEEDED, compare="none").compare is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"modle": "x"},
        {"pope": {"questions_per_image": 5}},
        {"pope": {"splits": ["random", "random"]}},
        {"pope": {"splits": []}},
        {"pope": {"parser": "mine"}},
        {"benchmarks": ["pope", "pope"]},
        {"benchmarks": ["pop"]},
        {"chair": {"max_new_tokens": 0}},
        {"bootstrap": {"samples": 1}},
        {"compare": "other"},
        {"limit": 0},
    ],
)
def test_mistakes(wrong: dict) -> None:
    with pytest.raises(ValidationError):
        EvalSettings(**NEEDED, **wrong)


def test_every_field_is_described() -> None:
    def check(model: type[BaseModel]) -> None:
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                check(field.annotation)

    check(EvalSettings)
