"""Shared fixtures: tiny random models, and the published data that some tests compare with."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Callable, Iterator
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
def parrot_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model that hallucinates on demand."""
    from tests.data_builders import parrot
    from tests.tiny import save_model

    return save_model(parrot.teach(parrot.SAYS), tmp_path_factory.mktemp("parrot"))


@pytest.fixture(scope="session")
def published_data() -> Path:
    """The folder of published benchmark files: MMPO_PUBLISHED_DATA, or `shared/data/published` beside the checkout.

    Tests that need it are skipped where it is absent; a small hand-written twin of each always runs.
    """
    named = os.environ.get("MMPO_PUBLISHED_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data" / "published"
    if folder.is_dir():
        return folder
    if named:
        pytest.fail(f"MMPO_PUBLISHED_DATA names no folder: {folder}")
    pytest.skip("MMPO_PUBLISHED_DATA is not set: the published files to compare with are not on this machine")


RunModule = Callable[..., tuple[object, str]]


@pytest.fixture
def run_module(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> RunModule:
    """`python -m MODULE WORD…` in `tmp_path`, within this process: the exit code, and what stands on stderr."""

    def run(module: str, *words: str) -> tuple[object, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [module, *words])
        monkeypatch.delitem(sys.modules, module, raising=False)
        with pytest.raises(SystemExit) as ended:
            runpy.run_module(module, run_name="__main__")
        return ended.value.code, capsys.readouterr().err

    return run
