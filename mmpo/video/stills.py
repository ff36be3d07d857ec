"""Videos that are pictures: a folder of frames, a list of images, an animated WebP or PNG."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence

from mmpo.errors import Quarantined
from mmpo.files.images import load_image
from mmpo.files.picture_cost import Timed
from mmpo.video.errors import CorruptVideo, EmptyVideo, VideoTooLarge
from mmpo.video.index import check_size
from mmpo.video.records import Deadline, Decoded, Limits, Pixels, VideoInfo
from mmpo.video.source import EncodedVideo

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm"})
FOLDER_FPS = 2.0
"""Frames a second of a folder that does not say otherwise: that of LLaVA-Hound's frame dumps."""
DEFAULT_DELAY = 0.1


class Stills:
    """A sequence of pictures with times; decoded when asked for."""

    def __init__(self, name: str, pictures: Sequence[Path | Image.Image], times: Sequence[float], duration: float):
        self.name, self.pictures, self.times, self.duration = name, pictures, list(times), duration
        if not pictures:
            raise EmptyVideo(name, "no pictures")
        self._size = self._load(0, Limits()).size

    @classmethod
    def of_folder(cls, folder: Path, fps: float | None) -> Stills:
        """Pictures of a folder in natural order (c2 before c10); other and hidden files are ignored."""
        files = sorted(
            (
                path
                for path in folder.iterdir()
                if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
            ),
            key=lambda path: natural(path.name),
        )
        rate = fps or FOLDER_FPS
        return cls(str(folder), files, [i / rate for i in range(len(files))], len(files) / rate)

    @classmethod
    def of_images(cls, images: Sequence[Image.Image], fps: float | None) -> Stills:
        rate = fps or FOLDER_FPS
        return cls("<images>", list(images), [i / rate for i in range(len(images))], len(images) / rate)

    @classmethod
    def of_animation(cls, source: EncodedVideo, limits: Limits) -> Stills | None:
        """An animated WebP or PNG with the delays it names; None where the file is none."""
        if not is_animation(source.head()):
            return None
        data = source.data if source.data is not None else Path(str(source.path)).read_bytes()
        frames: list[Image.Image] = []
        times = [0.0]
        try:
            with Image.open(Timed(data), formats=("WEBP", "PNG")) as animation:
                count = getattr(animation, "n_frames", 1)
                if count < 2:
                    return None
                check_size(source, animation.width, animation.height, limits)
                if count * animation.size[0] * animation.size[1] * 3 > limits.max_output_bytes:
                    raise VideoTooLarge(source.name, f"{count} pictures of {animation.size} are over the memory limit")
                for frame in ImageSequence.Iterator(animation):
                    frames.append(_on_white(frame))
                    delay = float(frame.info.get("duration") or 0) / 1000
                    times.append(times[-1] + (delay or DEFAULT_DELAY))
        except (OSError, ValueError, SyntaxError, EOFError, Quarantined) as error:
            raise CorruptVideo(source.name, f"a damaged animation ({error})", cause=error) from error
        return cls(source.name, frames, times[:-1], times[-1])

    @property
    def info(self) -> VideoInfo:
        n = len(self.pictures)
        steps = np.diff(self.times)
        return VideoInfo(
            path=self.name,
            container="pictures",
            codec="pictures",
            pix_fmt="rgb24",
            width=self._size[0],
            height=self._size[1],
            rotation=0,
            n_frames=n,
            key_frames=n,
            duration=self.duration,
            avg_fps=(n - 1) / self.times[-1] if n > 1 and self.times[-1] else n / self.duration,
            variable_rate=bool(len(steps) and np.ptp(steps) > 0.002),
            start_time=0.0,
            has_audio=False,
            sample_aspect="1:1",
            interlaced=False,
            hdr=False,
            header_frames=None,
            backend="pillow",
        )

    def decode(
        self, wanted: Sequence[int], *, size: tuple[int, int] | None, limits: Limits, deadline: Deadline
    ) -> Decoded:
        """The pictures numbered `wanted`; broken ones are left out. All get the first one's size."""
        found = Decoded()
        for number in sorted(set(wanted)):
            deadline.check("reading pictures")
            try:
                image = self._load(number, limits)
            except Quarantined:
                found.errors += 1
                continue
            if image.size != self._size and "the picture changes its size" not in found.warnings:
                found.warnings.append("the picture changes its size")
            found.frames[number] = resized(np.asarray(image), size or self._size)
        return found

    def _load(self, number: int, limits: Limits) -> Image.Image:
        picture = self.pictures[number]
        if isinstance(picture, Image.Image):
            return picture.convert("RGB")
        return load_image(picture, max_pixels=limits.max_pixels)


def is_animation(head: bytes) -> bool:
    """True if a file begins like an animated WebP (a VP8X chunk with the animation flag) or an animated PNG (acTL)."""
    if head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X":
        return len(head) > 20 and bool(head[20] & 0x02)
    return head[:4] == b"\x89PNG" and b"acTL" in head.partition(b"IDAT")[0]


def natural(name: str) -> list[tuple[int, int | str]]:
    """A sort key in which numbers count as numbers."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part]


def resized(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """RGB [h, w, 3] at another size (width, height); box filter where it shrinks."""
    if (pixels.shape[1], pixels.shape[0]) == size:
        return np.ascontiguousarray(pixels)
    way = Image.Resampling.BOX if size[0] < pixels.shape[1] else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(pixels).resize(size, way))


def _on_white(frame: Image.Image) -> Image.Image:
    colours = frame.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", colours.size, (255, 255, 255, 255)), colours).convert("RGB")
