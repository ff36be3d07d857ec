from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import LlamaConfig, LlavaConfig
from transformers.utils import is_torchvision_available

from mmpo.errors import UserError
from mmpo.models.families.loading import load_vlm
from mmpo.models.families.records import family_of
from mmpo.models.scoring.segment_logps import score_responses
from tests.models.pairs import PICTURES
from tests.tiny import add_lora, tiny_llava, user
from tests.tiny_families import TINY


def test_saved_model_scores_as_before(tiny_llava_folder: Path) -> None:
    loaded = load_vlm(tiny_llava_folder, device="cpu")
    expected = score_responses(tiny_llava(), user("Hi", 0), [], ["yes"])
    assert score_responses(loaded, user("Hi", 0), [], ["yes"]) == pytest.approx(expected, abs=1e-5)
    assert loaded.family.name == "LLaVA" and loaded.device.type == "cpu" and not loaded.model.training
    assert loaded.eos_id == loaded.tokenizer.convert_tokens_to_ids("</s>")


def test_adapter_and_adapter_off(tiny_llava_folder: Path, tmp_path: Path) -> None:
    trained = add_lora(tiny_llava(), spread=0.1)
    trained.model.save_pretrained(tmp_path)
    loaded = load_vlm(tiny_llava_folder, adapter=tmp_path, device="cpu")
    with_adapter = score_responses(loaded, user("Hi", 0), [], ["yes"])
    assert with_adapter == pytest.approx(score_responses(trained, user("Hi", 0), [], ["yes"]), abs=1e-5)
    with loaded.adapter_off():
        without = score_responses(loaded, user("Hi", 0), [], ["yes"])
    assert without == pytest.approx(score_responses(tiny_llava(), user("Hi", 0), [], ["yes"]), abs=1e-5)
    assert without != pytest.approx(with_adapter, abs=1e-3)
    assert score_responses(loaded, user("Hi", 0), [], ["yes"]) == pytest.approx(with_adapter)


def test_bfloat16(tiny_llava_folder: Path) -> None:
    assert load_vlm(tiny_llava_folder, dtype="bfloat16", device="cpu").dtype == torch.bfloat16


def copy_model(source: Path, target: Path, *, without: str | None = None) -> Path:
    shutil.copytree(source, target, dirs_exist_ok=True)
    if without:
        (target / without).unlink()
    return target


@pytest.mark.parametrize(
    ("without", "words"),
    [
        ("config.json", "no config.json"),
        ("model.safetensors", "no \\*.safetensors"),
        ("tokenizer.json", "can't be loaded"),
    ],
)
def test_incomplete_folders_are_named(tiny_llava_folder: Path, tmp_path: Path, without: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_vlm(copy_model(tiny_llava_folder, tmp_path, without=without))


def test_pickled_weights_are_refused(tiny_llava_folder: Path, tmp_path: Path) -> None:
    folder = copy_model(tiny_llava_folder, tmp_path, without="model.safetensors")
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="pickles"):
        load_vlm(folder)


def test_what_is_not_there() -> None:
    with pytest.raises(UserError, match="no such model folder"):
        load_vlm("./nowhere/at/all")
    with pytest.raises(UserError, match="no such folder, and no such model in the local cache"):
        load_vlm("someone/not-cached")


def test_unknown_dtype(tiny_llava_folder: Path) -> None:
    with pytest.raises(UserError, match="dtype"):
        load_vlm(tiny_llava_folder, dtype="int3")  # type: ignore[arg-type]


def test_bad_adapters(tiny_llava_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not an adapter"):
        load_vlm(tiny_llava_folder, adapter=tmp_path)
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps({"peft_type": "LORA"}))
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match="pickles"):
        load_vlm(tiny_llava_folder, adapter=tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    config.write_text(json.dumps({"peft_type": "PREFIX_TUNING"}))
    with pytest.raises(UserError, match="PREFIX_TUNING"):
        load_vlm(tiny_llava_folder, adapter=tmp_path)


def test_a_missing_library_is_named(tmp_path: Path) -> None:
    """Processors with video need torchvision, whether a video is shown or not."""
    if is_torchvision_available():
        pytest.skip("torchvision is here")
    vlm = TINY["qwen2_5_vl"]()
    vlm.model.save_pretrained(tmp_path)
    vlm.processor.save_pretrained(tmp_path)
    settings = tmp_path / "processor_config.json"
    settings.write_text(settings.read_text().replace("NoVideos", "Qwen2VLVideoProcessor"))
    with pytest.raises(UserError, match="Torchvision") as caught:
        load_vlm(tmp_path, device="cpu")
    assert "mmpo[families]" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["llava_next", "idefics3", "gemma3", "paligemma2"])
def test_other_families_open_from_a_folder(name: str, tmp_path: Path) -> None:
    vlm = TINY[name]()
    vlm.model.save_pretrained(tmp_path)
    vlm.processor.save_pretrained(tmp_path)
    loaded = load_vlm(tmp_path, device="cpu")
    assert loaded.family == vlm.family
    messages = user("Is there a dog?")
    vlm = replace(vlm, processor=loaded.processor)  # with torchvision here, it resizes with that
    expected = score_responses(vlm, messages, PICTURES[1:2], ["yes", "no"])
    assert score_responses(loaded, messages, PICTURES[1:2], ["yes", "no"]) == pytest.approx(expected, abs=1e-4)


def test_adapter_layers_are_listed_once_until_adapters_change(monkeypatch: pytest.MonkeyPatch) -> None:
    vlm = add_lora(tiny_llava(), spread=0.1)
    before = score_responses(vlm, user("Hi", 0), [], ["yes"])
    listings: list[int] = []
    honest = type(vlm.model).modules
    monkeypatch.setattr(type(vlm.model), "modules", lambda self: (listings.append(1), honest(self))[1])
    for _ in range(3):
        with vlm.adapter_off():
            off = score_responses(vlm, user("Hi", 0), [], ["yes"])
    assert len(listings) == 1
    assert off == pytest.approx(score_responses(tiny_llava(), user("Hi", 0), [], ["yes"]), abs=1e-5)
    config = LoraConfig(r=2, target_modules=r".*multi_modal_projector\.linear_1")
    vlm.model.add_adapter("second", config)  # type: ignore[operator]
    with vlm.adapter_off():
        assert score_responses(vlm, user("Hi", 0), [], ["yes"]) == pytest.approx(off, abs=1e-6)
        assert all(layer.disable_adapters for layer in honest(vlm.model) if isinstance(layer, BaseTunerLayer)), (
            "layers that came later are switched off too"
        )
    assert score_responses(vlm, user("Hi", 0), [], ["yes"]) == pytest.approx(before, abs=1e-6)


def test_families() -> None:
    assert family_of(LlavaConfig()).model_type == "llava"
    with pytest.raises(UserError, match="'llama' is not supported"):
        family_of(LlamaConfig())
    running_state = LlavaConfig()
    running_state.text_config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(UserError, match="running state"):
        family_of(running_state)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("adapter_config.json", b"[1]"),
        ("adapter_config.json", b'{"peft_type": "LORA", "r": "many", "target_modules": 7}'),
        ("adapter_config.json", b'{"peft_type": ["LORA"]}'),
        ("adapter_config.json", b"[" * 5000 + b"]" * 5000),
        ("adapter_config.json", b"\xff\xfe\x00"),
        ("adapter_model.safetensors", b""),
        ("adapter_model.safetensors", b"\xff" * 64),
        ("adapter_model.safetensors", b"\x02\0\0\0\0\0\0\0{}trailing"),
        ("adapter_model.safetensors", None),
    ],
)
def test_broken_adapters_are_one_clear_line(
    tiny_llava_folder: Path, tmp_path: Path, file: str, content: bytes | None
) -> None:
    add_lora(tiny_llava()).model.save_pretrained(tmp_path)
    path = tmp_path / file
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    with pytest.raises(UserError, match=str(tmp_path)) as caught:
        load_vlm(tiny_llava_folder, adapter=tmp_path, device="cpu")
    assert len(caught.value.message) < 400


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0{}trailing"])
def test_broken_weights_are_one_clear_line(tiny_llava_folder: Path, tmp_path: Path, content: bytes) -> None:
    shutil.copytree(tiny_llava_folder, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"damaged|can't be loaded"):
        load_vlm(tmp_path / "model", device="cpu")
