"""mmpo → another format → mmpo gives the same pairs; the others' own readers open what we write."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmpo.data.convert import convert
from mmpo.data.pair import PreferencePair, text_message
from mmpo.data.reader import read_pairs
from mmpo.data.shards import PairWriter
from tests.data.convert.sources import converted, rejects, write_json, write_pictures
from tests.data.making import files, make_pair, picture

OUT = ("mmpo", "trl", "llamafactory", "ms-swift")


TRAINED = {"image_weights": [{"start": 0, "end": 5, "weight": 3.0}], "unfinished": True, "twin": "1.jpg"}
IMAGE = {"type": "image"}


def words(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def several() -> list[PreferencePair]:
    """One of every kind that all formats can hold."""
    talk = [
        text_message("system", "Be brief."),
        {"role": "user", "content": [words("Left: "), IMAGE, words("\nRight:\n"), IMAGE, words("\nWhich is red?")]},
        text_message("assistant", "Neither — “çedille”."),
        {"role": "user", "content": [words("Sure? ")]},
    ]  # fmt: skip
    without = PreferencePair(
        "no-image",
        [text_message("user", "\nHello?")],
        [text_message("assistant", "Hi")],
        [text_message("assistant", "Bye")],
    )
    return [
        make_pair(1),
        make_pair(2, id="two", prompt=talk, images=[picture(5), picture(6)]),
        without,
        make_pair(4, **TRAINED),
    ]


def write(folder: Path, pairs: list[PreferencePair], **given: Any) -> Path:
    with PairWriter(folder, recipe={"by": "test"}, **given) as writer:
        for pair in pairs:
            writer.add(pair)
    return folder


@pytest.mark.parametrize("name", OUT)
def test_there_and_back(tmp_path: Path, name: str) -> None:
    source = write(tmp_path / "pairs", several())
    there = convert(source, tmp_path / "there", out_format=name)
    assert (there.rows, there.pairs, there.quarantined) == (4, 4, {}) and there.source_format == "mmpo"
    back, result = converted(tmp_path / "there", tmp_path / "back")
    assert result.source_format == name and result.detected
    assert back == list(read_pairs(source))


def published(name: str, data: Path, folder: Path) -> Path:
    """A published sample as mmpo reads it, with pictures of ours where its images would be."""
    if name == "mia":  # transcribed from the paper's figures, without paths
        rows = json.loads((data / "Liuziyu77_MIA-DPO/figure_pairs_transcribed.json").read_text())
        for row in rows:
            row["image"] = [f"{number}.jpg" for number in range(row["prompt"].count("<image>"))]
        names = [path for row in rows for path in row["image"]]
    elif name == "povid":
        rows = json.loads((data / "YiyangZhou_POVID/readme_sample_pair.json").read_text())
        names = ["data/coco/COCO_train2014_000000353952.jpg"]
    elif name == "mdpo":
        rows = json.loads((data / "luka-group_mDPO/sample_data.json").read_text())
        names = [row["img_path"] for row in rows]
    else:
        rows = json.loads((data / "fanglyyy_HA-DPO/ha_dpo/data/hadpo/llava-v1.5/pope_data.json").read_text())[:200]
        names = [f"VG_100K/{row['image_id']}.jpg" for row in rows]
    write_pictures(folder / "images", *dict.fromkeys(names))
    convert(write_json(folder / "in.json", rows), folder / "pairs", images=folder / "images")
    return folder / "pairs"


@pytest.mark.parametrize("sample", ["hadpo", "povid", "mia", "mdpo"])
def test_published_samples_there_and_back(tmp_path: Path, published_data: Path, sample: str) -> None:
    source = published(sample, published_data, tmp_path)
    pairs = list(read_pairs(source))
    assert len(pairs) == {"hadpo": 115, "povid": 1, "mia": 4, "mdpo": 2}[sample]
    for name in OUT:
        there = convert(source, tmp_path / name, out_format=name)
        assert (there.rows, there.kept, there.quarantined) == (len(pairs), len(pairs), {})
        back, _ = converted(tmp_path / name, tmp_path / f"{name}-back")
        assert back == pairs, name


@pytest.mark.parametrize("name", OUT)
def test_the_same_bytes_every_time(tmp_path: Path, name: str) -> None:
    source = write(tmp_path / "pairs", several())
    for place in ("a", "b"):
        convert(source, tmp_path / place / "out", out_format=name)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_other_images_on_the_rejected_side(tmp_path: Path) -> None:
    pair = make_pair(3, rejected_images=[picture(9)])
    same_words = replace(pair, id="same", rejected=pair.chosen, rejected_weights=None)
    source = write(tmp_path / "pairs", [pair, same_words])
    convert(source, tmp_path / "swift", out_format="ms-swift")
    assert converted(tmp_path / "swift", tmp_path / "back")[0] == list(read_pairs(source))
    for name in ("trl", "llamafactory"):
        result = convert(source, tmp_path / name, out_format=name)
        assert result.quarantined == {"convert/no_place": 2}


def test_videos_as_files_and_as_frames(tmp_path: Path) -> None:
    prompt = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What happens?"}]}]
    frames = make_pair(1, prompt=prompt, images=[], videos=[{"frames": [picture(1), picture(2)], "times": [0.0, 0.5]}])
    file = replace(frames, id="file", videos=[{"path": "clips/a.mp4"}])
    source = write(tmp_path / "pairs", [frames, file])
    (source / "clips").mkdir()
    (source / "clips" / "a.mp4").write_bytes(b"not decoded here")
    for name in ("llamafactory", "ms-swift"):
        convert(source, tmp_path / name, out_format=name)
        back, _ = converted(tmp_path / name, tmp_path / f"{name}-back")
        assert back[0] == frames
        assert (tmp_path / f"{name}-back" / back[1].videos[0]["path"]).read_bytes() == b"not decoded here"
    assert convert(source, tmp_path / "trl", out_format="trl").quarantined == {"convert/no_place": 2}


def test_roles_that_do_not_alternate_have_no_place(tmp_path: Path) -> None:
    twice = make_pair(1, prompt=[*make_pair(1).prompt, text_message("user", "And?")])
    source = write(tmp_path / "pairs", [twice, make_pair(2)])
    for name in ("llamafactory", "ms-swift"):
        result = convert(source, tmp_path / name, out_format=name)
        assert result.quarantined == {"convert/role_order": 1} and result.pairs == 1
    assert "user, user" in rejects(tmp_path / "ms-swift")[0]["detail"]


@pytest.mark.parametrize("name", ["trl", "llamafactory", "ms-swift"])
def test_references_are_full_paths_below_the_images_folder(tmp_path: Path, name: str) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.png").write_bytes(picture(1))
    source = write(tmp_path / "pairs", [make_pair(1, images=["a.png"]), make_pair(2)])
    result = convert(source, tmp_path / "out", out_format=name, images=images, media="reference")
    assert result.quarantined == {"convert/embedded_image": 1}, "there is no file to refer to"
    back, _ = converted(tmp_path / "out", tmp_path / "back", images=images)
    assert back[0].images == [picture(1)]
    _, result = converted(tmp_path / "out", tmp_path / "other", images=tmp_path / "pairs")
    assert result.quarantined == {"decode/path_escape": 1}


def test_a_score_that_the_first_rows_lack_is_no_crash(tmp_path: Path) -> None:
    rows = [
        {"prompt": "?", "chosen": f"a{k}", "rejected": "b", "mmpo": json.dumps({"scores": {"s": 1.0}})}
        for k in range(600)
    ]
    rows.append(rows[0] | {"mmpo": json.dumps({"scores": {"other": 1.0}})})
    file = tmp_path / "in.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, result = converted(file, tmp_path / "out", source_format="trl")
    assert result.quarantined == {"convert/no_place": 1} and result.pairs == 600


def test_datasets_and_trl_read_what_is_written_for_trl(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    data_utils = pytest.importorskip("trl.data_utils")
    source = write(tmp_path / "pairs", several())
    convert(source, tmp_path / "out", out_format="trl")
    rows = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows.column_names == ["id", "images", "prompt", "chosen", "rejected", "mmpo"]
    for row, pair in zip(rows, several(), strict=True):
        assert data_utils.is_conversational(row)
        messages = data_utils.prepare_multimodal_messages(row["prompt"], images=row["images"])
        shown = [part["image"] for message in messages for part in message["content"] if part["type"] == "image"]
        assert [image.size for image in shown] == [(8, 6)] * len(pair.images)
        assert data_utils.prepare_multimodal_messages(row["chosen"])[0]["content"][0]["text"] == pair.chosen_text


def test_trl_s_collator_makes_the_batch_that_it_makes_from_its_own_form(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    trainer = pytest.importorskip("trl.trainer.dpo_trainer")
    from tests.tiny import tiny_llava

    pairs = [make_pair(1), make_pair(2)]
    convert(write(tmp_path / "pairs", pairs), tmp_path / "out", out_format="trl")
    rows = list(datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache")))
    collator = trainer.DataCollatorForVisionPreference(tiny_llava().processor)
    plain = [
        {
            "images": row["images"],
            "prompt": [{"role": "user", "content": pair.prompt_text}],
            "chosen": [{"role": "assistant", "content": pair.chosen_text}],
            "rejected": [{"role": "assistant", "content": pair.rejected_text}],
        }
        for row, pair in zip(rows, pairs, strict=True)
    ]
    ours, theirs = collator([dict(row) for row in rows]), collator(plain)
    assert set(ours) == set(theirs) and all((ours[key] == theirs[key]).all() for key in ours)


@pytest.mark.parametrize(("name", "column"), [("llamafactory", "conversations"), ("ms-swift", "messages")])
def test_datasets_reads_the_lines_that_the_others_load_with_it(tmp_path: Path, name: str, column: str) -> None:
    datasets = pytest.importorskip("datasets")
    convert(write(tmp_path / "pairs", several()), tmp_path / "out", out_format=name)
    file = tmp_path / "out" / "train.jsonl"
    rows = datasets.load_dataset("json", data_files=str(file), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(rows) == 4 and isinstance(rows[0][column], list)
    assert all((tmp_path / "out" / path).is_file() for row in rows for path in row["images"])
    tags = sum(text.count("<image>") for row in rows for text in map(str, row[column]))
    assert tags == sum(len(row["images"]) for row in rows), "LLaMA-Factory counts them"


def test_llamafactory_s_registry(tmp_path: Path) -> None:
    convert(write(tmp_path / "pairs", several()), tmp_path / "out", out_format="llamafactory")
    entry = json.loads((tmp_path / "out" / "dataset_info.json").read_text())["out"]
    assert entry["ranking"] is True and entry["formatting"] == "sharegpt" and entry["file_name"] == "train.jsonl"
    row = json.loads((tmp_path / "out" / "train.jsonl").open().readline())
    assert all(column in row for column in entry["columns"].values())


def test_llamafactory_with_other_names(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.png").write_bytes(picture(1))
    entry = {
        "file_name": "x.json", "formatting": "sharegpt", "ranking": True,
        "columns": {"messages": "talk", "chosen": "good", "rejected": "bad", "images": "pics", "system": "frame"},
        "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
    }  # fmt: skip
    (folder / "dataset_info.json").write_text(json.dumps({"x": entry}))
    row = {
        "talk": [{"role": "user", "content": "<image>What?"}], "good": {"role": "assistant", "content": "A"},
        "bad": {"role": "assistant", "content": "B"}, "pics": ["a.png"], "frame": "Be brief.",
    }  # fmt: skip
    (folder / "x.json").write_text(json.dumps([row]))
    pairs, _ = converted(folder, tmp_path / "out", source_format="llamafactory")
    assert [message["role"] for message in pairs[0].prompt] == ["system", "user"] and pairs[0].images == [picture(1)]
