"""Images that stay in their data set: read when needed, the same pixels, nothing kept in memory."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from mmpo.data.pair import PreferencePair
from mmpo.data.shards import PairDataset, PairWriter, read_pairs
from mmpo.files.images import encode_image
from mmpo.models.families.loading import VLM
from mmpo.trainers.collate import PairCollator, encode_pairs
from mmpo.trainers.images import ImageStore, StoredImage
from tests.tiny import tiny_image
from tests.trainers.material import make_pairs


def write(folder: Path, pairs: list[PreferencePair]) -> Path:
    with PairWriter(folder, recipe={"by": "test"}, rows_per_shard=5) as writer:
        for pair in pairs:
            writer.add(pair)
    return folder


def test_embedded_images_are_read_from_the_shards(vlm: VLM, tmp_path: Path) -> None:
    other = PreferencePair.simple(
        id="other", image=encode_image(tiny_image(90)), question="What?", chosen="A dog.", rejected="A cat.",
        rejected_image=encode_image(tiny_image(91)),
    )  # fmt: skip
    folder = write(tmp_path / "pairs", [*make_pairs(12), other])
    kept, stored = ImageStore(vlm, 0), ImageStore(vlm, 0)
    first = encode_pairs(vlm, read_pairs(folder), kept, root=folder)
    second = encode_pairs(vlm, read_pairs(folder), stored, root=folder, dataset=PairDataset(folder))
    assert [row.all_images for row in first.rows] == [row.all_images for row in second.rows]
    assert all(isinstance(source, StoredImage) for source, _ in stored._sources.values())
    for key in kept._sources:
        assert stored.source(key) == kept.source(key) and stored.content(key) == key
    a, b = (PairCollator(store)(rows.rows)["batch"] for store, rows in ((kept, first), (stored, second)))
    assert torch.equal(a.image_inputs["pixel_values"], b.image_inputs["pixel_values"])
    copy: ImageStore = pickle.loads(pickle.dumps(stored._sources))  # a worker process gets a copy
    assert {key: source.read() for key, (source, _) in copy.items()} == {k: kept.source(k)[0] for k in kept._sources}


def test_broken_images_of_a_data_set_are_found(vlm: VLM, tmp_path: Path) -> None:
    pairs = make_pairs(4)
    bad = PreferencePair.simple(
        id="bad", image=pairs[0].images[0][:40], question="What?", chosen="A dog.", rejected="A cat."
    )
    folder = write(tmp_path / "pairs", [*pairs, bad])
    rejected: list[str] = []
    found = encode_pairs(
        vlm, read_pairs(folder), ImageStore(vlm, 2**20), root=folder, dataset=PairDataset(folder),
        on_reject=lambda name, error: rejected.append(f"{name}: {error.reason}"),
    )  # fmt: skip
    assert len(found) == 4 and rejected == ["bad: truncated"]


@pytest.mark.parametrize("cache_bytes", [0, 2**24])
def test_prepared_images_are_kept_within_the_budget(vlm: VLM, cache_bytes: int) -> None:
    store = ImageStore(vlm, cache_bytes)
    key = store.add(encode_image(tiny_image(3)))
    first, again = store.prepared(key), store.prepared(key)
    assert (first is again) == bool(cache_bytes)
    assert torch.equal(first.tensors["pixel_values"], again.tensors["pixel_values"])
