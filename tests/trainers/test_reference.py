"""The reference cache: the same training from numbers computed once, and never from stale ones."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmpo.data.shards import read_pairs
from mmpo.errors import UserError
from mmpo.models.families.loading import load_vlm
from mmpo.models.scoring.score import PairScorer
from mmpo.trainers.collate import EncodedPairs, PairCollator, encode_pairs
from mmpo.trainers.images import ImageStore
from mmpo.trainers.lora import add_lora
from mmpo.trainers.reference import ReferenceLogps, cached_reference, pair_key, reference_identity, with_reference
from mmpo.trainers.settings import LoraSettings
from mmpo.trainers.train import train
from tests.trainers.material import settings_for, write_pairs


@pytest.fixture
def material(tiny_llava_folder: Path, tmp_path: Path) -> tuple[Any, EncodedPairs, ImageStore, Path]:
    folder = write_pairs(tmp_path / "pairs", 9)
    vlm = add_lora(load_vlm(tiny_llava_folder), LoraSettings(rank=2))
    for name, weight in vlm.model.named_parameters():  # an adapter that does something, and must not be seen
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    store = ImageStore(vlm, 1 << 26)
    return vlm, encode_pairs(vlm, read_pairs(folder), store, root=folder), store, folder / "reference"


def batches(pairs: EncodedPairs) -> list[list[int]]:
    return [list(range(start, min(start + 4, len(pairs)))) for start in range(0, len(pairs), 4)]


def test_cached_numbers_are_those_of_the_pass_without_adapter(material: Any) -> None:
    vlm, pairs, store, parent = material
    cached_reference(vlm, pairs, store, parent, batches(pairs))
    cached = with_reference(pairs, ReferenceLogps.open(parent, vlm), store)
    batch = PairCollator(store)(cached.rows)["batch"]
    fly, kept = PairScorer(vlm, reference="adapter_off")(batch), PairScorer(vlm, reference="cached")(batch)
    for ours, theirs in ((kept.chosen, fly.chosen), (kept.rejected, fly.rejected)):
        torch.testing.assert_close(ours.reference, theirs.reference, atol=1e-5, rtol=0)
        assert (ours.policy - ours.reference).abs().max() > 1e-3


def test_a_killed_run_goes_on_and_two_processes_share_the_work(material: Any) -> None:
    vlm, pairs, store, parent = material
    first = cached_reference(vlm, pairs, store, parent, batches(pairs)[:1])
    assert len(first.rows) == 4
    for rank in (0, 1):
        cached_reference(vlm, pairs, store, parent, batches(pairs), rank=rank, world=2)
    assert len(ReferenceLogps.open(parent, vlm).rows) == 9
    files = sorted(parent.rglob("*.safetensors"))
    assert sum(len(load_file(file)["chosen"]) for file in files) == sum(len(row.chosen) for row in pairs.rows)


def test_a_torn_file_is_computed_again(material: Any) -> None:
    vlm, pairs, store, parent = material
    cached_reference(vlm, pairs, store, parent, batches(pairs))
    (file,) = parent.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(UserError, match="no reference log-probs for pair pair-0"):
        with_reference(pairs, ReferenceLogps.open(parent, vlm), store)
    cached_reference(vlm, pairs, store, parent, batches(pairs))
    assert len(with_reference(pairs, ReferenceLogps.open(parent, vlm), store)) == 9


def test_what_changed_has_another_name(material: Any, tiny_llava_folder: Path, tmp_path: Path) -> None:
    vlm, pairs, store, _ = material
    keys = [pair_key(row, store) for row in pairs.rows]
    assert len(set(keys)) == 9
    folder = write_pairs(tmp_path / "others", 9, seed=1)  # other images and answers
    others = encode_pairs(vlm, read_pairs(folder), store, root=folder)
    assert not {pair_key(row, store) for row in others.rows} & set(keys)
    shorter = encode_pairs(vlm, read_pairs(tmp_path / "pairs"), store, max_response_tokens=4)
    assert not {pair_key(row, store) for row in shorter.rows} & set(keys)

    for name, change in (("chat_template.jinja", " "), ("config.json", "\n")):
        copy = tmp_path / f"model-{name}"
        shutil.copytree(tiny_llava_folder, copy)
        assert reference_identity(load_vlm(copy)) == reference_identity(vlm)
        (copy / name).write_text((copy / name).read_text() + change)
        assert reference_identity(load_vlm(copy)) != reference_identity(vlm)
    assert reference_identity(load_vlm(tiny_llava_folder, dtype="bfloat16")) != reference_identity(vlm)

    trained_on = tmp_path / "model-weights"  # RLAIF-V: a model that was trained further reuses the numbers of the old
    shutil.copytree(tiny_llava_folder, trained_on)
    weights = load_file(trained_on / "model.safetensors")
    weights[next(iter(weights))].view(-1)[0] += 1
    save_file(weights, trained_on / "model.safetensors", {"format": "pt"})
    assert reference_identity(load_vlm(trained_on)) != reference_identity(vlm)


def test_an_image_on_disk_is_known_by_its_content(material: Any, tmp_path: Path) -> None:
    vlm, *_ = material
    store = ImageStore(vlm, 1 << 20)
    from tests.tiny import tiny_image

    tiny_image(0).save(tmp_path / "a.png")
    before = store.content(store.add("a.png", tmp_path))
    tiny_image(1).save(tmp_path / "a.png")
    again = ImageStore(vlm, 1 << 20)
    assert again.content(again.add("a.png", tmp_path)) != before


def test_training_from_the_cache_is_the_same_training(tiny_llava_folder: Path, tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs", 12)
    plain = train(settings_for(tiny_llava_folder, pairs, epochs=2), tmp_path / "plain")
    cached = train(settings_for(tiny_llava_folder, pairs, epochs=2, cache_reference=True), tmp_path / "cached")
    assert cached.last_train["loss"] == pytest.approx(plain.last_train["loss"], rel=1e-4)
    a, b = (load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("plain", "cached"))
    assert all(torch.allclose(a[name], b[name], atol=1e-5) for name in a)
    files = sorted((pairs / "reference").rglob("*"))
    times = [file.stat().st_mtime_ns for file in files]
    train(settings_for(tiny_llava_folder, pairs, epochs=1, cache_reference=True, seed=3), tmp_path / "again")
    assert [file.stat().st_mtime_ns for file in sorted((pairs / "reference").rglob("*"))] == times, "nothing computed"
    assert len(list(read_pairs(pairs))) == 12, "the pairs still open"


def test_numbers_for_other_tokens_are_refused(material: Any) -> None:
    vlm, pairs, store, _ = material
    batch = PairCollator(store)(pairs.rows[:2])["batch"]
    with pytest.raises(ValueError, match="for every pair"):
        PairScorer(vlm, reference="cached")(batch)
    batch.reference = [(torch.zeros(1), torch.zeros(1))] * 2
    with pytest.raises(ValueError, match="other tokens"):
        PairScorer(vlm, reference="cached")(batch)
