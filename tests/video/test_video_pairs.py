from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmpo.data.pair import PreferencePair, text_message, validate
from mmpo.data.video_pairs import clip_of, in_order, with_frames
from mmpo.errors import Quarantined, UserError
from mmpo.files.images import load_image
from mmpo.video import CorruptVideo, read_frames
from mmpo.video.clip import Clip
from tests.video.clips import number_of


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
    given = pair({"frames": [b"1", b"2"], "times": [0.0, 0.5]})
    prompt = with_frames(given.prompt, [2])
    assert [part["type"] for part in prompt[0]["content"]] == ["image", "image", "image", "text"]
    assert [part["type"] for part in given.prompt[0]["content"]] == ["image", "video", "text"]
    assert clip_of((given.videos or [])[0]) == Clip((b"1", b"2"), (0.0, 0.5))


def test_images_and_videos_in_the_order_of_the_prompt() -> None:
    kinds = ("video", "image", "text", "video", "image")
    content = [{"type": kind, **({"text": "and"} if kind == "text" else {})} for kind in kinds]
    prompt = [{"role": "user", "content": content}]
    assert in_order(prompt, ["a", "b"], ["v", "w"]) == ["v", "a", "w", "b"]
    assert [part["type"] for part in with_frames(prompt, [1, 2])[0]["content"]] == [
        *("image", "image", "text", "image", "image", "image")
    ]
    assert in_order([{"role": "user", "content": "only words"}], [], []) == []
    with pytest.raises(UserError, match=r"shows 2 video\(s\) but 1"):
        in_order(prompt, ["a", "b"], ["v"])


def test_a_path_is_sampled(clip: Path) -> None:
    found = clip_of({"path": clip.name}, clip.parent, num=4)
    frames = read_frames(clip, num=4)
    assert found == Clip.of(frames) and found.times == frames.times
    assert [number_of(np.asarray(load_image(frame))) for frame in found.frames] == list(frames.indices)


def test_a_clip_has_a_time_for_every_frame() -> None:
    for frames, times in (((), ()), ((b"1", b"2"), (0.0,))):
        with pytest.raises(UserError, match="frames with"):
            Clip(frames, times)


def test_a_video_that_can_not_be_read_is_quarantined(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[:2000])
    with pytest.raises(CorruptVideo):
        clip_of({"path": "cut.mp4"}, tmp_path)
    with pytest.raises(Quarantined, match="path_escape"):
        clip_of({"path": "../x.mp4"}, tmp_path)
