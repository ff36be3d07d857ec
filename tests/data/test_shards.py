"""A dataset on disk: written whole, read back the same, the books balanced, and no kill that shows in the bytes."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mmpo.data.card import Counts, count_reasons, read_card, recipe_hash
from mmpo.data.images import encode_image, load_image
from mmpo.data.pair import PreferencePair, text_message
from mmpo.data.shards import PairDataset, PairWriter, Rejects, count_pairs, read_pairs, write_card
from mmpo.errors import Quarantined, UserError

RECIPE = {"method": "hallucination", "seed": 3, "where": Path("images")}


def picture(number: int) -> bytes:
    return encode_image(Image.new("RGB", (8, 6), (number % 256, 7, 7)))


def make_pair(number: int, **changes: Any) -> PreferencePair:
    pair = PreferencePair.simple(
        id=f"pair-{number}",
        image=picture(number),
        question="What is there?",
        chosen=f"There are {number} dogs.",
        rejected=f"There are {number} cats — çats.",
        rejected_weights=[{"start": 0, "end": 5, "weight": 0.5}],
        scores={"margin": number / 4},
        provenance={"builder": "test", "seed": 3, "sources": [f"s{number}"], "filters": [], "claims": {"n": number}},
    )
    return replace(pair, **changes)


def build(folder: Path, sources: int = 60, rows: int = 8) -> Counts:
    """Every 5th source is broken, every 7th gives two pairs, the last four give none."""
    with PairWriter(folder, rows_per_shard=rows, recipe=RECIPE) as writer:
        for number in islice(range(sources), writer.sources_done, None):
            if number % 5 == 2 or number >= sources - 4:
                writer.reject(
                    f"s{number}", Quarantined("decode", "truncated" if number % 2 else "missing", f"{number}")
                )
            elif number % 7 == 0:
                writer.add(make_pair(number), make_pair(1000 + number))
            else:
                writer.add(make_pair(number))
        return writer.counts


def files(folder: Path) -> dict[str, str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    build(folder)
    return folder


def test_pairs_come_back_as_they_went_in(built: Path) -> None:
    pairs = list(read_pairs(built))
    assert pairs[0] == make_pair(0) and pairs[1] == make_pair(1000) and pairs[2] == make_pair(1)
    assert len({pair.id for pair in pairs}) == len(pairs) == count_pairs(built)


def test_every_field_comes_back(tmp_path: Path) -> None:
    full = PreferencePair(
        id="full",
        prompt=[
            text_message("system", "Be brief."),
            {"role": "user", "content": [{"type": "image"}, {"type": "video"}, {"type": "video"}]},
        ],
        chosen=[text_message("assistant", "Yes.")],
        rejected=[text_message("assistant", "No.")],
        images=["images/a.png"],
        rejected_images=[b"bytes"],
        videos=[{"frames": [b"1", "frames/2.png"], "times": [0.0, 1.5]}, {"path": "clip.mp4"}],
        chosen_weights=[{"start": 0, "end": 1, "weight": 2.0}],
        rejected_weights=[],
        scores={"b": 1.0},
        provenance={"judge": "rules", "nested": {"list": [1, None, "x"]}},
    )
    bare = PreferencePair(
        id="bare", prompt=[text_message("user", "Hi?")], chosen=full.chosen, rejected=full.rejected, scores={"a": 2.0}
    )
    with PairWriter(tmp_path, scores=["a", "b"]) as writer:
        writer.add(full)
        writer.add(bare)
    assert list(read_pairs(tmp_path)) == [full, bare]


def test_the_books_balance(built: Path) -> None:
    counts = read_card(built)["splits"]["train"]
    rejects = [json.loads(line) for line in (built / "rejects.jsonl").read_text().splitlines()]
    assert counts["sources"] == 60 == counts["kept"] + counts["rejected"]
    assert counts["rejected"] == len(rejects) == sum(counts["reasons"].values())
    assert (
        counts["pairs"]
        == count_pairs(built)
        == counts["kept"] + len([n for n in range(56) if n % 7 == 0 and n % 5 != 2])
    )
    assert rejects[0] == {"id": "s2", "stage": "decode", "reason": "missing", "detail": "2"}
    assert counts["reasons"] == count_reasons(built / "rejects.jsonl")
    assert counts["recipe"] == {"method": "hallucination", "seed": 3, "where": "images"}
    assert counts["recipe_hash"] == recipe_hash({"where": "images", "seed": 3, "method": "hallucination"})
    page = (built / "README.md").read_text()
    assert f"| train | 60 | {counts['kept']} | {counts['pairs']} | {counts['rejected']} |" in page


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


def test_same_input_same_bytes(built: Path, tmp_path: Path) -> None:
    build(tmp_path)
    assert files(tmp_path) == files(built)
    assert len(list((tmp_path / "data").iterdir())) > 3
    build(tmp_path)  # a finished dataset is left as it is
    assert files(tmp_path) == files(built)


KILLED_BUILD = """
import os, signal, sys
from pathlib import Path
from tests.data import test_shards

moment, at = sys.argv[2], int(sys.argv[3])
die = lambda: os.kill(os.getpid(), signal.SIGKILL)
seen = 0

def count(kind, before, real):
    def call(*args, **kwargs):
        global seen
        seen += moment == kind
        if seen == at and before and moment == kind:
            die()
        result = real(*args, **kwargs)
        if seen == at and not before and moment == kind:
            die()
        return result
    return call

os.replace = count("before the rename", True, count("after the rename", False, os.replace))
test_shards.make_pair = count("between sources", True, test_shards.make_pair)
test_shards.build(Path(sys.argv[1]))
"""


def test_killed_and_resumed_ends_with_the_same_bytes(built: Path, tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    moments = ["between sources 5", "before the rename 2", "after the rename 1", "before the rename 2"]
    for moment in moments:
        kind, _, at = moment.rpartition(" ")
        command = [sys.executable, "-c", KILLED_BUILD, str(tmp_path / "pairs"), kind, at]
        died = subprocess.run(command, cwd=root, capture_output=True, text=True)
        assert died.returncode == -signal.SIGKILL, died.stderr
        assert not (tmp_path / "pairs" / "card.json").exists()
    assert 0 < count_pairs(tmp_path / "pairs") < count_pairs(built)
    with open(tmp_path / "pairs" / "rejects.jsonl", "ab") as file:
        file.write(b'{"id": "half')  # a kill may leave this too
    build(tmp_path / "pairs")
    assert files(tmp_path / "pairs") == files(built)


def test_an_error_in_the_block_leaves_a_dataset_to_go_on_with(built: Path, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), PairWriter(tmp_path, rows_per_shard=8, recipe=RECIPE) as writer:
        for number in range(11):
            writer.reject(f"s{number}", Quarantined("decode", "missing", "2")) if number == 2 else writer.add(
                make_pair(number)
            )
        1 / 0  # noqa: B018
    assert count_pairs(tmp_path) == 8 and not (tmp_path / "card.json").exists()
    writer = PairWriter(tmp_path, rows_per_shard=8, recipe=RECIPE)
    assert (writer.sources_done, writer.counts.kept, writer.counts.rejected) == (9, 8, 1)


def test_another_recipe_or_other_scores_are_refused(tmp_path: Path) -> None:
    with PairWriter(tmp_path, recipe={"a": 1}) as writer:
        writer.add(make_pair(1))
    with pytest.raises(UserError, match="another recipe"):
        PairWriter(tmp_path, recipe={"a": 2})
    with pytest.raises(UserError, match="has the scores"):
        PairWriter(tmp_path, recipe={"a": 1}, scores=["other"])
    with pytest.raises(UserError, match="must be a word"):
        PairWriter(tmp_path, split="../train")
    with pytest.raises(UserError, match="at least 1"):
        PairWriter(tmp_path, rows_per_shard=0)


def test_shards_or_rejects_that_went_missing_are_noticed(tmp_path: Path) -> None:
    build(tmp_path)
    (tmp_path / "rejects.jsonl").write_text("")
    with pytest.raises(UserError, match="has 0 rows"):
        build(tmp_path)
    (tmp_path / "data" / "train-00001.parquet").unlink()
    with pytest.raises(UserError, match="shard 1 of train is missing"):
        build(tmp_path)


def test_bad_pairs_are_named_when_written(tmp_path: Path) -> None:
    writer = PairWriter(tmp_path, rows_per_shard=2)
    writer.add(make_pair(0))
    with pytest.raises(UserError, match=r"train row 1 \(id pair-1\): `chosen` is empty"):
        writer.add(make_pair(1, chosen=[text_message("assistant", "")]))
    with pytest.raises(ValueError, match="reject"):
        writer.add()
    writer.add(make_pair(2))
    with pytest.raises(UserError, match="score 'new' is not a column"):
        writer.add(make_pair(3, scores={"new": 1.0}))
    assert count_pairs(tmp_path) == 2 == writer.counts.pairs


def test_paths_are_embedded_from_a_folder(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.png").write_bytes(picture(5))
    Image.new("CMYK", (8, 6)).save(images / "b.jpg")
    writer = PairWriter(tmp_path / "pairs", images=images)
    video = [{"frames": ["a.png"], "times": [0.0]}]
    prompt = [{"role": "user", "content": [{"type": "image"}, {"type": "video"}]}]
    writer.add(make_pair(0, prompt=prompt, images=["a.png"], rejected_images=["b.jpg"], videos=video))
    for name, reason in (("none.png", "missing"), ("../pairs/x.png", "path_escape")):
        with pytest.raises(Quarantined, match=reason):
            writer.add(make_pair(1, images=[name]))
    assert writer.sources_done == 1  # the two are still to be rejected
    writer.close()
    (pair,) = read_pairs(tmp_path / "pairs")
    assert pair.images == [picture(5)] and pair.videos == [{"frames": [picture(5)], "times": [0.0]}]
    assert pair.rejected_images is not None and load_image(pair.rejected_images[0]).getpixel((0, 0)) == (255, 255, 255)


def test_a_dataset_without_pairs(tmp_path: Path) -> None:
    import datasets

    with PairWriter(tmp_path / "pairs") as writer:
        writer.reject("s", Quarantined("filter", "no_hallucination"))
    assert list(read_pairs(tmp_path / "pairs")) == [] and len(PairDataset(tmp_path / "pairs")) == 0
    data = datasets.load_dataset(str(tmp_path / "pairs"), split="train", streaming=True)
    assert list(data) == [] and data.features["images"] == datasets.List(datasets.Image())
    assert read_card(tmp_path / "pairs")["splits"]["train"]["pairs"] == 0


def test_a_shard_also_closes_by_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = len(picture(0)) + len(make_pair(0).chosen_text + make_pair(0).rejected_text)
    monkeypatch.setattr("mmpo.data.shards.BYTES_PER_SHARD", int(2.5 * one))
    with PairWriter(tmp_path) as writer:
        for number in range(7):
            writer.add(make_pair(number))
    assert len(list((tmp_path / "data").iterdir())) == 3


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


def test_a_card_that_does_not_add_up_is_refused(tmp_path: Path) -> None:
    counts = build(tmp_path)
    wrong = [
        (replace(counts, sources=61), "61 sources came in"),
        (replace(counts, reasons={}), "0 of them with a reason"),
        (replace(counts, pairs=3), "3 pairs were counted, the train shards hold"),
        (replace(counts, reasons={"decode/odd": counts.rejected}), "the rejects file holds"),
    ]
    for changed, message in wrong:
        with pytest.raises(UserError, match=message):
            write_card(tmp_path, changed)
    write_card(tmp_path, counts, RECIPE, title="Dogs", notes="Made of dogs.")
    assert (tmp_path / "README.md").read_text().split("---\n")[2].startswith("# Dogs\n\nMade of dogs.\n")


def test_reading_a_card(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the build did not finish"):
        read_card(tmp_path)
    (tmp_path / "card.json").write_text('{"format": "other"}')
    with pytest.raises(UserError, match="not a card of the format"):
        read_card(tmp_path)


def test_rejects_alone(tmp_path: Path) -> None:
    with Rejects(tmp_path / "run" / "rejects.jsonl") as rejects:
        rejects.add("a", Quarantined("train", "too_long", "4,096 tokens"))
        assert len(rejects) == 1
    with Rejects(rejects.path) as rejects:
        rejects.add("b", Quarantined("train", "too_long"))
        assert len(rejects) == 2
    assert count_reasons(rejects.path) == {"train/too_long": 2} and count_reasons(tmp_path / "none") == {}
