"""An adapter is compared with the model by the headers of their files, before a weight is read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mmpo.errors import UserError
from mmpo.models.families.loading import load_vlm
from mmpo.models.folder import check_fit, header, weights
from tests.cli.conftest import Invoke
from tests.tiny import save_tiny_llava


@pytest.fixture
def trained(mmpo: Invoke, recipe: Path, here: Path) -> Path:
    """The adapter of a short training."""
    done = mmpo("train", recipe, "--out", "runs/a")
    assert done.exit_code == 0, done.output
    return here / "runs/a/train/adapter"


def test_it_fits_its_own_model_and_no_other(mmpo: Invoke, recipe: Path, trained: Path, tiny_llava_folder: Path) -> None:
    from mmpo.demo import model_path

    check_fit(trained, tiny_llava_folder, "tiny")
    hidden = json.loads((tiny_llava_folder / "config.json").read_text())["text_config"]["hidden_size"]
    other = json.loads((Path(model_path()) / "config.json").read_text())["text_config"]["hidden_size"]
    said = mmpo("eval", recipe, "--set", f"eval.adapter={trained}", "--set", f"model={model_path()}")
    assert said.exit_code == 2
    assert f"{trained}: trained on another model (hidden size {hidden}, this one has {other})" in said.stderr
    assert "size mismatch" not in said.output and str(tiny_llava_folder) in said.stderr
    with pytest.raises(UserError, match="trained on another model"):
        load_vlm(model_path(), adapter=trained)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"x" * 40), "damaged"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "no adapter_model.safetensors"),
        (lambda folder: (folder / "adapter_config.json").write_text("[]"), "expected an object"),
        (lambda folder: (folder / "adapter_config.json").write_text('{"peft_type": "IA3"}'), "not supported"),
    ],
)  # fmt: skip
def test_a_damaged_adapter(mmpo: Invoke, recipe: Path, trained: Path, change, message: str) -> None:  # type: ignore[no-untyped-def]
    copy = Path(shutil.copytree(trained, "copy"))
    change(copy)
    said = mmpo("eval", recipe, "--set", "eval.adapter=copy")
    assert said.exit_code == 2 and message in said.stderr and "Traceback" not in said.output


def test_a_run_folder_in_place_of_its_adapter(mmpo: Invoke, recipe: Path, trained: Path) -> None:
    said = mmpo("recipe", "check", recipe, "--set", "eval.adapter=runs/a")
    assert "did you mean runs/a/train/adapter?" in said.stderr


def test_headers_name_every_tensor(tmp_path: Path) -> None:
    from safetensors import safe_open

    folder = save_tiny_llava(tmp_path)
    file = folder / "model.safetensors"
    with safe_open(file, "pt") as opened:
        expected = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    assert {name: tensor.shape for name, tensor in header(file).items()} == expected
    assert weights(folder, "tiny").keys() == expected.keys()
