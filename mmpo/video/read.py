"""Reading videos: `probe` says what a file holds, `read_frames` gives exact frames with exact times.

    frames = read_frames("clip.mp4", num=8)
    frames.array     # [8, h, w, 3] uint8, RGB, upright
    frames.times     # seconds from the first frame, from the index, never number / rate
    frames.report    # who decoded, what was damaged, what was substituted

Never: silent duplicates, silent black frames, another frame than the one that was asked for.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from PIL import Image

from mmpo.errors import UserError
from mmpo.files.paths import inside
from mmpo.video import decord_reader, pyav_reader, torchcodec_reader
from mmpo.video.errors import ERRORS, BackendUnavailable, CorruptVideo, DecodeTimeout, EmptyVideo, VideoTooLarge
from mmpo.video.index import Index, scan
from mmpo.video.records import Damage, Deadline, Decoded, Frames, Limits, OnError, Pixels, ReadReport, VideoInfo
from mmpo.video.sampling import BLACK, Sampling, parse, sample
from mmpo.video.source import EncodedVideo
from mmpo.video.stills import Stills
from mmpo.video.subprocess_reader import shared_process

VideoBackend = Literal["auto", "pyav", "decord", "torchcodec"]
VideoSource = str | Path | bytes | IO[bytes] | Sequence[Image.Image]

BACKENDS = ("auto", "pyav", "decord", "torchcodec")
PACKAGES = {"pyav": "av", "decord": "decord", "torchcodec": "torchcodec", "pillow": "pillow"}


def probe(
    source: VideoSource, *, root: str | Path | None = None, limits: Limits = Limits(), isolate: bool = False
) -> VideoInfo:
    """The properties of a video, from its exact index. Raises a `VideoError`."""
    if isolate:
        path = _isolated_path(source, root)
        reply, _ = shared_process().ask(
            {"op": "isolated", "path": path, "limits": asdict(limits), "probe": True}, Deadline(path, limits.timeout)
        )
        return _info(_checked(reply, path)["info"])
    video = _open(source, root, None, limits, Deadline(_name(source), limits.timeout))
    return video.info


def frame_times(source: VideoSource, *, root: str | Path | None = None, limits: Limits = Limits()) -> list[float]:
    """The time of every frame in seconds from the first one. Raises a `VideoError`."""
    return [float(t) for t in _open(source, root, None, limits, Deadline(_name(source), limits.timeout)).times]


def read_frames(
    source: VideoSource,
    *,
    num: int = 8,
    sampling: str | Sampling = Sampling(),
    indices: Sequence[int] | None = None,
    times: Sequence[float] | None = None,
    max_side: int | None = None,
    backend: VideoBackend = "auto",
    on_error: OnError | Damage = "strict",
    fps: float | None = None,
    limits: Limits = Limits(),
    isolate: bool = False,
    root: str | Path | None = None,
) -> Frames:
    """Frames of a video: `num` of them, sampled (by a rule, or a `Sampling`; see sampling.py), or those numbered
    `indices` (negative ones count from the end), or those shown at `times`.

    `source` is a file (with `root`, one that may not leave that folder), a file's bytes, an open file, a folder of
    pictures or a list of images (`fps` gives these their times). `max_side` shrinks frames to that longer side.

    `on_error` is about wanted frames that can't be decoded cleanly: what `Damage` has under this name, or a `Damage`.

    `backend` "auto": decord where the exact index proves that it gets the frames right and most frames of a stretch are
    wanted, PyAV everywhere else (with few of many frames it is the faster one); the report says which and why. "pyav",
    "decord", "torchcodec" insist. decord always runs in a process that can be killed; `isolate` runs everything there,
    so that `limits.timeout` holds even against a native loop.

    Raises UserError for arguments that don't fit, a `VideoError` for a video that can't be used.
    """
    if backend not in BACKENDS:
        raise UserError(f"no video back end is called {backend!r}", hint=f"choose one of {', '.join(BACKENDS)}")
    damage = on_error if isinstance(on_error, Damage) else Damage(on_error)
    sampling = Sampling(sampling) if isinstance(sampling, str) else sampling
    if indices is not None and times is not None:
        raise UserError("give `indices` or `times`, not both")
    if isolate:
        request = {
            "num": num, "sampling": asdict(sampling), "max_side": max_side, "backend": backend,
            "on_error": asdict(damage), "fps": fps, "indices": None if indices is None else list(indices),
            "times": None if times is None else list(times),
        }  # fmt: skip
        return _read_isolated(source, root, request, limits)
    started = time.monotonic()
    deadline = Deadline(_name(source), limits.timeout)
    video = _open(source, root, fps, limits, deadline)
    chosen = _choose(video, num, sampling, indices, times, limits)
    wanted = sorted({number for number in chosen if number != BLACK})
    size = _size(video.info, max_side)
    if len(chosen) * size[0] * size[1] * 3 > limits.max_output_bytes:
        raise VideoTooLarge(
            video.info.path, f"{len(chosen)} frames of {size[0]}x{size[1]} are over {limits.max_output_bytes} bytes"
        )
    resize = size if max_side is not None and size != (video.info.width, video.info.height) else None
    decoded, report = video.decode(wanted, resize, backend, limits, deadline)
    kept = _settle(video, decoded, report, wanted, resize, damage, limits, deadline)
    frames = _assemble(video, chosen, kept, decoded, report, (size[1], size[0]))
    report.seconds = round(time.monotonic() - started, 4)
    return frames


class OpenedVideo:
    """An opened video: its index, or its pictures."""

    def __init__(self, source: EncodedVideo | None, content: Index | Stills) -> None:
        self.source, self.content = source, content
        self.info = content.info
        self.times = np.asarray(content.times, dtype=np.float64)

    @property
    def key_numbers(self) -> list[int]:
        return self.content.key_numbers if isinstance(self.content, Index) else list(range(len(self.times)))

    def decode(
        self,
        wanted: Sequence[int],
        size: tuple[int, int] | None,
        backend: VideoBackend,
        limits: Limits,
        deadline: Deadline,
    ) -> tuple[Decoded, ReadReport]:
        """The wanted frames from the right back end. A fallback is always to PyAV, which hides no damage."""
        if isinstance(self.content, Stills):
            return self.content.decode(wanted, size=size, limits=limits, deadline=deadline), _report("pillow")
        assert self.source is not None
        index, why, threads = self.content, "", limits.threads
        if backend == "torchcodec":
            found = torchcodec_reader.decode(self.source, index, wanted, size=size, threads=threads)
            return found, _report("torchcodec")
        if backend in ("auto", "decord"):
            why = decord_reader.unsupported_reason(self.source, index)
            if backend == "auto" and not why and sparse(wanted):
                why = "few of many frames: PyAV leaves out what they do not need"
            if backend == "decord" and why:
                raise BackendUnavailable(self.source.name, why, backend="decord")
            if not why:
                try:
                    found = decord_reader.decode(
                        self.source, index, wanted, size=size, deadline=_share(deadline, backend), threads=threads
                    )
                    return found, _report("decord")
                except (BackendUnavailable, DecodeTimeout) as error:
                    if backend == "decord":
                        raise
                    why = error.message
        found = pyav_reader.decode(
            self.source, index, wanted, size=size, limits=limits, deadline=deadline, threads=threads
        )
        return found, _report("pyav", why)

    def decode_carefully(
        self, wanted: Sequence[int], size: tuple[int, int] | None, limits: Limits, deadline: Deadline
    ) -> Decoded:
        if isinstance(self.content, Stills):
            return self.content.decode(wanted, size=size, limits=limits, deadline=deadline)
        assert self.source is not None
        return pyav_reader.decode(
            self.source, self.content, wanted, size=size, limits=limits, deadline=deadline, careful=True
        )


def sparse(wanted: Sequence[int]) -> bool:
    """Fewer than half of the frames from the first to the last wanted one."""
    return len(wanted) * 2 < wanted[-1] - wanted[0] + 1


def _share(deadline: Deadline, backend: str) -> Deadline:
    """Half of the time for decord where PyAV is to have a try after it."""
    return deadline if backend == "decord" else Deadline(deadline.path, deadline.left() / 2)


def _open(
    source: VideoSource, root: str | Path | None, fps: float | None, limits: Limits, deadline: Deadline
) -> OpenedVideo:
    if isinstance(source, Sequence) and not isinstance(source, (str, bytes)):
        return OpenedVideo(None, Stills.of_images(source, fps))
    if root is not None and isinstance(source, (str, Path)):
        source = inside(root, str(source))
    if isinstance(source, (str, Path)) and os.path.isdir(source):
        return OpenedVideo(None, Stills.of_folder(Path(source), fps))
    found = EncodedVideo.of(source)
    animation = Stills.of_animation(found, limits)
    return OpenedVideo(found, animation if animation is not None else scan(found, limits, deadline))


def _name(source: Any) -> str:
    return str(source) if isinstance(source, (str, Path)) else f"<{type(source).__name__}>"


def _choose(
    video: OpenedVideo,
    num: int,
    sampling: Sampling,
    indices: Sequence[int] | None,
    times: Sequence[float] | None,
    limits: Limits,
) -> list[int]:
    n = len(video.times)
    if indices is not None:
        outside = [number for number in indices if not -n <= number < n]
        if outside:
            raise UserError(f"{video.info.path} has frames 0 to {n - 1}, not {outside[0]}")
        chosen = [number % n for number in indices]
    elif times is not None:
        late = [stamp for stamp in times if not 0 <= stamp < max(video.info.duration, 1e-9) + 1e-6]
        if late:
            raise UserError(f"{video.info.path} lasts {video.info.duration:.3f} s, nothing is shown at {late[0]} s")
        chosen = [int(i) for i in np.searchsorted(video.times, np.asarray(times) + 1e-6, side="right") - 1]
    else:
        chosen = sample(
            video.times,
            num,
            sampling.rule,
            duration=video.info.duration,
            keys=video.key_numbers,
            max_frames=limits.max_frames,
            start=sampling.start,
            end=sampling.end,
            pad=sampling.pad,
        )
    if not chosen:
        raise EmptyVideo(video.info.path, "no frame is shown in the time that was asked for")
    if len(chosen) > limits.max_frames:
        raise VideoTooLarge(video.info.path, f"{len(chosen)} frames are over {limits.max_frames}")
    index_based = indices is None and times is None and parse(sampling.rule)[0].startswith(("linspace", "segment"))
    if video.info.variable_rate and index_based:
        note = "variable frame rate: frames were chosen by number, not by time (`time_linspace` does that)"
        video.info = replace(video.info, warnings=(*video.info.warnings, note))
    return chosen


def _size(info: VideoInfo, max_side: int | None) -> tuple[int, int]:
    """Width and height of the output: the video's, shrunk to `max_side`."""
    longer = max(info.width, info.height)
    if max_side is None or longer <= max_side:
        return info.width, info.height
    return max(round(info.width * max_side / longer), 1), max(round(info.height * max_side / longer), 1)


def _settle(
    video: OpenedVideo,
    decoded: Decoded,
    report: ReadReport,
    wanted: Sequence[int],
    size: tuple[int, int] | None,
    damage: Damage,
    limits: Limits,
    deadline: Deadline,
) -> dict[int, int]:
    """For each wanted frame that can be given, the number of the frame that stands for it: itself, as a rule."""
    report.requested = len(wanted)
    report.corrupt = sorted(decoded.corrupt)
    clean = {number: number for number in wanted if number in decoded.frames and number not in decoded.corrupt}
    lost = [number for number in wanted if number not in clean]
    report.decoded = len(clean)
    report.decode_errors, report.seeks = decoded.errors, decoded.seeks
    report.warnings += [*video.info.warnings, *decoded.warnings]
    if not lost:
        return clean
    if damage.on_error == "strict":
        raise CorruptVideo(
            video.info.path,
            f"{len(lost)} of {len(wanted)} wanted frames can't be decoded cleanly: {_some(lost)}",
            backend=report.backend,
        )
    if damage.on_error == "nearest":
        for number in lost:
            near = [int(i) for i in np.flatnonzero(np.abs(video.times - video.times[number]) <= damage.max_gap)]
            around = video.decode_carefully(near, size, limits, deadline)
            good = [other for other in near if other in around.frames and other not in around.corrupt]
            if not good:
                continue
            best = min(good, key=lambda other: (abs(video.times[other] - video.times[number]), other))
            decoded.frames[best] = around.frames[best]
            clean[number] = best
            report.substituted.append((number, best))
    report.missing = [number for number in wanted if number not in clean]
    if len(clean) < max(damage.min_frames, 1):
        raise CorruptVideo(
            video.info.path, f"only {len(clean)} of {len(wanted)} wanted frames can be given", backend=report.backend
        )
    return clean


def _assemble(
    video: OpenedVideo,
    chosen: Sequence[int],
    kept: dict[int, int],
    decoded: Decoded,
    report: ReadReport,
    shape: tuple[int, int],
) -> Frames:
    given = [kept.get(number, number) for number in chosen if number == BLACK or number in kept]
    array = np.zeros((len(given), *shape, 3), dtype=np.uint8)
    for place, number in enumerate(given):
        if number != BLACK:
            array[place] = decoded.frames[number]
    times = [float(video.times[number]) if number != BLACK else 0.0 for number in given]
    for place, number in enumerate(given):
        if number == BLACK:  # behind everything real, so that times stay ascending
            times[place] = max(video.info.duration, times[place - 1] if place else 0.0)
    report.n_unique = len({number for number in given if number != BLACK})
    if _mostly_equal(array, given):
        report.warnings.append("most frames are equal although their numbers differ: a still scene, or repeated frames")
    return Frames(array, tuple(given), tuple(times), video.info, report)


def _mostly_equal(array: Pixels, numbers: Sequence[int]) -> bool:
    """More than half of the distinct frames have the same bytes as another one."""
    places = {number: place for place, number in enumerate(numbers) if number != BLACK}
    for step in (16, 1):  # a look at few pixels first
        distinct = {array[place, ::step, ::step].tobytes() for place in places.values()}
        if len(places) < 2 or len(places) - len(distinct) <= len(places) / 2:
            return False
    return True


def _some(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:8])) + (", …" if len(numbers) > 8 else "")


def _report(backend: str, why: str = "") -> ReadReport:
    return ReadReport(backend, metadata.version(PACKAGES[backend]), why)


def _read_isolated(source: VideoSource, root: str | Path | None, request: dict[str, Any], limits: Limits) -> Frames:
    path = _isolated_path(source, root)
    reply, pixels = shared_process().ask(
        {"op": "isolated", "path": path, "limits": asdict(limits), **request}, Deadline(path, limits.timeout)
    )
    _checked(reply, path)
    report = ReadReport(**reply["report"])
    report.substituted = [(wanted, used) for wanted, used in report.substituted]
    return Frames(pixels, tuple(reply["indices"]), tuple(reply["times"]), _info(reply["info"]), report)


def _isolated_path(source: VideoSource, root: str | Path | None) -> str:
    if not isinstance(source, (str, Path)):
        raise UserError("a process of its own reads files only", hint="write the video to a file first")
    return str(inside(root, str(source)) if root is not None else source)


def _checked(reply: dict[str, Any], path: str) -> dict[str, Any]:
    if "error" in reply:
        known: Callable[..., Exception] | None = ERRORS.get(reply["kind"])
        if known is not None:
            raise known(path, reply.get("detail", reply["error"]), backend="isolated")
        if reply["kind"] == "UserError":
            raise UserError(reply.get("detail", reply["error"]))
        raise CorruptVideo(path, reply["error"], backend="isolated")
    return reply


def _info(data: dict[str, Any]) -> VideoInfo:
    return VideoInfo(**{**data, "warnings": tuple(data["warnings"])})
