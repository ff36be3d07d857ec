from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmpo.data.images import load_image
from mmpo.data.pair import PreferencePair, text_message, validate
from mmpo.data.video import CorruptVideo, read_frames
from mmpo.data.video.pairs import encoded, frames_as_images
from mmpo.errors import Quarantined
from tests.data.video.clips import number_of


def pair(video: dict[str, object], **fields: object) -> PreferencePair:
    content = [{"type": "image"}, {"type": "video"}, {"type": "text", "text": "What happens?"}]
    made = PreferencePair(
        id="1",
        prompt=[{"role": "user", "content": content}],
        chosen=[text_message("assistant", "a")],
        rejected=[text_message("assistant", "b")],
        images=[b"still"],
        videos=[video],
        **fields,  # type: ignore[arg-type]
    )
    return validate(made)


def test_frames_take_the_place_of_the_video() -> None:
    expanded = frames_as_images(pair({"frames": [b"1", b"2"], "times": [0.0, 0.5]}, rejected_images=[b"other"]))
    assert expanded.images == [b"still", b"1", b"2"] and expanded.videos is None
    assert expanded.rejected_images == [b"other", b"1", b"2"]
    assert [part["type"] for part in expanded.prompt[0]["content"]] == ["image", "image", "image", "text"]
    validate(expanded)
    plain = PreferencePair.simple(id="1", image=b"x", question="?", chosen="a", rejected="b")
    assert frames_as_images(plain) is plain


def test_a_path_is_sampled(clip: Path) -> None:
    expanded = frames_as_images(pair({"path": clip.name}), clip.parent, num=4)
    shown = [number_of(np.asarray(load_image(image))) for image in expanded.images[1:]]
    assert shown == list(read_frames(clip, num=4).indices)
    assert expanded.images[1:] == encoded(read_frames(clip, num=4))


def test_a_video_that_can_not_be_read_is_quarantined(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[:2000])
    with pytest.raises(CorruptVideo):
        frames_as_images(pair({"path": "cut.mp4"}), tmp_path)
    with pytest.raises(Quarantined, match="path_escape"):
        frames_as_images(
            PreferencePair(**{**vars(pair({"path": "x.mp4"})), "videos": [{"path": "../x.mp4"}]}), tmp_path
        )
