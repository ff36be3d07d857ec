"""Reading a dataset: by us, by `datasets`, in order, by number; damaged files and files of others."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmpo.data.card import read_card
from mmpo.data.pair import text_message
from mmpo.data.rows import ONCE_NOTED
from mmpo.data.shards import PairDataset, PairWriter, count_pairs, read_pairs
from mmpo.errors import Quarantined, UserError
from mmpo.files.images import load_image
from tests.data.making import build, make_pair, picture


def test_load_dataset_opens_the_folder_as_it_is(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    data = datasets.load_dataset(str(built), cache_dir=str(tmp_path))
    assert list(data) == ["train"] and len(data["train"]) == count_pairs(built)
    assert data["train"].features["images"] == datasets.List(datasets.Image())
    assert data["train"].features["rejected_images"] == datasets.List(datasets.Image())
    row, pair = data["train"][3], next(islice(read_pairs(built), 3, None))
    assert row["images"][0].size == (8, 6) and row["images"][0].getpixel((0, 0)) == load_image(pair.images[0]).getpixel(
        (0, 0)
    )
    assert row["chosen"] == pair.chosen and row["scores"] == pair.scores
    assert row["prompt"][0]["content"][0]["type"] == "image"
    stream = datasets.load_dataset(str(built), split="train", streaming=True)
    assert next(iter(stream))["images"][0].size == (8, 6)


def test_load_dataset_before_the_card_and_with_other_splits(tmp_path: Path) -> None:
    import datasets

    for split, count in (("train", 3), ("dev", 2), ("hard_negatives", 1)):
        with PairWriter(tmp_path / "pairs", split=split) as writer:
            for number in range(count):
                writer.add(make_pair(number))
            writer.reject("x", Quarantined("filter", "same"))
    data = datasets.load_dataset(str(tmp_path / "pairs"), cache_dir=str(tmp_path / "cache"))
    assert {name: len(split) for name, split in data.items()} == {"train": 3, "dev": 2, "hard_negatives": 1}
    assert set(read_card(tmp_path / "pairs")["splits"]) == {"train", "dev", "hard_negatives"}
    for name in ("README.md", "card.json", "rejects.dev.jsonl", "rejects.hard_negatives.jsonl"):
        (tmp_path / "pairs" / name).unlink()
    (tmp_path / "pairs" / "data" / "hard_negatives-00000.parquet").unlink()
    data = datasets.load_dataset(str(tmp_path / "pairs"), cache_dir=str(tmp_path / "cache2"))
    assert {name: len(split) for name, split in data.items()} == {"train": 3, "validation": 2}


def test_random_access(built: Path) -> None:
    pairs, data = list(read_pairs(built)), PairDataset(built)
    assert len(data) == len(pairs)
    for index in (0, 33, len(pairs) - 1, 8, 7, -1):
        assert data[index] == pairs[index]
    assert data[3:20:5] == pairs[3:20:5]
    for index in (len(pairs), -len(pairs) - 1):
        with pytest.raises(IndexError):
            data[index]


def test_random_access_within_row_groups(tmp_path: Path) -> None:
    with PairWriter(tmp_path, rows_per_shard=400) as writer:
        for number in range(500):
            writer.add(make_pair(number))
    data = PairDataset(tmp_path)
    assert [data[index].id for index in range(499, -1, -37)] == [f"pair-{index}" for index in range(499, -1, -37)]
    assert len(data._cache) <= data.KEPT_GROUPS


def test_reading_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading the first pair touches one batch of rows, not the file."""
    with PairWriter(tmp_path) as writer:
        for number in range(200):
            writer.add(make_pair(number))
    batches: list[int] = []
    real = pq.ParquetFile.iter_batches

    def spy(self: pq.ParquetFile, *args: Any, **kwargs: Any) -> Iterator[pa.RecordBatch]:
        for batch in real(self, *args, **kwargs):
            batches.append(batch.num_rows)
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", spy)
    assert next(read_pairs(tmp_path)).id == "pair-0"
    assert batches == [32]


def test_files_of_others(tmp_path: Path) -> None:
    """A shard in the plain conversational form that trainers publish: no id, text content, no extra columns."""
    (tmp_path / "data").mkdir()
    rows = [
        {
            "images": [{"bytes": picture(n), "path": None}],
            "prompt": [
                {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "What?"}]}
            ],
            "chosen": [{"role": "assistant", "content": "A dog."}],
            "rejected": [{"role": "assistant", "content": "A dog." if n == 2 else "A cat."}],
        }
        for n in range(3)
    ]
    path = tmp_path / "data" / "train-00000-of-00001.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    pairs = read_pairs(tmp_path)
    assert next(pairs).id == "train-00000-of-00001.parquet:0"
    assert next(pairs).chosen == [text_message("assistant", "A dog.")]
    with pytest.raises(UserError, match=f"{path.name}:2 .*are the same"):
        next(pairs)
    with pytest.raises(UserError, match=f"{path.name}:2 .*are the same"):
        PairDataset(tmp_path)[2]


def test_what_once_stood_in_the_provenance(tmp_path: Path) -> None:
    """Shards from before these were columns train as they did."""
    span = {"start": 0, "end": 3, "weight": 3.0}
    noted = {"unfinished": True, "twin": "pair-2", "image_weights": [span], "kind": "old"}
    with PairWriter(tmp_path, rows_per_shard=9) as writer:
        writer.add(make_pair(1, provenance=noted))
        writer.add(make_pair(2))
    path = tmp_path / "data" / "train-00000.parquet"
    table = pq.read_table(path).drop_columns(list(ONCE_NOTED))
    pq.write_table(table, path)
    (tmp_path / "card.json").unlink()
    old, plain = read_pairs(tmp_path)
    assert old.unfinished is True and (old.twin, old.image_weights) == ("pair-2", [span])
    assert old.provenance == {"kind": "old"}
    assert plain == make_pair(2)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": None}, ":0: no `prompt`"),
        ({"chosen": "A dog."}, "`chosen` must be a list of messages, got str"),
        ({"chosen": [{"role": "assistant"}]}, "without a list of content parts"),
        ({"images": [{"bytes": None, "path": None}]}, "neither bytes nor a path"),
        ({"provenance": {"extra": "{"}}, "not a JSON object"),
    ],
)
def test_odd_rows_are_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    (tmp_path / "data").mkdir()
    good = {
        "images": [{"bytes": b"x", "path": None}],
        "prompt": [{"role": "user", "content": [{"type": "image"}]}],
        "chosen": [{"role": "assistant", "content": "a"}],
        "rejected": [{"role": "assistant", "content": "b"}],
    }
    pq.write_table(pa.Table.from_pylist([good | row]), tmp_path / "data" / "train-0.parquet")
    with pytest.raises(UserError) as caught:
        list(read_pairs(tmp_path))
    assert "train-0.parquet:0" in caught.value.message and message in caught.value.message


def test_missing_and_damaged_folders(tmp_path: Path) -> None:
    for read in (lambda: list(read_pairs(tmp_path)), lambda: count_pairs(tmp_path), lambda: PairDataset(tmp_path)):
        with pytest.raises(UserError, match="no pairs of the split 'train'"):
            read()
    build(tmp_path)
    path = tmp_path / "data" / "train-00001.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"train-00001\.parquet: not a whole Parquet file"):
        list(read_pairs(tmp_path))
    with pytest.raises(UserError, match="not a whole Parquet file"):
        build(tmp_path)
    path.write_bytes(whole[:200] + os.urandom(1) * 2000 + whole[2200:])
    with pytest.raises(UserError, match=r"train-00001\.parquet"):
        list(read_pairs(tmp_path))
