"""Writing a dataset: every field kept, odd input named, and no kill that shows in the bytes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from mmpo.data.card import read_card
from mmpo.data.pair import PreferencePair, text_message
from mmpo.data.shards import PairDataset, PairWriter, count_pairs, read_pairs
from mmpo.errors import Quarantined, UserError
from mmpo.files.images import load_image
from tests.data.making import RECIPE, build, files, make_pair, picture


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
        image_weights=[{"start": 0, "end": 2, "weight": 3.0}],
        unfinished=True,
        twin="bare",
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


def test_same_input_same_bytes(built: Path, tmp_path: Path) -> None:
    build(tmp_path)
    assert files(tmp_path) == files(built)
    assert len(list((tmp_path / "data").iterdir())) > 3
    build(tmp_path)  # a finished dataset is left as it is
    assert files(tmp_path) == files(built)


KILLED_BUILD = """
import os, signal, sys
from pathlib import Path
from tests.data import making

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
making.make_pair = count("between sources", True, making.make_pair)
making.build(Path(sys.argv[1]))
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


def test_two_pairs_of_one_id_are_refused(tmp_path: Path) -> None:
    writer = PairWriter(tmp_path, rows_per_shard=1)
    writer.add(make_pair(0))
    with pytest.raises(UserError, match="second pair is called"):
        writer.add(make_pair(0))
    with pytest.raises(UserError, match="second pair is called"):  # also by a run that goes on
        PairWriter(tmp_path, rows_per_shard=1).add(make_pair(0))


def test_turns_and_parts_come_back_as_they_went_in(tmp_path: Path) -> None:
    talk = [text_message("assistant", "A dog."), text_message("user", "Where?"), text_message("assistant", "Left.")]
    parts = [{"start": 0, "end": 6, "kind": "step", "scores": [0.5]},
             {"start": 0, "end": 11, "kind": "segment", "scores": [1.0, -2.0]}]  # fmt: skip
    pair = make_pair(1, chosen=talk, chosen_parts=parts)
    with PairWriter(tmp_path / "pairs") as writer:
        writer.add(pair, make_pair(2))
    first, second = read_pairs(tmp_path / "pairs")
    assert (first.chosen, first.chosen_parts, first.rejected_parts) == (talk, parts, None)
    assert second.chosen_parts is None


def test_shards_without_columns_for_parts_are_read(tmp_path: Path) -> None:
    with PairWriter(tmp_path / "pairs") as writer:
        writer.add(make_pair(1))
    shard = tmp_path / "pairs" / "data" / "train-00000.parquet"
    table = pq.read_table(shard).drop_columns(["chosen_parts", "rejected_parts"])
    (tmp_path / "old" / "data").mkdir(parents=True)
    pq.write_table(table, tmp_path / "old" / "data" / shard.name)
    assert next(read_pairs(tmp_path / "old")) == make_pair(1)
