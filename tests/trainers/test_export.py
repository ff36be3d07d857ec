"""What leaves a run: an adapter that peft opens, a merged model that does the same, a card that says what it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from mmpo.errors import UserError
from mmpo.files.atomic import write_text
from mmpo.models.families.loading import load_vlm
from mmpo.models.scoring.segment_logps import score_responses
from mmpo.trainers import export as export_module
from mmpo.trainers.export import export
from mmpo.trainers.train import train
from tests.cli.conftest import Invoke, here, mmpo  # noqa: F401
from tests.tiny import save_tiny_llava, tiny_image, user
from tests.trainers.material import settings_for, write_pairs

ANSWERS = ["There is a dog.", "There is a cat and a red cup."]


@pytest.fixture(scope="module")
def run(tiny_llava_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    pairs = write_pairs(tmp_path_factory.mktemp("pairs") / "pairs", 12)
    train(settings_for(tiny_llava_folder, pairs, max_steps=4), folder / "train")
    return folder


def test_the_adapter_opens_in_plain_peft(run: Path, tiny_llava_folder: Path, tmp_path: Path) -> None:
    done = export(run, tmp_path / "adapter")
    base = load_vlm(tiny_llava_folder)
    expected = score_responses(
        load_vlm(tiny_llava_folder, adapter=run / "train/adapter"), user("?"), [tiny_image()], ANSWERS
    )
    base.model = PeftModel.from_pretrained(base.model, done.folder).eval()
    assert score_responses(base, user("?"), [tiny_image()], ANSWERS) == pytest.approx(expected, abs=1e-5)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_the_merged_model_reproduces_the_adapter(run: Path, tmp_path: Path, stored: str) -> None:
    """Qwen-VL-Series-Finetune 159: a merged model that behaved like its base."""
    model = save_tiny_llava(tmp_path / "model")
    if stored == "bfloat16":
        vlm = load_vlm(model, dtype="bfloat16")
        vlm.model.save_pretrained(model)
    shutil.copytree(run, tmp_path / "run")
    settings = json.loads((run / "train/settings.json").read_text()) | {"model": str(model)}
    write_text(tmp_path / "run/train/settings.json", json.dumps(settings))

    done = export(tmp_path / "run", tmp_path / "merged", merge=True)
    assert done.difference is not None and done.effect is not None
    assert done.difference < done.effect / 3
    merged, before = load_vlm(done.folder, dtype="auto"), load_vlm(model, adapter=run / "train/adapter", dtype="auto")
    assert str(merged.dtype) == f"torch.{stored}"
    question, image = user("What is on the left?"), [tiny_image(4)]
    expected = score_responses(before, question, image, ANSWERS)
    tolerance = 1e-3 if stored == "float32" else 0.3
    assert score_responses(merged, question, image, ANSWERS) == pytest.approx(expected, abs=tolerance)

    plain = AutoModelForImageTextToText.from_pretrained(done.folder)
    assert AutoProcessor.from_pretrained(done.folder).chat_template and not hasattr(plain, "peft_config")
    assert "mmpo" not in (done.folder / "config.json").read_text()
    assert not list(done.folder.glob("adapter*"))


def test_a_merge_that_loses_the_adapter_is_no_export(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Puts the error back: the base is written instead of the merged model."""
    strong = load_file(run / "train/adapter/adapter_model.safetensors")
    shutil.copytree(run, tmp_path / "run")
    save_file(
        {name: value * 5 for name, value in strong.items()}, tmp_path / "run/train/adapter/adapter_model.safetensors"
    )
    monkeypatch.setattr(PeftModel, "merge_and_unload", lambda self, **kwargs: self.unload(), raising=False)
    with pytest.raises(UserError, match="differs from model and adapter"):
        export(tmp_path / "run", tmp_path / "out", merge=True)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))


def test_the_card_says_data_recipe_and_results(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    write_text(tmp_path / "run/recipe.yaml", "name: mine\ntrain: {max_steps: 4}\n")
    write_text(tmp_path / "run/versions.json", json.dumps({"mmpo": "1", "torch": "2", "platform": "secret-machine"}))
    write_text(tmp_path / "run/eval/scorecard.md", "| benchmark | before | after |\n| pope | 0.5 | 0.7 |\n")
    for merge in (False, True):
        text = (export(tmp_path / "run", tmp_path / str(merge), merge=merge).folder / "README.md").read_text()
        header = yaml.safe_load(text.split("---")[1])
        assert header["library_name"] == ("transformers" if merge else "peft") and "dpo" in header["tags"]
        assert "base_model" not in header  # a folder on this machine is no name on the hub
        assert "name: mine" in text and "| pope | 0.5 | 0.7 |" in text and "| eval_loss | 0.693 |" in text
        assert "pairs from 12 of 12 sources" in text and "secret-machine" not in text
        assert ("nats per token" in text) == merge
    text = (export(tmp_path / "run/train", tmp_path / "again").folder / "README.md").read_text()
    assert "name: mine" in text


def test_what_cannot_be_exported_is_said(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished training"):
        export(tmp_path, tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UserError, match="in use"):
        export(run, tmp_path / "full")
    assert torch.float32 in export_module.TOLERANCE


def test_the_command(run: Path, mmpo: Invoke, tmp_path: Path) -> None:  # noqa: F811
    done = mmpo("export", run, tmp_path / "model", "--merge")
    assert done.exit_code == 0, done.output
    assert "read back: at most" in done.stdout and (tmp_path / "model/model.safetensors").exists()
    again = mmpo("export", run, tmp_path / "model")
    assert again.exit_code == 2 and "is in use" in again.stderr
