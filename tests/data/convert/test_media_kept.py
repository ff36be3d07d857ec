"""A picture, video or sound of a row is in its pairs, or the row is quarantined: under any key, in any format."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmpo.data.convert import convert
from mmpo.data.convert.telling import kind_of_key, media_in
from mmpo.data.reader import read_pairs
from tests.data.convert.sources import converted, rejects, write_json, write_lines, write_parquet, write_pictures
from tests.data.making import picture

TEXT = {"prompt": "What is this?", "chosen": "A dog.", "rejected": "A cat."}
GOOD = TEXT | {"images": ["a.png"]}
TALK = {
    "conversations": [{"from": "human", "value": "What is this?"}],
    "chosen": {"from": "gpt", "value": "A dog."}, "rejected": {"from": "gpt", "value": "A cat."},
}  # fmt: skip
SWIFT = {
    "messages": [{"role": "user", "content": "What is this?"}, {"role": "assistant", "content": "A dog."}],
    "rejected_response": "A cat.",
}  # fmt: skip
POVID = {
    "conversations": [{"from": "human", "value": "What is this?"}, {"from": "gpt", "value": "A dog."}],
    "rejected_conversations": [{"from": "human", "value": "What is this?"}, {"from": "gpt", "value": "A cat."}],
}  # fmt: skip
FORMATS = {"trl": TEXT, "llamafactory": TALK, "ms-swift": SWIFT, "llava": POVID}

# Keys that no reader knows, and what can stand under them.
UNKNOWN: dict[str, dict[str, Any]] = {
    "a short name": {"pic": "a.png"},
    "a long name": {"photo_file": "x/a.JPG"},
    "camel case": {"inputImage": "a"},
    "no name at all": {"attachment_1": "clips/b.mp4"},
    "an address": {"image_url": "https://example.org/a"},
    "a list under a vague name": {"assets": ["one.webp", "two.webp"]},
    "inside an object": {"meta": {"where": {"file": "scene.jpeg"}}},
    "as JSON text": {"extra": '{"src": "a.png"}'},
    "base64": {"blob": base64.b64encode(picture(3)).decode()},
    "a data URI": {"content": "data:image/png;base64," + base64.b64encode(picture(3)).decode()},
    "pixels": {"image_array": [[[0, 1, 2]], [[3, 4, 5]]]},
    "an id": {"image_id": 2334},
    "a video": {"clip": "a.mkv"},
    "a folder of frames": {"frames_dir": "frames/a"},
    "a video's name": {"video_name": "v_123"},
    "a GIF": {"thing": "dance.gif"},
    "a film": {"scan": "chest.dcm"},
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("case", UNKNOWN)
def test_media_under_a_key_that_no_reader_knows(tmp_path: Path, format: str, case: str) -> None:
    row = FORMATS[format] | UNKNOWN[case]
    pairs, result = converted(write_json(tmp_path / "in.json", [FORMATS[format], row]), tmp_path / "out")
    assert len(pairs) == 1 and pairs[0].chosen_text == "A dog."
    assert result.quarantined == {"convert/unread_media": 1}, case
    assert next(iter(UNKNOWN[case])) in rejects(tmp_path / "out")[0]["detail"], "the key is named"


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("value", [{"audio": "a.wav"}, {"audios": ["x.mp3"]}, {"speech": "said.flac"},
                                   {"note": "hum.ogg"}, {"sound": {"array": [0.0], "sampling_rate": 16000}},
                                   {"voice": {"bytes": "UklGRg", "path": None}}])  # fmt: skip
def test_sounds_are_told_apart(tmp_path: Path, format: str, value: dict[str, Any]) -> None:
    result = convert(write_json(tmp_path / "in.json", [FORMATS[format] | value]), tmp_path / "out")
    assert result.quarantined == {"convert/audio": 1}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "tag", ["<image>", "<video>", "<audio>", "<|image_pad|>", "<|vision_start|>", "<ImageHere>", "[IMG]", "<|image_1|>",
            "<image_soft_token>", "<|video_pad|>", "<|AUDIO|>", "<start_of_image>", "<IMG_CONTEXT>",
            "<image-placeholder>", "<img>a</img>", "<image_1>"]
)  # fmt: skip
def test_a_placeholder_without_a_file(tmp_path: Path, format: str, tag: str) -> None:
    text = json.dumps(FORMATS[format]).replace("What is", f"{tag}\\nWhat is")
    result = convert(write_json(tmp_path / "in.json", [json.loads(text)]), tmp_path / "out")
    assert result.kept == 0 and sum(result.quarantined.values()) == 1


def test_a_placeholder_of_another_family_beside_a_picture(tmp_path: Path) -> None:
    write_pictures(tmp_path, "a.png")
    rows = [GOOD, GOOD | {"prompt": "<|vision_start|><|image_pad|><|vision_end|>What?"}]
    result = convert(write_json(tmp_path / "in.json", rows), tmp_path / "out")
    assert (result.kept, result.quarantined) == (1, {"convert/placeholder": 1})


@pytest.mark.parametrize("row", [
    {"prompt": "How do I write it to report.png?"}, {"chosen": "out.png"}, {"image": None}, {"images": []},
    {"image": ""}, {"video": None}, {"topic": "photography"}, {"image_caption": "A dog on grass"}, {"num_images": 0},
    {"source": "coco"}, {"speech_act": "a question about how to bake bread"}, {"prompt": "Is 3 < 4 [a] <b>?"},
    {"prompt": "Explain `<img src='x'>` in HTML."}, {"epic": "the Odyssey"}, {"video_duration": 3.5},
])  # fmt: skip
def test_rows_about_text_stay_text(tmp_path: Path, row: dict[str, Any]) -> None:
    pairs, result = converted(write_json(tmp_path / "in.json", [TEXT | row]), tmp_path / "out")
    assert len(pairs) == 1 and result.without_media == 1, result


@pytest.mark.parametrize("key", ["image", "images", "image_path", "img", "img_path", "picture"])
def test_usual_names_of_a_picture_are_read(tmp_path: Path, key: str) -> None:
    write_pictures(tmp_path, "a.png")
    for name, row in FORMATS.items():
        file = write_json(tmp_path / f"{name}.json", [row | {key: "a.png"}])
        pairs, result = converted(file, tmp_path / name, source_format=name)
        assert [pair.images for pair in pairs] == [[picture(0)]] and result.without_media == 0


def test_an_empty_column_does_not_hide_another(tmp_path: Path) -> None:
    write_pictures(tmp_path, "a.png")
    pairs, _ = converted(write_json(tmp_path / "in.json", [TEXT | {"images": [], "image": "a.png"}]), tmp_path / "out")
    assert pairs[0].images == [picture(0)]


@pytest.mark.parametrize("key", ["video", "videos", "video_path"])
def test_videos_are_read(tmp_path: Path, key: str) -> None:
    (tmp_path / "a.mp4").write_bytes(b"not decoded here")
    for name in ("trl", "llamafactory", "ms-swift"):
        file = write_json(tmp_path / f"{name}.json", [FORMATS[name] | {key: "a.mp4"}])
        pairs, _ = converted(file, tmp_path / name, source_format=name)
        assert (tmp_path / name / pairs[0].videos[0]["path"]).read_bytes() == b"not decoded here"
        assert pairs[0].prompt[0]["content"][0] == {"type": "video"}


@pytest.mark.parametrize("extra", [
    {"image2": "b.png"}, {"video": "a.mp4"}, {"audio": "a.wav"}, {"mask": "mask.png"}, {"rejected_image": "b.png"},
    {"image": "b.png"},
])  # fmt: skip
def test_a_second_medium_does_not_vanish_beside_the_first(tmp_path: Path, extra: dict[str, Any]) -> None:
    write_pictures(tmp_path, "a.png", "b.png", "mask.png")
    result = convert(write_json(tmp_path / "in.json", [GOOD, GOOD | extra]), tmp_path / "out")
    assert result.kept == 1 and sum(result.quarantined.values()) == 1
    if next(iter(extra)) == "mask":
        again = convert(tmp_path / "in.json", tmp_path / "again", ignore=["mask"])
        assert again.kept == 2


@pytest.mark.parametrize("extra", [
    {"image_path": "elsewhere/a.png"}, {"image_id": 7}, {"file_name": "a.png"}, {"coco_url": "http://x/y/a.png"},
])  # fmt: skip
def test_other_names_of_the_same_picture(tmp_path: Path, extra: dict[str, Any]) -> None:
    write_pictures(tmp_path, "a.png")
    assert convert(write_json(tmp_path / "in.json", [GOOD | extra]), tmp_path / "out").kept == 1


def test_pairs_without_media_are_counted_everywhere(tmp_path: Path) -> None:
    write_pictures(tmp_path, "a.png")
    file = write_lines(tmp_path / "in.jsonl", [TEXT, GOOD, TEXT | {"chosen": "No."}])
    for name in ("mmpo", "trl", "llamafactory", "ms-swift"):
        result = convert(file, tmp_path / name, out_format=name)
        assert (result.rows, result.kept, result.without_media) == (3, 3, 2)
        assert json.loads((tmp_path / name / "convert.json").read_text())["without_media"] == 2
    assert "2 of 3 pairs hold no picture and no video" in (tmp_path / "mmpo" / "README.md").read_text()
    assert "2 of 3 pairs" in json.loads((tmp_path / "mmpo" / "card.json").read_text())["notes"]


def test_unknown_columns_of_tables(tmp_path: Path) -> None:
    """Encoded bytes under any name, and a container of video bytes."""
    rows = [TEXT | {"payload": picture(1)}, TEXT | {"payload": {"bytes": picture(1), "path": None}}]
    for number, row in enumerate(rows):
        result = convert(write_parquet(tmp_path / f"{number}.parquet", [row]), tmp_path / str(number))
        assert result.quarantined == {"convert/unread_media": 1}
    wave = io.BytesIO(b"RIFF\0\0\0\0WAVEfmt ").getvalue()
    result = convert(write_parquet(tmp_path / "w.parquet", [TEXT | {"x": wave}]), tmp_path / "w")
    assert result.quarantined == {"convert/audio": 1}


def test_columns_that_datasets_writes(tmp_path: Path) -> None:
    """`Json`, alone, in lists and within messages; `Image`; `Video`; by `to_parquet` and by `save_to_disk`."""
    datasets = pytest.importorskip("datasets")
    if not hasattr(datasets, "Json"):
        pytest.skip("this version of datasets has no Json feature")
    write_pictures(tmp_path / "media", "a.png")
    shot = str(tmp_path / "media" / "a.png")
    ask = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
    good, worse = (
        [{"role": "assistant", "content": [{"type": "text", "text": word}]}] for word in ("A dog.", "A cat.")
    )
    Json, List, Image = datasets.Json, datasets.List, datasets.Image
    for number, (images, messages, column, values) in enumerate([
        (List(Image()), List(Json()), "images", [[shot]]), (List(Image()), Json(), "images", [[shot]]),
        (Image(), List({"role": datasets.Value("string"), "content": Json()}), "image", [shot]),
    ]):  # fmt: skip
        features = datasets.Features({column: images, **dict.fromkeys(("prompt", "chosen", "rejected"), messages)})
        data = datasets.Dataset.from_dict(
            {column: values, "prompt": [ask], "chosen": [good], "rejected": [worse]}, features=features
        )
        data = data.map(lambda row: row)  # embeds the pictures
        data.to_parquet(str(tmp_path / f"{number}" / "data" / "train-00000-of-00001.parquet"))
        datasets.DatasetDict({"train": data}).save_to_disk(str(tmp_path / f"{number}-saved"))
        for source in (f"{number}", f"{number}-saved"):
            pairs, result = converted(tmp_path / source, tmp_path / f"out-{source}", images=tmp_path / "media")
            assert result.source_format == "trl" and result.quarantined == {}
            assert (pairs[0].chosen_text, pairs[0].rejected_text, len(pairs[0].images)) == ("A dog.", "A cat.", 1)
            assert pairs[0].prompt == ask
    (tmp_path / "media" / "a.mp4").write_bytes(b"not decoded here")
    features = datasets.Features({"video": datasets.Video(), **dict.fromkeys(TEXT, datasets.Value("string"))})
    data = datasets.Dataset.from_dict(
        {"video": [str(tmp_path / "media" / "a.mp4")], **{key: [value] for key, value in TEXT.items()}},
        features=features,
    )
    data.to_parquet(str(tmp_path / "v" / "train.parquet"))
    pairs, result = converted(tmp_path / "v", tmp_path / "out-v", images=tmp_path / "media")
    assert result.kept + sum(result.quarantined.values()) == 1 and (not pairs or pairs[0].videos)


def test_json_texts_without_their_feature(tmp_path: Path) -> None:
    """What a table keeps after the feature's name was lost: messages as plain strings."""
    ask = json.dumps([{"role": "user", "content": "What?"}])
    row = {"images": [{"bytes": picture(1), "path": None}], "prompt": ask, "chosen": "A dog.", "rejected": "A cat."}
    pairs, _ = converted(write_parquet(tmp_path / "in.parquet", [row]), tmp_path / "out")
    assert [part["type"] for part in pairs[0].prompt[0]["content"]] == ["image", "text"]
    assert pairs[0].prompt_text == "What?"


def test_broken_json_in_a_column_is_one_row_s_loss(tmp_path: Path) -> None:
    column = pa.array(['[{"role": "user", "content": "What?"}]', "{broken"], pa.string())
    features = {"prompt": {"_type": "Json"}, "chosen": {"dtype": "string", "_type": "Value"}}
    schema = pa.schema(
        [("prompt", pa.string()), ("chosen", pa.string()), ("rejected", pa.string())],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    table = pa.table({"prompt": column, "chosen": ["a", "a"], "rejected": ["b", "b"]}, schema=schema)
    pq.write_table(table, tmp_path / "in.parquet")
    result = convert(tmp_path / "in.parquet", tmp_path / "out")
    assert (result.kept, result.quarantined) == (1, {"convert/not_json": 1})
    assert next(read_pairs(tmp_path / "out")).prompt_text == "What?"


def test_pictures_in_the_messages_themselves(tmp_path: Path) -> None:
    write_pictures(tmp_path, "a.png")
    parts = [{"type": "image", "image": "a.png"}, {"type": "text", "text": "What?"}]
    row = {"prompt": [{"role": "user", "content": parts}], "chosen": "A", "rejected": "B"}
    other = row | {"prompt": [{"role": "user", "content": [{"type": "audio", "audio": "a.wav"}, parts[1]]}]}
    pairs, result = converted(write_json(tmp_path / "in.json", [row, other]), tmp_path / "out")
    assert len(pairs) == 1 and pairs[0].images == [picture(0)] and sum(result.quarantined.values()) == 1


@pytest.mark.parametrize(
    ("key", "kind"),
    [("pic", "image"), ("imgFile", "image"), ("source_photo", "image"), ("topic", None), ("clip_score", None),
     ("image_width", None), ("video_fps", None), ("wav_path", "audio"), ("imagination", None), ("picture_2", "image"),
     ("question_image", "image"), ("image_text", None), ("has_video", None), ("image_source", None)],
)  # fmt: skip
def test_kinds_of_keys(key: str, kind: str | None) -> None:
    assert kind_of_key(key)[0] == kind


def test_what_a_row_of_ours_holds() -> None:
    row = {"images": [{"bytes": picture(1), "path": None}], "videos": [{"frames": ["a.png"], "times": [0.0]}]}
    assert [(medium.key, medium.kind) for medium in media_in(row)] == [("images", "image"), ("videos.frames", "video")]
