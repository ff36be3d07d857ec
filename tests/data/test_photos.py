"""Photos without annotation: folders and lists, wrong ones named with their row, near-duplicates found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmpo.data.photos import OtherPhotos, SeenPhoto, clusters, list_photos, look_at
from mmpo.errors import Quarantined, UserError


def photo(folder: Path, name: str, seed: int, size: tuple[int, int] = (64, 48), **save: Any) -> Path:
    """A picture of large soft shapes, another one for each seed."""
    grey = np.random.default_rng(seed).integers(0, 255, (5, 6, 3), dtype=np.uint8)
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC).save(path, **save)
    return path


def test_a_folder_is_listed_by_path_with_those_in_it(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "in/c.png", ".hidden/d.png", ".e.png"):
        photo(tmp_path, name, 1)
    (tmp_path / "notes.txt").write_text("no photo")
    assert [one.path for one in list_photos(tmp_path)] == ["a.JPG", "b.png", "in/c.png"]


def test_a_list_has_prompts_and_answers(tmp_path: Path) -> None:
    rows = [
        {"image": "a.png"},
        {"image": "b.png", "prompt": "What?", "answer": "A cup"},
        {"image": "b.png", "prompt": "Who?"},
    ]
    path = tmp_path / "list.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    first, second = list_photos(path)
    assert (first.path, first.prompts, first.root) == ("a.png", (), tmp_path)
    assert [(one.text, one.answer) for one in second.prompts] == [("What?", "A cup"), ("Who?", None)]


@pytest.mark.parametrize(
    "text, told",
    [
        ('{"image": "a.png"}\n{"picture": "b.png"}', "list.jsonl:2: no `image`; the record has `picture`"),
        ('{"image": 7}', "list.jsonl:1: `image` must be text, found int"),
        ('{"image": "a.png", "prompt": ["x"]}', "list.jsonl:1: `prompt` must be text, found list"),
        ('{"image": "a.png", "prompt": " "}', "list.jsonl:1: `prompt` is empty"),
        ('{"image": "a.png", "prompt": "<image> what?"}', "`prompt` contains '<image>'"),
        ('{"image": "a.png", "answer": "yes"}', "an `answer` without a `prompt`"),
        ('{"image": "a.png", "prompt": "x"}\n{"image": "a.png", "prompt": "x"}', "jsonl:2: this prompt is there twice"),
        ('{"image": "a.png"', "list.jsonl:1"),
        ("", "is empty"),
    ],
)  # fmt: skip
def test_a_wrong_row_is_named(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "list.jsonl"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        list_photos(path)
    assert told in error.value.message


def test_a_source_without_photos_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no photo")
    with pytest.raises(UserError, match="no photos are there") as error:
        list_photos(tmp_path)
    assert ".txt" in str(error.value.hint)
    with pytest.raises(UserError, match="one photo; a folder"):
        list_photos(photo(tmp_path, "a.png", 1))
    with pytest.raises(UserError, match="no such folder or list"):
        list_photos(tmp_path / "nowhere")


def test_a_link_out_of_the_folder_is_no_photo(tmp_path: Path) -> None:
    outside = photo(tmp_path, "outside.png", 1)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link.png").symlink_to(outside)
    (seen,) = look_at(list_photos(tmp_path / "in"))
    assert isinstance(seen, Quarantined) and seen.reason == "path_escape"


def test_near_duplicates_belong_to_the_first_of_their_kind(tmp_path: Path) -> None:
    photo(tmp_path, "a.png", 1)
    photo(tmp_path, "b.png", 2)
    photo(tmp_path, "c.jpg", 1, quality=60)
    photo(tmp_path, "d.png", 1, size=(128, 96))
    (tmp_path / "e.png").write_bytes((tmp_path / "b.png").read_bytes()[:100])
    listed = list_photos(tmp_path)
    seen = list(look_at(listed))
    assert clusters(seen, [one.path for one in listed]) == ["a.png", "b.png", "a.png", "a.png", None]
    assert isinstance(seen[4], Quarantined)


def test_photos_of_others_are_found_by_pixels_or_likeness(tmp_path: Path) -> None:
    photo(tmp_path / "own", "same.png", 1)
    photo(tmp_path / "own", "alike.jpg", 2, quality=60)
    photo(tmp_path / "own", "other.png", 3)
    photo(tmp_path / "theirs", "x.png", 1)
    photo(tmp_path / "theirs", "y.png", 2)
    theirs = OtherPhotos()
    for listed, seen in zip(list_photos(tmp_path / "theirs"), look_at(list_photos(tmp_path / "theirs")), strict=True):
        assert isinstance(seen, SeenPhoto)
        theirs.add(seen, listed.path)
    own = {
        one.path: seen
        for one, seen in zip(list_photos(tmp_path / "own"), look_at(list_photos(tmp_path / "own")), strict=True)
    }
    matches = {path: theirs.match(seen) for path, seen in own.items() if isinstance(seen, SeenPhoto)}
    assert matches["same.png"] == ("x.png", None) and matches["other.png"] is None
    assert matches["alike.jpg"] is not None and matches["alike.jpg"][0] == "y.png"
    hashes = tmp_path / "hashes.txt"
    keys = [seen for seen in own.values() if isinstance(seen, SeenPhoto)]
    hashes.write_text(f"{keys[0].dhash}\n\n{own['same.png'].key}\n")  # type: ignore[union-attr]
    listed_hashes = OtherPhotos()
    listed_hashes.add_hashes(hashes)
    assert listed_hashes.match(own["same.png"]) == ("hashes.txt", None)  # type: ignore[arg-type]
    hashes.write_text("deadbeef\n")
    with pytest.raises(UserError, match=r"hashes.txt:1: 'deadbeef' is no hash"):
        OtherPhotos().add_hashes(hashes)
