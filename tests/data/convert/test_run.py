"""What holds for every conversion: folders, splits, detection, accounts, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmpo.data.convert import convert, detect
from mmpo.data.convert.media import Media
from mmpo.data.convert.rows import read_rows
from mmpo.errors import UserError
from tests.data.convert.sources import converted, rejects, write_json, write_lines, write_parquet
from tests.data.making import make_pair, picture

ROW = {"prompt": "What?", "chosen": "A", "rejected": "B"}


def test_rejects_name_file_row_and_reason(tmp_path: Path) -> None:
    file = tmp_path / "in" / "rows.jsonl"
    file.parent.mkdir()
    file.write_text(
        json.dumps(ROW) + "\n\n{broken\n" + json.dumps([1]) + "\n" + json.dumps(ROW | {"chosen": ""}) + "\n"
    )
    for name in ("mmpo", "trl", "llamafactory", "ms-swift"):
        result = convert(file, tmp_path / name, out_format=name, source_format="trl")
        assert (result.rows, result.kept, result.pairs) == (4, 1, 1)
        found = [(row["id"], row["reason"]) for row in rejects(tmp_path / name)]
        assert found == [
            ("rows.jsonl:3", "not_json"), ("rows.jsonl:4", "not_an_object"), ("rows.jsonl:5", "empty_response"),
        ]  # fmt: skip
        account = json.loads((tmp_path / name / "convert.json").read_text())
        assert account["quarantined"] == result.quarantined and str(tmp_path) not in json.dumps(account)


def test_a_folder_is_never_overwritten_unasked(tmp_path: Path) -> None:
    file = write_json(tmp_path / "in.json", [ROW])
    out = tmp_path / "out"
    convert(file, out)
    write_json(file, [ROW, ROW | {"chosen": "C"}])
    with pytest.raises(UserError, match="not empty"):
        convert(file, out)
    assert convert(file, out, overwrite=True).pairs == 2
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years")
    with pytest.raises(UserError, match="something else"):
        convert(file, precious, overwrite=True)
    assert (precious / "thesis.txt").exists()
    (tmp_path / "empty").mkdir()
    assert convert(file, tmp_path / "empty").pairs == 2


def test_nothing_half_done_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_json(tmp_path / "in.json", [ROW])
    convert(file, tmp_path / "out")
    before = (tmp_path / "out" / "convert.json").read_bytes()

    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Media, "placed", stop)
    with pytest.raises(KeyboardInterrupt):
        convert(file, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "convert.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.json", "out"]


def test_source_and_output_do_not_lie_in_one_another(tmp_path: Path) -> None:
    write_json(tmp_path / "in" / "in.json", [ROW])
    for source, out in (("in", "in"), ("in/in.json", "in"), ("in", "in/out")):
        with pytest.raises(UserError, match="source"):
            convert(tmp_path / source, tmp_path / out)


def test_splits_are_told_from_names(tmp_path: Path) -> None:
    for name in ("data/train-00000-of-00002", "data/train-00001-of-00002", "data/test-00000-of-00001", "validation/x"):
        write_parquet(tmp_path / "in" / f"{name}.parquet", [ROW | {"chosen": name}])
    train, _ = converted(tmp_path / "in", tmp_path / "train")
    assert [pair.chosen_text for pair in train] == ["data/train-00000-of-00002", "data/train-00001-of-00002"]
    result = convert(tmp_path / "in", tmp_path / "test", split="test")
    assert result.pairs == 1 and (tmp_path / "test" / "data" / "test-00000.parquet").exists()
    assert convert(tmp_path / "in", tmp_path / "val", split="validation", out_format="trl").pairs == 1
    with pytest.raises(UserError, match="it has: test, train, validation"):
        convert(tmp_path / "in", tmp_path / "x", split="dev")


def test_json_lines_under_another_name(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "in.json", [ROW, ROW | {"chosen": "C"}])
    assert len(converted(file, tmp_path / "out")[0]) == 2


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder / "gone", "no such file"),
        (lambda folder: write_json(folder / "a.json", {"a": 1}), "a list of rows"),
        (lambda folder: write_json(folder / "a.json", []), "no row to tell the format from"),
        (lambda folder: write_json(folder / "a.json", [{"x": 1}]), "of no known format"),
        (lambda folder: folder, "no .parquet"),
    ],
)
def test_sources_that_are_none(tmp_path: Path, make, words: str) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path / "in"
    folder.mkdir()
    with pytest.raises(UserError, match=words):
        convert(make(folder), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_broken_files_are_named(tmp_path: Path) -> None:
    for name in ("a.parquet", "b.json", "c.arrow", "d.csv"):
        (tmp_path / name).write_bytes(b"{ not whole")
        with pytest.raises(UserError, match=name):
            convert(tmp_path / name, tmp_path / "out", source_format="trl")


def test_wrong_names_and_options(tmp_path: Path) -> None:
    file = write_json(tmp_path / "in.json", [ROW])
    for given, words in (
        ({"source_format": "hadpoo"}, "no format 'hadpoo' to read"),
        ({"out_format": "seva"}, "no format 'seva' to write"),
        ({"media": "reference"}, "can't hold images by 'reference'"),
        ({"options": {"pairs_per_image": 1}}, "options of trl: none"),
        ({"source_format": "hadpo", "options": {"pairs": 1}}, "--set pairs: no such option"),
        ({"source_format": "hadpo", "options": {"pairs_per_image": 2}}, "pairs_per_image"),
        ({"images": tmp_path / "gone"}, "no such folder of images"),
    ):
        with pytest.raises(UserError, match=words):
            convert(file, tmp_path / "out", **given)  # type: ignore[arg-type]
    assert detect(file) == "trl"


def test_links_cannot_leave_the_images_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(picture(1))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    file = write_json(tmp_path / "in.json", [ROW | {"images": ["link.png"]}])
    for name, media in (("mmpo", "embed"), ("mmpo", "copy"), ("trl", "reference"), ("ms-swift", "reference")):
        out = tmp_path / f"{name}-{media}"
        result = convert(file, out, out_format=name, images=tmp_path / "images", media=media)
        assert result.quarantined == {"decode/path_escape": 1}


def test_rows_are_streamed(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "in.jsonl", [ROW])
    with file.open("a") as lines:
        lines.write("x" * 1000)  # never reached by a reader that takes one row at a time
    assert next(read_rows(file)).data == ROW


def test_one_picture_is_stored_once(tmp_path: Path) -> None:
    rows = [ROW | {"chosen": str(k), "images": [{"bytes": picture(k % 2), "path": None}]} for k in range(20)]
    convert(write_parquet(tmp_path / "in.parquet", rows), tmp_path / "out", out_format="llamafactory")
    assert len(list((tmp_path / "out" / "images").iterdir())) == 2


def test_full_pictures_of_pairs_survive(tmp_path: Path) -> None:
    rows = [{"id": "a", "images": [{"bytes": picture(3), "path": None}], **ROW}]
    pairs, _ = converted(write_parquet(tmp_path / "in.parquet", rows), tmp_path / "out")
    assert pairs[0].images == make_pair(3).images
