"""A recipe whose build and evaluation take several units, and commands in processes of their own."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.data_builders import parrot

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The annotation file of twelve pictures."""
    return parrot.write_world(tmp_path_factory.mktemp("many"), 12)


@pytest.fixture(scope="session")
def recipe(many: Path, parrot_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures in six units, and POPE about them."""
    file = tmp_path_factory.mktemp("recipe") / "workers.yaml"
    section = {
        "model": str(parrot_folder),
        "annotations": str(many),
        "prompts": [parrot.DESCRIBE],
        "correct": ["object"],
        "qa": {"questions_per_image": 4},
        "max_new_tokens": 64,
        "shard_size": 2,
    }
    evaluation = {
        "model": str(parrot_folder),
        "adapter": None,
        "benchmarks": ["pope"],
        "images": str(many.parent),
        "annotations": str(many),
    }
    file.write_text(json.dumps({"name": "workers", "build": section, "eval": evaluation}))
    return file


@pytest.fixture
def start(recipe: Path) -> Start:
    """`start("build", *words)` starts `mmpo build RECIPE *words`."""

    def started(section: str, *words: object, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "mmpo", section, str(recipe), *map(str, words)],
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    return started


def ends_well(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out + err


def made_in(step: Path) -> dict[str, str]:
    """The digest of each file that a step made; logs, claims and the time that it took are left out."""
    return {
        str(path.relative_to(step)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(step.rglob("*"))
        if path.is_file() and path.name not in ("step.json", "engine.json")
    }
