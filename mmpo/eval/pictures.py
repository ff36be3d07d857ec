"""The images of an evaluation: each is opened once before anything is asked, and known by its content from then on."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import cast

from mmpo.data.annotations.read import read_annotations
from mmpo.data.annotations.records import AnnotatedImage
from mmpo.data.image_digests import frames_digest, pixel_digest
from mmpo.errors import Quarantined, UserError
from mmpo.eval.answers import file_fingerprint
from mmpo.eval.protocol import FrameChoice, Request
from mmpo.eval.settings import EvalSettings
from mmpo.files.images import load_image
from mmpo.files.paths import inside
from mmpo.progress import track
from mmpo.video import read_frames
from mmpo.video.clip import Clip

log = logging.getLogger(__name__)

PictureKey = tuple[str | None, str, FrameChoice | None]
"""Root, path, and the frames where the path is a video's."""


@dataclass(frozen=True)
class Unusable:
    """An image that can't be opened, by its id and path in the file that names it."""

    id: str
    path: str
    reason: Quarantined


class Pictures:
    """The usable images, by root and path. `annotated` are those of the annotation file (None without one),
    `conventions` what a scorecard says about how they are shown."""

    def __init__(self, settings: EvalSettings) -> None:
        self.rejected: list[Unusable] = []
        self.conventions: list[str] = []
        self.annotated: list[AnnotatedImage] | None = None
        self._settings = settings
        self._root = settings.images
        self._known: dict[PictureKey, str | Quarantined] = {}
        self._pixels: dict[PictureKey, str] = {}
        if settings.annotations is not None:
            listed = _listed(settings)
            self._root = str(listed[0].root)
            self._check([(None, image.path, None) for image in listed], {image.path: image.id for image in listed})
            self.annotated = [image for image in listed if isinstance(self._known[None, image.path, None], str)]
            if not self.annotated:
                raise UserError(
                    f"none of the {len(listed)} images of {settings.annotations} can be used; "
                    f"the first: {self.rejected[0].reason}",
                    hint=f"are they in {self._root}?",
                )

    @cached_property
    def native(self) -> bool:
        """True if the model gets videos as videos. Raises UserError where it can't and must."""
        from mmpo.models.families.loading import takes_videos
        from mmpo.models.families.opening import family_in

        return takes_videos(
            family_in(self._settings.model, trust_remote_code=self._settings.trust_remote_code),
            self._settings.video_input,
        )

    def look_at(self, requests: Iterable[Request]) -> None:
        """Open the images and videos of these requests that are not known yet."""
        requests = list(requests)
        if (
            any(request.frames is not None for request in requests) and self.native
        ):  # asked before the threads below are
            self.conventions = ["videos: shown as videos, with the times of their frames; as images the numbers differ"]
        wanted = dict.fromkeys((request.root, path, request.frames) for request in requests for path in request.paths)
        self._check([place for place in wanted if place not in self._known], {})

    def problem(self, request: Request) -> Quarantined | None:
        """The reason why an image of a request can't be used; None where all can."""
        found = (self._known[request.root, path, request.frames] for path in request.paths)
        return next((reason for reason in found if isinstance(reason, Quarantined)), None)

    def digests(self, requests: Iterable[Request]) -> set[str]:
        """The pictures and clips that these requests show, by their pixels (see `mmpo.data.image_digests`)."""
        places = {(request.root, path, request.frames) for request in requests for path in request.paths}
        return {self._pixels[place] for place in places if place in self._pixels}

    def fingerprint(self, request: Request) -> str:
        """SHA-256 of the request's image file, or of the frames it shows (several joined by +); empty without an image.
        A video that is shown as one has another than its frames as images, and its times are in it."""
        return "+".join(str(self._known[request.root, path, request.frames]) for path in request.paths)

    def shown(self, request: Request) -> list[Path | Clip]:
        """The images that the request shows, as files below its root, or its video; empty where it shows nothing."""
        if request.image is None:
            return []
        folder = self._folder(request.root)
        if request.frames is None:
            return [inside(folder, path) for path in request.paths]
        return [_clip(request.image, folder, request.frames)]

    def _folder(self, root: str | None) -> Path:
        if root is None and self._root is None:
            raise UserError("the evaluation names no folder of images", hint="set eval.images")
        return Path(root if root is not None else str(self._root))

    def _check(self, places: list[PictureKey], ids: dict[str, str]) -> None:
        def look(place: PictureKey) -> str | Quarantined:
            root, path, frames = place
            try:
                folder = self._folder(root)
                if frames is not None:
                    clip = _clip(path, folder, frames)
                    shown = (pixel_digest(load_image(cast(bytes, frame))) for frame in clip.frames)
                    self._pixels[place] = frames_digest(shown)
                    return _clip_fingerprint(clip, self.native)
                self._pixels[place] = pixel_digest(load_image(path, root=folder))
                return file_fingerprint(inside(folder, path))
            except Quarantined as reason:
                return reason

        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            for place, found in track(zip(places, pool.map(look, places), strict=True), "checking images", len(places)):
                self._known[place] = found
                if isinstance(found, Quarantined):
                    log.warning("%s is left out: %s", place[1], found)
                    self.rejected.append(Unusable(ids.get(place[1], place[1]), place[1], found))


def _clip(path: str, folder: Path, choice: FrameChoice) -> Clip:
    """The chosen frames of a video below `folder`. Raises a `VideoError`."""
    return Clip.of(read_frames(path, num=choice.num, sampling=choice.sampling, max_side=choice.max_side, root=folder))


def _clip_fingerprint(clip: Clip, native: bool) -> str:
    digest = hashlib.sha256()
    for frame in clip.frames:
        digest.update(cast(bytes, frame))  # as `Clip.of` makes them
    if native:
        digest.update(f"video at {clip.times}".encode())
    return digest.hexdigest()


def _listed(settings: EvalSettings) -> list[AnnotatedImage]:
    """The images of the annotation file. Raises UserError where it has none, or one twice."""
    assert settings.annotations is not None
    listed = list(islice(read_annotations(settings.annotations, images=settings.images), settings.limit))
    if not listed:
        raise UserError(f"{settings.annotations} lists no images")
    twice = next((path for path, count in Counter(image.path for image in listed).items() if count > 1), None)
    if twice is not None:
        raise UserError(
            f"{settings.annotations}: {twice} is listed more than once",
            hint="give each image one entry with all its objects",
        )
    return listed
