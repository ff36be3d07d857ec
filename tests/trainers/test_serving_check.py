"""`mmpo export --check-server`: an adapter that is served rightly, not at all, or another one."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from mmpo.trainers.serving_check import high_rank
from mmpo.trainers.train import train
from tests.chat.model_server import serving_model
from tests.cli.conftest import Invoke, here, mmpo  # noqa: F401
from tests.tiny import add_lora, tiny_llava
from tests.trainers.material import settings_for, write_pairs


@pytest.fixture(scope="module")
def run(tiny_llava_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training whose adapter changes what the model says."""
    folder = tmp_path_factory.mktemp("run")
    train(settings_for(tiny_llava_folder, write_pairs(folder / "pairs", 12), max_steps=2), folder / "train")
    file = folder / "train/adapter/adapter_model.safetensors"
    save_file({name: 20 * value for name, value in load_file(file).items()}, file)
    return folder


def test_who_serves_what(run: Path, tiny_llava_folder: Path, tmp_path: Path, mmpo: Invoke) -> None:  # noqa: F811
    add_lora(tiny_llava(), seed=2, spread=1.0).model.save_pretrained(tmp_path / "other")
    names = {"mine": run / "train/adapter", "ignored": None, "other": tmp_path / "other"}
    with serving_model(tiny_llava_folder, names) as server:
        check = ("export", str(run), "--check-server", server.url)
        right = mmpo(*check, "--served", "mine")
        assert right.exit_code == 0 and "mine is served rightly" in right.stdout
        ignored = mmpo(*check, "--served", "ignored")
        assert ignored.exit_code != 0 and "ignored has no effect" in ignored.output
        other = mmpo(*check, "--served", "other")
        assert other.exit_code != 0 and "neither this adapter nor the model" in other.output
        unnamed = mmpo(*check)
        assert unnamed.exit_code != 0 and "it lists mine, ignored, other" in " ".join(unnamed.output.split())
        unknown = mmpo(*check, "--served", "absent")
        assert unknown.exit_code != 0 and "absent" in unknown.output
    with serving_model(tiny_llava_folder, {"mine": None}, log_probs=False) as server:
        mute = mmpo("export", str(run), "--check-server", server.url, "--served", "mine")
        assert mute.exit_code != 0 and "no log-probs" in " ".join(mute.output.split())


def test_options_that_belong_together(run: Path, mmpo: Invoke) -> None:  # noqa: F811
    assert "OUT is missing" in mmpo("export", str(run)).output
    assert "belong to --check-server" in mmpo("export", str(run), "out", "--served", "x").output


def test_ranks_beyond_what_vllm_takes_by_default() -> None:
    assert high_rank({"r": 16}) is None and high_rank({"r": 64}) == 64
    assert high_rank({"r": 8, "rank_pattern": {"q_proj": 128}}) == 128
