"""What the tests of drift share."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmpo.eval.harness import evaluate
from mmpo.eval.settings import EvalSettings
from tests.eval.conftest import world
from tests.eval.evaluating import settings

__all__ = ["world"]

SHORT: dict[str, object] = {"max_new_tokens": 6, "captions": 3}


def asked(world: Path, *, drift: dict[str, object] | None = None, **changes: object) -> EvalSettings:
    """A short evaluation with everything about drift on, unless `drift` says otherwise."""
    own: dict[str, object] = {"benchmarks": ["chair"], "limit": 5, "drift": SHORT | (drift or {})}
    return settings(world, **(own | changes))


@pytest.fixture(scope="session")
def measured(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a finished short evaluation. Leave it as it is."""
    run = tmp_path_factory.mktemp("drift")
    evaluate(asked(world), run)
    return run
