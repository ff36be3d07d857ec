"""`mmpo export --check-server`: an adapter that is served rightly, not at all, or another one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mmpo.files.atomic import write_text
from mmpo.models.families.loading import load_vlm
from mmpo.trainers.serving_check import high_rank
from mmpo.trainers.train import train
from tests.chat.model_server import serving_model
from tests.cli.conftest import Invoke, here, mmpo  # noqa: F401
from tests.models.generation.test_served import DEMO
from tests.tiny import add_lora
from tests.trainers.material import settings_for, write_pairs


def save_adapter(folder: Path, seed: int) -> None:
    """A random one that the demo model still makes sense with."""
    add_lora(load_vlm(DEMO, dtype="float32"), seed=seed, spread=0.06).model.save_pretrained(folder)


@pytest.fixture(scope="module")
def run(tiny_llava_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training, as if it had been of the demo model."""
    folder = tmp_path_factory.mktemp("run")
    train(settings_for(tiny_llava_folder, write_pairs(folder / "pairs", 12), max_steps=1), folder / "train")
    settings = json.loads((folder / "train/settings.json").read_text()) | {"model": str(DEMO)}
    write_text(folder / "train/settings.json", json.dumps(settings))
    shutil.rmtree(folder / "train/adapter")
    save_adapter(folder / "train/adapter", seed=1)
    return folder


def test_who_serves_what(run: Path, tmp_path: Path, mmpo: Invoke) -> None:  # noqa: F811
    save_adapter(tmp_path / "other", seed=2)
    names = {"mine": run / "train/adapter", "ignored": None, "other": tmp_path / "other"}
    with serving_model(DEMO, names) as server:
        check = ("export", str(run), "--check-server", server.url)
        right = mmpo(*check, "--served", "mine")
        assert right.exit_code == 0 and "mine is served rightly" in right.stdout, right.output
        ignored = mmpo(*check, "--served", "ignored")
        assert ignored.exit_code != 0 and "ignored has no effect" in ignored.output
        other = mmpo(*check, "--served", "other")
        assert other.exit_code != 0 and "neither this adapter nor the model" in other.output
        unnamed = mmpo(*check)
        assert unnamed.exit_code != 0 and "it lists mine, ignored, other" in " ".join(unnamed.output.split())
        unknown = mmpo(*check, "--served", "absent")
        assert unknown.exit_code != 0 and "absent" in unknown.output
    with serving_model(DEMO, {"mine": None}, log_probs=False) as server:
        mute = mmpo("export", str(run), "--check-server", server.url, "--served", "mine")
        assert mute.exit_code != 0 and "no log-probs" in " ".join(mute.output.split())


def test_options_that_belong_together(run: Path, mmpo: Invoke) -> None:  # noqa: F811
    assert "OUT is missing" in mmpo("export", str(run)).output
    assert "belong to --check-server" in mmpo("export", str(run), "out", "--served", "x").output


def test_ranks_beyond_what_vllm_takes_by_default() -> None:
    assert high_rank({"r": 16}) is None and high_rank({"r": 64}) == 64
    assert high_rank({"r": 8, "rank_pattern": {"q_proj": 128}}) == 128
