"""An evaluation whose answers come from a server: the same as with the model in this process, or none at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mmpo.errors import UserError
from mmpo.eval.harness import evaluate
from mmpo.eval.settings import EvalSettings
from mmpo.eval.statistics.scorecard import Scorecard
from tests.chat.model_server import serving_model
from tests.chat.server import ChatServer
from tests.eval.evaluating import answers_in, settings


def served(world: Path, server: ChatServer, **changes: Any) -> EvalSettings:
    sampler = {"url": server.url, "model": "base", "adapter": "tuned", "first_wait": 0.01, "longest_wait": 0.1}
    chosen = {"model": "the base", "adapter": None, "sampler": {**sampler, **changes}, "limit": 4}
    return settings(world, **chosen)


def said(run: Path) -> set[tuple[str, ...]]:
    return {(row["state"], row["image"], row["prompt"], row["answer"]) for row in answers_in(run)}


def test_the_scorecard_of_a_server_is_that_of_the_model(world: Path, tmp_path: Path) -> None:
    here = evaluate(settings(world, limit=4), tmp_path / "here")
    broken = {"on": True}
    fault = lambda prompt, attempt: "500" if broken["on"] and "cup" in prompt else None  # noqa: E731
    with serving_model(world / "model", {"base": None, "tuned": world / "adapter"}, fault=fault) as server:
        with pytest.raises(UserError, match="got no reply from the server") as error:
            evaluate(served(world, server, retries=0), tmp_path / "there")
        assert "errors.jsonl" in error.value.message and not (tmp_path / "there" / "scorecard.json").exists()
        broken["on"] = False
        before = len(answers_in(tmp_path / "there"))
        card = evaluate(served(world, server, retries=0), tmp_path / "there")
        assert before and len(answers_in(tmp_path / "there")) == len(answers_in(tmp_path / "here"))
    assert said(tmp_path / "there") == said(tmp_path / "here")
    numbers = [
        {(row.metric, row.split): (row.before and row.before.value, row.after.value) for row in made.rows}
        for made in (card, here)
    ]
    assert {name for name, _ in numbers[1].keys() - numbers[0].keys()} <= {"AUROC"}, "yes is no likely word here"
    assert len(numbers[0]) > 10 and all(numbers[1][name] == value for name, value in numbers[0].items())
    assert card.adapter == "tuned" and any("from a server" in line for line in card.conventions)
    p_yes = [row["p_yes"] for row in answers_in(tmp_path / "there") if row["p_yes"] is not None]
    assert Scorecard.read(tmp_path / "there" / "scorecard.json").compared and all(0 <= p <= 1 for p in p_yes)


def test_an_adapter_that_the_server_does_not_serve_is_refused(world: Path) -> None:
    sampler = {"url": "http://127.0.0.1:9/v1", "model": "base"}
    with pytest.raises(ValidationError, match=r"sampler\.adapter"):
        settings(world, sampler=sampler)
    with pytest.raises(ValidationError, match="leave `before` out"):
        settings(world, adapter=None, before="x", sampler=sampler)
