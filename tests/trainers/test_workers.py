"""Loader workers give the same run, however processes start. (`fork` is the default on Linux until Python 3.13.)"""

from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mmpo.data.shards import PairDataset, read_pairs
from mmpo.models.families.loading import load_vlm
from mmpo.objectives import build_objective
from mmpo.trainers.collate import PairCollator, encode_pairs
from mmpo.trainers.images import ImageStore
from mmpo.trainers.settings import AuxiliarySettings
from mmpo.trainers.train import train
from mmpo.trainers.views.view_maker import view_maker
from tests.tiny import save_tiny_llava
from tests.trainers.material import settings_for, write_conversations, write_pairs

OBJECTIVES: dict[str, dict[str, Any]] = {
    "spawn": {"objective": {"tars": {}}, "perturbation": {"mode": "synonyms"}},
    "forkserver": {"objective": {"mdpo": {}, "auxiliary": {"weight": 0.5}}},
}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_start_every_way(
    tiny_llava_folder: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(
        tiny_llava_folder, write_pairs(tmp_path / "pairs", 8), max_steps=2, eval_fraction=0, **OBJECTIVES[method]
    )
    if "auxiliary" in settings.objective:
        data = write_conversations(tmp_path / "chat")
        settings = settings.model_copy(update={"auxiliary": AuxiliarySettings(data=data)})
    train(settings, tmp_path / "none")
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method(method, force=True)
    try:
        train(settings.model_copy(update={"workers": 1}), tmp_path / "one")
    finally:
        multiprocessing.set_start_method(before, force=True)
    none, one = (load_file(tmp_path / run / "adapter/adapter_model.safetensors") for run in ("none", "one"))
    assert all(torch.equal(none[name], one[name]) for name in none)


@pytest.mark.parametrize(
    ("objective", "settings"),
    [
        ({"dpo": {}}, {}),
        ({"tars": {}}, {"perturbation": {"mode": "synonyms"}}),
        ({"tars_official": {}}, {}),
        ({"mdpo": {}}, {}),
        ({"image_preference": {}}, {"corruption": {"kind": "nearest"}}),
    ],
)
def test_a_copy_of_the_collator_makes_the_same_batch(
    tmp_path: Path, objective: dict[str, Any], settings: dict[str, Any]
) -> None:
    """What spawn and forkserver do first, for every kind of view; the copy has no weights in it."""
    folder = write_pairs(tmp_path / "pairs", 6)
    vlm = load_vlm(save_tiny_llava(tmp_path / "model"))
    store = ImageStore(vlm, 2**20)
    words = any(view.prompt == "perturbed" for view in build_objective(objective).views)
    pairs = encode_pairs(vlm, read_pairs(folder), store, words=words, dataset=PairDataset(folder))
    given = settings_for(tmp_path / "model", folder, objective=objective, **settings)
    maker = view_maker(given, build_objective(objective), vlm, store, pairs.rows)
    collate = PairCollator(store, maker.add if maker is not None else None)
    sent = pickle.dumps((pairs, collate))
    rows, copy = pickle.loads(sent)
    assert not hasattr(copy.store._vlm.model, "parameters") and copy.store._vlm.end_ids == vlm.end_ids
    ours, theirs = collate([pairs[i] for i in range(4)])["batch"], copy([rows[i] for i in range(4)])["batch"]
    assert ours.ids == theirs.ids and ours.views.keys() == theirs.views.keys()
    assert all(torch.equal(value, theirs.image_inputs[name]) for name, value in ours.image_inputs.items())
    for name, view in ours.views.items():
        assert all(map(torch.equal, view.prompt_ids, theirs.views[name].prompt_ids))
