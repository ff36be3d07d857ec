"""Shared fixtures: tiny random models, and the published data that some tests compare with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def _torch_threads() -> None:
    """Tiny models run fastest on one thread, and results don't depend on the machine's core count."""
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    import torch

    torch.manual_seed(0)
    yield


@pytest.fixture
def vlm():  # type: ignore[no-untyped-def]
    """A fresh tiny LLaVA (random weights, no adapter)."""
    from tests.tiny import tiny_llava

    return tiny_llava()


@pytest.fixture(scope="session")
def tiny_llava_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny LLaVA that `load_vlm` can open."""
    from tests.tiny import save_tiny_llava

    return save_tiny_llava(tmp_path_factory.mktemp("tiny-llava"))


@pytest.fixture(scope="session")
def published_data() -> Path:
    """The folder of published benchmark files named by MMPO_PUBLISHED_DATA; tests that need it are skipped without
    it.
    """
    value = os.environ.get("MMPO_PUBLISHED_DATA")
    if not value:
        pytest.skip("MMPO_PUBLISHED_DATA is not set: the published files to compare with are not on this machine")
    folder = Path(value)
    if not folder.is_dir():
        pytest.fail(f"MMPO_PUBLISHED_DATA names no folder: {folder}")
    return folder
