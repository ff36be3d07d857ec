"""Families that an older transformers can't run are refused by name, before any weight is read."""

from __future__ import annotations

import pytest
import transformers
from transformers import LlavaConfig, SmolVLMConfig

from mmpo.errors import UserError
from mmpo.models.compat import enable_checkpointing
from mmpo.models.families.records import family_of
from tests.tiny import tiny_llava


def test_a_family_that_needs_a_newer_transformers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers, "__version__", "5.18.0")
    with pytest.raises(UserError, match=r"SmolVLM needs transformers 5\.23 or later \(this is 5\.18\.0\)"):
        family_of(SmolVLMConfig())
    assert family_of(LlavaConfig()).name == "LLaVA", "the floor is enough for most"


def test_checkpointing_by_either_name() -> None:
    vlm = tiny_llava()
    enable_checkpointing(vlm.base)
    assert all(layer.gradient_checkpointing for layer in vlm.base.get_decoder().layers)
