"""A build whose descriptions and answers come from a server that has a bad day: the pairs of the model here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmpo.data_builders.hallucination.build import build
from mmpo.errors import UserError
from tests.chat.model_server import serving_model
from tests.data_builders.hallucination.test_build import pairs_of, settings
from tests.tiny import contents


def test_a_build_on_a_server_makes_the_pairs_of_the_model_here(
    parrot_folder: Path, world: Path, tmp_path: Path
) -> None:
    small = {"samples_per_image": 0, "limit": 8}
    build(settings(parrot_folder, world, **small), tmp_path / "here")
    faults = ("429", "reset", "cut_body", None)

    def fault(prompt: str, attempt: int) -> str | None:
        return faults[len(prompt) % len(faults)] if attempt == 1 else None

    with serving_model(parrot_folder, {"parrot": None}, fault=fault) as server:
        sampler = {"url": server.url, "model": "parrot", "first_wait": 0.01, "longest_wait": 0.1}
        there = settings(parrot_folder, world, sampler=sampler, **small)
        build(there, tmp_path / "there")
        assert sum(server.faults.values()) > 3
    for kind in ("description", "question"):
        texts = [
            [(pair.id, pair.chosen_text, pair.rejected_text) for pair in pairs_of(tmp_path / name, kind)]
            for name in ("here", "there")
        ]
        assert texts[0] == texts[1] and texts[0]
    assert "parrot@" in json.loads((tmp_path / "there" / "source.json").read_text())["model"]

    kept = contents(tmp_path / "there")
    build(there, tmp_path / "there")  # finished: the server is gone, and not needed
    assert contents(tmp_path / "there") == kept
    with pytest.raises(UserError, match="unreachable"):
        build(there, tmp_path / "new")
