"""TRL's forms: messages of parts, messages of text, strings, no prompt; from every kind of file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.data.convert.sources import converted, parts, write_json, write_lines, write_parquet, write_pictures
from tests.data.making import picture

IMAGE = {"bytes": picture(1), "path": None}


def message(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


FORMS: dict[str, dict[str, Any]] = {
    "parts": {
        "images": [IMAGE],
        "prompt": [message("user", [{"type": "image", "text": None}, {"type": "text", "text": "What?"}])],
        "chosen": [message("assistant", [{"type": "text", "text": "A dog."}])],
        "rejected": [message("assistant", [{"type": "text", "text": "A cat."}])],
    },
    "text": {
        "image": IMAGE,
        "prompt": [message("user", "What?")],
        "chosen": [message("assistant", "A dog.")],
        "rejected": [message("assistant", "A cat.")],
    },
    "strings": {"image": IMAGE, "prompt": "<image>\nWhat?", "chosen": "A dog.", "rejected": "A cat."},
    "bare strings": {"images": [IMAGE], "prompt": "What?", "chosen": "A dog.", "rejected": "A cat."},
    "no prompt": {
        "images": [IMAGE],
        "chosen": [message("user", "What?"), message("assistant", "A dog.")],
        "rejected": [message("user", "What?"), message("assistant", "A cat.")],
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_pair(tmp_path: Path, form: str) -> None:
    file = write_parquet(tmp_path / "in" / "data" / "train-00000-of-00001.parquet", [FORMS[form]])
    pairs, result = converted(file.parents[1], tmp_path / "out")
    assert result.source_format == "trl" and parts(pairs[0]) == ["<image>", "What?"]
    assert (pairs[0].chosen_text, pairs[0].rejected_text, pairs[0].images) == ("A dog.", "A cat.", [picture(1)])


def test_lines_and_arrays_with_paths(tmp_path: Path) -> None:
    images = write_pictures(tmp_path / "images", "x/a.png")
    row = {"images": ["x/a.png"], "prompt": [message("user", "What?")], "chosen": "A", "rejected": "B"}
    for file in (write_lines(tmp_path / "a" / "a.jsonl", [row]), write_json(tmp_path / "b" / "b.json", [row])):
        pairs, result = converted(file, tmp_path / f"out-{file.stem}", images=images)
        assert result.source_format == "trl" and pairs[0].images == [picture(0)]


def test_a_saved_dataset(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list([FORMS["parts"]] * 40)
    rows.save_to_disk(str(tmp_path / "saved"))
    pairs, result = converted(tmp_path / "saved", tmp_path / "out")
    assert result.source_format == "trl" and len(pairs) == 40


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"images": []}, "convert/image_count"),
        ({"images": [IMAGE, IMAGE]}, "convert/image_count"),
        ({"prompt": []}, "convert/missing_key"),
        ({"chosen": []}, "convert/bad_response"),
        ({"chosen": [message("assistant", "A"), message("assistant", "B")]}, "convert/bad_response"),
        ({"chosen": [message("user", "A")]}, "convert/bad_response"),
        ({"chosen": " "}, "convert/empty_response"),
        ({"rejected": "A dog."}, "convert/equal_responses"),
        ({"images": ["gone.png"]}, "decode/missing"),
        ({"images": ["/etc/passwd"]}, "decode/path_escape"),
        ({"images": ["bad.png"]}, "decode/not_an_image"),
        ({"images": [None]}, "convert/no_image"),
        ({"prompt": [message("tool", "x"), message("user", [{"type": "image"}])]}, "convert/invalid"),
        ({"mmpo": "{"}, "convert/bad_extras"),
        ({"mmpo": '{"scores": 3}'}, "convert/bad_extras"),
    ],
)
def test_bad_rows(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture at all, only words that are long enough")
    good = FORMS["parts"] | {"images": ["a.png"]}
    write_pictures(tmp_path, "a.png")
    fixed = {k: v for k, v in change.items() if v != [IMAGE, IMAGE]} or {"images": ["a.png", "a.png"]}
    pairs, result = converted(write_json(tmp_path / "in.json", [good, good | fixed]), tmp_path / "out")
    assert len(pairs) == 1 and result.quarantined == {reason: 1}
