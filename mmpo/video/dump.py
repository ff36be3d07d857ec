"""Frames as files: a folder of JPEG pictures with a manifest, whole or not there."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from mmpo.errors import UserError
from mmpo.files.atomic import read_json, replacing_folder, write_bytes, write_json
from mmpo.files.images import encode_image
from mmpo.video.errors import VideoTooLarge
from mmpo.video.read import frame_times, probe, read_frames
from mmpo.video.records import Limits
from mmpo.video.sampling import sample

MANIFEST = "manifest.json"
AT_ONCE = 64
"""Frames in memory together."""


def dump_frames(
    path: str | Path,
    folder: str | Path,
    *,
    fps: float = 2.0,
    width: int | None = 336,
    digits: int = 6,
    overwrite: bool = False,
    limits: Limits = Limits(),
) -> dict[str, Any]:
    """Write the frames nearest to every 1/fps seconds as `c01_000001.jpeg`, …, `width` pixels wide, and a manifest with
    the source's hash, times and back end; returns the manifest.

    LLaVA-Hound's dumps are `fps=2, width=336, digits=4`. The folder appears when it is complete. One that holds the
    same dump is kept as it is; anything else in its place is an error unless `overwrite`.
    """
    path, folder = Path(path), Path(folder)
    info = probe(path, limits=limits)
    wanted: dict[str, Any] = {"source": path.name, "sha256": _hash(path), "fps": fps, "width": width, "digits": digits}
    if folder.exists():
        manifest = read_json(folder / MANIFEST) if (folder / MANIFEST).exists() else {}
        if all(manifest.get(key) == value for key, value in wanted.items()):
            return dict(manifest)
        if not overwrite:
            raise UserError(f"{folder} holds something else than this dump", hint="name another folder, or overwrite")
    numbers = sample(frame_times(path, limits=limits), sampling=f"fps:{fps:g}", duration=info.duration)
    if len(numbers) >= 10**digits:
        raise VideoTooLarge(str(path), f"{len(numbers)} frames need more than {digits} digits")
    max_side = None if width is None else max(width, round(info.height * width / info.width))
    times: list[float] = []
    backends: set[str] = set()
    with replacing_folder(folder, overwrite=True) as beside:
        for first in range(0, len(numbers), AT_ONCE):
            part = read_frames(path, indices=numbers[first : first + AT_ONCE], max_side=max_side, limits=limits)
            for place, frame in enumerate(part.array, start=first + 1):
                write_bytes(beside / f"c01_{place:0{digits}d}.jpeg", encode_image(Image.fromarray(frame), "JPEG"))
            times += part.times
            backends.add(f"{part.report.backend} {part.report.version}")
        manifest = {**wanted, "frames": numbers, "times": times, "backends": sorted(backends), "video": asdict(info)}
        manifest["video"] |= {"warnings": list(info.warnings)}
        manifest["video"].pop("path")
        write_json(beside / MANIFEST, manifest)
    return manifest


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
