"""The images and videos of a prompt, put into the image store: videos as clips or, where the model takes none, frame
by frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from mmpo.data.pair import Message, Video
from mmpo.data.reader import PairDataset
from mmpo.data.video_pairs import clip_of, in_order, with_frames
from mmpo.files.paths import inside
from mmpo.models.families.loading import VLM
from mmpo.models.families.processing import join_images
from mmpo.models.families.prompts import encode_prompt
from mmpo.trainers.images import ImageStore, ShownImage, StoredImage


class RowMedia:
    """The images and videos of one row, by their keys in the store. Where the row is `dataset[row]`, what is embedded
    there is read again when it is needed, and not kept.

    A video given by its path is sampled once, here. Raises a `VideoError` where it can't be read. With `links` a path
    below `root` may be a link out of it: the store gets the file it points to.
    """

    def __init__(
        self,
        vlm: VLM,
        store: ImageStore,
        videos: Sequence[Video] | None,
        *,
        root: Path | None = None,
        dataset: PairDataset | None = None,
        row: int = 0,
        links: bool = False,
    ) -> None:
        self._store, self._root, self._dataset, self._row, self._links = store, root, dataset, row, links
        self._native = vlm.takes_videos
        self._clips: list[tuple[tuple[str, ...], tuple[float, ...]]] = []
        for number, video in enumerate(videos or ()):
            clip = clip_of(video, root)
            embedded = bool(video.get("frames"))
            keys = tuple(
                self._add(frame, "videos", (number, k) if embedded else None) for k, frame in enumerate(clip.frames)
            )
            self._clips.append((keys, clip.times))

    def prompt(self, messages: list[Message]) -> list[Message]:
        """The prompt as the model gets it."""
        if self._native or not self._clips:
            return messages
        return with_frames(messages, [len(frames) for frames, _ in self._clips])

    def keys(
        self, messages: Sequence[Message], images: Sequence[bytes | str], column: str = "images"
    ) -> tuple[str, ...]:
        """Store keys of the prompt's images and clips, in order; `images` fill its image parts, from `column`."""
        stills = [self._add(image, column, (k,)) for k, image in enumerate(images)]
        if not self._clips:
            return tuple(stills)
        if self._native:
            return tuple(in_order(messages, stills, [self._store.add_clip(*clip) for clip in self._clips]))
        lists = in_order(messages, [(key,) for key in stills], [frames for frames, _ in self._clips])
        return tuple(key for own in lists for key in own)

    def _add(self, source: Any, column: str, place: tuple[int, ...] | None) -> str:
        if self._links and isinstance(source, str) and self._root is not None:
            return self._store.add(str(inside(self._root, source, links=True)))
        at = StoredImage(self._dataset, self._row, column, place) if self._dataset is not None and place else None
        return self._store.add(source, self._root, at=at)


def prompt_ids(vlm: VLM, store: ImageStore, messages: Sequence[Mapping[str, Any]], images: Sequence[str]) -> list[int]:
    """Token ids of a prompt that shows the stored `images`."""
    return encode_prompt(vlm, messages, placeholders(vlm, store, images))


def placeholders(vlm: VLM, store: ImageStore, images: Sequence[str]) -> int | list[list[int]]:
    """Placeholder token ids of the stored `images` in a prompt; their number where all take the same tokens."""
    if vlm.family.fixed_image_size and not any(map(store.is_clip, images)):
        return len(images)
    return [store.prepared(*image).placeholders[0] for image in store.shown(images)]


def pixel_tensors(store: ImageStore, images: Sequence[ShownImage]) -> dict[str, Tensor]:
    """The processor's tensors of several stored images, one image after the other. Empty for none."""
    return join_images([store.prepared(*image).tensors for image in images])
