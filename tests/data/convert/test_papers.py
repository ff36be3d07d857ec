"""The published layouts of RLHF-V, RLAIF-V, POVID, LLaVA, SeVa, MIA-DPO, mDPO and SENTINEL."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.data.convert.sources import (
    converted,
    parts,
    write_json,
    write_lines,
    write_parquet,
    write_pictures,
)
from tests.data.making import picture

SIDES = {"chosen": "A dog.", "rejected": "A cat."}


def human(text: str) -> dict[str, str]:
    return {"from": "human", "value": text}


def gpt(text: str) -> dict[str, str]:
    return {"from": "gpt", "value": text}


def test_rlhf_v_and_rlaif_v_layouts(tmp_path: Path) -> None:
    image = {"bytes": picture(1), "path": "a.png"}
    noted = {"ds_name": "RLHF-V", "idx": 7, "origin_split": '{"model": "m"}', "image_path": "a.png"}
    text = json.dumps({"question": "What is this?", **SIDES})
    first = write_parquet(tmp_path / "v" / "RLHF-V.parquet", [{"image": image, "text": text, **noted}])
    second = write_parquet(
        tmp_path / "a" / "RLAIF-V_000.parquet",
        [{"image": image, "question": "What is this?", **SIDES, **noted}] * 2 + [{"image": image, "question": "?"}],
    )
    pairs, result = converted(first.parent, tmp_path / "one")
    assert result.source_format == "rlhf-v" and pairs[0].id == "7"
    others, result = converted(second, tmp_path / "two")
    assert result.source_format == "rlaif-v" and result.quarantined == {"convert/no_rejected": 1}
    assert [pair.id for pair in others] == ["7", "7#2"]
    for pair in (pairs[0], others[0]):
        assert parts(pair) == ["<image>", "What is this?"] and pair.images == [picture(1)]
        assert (pair.chosen_text, pair.rejected_text) == ("A dog.", "A cat.")
        assert pair.provenance["origin_split"] == '{"model": "m"}'


def test_rlaif_v_without_bytes_finds_the_file(tmp_path: Path) -> None:
    write_pictures(tmp_path / "pictures", "a.png")
    row = {"image": {"bytes": None, "path": "a.png"}, "question": "What?", **SIDES}
    file = write_parquet(tmp_path / "x.parquet", [row, row | {"image": {"bytes": None, "path": "../secret.png"}}])
    pairs, result = converted(file, tmp_path / "out", images=tmp_path / "pictures")
    assert pairs[0].images == [picture(0)] and result.quarantined == {"decode/path_escape": 1}


def test_povid_and_llava_conversations(tmp_path: Path) -> None:
    write_pictures(tmp_path, "data/coco/a.jpg")
    turns = [human("<image>\nWhat is this?"), gpt("A dog."), human("Where?\n"), gpt("At home.")]
    row: dict[str, Any] = {"id": "x", "image": "./data/coco/a.jpg", "conversations": turns}
    both = row | {"rejected_conversations": [turns[0], gpt("A cat."), turns[2], gpt("Outside.")]}
    one = row | {"id": "y", "rejected_conversations": [*turns[:3], gpt("Outside.")]}
    others = [
        row,  # nothing to compare with
        row | {"rejected_conversations": turns},
        row | {"rejected_conversations": turns[:2]},
        row | {"rejected_conversations": [human("<image>\nWho?"), *turns[1:3], gpt("Outside.")]},
        both | {"image": "http://x/a.jpg"},
        both | {"image": ["data/coco/a.jpg"] * 2},
        both | {"conversations": [3]},
    ]
    pairs, result = converted(write_json(tmp_path / "in.json", [both, one, *others]), tmp_path / "out")
    assert result.source_format == "llava"
    assert [pair.id for pair in pairs] == ["x-1", "x-3", "y-3"]
    assert parts(pairs[0]) == ["<image>", "What is this?"]
    assert parts(pairs[1]) == ["<image>", "What is this?", "A dog.", "Where?\n"], "the chosen side's answer is context"
    assert set(result.quarantined) == {
        "convert/no_rejected", "convert/equal_responses", "convert/turns_differ", "convert/prompts_differ",
        "convert/url", "convert/image_count", "convert/malformed",
    }  # fmt: skip


def test_the_published_povid_pair(tmp_path: Path, published_data: Path) -> None:
    file = published_data / "YiyangZhou_POVID" / "readme_sample_pair.json"
    images = write_pictures(tmp_path / "images", "data/coco/COCO_train2014_000000353952.jpg")
    pairs, result = converted(file, tmp_path / "out", images=images)
    assert result.rows == len(pairs) == 1 and parts(pairs[0]) == ["<image>", "Describe this image in detail."]
    assert pairs[0].rejected_text.startswith("This vintage")


def test_seva(tmp_path: Path) -> None:
    images = write_pictures(tmp_path / "textvqa", "a.jpg", "b.png")
    rows = [
        {"image_id": name, "question": "What is it?", "chosen": "x", "reject": reject}
        for name, reject in (("a.jpg", "y"), ("b", "y"), ("a.jpg", "x"), ("c", "y"))
    ]
    pairs, result = converted(write_json(tmp_path / "in.json", rows), tmp_path / "out", images=images)
    assert [pair.images[0] for pair in pairs] == [picture(0), picture(1)]
    assert result.source_format == "seva"
    assert result.quarantined == {"convert/equal_responses": 1, "decode/missing": 1}


def test_mia_dpo_with_either_placeholder_and_the_wrong_number_of_images(tmp_path: Path) -> None:
    images = write_pictures(tmp_path / "images", "a.jpg", "b.jpg")
    prompt = "Image1:<image-placeholder>\nImage2:<image-placeholder>\nIn Image2, what is it?"
    row = {"id": 4, "image": ["a.jpg", "b.jpg"], "prompt": prompt, "gt": "A dog.", **SIDES}
    rows = [row, row | {"prompt": prompt.replace("-placeholder", "")}, row | {"image": ["a.jpg"]}]
    single = {"id": 5, "image": "b.jpg", "prompt": "<image>\nWhat is it?", **SIDES}
    pairs, result = converted(write_json(tmp_path / "in.json", [*rows, single]), tmp_path / "out", images=images)
    assert result.source_format == "mia-dpo" and result.quarantined == {"convert/image_count": 1}
    assert parts(pairs[0]) == ["Image1:", "<image>", "\nImage2:", "<image>", "\nIn Image2, what is it?"]
    assert parts(pairs[1]) == parts(pairs[0]) and pairs[0].images == [picture(0), picture(1)]
    assert parts(pairs[2]) == ["<image>", "What is it?"]


def test_the_published_mia_and_mdpo_pairs(tmp_path: Path, published_data: Path) -> None:
    rows = json.loads((published_data / "Liuziyu77_MIA-DPO" / "figure_pairs_transcribed.json").read_text())
    images = write_pictures(tmp_path / "images", "1.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg")
    for row in rows:  # the figures come without paths
        row["image"] = [f"{k + 1}.jpg" for k in range(row["prompt"].count("<image>"))]
    pairs, _ = converted(write_lines(tmp_path / "mia.jsonl", rows), tmp_path / "mia", images=images)
    assert [len(pair.images) for pair in pairs] == [5, 1, 1, 4]

    file = published_data / "luka-group_mDPO" / "sample_data.json"
    names = [row["img_path"] for row in json.loads(file.read_text())]
    pairs, result = converted(file, tmp_path / "mdpo", images=write_pictures(tmp_path / "more", *names))
    assert result.source_format == "mdpo" and len(pairs) == len(names) == 2
    assert parts(pairs[0])[0] == "<image>" and parts(pairs[0])[1].startswith("How might the atmosphere of this photo")


def test_mdpo_templates_that_are_none(tmp_path: Path) -> None:
    images = write_pictures(tmp_path / "images", "a.jpg")
    row = {"img_path": "a.jpg", **SIDES}
    prompts = ["What? ", "A chat. USER: <image>\nWhat? ASSISTANT:", "USER: One? ASSISTANT: Yes. USER: Two? ASSISTANT:"]
    file = write_json(tmp_path / "in.json", [row | {"prompt": prompt} for prompt in prompts])
    pairs, result = converted(file, tmp_path / "out", images=images)
    assert [parts(pair)[-1] for pair in pairs] == ["What? ", "What?"]
    assert result.quarantined == {"convert/bad_template": 1}


@pytest.mark.parametrize("value", [3, "text", None, [], {}, [3], {"a": []}, [[{"from": []}]], [{"from": []}]])
@pytest.mark.parametrize(
    "name", ["hadpo", "rlhf-v", "llava", "seva", "mia-dpo", "mdpo", "trl", "llamafactory", "ms-swift", "mmpo"]
)
def test_rows_of_any_shape_are_quarantined_not_fatal(tmp_path: Path, name: str, value: Any) -> None:
    keys = (
        "image", "images", "image_id", "img_path", "question", "prompt", "chosen", "rejected", "reject", "text", "mmpo",
        "conversations", "rejected_conversations", "messages", "rejected_messages", "videos", "id", "provenance",
    )  # fmt: skip
    row = dict.fromkeys(keys, value)
    _, result = converted(write_json(tmp_path / "in.json", [row, {}, 3, None]), tmp_path / "out", source_format=name)
    assert result.rows == 4 and result.kept == 0


SENTENCES = {"question": "Describe this image.", "y_win": "A dog lies there.", "y_lose": "A cat lies there."}


def test_sentinel_pairs_a_line_each(tmp_path: Path) -> None:
    images = write_pictures(tmp_path / "vg", "VG_100K/7.jpg", "photos/a.jpg")
    row = {"image_id": "7", "image_path": "/elsewhere/7.jpg", **SENTENCES, "context": "A room.", "type": "y+"}
    other = row | {"image_id": "a", "image_path": "photos/a.jpg", "context": "", "is_last_sent": True}
    broken = [
        row | {"y_lose": row["y_win"]}, row | {"image_id": 8}, row | {"context": 3},
        {**SENTENCES, "context": None}, row | {"image_id": "a", "image_path": "/elsewhere/7.jpg"},
    ]  # fmt: skip
    pairs, result = converted(write_lines(tmp_path / "m_data_pair.jsonl", [row, other, *broken]), tmp_path / "out",
                              images=images)  # fmt: skip
    assert result.source_format == "sentinel" and result.quarantined == {
        "convert/equal_responses": 1, "decode/missing": 1, "convert/bad_type": 1, "convert/no_image": 1,
        "decode/path_escape": 1,
    }  # fmt: skip
    first, second = pairs
    assert first.images == [picture(0)] and second.images == [picture(1)]
    assert [message["role"] for message in first.prompt] == ["user", "assistant"]
    assert parts(first) == ["<image>", "Describe this image.", "A room."] and parts(second) == parts(first)[:2]
    assert (first.chosen_text, first.rejected_text) == (" A dog lies there.", " A cat lies there.")
    assert second.chosen_text == "A dog lies there."
    assert first.unfinished and first.provenance["type"] == "y+"
    assert not second.unfinished


def test_sentinel_lists_by_image(tmp_path: Path) -> None:
    images = write_pictures(tmp_path / "vg", "VG_100K_2/7.jpg", "VG_100K/9.jpg")
    rows = [SENTENCES | {"context": context, "type": "y+"} for context in ("", "A room. ")]
    pairs, result = converted(write_json(tmp_path / "x.json", {"7": rows, "9": [*rows, 3]}), tmp_path / "out",
                              images=images)  # fmt: skip
    assert result.source_format == "sentinel" and result.quarantined == {"convert/not_an_object": 1}
    assert [pair.provenance["image_id"] for pair in pairs] == ["7", "7", "9", "9"]
    assert [pair.images[0] for pair in pairs] == [picture(0)] * 2 + [picture(1)] * 2
    assert [pair.chosen_text for pair in pairs[:2]] == ["A dog lies there."] * 2, "the context brings its space"
