"""Exact frames: acceptance list of the decoding rules, on clips written here and on the shared numbered ones."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmpo.errors import UserError
from mmpo.video import BackendUnavailable, Damage, Frames, Sampling, frame_times, probe, read_frames
from mmpo.video.pyav_reader import runs
from tests.video.clips import number_of, numbers_of, patched_edit_list, write

OPEN_GOP = {"g": "12", "x264-params": "bframes=3:open-gop=1:b-pyramid=normal", "preset": "ultrafast"}
VFR = [33 * i + i * i // 4 for i in range(60)]

KINDS: dict[str, dict[str, Any]] = {
    "closed.mp4": {},
    "open.mp4": {"options": OPEN_GOP},
    "front.mp4": {"mux": {"movflags": "faststart"}},
    "hevc.mp4": {"codec": "libx265"},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "av1.mp4": {"codec": "libsvtav1", "n": 20, "size": (192, 128)},
    "mpeg4.avi": {"codec": "mpeg4"},
    "stream.ts": {},
    "program.mpg": {"codec": "mpeg2video"},
    "vfr.mp4": {"stamps": VFR},
    "vfr.mkv": {"stamps": VFR},
    "odd.mp4": {"size": (97, 65), "pix_fmt": "yuv444p"},
    "ten.mp4": {"pix_fmt": "yuv420p10le"},
    "gray.mp4": {"pix_fmt": "gray"},
    "anim.gif": {"codec": "gif", "pix_fmt": "rgb8", "fps": 10, "n": 12},
    "sound.mp4": {"audio": True, "audio_first": True},
    "raw.h264": {"n": 30},
    "one.mp4": {"n": 1},
    "three.mp4": {"n": 3},
}


def at_random(path: Path, count: int, backend: str = "auto") -> Frames:
    n = probe(path).n_frames
    wanted = [random.Random(count * 1000 + n).randrange(n) for _ in range(count)]
    frames = read_frames(path, indices=wanted, backend=backend)  # type: ignore[arg-type]
    assert list(frames.indices) == wanted
    return frames


@pytest.mark.parametrize("name", KINDS)
def test_random_frames_are_the_right_ones(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, **KINDS[name])
    for backend in ("auto", "pyav"):
        frames = at_random(path, 40, backend)
        assert numbers_of(frames.array) == list(frames.indices), backend
    single = read_frames(path, indices=[-1])
    assert number_of(single.array[0]) == KINDS[name].get("n", 60) - 1


@pytest.mark.parametrize("name", ["closed.mp4", "sound.mp4", "vfr.mkv", "vp9.webm", "one.mp4"])
def test_decord_where_the_index_proves_it(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, **KINDS[name])
    frames, other = at_random(path, 40, "decord"), at_random(path, 40, "pyav")
    assert frames.report.backend == "decord"
    assert numbers_of(frames.array) == list(frames.indices)
    assert frames.times == other.times
    assert np.abs(frames.array.astype(int) - other.array).mean() < 1


@pytest.mark.parametrize("name", ["open.mp4", "mpeg4.avi", "stream.ts", "ten.mp4", "anim.gif"])
def test_decord_is_not_asked_elsewhere(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, **KINDS[name])
    with pytest.raises(BackendUnavailable):
        read_frames(path, backend="decord")
    report = read_frames(path, indices=range(5)).report
    assert report.backend == "pyav" and report.why


def test_auto_takes_decord_for_stretches_and_pyav_for_single_frames(clip: Path) -> None:
    assert read_frames(clip, indices=range(20)).report.backend == "decord"
    sampled = read_frames(clip, num=8).report
    assert sampled.backend == "pyav" and "leaves out" in sampled.why


def test_times_come_from_the_container(tmp_path: Path) -> None:
    times = frame_times(write(tmp_path / "vfr.mp4", stamps=VFR))
    np.testing.assert_allclose(times, np.array(VFR) / 1000, atol=1e-4)
    info = probe(tmp_path / "vfr.mp4")
    assert info.variable_rate
    warned = read_frames(tmp_path / "vfr.mp4", num=4).report.warnings
    assert any("by number" in warning for warning in warned)
    by_time = read_frames(tmp_path / "vfr.mp4", num=4, sampling="time_linspace")
    assert not any("by number" in warning for warning in by_time.report.warnings)
    assert numbers_of(by_time.array) == list(by_time.indices)


def test_a_transport_stream_starts_late_and_times_start_at_zero(tmp_path: Path) -> None:
    path = write(tmp_path / "t.ts")
    assert probe(path).start_time > 0
    assert frame_times(path)[:2] == pytest.approx([0.0, 1 / 30], abs=1e-4)


def test_an_edit_list_hides_frames(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.mp4")
    start = int.from_bytes(whole.read_bytes()[whole.read_bytes().index(b"elst") + 16 :][:4], "big")
    cut = patched_edit_list(whole, tmp_path / "cut.mp4", media_time=start + 20 * 512, duration=1000)
    info = probe(cut)
    assert info.n_frames == 30 and info.header_frames == 60
    frames = read_frames(cut, indices=range(info.n_frames))
    assert numbers_of(frames.array) == list(range(20, 50))
    assert frames.times[:2] == pytest.approx((0.0, 1 / 30), abs=1e-4)
    assert frames.report.backend == "pyav" and "edit list" in frames.report.why


@pytest.mark.parametrize("rotation", [90, -90, 180])
def test_rotation_is_applied_alike_by_all_back_ends(tmp_path: Path, rotation: int) -> None:
    plain = read_frames(write(tmp_path / "plain.mp4"), indices=range(10), backend="pyav")
    path = write(tmp_path / "turned.mp4", rotation=rotation)
    info = probe(path)
    assert info.rotation % 360 == rotation % 360
    upright = read_frames(path, indices=range(10), backend="pyav")
    assert (info.height, info.width) == upright.array.shape[1:3]
    np.testing.assert_array_equal(upright.array, np.rot90(plain.array, k=rotation // 90 % 4, axes=(1, 2)))
    decord = read_frames(path, indices=range(10), backend="decord")
    assert decord.array.shape == upright.array.shape
    assert np.abs(decord.array.astype(int) - upright.array).mean() < 4


def test_bytes_and_open_files_read_like_the_path(clip: Path) -> None:
    expected = read_frames(clip, num=4, backend="pyav").array
    np.testing.assert_array_equal(read_frames(clip.read_bytes(), num=4).array, expected)
    with open(clip, "rb") as file:
        np.testing.assert_array_equal(read_frames(file, num=4).array, expected)
    np.testing.assert_array_equal(read_frames(io.BytesIO(clip.read_bytes()), num=4).array, expected)


def test_frames_by_time(clip: Path) -> None:
    frames = read_frames(clip, times=[0.0, 0.034, 1.0, 1.99])
    assert list(frames.indices) == [0, 1, 30, 59] == numbers_of(frames.array)
    with pytest.raises(UserError, match="nothing is shown at"):
        read_frames(clip, times=[2.5])
    with pytest.raises(UserError, match="frames 0 to 59"):
        read_frames(clip, indices=[60])


def test_shrinking_keeps_the_shape_and_the_right_frames(clip: Path) -> None:
    for backend in ("pyav", "decord"):
        small = read_frames(clip, num=8, max_side=48, backend=backend)  # type: ignore[arg-type]
        assert small.array.shape == (8, 32, 48, 3)
        assert numbers_of(small.array) == list(small.indices)
    assert read_frames(clip, num=1, max_side=5000).array.shape == (1, 64, 96, 3), "never enlarged"


def test_padding_is_reported(tmp_path: Path) -> None:
    path = write(tmp_path / "three.mp4", n=3)
    for pad, numbers in (("repeat_last", [0, 0, 1, 1, 2]), ("none", [0, 1, 2]), ("loop", [0, 1, 2, 0, 1])):
        frames = read_frames(path, num=5, sampling=Sampling(pad=pad))  # type: ignore[arg-type]
        assert list(frames.indices) == numbers == numbers_of(frames.array)
        assert frames.report.n_unique == 3 == frames.report.requested
    black = read_frames(path, num=5, sampling=Sampling(pad="black"))
    assert black.indices == (0, 1, 2, -1, -1) and not black.array[3:].any() and black.array[2].any()
    assert list(black.times) == sorted(black.times)


def test_still_scenes_are_only_a_warning(tmp_path: Path) -> None:
    path = write(tmp_path / "still.mp4", n=30, frame=lambda i: np.full((64, 96, 3), 90, dtype=np.uint8))
    frames = read_frames(path, num=8)
    assert len(frames) == 8 and any("still scene" in warning for warning in frames.report.warnings)


def test_pictures_in_natural_order(tmp_path: Path) -> None:
    folder = tmp_path / "dump"
    folder.mkdir()
    for number in range(1, 13):
        level = number * 20
        Image.new("RGB", (8 if number > 1 else 10, 6), (level, level, level)).save(folder / f"c{number}.png")
    (folder / ".c0.png").write_bytes(b"hidden")
    (folder / "notes.txt").write_text("not a frame")
    frames = read_frames(folder, indices=range(12), fps=2)
    assert [int(frame.mean()) for frame in frames.array] == [number * 20 for number in range(1, 13)]
    assert frames.times[:3] == (0.0, 0.5, 1.0) and frames.report.backend == "pillow"
    assert frames.array.shape == (12, 6, 10, 3) and "the picture changes its size" in frames.report.warnings
    images = [Image.new("RGB", (4, 4), (i, i, i)) for i in range(3)]
    assert [int(frame.mean()) for frame in read_frames(images, num=3).array] == [0, 1, 2]


@pytest.mark.parametrize("suffix", ["webp", "png", "gif"])
def test_animations_keep_their_delays(tmp_path: Path, suffix: str) -> None:
    levels = [Image.new("RGB", (16, 16), (i * 60 + 30, 0, 0)) for i in range(4)]
    path = tmp_path / f"anim.{suffix}"
    levels[0].save(path, save_all=True, append_images=levels[1:], duration=[100, 200, 300, 400], loop=0)
    frames = read_frames(path, indices=range(4))
    assert frames.times == pytest.approx((0.0, 0.1, 0.3, 0.6), abs=0.011)
    assert frames.info.variable_rate
    assert [round(int(frame[..., 0].mean()) / 60 - 0.5) for frame in frames.array] == [0, 1, 2, 3]


def test_runs_join_what_is_near(clip: Path) -> None:
    from mmpo.video.index import scan
    from mmpo.video.records import Deadline, Limits
    from mmpo.video.source import EncodedVideo

    index = scan(EncodedVideo.of(clip), Limits(), Deadline("clip", 60))
    assert index.key_numbers == [0, 12, 24, 36, 48] and not index.reordered
    assert [len(run.wanted) for run in runs(index, range(60))] == [60]
    assert [len(run.wanted) for run in runs(index, [0, 13, 14, 50])] == [1, 2, 1]
    assert [len(run.wanted) for run in runs(index, [10, 13])] == [2]


def test_isolated_reading_gives_the_same(clip: Path) -> None:
    asked = {"num": 8, "sampling": Sampling("time_linspace", start=0.5), "on_error": Damage("nearest", max_gap=0.2)}
    here, there = (read_frames(clip, isolate=isolate, **asked) for isolate in (False, True))
    np.testing.assert_array_equal(here.array, there.array)
    assert (here.indices, here.times, here.info) == (there.indices, there.times, there.info)
    assert probe(clip, isolate=True) == probe(clip)


# ---- the shared clips

COUNTS = {
    "audio_first.mp4": 300, "av1.mp4": 300, "editlist.mp4": 268, "elst_short.mp4": 150, "gop12.mp4": 300,
    "hevc.mp4": 300, "mpeg4.avi": 300, "one_frame.mp4": 1, "opengop.mp4": 300, "rot90.mp4": 300, "rot90b.mp4": 300,
    "three_frames.mp4": 3, "ts.ts": 300, "vfr.mkv": 150, "vfr.mp4": 150, "vp9.webm": 120, "odd444.mp4": 60,
}  # fmt: skip
FIRST = {"editlist.mp4": 32}


@pytest.mark.parametrize("name", COUNTS)
def test_shared_clips(shared_clips: Path, name: str) -> None:
    path = shared_clips / name
    info = probe(path)
    assert info.n_frames == COUNTS[name]
    turn = {"rot90.mp4": 1, "rot90b.mp4": -1}.get(name, 0)
    for backend in ("pyav", "auto"):
        frames = at_random(path, 40, backend)
        upright = np.rot90(frames.array, k=turn, axes=(1, 2))
        assert numbers_of(upright) == [number + FIRST.get(name, 0) for number in frames.indices]


def test_shared_large_frames(shared_clips: Path) -> None:
    assert read_frames(shared_clips / "huge.mp4", num=2, max_side=960).array.shape == (2, 540, 960, 3)
    assert probe(shared_clips / "anim.gif").n_frames == 30


def test_real_clips_read_alike(real_clips: list[Path]) -> None:
    for path in real_clips:
        ours, theirs = (read_frames(path, num=4, max_side=None, backend=b) for b in ("pyav", "decord"))  # type: ignore[arg-type]
        assert ours.times == theirs.times
        assert np.abs(ours.array.astype(int) - theirs.array).mean() < 4
